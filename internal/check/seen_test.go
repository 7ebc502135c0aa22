package check

import (
	"net/netip"
	"testing"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/nft"
	"fairlead/internal/wire/packet"
)

// step is one traced step; with a packet it is the first in its base chain.
func step(id uint32, table, chain, verdict string, p *packet.Packet) nft.TraceEvent {
	e := nft.TraceEvent{ID: id, Kind: nft.TraceRule, Family: nft.IPv4, Table: table, Chain: chain, Verdict: verdict}
	if p != nil {
		b, _ := p.Append(nil, nil)
		e.NetworkHeader, e.TransportHeader = b[:20], b[20:]
	}
	return e
}

var (
	client = netip.MustParseAddrPort("198.51.100.2:61234")
	asked  = netip.MustParseAddrPort("203.0.113.1:80")
	target = netip.MustParseAddrPort("192.168.1.10:8080")
)

func TestAWayIsFollowedThoughItsNumberChanges(t *testing.T) {
	s := &seen{a: &attempt{proto: packet.TCP, src: client, dst: asked, link: "wan0"}}
	syn := packet.Packet{Proto: packet.TCP, Src: client, Dst: asked, Flags: packet.SYN}
	led := syn
	led.Dst = target
	s.told(step(1, "flprobe7", chainBegins, "continue", &syn))
	s.told(step(1, "fairlead", "pre", "accept", &syn))
	s.told(step(2, "flprobe7", chainRouted, "continue", &led)) // another number
	s.told(step(2, "mine", "through", "drop", &led))
	there := s.there()
	if there == nil || there.station(chainRouted) == nil || there.station(chainRouted).packet.Dst != target {
		t.Fatalf("%+v", there)
	}
	if d := there.drop(); d == nil || d.Table != "mine" || !s.settled() {
		t.Errorf("%+v", d)
	}
	// Somebody else's trace is none of ours.
	other := led
	other.Src = netip.MustParseAddrPort("198.51.100.2:999")
	other.Dst = netip.MustParseAddrPort("192.168.1.10:9090")
	s.told(step(3, "flprobe7", chainLeft, "accept", &other))
	s.told(step(4, "mine", "through", "drop", &other))
	if len(s.passages) != 1 || there.station(chainLeft) != nil {
		t.Errorf("%+v", s.passages)
	}
}

func TestOurOwnEndForAnswersIsNoDrop(t *testing.T) {
	s := &seen{a: &attempt{proto: packet.TCP, src: client, dst: asked, link: "wan0"}}
	answer := packet.Packet{Proto: packet.TCP, Src: target, Dst: client, Flags: packet.SYN | packet.ACK}
	s.told(step(1, "flprobe7", chainBack, "continue", &answer))
	s.told(step(1, "flprobe7", chainLeft, "drop", &answer))
	a := s.answer()
	if a == nil || a.drop() != nil || a.station(chainLeft) == nil || !s.settled() {
		t.Errorf("%+v", a)
	}
}

func TestARedirectIsNoAnswer(t *testing.T) {
	s := &seen{a: &attempt{proto: packet.TCP, src: client, dst: asked, link: "wan0"}}
	s.told(nft.TraceEvent{ID: 9, Kind: nft.TraceRule, Table: "flprobe7", Chain: chainAnswered,
		NetworkHeader: []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 1, 198, 51, 100, 2}, TransportHeader: []byte{5, 1}})
	if s.answer() != nil {
		t.Error("it was taken for one")
	}
}

func TestAClientIsMadeUpWhomTheSentenceMeans(t *testing.T) {
	p := netip.MustParsePrefix
	f := &fairlead.Forward{To: []fairlead.Target{
		{Host: "192.168.1.10", From: []netip.Prefix{p("198.51.100.0/24")}},
		{Host: "192.168.1.11", From: []netip.Prefix{p("198.51.100.64/26"), p("203.0.113.0/24")}},
	}}
	for addr, want := range map[string]string{"198.51.100.2": "192.168.1.10", "198.51.100.65": "192.168.1.11", "203.0.113.7": "192.168.1.11"} {
		if list := meantFor(f, netip.MustParseAddr(addr)); len(list) != 1 || list[0].Host != want {
			t.Errorf("%s: %+v, want %s", addr, list, want)
		}
	}
	if allowed(f, netip.MustParseAddr("192.0.2.1")) {
		t.Error("192.0.2.1 is meant for none")
	}
	f.Policy.Deny = []netip.Prefix{p("198.51.100.0/28")}
	if allowed(f, netip.MustParseAddr("198.51.100.2")) {
		t.Error("198.51.100.2 is denied")
	}
}

func TestTheLastHostOfANetwork(t *testing.T) {
	for prefix, want := range map[string]string{"192.168.1.0/24": "192.168.1.254", "10.0.0.0/30": "10.0.0.2", "2001:db8::/64": "2001:db8::ffff:ffff:ffff:fffe"} {
		if got := last(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
}

func TestAnEntranceIsWhereClientsComeIn(t *testing.T) {
	h := &host{wan: []string{"wan0"}, lan: []string{"lan0"}, list: []netmon.Interface{
		{Name: "lo", Loopback: true, Up: true, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		{Name: "wan0", Up: true, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")}, Nets: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}},
		{Name: "lan0", Up: true, Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.1")}, Nets: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}},
	}}
	for _, c := range []struct {
		at       fairlead.Spot
		family   int
		from     string
		want, by string
	}{
		{fairlead.Spot{Where: "wan"}, 4, "", "203.0.113.1", "wan0"},
		{fairlead.Spot{Where: "wan"}, 6, "", "2001:db8::1", "wan0"},
		{fairlead.Spot{Where: "wan"}, 4, "192.168.1.20", "203.0.113.1", "lan0"}, // around the corner
		{fairlead.Spot{Where: "wan"}, 4, "203.0.113.1", "203.0.113.1", ""},      // from here
		{fairlead.Spot{Any: true}, 4, "192.168.1.20", "192.168.1.1", "lan0"},
		{fairlead.Spot{Any: true}, 4, "", "203.0.113.1", "wan0"},
		{fairlead.Spot{}, 0, "", "127.0.0.1", ""},
		{fairlead.Spot{Addr: netip.MustParseAddr("203.0.113.77")}, 4, "", "203.0.113.77", "wan0"},
	} {
		from, _ := netip.ParseAddr(c.from)
		e, p := h.spot(&fairlead.Forward{At: c.at}, c.family, from)
		if p != nil {
			t.Errorf("%+v: %v", c.at, p)
			continue
		}
		by := e.link
		if from.IsValid() {
			by = h.comesBy(from, e)
		}
		if e.at.String() != c.want || by != c.by {
			t.Errorf("%+v from %q: %s by %q, want %s by %q", c.at, c.from, e.at, by, c.want, c.by)
		}
	}
	if _, p := h.spot(&fairlead.Forward{At: fairlead.Spot{Where: "dmz0"}}, 0, netip.Addr{}); p == nil || p.Code != fairlead.CodeNoInterface {
		t.Errorf("%v", p)
	}
}

// What is printed to be copied is a sentence that the program understands.
func TestFixesAreSentences(t *testing.T) {
	f := &fairlead.Forward{Name: "web", Kind: fairlead.KindNAT, Expr: "nat wan:80 to 192.168.1.10",
		At: fairlead.Spot{Where: "wan", Ports: fairlead.PortList{{First: 80, Last: 80}}, Net: fairlead.TCP}, To: []fairlead.Target{{Host: "192.168.1.10"}}}
	q := &Question{Forward: f, Edit: "fairlead edit -c x web"}
	for got, want := range map[string]string{
		q.words("masquerade"):                     "fairlead edit -c x web masquerade",
		q.rewrite(f):                              "fairlead edit -c x web nat wan:80 to 192.168.1.10",
		q.enable():                                "fairlead enable -c x web",
		(&Question{Forward: f}).words("to A:81"):  "fairlead nat wan:80 to A:81",
		(&Question{Forward: f}).rewrite(f):        "fairlead nat wan:80 to 192.168.1.10",
		q.told(inUse()).Fixes[0].Command:          "fairlead edit -c x web nat wan:81 to 192.168.1.10",
		(&Question{Forward: f}).words("no words"): "fairlead nat wan:80 to 192.168.1.10 no words",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func inUse() *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeInUse, "taken").Fix("another port", "fairlead nat wan:81 to 192.168.1.10").Fix("another", "")
}
