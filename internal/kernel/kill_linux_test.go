package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/conntrack"
)

// A leg is one way for a connection to go through the gateway, for IPv4 and IPv6.
type leg struct {
	name           string
	client, server *lab.Host
	asks, serves   [2]string // addresses
	words          string    // of its forwards, behind the target
	port           int       // the first of ten
	shift          int       // what is added to the port on the way
}

// legs are all ways that matter to what ends a connection: who the client is,
// whether the target sees it, and which ends are on the gateway itself.
func legs(g *lab.Gateway) []leg {
	wan, inside := [2]string{lab.WAN4, lab.WAN6}, [2]string{lab.Inside4, lab.Inside6}
	return []leg{
		{"the source kept", g.Outside, g.Inside, wan, inside, "", 8000, 0},
		{"masqueraded", g.Outside, g.Inside, wan, inside, " masquerade", 8100, 0},
		{"shifted", g.Outside, g.Inside, wan, inside, "", 8200, 1000},
		{"from the LAN", g.Beside, g.Inside, wan, inside, "", 8300, 0},
		{"from the target itself", g.Inside, g.Inside, wan, inside, "", 8400, 0},
		{"from the gateway", g.Gateway, g.Inside, wan, inside, "", 8500, 0},
		{"to the gateway", g.Outside, g.Gateway, wan, wan, "", 8600, 1000},
		{"from the gateway to itself", g.Gateway, g.Gateway, wan, wan, "", 8700, 1000},
		{"at an address of nobody's", g.Outside, g.Inside, nobodys, inside, "", 8800, 0},
	}
}

// nobodys are addresses that no host has, and that the outside sends to the
// gateway.
var nobodys = [2]string{"203.0.113.77", "2001:db8:1::77"}

// forward is the name of the leg's forward, and its sentence.
func (l *leg) forward(family int) (name, sentence string) {
	target := bracketed(l.serves[family])
	if l.serves == l.asks {
		target = "self"
	}
	return fmt.Sprintf("%s %d", l.name, 6*family), fmt.Sprintf("nat %s:%d-%d/tcp+udp to %s:%d-%d%s",
		bracketed(l.asks[family]), l.port, l.port+9, target, l.port+l.shift, l.port+l.shift+9, l.words)
}

func bracketed(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

// A legTown is a town whose connections are looked at from both ends.
type legTown struct{ *town }

func newLegTown(t *testing.T) *legTown {
	tn := &legTown{newTown(t)}
	tn.k.cfg.Watch = func(e fairlead.Event) { t.Errorf("trouble: %v", e.Problem) }
	tn.Outside.Route(nobodys[0]+"/32", lab.WAN4, "eth0")
	tn.Outside.Route(nobodys[1]+"/128", lab.WAN6, "eth0")
	tn.bridged(false)
	return tn
}

// wishes are forwards by their names and sentences, in turns.
func (tn *legTown) wishes(list ...string) (want []*fairlead.Forward) {
	for pair := range slices.Chunk(list, 2) {
		want = append(want, wish(tn.t, pair[0], pair[1]))
	}
	return want
}

// apply carries these, none of which may fail.
func (tn *legTown) apply(list ...string) {
	tn.t.Helper()
	for _, st := range tn.k.Apply(tn.t.Context(), tn.wishes(list...)) {
		if st.Problem != nil && !st.Problem.Warning {
			tn.t.Fatalf("%s: %v", st.Forward.Expr, st.Problem)
		}
	}
}

// bridged has the rules see packets already as frames of the bridge, as they do
// wherever br_netfilter is loaded; then a host of the bridge cannot reach itself
// by way of the gateway.
func (tn *legTown) bridged(on bool) {
	value := "0"
	if on {
		value = "1"
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		err := tn.Gateway.Gateway.Do(func() error {
			return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte(value), 0)
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			tn.t.Fatal(err)
		}
	}
}

// A call is both ends of one connection.
type call struct {
	client, server *net.TCPConn
}

// connect makes a connection over a leg, of IPv4 (0) or IPv6 (1), at the n-th
// port, from that port of the client or, for 0, any.
func (tn *legTown) connect(l leg, family, n int, from uint16) call {
	tn.t.Helper()
	port := l.port + n
	ctx, cancel := context.WithTimeout(tn.t.Context(), 10*time.Second)
	defer cancel()
	ln, err := l.server.Listen(ctx, "tcp", net.JoinHostPort(l.serves[family], strconv.Itoa(port+l.shift)))
	if err != nil {
		tn.t.Fatal(err)
	}
	defer ln.Close()
	d := net.Dialer{KeepAlive: -1, Control: reusing}
	if from != 0 {
		d.LocalAddr = &net.TCPAddr{Port: int(from)}
	}
	d.SetMultipathTCP(false)
	var c net.Conn
	err = l.client.Do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp", net.JoinHostPort(l.asks[family], strconv.Itoa(port)))
		return err
	})
	if err != nil {
		tn.t.Fatalf("connect: %v (tracked: %+v)", err, tn.tracked(protoTCP))
	}
	s, err := ln.Accept()
	if err != nil {
		tn.t.Fatal(err)
	}
	p := call{c.(*net.TCPConn), s.(*net.TCPConn)}
	tn.t.Cleanup(func() { p.client.Close(); p.server.Close() })
	p.server.SetKeepAlive(false)
	return p
}

// reusing lets a test take the port of a connection that has just ended.
func reusing(_, _ string, c syscall.RawConn) error {
	var err error
	c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
	return err
}

// talk sends a byte each way.
func (p call) talk(t *testing.T) {
	t.Helper()
	for _, way := range [][2]*net.TCPConn{{p.client, p.server}, {p.server, p.client}} {
		way[0].SetDeadline(time.Now().Add(10 * time.Second))
		way[1].SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := way[0].Write([]byte("x")); err != nil {
			t.Errorf("a connection that was not meant: %v", err)
			return
		}
		if _, err := io.ReadFull(way[1], make([]byte, 1)); err != nil {
			t.Errorf("a connection that was not meant: %v", err)
		}
		way[0].SetDeadline(time.Time{})
		way[1].SetDeadline(time.Time{})
	}
}

// over checks that both ends are reset, although neither sends anything.
func (p call) over(t *testing.T) {
	t.Helper()
	for _, end := range []struct {
		name string
		c    *net.TCPConn
	}{{"client", p.client}, {"target", p.server}} {
		end.c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := end.c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s reads %v, want a reset", end.name, err)
		}
	}
}

// tracked are the connections that the gateway tracks and that have not ended.
func (tn *legTown) tracked(proto uint8) (list []conntrack.Entry) {
	tn.t.Helper()
	err := tn.Gateway.Gateway.Do(func() error {
		return conntrack.Each(tn.t.Context(), func(e *conntrack.Entry) bool {
			if live(e) && e.Original.Proto == proto {
				list = append(list, *e)
			}
			return true
		})
	})
	if err != nil {
		tn.t.Fatal(err)
	}
	return list
}

func (tn *legTown) tables() string {
	out, err := tn.Gateway.Gateway.Command(tn.t, "nft", "list", "tables").Output()
	if err != nil {
		tn.t.Fatal(err)
	}
	return string(out)
}

func TestKillEndsIdleConnectionsAtBothEnds(t *testing.T) {
	tn := newLegTown(t)
	var list []string
	for _, l := range legs(tn.Gateway) {
		for family := range 2 {
			name, sentence := l.forward(family)
			list = append(list, name, sentence)
		}
	}
	tn.apply(list...)
	for _, l := range legs(tn.Gateway) {
		for family := range 2 {
			name, _ := l.forward(family)
			t.Run(name, func(t *testing.T) {
				meant, other := tn.connect(l, family, 0, 0), tn.connect(l, family, 1, 0)
				meant.talk(t)
				want := fairlead.Conn{
					Forward: name, Network: "tcp", Client: meant.client.LocalAddr().String(),
					Local: meant.client.RemoteAddr().String(), Target: meant.server.LocalAddr().String(),
					In: -1, Out: -1,
				}
				conns := tn.k.Conns()
				at := slices.IndexFunc(conns, func(c fairlead.Conn) bool { return c.Client == want.Client && c.Local == want.Local })
				if len(conns) != 2 || at < 0 {
					t.Fatalf("two connections are listed as %+v", conns)
				}
				if want.ID = conns[at].ID; conns[at] != want {
					t.Errorf("listed as %+v, want %+v", conns[at], want)
				}
				if n := tn.k.Kill(fairlead.Match{ID: want.ID, Forward: name}); n != 1 {
					t.Fatalf("Kill ended %d connections, want 1", n)
				}
				meant.over(t)
				other.talk(t)
				if n := tn.k.Kill(fairlead.Match{Forward: name}); n != 1 {
					t.Errorf("Kill of the rest ended %d connections, want 1", n)
				}
				other.over(t)
				if list := tn.tracked(protoTCP); len(list) > 0 {
					t.Errorf("still tracked: %+v", list)
				}
			})
		}
	}
}

func (tn *legTown) leg(i int) leg { return legs(tn.Gateway)[i] }

func TestKillEndsWhatAFirewallBeforeAnEndTracks(t *testing.T) {
	// Hosts that let in only what their own tracking knows drop a packet that
	// is out of order.
	const guard = `table inet guard {
		chain in {
			type filter hook input priority 0; policy drop
			ct state invalid drop
			ct state established,related accept
			ct state new tcp flags syn / fin,syn,rst,ack accept
			meta l4proto { icmp, ipv6-icmp } accept
		}
	}`
	tn := newLegTown(t)
	for _, h := range []*lab.Host{tn.Outside, tn.Inside} {
		nftLoad(t, h, guard)
	}
	for family := range 2 {
		l := tn.leg(0)
		name, sentence := l.forward(family)
		tn.apply(name, sentence)
		c := tn.connect(l, family, 0, 0)
		c.talk(t)
		if n := tn.k.Kill(fairlead.Match{Forward: name}); n != 1 {
			t.Errorf("Kill ended %d connections, want 1", n)
		}
		c.over(t)
	}
}

func nftLoad(t *testing.T, h *lab.Host, script string) {
	t.Helper()
	c := h.Command(t, "nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

func TestKillDoesNotDependOnHowTheKernelTakesUpConnections(t *testing.T) {
	for _, c := range []struct{ name, key, value string }{
		{"loose", "net.netfilter.nf_conntrack_tcp_loose", "1"},
		{"strict", "net.netfilter.nf_conntrack_tcp_loose", "0"},
		{"liberal", "net.netfilter.nf_conntrack_tcp_be_liberal", "1"},
		{"frames", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tn := newLegTown(t)
			if c.key != "" {
				tn.Gateway.Gateway.Sysctl(c.key, c.value)
			} else {
				tn.bridged(true)
			}
			for _, i := range []int{0, 3} {
				l := tn.leg(i)
				name, sentence := l.forward(0)
				tn.apply(name, sentence)
				p := tn.connect(l, 0, 0, 0)
				p.talk(t)
				if n := tn.k.Kill(fairlead.Match{Forward: name}); n != 1 {
					t.Errorf("%s: Kill ended %d connections, want 1", name, n)
				}
				p.over(t)
			}
		})
	}
}

func TestKillEndsHalfClosedConnections(t *testing.T) {
	tn := newLegTown(t)
	l := tn.leg(0)
	name, sentence := l.forward(0)
	tn.apply(name, sentence)
	for _, half := range []string{"client", "target"} {
		c := tn.connect(l, 0, 0, 0)
		c.talk(t)
		ended, other := c.client, c.server
		if half == "target" {
			ended, other = other, ended
		}
		ended.CloseWrite()
		if n, err := other.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("read %d, %v", n, err)
		}
		if n := tn.k.Kill(fairlead.Match{Forward: name}); n != 1 {
			t.Errorf("the %s had ended: Kill ended %d connections, want 1", half, n)
		}
		ended.SetReadDeadline(time.Now().Add(patience))
		if _, err := ended.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the %s, which had ended its direction, reads %v, want a reset", half, err)
		}
		until(t, "the other end cannot write", func() bool { _, err := other.Write([]byte("x")); return err != nil })
		c.client.Close()
		c.server.Close()
	}
}

func TestKillSelectsByClient(t *testing.T) {
	tn := newLegTown(t)
	kept, lan := tn.leg(0), tn.leg(3)
	var list []string
	for _, l := range []leg{kept, lan} {
		name, sentence := l.forward(0)
		list = append(list, name, sentence)
	}
	tn.apply(list...)
	a, b := tn.connect(kept, 0, 0, 0), tn.connect(lan, 0, 0, 0)
	if n := tn.k.Kill(fairlead.Match{}); n != 0 {
		t.Errorf("an empty match ended %d connections", n)
	}
	if n := tn.k.Kill(fairlead.Match{Client: netip.MustParseAddr("::ffff:" + lab.Outside4)}); n != 1 {
		t.Errorf("Kill ended %d connections, want 1", n)
	}
	a.over(t)
	b.talk(t)
}

func TestAKilledConnectionsPortsCanBeUsedAgain(t *testing.T) {
	tn := newLegTown(t)
	tn.k.killing.life = time.Second
	l := tn.leg(0)
	name, sentence := l.forward(0)
	tn.apply(name, sentence)
	c := tn.connect(l, 0, 0, 0)
	port := uint16(c.client.LocalAddr().(*net.TCPAddr).Port)
	tn.k.Kill(fairlead.Match{Forward: name})
	c.over(t)
	c.client.Close()
	c.server.Close()
	if !strings.Contains(tn.tables(), "fairlead-killed") {
		t.Errorf("nothing refuses what is killed; there are\n%s", tn.tables())
	}
	until(t, "the table that refuses is gone", func() bool { return !strings.Contains(tn.tables(), "killed") })
	tn.connect(l, 0, 0, port).talk(t)
	if n := len(tn.k.Conns()); n != 1 {
		t.Errorf("%d connections are listed, want 1", n)
	}
}

func TestTheTableThatRefusesGoesWithTheCarrier(t *testing.T) {
	tn := newLegTown(t)
	l := tn.leg(0)
	name, sentence := l.forward(0)
	tn.apply(name, sentence)
	tn.connect(l, 0, 0, 0)
	tn.k.Kill(fairlead.Match{Forward: name})
	tn.k.Close()
	if list := tn.tables(); strings.Contains(list, "killed") {
		t.Errorf("there are\n%s", list)
	}
	if n := tn.k.Kill(fairlead.Match{Forward: name}); n != 0 {
		t.Errorf("a carrier that is closed ended %d connections", n)
	}
}

func TestKillOfUDPDropsWhatComes(t *testing.T) {
	tn := newLegTown(t)
	tn.k.killing.life = time.Second
	l := tn.leg(1)
	name, sentence := l.forward(0)
	tn.apply(name, sentence)
	c, other := tn.datagrams(l, 0, 0), tn.datagrams(l, 0, 1)
	c.answered(t)
	other.answered(t)
	conns := tn.k.Conns()
	if len(conns) != 2 || conns[0].Network != "udp" {
		t.Fatalf("two connections are listed as %+v", conns)
	}
	if n := tn.k.Kill(fairlead.Match{ID: conns[0].ID}); n != 1 {
		t.Errorf("Kill ended %d connections, want 1", n)
	}
	if conns[0].Client != c.client.LocalAddr().String() {
		c, other = other, c
	}
	c.unanswered(t)
	other.answered(t)
	until(t, "a new connection between the same ports is let in", func() bool { return c.asks() })
}

func TestWithoutRawSocketsIdleConnectionsEndWithTheirNextPacket(t *testing.T) {
	tn := newLegTown(t)
	var told []fairlead.Code
	tn.k.cfg.Watch = func(e fairlead.Event) { told = append(told, e.Problem.Code) }
	l := tn.leg(0)
	name, sentence := l.forward(0)
	tn.apply(name, sentence)
	c := tn.connect(l, 0, 0, 0)
	// The right is the thread's that Kill runs on; it is not given back.
	done := make(chan int)
	go func() {
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var has [2]unix.CapUserData
		unix.Capget(&header, &has[0])
		has[0].Effective &^= 1 << unix.CAP_NET_RAW
		unix.Capset(&header, &has[0])
		done <- tn.k.Kill(fairlead.Match{Forward: name})
	}()
	if n := <-done; n != 1 {
		t.Errorf("Kill ended %d connections, want 1", n)
	}
	if !slices.Equal(told, []fairlead.Code{fairlead.CodeKillWaits}) {
		t.Errorf("told of %v, want %v", told, fairlead.CodeKillWaits)
	}
	c.client.Write([]byte("x"))
	c.server.Write([]byte("x"))
	c.over(t)
}

// A datagram is a client of UDP and the server that answers it.
type datagram struct {
	client, server *net.UDPConn
}

// datagrams opens a client of a leg, and a server that tells every client its
// address.
func (tn *legTown) datagrams(l leg, family, n int) datagram {
	tn.t.Helper()
	server := tn.answering(l.server, l.serves[family], l.port+n+l.shift, l.server.Name)
	return datagram{tn.asking(l.client, net.JoinHostPort(l.asks[family], strconv.Itoa(l.port+n))), server}
}

// answering serves UDP there, with the same words for everybody.
func (tn *legTown) answering(h *lab.Host, addr string, port int, words string) *net.UDPConn {
	tn.t.Helper()
	pc, err := h.ListenPacket(tn.t.Context(), "udp", net.JoinHostPort(addr, strconv.Itoa(port)))
	if err != nil {
		tn.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 100)
		for {
			_, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort([]byte(words), from)
		}
	})
	tn.t.Cleanup(func() { pc.Close(); wg.Wait() })
	return pc
}

func (tn *legTown) asking(h *lab.Host, at string) *net.UDPConn {
	tn.t.Helper()
	c, err := h.DialContext(tn.t.Context(), "udp", at)
	if err != nil {
		tn.t.Fatal(err)
	}
	tn.t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// asks reports whether a datagram is answered.
func (d datagram) asks() bool { return askUDP(d.client) != "" }

// askUDP sends one datagram and returns the answer, "" when none comes for
// longer than any way here takes.
func askUDP(c *net.UDPConn) string {
	b := make([]byte, 100)
	if _, err := c.Write([]byte("?")); err != nil {
		return ""
	}
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := c.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func (d datagram) answered(t *testing.T) {
	t.Helper()
	if !d.asks() {
		t.Errorf("a datagram from %s was not answered", d.client.LocalAddr())
	}
}

func (d datagram) unanswered(t *testing.T) {
	t.Helper()
	if d.asks() {
		t.Errorf("a datagram from %s was answered", d.client.LocalAddr())
	}
}
