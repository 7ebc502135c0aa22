package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"fairlead/internal/sys/nft"
)

// chainSource rewrites the source of translated connections where the way back
// would miss this host, or where their forward says so.
const chainSource = "source"

// setHairpin has the pairs of interfaces that are one and the same: what leaves
// by the interface by which it came.
const setHairpin = "hairpin"

// rewriting is what r's sentence says of the source of its connections: a chain
// to go to, and the words; "" is what suits the way back.
func (c *compiler) rewriting(r *route, fam *family) (chain, word string) {
	p := &r.f.Policy
	switch {
	case p.Source == "keep":
		return chainAsIs, "source keep"
	case p.Source != "":
		for _, text := range strings.Split(p.Source, ",") {
			a, err := netip.ParseAddr(strings.TrimSpace(text))
			if a = a.Unmap(); err == nil && familyOf(a) == fam {
				return chainAs + strings.ReplaceAll(a.String(), ":", "_"), "source " + a.String()
			}
		}
	case p.Masquerade:
		return chainAsUs, "masquerade"
	}
	return "", ""
}

// The chains that rewrite the source, or leave it as it is.
const (
	chainAs   = "as_" // an address follows
	chainAsIs = "as_is"
	chainAsUs = "as_us"
)

// sourceElement puts connections into the maps of source. They are known again
// there by the target, its port and the port that was asked for.
func (c *compiler) sourceElement(t *trait) {
	fam := familyOf(t.at.host)
	if c.chainNamed[t.chain] == nil {
		switch t.chain {
		case chainAsIs:
			c.rule(t.chain, nft.Accept)
		case chainAsUs:
			c.rule(t.chain, nft.Masquerade{})
		default:
			_, text, _ := strings.Cut(t.word, " ")
			c.rule(t.chain, nft.SNAT{Family: fam.proto, Addr: netip.MustParseAddr(text)})
		}
	}
	wide := t.asked.First < t.asked.Last
	like := nft.Set{Key: []nft.Type{fam.typ, nft.InetService, nft.InetService}, Verdicts: true, Interval: wide}
	s := c.set(sourceMap(t.at.proto, fam, wide), like)
	s.Elements = append(s.Elements, nft.Element{Key: t.key(), Verdict: nft.Goto(t.chain)})
}

func sourceMap(proto uint8, fam *family, wide bool) string {
	name := "source_"
	if wide {
		name = "sources_"
	}
	return name + protoName(proto) + fam.digit
}

// sources makes the rules of the chain source.
func (c *compiler) sources() {
	for _, proto := range []uint8{protoTCP, protoUDP} {
		for _, fam := range families {
			for _, wide := range []bool{false, true} {
				if name := sourceMap(proto, fam, wide); c.has(name) {
					c.rule(chainSource, nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(proto))}},
						nft.VMap{Keys: []nft.Key{fam.daddr, nft.Dport, nft.CtOrigDport}, Map: name})
				}
			}
		}
	}
	if len(c.chainNamed[chainPre].Rules) == 0 {
		return
	}
	names := slices.Sorted(maps.Keys(c.w.addrs))
	names = slices.DeleteFunc(names, func(name string) bool { return name == "lo" })
	hairpin := c.set(setHairpin, nft.Set{Key: []nft.Type{nft.IfName, nft.IfName}})
	for _, name := range names {
		n := nft.One(nft.Name(name))
		hairpin.Elements = append(hairpin.Elements, nft.Element{Key: []nft.Range{n, n}})
		for _, net := range c.w.addrs[name] {
			c.neighbours(name, net)
		}
	}
	c.rule(chainSource, nft.In{Keys: []nft.Key{nft.IIFName, nft.OIFName}, Set: setHairpin}, nft.Masquerade{})
	for _, fam := range families {
		if set := setNeighbours + fam.digit; c.has(set) {
			c.rule(chainSource, nft.In{Keys: []nft.Key{nft.OIFName, fam.saddr}, Set: set}, nft.Masquerade{})
		}
	}
	// A program on this host may have chosen its source for another way out.
	c.rule(chainSource, nft.Is{Key: nft.OIFName, Values: ifnames([]string{"lo"}), Not: true},
		nft.Is{Key: nft.FibSaddrType, Values: []nft.Range{nft.One(routeLocal)}}, nft.Masquerade{})
}

// setNeighbours has who is reached by an interface without a router: those are
// the clients whose answers would miss this host. It says so again for packets
// that a bridge turns round itself, as it does with its own ports' once
// br_netfilter is loaded (Docker loads it): they came in by no interface.
const setNeighbours = "neighbours"

// neighbours adds the network of an interface's address.
func (c *compiler) neighbours(name string, net netip.Prefix) {
	net = plainPrefix(net)
	if net.IsSingleIP() {
		return
	}
	fam := familyOf(net.Addr())
	s := c.set(setNeighbours+fam.digit, nft.Set{Key: []nft.Type{nft.IfName, fam.typ}, Interval: true})
	e := nft.Element{Key: []nft.Range{nft.One(nft.Name(name)), {First: nft.Addr(net.Addr()), Last: nft.Addr(lastOf(net))}}}
	// Networks meet only where one holds the other: the wider one stays.
	held := false
	s.Elements = slices.DeleteFunc(s.Elements, func(was nft.Element) bool {
		if was.Key[0] != e.Key[0] || was.Key[1].Last < e.Key[1].First || e.Key[1].Last < was.Key[1].First {
			return false
		}
		within := e.Key[1].First <= was.Key[1].First && was.Key[1].Last <= e.Key[1].Last
		held = held || !within
		return within
	})
	if held {
		return
	}
	s.Elements = append(s.Elements, e)
}
