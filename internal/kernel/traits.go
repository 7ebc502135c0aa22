package kernel

import (
	"net/netip"
	"slices"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// A trait is what is done with connections once they are translated, where they
// are known by their target, its port and the port that they asked for, and by
// nothing else: a way to rewrite their source, or a helper. What two forwards
// lead from the same port to the same place has the same traits, or one of
// the forwards is not carried.
type trait struct {
	at        traitAt
	to, asked fairlead.Ports // as many of each, or all asked for lead to one
	chain     string         // that does it; "" where the sentence says nothing
	word      string         // that asks for it
	i         int            // whose it is, of want
}

// A traitAt tells apart what traits are about.
type traitAt struct {
	helper bool // else the source
	proto  uint8
	host   netip.Addr // invalid: this host itself
}

// known are the traits of one host. Those of a range are a rectangle of ports in
// the kernel's eyes: any of to with any of asked.
type known struct {
	single map[[2]uint16]*trait
	wide   []*trait
}

// toPort is the port that the n-th of those asked for leads to.
func (t *trait) toPort(n int) uint16 {
	if t.to.First == t.to.Last {
		return t.to.First
	}
	return t.to.First + uint16(n)
}

func (k *known) find(to, asked uint16) *trait {
	if k == nil {
		return nil
	}
	if t := k.single[[2]uint16{to, asked}]; t != nil {
		return t
	}
	for _, t := range k.wide {
		if within(to, t.to) && within(asked, t.asked) {
			return t
		}
	}
	return nil
}

func within(port uint16, r fairlead.Ports) bool { return r.First <= port && port <= r.Last }

// meets reports whether the kernel would find that t overlaps another one.
func (k *known) meets(t *trait) bool {
	for pair := range k.single {
		if within(pair[0], t.to) && within(pair[1], t.asked) {
			return true
		}
	}
	return slices.ContainsFunc(k.wide, func(o *trait) bool {
		return o.to.First <= t.to.Last && t.to.First <= o.to.Last && o.asked.First <= t.asked.Last && t.asked.First <= o.asked.Last
	})
}

// other is the first trait that says something else of a connection of t's.
func (c *compiler) other(t *trait) *trait {
	k := c.traits[t.at]
	if k == nil {
		return nil
	}
	for n := range t.asked.Len() {
		if o := k.find(t.toPort(n), t.asked.First+uint16(n)); o != nil && o.chain != t.chain {
			return o
		}
	}
	return nil
}

// traitsOf are those of r, of its source and its helper, said or not.
func (c *compiler) traitsOf(r *route) (list []*trait) {
	for _, t := range r.turns() {
		for i := range r.dests {
			to := t.ports
			if t.to != nil {
				to = fairlead.Ports{First: t.to[i], Last: t.to[i]}
			}
			for _, proto := range protos(r.f.At.Net) {
				add := func(helper bool, host netip.Addr, chain, word string) {
					list = append(list, &trait{traitAt{helper, proto, host}, to, t.ports, chain, word, r.i})
				}
				chain, word := helperOf(r.f, proto)
				if r.dests[i].self {
					add(true, netip.Addr{}, chain, word)
					continue
				}
				for _, fam := range families {
					if a, ok := r.dests[i].at(fam); ok {
						add(true, a, chain, word)
						as, said := c.rewriting(r, fam)
						add(false, a, as, said)
					}
				}
			}
		}
	}
	return list
}

// speaks reports whether a sentence says anything of its connections' traits.
func speaks(p *fairlead.Policy) bool { return p.Source != "" || p.Masquerade || p.ALG != "" }

// agree refuses r where another forward, which is carried, asks for something
// else for the same connections.
func (c *compiler) agree(r *route) *fairlead.Problem {
	if len(c.traits) == 0 || !speaks(&r.f.Policy) {
		return nil
	}
	for _, t := range c.traitsOf(r) {
		if o := c.other(t); t.chain != "" && o != nil {
			return fairlead.Problemf(fairlead.CodeCannotHonour, "%q leads port %s to %s, too, and says %q where this one says %q: behind the translation nobody can tell them apart",
				c.want[o.i].Name, t.asked, t.place(), o.word, t.word).
				Fix("say the same in both, or listen at another port in one", "")
		}
	}
	return nil
}

func (t *trait) place() string {
	if !t.at.host.IsValid() {
		return "self:" + t.to.String()
	}
	if t.at.host.Is6() {
		return "[" + t.at.host.String() + "]:" + t.to.String()
	}
	return t.at.host.String() + ":" + t.to.String()
}

// say makes the elements of r's traits: of what is said already none, and none
// that overlap.
func (c *compiler) say(r *route) {
	if !speaks(&r.f.Policy) {
		return
	}
	for _, t := range c.traitsOf(r) {
		if t.chain == "" {
			continue
		}
		k := c.traits[t.at]
		if k == nil {
			k = &known{single: map[[2]uint16]*trait{}}
			c.traits[t.at] = k
		}
		for n := 0; n < t.asked.Len(); n++ {
			first := n
			for n < t.asked.Len() && k.find(t.toPort(n), t.asked.First+uint16(n)) == nil {
				n++
			}
			if n > first {
				c.sayStretch(k, t, first, n-1)
			}
		}
	}
}

// sayStretch is for the ports of t from the first to the last.
func (c *compiler) sayStretch(k *known, t *trait, first, last int) {
	piece := *t
	piece.to = fairlead.Ports{First: t.toPort(first), Last: t.toPort(last)}
	piece.asked = fairlead.Ports{First: t.asked.First + uint16(first), Last: t.asked.First + uint16(last)}
	if first < last && k.meets(&piece) {
		for n := first; n <= last; n++ {
			c.sayStretch(k, t, n, n)
		}
		return
	}
	if first == last {
		k.single[[2]uint16{piece.to.First, piece.asked.First}] = &piece
	} else {
		k.wide = append(k.wide, &piece)
	}
	if t.at.helper {
		c.helperElement(&piece)
	} else {
		c.sourceElement(&piece)
	}
}

// disagreements warns of forwards that say nothing of their connections, and
// whose connections another one's words hold for.
func (c *compiler) disagreements(routes []*route) {
	if len(c.traits) == 0 {
		return
	}
	for _, r := range routes {
		for _, t := range c.traitsOf(r) {
			if o := c.other(t); t.chain == "" && o != nil {
				c.warn(r.i, fairlead.Problemf(fairlead.CodeCannotHonour, "%q leads port %s to %s, too, and its %q holds for both: behind the translation nobody can tell them apart",
					c.want[o.i].Name, t.asked, t.place(), o.word).
					Fix("say the same here, or listen at another port", ""))
				break
			}
		}
	}
}

// key is the key of an element of a map of traits.
func (t *trait) key() []nft.Range {
	key := []nft.Range{portRange(t.to), portRange(t.asked)}
	if t.at.host.IsValid() {
		key = append([]nft.Range{nft.One(nft.Addr(t.at.host))}, key...)
	}
	return key
}
