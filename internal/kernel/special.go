package kernel

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strconv"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// maxTurns is how many chains one forward may have for ports that are led to
// ports of other numbers.
const maxTurns = 1024

// The policies that rules can keep: nobody asks the targets how they are.
const (
	roundRobin = "round-robin"
	random     = "random"
	sourceHash = "source-hash"
)

// isSpecial reports whether r needs a chain of its own: the packet has to be
// looked at more closely than a map does.
func (r *route) isSpecial() bool {
	return len(r.dests) != 1 || r.dests[0].self || len(r.clients) > 0 || limited(&r.f.Policy)
}

// fitsClasses refuses what no rule says.
func (r *route) fitsClasses() *fairlead.Problem {
	for _, cl := range r.classes {
		if len(cl.targets) > 1 && slices.ContainsFunc(cl.targets, func(t int) bool { return r.f.To[t].Host == "self" }) {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "self is one of several targets for the same clients, and address translation cannot choose between this host and others").
				Fix("say who is led where", "to self from CIDR, HOST").
				Fix("have a process carry it", "forward "+r.f.At.String()+" to ...")
		}
		if p := &r.f.Policy; len(cl.targets) > 1 && !slices.Contains([]string{roundRobin, random, sourceHash}, p.Choose) {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "policy %s among several targets needs to know how they stand, and the kernel does not ask them", cmp.Or(p.Choose, "failover (the default)")).
				Fix("share the connections out", "policy round-robin, random or source-hash").
				Fix("have a process carry it", "forward "+r.f.At.String()+" to ...")
		}
	}
	at, n := r.f.At.Ports, 0
	for _, ports := range at {
		for p := int(ports.First); p <= int(ports.Last); p++ {
			for t := range r.f.To {
				if to := &r.f.To[t]; to.Host == "self" && int(to.Port(at, n)) == p {
					return fairlead.Problemf(fairlead.CodeLoop, "port %d of this host is led to itself: there is nothing to translate", p).
						Fix("let it through the guard", "open "+r.f.At.String())
				}
			}
			n++
		}
	}
	return nil
}

// own is the chain of r for connections that are led to the ports to; nil: to
// those that they asked for. It is made when it is first asked for.
func (c *compiler) own(r *route, to []uint16) string {
	name := r.base
	if to != nil {
		b := make([]byte, 0, 2*len(to))
		for _, p := range to {
			b = binary.BigEndian.AppendUint16(b, p)
		}
		if was := r.chains[string(b)]; was != "" {
			return was
		}
		if len(r.chains) > 0 {
			name += "/" + strconv.Itoa(len(r.chains))
		}
		r.chains[string(b)] = name
	} else {
		if was := r.chains[""]; was != "" {
			return was
		}
		if len(r.chains) > 0 {
			name += "/" + strconv.Itoa(len(r.chains))
		}
		r.chains[""] = name
	}
	c.limit(r)
	c.chain(name)
	pieces := split(r.clients)
	pieces = slices.DeleteFunc(pieces, func(p piece) bool { return p.class == r.rest })
	for _, fam := range families {
		c.tellApart(r, name, fam, pieces, to)
	}
	c.class(r, name, r.rest, to)
	return name
}

// tellApart sends clients of the family to the chains of their classes; the
// rest goes on.
func (c *compiler) tellApart(r *route, chain string, fam *family, pieces []piece, to []uint16) {
	set := chain + "/from" + fam.digit
	for _, p := range pieces {
		if familyOf(p.first) != fam || !r.takes(fam) {
			continue
		}
		lead := chainRefuse
		if p.class != refused {
			lead = chain + "/" + letter(p.class)
			if c.chainNamed[lead] == nil {
				c.class(r, lead, p.class, to)
			}
		} else {
			c.refuse()
		}
		key := nft.One(nft.Addr(p.first))
		if p.last != p.first {
			key.Last = nft.Addr(p.last)
		}
		s := c.set(set, nft.Set{Key: []nft.Type{fam.typ}, Verdicts: true, Interval: true})
		s.Elements = append(s.Elements, nft.Element{Key: []nft.Range{key}, Verdict: nft.Goto(lead)})
	}
	if c.has(set) {
		c.rule(chain, nft.VMap{Keys: []nft.Key{fam.saddr}, Map: set})
	}
}

// letter is a class as it stands in names: "a" is the first.
func letter(class int) string {
	s := ""
	for ; class > 0; class = (class - 1) / 26 {
		s = string(rune('a'+(class-1)%26)) + s
	}
	return s
}

// class appends to chain what becomes of the clients of a class: they are
// counted against the limits, led to a target, or refused. Nothing falls
// through to what may listen here at the port that they asked for.
func (c *compiler) class(r *route, chain string, class int, to []uint16) {
	targets := r.classes[class].targets
	if len(targets) > 0 {
		if slices.ContainsFunc(r.doors, func(d door) bool { return d.group == byAny }) && !r.dests[targets[0]].self {
			// As in lookup: from loopback there is no way to another host.
			for _, fam := range families {
				if r.reachable[fam.index()] {
					c.rule(chain, nft.Is{Key: fam.daddr, Values: []nft.Range{fam.loopback()}}, nft.Verdict{Do: "return"})
				}
			}
		}
		if r.limits != "" {
			c.rule(chain, nft.Jump(r.limits))
		}
	}
	if len(targets) == 1 && r.dests[targets[0]].self {
		// The port alone is rewritten, so that the address stays the one that
		// was asked for, in either family, and local UDP is answered from it.
		c.rule(chain, tcpOrUDP, nft.DNAT{Family: nft.Inet, Port: to[targets[0]]})
		return
	}
	for _, fam := range families {
		c.spread(r, chain, fam, targets, to)
	}
	c.refuse()
	c.rule(chain, nft.Goto(chainRefuse))
}

// tcpOrUDP matches what has ports.
var tcpOrUDP = nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(protoTCP)), nft.One(nft.Byte(protoUDP))}}

// spread appends the rule that leads clients of the family to one of targets,
// each as often as its weight says.
func (c *compiler) spread(r *route, chain string, fam *family, targets []int, to []uint16) {
	var (
		first    uint32
		elements []nft.Element
		single   nft.DNAT
	)
	for _, t := range targets {
		a, ok := r.dests[t].at(fam)
		if !ok {
			continue
		}
		e := nft.Element{Data: []nft.Value{nft.Addr(a)}}
		single = nft.DNAT{Family: fam.proto, Addr: a}
		if to != nil {
			e.Data = append(e.Data, nft.Port(to[t]))
			single.Port = to[t]
		}
		n := uint32(max(1, r.f.To[t].Weight))
		key := nft.One(number(first))
		if n > 1 {
			key.Last = number(first + n - 1)
		}
		e.Key = []nft.Range{key}
		elements = append(elements, e)
		first += n
	}
	switch {
	case len(elements) == 0:
	case len(elements) == 1:
		c.rule(chain, fam.is(), tcpOrUDP, single)
	default:
		by := map[string]nft.By{roundRobin: nft.ByTurn, random: nft.ByChance, sourceHash: nft.BySource}[r.f.Policy.Choose]
		c.rule(chain, fam.is(), tcpOrUDP, nft.DNAT{Family: fam.proto, Choose: &nft.Choose{By: by, Key: fam.saddr, Mod: first, Elements: elements}})
	}
}

func number(n uint32) nft.Value { return nft.Value(binary.BigEndian.AppendUint32(nil, n)) }

// chainRefuse tells clients that they may not.
const chainRefuse = "refuse"

// refuse makes the chain that refuses.
func (c *compiler) refuse() {
	if c.chainNamed[chainRefuse] != nil {
		return
	}
	count := chainAccount + ends[turned]
	c.chain(count)
	c.rule(chainRefuse, nft.Jump(count))
	c.rule(chainRefuse, nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(protoTCP))}}, nft.Reject{With: "tcp reset"})
	c.rule(chainRefuse, nft.Reject{With: "port-unreachable"})
}
