package helper

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/lab"
)

// patience bounds whatever has to come about.
const patience = 20 * time.Second

// A town is a helper between two networks of clients and one of servers:
//
//	Left  eth0 ── lan0 Between up0 ── eth0 Server
//	Right eth0 ── lan1
type town struct {
	t                            *testing.T
	net                          *lab.Net
	left, right, between, server *lab.Host
	h                            *Helper

	mu     sync.Mutex // guards the rest
	lan    []string
	events []fairlead.Event
}

const (
	left4, right4, server4    = "192.168.1.10", "192.168.2.10", "10.9.0.2"
	lan0, lan1, up0           = "192.168.1.1", "192.168.2.1", "10.9.0.1"
	lan06, up06, server6, lb6 = "2001:db8:1::1", "2001:db8:9::1", "2001:db8:9::2", "2001:db8:2::1"
)

func newTown(t *testing.T) *town {
	t.Helper()
	lab.CheckLeaks(t)
	n := lab.NewNet(t)
	g := &town{t: t, net: n, left: n.Host("left"), right: n.Host("right"), between: n.Host("between"), server: n.Host("server"), lan: []string{"lan0", "lan1"}}
	n.Wire(g.between, "lan0", g.left, "eth0")
	n.Wire(g.between, "lan1", g.right, "eth0")
	n.Wire(g.between, "up0", g.server, "eth0")
	g.between.Addr("lan0", lan0+"/24", lan06+"/64")
	g.between.Addr("lan1", lan1+"/24", lb6+"/64")
	g.between.Addr("up0", up0+"/24", up06+"/64")
	g.server.Addr("eth0", server4+"/24", server6+"/64")
	g.server.Route("0.0.0.0/0", up0, "eth0")
	g.server.Route("::/0", up06, "eth0")
	g.between.Sysctl("net.ipv4.ip_forward", "1")
	g.between.Sysctl("net.ipv6.conf.all.forwarding", "1")
	g.h = g.helper(g.between)
	return g
}

// helper is one that works on a host.
func (g *town) helper(on *lab.Host) *Helper {
	h := New(Config{
		In:    on.Do,
		Sides: func() (wan, lan []string, err error) { return []string{"up0"}, slices.Clone(g.lan), nil },
		Watch: func(e fairlead.Event) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.events = append(g.events, e)
		},
	})
	g.t.Cleanup(h.Close)
	return h
}

// addressed gives the clients their addresses.
func (g *town) addressed() {
	g.left.Addr("eth0", left4+"/24")
	g.right.Addr("eth0", right4+"/24")
	g.left.Route("0.0.0.0/0", lan0, "eth0")
	g.right.Route("0.0.0.0/0", lan1, "eth0")
}

// carry has exactly the sentences carried by h; broken ones fail the test.
func (g *town) carry(h *Helper, sentences ...string) []fairlead.Status {
	g.t.Helper()
	want := make([]*fairlead.Forward, len(sentences))
	for i, s := range sentences {
		want[i] = wish(g.t, fmt.Sprintf("f%d", i), s)
		if err := h.Fits(want[i]); err != nil {
			g.t.Fatalf("%s: %v", s, err)
		}
	}
	list := h.Apply(g.t.Context(), want)
	for _, st := range list {
		if st.Problem != nil {
			g.t.Fatalf("%s: %s: %v", st.Forward.Expr, st.State, st.Problem)
		}
	}
	return list
}

// wish is the forward of a sentence, as the engine hands it to a carrier.
func wish(t *testing.T, name, sentence string) *fairlead.Forward {
	t.Helper()
	f, problems := config.ParseSentence(sentence)
	if len(problems) > 0 {
		t.Fatalf("%s: %v", sentence, problems[0])
	}
	f.Name = name
	return f
}

// told reports whether trouble of that code was told.
func (g *town) told(code fairlead.Code) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.events, func(e fairlead.Event) bool { return e.Problem != nil && e.Problem.Code == code })
}

// A desk hears datagrams at a port of a host and notes them; with answers it
// says each back in capitals.
type desk struct {
	mu    sync.Mutex // guards heard
	heard []string   // "TEXT from ADDRESS:PORT"
}

func newDesk(t *testing.T, on *lab.Host, at string, answers bool) *desk {
	t.Helper()
	c, err := on.ListenPacket(t.Context(), "udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			d.mu.Lock()
			d.heard = append(d.heard, fmt.Sprintf("%s from %s", b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())))
			d.mu.Unlock()
			if answers {
				c.WriteToUDPAddrPort([]byte(strings.ToUpper(string(b[:n]))), from)
			}
		}
	}()
	return d
}

func (d *desk) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.heard)
}

// shout sends a text from a port of a host to an address, and returns the socket.
func shout(t *testing.T, on *lab.Host, from, to, text string) *net.UDPConn {
	t.Helper()
	c, err := on.ListenPacket(t.Context(), "udp4", from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to)); err != nil {
		t.Fatal(err)
	}
	return c
}

// hear is the next datagram and its sender.
func hear(t *testing.T, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 2000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if err := poll(ok); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func poll(ok func() bool) error {
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			return errors.New("it did not come about")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// arrives reports whether something comes in soon; it stays to be heard.
func arrives(c *net.UDPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	got := false
	raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		got = err == nil && n > 0
		return got
	})
	return got
}
