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
	if f.Life() > 0 {
		f.Expires = testWorld().now.Add(f.Life())
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

// TestWhatCannotBeCarriedSaysWhy has forwards that fit, and cannot be carried in
// this world, or only half.
func TestWhatCannotBeCarriedSaysWhy(t *testing.T) {
	for _, c := range []struct {
		text, says string // "FL-211 warning …"; "" for carried
	}{
		{"nat wan:80 to both.test", ""},
		{"nat wan:80 to six.test", "FL-211 warning"},
		{"nat wan:80 to 192.168.1.10", ""},
		{"forward wan:80 to 192.168.1.10 by auto", "FL-211 warning"},
		{"forward :80 to 192.168.1.10, [2001:db8:2::10] by auto policy random", "FL-607 warning"},
		{"forward :80 to self:8080 by auto", ""},
		{"nat 203.0.113.1:80 to six.test", "FL-211"},
		{"nat 203.0.113.1:80 to 192.168.1.10", ""},
		{"nat wan:80 to nobody.test", "FL-210"},
		{"nat wan:80 to nobody.test, both.test policy random", "FL-210 warning"},
		{"nat wan:80 to nobody.test from 10.0.0.0/8, both.test", "FL-210 warning"},
		{"nat wan:80 to nobody.test, noone.test policy random", "FL-210"},
		{"nat wan7:80 to both.test", "FL-106"},
		{"nat wan:1000-2500 to both.test:2000-3500 from 10.0.0.0/8", "FL-107"},
		{"nat wan:1000-2000 to both.test:2000-3000 from 10.0.0.0/8", ""},
		{"nat 80 to self:8080", ""},
	} {
		f := sentence(t, "x", c.text)
		p := compile([]*fairlead.Forward{f}, testWorld())
		got := ""
		if problem := p.parts[0].problem; problem != nil {
			got = string(problem.Code)
			if problem.Warning {
				got += " warning"
			} else if len(p.table.Sets) > 0 {
				t.Errorf("%s is not carried, and leaves sets behind: %s", c.text, p.table.Text())
			}
		}
		if got != c.says {
			t.Errorf("%s: %q (%v), want %q", c.text, got, p.parts[0].problem, c.says)
		}
	}
}

// Two forwards at one spot: the first is carried, the second says whose it is.
// What only comes around yields to a forward at that very address.
func TestSpotsBelongToOneForward(t *testing.T) {
	compiled := func(lines ...string) []part {
		var want []*fairlead.Forward
		for i, line := range lines {
			want = append(want, sentence(t, fmt.Sprintf("f%d", i), line))
		}
		p := compile(want, testWorld())
		seen := map[string]bool{}
		for _, s := range p.table.Sets {
			for _, e := range s.Elements {
				key := fmt.Sprint(s.Name, e.Key)
				if seen[key] {
					t.Errorf("%v: the element %v is twice in %s", lines, e.Key, s.Name)
				}
				seen[key] = true
			}
		}
		return p.parts
	}
	for _, c := range []struct {
		lines []string
		clash bool
	}{
		{[]string{"nat wan:80 to both.test", "nat wan:80 to self:81"}, true},
		{[]string{"nat wan:80 to both.test", "nat wan:80/udp to both.test"}, false},
		{[]string{"nat wan:80-90 to both.test", "nat wan0:85 to both.test"}, true},
		{[]string{"nat :80-90/tcp+udp to both.test", "nat :90-99/udp to both.test"}, true},
		{[]string{"nat wan:80 to both.test", "nat 203.0.113.1:80 to 192.168.1.11"}, false},
		{[]string{"nat 203.0.113.1:80 to 192.168.1.11", "nat wan:80 to both.test", "nat :80 to both.test", "nat lan:80 to both.test"}, false},
		{[]string{"nat wan:80 to both.test masquerade", "nat lan:80 to both.test masquerade"}, false},
		{[]string{"nat wan:80 to both.test masquerade", "nat lan:80 to both.test source keep"}, true},
	} {
		parts := compiled(c.lines...)
		last := parts[len(parts)-1].problem
		if clash := last != nil && !last.Warning; clash != c.clash {
			t.Errorf("%v: %v, want a clash: %t", c.lines, last, c.clash)
		}
	}
}

func TestNamesOfChainsAreNobodyElses(t *testing.T) {
	c := &compiler{names: map[string]bool{}}
	long := strings.Repeat("n", 60)
	for _, f := range []*fairlead.Forward{
		{Name: "web"}, {Name: "web.1"}, {Name: "web-1"}, {Name: long + "a"}, {Name: long + "b"}, {Name: "web"}, {Name: "web"},
		{Name: "web", Owner: fairlead.Owner{Kind: fairlead.OwnerAPI}}, {Name: "naïve name"}, {Name: ""}, {Name: "n_" + strings.Repeat("m", 17)},
	} {
		n := len(c.names)
		base := c.baseName(f)
		if len(c.names) != n+1 {
			t.Errorf("%q is called as another: %s", f.Name, base)
		}
		if len(base+"/1023/from6") > 32 || !isIdentifier(base) {
			t.Errorf("%q is called %q", f.Name, base)
		}
	}
	if p := logPrefix(&fairlead.Forward{Name: "x\"\n\x1b" + long + long}); len(p) > 127 || strings.ContainsAny(p, "\"\n\x1b") {
		t.Errorf("%q is no prefix of a log line", p)
	}
}

func TestElementsThatCountAreKnownAgain(t *testing.T) {
	want := []*fairlead.Forward{
		sentence(t, "a", "nat wan:80/tcp+udp to both.test"),
		sentence(t, "b", "nat :80-81 to self:90-91"),
	}
	p := compile(want, testWorld())
	counted := map[int]int{}
	for _, s := range p.table.Sets {
		if !s.Counted {
			continue
		}
		for _, e := range s.Elements {
			i, ok := p.account(s.Name, e)
			if !ok || e.Comment != want[i].Name {
				t.Errorf("the element %v of %s counts for %d, %t, and is called %s", e.Key, s.Name, i, ok, e.Comment)
			}
			counted[i]++
		}
	}
	// Two addresses and two protocols, three tallies; and four for any address.
	if counted[0] != 2*2*3 || counted[1] != 4 {
		t.Errorf("counted: %v", counted)
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		want := make([]*fairlead.Forward, n)
		for i := range want {
			want[i] = sentence(b, fmt.Sprintf("f%d", i), fmt.Sprintf("nat wan:%d to 192.168.%d.%d:80", 1+i, i/200, 1+i%200))
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := testWorld()
			for b.Loop() {
				compile(want, w)
			}
		})
	}
}

func TestAForwardThatHidesAProgramSaysSo(t *testing.T) {
	w := testWorld()
	w.held = []Listener{
		{Net: fairlead.TCP, At: netip.MustParseAddrPort("0.0.0.0:22"), Program: "sshd"},
		{Net: fairlead.TCP, At: netip.MustParseAddrPort("127.0.0.1:25"), Program: "exim4"},
	}
	for sentence, hides := range map[string]bool{
		"nat wan:22 to 192.168.1.10":           true,
		"nat :20-30 to 192.168.1.10":           true,
		"nat wan:22/udp to 192.168.1.10":       false,
		"nat wan:25 to 192.168.1.10":           false,
		"nat 198.51.100.99:22 to 192.168.1.10": false, // no address of this host
		"nat wan:2222 to self:22":              false,
		"nat 22 to self:2222":                  false, // loopback's clients know
	} {
		p := compile([]*fairlead.Forward{wish(t, "f", sentence)}, w).parts[0].problem
		if got := p != nil && p.Code == fairlead.CodeHides; got != hides {
			t.Errorf("%s: %v", sentence, p)
		}
	}
}
