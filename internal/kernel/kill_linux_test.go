package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/conntrack"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/nft"
)

// A leg is one way for a connection to go through the gateway.
type leg struct {
	name   string
	client *lab.Host
	asks   [2]string // of IPv4 and IPv6: the address that the client asks
	server *lab.Host
	serves [2]string
	ports  fairlead.Ports
	shift  int // what is added to the port on the way
}

// legs are all ways that matter to what ends a connection: who the client is,
// whether the target sees it, and which hosts are the gateway itself.
func legs(g *lab.Gateway) []leg {
	wan := [2]string{lab.WAN4, lab.WAN6}
	inside, here := [2]string{lab.Inside4, lab.Inside6}, [2]string{lab.WAN4, lab.WAN6}
	return []leg{
		{"the source kept", g.Outside, wan, g.Inside, inside, fairlead.Ports{First: 8000, Last: 8009}, 0},
		{"masqueraded", g.Outside, wan, g.Inside, inside, fairlead.Ports{First: 8100, Last: 8109}, 0},
		{"from the LAN", g.Beside, wan, g.Inside, inside, fairlead.Ports{First: 8200, Last: 8209}, 0},
		{"from the target itself", g.Inside, wan, g.Inside, inside, fairlead.Ports{First: 8300, Last: 8309}, 0},
		{"from the gateway", g.Gateway, wan, g.Inside, inside, fairlead.Ports{First: 8400, Last: 8409}, 0},
		{"to the gateway", g.Outside, wan, g.Gateway, here, fairlead.Ports{First: 8500, Last: 8509}, 1000},
		{"from the gateway to itself", g.Gateway, wan, g.Gateway, here, fairlead.Ports{First: 8600, Last: 8609}, 1000},
		{"at an address of nobody's", g.Outside, [2]string{"203.0.113.77", "2001:db8:1::77"}, g.Inside, inside, fairlead.Ports{First: 8700, Last: 8709}, 0},
	}
}

// legRules lead the legs on, as the carrier's own table does.
func legRules(g *lab.Gateway) string {
	var pre, post strings.Builder
	for _, l := range legs(g) {
		for i, family := range []string{"ip", "ip6"} {
			for p := int(l.ports.First); p <= int(l.ports.Last); p++ {
				match := fmt.Sprintf("%s daddr %s meta l4proto { tcp, udp } th dport %d", family, l.asks[i], p)
				if l.shift != 0 {
					fmt.Fprintf(&pre, "\t\t%s dnat to :%d\n", match, p+l.shift)
				} else {
					fmt.Fprintf(&pre, "\t\t%s dnat %s to %s\n", match, family, l.serves[i])
				}
			}
		}
	}
	fmt.Fprintf(&post, "\t\tct status dnat meta l4proto { tcp, udp } th dport 8100-8499 masquerade\n")
	return "table inet legs {\n\tchain pre {\n\t\ttype nat hook prerouting priority -100\n" + pre.String() +
		"\t}\n\tchain out {\n\t\ttype nat hook output priority -100\n" + pre.String() +
		"\t}\n\tchain post {\n\t\ttype nat hook postrouting priority 100\n" + post.String() + "\t}\n}\n"
}

// legPlan is the plan that says so: a forward for each leg.
func legPlan(list []leg) *plan {
	p := &plan{table: &nft.Table{}}
	for _, l := range list {
		pt := part{f: &fairlead.Forward{Name: l.name, Kind: fairlead.KindNAT, At: fairlead.Spot{Net: fairlead.TCP | fairlead.UDP}}}
		for i := range l.asks {
			for _, proto := range []uint8{protoTCP, protoUDP} {
				pt.entries = append(pt.entries, entry{proto: proto, at: netip.MustParseAddr(l.asks[i]), ports: l.ports})
			}
			pt.targets = append(pt.targets, netip.AddrPortFrom(netip.MustParseAddr(l.serves[i]), l.ports.First+uint16(l.shift)))
		}
		p.parts = append(p.parts, pt)
	}
	return p
}

// A legTown is a gateway with all legs, and the carrier that knows of them.
type legTown struct {
	*lab.Gateway
	t *testing.T
	k *Kernel
}

func newLegTown(t *testing.T, rules func(*lab.Gateway) string) *legTown {
	g := lab.NewGateway(t)
	tn := &legTown{Gateway: g, t: t}
	for _, a := range []struct{ dst, via string }{{"203.0.113.77/32", lab.WAN4}, {"2001:db8:1::77/128", lab.WAN6}} {
		g.Outside.Route(a.dst, a.via, "eth0")
	}
	tn.bridged(false)
	tn.load(rules(g))
	tn.k = New(Config{Table: "fairlead", In: g.Gateway.Do, Watch: func(e fairlead.Event) {
		t.Errorf("trouble: %v", e.Problem)
	}})
	t.Cleanup(tn.k.Close)
	tn.k.ledger.turn(legPlan(legs(g)), tn.here())
	return tn
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

func (tn *legTown) here() map[netip.Addr]bool {
	here := map[netip.Addr]bool{}
	err := tn.Gateway.Gateway.Do(func() error {
		all, err := netmon.Interfaces()
		for _, i := range all {
			for _, a := range i.Addrs {
				here[a.WithZone("")] = true
			}
		}
		return err
	})
	if err != nil {
		tn.t.Fatal(err)
	}
	return here
}

func (tn *legTown) load(script string) {
	tn.t.Helper()
	lab.NeedTool(tn.t, "nft")
	c := tn.Gateway.Gateway.Command(tn.t, "nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		tn.t.Fatalf("nft: %v\n%s", err, out)
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
	port := int(l.ports.First) + n
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
		tn.t.Fatalf("connect: %v (tracked: %+v)", err, tn.tracked())
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

func (tn *legTown) tracked() (list []conntrack.Entry) {
	tn.t.Helper()
	err := tn.Gateway.Gateway.Do(func() error {
		return conntrack.Each(tn.t.Context(), func(e *conntrack.Entry) bool {
			if live(e) {
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
	tn := newLegTown(t, legRules)
	for _, l := range legs(tn.Gateway) {
		for family, name := range []string{"IPv4", "IPv6"} {
			t.Run(l.name+"/"+name, func(t *testing.T) {
				meant, other := tn.connect(l, family, 0, 0), tn.connect(l, family, 1, 0)
				meant.talk(t)
				id := ""
				for _, c := range tn.k.Conns() {
					if c.Client == meant.client.LocalAddr().String() && strings.HasSuffix(c.Local, strconv.Itoa(int(l.ports.First))) {
						id = c.ID
						if c.Forward != l.name || c.Target != meant.server.LocalAddr().String() || c.Local != meant.client.RemoteAddr().String() || c.Network != "tcp" {
							t.Errorf("listed as %+v", c)
						}
					}
				}
				if id == "" {
					t.Fatalf("the connection is not among %+v", tn.k.Conns())
				}
				if n := tn.k.Kill(fairlead.Match{ID: id, Forward: l.name}); n != 1 {
					t.Fatalf("Kill ended %d connections, want 1", n)
				}
				meant.over(t)
				other.talk(t)
				if n := tn.k.Kill(fairlead.Match{Forward: l.name}); n != 1 {
					t.Errorf("Kill of the rest ended %d connections, want 1", n)
				}
				other.over(t)
				for _, e := range tn.tracked() {
					if e.Original.Proto == protoTCP {
						t.Errorf("still tracked: %+v", e)
					}
				}
			})
		}
	}
}

