package packetfilter

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/sys/netmon"
)

var update = flag.Bool("update", false, "write the golden files")

func testWorld() *World {
	addrs := func(list ...string) (as []netip.Addr) {
		for _, s := range list {
			as = append(as, netip.MustParseAddr(s))
		}
		return as
	}
	return &World{
		WAN: []string{"em0"}, LAN: []string{"em1"},
		Interfaces: []netmon.Interface{
			{Name: "lo0", Index: 3, Loopback: true, Addrs: addrs("127.0.0.1", "::1")},
			{Name: "em0", Index: 1, Addrs: addrs("203.0.113.1", "2001:db8:1::1", "fe80::1%em0")},
			{Name: "em1", Index: 2, Addrs: addrs("192.168.1.1", "2001:db8:2::1", "fe80::2%em1")},
		},
		Resolved: map[string][]netip.Addr{
			"both.test": addrs("192.168.1.10", "2001:db8:2::10"),
			"four.test": addrs("192.168.1.10"),
		},
	}
}

// testForwards are those of testdata/forwards.conf.
func testForwards(t testing.TB) []*fairlead.Forward {
	t.Helper()
	file, problems := config.Load("testdata/forwards.conf")
	for _, p := range problems {
		if !p.Warning {
			t.Fatal(p)
		}
	}
	return file.Forwards
}

// TestThirtyForwards compares the rules of thirty forwards, and the refusals, with
// those that were looked at, and has each rule accepted by the grammar.
func TestThirtyForwards(t *testing.T) {
	want := testForwards(t)
	if len(want) != 30 {
		t.Fatalf("%d forwards", len(want))
	}
	for _, d := range Dialects {
		t.Run(string(d), func(t *testing.T) {
			plan := Compile(d, want, testWorld())
			var b strings.Builder
			b.WriteString(plan.Text())
			for i := range plan.Parts {
				if p := plan.Parts[i].Problem; p != nil {
					b.WriteString("# " + want[i].Name + ": " + string(p.Code) + " " + p.What + "\n")
				}
			}
			golden := filepath.Join("testdata", string(d)+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			was, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(was) {
				t.Errorf("not as in %s (-update writes it):\n%s", golden, b.String())
			}
			if err := accepts(d, plan.Text()); err != nil {
				t.Error(err)
			}
		})
	}
}
