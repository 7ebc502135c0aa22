package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/relay"
)

// here is this host without a cache of names.
type here struct{ net.Dialer }

func (h *here) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

func newRelay(t *testing.T, cfg relay.Config) *relay.Relay {
	t.Helper()
	if cfg.Place == nil {
		cfg.Place = func(string) (fairlead.Place, error) { return &here{}, nil }
	}
	r := relay.New(cfg)
	t.Cleanup(r.Close)
	return r
}

var names = 0

// forward is a wish to carry network from a free loopback port to target.
func forward(t *testing.T, network fairlead.Network, target string) *fairlead.Forward {
	t.Helper()
	names++
	to := netip.MustParseAddrPort(target)
	port := freePort(t)
	f := &fairlead.Forward{
		Name: fmt.Sprintf("f%d", names), Kind: fairlead.KindForward,
		At: fairlead.Spot{Addr: netip.MustParseAddr("127.0.0.1"), Ports: fairlead.PortList{{First: port, Last: port}}, Net: network},
		To: []fairlead.Target{{Host: to.Addr().String(), Ports: fairlead.PortList{{First: to.Port(), Last: to.Port()}}}},
	}
	f.Expr = fmt.Sprintf("forward %s to %s", f.At.String(), f.To[0].Dest())
	return f
}

func freePort(t *testing.T) uint16 {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func parseAddr(s string) netip.Addr { return netip.MustParseAddr(s) }

func at(f *fairlead.Forward) string {
	return netip.AddrPortFrom(f.At.Addr, f.At.Ports[0].First).String()
}

func TestSmokeEcho(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.(*net.TCPConn).CloseWrite(); c.Close() }()
		}
	}()
	r := newRelay(t, relay.Config{})
	f := forward(t, fairlead.TCP, ln.Addr().String())
	if st := r.Apply(t.Context(), []*fairlead.Forward{f}); st[0].Problem != nil {
		t.Fatal(st[0].Problem)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			c, err := net.Dial("tcp", at(f))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			n := int64(i * 100000)
			go func() { io.CopyN(c, zeros{}, n); c.(*net.TCPConn).CloseWrite() }()
			got, err := io.Copy(io.Discard, c)
			if err != nil || got != n {
				t.Errorf("got %d of %d bytes: %v", got, n, err)
			}
		})
	}
	wg.Wait()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestSmokeRefused(t *testing.T) {
	r := newRelay(t, relay.Config{})
	f := forward(t, fairlead.TCP, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c, err := net.Dial("tcp", at(f))
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v, want a reset", err)
	}
}

func TestSmokeUDP(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		b := make([]byte, 65536)
		for {
			n, a, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], a)
		}
	}()
	r := newRelay(t, relay.Config{})
	f := forward(t, fairlead.UDP, pc.LocalAddr().String())
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for i := range 20 {
		c, err := net.Dial("udp", at(f))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for j := range 10 {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			c.Write(make([]byte, j*i))
			if n, err := c.Read(make([]byte, 65536)); err != nil || n != i*j {
				t.Fatalf("got %d bytes, %v; want %d", n, err, i*j)
			}
		}
	}
	if n := len(r.Conns()); n != 20 {
		t.Errorf("%d sessions, want 20", n)
	}
}
