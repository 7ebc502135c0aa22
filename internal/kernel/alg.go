package kernel

import (
	"net/netip"
	"slices"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// An alg is a protocol whose connections agree upon further ports, and what
// connection tracking calls the helper that reads along.
type alg struct {
	word  string
	types map[uint8]string // by the protocol of its first connection
}

var algs = []alg{
	{"ftp", map[uint8]string{protoTCP: "ftp"}},
	{"tftp", map[uint8]string{protoUDP: "tftp"}},
	{"sip", map[uint8]string{protoUDP: "sip", protoTCP: "sip"}},
	{"irc", map[uint8]string{protoTCP: "irc"}},
	{"pptp", map[uint8]string{protoTCP: "pptp"}},
	{"h323", map[uint8]string{protoTCP: "Q.931", protoUDP: "RAS"}},
	{"amanda", map[uint8]string{protoUDP: "amanda"}},
}

func algOf(word string) *alg {
	i := slices.IndexFunc(algs, func(a alg) bool { return a.word == word })
	if i < 0 {
		return nil
	}
	return &algs[i]
}

// fitsALG refuses a helper for a protocol that it is not for.
func fitsALG(f *fairlead.Forward) *fairlead.Problem {
	word := f.Policy.ALG
	if word == "" {
		return nil
	}
	a := algOf(word)
	if a == nil {
		return fairlead.Problemf(fairlead.CodeCannotHonour, "the kernel has no helper for %q", word)
	}
	for _, proto := range protos(f.At.Net) {
		if a.types[proto] != "" {
			return nil
		}
	}
	other := "udp"
	if f.At.Net == fairlead.UDP {
		other = "tcp"
	}
	spot := f.At
	spot.Net = fairlead.TCP | fairlead.UDP
	return fairlead.Problemf(fairlead.CodeCannotHonour, "%s begins by %s, and %s takes %s", word, other, f.At.String(), f.At.Net).
		Fix("take both", string(f.Kind)+" "+spot.String()+" …")
}

// chainHelpers gives new connections of forwards with alg their helper, and
// those of nobody else: a helper lets in what a connection says, so who did not
// ask for it does not get it. It sees them once they are translated, where the
// same port of the same target may belong to a forward without alg: they are
// told apart by the port that was asked for.
const chainHelpers = "helpers"

// algOf puts the connections of f that lead to host, or to this host itself for
// the zero Addr, into the map of the helpers.
func (c *compiler) alg(f *fairlead.Forward, host netip.Addr, to, asked fairlead.Ports) {
	a := algOf(f.Policy.ALG)
	if a == nil {
		return
	}
	for _, proto := range protos(f.At.Net) {
		typ := a.types[proto]
		if typ == "" {
			continue
		}
		name := a.word + "_" + protoName(proto)
		use := "use_" + name
		if c.chainNamed[use] == nil {
			c.helpers = append(c.helpers, nft.Helper{Name: name, Type: typ, Proto: proto})
			c.rule(use, nft.UseHelper{Name: name})
		}
		like := nft.Set{Key: []nft.Type{nft.InetService, nft.InetService}, Verdicts: true, Interval: true}
		key := []nft.Range{portRange(to), portRange(asked)}
		var fam *family
		if host.IsValid() {
			fam = familyOf(host)
			like.Key = append([]nft.Type{fam.typ}, like.Key...)
			key = append([]nft.Range{nft.One(nft.Addr(host))}, key...)
		}
		set := c.set(helperMap(proto, fam), like)
		if !slices.ContainsFunc(set.Elements, func(e nft.Element) bool { return slices.Equal(e.Key, key) }) {
			set.Elements = append(set.Elements, nft.Element{Key: key, Verdict: nft.Goto(use)})
		}
	}
}

func helperMap(proto uint8, fam *family) string {
	name := "helper_" + protoName(proto)
	if fam != nil {
		name += fam.digit
	}
	return name
}

// algOfRoute does so for all that r leads to.
func (c *compiler) algOfRoute(r *route) {
	if r.f.Policy.ALG == "" {
		return
	}
	for _, t := range r.turns() {
		for i := range r.dests {
			to := t.ports
			if t.to != nil {
				to = fairlead.Ports{First: t.to[i], Last: t.to[i]}
			}
			if r.dests[i].self {
				c.alg(r.f, netip.Addr{}, to, t.ports)
				continue
			}
			for _, fam := range families {
				if a, ok := r.dests[i].at(fam); ok {
					c.alg(r.f, a, to, t.ports)
				}
			}
		}
	}
}

// helping makes the chains that look new connections up, before any filter.
func (c *compiler) helping() {
	if len(c.helpers) == 0 {
		return
	}
	for _, proto := range []uint8{protoTCP, protoUDP} {
		is := nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(proto))}}
		for _, fam := range families {
			if name := helperMap(proto, fam); c.has(name) {
				c.rule(chainHelpers, is, nft.VMap{Keys: []nft.Key{fam.daddr, nft.Dport, nft.CtOrigDport}, Map: name})
			}
		}
		if name := helperMap(proto, nil); c.has(name) {
			c.rule(chainHelpers, is, nft.Is{Key: nft.FibDaddrType, Values: []nft.Range{nft.One(routeLocal)}},
				nft.VMap{Keys: []nft.Key{nft.Dport, nft.CtOrigDport}, Map: name})
		}
	}
	for _, hook := range []struct {
		name, hook string
		priority   int
	}{{"helpers_forward", "forward", nft.Mangle}, {"helpers_input", "input", nft.Mangle}, {"helpers_output", "output", nft.DstNAT + 50}} {
		c.hook(hook.name, nft.Hook{Type: "filter", Hook: hook.hook, Priority: hook.priority})
		c.rule(hook.name, nft.Has{Key: nft.CtState, Mask: nft.StateNew}, nft.Jump(chainHelpers))
	}
}
