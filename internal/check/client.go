package check

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// A host is this host's interfaces.
type host struct {
	list     []netmon.Interface
	wan, lan []string
}

func (h *host) named(name string) *netmon.Interface {
	for i := range h.list {
		if h.list[i].Name == name {
			return &h.list[i]
		}
	}
	return nil
}

// owner is the interface that has the address, nil when none has.
func (h *host) owner(a netip.Addr) *netmon.Interface {
	for i := range h.list {
		if slices.Contains(h.list[i].Addrs, a) {
			return &h.list[i]
		}
	}
	return nil
}

// near is the interface on whose link hosts have such addresses, nil when there
// is none.
func (h *host) near(a netip.Addr) *netmon.Interface {
	for i := range h.list {
		if !h.list[i].Loopback && slices.ContainsFunc(h.list[i].Nets, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return &h.list[i]
		}
	}
	return nil
}

// mine reports whether a is an address of this host.
func (h *host) mine(a netip.Addr) bool { return a.IsLoopback() || h.owner(a) != nil }

// interfaces are those that a spot names.
func (h *host) interfaces(at *fairlead.Spot) []string {
	switch at.Where {
	case "wan":
		return h.wan
	case "lan":
		return h.lan
	}
	return []string{at.Where}
}

// An entrance is where a client's packets come in, and what they ask for.
type entrance struct {
	at   netip.Addr
	link string // "": from this host itself
}

// spot is where clients of the forward's spot come in, of the family wanted (4,
// 6, or 0 for either). A problem says why nobody can.
func (h *host) spot(f *fairlead.Forward, family int, client netip.Addr) (entrance, *fairlead.Problem) {
	at := &f.At
	fits := func(a netip.Addr) bool {
		return !a.IsLinkLocalUnicast() && (family == 0 || (family == 4) == a.Is4())
	}
	of := func(i *netmon.Interface) (entrance, bool) {
		for _, a := range i.Addrs {
			if fits(a) {
				return entrance{a, i.Name}, true
			}
		}
		return entrance{}, false
	}
	switch {
	case at.Loopback():
		a := at.Addr
		if !a.IsValid() {
			a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			if family == 6 {
				a = netip.IPv6Loopback()
			}
		}
		return entrance{at: a}, nil
	case at.Where != "":
		names := h.interfaces(at)
		if len(names) == 0 {
			return entrance{}, fairlead.Problemf(fairlead.CodeNoInterface, "this machine has no %s interface", at.Where)
		}
		for _, name := range names {
			i := h.named(name)
			if i == nil {
				return entrance{}, fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q on this machine", name)
			}
			if e, ok := of(i); ok {
				return e, nil
			}
		}
		return entrance{}, fairlead.Problemf(fairlead.CodeNoInterface, "%s has no address%s at the moment", names[0], ofFamily(family)).
			Fix("see what it has", "ip address show dev "+names[0])
	case at.Addr.IsValid() && !at.Addr.IsUnspecified():
		if i := h.owner(at.Addr); i != nil {
			return entrance{at.Addr, i.Name}, nil
		}
		if i := h.near(at.Addr); i != nil {
			return entrance{at.Addr, i.Name}, nil
		}
		if len(h.wan) > 0 {
			return entrance{at.Addr, h.wan[0]}, nil
		}
		return entrance{at: at.Addr}, nil
	}
	// Every address: where the client would come, else outside, else anywhere.
	if client.IsValid() {
		if i := h.near(client); i != nil {
			if e, ok := of(i); ok {
				return e, nil
			}
		}
	}
	for _, name := range append(slices.Clone(h.wan), h.lan...) {
		if i := h.named(name); i != nil {
			if e, ok := of(i); ok {
				return e, nil
			}
		}
	}
	for i := range h.list {
		if !h.list[i].Loopback {
			if e, ok := of(&h.list[i]); ok {
				return e, nil
			}
		}
	}
	if family == 6 {
		return entrance{at: netip.IPv6Loopback()}, nil
	}
	return entrance{at: netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
}

func ofFamily(family int) string {
	if family == 0 {
		return ""
	}
	return fmt.Sprintf(" of IPv%d", family)
}

// comesBy is the interface by which packets of the client come in that ask for
// what e says: its own link's, or e's.
func (h *host) comesBy(client netip.Addr, e entrance) string {
	if h.mine(client) {
		return ""
	}
	if i := h.near(client); i != nil {
		return i.Name
	}
	return e.link
}

// strangers are networks for documentation (RFC 5737, RFC 3849): nobody there
// is disturbed by a packet in his name.
var strangers = []netip.Addr{
	netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("203.0.113.2"),
	netip.MustParseAddr("2001:db8:ffff:ffff::2"),
}

// stranger is a client that the forward is meant for and that comes by the
// entrance's interface: one from far away where that can be, else a neighbour
// on that link with an address that nobody there has been heard with.
func (h *host) stranger(f *fairlead.Forward, e entrance) netip.Addr {
	if e.link == "" {
		return e.at
	}
	meant := func(a netip.Addr) bool {
		return a.Is4() == e.at.Is4() && !h.mine(a) && allowed(f, a)
	}
	far := func(a netip.Addr) bool {
		if h.near(a) != nil {
			return false
		}
		route, err := netmon.RouteOf(netip.Addr{}, a, "")
		return err == nil && route.Interface == e.link && !route.Local
	}
	for _, a := range strangers {
		if meant(a) && far(a) {
			return a
		}
	}
	// Those for whom the sentence has a target of their own.
	for i := range f.To {
		for _, p := range f.To[i].From {
			for a, n := p.Masked().Addr(), 0; n < 4 && p.Contains(a); a, n = a.Next(), n+1 {
				if n == 0 && !p.IsSingleIP() {
					continue // the network's own
				}
				if meant(a) && (far(a) || h.near(a) != nil) {
					return a
				}
			}
		}
	}
	if i := h.named(e.link); i != nil {
		for _, p := range i.Nets {
			if p.Addr().Is4() != e.at.Is4() || p.Addr().IsLinkLocalUnicast() || p.IsSingleIP() {
				continue
			}
			a := last(p)
			for n := 0; n < 32 && p.Contains(a); a, n = a.Prev(), n+1 {
				state, err := netmon.NeighbourOf(e.link, a)
				if meant(a) && !targeted(f, a) && (err != nil || state == netmon.Unheard) {
					return a
				}
			}
		}
	}
	for _, a := range strangers { // as good as any
		if meant(a) {
			return a
		}
	}
	return netip.Addr{}
}

// last is the last address of p that a host may have.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Prev() // the last of all is the broadcast address in IPv4
}

// allowed reports whether the sentence means such clients.
func allowed(f *fairlead.Forward, a netip.Addr) bool {
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	if in(f.Policy.Deny) || len(f.Policy.Allow) > 0 && !in(f.Policy.Allow) {
		return false
	}
	return len(f.To) == 0 || len(meantFor(f, a)) > 0
}

// meantFor are the targets for a client: those of the longest prefix that
// contains it, else those that are for everybody.
func meantFor(f *fairlead.Forward, a netip.Addr) []*fairlead.Target {
	best := -1
	var list []*fairlead.Target
	for i := range f.To {
		t := &f.To[i]
		bits := -1
		for _, p := range t.From {
			if p.Contains(a) {
				bits = max(bits, p.Bits())
			}
		}
		switch {
		case len(t.From) > 0 && bits < 0:
		case bits > best:
			list, best = []*fairlead.Target{t}, bits
		case bits == best:
			list = append(list, t)
		}
	}
	return list
}

// targeted reports whether a is a target's address.
func targeted(f *fairlead.Forward, a netip.Addr) bool {
	return slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Host == a.String() })
}

// family is that of the forward's literal addresses, 0 where it has none.
func family(f *fairlead.Forward, client netip.Addr) int {
	of := func(a netip.Addr) int {
		switch {
		case !a.IsValid():
			return 0
		case a.Unmap().Is4():
			return 4
		}
		return 6
	}
	if n := of(client); n != 0 {
		return n
	}
	if a := f.At.Addr; a.IsValid() && !a.IsUnspecified() {
		return of(a)
	}
	for i := range f.To {
		if a, err := netip.ParseAddr(f.To[i].Host); err == nil {
			return of(a)
		}
	}
	return 0
}

var errNoClient = errors.New("no client's address can be made up for this forward")
