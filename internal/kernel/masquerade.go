package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// chainSource rewrites the source of translated connections where the way back
// would miss this host, or where their forward says so.
const chainSource = "source"

// setHairpin has the pairs of interfaces that are one and the same: what leaves
// by the interface by which it came.
const setHairpin = "hairpin"

// A rewriting is what becomes of the source of r's connections, as a chain to
// go to; "" is what suits the way back.
func (c *compiler) rewriting(r *route, fam *family) string {
	p := &r.f.Policy
	switch {
	case p.Source == "keep":
		if c.chainNamed["as_is"] == nil {
			c.rule("as_is", nft.Accept)
		}
		return "as_is"
	case p.Source != "":
		for _, word := range strings.Split(p.Source, ",") {
			a, err := netip.ParseAddr(strings.TrimSpace(word))
			if a = a.Unmap(); err != nil || familyOf(a) != fam {
				continue
			}
			chain := "as_" + strings.ReplaceAll(a.String(), ":", "_")
			if c.chainNamed[chain] == nil {
				c.rule(chain, nft.SNAT{Family: fam.proto, Addr: a})
			}
			return chain
		}
	case p.Masquerade:
		if c.chainNamed["as_us"] == nil {
			c.rule("as_us", nft.Masquerade{})
		}
		return "as_us"
	}
	return ""
}

// sourceOf puts r's targets into the maps of source, where its sentence says
// something of the source. Connections are known again there by the target,
// its port and the port that was asked for.
func (c *compiler) sourceOf(r *route) {
	for _, fam := range families {
		chain := c.rewriting(r, fam)
		if chain == "" {
			continue
		}
		for _, t := range r.turns() {
			for i := range r.dests {
				a, ok := r.dests[i].at(fam)
				if !ok {
					continue
				}
				to := t.ports
				if t.to != nil {
					to = fairlead.Ports{First: t.to[i], Last: t.to[i]}
				}
				for _, proto := range protos(r.f.At.Net) {
					c.sourceElement(r, fam, proto, a, to, t.ports, chain)
				}
			}
		}
	}
}

func (c *compiler) sourceElement(r *route, fam *family, proto uint8, a netip.Addr, to, asked fairlead.Ports, chain string) {
	like := nft.Set{Key: []nft.Type{fam.typ, nft.InetService, nft.InetService}, Verdicts: true}
	name := sourceMap(proto, fam, asked.First < asked.Last)
	like.Interval = asked.First < asked.Last
	e := nft.Element{Key: []nft.Range{nft.One(nft.Addr(a)), portRange(to), portRange(asked)}, Verdict: nft.Goto(chain)}
	s := c.set(name, like)
	id := sourceKey{name, a, to, asked}
	if was, ok := c.rewritten[id]; ok {
		if was != chain {
			c.fail(r.i, fairlead.Problemf(fairlead.CodeCannotHonour, "another forward leads the same port to %s, and says something else of the source", netip.AddrPortFrom(a, to.First)))
		}
		return
	}
	c.rewritten[id] = chain
	s.Elements = append(s.Elements, e)
}

// A sourceKey tells elements of the maps of source apart.
type sourceKey struct {
	name      string
	a         netip.Addr
	to, asked fairlead.Ports
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
