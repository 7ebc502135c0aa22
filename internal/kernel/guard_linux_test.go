package kernel

import (
	"fmt"
	"net/netip"
	"testing"

	"fairlead/internal/lab"
	"fairlead/internal/sys/inject"
	"fairlead/internal/wire/packet"
)

// TestNothingNewComesInWithoutAForwardOrAPinhole throws packets of every
// protocol, port and type at the WAN's interface, and looks at what got past.
func TestNothingNewComesInWithoutAForwardOrAPinhole(t *testing.T) {
	g := newTown(t, "share lan to wan", "open wan:443 to [2001:db8:2::10]", "open wan:7/udp to self")
	w := g.witness()
	var in *inject.Injector
	err := g.Gateway.Gateway.Do(func() (err error) {
		in, err = inject.Open("wan0")
		return err
	})
	if err != nil {
		t.Skipf("no packets can be made up here: %v", err)
	}
	defer in.Close()
	send := func(b []byte) {
		if err := in.Send(b); err != nil {
			t.Fatal(err)
		}
	}
	link := netip.MustParseAddr("fe80::9")
	addr := netip.MustParseAddr
	neighbour4, neighbour6 := addr("203.0.113.77"), addr("2001:db8:1::77")
	sources := []netip.Addr{addr(lab.Outside4), addr(lab.Outside6), link,
		addr(lab.Beside4), addr(lab.Beside6), addr("127.0.0.1"), addr("::1")} // the last four are false
	targets := []netip.Addr{addr(lab.Inside4), addr(lab.LAN4), addr(lab.WAN4), addr("192.168.1.255"), addr("255.255.255.255"), addr("224.0.0.1"),
		addr(lab.Inside6), addr(lab.LAN6), addr(lab.WAN6), addr("ff02::1"), neighbour4, neighbour6}
	out := func(dst netip.Addr) bool { return dst == neighbour4 || dst == neighbour6 } // of somebody out there
	garbage := make([]byte, 32)
	for _, src := range sources {
		for _, dst := range targets {
			if src.Is4() != dst.Is4() {
				continue
			}
			for kind := range 256 {
				send(icmpPacket(src, dst, uint8(kind), 0, garbage))
				if kind != packet.TCP && kind != packet.UDP && kind != packet.ICMP && kind != packet.ICMPv6 {
					send(ipPacket(uint8(kind), src, dst, garbage))
				}
			}
			// Every port once, and the others with whatever else TCP can say.
			step := 97
			if src == sources[0] && dst == addr(lab.WAN4) || src == sources[1] && dst == addr(lab.Inside6) {
				step = 1
			}
			for port := 1; port <= 65535; port += step {
				for _, p := range []packet.Packet{{Proto: packet.TCP, Flags: packet.SYN}, {Proto: packet.UDP}} {
					p.Src, p.Dst = netip.AddrPortFrom(src, 40000), netip.AddrPortFrom(dst, uint16(port))
					b, err := p.Append(nil, nil)
					if err != nil {
						t.Fatal(err)
					}
					send(b)
				}
			}
			for flags := range 64 {
				for _, port := range []uint16{22, 443} {
					p := packet.Packet{Proto: packet.TCP, Flags: uint8(flags),
						Src: netip.AddrPortFrom(src, 40001), Dst: netip.AddrPortFrom(dst, port)}
					b, _ := p.Append(nil, nil)
					send(b)
				}
			}
		}
	}
	// The last packet of all is one that comes in.
	last := packet.Packet{Proto: packet.UDP, Src: netip.AddrPortFrom(addr(lab.Outside4), 9), Dst: netip.AddrPortFrom(addr(lab.WAN4), 7)}
	b, _ := last.Append(nil, []byte("last"))
	until(t, "the last packet came in", func() bool {
		send(b)
		return w.saw(seenAtSelf, "port")[lab.WAN4+" 17 7"]
	})

	exactly := func(where, what string, may func(dst netip.Addr, kind, port int) bool, must ...string) {
		t.Helper()
		seen := w.saw(where, what)
		for note := range seen {
			var text string
			var kind, port int
			fmt.Sscan(note, &text, &kind, &port)
			if !may(addr(text), kind, port) {
				t.Errorf("%s %s: %s got in", where, what, note)
			}
		}
		for _, note := range must {
			if !seen[note] {
				t.Errorf("%s %s: %s did not get in", where, what, note)
			}
		}
	}
	exactly(seenThrough, "port", func(dst netip.Addr, proto, port int) bool {
		return dst == addr(lab.Inside6) && proto == packet.TCP && port == 443 || out(dst)
	}, lab.Inside6+" 6 443")
	exactly(seenThrough, "proto", func(dst netip.Addr, _, _ int) bool { return out(dst) }, "203.0.113.77 47")
	exactly(seenThrough, "icmp", func(dst netip.Addr, kind, _ int) bool {
		return dst == addr(lab.Inside6) && kind == icmp6Echo || out(dst)
	}, lab.Inside6+" 128")
	exactly(seenAtSelf, "port", func(dst netip.Addr, proto, port int) bool {
		return proto == packet.UDP && (port == 7 || dst.Is4() && port == 68 || dst.Is6() && port == 546)
	}, lab.WAN4+" 17 7", lab.WAN4+" 17 68")
	exactly(seenAtSelf, "proto", func(dst netip.Addr, proto, _ int) bool { return proto == 2 }, lab.WAN4+" 2")
	exactly(seenAtSelf, "icmp", func(dst netip.Addr, kind, _ int) bool {
		if dst.Is4() {
			return kind == icmpEcho
		}
		switch {
		case kind == icmp6Echo, kind >= 133 && kind <= 136, kind == 141, kind == 142, kind == 148, kind == 149:
			return true
		case kind >= 130 && kind <= 132, kind == 143, kind >= 151 && kind <= 153:
			return true
		}
		return false
	}, lab.WAN4+" 8", lab.WAN6+" 135", lab.WAN6+" 130", "ff02::1 134", "ff02::1 130")
}
