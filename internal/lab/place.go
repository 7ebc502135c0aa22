package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead"
)

// A Ground is what [TestPlace] examines: a place, what it can do, and where
// the people it talks to stand. Zero fields mean loopback.
type Ground struct {
	// Start makes the place; what it opens is closed by a cleanup of t. It is
	// called once for each case.
	Start func(t *testing.T) fairlead.Place

	Dials   []string // of tcp, udp, unix; the others must be unsupported
	Listens []string // of tcp, unix; likewise

	Target *Host      // where the place can dial to
	At     netip.Addr // Target's address, as dialed from the place
	Client *Host      // who can reach what the place listens at
	Entry  netip.Addr // the address to listen at
}

// TestPlace runs the suite for places, one subtest for each case, with a leak
// check after each. It must not run beside other tests of its process.
func TestPlace(t *testing.T, g Ground) {
	if !g.At.IsValid() {
		g.At = loopbacks()[0]
	}
	if !g.Entry.IsValid() {
		g.Entry = loopbacks()[0]
	}
	dialsTCP, listensTCP := slices.Contains(g.Dials, "tcp"), slices.Contains(g.Listens, "tcp")
	for _, c := range []struct {
		name  string
		asked bool
		run   func(*ground)
	}{
		{"dial", dialsTCP, dialEchoes},
		{"half-close", dialsTCP, dialHalfCloses},
		{"reset", dialsTCP, dialResets},
		{"deadline", dialsTCP, dialDeadline},
		{"refused", dialsTCP, dialRefused},
		{"cancel", dialsTCP, dialCancelled},
		{"dial-many", dialsTCP, dialMany},
		{"dial-unix", slices.Contains(g.Dials, "unix"), dialUnix},
		{"dial-udp", slices.Contains(g.Dials, "udp"), dialDatagrams},
		{"listen", listensTCP, listenEchoes},
		{"listen-taken", listensTCP, listenTaken},
		{"listen-unix", slices.Contains(g.Listens, "unix"), listenUnix},
		{"unsupported", true, unsupported},
	} {
		if c.asked {
			t.Run(c.name, func(t *testing.T) {
				CheckLeaks(t)
				c.run(&ground{T: t, Ground: g, place: g.Start(t)})
			})
		}
	}
}

// A ground is one case in play.
type ground struct {
	*testing.T
	Ground
	place fairlead.Place
}

func (g *ground) serve(do Behaviour) *Peer {
	g.Helper()
	return Serve(g, At{Host: g.Target, Address: netip.AddrPortFrom(g.At, 0).String()}, do)
}

func (g *ground) dial(network, address string) net.Conn {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), patience)
	defer cancel() // a connection outlives the context of its dial
	c, err := g.place.DialContext(ctx, network, address)
	if err != nil {
		g.Fatalf("DialContext(%s, %s): %v", network, address, err)
	}
	g.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * patience))
	return c
}

// halfCloser is c, whose writing side every stream of a place can end.
func (g *ground) halfCloser(c net.Conn) HalfCloser {
	g.Helper()
	h, ok := c.(HalfCloser)
	if !ok {
		g.Fatalf("%T has no CloseWrite() error, so that a half-close would be lost", c)
	}
	return h
}

func dialEchoes(g *ground) {
	peer := g.serve(Echo)
	for i, size := range []int64{0, 1, 65537, 4 << 20} {
		c := g.halfCloser(g.dial("tcp", peer.Address))
		x := Transfer{Seed: uint64(400 + i), Size: size}
		if err := x.Over(c); err != nil {
			g.Errorf("%d bytes: %v", size, err)
		}
		if c.LocalAddr() == nil || c.RemoteAddr() == nil {
			g.Errorf("addresses are %v and %v", c.LocalAddr(), c.RemoteAddr())
		}
		c.Close()
		if _, err := c.Write([]byte{1}); err == nil {
			g.Error("writing after Close succeeds")
		}
	}
}

func dialHalfCloses(g *ground) {
	c := g.halfCloser(g.dial("tcp", g.serve(EchoAfterEOF).Address))
	if err := (Transfer{Seed: 410, Size: 1 << 20}).Over(c); err != nil {
		g.Errorf("the client first: %v", err)
	}
	first := g.serve(ServerFirst([]byte("banner")))
	c = g.halfCloser(g.dial("tcp", first.Address))
	if got, err := io.ReadAll(c); err != nil || string(got) != "banner" {
		g.Errorf("the server first: got %q and %v", got, err)
	}
	if _, err := c.Write([]byte("answer")); err != nil {
		g.Errorf("write after the server's end: %v", err)
	}
	if err := c.CloseWrite(); err != nil {
		g.Errorf("CloseWrite: %v", err)
	}
	if v := first.Visit(g); v.Bytes != 6 || v.Err != nil {
		g.Errorf("the server got %d bytes and %v", v.Bytes, v.Err)
	}
}

func dialResets(g *ground) {
	c := g.dial("tcp", g.serve(Reset(1, 0, 1)).Address)
	c.Write([]byte{1})
	if _, err := io.Copy(io.Discard, readerOnly{c}); err == nil {
		g.Error("the target reset the connection, and reading it ends cleanly")
	}
}

func dialDeadline(g *ground) {
	c := g.dial("tcp", g.serve(Echo).Address)
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		g.Errorf("a read past its deadline returns %v, want a timeout", err)
	}
	c.SetReadDeadline(time.Time{})
	if err := echoes(c, "still usable"); err != nil {
		g.Errorf("after a timeout: %v", err)
	}
	// Close ends a read that waits.
	ended := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ended <- err
	}()
	c.Close()
	select {
	case err := <-ended:
		if err == nil {
			g.Error("a read of a closed connection succeeds")
		}
	case <-time.After(patience):
		g.Error("Close leaves a read waiting")
	}
}

func dialRefused(g *ground) {
	address := FreePorts(g, g.Target, g.At, 1).String()
	c, err := g.place.DialContext(g.Context(), "tcp", address)
	if err == nil {
		c.Close()
		g.Fatal("connected to a port where nothing listens")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		g.Errorf("DialContext: %v, which does not match ECONNREFUSED", err)
	}
}

func dialCancelled(g *ground) {
	hole := BlackHole(g, At{Host: g.Target, Address: netip.AddrPortFrom(g.At, 0).String()})
	ctx, cancel := context.WithTimeout(g.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	c, err := g.place.DialContext(ctx, "tcp", hole)
	if err == nil {
		c.Close()
		g.Fatal("connected to a black hole")
	}
	if !isTimeout(err) && !errors.Is(err, context.DeadlineExceeded) {
		g.Errorf("past its deadline DialContext returns %v, want a timeout", err)
	}
	ctx, cancel = context.WithCancel(g.Context())
	cancel()
	if c, err = g.place.DialContext(ctx, "tcp", hole); err == nil {
		c.Close()
		g.Fatal("connected with a context that was over")
	}
	if took := time.Since(began); took > patience/2 {
		g.Errorf("giving up took %v", took)
	}
}

func dialMany(g *ground) {
	const n = 30
	peer := g.serve(Echo)
	failed := make(chan error)
	for i := range n {
		go func() {
			c, err := g.place.DialContext(g.Context(), "tcp", peer.Address)
			if err == nil {
				c.SetDeadline(time.Now().Add(2 * patience))
				err = Transfer{Seed: uint64(420 + i), Size: 200_000, Stalls: true}.Over(c.(HalfCloser))
				c.Close()
			}
			failed <- err
		}()
	}
	for range n {
		if err := <-failed; err != nil {
			g.Error(err)
		}
	}
}

func dialUnix(g *ground) {
	path := filepath.Join(g.TempDir(), "s")
	Serve(g, At{Host: g.Target, Network: "unix", Address: path}, EchoAfterEOF)
	c := g.halfCloser(g.dial("unix", path))
	if err := (Transfer{Seed: 430, Size: 1 << 20}).Over(c); err != nil {
		g.Error(err)
	}
	if c, err := g.place.DialContext(g.Context(), "unix", path+"-not"); err == nil {
		c.Close()
		g.Error("connected to a socket that does not exist")
	}
}

func dialDatagrams(g *ground) {
	peer := ServeUDP(g, At{Host: g.Target, Address: netip.AddrPortFrom(g.At, 0).String()}, UDPEcho)
	c := g.dial("udp", peer.Address)
	buf := make([]byte, 1<<16)
	for i, size := range []int{1, 0, 1200, 0, 9000} {
		data := Stream(440 + i).Bytes(size)
		if _, err := c.Write(data); err != nil {
			g.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], data) {
			g.Fatalf("a datagram of %d bytes came back as %d bytes, or others (%v)", size, n, err)
		}
	}
}

func (g *ground) listen(network, address string) net.Listener {
	g.Helper()
	ln, err := g.place.Listen(g.Context(), network, address)
	if err != nil {
		g.Fatalf("Listen(%s, %s): %v", network, address, err)
	}
	g.Cleanup(func() { ln.Close() })
	return ln
}

// accepts serves an echo at ln, in the manner of a peer, and runs a transfer.
func (g *ground) accepts(ln net.Listener, network, address string) {
	g.Helper()
	echoed := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			v := Visit{Conn: c}
			Echo(&v)
			c.Close()
			err = errors.Join(v.Err, v.Sent)
		}
		echoed <- err
	}()
	x := Transfer{From: g.Client, Network: network, Address: address, Seed: 450, Size: 1 << 20}
	ctx, cancel := context.WithTimeout(g.Context(), patience)
	defer cancel()
	if err := x.Run(ctx); err != nil {
		ln.Close()
		g.Errorf("through the listener: %v", err)
	}
	if err := <-echoed; err != nil {
		g.Errorf("at the listener: %v", err)
	}
}

// stops closes ln, which must end an Accept that waits.
func (g *ground) stops(ln net.Listener) {
	g.Helper()
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			c.Close()
		}
		ended <- err
	}()
	ln.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			g.Errorf("Accept after Close returns %v, want net.ErrClosed", err)
		}
	case <-time.After(patience):
		g.Error("Close leaves Accept waiting")
	}
}

func listenEchoes(g *ground) {
	ln := g.listen("tcp", netip.AddrPortFrom(g.Entry, 0).String())
	address := ln.Addr().String()
	if ap, err := netip.ParseAddrPort(address); err != nil || ap.Port() == 0 {
		g.Fatalf("port 0 became %q: want the port that was chosen", address)
	}
	g.accepts(ln, "tcp", address)
	g.accepts(ln, "tcp", address)
	g.stops(ln)
	c, err := g.Client.DialContext(g.Context(), "tcp", address)
	if err == nil {
		c.Close()
		g.Error("after Close the port still accepts")
	}
	g.listen("tcp", address).Close() // and it is free again
}

func listenTaken(g *ground) {
	ln := g.listen("tcp", netip.AddrPortFrom(g.Entry, 0).String())
	second, err := g.place.Listen(g.Context(), "tcp", ln.Addr().String())
	if err == nil {
		second.Close()
		g.Fatal("two listeners at one address")
	}
}

func listenUnix(g *ground) {
	path := filepath.Join(g.TempDir(), "s")
	ln := g.listen("unix", path)
	g.accepts(ln, "unix", path)
	g.stops(ln)
}

func unsupported(g *ground) {
	address := map[string]string{
		"tcp": netip.AddrPortFrom(g.At, 9).String(), "udp": netip.AddrPortFrom(g.At, 9).String(),
		"unix": filepath.Join(g.TempDir(), "s"), "carrier-pigeon": "loft",
	}
	for network, address := range address {
		if !slices.Contains(g.Dials, network) {
			if _, err := g.place.DialContext(g.Context(), network, address); !errors.Is(err, errors.ErrUnsupported) {
				g.Errorf("DialContext(%s): %v, want one that matches errors.ErrUnsupported", network, err)
			} else if !strings.Contains(err.Error(), network) {
				g.Errorf("DialContext(%s): %q does not say what is unsupported", network, err)
			}
		}
		if !slices.Contains(g.Listens, network) {
			if _, err := g.place.Listen(g.Context(), network, address); !errors.Is(err, errors.ErrUnsupported) {
				g.Errorf("Listen(%s): %v, want one that matches errors.ErrUnsupported", network, err)
			}
		}
	}
}
