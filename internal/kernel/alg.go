package kernel

import (
	"slices"
	"strings"

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

// helperOf is the chain that gives f's connections their helper, and the words
// that ask for it; "" where they get none.
func helperOf(f *fairlead.Forward, proto uint8) (chain, word string) {
	a := algOf(f.Policy.ALG)
	if a == nil || a.types[proto] == "" {
		return "", ""
	}
	return "use_" + a.helper(proto), "alg " + a.word
}

// helper is the name of the helper's object.
func (a *alg) helper(proto uint8) string { return a.word + "_" + protoName(proto) }

// helperElement puts connections into the maps of the helpers.
func (c *compiler) helperElement(t *trait) {
	if c.chainNamed[t.chain] == nil {
		a := algOf(strings.TrimPrefix(t.word, "alg "))
		name := a.helper(t.at.proto)
		c.helpers = append(c.helpers, nft.Helper{Name: name, Type: a.types[t.at.proto], Proto: t.at.proto})
		c.rule(t.chain, nft.UseHelper{Name: name})
	}
	like := nft.Set{Key: []nft.Type{nft.InetService, nft.InetService}, Verdicts: true, Interval: true}
	var fam *family
	if t.at.host.IsValid() {
		fam = familyOf(t.at.host)
		like.Key = append([]nft.Type{fam.typ}, like.Key...)
	}
	set := c.set(helperMap(t.at.proto, fam), like)
	set.Elements = append(set.Elements, nft.Element{Key: t.key(), Verdict: nft.Goto(t.chain)})
}

func helperMap(proto uint8, fam *family) string {
	name := "helper_" + protoName(proto)
	if fam != nil {
		name += fam.digit
	}
	return name
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
