package relay_test

import (
	"net/netip"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/place"
	"fairlead/internal/relay"
)

// newRelay is a relay that dials from this host.
func newRelay(t testing.TB, cfg relay.Config) *relay.Relay {
	t.Helper()
	if cfg.Place == nil {
		here := place.New(place.Config{})
		t.Cleanup(here.Close)
		cfg.Place = func(string) (fairlead.Place, error) { return here, nil }
	}
	r := relay.New(cfg)
	t.Cleanup(r.Close)
	return r
}

func parseAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestConformance(t *testing.T) {
	for name, goroutines := range map[string]bool{"loops": false, "goroutines": true} {
		t.Run(name, func(t *testing.T) {
			lab.TestCarrier(t, lab.Carrier(func(t *testing.T) fairlead.Carrier {
				return newRelay(t, relay.Config{Goroutines: goroutines})
			}))
		})
	}
}

// wish is a forward of network from a free loopback port to target.
func wish(t testing.TB, name string, network fairlead.Network, target string, change ...func(*fairlead.Forward)) *fairlead.Forward {
	t.Helper()
	entry := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 1)
	f := &fairlead.Forward{
		Name: name, Kind: fairlead.KindForward,
		At: fairlead.Spot{Addr: entry.Addr(), Ports: fairlead.PortList{{First: entry.Port(), Last: entry.Port()}}, Net: network},
	}
	if to, err := netip.ParseAddrPort(target); err == nil {
		f.To = []fairlead.Target{{Host: to.Addr().String(), Ports: fairlead.PortList{{First: to.Port(), Last: to.Port()}}}}
	} else {
		f.To = []fairlead.Target{{Unix: target}}
	}
	for _, c := range change {
		c(f)
	}
	f.Expr = "forward " + f.At.String() + " to " + f.To[0].Dest()
	return f
}

func entryOf(f *fairlead.Forward) string {
	return netip.AddrPortFrom(f.At.Addr, f.At.Ports[0].First).String()
}
