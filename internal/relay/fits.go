package relay

import (
	"slices"

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
	for _, c := range conditions {
		if word := c.said(f); word != "" {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "this version cannot carry forward with %q yet", word)
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
	{word: "engine", some: true, said: func(f *fairlead.Forward) string {
		if why := offLoops(f); why != "" && f.Policy.Engine == engineLoops {
			return "engine loops with " + why
		}
		if f.Policy.Engine == engineGoroutines && f.At.Net&fairlead.UDP != 0 {
			return "engine goroutines on UDP"
		}
		return ""
	}},
	{word: "policy", some: true, said: func(f *fairlead.Forward) string { return unless(f.Policy.Choose, "policy", policies...) }},
	{word: "check", some: true, said: func(f *fairlead.Forward) string {
		how := f.Policy.Check.How
		if f.At.Net == fairlead.UDP && (how == "tcp" || how == "http") {
			return "check " + how + " on UDP"
		}
		return unless(how, "check", "off", "tcp", "http", "expect")
	}},
	{word: "front", some: true, said: func(f *fairlead.Forward) string {
		return unless(f.Policy.Front, "front", "sni", "http-host", "alpn", "protocol")
	}},
	{word: "accept-proxy", some: true, said: func(f *fairlead.Forward) string {
		if len(f.Policy.AcceptProxy) > 0 && f.At.Unix != "" {
			return "accept-proxy at a unix socket" // who comes there has no address
		}
		return ""
	}},
	{word: "requests", some: true, said: func(f *fairlead.Forward) string { return needsUDP(f, f.Policy.Requests, "requests") }},
	{word: "replies", some: true, said: func(f *fairlead.Forward) string { return needsUDP(f, f.Policy.Replies, "replies") }},
	{word: "proxy-protocol", some: true, said: func(f *fairlead.Forward) string {
		if f.Policy.ProxyProtocol == 1 && f.At.Net&fairlead.UDP != 0 {
			return "proxy-protocol v1 on UDP" // it has no words for datagrams
		}
		return ""
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
	{word: "queue", some: true, said: func(f *fairlead.Forward) string {
		if f.Policy.Queue != 0 && f.At.Net&fairlead.UDP != 0 {
			return "queue on UDP" // nobody knows whether a sender of datagrams waits
		}
		return ""
	}},
	{word: "max-queue", some: true, said: func(f *fairlead.Forward) string {
		if f.Policy.MaxQueue != 0 && f.Policy.Queue == 0 {
			return "max-queue without queue"
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

// needsUDP is a word about datagrams where there are none.
func needsUDP(f *fairlead.Forward, said int, word string) string {
	if said != 0 && f.At.Net&fairlead.UDP == 0 {
		return word + " without UDP"
	}
	return ""
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
