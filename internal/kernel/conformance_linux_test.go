package kernel

import (
	"net/netip"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
)

// The carrier stands on a gateway between clients outside and a target in the
// LAN; what it does is asked of every carrier.
func TestConformance(t *testing.T) {
	lab.NeedRoot(t)
	g := lab.NewGateway(t)
	g.Outside.Addr("eth0", "203.0.113.10/24", "203.0.113.11/24")
	g.Gateway.Addr("wan0", "203.0.113.2/24", "203.0.113.3/24")
	addrs := func(texts ...string) (list []netip.Addr) {
		for _, s := range texts {
			list = append(list, netip.MustParseAddr(s))
		}
		return list
	}
	s := lab.Carrier(func(t *testing.T) fairlead.Carrier {
		return New(Config{Table: "fairlead", In: g.Gateway.Do, Sides: func() (wan, lan []string, err error) {
			return []string{"wan0"}, []string{"lan0"}, nil
		}})
	})
	s.Kind, s.Kernel, s.NoUnix = fairlead.KindNAT, true, true
	s.Stage = lab.Stage{
		Client: g.Outside, Clients: addrs(lab.Outside4, "203.0.113.10", "203.0.113.11"),
		Entry: g.Gateway, Entries: addrs(lab.WAN4, "203.0.113.2", "203.0.113.3"),
		Target: g.Inside, At: netip.MustParseAddr(lab.Inside4),
	}
	const headers = "the kernel counts packets with their headers, and a connection's bytes only where nf_conntrack_acct is on"
	s.Lacks = map[string]string{
		"conns":    headers + "; the tests of kill look at the list",
		"meter":    headers,
		"udp-idle": "sessions are connection tracking's, and idle is refused",
	}
	lab.TestCarrier(t, s)
}
