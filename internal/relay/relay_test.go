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
	lab.TestCarrier(t, lab.Carrier(func(t *testing.T) fairlead.Carrier {
		return newRelay(t, relay.Config{})
	}))
}
