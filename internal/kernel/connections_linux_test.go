package kernel

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/conntrack"
)

// Established connections live on, whatever becomes of their forward; the ways
// to end them end them at once, and end no other.
func TestEstablishedConnectionsLiveUntilTheyAreKilled(t *testing.T) {
	for family, v := range []struct{ name, wan, inside, beside string }{
		{"IPv4", lab.WAN4, lab.Inside4, lab.Beside4},
		{"IPv6", lab.WAN6, lab.Inside6, lab.Beside6},
	} {
		t.Run(v.name, func(t *testing.T) {
			tn := newLegTown(t)
			dns := leg{"dns", tn.Outside, tn.Inside, [2]string{v.wan, v.wan}, [2]string{v.inside, v.inside}, "", 5300, 0}
			web := dns
			web.port = 8000
			to := func(addr, words string) []string {
				return []string{"web", "nat wan:8000-8009 to " + bracketed(addr) + words}
			}
			others := []string{"dns", "nat " + bracketed(v.wan) + ":5300-5309/udp to " + bracketed(v.inside)}
			both := func(list []string) []string { return append(list, others...) }

			tn.apply(both(to(v.inside, ""))...)
			named := tn.datagrams(dns, family, 0)
			named.answered(t)
			ids := tn.udpIDs(5300)
			c := tn.connect(web, family, 0, 0)
			second := tn.connect(web, family, 1, 0)
			for _, step := range []struct {
				what string
				list []string
			}{
				{"it is read again", both(to(v.inside, ""))},
				{"the target moves", both(to(v.beside, ""))},
				{"a word is added", both(to(v.inside, " masquerade max-conns 100"))},
				{"the spot moves", both([]string{"web", "nat wan:9000 to " + bracketed(v.inside)})},
				{"it goes", others},
				{"the last one goes", nil},
				{"others come", both(nil)},
			} {
				tn.apply(step.list...)
				c.talk(t)
				if t.Failed() {
					t.Fatalf("after %s", step.what)
				}
				// Those that live on are still known by the name of their forward.
				n := 0
				for _, conn := range tn.k.Conns() {
					if conn.Forward == "web" {
						n++
					}
				}
				if n != 2 {
					t.Errorf("after %s %d connections are listed for it, want 2: %+v", step.what, n, tn.k.Conns())
				}
			}
			if now := tn.udpIDs(5300); slices.Equal(now, ids) {
				t.Error("the UDP connection of a forward that was gone meanwhile is remembered")
			}

			// As "rm web --cut": the forward is gone, its connections go too.
			named.answered(t)
			ids = tn.udpIDs(5300)
			if n := tn.k.Kill(fairlead.Match{Forward: "web"}); n != 2 {
				t.Errorf("Kill ended %d connections, want 2", n)
			}
			c.over(t)
			second.over(t)
			if now := tn.udpIDs(5300); !slices.Equal(now, ids) {
				t.Error("the connection of another forward was forgotten")
			}
			for range missedMost {
				tn.k.Conns()
			}
			if past := tn.k.ledger.past; len(past) != 0 {
				t.Errorf("%d spots of the past are remembered for nobody", len(past))
			}

			// And while the forward is there: nothing of the connection is let
			// in again.
			tn.apply(both(to(v.inside, ""))...)
			c = tn.connect(web, family, 0, 0)
			c.talk(t)
			if n := tn.k.Kill(fairlead.Match{Forward: "web"}); n != 1 {
				t.Errorf("Kill ended %d connections, want 1", n)
			}
			c.over(t)
			tn.connect(web, family, 0, 0).talk(t)
		})
	}
}

func TestMetersKnowHowManyConnectionsLive(t *testing.T) {
	tn := newLegTown(t)
	l := tn.leg(0)
	name, sentence := l.forward(0)
	tn.apply(name, sentence)
	a := tn.connect(l, 0, 0, 0)
	tn.connect(l, 0, 1, 0)
	active := func() int64 { return tn.k.Report()[0].Meter.Active.Load() }
	until(t, "two are counted", func() bool { return active() == 2 })
	a.client.Close()
	a.server.Close()
	until(t, "one is counted", func() bool { return active() == 1 })
	tn.k.Kill(fairlead.Match{Forward: name})
	until(t, "none is counted", func() bool { return active() == 0 })
}

func TestALedgerFindsWhoseConnectionItIs(t *testing.T) {
	here := map[netip.Addr]bool{netip.MustParseAddr("203.0.113.1"): true, netip.MustParseAddr("2001:db8::1"): true}
	forward := func(kind fairlead.Kind, name string, entries ...entry) part {
		return part{f: &fairlead.Forward{Name: name, Kind: kind}, entries: entries}
	}
	at := func(proto uint8, a string, first, last uint16) entry {
		e := entry{proto: proto, ports: fairlead.Ports{First: first, Last: last}}
		if a != "" {
			e.at = netip.MustParseAddr(a)
		}
		return e
	}
	var l ledger
	l.turn(&plan{parts: []part{
		forward(fairlead.KindNAT, "range", at(protoTCP, "203.0.113.1", 8000, 8999)),
		forward(fairlead.KindNAT, "gone", at(protoTCP, "203.0.113.1", 9000, 9000), at(protoTCP, "", 7000, 7000)),
	}}, here)
	l.turn(&plan{parts: []part{
		forward(fairlead.KindNAT, "one", at(protoTCP, "203.0.113.1", 8080, 8080)),
		forward(fairlead.KindNAT, "all", at(protoTCP, "", 1, 65535)),
		forward(fairlead.KindOpen, "hole", at(protoTCP, "2001:db8:2::10", 22, 22)),
	}}, map[netip.Addr]bool{netip.MustParseAddr("203.0.113.2"): true})
	for _, c := range []struct {
		proto  uint8
		asked  string
		master string
		plain  bool // not translated
		want   string
	}{
		{protoTCP, "203.0.113.1:8080", "", false, "one"},
		{protoTCP, "203.0.113.1:8079", "", false, "range"}, // as before
		{protoTCP, "203.0.113.1:9000", "", false, "gone"},  // that address was its own
		{protoTCP, "203.0.113.1:7000", "", false, "all"},
		{protoTCP, "203.0.113.2:8080", "", false, "all"},
		{protoTCP, "[2001:db8::1]:80", "", false, "all"},
		{protoTCP, "127.0.0.1:80", "", false, "all"},
		{protoTCP, "198.51.100.1:80", "", false, ""}, // nobody's here
		{protoUDP, "203.0.113.1:8080", "", false, ""},
		{protoTCP, "203.0.113.1:8080", "", true, ""},
		{protoTCP, "[2001:db8:2::10]:22", "", true, "hole"},
		{protoTCP, "198.51.100.1:31000", "203.0.113.1:8080", false, "one"},
	} {
		e := &conntrack.Entry{Original: conntrack.Tuple{Proto: c.proto, Dst: netip.MustParseAddrPort(c.asked)}, Status: conntrack.DNAT}
		if c.plain {
			e.Status = 0
		}
		if c.master != "" {
			e.Master = conntrack.Tuple{Proto: protoTCP, Dst: netip.MustParseAddrPort(c.master)}
		}
		got := ""
		if o := l.open().of(e); o != nil {
			got = o.key.name
		}
		if got != c.want {
			t.Errorf("what asked %s is %q's, want %q's", c.asked, got, c.want)
		}
	}
}

// An index finds something wherever a search through everything does, also where
// stretches overlap, as those of the past may.
func TestAnIndexFindsWhatIsThere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var list []*stretch
		for range rng.IntN(12) {
			first := uint16(1 + rng.IntN(60))
			list = append(list, &stretch{gate: gate{proto: protoTCP}, ports: fairlead.Ports{First: first, Last: first + uint16(rng.IntN(20))}})
		}
		x := indexOf(list)
		for port := uint16(0); port < 90; port++ {
			found := x.find(gate{proto: protoTCP}, port)
			covered := slices.ContainsFunc(list, func(s *stretch) bool { return s.ports.First <= port && port <= s.ports.Last })
			if (found != nil) != covered || found != nil && (found.ports.First > port || found.ports.Last < port) {
				t.Fatalf("port %d of %v: found %v", port, list, found)
			}
		}
	}
}

func TestTheIDsOfConnectionsAreTheKernels(t *testing.T) {
	if got := idText(0xbeef); got != "k0000beef" {
		t.Errorf("%s", got)
	}
}

func TestThousandsAreKilledAtOnce(t *testing.T) {
	tn := newLegTown(t)
	const many = 2000
	tn.apply("web", "nat wan:8000 to "+lab.Inside4)
	ln, err := tn.Inside.Listen(t.Context(), "tcp", net.JoinHostPort(lab.Inside4, "8000"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var list []call
	defer func() {
		for _, c := range list {
			c.client.Close()
			c.server.Close()
		}
	}()
	for range many {
		c, err := tn.Outside.DialContext(t.Context(), "tcp", lab.WAN4+":8000")
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, call{c.(*net.TCPConn), s.(*net.TCPConn)})
	}
	if n := tn.k.Kill(fairlead.Match{Client: netip.MustParseAddr(lab.Outside4)}); n != many {
		t.Errorf("Kill ended %d connections, want %d", n, many)
	}
	for i, c := range list {
		if c.over(t); t.Failed() {
			t.Fatalf("connection %d", i)
		}
	}
	if left := tn.tracked(protoTCP); len(left) > 0 {
		t.Errorf("%d are still tracked", len(left))
	}
}
