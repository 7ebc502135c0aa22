package nft

import (
	"testing"
	"time"

	"fairlead/internal/lab"
)

func TestWhatIsLoadedIsReadBackEqual(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	c := opened(t, h)
	want := everyForm()
	if err := c.Replace(want); err != nil {
		t.Fatal(err)
	}
	got, err := c.Read(Inet, want.Name)
	if err != nil {
		t.Fatal(err)
	}
	compareSets(t, got, want)
	compareRules(t, got, want)
	if change, ok := Diff(got, want); !ok || !change.Empty() {
		t.Errorf("what was loaded would be changed (%v): %+v", ok, change)
	}
	// And once more: what was read can be loaded.
	if err := c.Replace(got); err != nil {
		t.Fatal("load what was read:", err)
	}
	again, err := c.Read(Inet, want.Name)
	if err != nil {
		t.Fatal(err)
	}
	compareRules(t, again, want)
	if change, ok := Diff(again, want); !ok || !change.Empty() {
		t.Errorf("what was loaded again would be changed (%v): %+v", ok, change)
	}
}

func TestAnOwnedTableIsReadWithItsOwner(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	owner, other := opened(t, h), opened(t, h)
	if err := owner.Replace(&Table{Family: Inet, Name: "mine", Owned: true}); err != nil {
		t.Fatal(err)
	}
	got, err := other.Read(Inet, "mine")
	if err != nil || got == nil || !got.Owned || got.Owner != owner.ID() {
		t.Errorf("read %+v, %v; it belongs to %d", got, err, owner.ID())
	}
	if list, err := other.Tables(); err != nil || len(list) != 1 || list[0].Owner != owner.ID() {
		t.Errorf("tables %v, %v", list, err)
	}
}

func TestTheWatchKnowsWhoseChangeItWas(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	notices := watching(t, h)
	c := opened(t, h)
	if err := c.Replace(&Table{Family: IPv4, Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	if n := next(t, notices); n.By != c.ID() || n.Family != IPv4 || n.Table != "mine" || n.PID == 0 {
		t.Errorf("its own change: %+v; it is %d", n, c.ID())
	}
	nftRun(t, h, "", "flush", "ruleset")
	if n := next(t, notices); n.By == c.ID() || n.Name != "nft" || n.Table != "mine" {
		t.Errorf("a change by another: %+v; it is %d", n, c.ID())
	}
}

// What is left of a timeout, and what was counted, comes with the elements.
func TestTimeAndCountsAreRead(t *testing.T) {
	client, router, _ := crossing(t)
	nftRun(t, router, `table inet t {
		set to { type ipv4_addr . inet_service; counter; elements = { 10.0.0.2 . 7 comment "echo", 10.0.0.2 . 9 }; }
		set lease { type inet_service; flags timeout; elements = { 80 timeout 1h expires 10m }; }
		chain forw { type filter hook forward priority 0; ip daddr . udp dport @to accept; }
	}`, "-f", "-")
	for range 3 {
		sendUDP(t, client, "10.0.0.2:7")
	}
	c := opened(t, router)
	deadline := time.Now().Add(10 * time.Second)
	for {
		s, err := c.ReadSet(Inet, "t", "to")
		if err != nil {
			t.Fatal(err)
		}
		counts := map[Value]Count{}
		for _, e := range s.Elements {
			counts[e.Key[1].First] = e.Count
		}
		if counts[Port(7)] == (Count{3, 99}) && counts[Port(9)] == (Count{}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("counted %v", counts)
		}
	}
	s, err := c.ReadSet(Inet, "t", "lease")
	if err != nil || len(s.Elements) != 1 {
		t.Fatal(s, err)
	}
	if e := s.Elements[0]; e.Timeout != time.Hour || e.Expires > 10*time.Minute || e.Expires < 9*time.Minute {
		t.Errorf("timeout %v, expires in %v", e.Timeout, e.Expires)
	}
}

// The bytes that a rule compares are those that a set is looked up by.
func TestLookupFindsWhatTheKernelWouldFind(t *testing.T) {
	h := lab.NewNet(t).Host("one")
	nftRun(t, h, `table inet t {
		set marks { type mark; elements = { 0x10203 }; }
		set ranges { type mark; flags interval; elements = { 0x100-0x1ff }; }
		map names { type ifname . inet_service : verdict; elements = { "eth0" . 80 : accept }; }
		set nets { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/8 . 80-90 }; }
		map rest { type ipv4_addr : verdict; elements = { 10.0.0.1 : drop, * : accept }; }
		set wild { type ifname; flags interval; elements = { "lan*" }; }
	}`, "-f", "-")
	table, err := opened(t, h).Read(Inet, "t")
	if err != nil {
		t.Fatal(err)
	}
	own := func(n uint32) []byte { return turned(MarkType, be32(n)) }
	for _, look := range []struct {
		set  string
		key  []byte
		want bool
	}{
		{"marks", own(0x10203), true},
		{"marks", own(0x10204), false},
		{"ranges", be32(0x180), true}, // nft turns it round before it looks
		{"ranges", be32(0x200), false},
		{"names", []byte(string(Name("eth0")) + "\x00\x50\x00\x00"), true},
		{"names", []byte(string(Name("eth1")) + "\x00\x50\x00\x00"), false},
		{"nets", []byte("\x0a\x01\x02\x03\x00\x55\x00\x00"), true},
		{"nets", []byte("\x0a\x01\x02\x03\x00\x5b\x00\x00"), false},
		{"nets", []byte("\x0b\x01\x02\x03\x00\x55\x00\x00"), false},
		{"wild", []byte(Name("lan7")), true},
		{"wild", []byte(Name("la")), false},
	} {
		for i := range table.Sets {
			if s := &table.Sets[i]; s.Name == look.set && (s.Lookup(look.key) != nil) != look.want {
				t.Errorf("set %s, key % x: found %v", s.Name, look.key, !look.want)
			}
		}
	}
	for i := range table.Sets {
		if s := &table.Sets[i]; s.Name == "rest" {
			one, other := s.Lookup([]byte{10, 0, 0, 1}), s.Lookup([]byte{10, 0, 0, 2})
			if one == nil || one.Verdict != Drop || other == nil || other.Verdict != Accept {
				t.Errorf("of all others: %+v, %+v", one, other)
			}
		}
	}
}
