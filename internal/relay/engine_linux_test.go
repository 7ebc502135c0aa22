package relay_test

import (
	"strings"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

func TestTheEngineIsToldAndCanBePinned(t *testing.T) {
	lab.CheckLeaks(t)
	target := banners(t, "a")[0]
	engine := func(name string) func(*fairlead.Forward) {
		return func(f *fairlead.Forward) { f.Policy.Engine = name }
	}
	slow := func(f *fairlead.Forward) { f.Policy.Bandwidth.Up = 1 << 20 }
	for name, c := range map[string]struct {
		change []func(*fairlead.Forward)
		told   string
	}{
		"unsaid":  {nil, "event loops"},
		"auto":    {[]func(*fairlead.Forward){engine("auto")}, "event loops"},
		"loops":   {[]func(*fairlead.Forward){engine("loops")}, "event loops"},
		"pinned":  {[]func(*fairlead.Forward){engine("goroutines")}, "goroutines, as it says"},
		"limited": {[]func(*fairlead.Forward){slow}, "goroutines, because of bandwidth"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, relay.Config{})
			f := wish(t, "web", fairlead.TCP, target, c.change...)
			if err := r.Fits(f); err != nil {
				t.Fatal(err)
			}
			s := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
			if s.Engine != c.told {
				t.Errorf("told %q, want %q", s.Engine, c.told)
			}
			if got := said(t, f, "127.0.0.1"); got != "a" {
				t.Errorf("the target says %q", got)
			}
			if carried := r.OnLoops(); (carried > 0) != (c.told == "event loops") {
				t.Errorf("%d connections were on loops; told %q", carried, s.Engine)
			}
		})
	}
	f := wish(t, "web", fairlead.TCP, target, engine("loops"), slow)
	if err := newRelay(t, relay.Config{}).Fits(f); err == nil || !strings.Contains(err.Error(), "because of bandwidth") {
		t.Errorf("loops that cannot carry it: %v", err)
	}
}
