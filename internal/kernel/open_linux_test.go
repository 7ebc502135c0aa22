package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/inject"
	"fairlead/internal/sys/nft"
	"fairlead/internal/wire/packet"
)

func TestAPinholeLetsInWhatItNames(t *testing.T) {
	g := newTown(t)
	for _, at := range []string{":443", ":444", ":1500", ":2500"} {
		newDesk(t, g.Inside, at)
		newDesk(t, g.Gateway.Gateway, at)
	}
	newDesk(t, g.Beside, ":443")
	g.Gateway.Gateway.Route("198.51.100.10/32", lab.Inside4, "lan0") // a public address in the LAN
	g.Inside.Addr("lo", "198.51.100.10/32")
	g.Outside.Route("198.51.100.10/32", lab.WAN4, "eth0")

	g.carry("share lan to wan",
		"open wan:443/tcp+udp to ["+lab.Inside6+"]",
		"open wan:444 to 198.51.100.10",
		"open wan:1000-2000/udp to ["+lab.Inside6+"]",
		"open wan:444/udp to self")
	inside6 := "[" + lab.Inside6 + "]:"
	for _, at := range []struct{ network, to string }{
		{"tcp", inside6 + "443"}, {"udp", inside6 + "443"}, {"tcp", "198.51.100.10:444"}, {"udp", inside6 + "1500"},
		{"udp", lab.WAN4 + ":444"}, {"udp", "[" + lab.WAN6 + "]:444"},
	} {
		if s := g.answers(g.Outside, at.network, at.to); !strings.Contains(s, lab.Outside4) && !strings.Contains(s, lab.Outside6) {
			t.Errorf("%s: the target sees %s, not the client", at.to, s)
		}
	}
	for _, at := range []struct{ network, to string }{
		{"tcp", inside6 + "444"}, {"tcp", inside6 + "1500"}, {"udp", inside6 + "2500"}, // another port, protocol, beyond the range
		{"tcp", "[" + lab.Beside6 + "]:443"},                       // another host
		{"udp", "198.51.100.10:444"}, {"tcp", "198.51.100.10:443"}, // another protocol, port
		{"tcp", lab.WAN4 + ":444"}, {"udp", lab.WAN4 + ":443"}, {"udp", "[" + lab.WAN6 + "]:1500"}, // this host's are its own
	} {
		g.silent(g.Outside, at.network, at.to)
	}
}

func TestAPinholeIsOnlyForItsClients(t *testing.T) {
	g := newTown(t)
	for _, h := range []*lab.Host{g.Inside, g.Gateway.Gateway} {
		newDesk(t, h, ":443")
		newDesk(t, h, ":1500")
	}
	far := netip.AddrPortFrom(netip.MustParseAddr(lab.Outside6Far), 0)
	g.Gateway.Gateway.Route(lab.Outside6Far+"/128", lab.Outside6, "wan0")
	inside6 := "[" + lab.Inside6 + "]:"
	tells := func(source netip.AddrPort, network, at string, want bool) {
		t.Helper()
		patience := patience
		if !want {
			patience = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if s, err := ask(ctx, g.Outside, network, source, at); (err == nil) != want {
			t.Errorf("%s to %s from %v: %q, %v; want an answer: %v", network, at, source, s, err, want)
		}
	}
	near := netip.AddrPort{}
	g.carry("share lan to wan",
		"open wan:443 to ["+lab.Inside6+"] from 2001:db8:1::/64",
		"open wan:1000-2000/udp to ["+lab.Inside6+"] from "+lab.Outside6Far+" from 2001:db8:7::/48",
		"open wan:443 to self from 203.0.113.0/24")
	tells(near, "tcp", inside6+"443", true)
	tells(far, "tcp", inside6+"443", false)
	tells(near, "udp", inside6+"1500", false)
	tells(far, "udp", inside6+"1500", true)
	tells(near, "tcp", lab.WAN4+":443", true)
	tells(near, "tcp", "["+lab.WAN6+"]:443", false)

	// Two pinholes together let in what either does.
	g.carry("share lan to wan",
		"open wan:443 to ["+lab.Inside6+"] from 2001:db8:1::/64",
		"open wan:400-500 to ["+lab.Inside6+"] from "+lab.Outside6Far)
	tells(near, "tcp", inside6+"443", true)
	tells(far, "tcp", inside6+"443", true)

	g.carry("share lan to wan", "open wan:443 to ["+lab.Inside6+"] deny "+lab.Outside6Far)
	tells(near, "tcp", inside6+"443", true)
	tells(far, "tcp", inside6+"443", false)
}

func TestTheKernelEndsAPinholeByItself(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Inside, ":443")
	newDesk(t, g.Inside, ":1500")
	g.carry("share lan to wan", "open wan:443 to ["+lab.Inside6+"] for 2s", "open wan:1000-2000 to ["+lab.Inside6+"] for 2s")
	inside6 := "[" + lab.Inside6 + "]:"
	g.answers(g.Outside, "tcp", inside6+"443")
	g.answers(g.Outside, "tcp", inside6+"1500")
	// Nobody of ours looks after it any more; and what was there goes on.
	hold, err := g.Inside.Listen(t.Context(), "tcp", ":1600")
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	live, err := g.Outside.DialContext(t.Context(), "tcp", inside6+"1600")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	g.k.Close()
	until(t, "the elements ended", func() bool { return g.elements(setPin6)+g.elements(setPinFrom6) == 0 })
	g.silent(g.Outside, "tcp", inside6+"443")
	g.silent(g.Outside, "tcp", inside6+"1500")
	end, err := hold.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer end.Close()
	if _, err := live.Write([]byte("still")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 5)
	end.SetReadDeadline(time.Now().Add(patience))
	if _, err := end.Read(b); err != nil {
		t.Errorf("a connection that was there when the pinhole ended: %v", err)
	}
}

func TestAPinholeCountsWhatItLetIn(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Inside, ":443")
	newDesk(t, g.Inside, ":1500")
	newDesk(t, g.Gateway.Gateway, ":22")
	newDesk(t, g.Outside, ":443")
	sentences := []string{"open wan:443/tcp+udp to [" + lab.Inside6 + "]", "open wan:1000-2000 to [" + lab.Inside6 + "]", "open wan:22 to self",
		"share lan to wan"}
	g.carry(sentences...)
	g.answers(g.Outside, "tcp", "["+lab.Inside6+"]:443")
	g.answers(g.Outside, "udp", "["+lab.Inside6+"]:443")
	g.answers(g.Outside, "tcp", "["+lab.Inside6+"]:1500")
	g.answers(g.Outside, "tcp", lab.WAN4+":22")
	g.answers(g.Inside, "tcp", "["+lab.Outside6+"]:443") // nobody's
	for i, want := range []int64{2, 1, 1} {
		until(t, "counted", func() bool {
			m := g.k.Report()[i].Meter
			return m.Flows.Load() == want && m.In.Load() > 100 && m.Out.Load() > 100
		})
	}
	// A change of something else leaves the counts.
	g.carry(append(sentences, "open wan:23 to self")...)
	for i, st := range g.k.Report() {
		if m := st.Meter; i < 3 && (m.Flows.Load() == 0 || m.In.Load() < 100 || m.Out.Load() < 100) {
			t.Errorf("%s: %d connections, %d bytes in, %d out", st.Forward.Expr, m.Flows.Load(), m.In.Load(), m.Out.Load())
		}
	}
}

func TestAPinholeKeepsItsLimits(t *testing.T) {
	g := newTown(t)
	ln, err := g.Inside.Listen(t.Context(), "tcp", ":443")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	newDesk(t, g.Inside, ":444")
	g.carry("share lan to wan", "open wan:443 to ["+lab.Inside6+"] max-conns 2", "open wan:444 to ["+lab.Inside6+"] rate-per-source 3/s")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var open []net.Conn
	for range 4 {
		if c, err := g.Outside.DialContext(ctx, "tcp", "["+lab.Inside6+"]:443"); err == nil {
			open = append(open, c)
			defer c.Close()
		} else if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("beyond the limit: %v, want a refusal", err)
		}
	}
	if len(open) != 2 {
		t.Errorf("%d connections at a time, want 2", len(open))
	}
	refused := 0
	for range 20 {
		if _, err := ask(ctx, g.Outside, "tcp", netip.AddrPort{}, "["+lab.Inside6+"]:444"); err != nil {
			refused++
		}
	}
	if refused == 0 || refused == 20 {
		t.Errorf("%d of 20 connections in a row refused", refused)
	}
}

// elements is how many a set of our table has.
func (g *town) elements(set string) (n int) {
	g.t.Helper()
	err := g.Gateway.Gateway.Do(func() error {
		conn, err := nft.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		s, err := conn.ReadSet(nft.Inet, "fairlead", set)
		if err == nil && s != nil {
			n = len(s.Elements)
		}
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

func TestAGuardOutlivesTheServiceAndPinholesDoNot(t *testing.T) {
	g := newTown(t)
	g.k.cfg.Life = 500 * time.Millisecond
	newDesk(t, g.Inside, ":443")
	newDesk(t, g.Outside, ":80")
	newDesk(t, g.Gateway.Gateway, ":8080")
	g.listens = []Listener{
		{Net: fairlead.TCP, At: netip.MustParseAddrPort("0.0.0.0:8080")},
		{Net: fairlead.UDP, At: netip.MustParseAddrPort(lab.WAN4 + ":8080")},
		{Net: fairlead.TCP, At: netip.MustParseAddrPort("[" + lab.WAN6 + "]:8080")},
	}
	g.carry("share lan to wan", "open wan:443 to ["+lab.Inside6+"]")
	g.answers(g.Outside, "tcp", "["+lab.Inside6+"]:443")
	g.answers(g.Outside, "tcp", lab.WAN4+":8080")
	g.answers(g.Outside, "udp", lab.WAN4+":8080")
	g.answers(g.Outside, "tcp", "["+lab.WAN6+"]:8080")
	if err := g.k.Leave(); err != nil {
		t.Fatal(err)
	}
	g.k.Close()
	until(t, "the pinhole ended", func() bool { return g.elements(setPin6) == 0 })
	g.silent(g.Outside, "tcp", "["+lab.Inside6+"]:443")
	// Nor do the ports of a process that has ended stay open for another one.
	until(t, "the process's ports are closed", func() bool {
		return g.elements(setHeard)+g.elements(setHeard4)+g.elements(setHeard6) == 0
	})
	g.silent(g.Outside, "tcp", lab.WAN4+":8080")
	g.silent(g.Outside, "udp", lab.WAN4+":8080")
	g.silent(g.Outside, "tcp", "["+lab.WAN6+"]:8080")
	if s := g.answers(g.Inside, "tcp", lab.Outside4+":80"); !strings.HasPrefix(s, lab.WAN4+":") {
		t.Errorf("outside sees %s", s)
	}
}

func TestAPinholeWithoutAGuardSaysThatThereIsNothingToOpen(t *testing.T) {
	w := &world{table: "fairlead", wan: []string{"wan0"}, lan: []string{"lan0"}, addrs: townAddrs(), now: time.Now()}
	for _, sentences := range [][]string{
		{"open wan:443 to self"},
		{"open wan:443 to self", "share lan to wan unguarded"},
		{"open lan:443 to self", "share lan to wan"},
	} {
		var want []*fairlead.Forward
		for i, s := range sentences {
			want = append(want, wish(t, fmt.Sprint("f", i), s))
		}
		p := compile(want, w).parts[0].problem
		if p == nil || !p.Warning || p.Code != fairlead.CodeNothingToOpen {
			t.Errorf("%q: problem %v, want the warning %s", sentences, p, fairlead.CodeNothingToOpen)
		}
	}
}

func TestWhatAShareOrAPinholeCannotBeIsRefused(t *testing.T) {
	for sentence, want := range map[string]fairlead.Code{
		"share lan to lan":                            fairlead.CodeNoWay,
		"share lan to self":                           fairlead.CodeBadValue,
		"share lan to 192.0.2.1":                      fairlead.CodeBadValue,
		"share lan to wan deny 10.0.0.0/8":            fairlead.CodeCannotHonour,
		"share lan to wan for 2h":                     fairlead.CodeCannotHonour,
		"share lan to wan unguarded":                  "",
		"share br0 to ppp0":                           "",
		"open 443 to self":                            fairlead.CodeIncomplete,
		"open wan:443 to [2001:db8::1]:8443":          fairlead.CodeBadValue,
		"open wan:443 to [2001:db8::1]:443":           "",
		"open 203.0.113.5:443 to 203.0.113.6":         fairlead.CodeBadValue,
		"open 203.0.113.5:443":                        "",
		"open :22":                                    "",
		"open wan:443 to web.example.net for 2h":      "",
		"open wan:443 to self from 203.0.113.0/24":    "",
		"open wan:443 from 203.0.113.0/24":            "",
		"open wan:443 to self rate 5/s":               "",
		"open wan:443 to self max-conns-per-source 5": "",
		"open wan:443 to self publish":                fairlead.CodeCannotHonour,
		"open wan:21 to self alg ftp":                 fairlead.CodeCannotHonour,
	} {
		f := wish(t, "x", sentence)
		p := fitsOpen(f)
		if f.Kind == fairlead.KindShare {
			p = fitsShare(f)
		}
		switch {
		case p == nil && want != "", p != nil && p.Code != want:
			t.Errorf("%s: %v, want %q", sentence, p, want)
		}
	}
}

// Cells are what a naive look at every pinhole says, for every client and port.
func TestPinholesAreCutApartWithoutLosingAny(t *testing.T) {
	hole := func(from string, first, last uint16, ttl time.Duration) pinhole {
		return pinhole{iif: "wan0", to: netip.MustParseAddr("198.51.100.10"), proto: unix.IPPROTO_TCP,
			ports: fairlead.Ports{First: first, Last: last}, from: netip.MustParsePrefix(from), verdict: nft.Accept, lease: lease(ttl)}
	}
	for _, holes := range [][]pinhole{
		{hole("10.0.0.0/8", 1, 10, 0)},
		{hole("10.0.0.0/8", 1, 10, 0), hole("10.0.0.0/16", 5, 20, time.Hour)},
		{hole("0.0.0.0/0", 1, 10, time.Hour), hole("10.0.0.0/8", 2, 3, 0), hole("10.0.0.1/32", 3, 65535, time.Minute)},
		{hole("255.0.0.0/8", 1, 10, 0), hole("255.255.255.255/32", 1, 10, 0), hole("0.0.0.0/1", 10, 10, 0)},
	} {
		cells := apart(holes)
		for i, a := range cells {
			for _, b := range cells[i+1:] {
				if a.ports.First <= b.ports.Last && b.ports.First <= a.ports.Last && a.first.Compare(b.last) <= 0 && b.first.Compare(a.last) <= 0 {
					t.Errorf("%v overlaps %v", a, b)
				}
			}
		}
		for _, addr := range []string{"0.0.0.0", "9.255.255.255", "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.1.0.0", "127.255.255.255", "128.0.0.0", "255.255.255.254", "255.255.255.255"} {
			a := netip.MustParseAddr(addr)
			for _, port := range []uint16{1, 2, 3, 4, 5, 10, 11, 20, 21, 65535} {
				var want, got []lease
				for _, h := range holes {
					if h.from.Contains(a) && h.ports.First <= port && port <= h.ports.Last {
						want = append(want, h.lease)
					}
				}
				for _, c := range cells {
					if c.first.Compare(a) <= 0 && a.Compare(c.last) <= 0 && c.ports.First <= port && port <= c.ports.Last {
						got = append(got, c.lease)
					}
				}
				longest := func(l []lease) lease {
					return slices.MaxFunc(l, func(x, y lease) int {
						switch {
						case x.outlasts(y):
							return 1
						case y.outlasts(x):
							return -1
						}
						return 0
					})
				}
				if len(want) == 0 != (len(got) == 0) || len(got) > 1 || len(want) > 0 && got[0] != longest(want) {
					t.Errorf("%s port %d: %v, want the longest of %v", a, port, got, want)
				}
			}
		}
	}
}

// Errors about connections come in, to whoever is meant: without "packet too
// big" large packets would vanish for ever.
func TestPacketTooBigComesIn(t *testing.T) {
	g := newTown(t, "share lan to wan")
	newDesk(t, g.Outside, ":80")
	var in *inject.Injector
	if err := g.Gateway.Gateway.Do(func() (err error) {
		in, err = inject.Open("wan0")
		return err
	}); err != nil {
		t.Skipf("no packets can be made up here: %v", err)
	}
	defer in.Close()
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name, at, router string
		seen             string // the LAN's host as the outside sees it
		kind, code       uint8
		level, option    int
		mtu              int
	}{
		{"v4", lab.Outside4 + ":80", "203.0.113.77", lab.WAN4, 3, 4, unix.IPPROTO_IP, unix.IP_MTU, 1400},
		{"v6", "[" + lab.Outside6 + "]:80", "2001:db8:1::77", lab.Inside6, 2, 0, unix.IPPROTO_IPV6, unix.IPV6_MTU, 1300},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := g.Inside.DialContext(t.Context(), "udp", c.at)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			b := make([]byte, 100)
			var n int
			until(t, "an answer", func() bool {
				conn.Write([]byte("who am I?"))
				conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				n, err = conn.Read(b)
				return err == nil
			})
			at, _, _ := strings.Cut(string(b[:n]), " ")
			me := netip.MustParseAddrPort(at)
			if me.Addr() != addr(c.seen) {
				t.Fatalf("outside sees %s", me)
			}
			about := packet.Packet{Proto: packet.UDP, Src: me, Dst: netip.MustParseAddrPort(c.at)}
			quoted, err := about.Append(nil, make([]byte, 8))
			if err != nil {
				t.Fatal(err)
			}
			rest := binary.BigEndian.AppendUint32(nil, uint32(c.mtu))
			if err := in.Send(icmpPacket(addr(c.router), addr(c.seen), c.kind, c.code, append(rest, quoted...))); err != nil {
				t.Fatal(err)
			}
			until(t, "the path's MTU is known", func() bool {
				raw, err := conn.(*net.UDPConn).SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				mtu := 0
				raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), c.level, c.option) })
				return err == nil && mtu == c.mtu
			})
		})
	}
}

// A gateway whose neighbours forget it, and that forgets them, is found again.
func TestNeighboursAreFoundThroughTheGuard(t *testing.T) {
	lab.NeedTool(t, "ip")
	g := newTown(t, "share lan to wan", "open wan:443 to ["+lab.Inside6+"]")
	newDesk(t, g.Inside, ":443")
	newDesk(t, g.Outside, ":80")
	for range 5 {
		for _, h := range []*lab.Host{g.Gateway.Gateway, g.Outside, g.Inside} {
			for _, family := range []string{"-4", "-6"} {
				if out, err := h.Command(t, "ip", family, "neigh", "flush", "all").CombinedOutput(); err != nil && !strings.Contains(string(out), "Nothing to flush") {
					t.Fatalf("ip neigh flush: %v\n%s", err, out)
				}
			}
		}
		g.answers(g.Outside, "tcp", "["+lab.Inside6+"]:443")
		g.answers(g.Inside, "tcp", "["+lab.Outside6+"]:80")
		g.answers(g.Inside, "tcp", lab.Outside4+":80")
	}
}
