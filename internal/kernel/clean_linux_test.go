package kernel

import (
	"testing"

	"fairlead/internal/lab"
)

// Services of several network namespaces may share a directory.
func TestCleanLeavesWhatWasChangedInAnotherNetwork(t *testing.T) {
	n := lab.NewNet(t)
	here, there := n.Host("here"), n.Host("there")
	state := t.TempDir()
	for _, h := range []*lab.Host{here, there} {
		if err := h.Do(func() error {
			u, err := openUndos(state, TableOf(h.Name))
			if err != nil {
				return err
			}
			h.Addr("lo", "10.0.0.3/32")
			return u.note(Undo{Address: "10.0.0.3/32", Interface: "lo"})
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range []*lab.Host{here, there} {
		if err := h.Do(func() error {
			c, err := Clean(t.Context(), state, false)
			if err == nil && (len(c.PutBack) != 1 || len(c.Left) > 0 || len(c.Elsewhere) != 1-i) {
				t.Errorf("on %s: %+v", h.Name, c)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}
