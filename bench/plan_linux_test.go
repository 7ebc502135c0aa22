package main

import (
	"slices"
	"strings"
	"testing"
)

func TestWorksAreChosenByFlags(t *testing.T) {
	cells := func(args ...string) (names []string, all []cell) {
		t.Helper()
		o, err := options(args)
		if err != nil {
			t.Fatal(err)
		}
		all = plan(o).all()
		for _, c := range all {
			names = append(names, c.name)
		}
		return names, all
	}
	for _, c := range []struct {
		args string
		want []string
	}{
		{"-works conn", []string{"conn"}},
		{"-works bulk -quick", []string{"bulk-8", "bulk-64"}},
		{"-works idle,congestion", []string{"idle", "bulk-8-bbr"}},
		{"-works kernel", []string{"nat-bulk-8", "nat-rr-1-64", "nat-rr-256-64", "nat-conn", "nat-udp-1-64", "apply"}},
		{"-works kernel -quick", []string{"nat-bulk-8", "nat-rr-256-64", "nat-conn", "apply"}},
		{"-works forwards -quick", []string{"bulk-8", "rr-256-64", "conn", "udp-1-64", "loaded"}},
	} {
		if got, _ := cells(strings.Fields(c.args)...); !slices.Equal(got, c.want) {
			t.Errorf("%s measures %v, want %v", c.args, got, c.want)
		}
	}
	_, all := cells("-works", "forwards", "-peers", "nginx")
	if got, want := all[0].targets, []string{"direct", "fairlead", "fairlead/10000"}; !slices.Equal(got, want) {
		t.Errorf("growth is measured with %v, want %v", got, want)
	}
	for _, bad := range []string{"-works fly", "-peers apache", "-rounds 0", "-time 1ms", "stray"} {
		if _, err := options(strings.Fields(bad)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

// Every aim has a cell in a whole run; without that it would never be judged.
func TestEveryAimIsMeasured(t *testing.T) {
	o, err := options(nil)
	if err != nil {
		t.Fatal(err)
	}
	cells := map[string]cell{}
	for _, c := range plan(o).all() {
		cells[c.name] = c
	}
	for _, a := range aims {
		for _, name := range a.cells {
			c, ok := cells[name]
			if !ok {
				t.Errorf("no cell %q for %s", name, a.says)
				continue
			}
			if visited(c, a.who) == "" {
				t.Errorf("%s does not visit %q", name, a.who)
			}
			for _, other := range a.of {
				if visited(c, other) == "" && other != "haproxy" && other != "haproxy-tuned" {
					t.Errorf("%s does not visit %q", name, other)
				}
			}
		}
	}
}

func TestTargetsGoByTheirNames(t *testing.T) {
	for _, c := range []struct {
		target, name string
		want         bool
	}{
		{"nat/10", "nat/10", true},
		{"nat/10/udp", "nat/10", true},
		{"nat/10/udp", "nat", true},
		{"nat/1000", "nat/10", false},
		{"nat/10", "nat/1000", false},
		{"fairlead", "fairlead", true},
		{"fairlead", "nat", false},
	} {
		if got := goesBy(c.target, c.name); got != c.want {
			t.Errorf("%s goes by %s: %t", c.target, c.name, got)
		}
	}
	if n := sizeOf("nat/10000/udp"); n != 10000 {
		t.Errorf("nat/10000/udp has %d forwards", n)
	}
}
