package engine

import (
	"net/netip"
	"path"

	"fairlead"
)

// claimsSpot reports whether a forward of that kind takes its spot away from
// others. A pinhole and a trigger only let traffic pass or watch it.
func claimsSpot(k fairlead.Kind) bool {
	return k != fairlead.KindOpen && k != fairlead.KindTrigger
}

// overlaps reports whether two spots share an address, a port and a protocol.
// What a name (an interface, a place) stands for is not known here: it equals
// itself only.
func overlaps(a, b *fairlead.Spot) bool {
	if a.Unix != "" || b.Unix != "" {
		return a.Unix != "" && b.Unix != "" && path.Clean(a.Unix) == path.Clean(b.Unix)
	}
	return a.Net&b.Net != 0 && portsMeet(a.Ports, b.Ports) && hostsMeet(a, b)
}

func portsMeet(a, b fairlead.PortList) bool {
	for _, x := range a {
		for _, y := range b {
			if x.First <= y.Last && y.First <= x.Last {
				return true
			}
		}
	}
	return false
}

func hostsMeet(a, b *fairlead.Spot) bool {
	if a.Where != "" || b.Where != "" {
		return a.Where == b.Where && a.Group == b.Group
	}
	for _, x := range addresses(a) {
		if within(x, b) {
			return true
		}
	}
	for _, y := range addresses(b) {
		if within(y, a) {
			return true
		}
	}
	return false
}

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// addresses are those that the spot names; an unspecified one means all.
func addresses(s *fairlead.Spot) []netip.Addr {
	switch {
	case s.Any:
		return []netip.Addr{netip.IPv6Unspecified()}
	case s.Addr.IsValid():
		return []netip.Addr{s.Addr.Unmap()}
	}
	return []netip.Addr{loopback4, loopback6}
}

// within reports whether s covers the address.
func within(a netip.Addr, s *fairlead.Spot) bool {
	for _, b := range addresses(s) {
		switch {
		case a == b, b == netip.IPv6Unspecified(), b == netip.IPv4Unspecified() && a.Is4():
			return true
		}
	}
	return false
}

// holders are the wishes that hold their spots, found by port.
type holders struct {
	all    []*wish
	narrow map[uint16][]*wish
	wide   []*wish // those of many ports, which narrow would repeat too often
	unix   map[string]*wish
}

const manyPorts = 64

func newHolders() *holders {
	return &holders{narrow: map[uint16][]*wish{}, unix: map[string]*wish{}}
}

// claim gives w its spot, or returns who holds some of it.
func (h *holders) claim(w *wish) *wish {
	if !claimsSpot(w.given.Kind) {
		return nil
	}
	at := &w.given.At
	if at.Unix != "" {
		p := path.Clean(at.Unix)
		if other := h.unix[p]; other != nil {
			return other
		}
		h.unix[p] = w
		return nil
	}
	if at.Ports.Len() > manyPorts {
		if other := among(h.all, w); other != nil {
			return other
		}
		h.all, h.wide = append(h.all, w), append(h.wide, w)
		return nil
	}
	for i := range at.Ports.Len() {
		if other := among(h.narrow[at.Ports.At(i)], w); other != nil {
			return other
		}
	}
	if other := among(h.wide, w); other != nil {
		return other
	}
	h.all = append(h.all, w)
	for i := range at.Ports.Len() {
		port := at.Ports.At(i)
		h.narrow[port] = append(h.narrow[port], w)
	}
	return nil
}

// among is who holds some of w's spot. A helper hears what was sent to all, and
// others what was sent to this host: neither takes it from the other.
func among(list []*wish, w *wish) *wish {
	for _, other := range list {
		if (other.given.Kind == fairlead.KindHelper) == (w.given.Kind == fairlead.KindHelper) && overlaps(&other.given.At, &w.given.At) {
			return other
		}
	}
	return nil
}

// overlap says that winner holds what f wants.
func overlap(f, winner *fairlead.Forward) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeOverlap, "%s overlaps %s of %q", f.At.String(), winner.At.String(), winner.Name)
	if winner.Source != (fairlead.Pos{}) {
		p.Note("by", "%q, %s", winner.Name, winner.Source)
	} else {
		p.Note("by", "%q, wished by %s", winner.Name, winner.Owner)
	}
	return p.Note("note", "%q begins by itself when %q is gone", f.Name, winner.Name)
}
