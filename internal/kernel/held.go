package kernel

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/holder"
)

// heldFor is how old the list of this host's programs may be that a guard warns
// of: to look through all processes for it takes milliseconds, and longer where
// there are many.
const heldFor = 10 * time.Second

// held is who listens on this host besides us, as it was last seen.
type held struct {
	mu   sync.Mutex // guards the rest
	list []Listener
	seen time.Time
}

// now lists them, from memory when that is fresh. It belongs into the carrier's
// network namespace. What cannot be seen is not said.
func (h *held) now() []Listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.seen.IsZero() && time.Since(h.seen) < heldFor {
		return h.list
	}
	h.list, h.seen = nil, time.Now()
	for _, net := range []fairlead.Network{fairlead.TCP, fairlead.UDP} {
		services, err := holder.Services(net.String())
		if err != nil {
			continue
		}
		for _, s := range services {
			if s.Holder.PID == os.Getpid() || net == fairlead.UDP && !serves(s.At.Port()) {
				continue
			}
			at := s.At
			if at.Addr().Is4In6() {
				at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
			}
			h.list = append(h.list, Listener{Net: net, At: at, Program: s.Holder.Name})
		}
	}
	return h.list
}

// serves reports whether a datagram socket at a port is one that others ask:
// those that ask others have ports from the usual range, and leases are answered
// at ports that the guard leaves open.
func serves(port uint16) bool {
	return port != 68 && port != 546 && (port < usual.First || port > usual.Last)
}

// Guards reports whether a share of the last Apply guards this host, so that it
// matters what [Config.Listeners] says.
func (k *Kernel) Guards() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return guards(k.want)
}

// guards reports whether one of want keeps others from reaching this host.
func guards(want []*fairlead.Forward) bool {
	return slices.ContainsFunc(want, func(f *fairlead.Forward) bool {
		return f.Kind == fairlead.KindShare && !f.Policy.Unguarded
	})
}
