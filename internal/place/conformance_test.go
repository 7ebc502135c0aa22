package place

import (
	"testing"

	"fairlead"
	"fairlead/internal/lab"
)

func TestConformance(t *testing.T) {
	lab.TestPlace(t, lab.Ground{
		Start: func(t *testing.T) fairlead.Place {
			h := New(Config{})
			t.Cleanup(h.Close)
			return h
		},
		Dials:   []string{"tcp", "udp", "unix"},
		Listens: []string{"tcp", "unix"},
	})
}
