package relay

import (
	"slices"
	"strings"

	"fairlead"
)

// Fits tells whether the relay can carry f: a forward of kind "forward" with
// targets, under a policy that it knows to keep.
func (r *Relay) Fits(f *fairlead.Forward) error {
	if f.Kind != fairlead.KindForward {
		return fairlead.Problemf(fairlead.CodeCannotCarry, "this version cannot carry %s yet", f.Kind)
	}
	at, err := r.cfg.Place(f.Via)
	if err != nil {
		return err
	}
	if len(f.To) == 0 {
		return fairlead.Problemf(fairlead.CodeIncomplete, "forward needs a target: forward %s to HOST:PORT", f.At.String())
	}
	if f.At.Unix == "" && len(f.At.Ports) == 0 {
		return fairlead.Problemf(fairlead.CodeIncomplete, "forward needs a port to listen at")
	}
	for i := range f.To {
		t := &f.To[i]
		switch {
		case t.Unix == "" && len(t.Ports) == 0 && f.At.Unix != "" && !t.Service():
			return fairlead.Problemf(fairlead.CodeIncomplete, "the target %s needs a port: the listening unix socket has none", t.Dest())
		case t.Unix != "" && f.At.Net&fairlead.UDP != 0:
			return fairlead.Problemf(fairlead.CodeCannotHonour, "a unix socket carries streams, and %s asks for UDP", f.At.String())
		case f.At.Unix != "" && t.Ports.Len() > 1:
			return fairlead.Problemf(fairlead.CodeRangeMismatch, "a unix socket leads to one port, and %s has several", t.Dest())
		}
	}
	if front := f.Policy.Front; !fronted(f) {
		return fairlead.Problemf(fairlead.CodeIncomplete, "front %s chooses among targets, and none has %q behind it", front, front)
	}
	if p := fitsShares(f); p != nil {
		return p
	}
	if p := fitsGroups(f, at); p != nil {
		return p
	}
	if err := fitsTLS(f); err != nil {
		return err
	}
	if p := fitsSense(f); p != nil {
		return p
	}
	for _, c := range conditions {
		if word := c.said(f); word != "" {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "this version cannot carry forward with %q yet", word)
		}
	}
	return nil
}

// fitsSense refuses words that can mean nothing for f, nil for none. What
// stands in the defaults of a file does not come here: it is given only to
// forwards for which it means something (package config, suits).
func fitsSense(f *fairlead.Forward) *fairlead.Problem {
	p := &f.Policy
	tcp, udp := f.At.Net&fairlead.TCP != 0, f.At.Net&fairlead.UDP != 0
	refuse := func(word, why string) *fairlead.Problem {
		return fairlead.Problemf(fairlead.CodeCannotHonour, "%q %s", word, why).Fix("take it out", "")
	}
	switch {
	case p.Engine == engineLoops && offLoops(f) != "":
		return refuse("engine loops", "is for pairs of TCP sockets that are simply copied, and goroutines carry this because of "+offLoops(f))
	case p.Engine == engineGoroutines && udp:
		return refuse("engine goroutines", "is for TCP: one socket takes the datagrams of all clients")
	case p.SocketMode != 0 && f.At.Unix == "":
		return refuse("mode", "is for unix sockets, and "+f.At.String()+" listens at a port")
	case len(p.AcceptProxy) > 0 && f.At.Unix != "":
		return refuse("accept-proxy", "names senders by address, and who comes through a unix socket has none")
	case p.Greet != 0 && p.Front == "" && !slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Conditional() }):
		return refuse("greet", "is the time for a client to say what it asks for, and no target depends on that")
	case p.Queue != 0 && udp:
		return refuse("queue", "is for connections: nobody knows whether a sender of datagrams waits")
	case p.Queue != 0 && p.MaxConns == 0 && p.MaxConnsPerSource == 0 && p.Rate == 0 && p.RatePerSource == 0:
		return refuse("queue", "is the time to wait for a turn, and there is no limit to wait for").
			Fix("set one", "max-conns N, max-conns-per-source N, rate N/s or rate-per-source N/s")
	case p.MaxQueue != 0 && p.Queue == 0:
		return refuse("max-queue", "is how many clients wait, and without \"queue\" none does").
			Fix("say how long they wait", "queue 5s")
	case p.Linger != 0 && !tcp:
		return refuse("linger", "is about connections that are closed one way, and UDP has none")
	case p.Keepalive != 0 && !tcp:
		return refuse("keepalive", "asks the other end of a TCP connection, and UDP has none")
	case p.Congestion != "" && p.Congestion != "auto" && p.Congestion != congestionOff && !tcp:
		return refuse("congestion", "is TCP's, and UDP has none")
	case p.Requests != 0 && !udp:
		return refuse("requests", "counts datagrams, and there are none without UDP")
	case p.Replies != 0 && !udp:
		return refuse("replies", "counts datagrams, and there are none without UDP")
	case p.ProxyProtocol == 1 && udp:
		return refuse("proxy-protocol v1", "has no words for UDP").Fix("say it in the other version", "proxy-protocol v2")
	case !tcp && (p.Check.How == "tcp" || p.Check.How == "http"):
		return refuse("check "+p.Check.How, "connects by TCP, and the targets are for UDP").
			Fix("have it answer a datagram", "check send TEXT expect TEXT")
	}
	return fitsServices(f)
}

// fitsServices refuses service records of the other network: their hosts and
// ports are those of servers that speak it (RFC 2782).
func fitsServices(f *fairlead.Forward) *fairlead.Problem {
	for i := range f.To {
		t := &f.To[i]
		if !t.Service() {
			continue
		}
		_, rest, _ := strings.Cut(t.Host, ".")
		proto, _, _ := strings.Cut(rest, ".")
		speaks := fairlead.TCP
		if strings.EqualFold(proto, "_udp") {
			speaks = fairlead.UDP
		}
		if f.At.Net&^speaks != 0 {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "%s names servers for %s, and %s takes %s", t.Dest(), speaks, f.At.String(), f.At.Net)
		}
	}
	return nil
}

// NotYet are the modifiers that the relay never keeps, so that help need not
// promise them.
func NotYet() []string {
	var words []string
	for _, c := range conditions {
		if !c.some {
			words = append(words, c.word)
		}
	}
	return words
}

// A condition is a modifier that the relay would not keep. A forward that says
// it is refused rather than carried without it.
type condition struct {
	word string
	some bool                             // other values of it are kept
	said func(f *fairlead.Forward) string // what is said, "" for nothing
}

var conditions = []condition{
	{word: "by", some: true, said: func(f *fairlead.Forward) string { return unless(f.Policy.By, "by", "auto", Name) }},
	{word: "policy", some: true, said: func(f *fairlead.Forward) string { return unless(f.Policy.Choose, "policy", policies...) }},
	{word: "check", some: true, said: func(f *fairlead.Forward) string {
		return unless(f.Policy.Check.How, "check", "off", "tcp", "http", "expect")
	}},
	{word: "front", some: true, said: func(f *fairlead.Forward) string {
		return unless(f.Policy.Front, "front", "sni", "http-host", "alpn", "protocol")
	}},
	{word: "tls-cert", some: true, said: func(f *fairlead.Forward) string {
		if f.Policy.TLS.Terminates() && f.At.Net&fairlead.UDP != 0 {
			return "tls on UDP" // DTLS is another protocol
		}
		return ""
	}},
	{word: "target-tls", some: true, said: func(f *fairlead.Forward) string {
		if f.Policy.TLS.Originates() && f.At.Net&fairlead.UDP != 0 {
			return "target-tls on UDP"
		}
		return ""
	}},
	{word: "source", some: true, said: sourceNotKept},
	{word: "mark", some: true, said: markNotKept},
	{word: "dscp", some: true, said: dscpNotKept},
	{word: "congestion", some: true, said: congestionNotKept},
	never("masquerade", func(p *fairlead.Policy) bool { return p.Masquerade }),
	never("claim", func(p *fairlead.Policy) bool { return p.Claim }),
	never("alg", func(p *fairlead.Policy) bool { return p.ALG != "" }),
	never("allow-in", func(p *fairlead.Policy) bool { return p.AllowIn != "" }),
	never("publish", func(p *fairlead.Policy) bool { return p.Publish }),
	never("pac", func(p *fairlead.Policy) bool { return p.PAC != "" }),
	never("user", func(p *fairlead.Policy) bool { return len(p.Users) > 0 }),
	{word: "sni", some: true, said: func(f *fairlead.Forward) string {
		if f.At.Net&fairlead.UDP != 0 && slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Conditional() }) {
			return "sni, http-host, alpn or protocol on UDP"
		}
		return ""
	}},
}

func never(word string, said func(p *fairlead.Policy) bool) condition {
	return condition{word: word, said: func(f *fairlead.Forward) string {
		if said(&f.Policy) {
			return word
		}
		return ""
	}}
}

// unless is the modifier as said, unless its value is one that is kept.
func unless(value, word string, kept ...string) string {
	if value == "" || slices.Contains(kept, value) {
		return ""
	}
	return word + " " + value
}
