package kernel

import (
	"net/netip"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// What pinholes let in is counted as translated connections are (accounts.go),
// by what was asked for, in sets of their own: nothing else tells a connection
// through a pinhole from one that the LAN began.

// chainLetIn is where a pinhole leads: who came as far is counted and let in.
// The packets that follow pass chainKnown, as all do of connections that are
// known.
const (
	chainLetIn = "guard/in"
	chainKnown = "guard/known"
)

// holeSets is what the names of sets that count the same for pinholes begin with.
// fam is nil for those to this host itself.
func holeSets(proto uint8, fam *family, wide bool) string {
	name := "hole_"
	if wide {
		name = "holes_"
	}
	name += protoName(proto)
	if fam != nil {
		name += fam.digit
	}
	return name
}

// counted is which ports of an address have an account already.
type counted struct {
	proto uint8
	to    netip.Addr
}

// countHole makes the elements that count for a way in of want[i]. What two
// pinholes let in counts for the first.
func (c *compiler) countHole(seen map[counted]*portSet, i int, proto uint8, to netip.Addr, ports fairlead.Ports) {
	have := seen[counted{proto, to}]
	if have == nil {
		have = new(portSet)
		seen[counted{proto, to}] = have
	}
	for _, r := range have.without(ports) {
		have.add(r)
		like := nft.Set{Key: []nft.Type{nft.InetService}, Counted: true, Interval: r.First < r.Last}
		key := []nft.Range{portRange(r)}
		var fam *family
		if to.IsValid() {
			fam = familyOf(to)
			like.Key = []nft.Type{fam.typ, nft.InetService}
			key = []nft.Range{nft.One(nft.Addr(to)), portRange(r)}
		}
		name := holeSets(proto, fam, like.Interval)
		c.accounts[accountOf(name, key)] = i
		for _, what := range []tally{flows, in, out} {
			s := c.set(name+ends[what], like)
			s.Elements = append(s.Elements, nft.Element{Key: key, Comment: c.want[i].Name})
		}
	}
}

// without are the ports of r that s has not.
func (s *portSet) without(r fairlead.Ports) (list []fairlead.Ports) {
	for n := int(r.First); n <= int(r.Last); n++ {
		if s.has(n) {
			continue
		}
		first := n
		for n < int(r.Last) && !s.has(n+1) {
			n++
		}
		list = append(list, fairlead.Ports{First: uint16(first), Last: uint16(n)})
	}
	return list
}

// holeRules makes the rules that count. Answers of pinholes' connections go out
// by the interfaces that are guarded, as nothing else does that is an answer and
// was not translated.
func (c *compiler) holeRules() {
	fresh := nft.Has{Key: nft.CtStatus, Mask: nft.StatusConfirmed, Not: true}
	any := false
	for _, what := range []tally{flows, in, out} {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			for _, fam := range []*family{ipv4, ipv6, nil} {
				for _, wide := range []bool{false, true} {
					name := holeSets(proto, fam, wide) + ends[what]
					if !c.has(name) {
						continue
					}
					any = true
					keys := []nft.Key{nft.CtOrigDport}
					if fam != nil {
						keys = []nft.Key{fam.origDaddr, nft.CtOrigDport}
					}
					c.rule(chainHoles+ends[what], nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(proto))}},
						nft.In{Keys: keys, Set: name}, nft.Verdict{Do: "return"})
				}
			}
		}
	}
	if any {
		c.rule(chainLetIn, fresh, nft.Jump(chainHoles+ends[flows]))
		c.rule(chainLetIn, nft.Jump(chainHoles+ends[in]))
		c.rule(chainKnown, nft.Is{Key: nft.CtDirection, Values: []nft.Range{nft.One(nft.Byte(0))}}, nft.Jump(chainHoles+ends[in]))
		back := []nft.Expr{nft.In{Keys: []nft.Key{nft.OIFName}, Set: setOutside},
			nft.Is{Key: nft.CtDirection, Values: []nft.Range{nft.One(nft.Byte(1))}}, nft.Jump(chainHoles + ends[out])}
		c.rule(chainForward, back...)
		c.hook(chainSent, nft.Hook{Type: "filter", Hook: "output", Priority: nft.Filter})
		c.rule(chainSent, back...)
	}
	c.rule(chainLetIn, nft.Accept)
	c.rule(chainKnown, nft.Accept)
}

// chainHoles begins the names of the chains that count for pinholes.
const chainHoles = "holes"

// checkpoint is a chain that lets in who is not denied and within the limits.
func (c *compiler) checkpoint(i int, f *fairlead.Forward) string {
	r := &route{i: i, f: f, base: c.baseName(f), reachable: [2]bool{true, true}}
	for _, p := range f.Policy.Deny {
		c.rule(r.base, nft.Is{Key: familyOf(p.Addr()).saddr, Values: []nft.Range{prefixRange(p)}}, nft.Verdict{Do: "return"})
	}
	if limited(&f.Policy) {
		c.limit(r)
		// Datagrams that nobody has answered are new ones of one connection.
		c.rule(r.base, nft.Has{Key: nft.CtStatus, Mask: nft.StatusConfirmed, Not: true}, nft.Jump(r.limits))
	}
	c.rule(r.base, nft.Goto(chainLetIn))
	return r.base
}
