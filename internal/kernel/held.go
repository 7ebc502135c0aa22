package kernel

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/holder"
	"fairlead/internal/sys/nft"
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

// guarded are the interfaces that a guard of ours stands before, by the last
// plan or, at first, by what an earlier life left. The lock is held. What
// cannot be read is found out when the table is loaded.
func (k *Kernel) guarded() (names []string) {
	if !guards(k.want) {
		return nil
	}
	var set *nft.Set
	if k.plan != nil {
		for i := range k.plan.table.Sets {
			if s := &k.plan.table.Sets[i]; s.Name == setOutside {
				set = s
			}
		}
	} else if conn, err := k.open(); err == nil {
		k.inside(func() error {
			set, err = conn.ReadSet(nft.Inet, k.cfg.Table, setOutside)
			return err
		})
	}
	if set == nil {
		return nil
	}
	for _, e := range set.Elements {
		names = append(names, strings.TrimRight(string(e.Key[0].First), "\x00"))
	}
	slices.Sort(names)
	return names
}

// guards reports whether one of want keeps others from reaching this host.
func guards(want []*fairlead.Forward) bool {
	return slices.ContainsFunc(want, func(f *fairlead.Forward) bool {
		return f.Kind == fairlead.KindShare && !f.Policy.Unguarded
	})
}
