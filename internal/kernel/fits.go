package kernel

import (
	"net/netip"
	"slices"
	"strings"

	"fairlead"
)

// fits tells whether the kernel can carry f under a policy that rules can
// keep: kinds nat, open, share and trigger, and a plain forward that asks for it.
func fits(f *fairlead.Forward) *fairlead.Problem {
	if p := fitsAllow(f); p != nil {
		return p
	}
	switch f.Kind {
	case fairlead.KindShare:
		return fitsShare(f)
	case fairlead.KindOpen:
		return fitsOpen(f)
	case fairlead.KindTrigger:
		return fitsTrigger(f)
	case fairlead.KindNAT:
	case fairlead.KindForward:
		if f.Policy.By != "auto" && f.Policy.By != Name {
			return fairlead.Problemf(fairlead.CodeCannotCarry, "a forward is carried by a process unless it says \"by %s\" or \"by auto\"", Name)
		}
	default:
		return fairlead.Problemf(fairlead.CodeCannotCarry, "the kernel does not carry %s", f.Kind)
	}
	if by := f.Policy.By; by != "" && by != "auto" && by != Name {
		return fairlead.Problemf(fairlead.CodeCannotHonour, "%s is carried by the kernel, not by %q", f.Kind, by).
			Fix("have a process carry it", "forward "+f.At.String()+" to ...")
	}
	switch {
	case len(f.To) == 0:
		return fairlead.Problemf(fairlead.CodeIncomplete, "%s needs a target: %s %s to HOST:PORT", f.Kind, f.Kind, f.At.String())
	case f.At.Unix != "":
		return userSpace("unix:"+f.At.Unix, "is no port")
	case len(f.At.Ports) == 0:
		return fairlead.Problemf(fairlead.CodeIncomplete, "%s needs a port to listen at", f.Kind)
	case f.At.Where == "lo":
		return fairlead.Problemf(fairlead.CodeCannotHonour, "lo is where this host talks to itself").
			Fix("listen at loopback", string(f.Kind)+" "+f.At.Ports.String()+" to ...")
	case f.Via != "":
		return userSpace("via", "connects from another place, and rules hold on this host")
	}
	for i := range f.To {
		if p := fitsTarget(f, &f.To[i]); p != nil {
			return p
		}
	}
	for _, c := range conditions {
		if word := c.said(f); word != "" {
			return userSpace(word, c.why)
		}
	}
	if p := fitsClaim(f); p != nil {
		return p
	}
	if p := fitsALG(f); p != nil {
		return p
	}
	r := &route{f: f}
	if p := r.classify(); p != nil {
		return p
	}
	return fitsSource(f)
}

// Keeps returns nil for a forward whose conditions rules of nftables can keep, or
// the reason why not, a *fairlead.Problem. It asks nothing of this host.
func Keeps(f *fairlead.Forward) error {
	if p := fits(f); p != nil {
		return p
	}
	return nil
}

// userSpace refuses what rules cannot do, and a process can.
func userSpace(word, why string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeCannotHonour, "%q %s", word, why)
}

// fitsTarget refuses targets that no packet can be led to, as far as that can
// be told without a resolver.
func fitsTarget(f *fairlead.Forward, t *fairlead.Target) *fairlead.Problem {
	switch {
	case t.Unix != "":
		return userSpace(t.Dest(), "is no address that packets could be led to")
	case t.Conditional():
		return userSpace("sni, http-host, alpn and protocol", "depend on what a client says, and the target is chosen before it says anything")
	case t.Service():
		return userSpace(t.Dest(), "is a service record, and the kernel carries to hosts")
	case t.Resolve != "":
		return userSpace("resolve "+t.Resolve, "makes a target of each address, and the kernel takes one")
	case t.Backup:
		return userSpace("backup", "is for when others are down, and nobody asks the targets whether they are")
	case t.Weight != 0 && !slices.Contains([]string{roundRobin, random, sourceHash}, f.Policy.Choose):
		return fairlead.Problemf(fairlead.CodeCannotHonour, "%s has a weight, and without a policy that shares out it means nothing", t.Dest()).
			Fix("share the connections out", "policy round-robin, random or source-hash")
	}
	a, err := netip.ParseAddr(t.Host)
	a = a.Unmap()
	switch {
	case t.Host == "localhost" && !f.At.Loopback():
		return loopbackTarget(f, t)
	case t.Host != "self" && t.Host != "localhost" && err != nil && f.At.Loopback():
		return loopbackElsewhere(f, t)
	case err == nil:
		return fitsAddr(f, t, a)
	}
	return nil
}

// fitsSource refuses what "source" and "masquerade" cannot mean for f.
func fitsSource(f *fairlead.Forward) *fairlead.Problem {
	p := &f.Policy
	if p.Source == "" && !p.Masquerade {
		return nil
	}
	word := "masquerade"
	if p.Source != "" {
		word = "source"
	}
	switch {
	case p.Source != "" && p.Masquerade:
		return fairlead.Problemf(fairlead.CodeCannotHonour, "\"source\" and \"masquerade\" say different things of what the target sees").Fix("take one out", "")
	case !slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Host != "self" }):
		return fairlead.Problemf(fairlead.CodeCannotHonour, "%q is about what another host sees, and self is this one", word).Fix("take it out", "")
	}
	if p.Source == "" || p.Source == "keep" {
		return nil
	}
	var seen [2]bool
	for _, word := range strings.Split(p.Source, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(word))
		if err != nil {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "\"source %s\" names an interface, and the kernel's rules take an address", p.Source).
				Fix("take the address of the way out, whichever it is", "masquerade")
		}
		fam := familyOf(a.Unmap())
		if seen[fam.index()] {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "\"source %s\" names several addresses of IPv%s, and the kernel's rules take one", p.Source, fam.digit)
		}
		seen[fam.index()] = true
	}
	return nil
}

// A condition is a modifier that the kernel's rules would not keep.
type condition struct {
	said func(f *fairlead.Forward) string // what is said, "" for nothing
	why  string
}

func never(word, why string, said func(p *fairlead.Policy) bool) condition {
	return condition{why: why, said: func(f *fairlead.Forward) string {
		if said(&f.Policy) {
			return word
		}
		return ""
	}}
}

// Why rules cannot do what a word says.
const (
	inside    = "is within the connection, and the kernel passes packets on without looking in"
	noSocket  = "is about a socket, and the kernel's forwards have none"
	noClock   = "needs somebody who looks after each connection, and the kernel's rules see its first packet"
	noAsking  = "asks the targets how they are, and the kernel does not"
	noQueue   = "lets clients wait, and the kernel's rules let them in or refuse them"
	everyByte = "would have to be counted for each packet, which this version's rules do not"
)

// conditions are those of kinds nat and forward.
var conditions = []condition{
	never("front", inside, func(p *fairlead.Policy) bool { return p.Front != "" }),
	never("greet", inside, func(p *fairlead.Policy) bool { return p.Greet != 0 }),
	never("accept-proxy", inside, func(p *fairlead.Policy) bool { return len(p.AcceptProxy) > 0 }),
	never("proxy-protocol", inside, func(p *fairlead.Policy) bool { return p.ProxyProtocol != 0 }),
	never("tls-cert", inside, func(p *fairlead.Policy) bool { return len(p.TLS.Certs) > 0 }),
	never("tls-acme", inside, func(p *fairlead.Policy) bool {
		return len(p.TLS.ACME) > 0 || p.TLS.ACMEDirectory != "" || p.TLS.ACMEEmail != "" || p.TLS.ACMECA != ""
	}),
	never("tls-client-ca", inside, func(p *fairlead.Policy) bool { return p.TLS.ClientCA != "" }),
	never("tls-alpn", inside, func(p *fairlead.Policy) bool { return len(p.TLS.ALPN) > 0 }),
	never("target-tls", inside, func(p *fairlead.Policy) bool {
		return p.TLS.Target != "" || p.TLS.TargetName != "" || p.TLS.TargetCA != "" || p.TLS.TargetCert != "" || p.TLS.TargetKey != ""
	}),
	never("requests", inside, func(p *fairlead.Policy) bool { return p.Requests != 0 }),
	never("replies", inside, func(p *fairlead.Policy) bool { return p.Replies != 0 }),

	never("engine", "chooses how a process of ours works, and none is in the way", func(p *fairlead.Policy) bool { return p.Engine != "" && p.Engine != "auto" }),
	never("mode", noSocket, func(p *fairlead.Policy) bool { return p.SocketMode != 0 }),
	never("connect", noSocket, func(p *fairlead.Policy) bool { return p.Connect != 0 }),
	never("congestion", noSocket, func(p *fairlead.Policy) bool { return p.Congestion != "" }),
	never("keepalive", noSocket, func(p *fairlead.Policy) bool { return p.Keepalive != 0 }),
	never("dscp", everyByte, func(p *fairlead.Policy) bool { return p.DSCP != "" }),
	never("mark", everyByte, func(p *fairlead.Policy) bool { return p.Mark != 0 }),

	never("idle", "is said to connection tracking for all connections of this host alike (sysctl net.netfilter)", func(p *fairlead.Policy) bool { return p.Idle != 0 }),
	never("linger", noClock, func(p *fairlead.Policy) bool { return p.Linger != 0 }),
	never("max-lifetime", noClock, func(p *fairlead.Policy) bool { return p.MaxLifetime != 0 }),
	never("schedule", noClock, func(p *fairlead.Policy) bool { return len(p.Schedule) > 0 }),
	never("queue", noQueue, func(p *fairlead.Policy) bool { return p.Queue != 0 || p.MaxQueue != 0 }),
	never("bandwidth", everyByte, func(p *fairlead.Policy) bool {
		none := fairlead.Bandwidth{}
		return p.Bandwidth != none || p.BandwidthPerConn != none || p.BandwidthPerSource != none
	}),

	never("check", noAsking, func(p *fairlead.Policy) bool { return p.Check.How != "" && p.Check.How != "off" }),
	never("slow-start", noAsking, func(p *fairlead.Policy) bool { return p.SlowStart != 0 }),
	{why: "needs to know which target is how busy, and the kernel's rules do not", said: func(f *fairlead.Forward) string {
		if f.Policy.Choose == "least-conn" {
			return "policy least-conn"
		}
		return ""
	}},
	never("publish", "asks a router, and this version does not", func(p *fairlead.Policy) bool { return p.Publish }),
	never("pac", inside, func(p *fairlead.Policy) bool { return p.PAC != "" }),
	never("user", inside, func(p *fairlead.Policy) bool { return len(p.Users) > 0 }),
}

// NotYet are the modifiers of kind nat that the kernel never keeps, so that
// help need not promise them.
func NotYet() []string {
	return []string{"backup", "mark", "publish", "slow-start", "check", "idle", "bandwidth"}
}
