package helper

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fairlead"
)

func TestWhatComesRoundIsKnownByItsHopLimit(t *testing.T) {
	g, now := newGuard(), time.Unix(1000, 0)
	a, b := netip.MustParseAddrPort("192.0.2.1:4000"), netip.MustParseAddrPort("192.0.2.2:4000")
	for i, c := range []struct {
		from  netip.AddrPort
		kept  bool
		hops  uint8
		text  string
		after time.Duration
		want  verdict
	}{
		{a, false, 64, "wake", 0, pass},
		{a, false, 64, "wake", 0, pass},  // said again
		{b, false, 128, "wake", 0, pass}, // by another system
		{b, false, 127, "wake", 0, loop},
		{a, false, 127, "sleep", 0, pass}, // something else
		{a, true, 64, "wake", 0, pass},
		{b, true, 63, "wake", 0, pass}, // another sender's own
		{a, true, 63, "wake", 4 * time.Second, loop},
		{a, true, 60, "wake", time.Minute, pass}, // forgotten
	} {
		now = now.Add(c.after)
		if got := g.loops(now, c.from, c.kept, 9, c.hops, []byte(c.text)); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
}

func TestTheSameAgainAndAgainIsALoop(t *testing.T) {
	g, now := newGuard(), time.Unix(1000, 0)
	from := netip.MustParseAddrPort("192.0.2.1:4000")
	passed := 0
	for range 100 {
		if g.loops(now, from, false, 9, 64, []byte("x")) == pass {
			passed++
		}
	}
	if passed != sameInASecond {
		t.Errorf("%d passed, want %d", passed, sameInASecond)
	}
	if g.loops(now.Add(time.Second), from, false, 9, 64, []byte("x")) != pass {
		t.Error("and a second later it does not")
	}
}

func TestAGuardIsBounded(t *testing.T) {
	g, now := newGuard(), time.Unix(1000, 0)
	passed := 0
	for i := range 100_000 {
		from := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if g.rate(now, from) == pass {
			passed++
		}
		g.loops(now, netip.AddrPortFrom(from, 1), true, 9, 64, binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	if passed != inAllBurst {
		t.Errorf("%d of one instant passed, want %d", passed, inAllBurst)
	}
	if n := len(g.seen[0]) + len(g.seen[1]) + len(g.senders[0]) + len(g.senders[1]); n > 4*remembered {
		t.Errorf("%d entries", n)
	}
}

func TestFitsNamesWhatIsNotKept(t *testing.T) {
	h := New(Config{})
	defer h.Close()
	for _, c := range []struct {
		sentence string
		code     fairlead.Code // "" fits
	}{
		{"helper lan:67/udp to 10.9.0.2, dhcp.lan option-82", ""},
		{"helper br0:default-set/udp to 10.9.0.2 source keep", ""},
		{"helper lan:69/udp to 10.9.0.2 idle 5s deny 10.0.0.0/8", ""},
		{"helper lan:547/udp to [2001:db8::9]", ""},
		{"helper lan:9/udp to 192.168.9.255", ""},
		{"forward 80 to 10.0.0.1", fairlead.CodeCannotCarry},
		{"helper :67/udp to 10.9.0.2", fairlead.CodeCannotHonour},
		{"helper 192.168.1.1:67/udp to 10.9.0.2", fairlead.CodeCannotHonour},
		{"helper 239.1.2.3:5000/udp to 10.9.0.2", fairlead.CodeCannotHonour},
		{"helper lan:68/udp to 10.9.0.2", fairlead.CodeCannotHonour},
		{"helper lan:67,547/udp to 10.9.0.2", fairlead.CodeCannotHonour},
		{"helper lan:547/udp to 10.9.0.2", fairlead.CodeCannotHonour},
		{"helper lan:67/udp to [2001:db8::9]", fairlead.CodeCannotHonour},
		{"helper lan:69/udp to self", fairlead.CodeCannotHonour},
		{"helper lan:69/udp to 127.0.0.1", fairlead.CodeCannotHonour},
		{"helper lan:69/udp to 10.9.0.2 option-82", fairlead.CodeCannotHonour},
		{"helper lan:67/udp to 10.9.0.2 source keep", fairlead.CodeCannotHonour},
		{"helper lan:67/udp to 10.9.0.2 idle 5s", fairlead.CodeCannotHonour},
		{"helper lan:67/udp to 10.9.0.2 deny 10.0.0.0/8", fairlead.CodeCannotHonour},
		{"helper lan:67/udp to 10.9.0.2 from 10.0.0.0/8", fairlead.CodeCannotHonour},
		{"helper lan:69/udp to 10.9.0.2 source 10.0.0.1", fairlead.CodeCannotHonour},
		{"helper lan:69/udp to 10.9.0.2 source keep idle 5s", fairlead.CodeCannotHonour},
		{"helper lan:[ff05::5]:5000/udp to [2001:db8::9]", fairlead.CodeCannotHonour},
		{"helper lan:1-1000/udp to 10.9.0.2", fairlead.CodeTooManyPorts},
	} {
		err := h.Fits(wish(t, "f", c.sentence))
		switch {
		case c.code == "" && err != nil:
			t.Errorf("%s: %v", c.sentence, err)
		case c.code != "" && (err == nil || fairlead.AsProblem(err).Code != c.code):
			t.Errorf("%s: %v, want %s", c.sentence, fmt.Sprint(err), c.code)
		}
	}
}
