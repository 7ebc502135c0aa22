package kernel

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/config"
)

var update = flag.Bool("update", false, "write the golden files")

// testWorld is a gateway with one WAN and one LAN.
func testWorld() *world {
	prefixes := func(list ...string) (ps []netip.Prefix) {
		for _, s := range list {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	return &world{
		table: "fairlead", wan: []string{"wan0"}, lan: []string{"lan0"},
		addrs: map[string][]netip.Prefix{
			"lo":   prefixes("127.0.0.1/8", "::1/128"),
			"wan0": prefixes("203.0.113.1/24", "2001:db8:1::1/64", "fe80::1/64"),
			"lan0": prefixes("192.168.1.1/24", "2001:db8:2::1/64", "fe80::2/64"),
		},
		resolved: map[string][]netip.Addr{
			"both.test": {netip.MustParseAddr("192.168.1.10"), netip.MustParseAddr("2001:db8:2::10")},
			"six.test":  {netip.MustParseAddr("2001:db8:2::10")},
		},
		now: time.Unix(1e9, 0),
	}
}

// sentence is one as a forward, named.
func sentence(t testing.TB, name, text string) *fairlead.Forward {
	t.Helper()
	f, problems := config.ParseSentence(text)
	if len(problems) > 0 {
		t.Fatalf("%s: %v", text, problems[0])
	}
	f.Name = name
	f.Owner.Kind = fairlead.OwnerFile
	if f.Policy.For > 0 {
		f.Expires = testWorld().now.Add(f.Policy.For)
	}
	if p := fits(f); p != nil {
		t.Fatalf("%s: %v", text, p)
	}
	return f
}

// TestTables compares the tables of some wishes with those that were looked
// through and loaded.
func TestTables(t *testing.T) {
	for name, lines := range map[string][]string{
		"empty": nil,
		"plain": {
			"web: nat wan:80,443 to 192.168.1.10",
			"game: nat wan:25565/tcp+udp to both.test",
			"ftp: nat 10.0.0.3:2121 to 10.0.0.4:21",
			"all: nat :5353/udp to [2001:db8:2::10]:53",
			"tmp: nat wan:2222 to 192.168.1.10:22 for 1h",
		},
		"ranges": {
			"same: nat wan:9000-9010/tcp+udp to 192.168.1.11",
			"shift: nat wan:19000-19002 to 192.168.1.10:9000-9002",
			"one: nat wan:7000-7001 to 192.168.1.10:7000",
		},
		"self": {
			"web: nat wan:80/tcp+udp to self:8080",
			"mine: nat 81 to self:8081",
			"shift: nat :1000-1001 to self:2000-2001",
		},
		"clients": {
			"split: nat wan:8080 to 192.168.1.30 from 198.51.100.0/24 from 2001:db8:7::/48, both.test deny 198.51.100.7",
			"few: nat wan:8081 to 192.168.1.30:80 from 198.51.100.0/24",
			"many: nat wan:8082 to both.test:80 weight 3, 192.168.1.31:81 policy round-robin",
			"hash: nat :8083-8085/udp to 192.168.1.30, 192.168.1.31 policy source-hash",
		},
		"limits": {
			"web: nat wan:80 to both.test max-conns 100 max-conns-per-source 5 rate 20/s rate-per-source 2/s log",
		},
		"source": {
			"arm: nat 10.0.0.3:80 to 10.0.0.4:8080 masquerade",
			"kept: nat wan:81 to both.test:80 source keep",
			"as: nat wan:82-84 to 192.168.1.10 source 192.168.1.2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var want []*fairlead.Forward
			for _, line := range lines {
				name, text, _ := strings.Cut(line, ": ")
				want = append(want, sentence(t, name, text))
			}
			p := compile(want, testWorld())
			got := p.table.Text() + "\n"
			for i := range p.parts {
				pt := &p.parts[i]
				got += fmt.Sprintf("# %s: bound %s, targets %v", pt.f.Name, strings.Join(pt.bound, " "), pt.targets)
				if pt.problem != nil {
					got += fmt.Sprintf(", %s %s", pt.problem.Code, pt.problem.What)
				}
				got += "\n"
			}
			file := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(golden) {
				t.Errorf("the table differs from %s (go test -update writes it):\n%s", file, got)
			}
		})
	}
}
