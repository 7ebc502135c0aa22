package kernel

import (
	"cmp"
	"net/netip"
	"slices"

	"fairlead"
)

// A class is clients who are led to the same targets.
type class struct {
	targets []int // of the forward, by index; none: they are refused
}

// refused is the class of clients who may not, or whom no target is meant for.
const refused = 0

// A client is who comes from a prefix, as one class.
type client struct {
	from  netip.Prefix // masked, v4 as v4
	class int
	deny  bool // whatever longer prefix there is within
}

// classify tells r's clients apart: those of the longest prefix among the
// targets' "from", the rest by the targets without one, and "deny" before all.
// Targets with the same prefix share its clients. A target that is drained gets
// none, and those who are meant for drained targets only are refused.
func (r *route) classify() *fairlead.Problem {
	r.classes = []class{{}} // refused
	class := func(targets []int) int {
		targets = slices.DeleteFunc(targets, func(t int) bool { return r.f.To[t].Drain })
		if len(targets) == 0 {
			return refused
		}
		for n := range r.classes {
			if slices.Equal(r.classes[n].targets, targets) {
				return n
			}
		}
		r.classes = append(r.classes, newClass(targets))
		return len(r.classes) - 1
	}
	var rest []int
	meant := map[netip.Prefix][]int{}
	var order []netip.Prefix
	for t := range r.f.To {
		if len(r.f.To[t].From) == 0 {
			rest = append(rest, t)
		}
		for _, p := range r.f.To[t].From {
			p = plainPrefix(p)
			if meant[p] == nil {
				order = append(order, p)
			}
			if !slices.Contains(meant[p], t) {
				meant[p] = append(meant[p], t)
			}
		}
	}
	r.rest = class(rest)
	for _, p := range order {
		r.clients = append(r.clients, client{from: p, class: class(meant[p])})
	}
	for _, p := range r.f.Policy.Deny {
		r.clients = append(r.clients, client{from: plainPrefix(p), class: refused, deny: true})
	}
	if len(r.classes) == 1 {
		return fairlead.Problemf(fairlead.CodeAllDrained, "every target is drained, so that nobody is let in")
	}
	return r.fitsClasses()
}

func newClass(targets []int) class { return class{targets: targets} }

// plainPrefix is p without bits behind its length, and of IPv4 when it maps
// IPv4 into IPv6 (RFC 4291, section 2.5.5.2).
func plainPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// A piece is clients from first to last.
type piece struct {
	first, last netip.Addr
	class       int
}

// split makes clients disjoint: the longest prefix wins whatever their order,
// but nothing wins against deny. The pieces ascend, v4 before v6, and those of
// one class that touch are one piece. Who is in none is the rest.
func split(clients []client) []piece {
	sorted := slices.Clone(clients)
	slices.SortStableFunc(sorted, func(a, b client) int {
		deny := 0
		if a.deny != b.deny {
			deny = 1
			if a.deny {
				deny = -1
			}
		}
		return cmp.Or(a.from.Addr().Compare(b.from.Addr()), cmp.Compare(a.from.Bits(), b.from.Bits()), deny)
	})
	var (
		pieces []piece
		within []client   // what contains the place where we are, the longest last
		at     netip.Addr // the first address that is in no piece yet; invalid behind the last there is
	)
	// until makes a piece of everything up to last.
	until := func(last netip.Addr, class int) {
		if !at.IsValid() || last.Less(at) {
			return
		}
		if n := len(pieces) - 1; n >= 0 && pieces[n].class == class && pieces[n].last.Next() == at {
			pieces[n].last = last
		} else {
			pieces = append(pieces, piece{at, last, class})
		}
		at = last.Next()
	}
	leave := func() {
		n := len(within) - 1
		until(lastOf(within[n].from), within[n].class)
		within = within[:n]
	}
	for _, cl := range sorted {
		for len(within) > 0 && !within[len(within)-1].from.Contains(cl.from.Addr()) {
			leave()
		}
		if n := len(within) - 1; n >= 0 {
			if within[n].deny || within[n].from == cl.from {
				continue
			}
			if before := cl.from.Addr().Prev(); before.IsValid() {
				until(before, within[n].class)
			}
		}
		at = cl.from.Addr()
		within = append(within, cl)
	}
	for len(within) > 0 {
		leave()
	}
	return pieces
}
