package kernel

import (
	"cmp"

	"fairlead"
)

// hides reports whether want has forwards that stand before what programs on
// this host listen at.
func hides(want []*fairlead.Forward) bool {
	for _, f := range want {
		if translates(f) && !f.At.Loopback() {
			return true
		}
	}
	return false
}

func translates(f *fairlead.Forward) bool {
	return f.Kind == fairlead.KindNAT || f.Kind == fairlead.KindForward
}

// hiding warns of forwards that take clients away from a program on this host:
// packets are led on before a socket sees them, so both may have the port, and
// nobody else would say so.
func (c *compiler) hiding() {
	for _, l := range c.w.held {
		if l.At.Addr().IsLoopback() {
			continue // nobody from elsewhere asks it
		}
		for i, f := range c.want {
			if !translates(f) || f.At.Loopback() || f.At.Net&l.Net == 0 || c.failed(i) || !has(f.At.Ports, l.At.Port()) || !c.sameSpot(&f.At, l) {
				continue
			}
			c.warn(i, fairlead.Problemf(fairlead.CodeHides, "%s on this host listens at port %d, too: who asks there from elsewhere is led away from it", cmp.Or(l.Program, "a program"), l.At.Port()).
				Fix("take another port, if it is still to be reached", ""))
		}
	}
}

func has(list fairlead.PortList, port uint16) bool {
	for _, p := range list {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return false
}

// sameSpot reports whether clients at the spot would otherwise reach l.
func (c *compiler) sameSpot(at *fairlead.Spot, l Listener) bool {
	a := at.Addr.Unmap()
	switch {
	case a.IsValid() && !a.IsUnspecified():
		return c.w.own(a) && (l.At.Addr().IsUnspecified() || l.At.Addr() == a)
	case at.Where == "" || l.At.Addr().IsUnspecified():
		return true
	}
	for _, name := range c.w.side(at.Where) {
		for _, p := range c.w.addrs[name] {
			if p.Addr().Unmap() == l.At.Addr() {
				return true
			}
		}
	}
	return false
}
