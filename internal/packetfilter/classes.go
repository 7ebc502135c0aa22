package packetfilter

import (
	"net/netip"
	"slices"

	"fairlead"
)

// A class is clients who are led to the same targets.
type class struct {
	from    netip.Prefix // zero: all others
	targets []int        // of the forward, by index; none: they are refused
}

// classesOf tells f's clients apart in the order in which rules have to: who is
// denied, then the longest prefixes among the targets' "from", then all others.
// Targets of the same prefix share its clients; those that are drained get none.
func classesOf(f *fairlead.Forward) []class {
	var list []class
	undrained := func(targets []int) []int {
		return slices.DeleteFunc(targets, func(t int) bool { return f.To[t].Drain })
	}
	var rest []int
	meant := map[netip.Prefix][]int{}
	var order []netip.Prefix
	for t := range f.To {
		if len(f.To[t].From) == 0 {
			rest = append(rest, t)
		}
		for _, p := range f.To[t].From {
			p = plainPrefix(p)
			if meant[p] == nil {
				order = append(order, p)
			}
			if !slices.Contains(meant[p], t) {
				meant[p] = append(meant[p], t)
			}
		}
	}
	for _, p := range f.Policy.Deny {
		if p = plainPrefix(p); !slices.ContainsFunc(list, func(c class) bool { return c.from == p }) {
			list = append(list, class{from: p})
		}
	}
	slices.SortStableFunc(order, func(a, b netip.Prefix) int { return b.Bits() - a.Bits() })
	for _, p := range order {
		list = append(list, class{from: p, targets: undrained(meant[p])})
	}
	return append(list, class{targets: undrained(rest)})
}

// plainPrefix is p without bits behind its length, and of IPv4 when it maps
// IPv4 into IPv6 (RFC 4291, section 2.5.5.2).
func plainPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// A turn is ports one after the other that are led to a target's in one way.
type turn struct {
	ports fairlead.Ports
	first uint16 // what the first of them becomes
	how   how
}

// A how is how the ports of a turn become the target's.
type how uint8

const (
	kept     how = iota // the same numbers
	shifted             // one after the other from the first on
	gathered            // all the first
)

// turnsOf are the ports of a forward in pieces for one target, the longest that
// there are.
func turnsOf(at fairlead.PortList, t *fairlead.Target) (list []turn) {
	n := 0
	for _, r := range at {
		for i := 0; i < r.Len(); i++ {
			p, to := r.First+uint16(i), t.Port(at, n)
			n++
			if k := len(list) - 1; k >= 0 && i > 0 {
				last := &list[k]
				same := to == last.first
				next := int(to)-int(last.first) == int(p)-int(last.ports.First)
				if same && last.how != kept && (last.ports.Len() == 1 || last.how == gathered) {
					last.how = gathered
					last.ports.Last = p
					continue
				}
				if next && last.how != gathered {
					last.ports.Last = p
					continue
				}
			}
			h := shifted
			if to == p {
				h = kept
			}
			list = append(list, turn{fairlead.Ports{First: p, Last: p}, to, h})
		}
	}
	return list
}
