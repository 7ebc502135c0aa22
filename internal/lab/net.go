package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"
)

// A Net is a network of hosts that lives as long as its test. Its methods and
// those of its hosts that build something fail the test themselves, and belong
// on the test's own goroutine.
type Net struct {
	t testing.TB
}

// NewNet makes an empty network, or skips the test where that needs more
// rights than it has.
func NewNet(t testing.TB) *Net {
	t.Helper()
	NeedRoot(t)
	return &Net{t: t}
}

// A Host is one network namespace: held by a descriptor, without a name in the
// file system, gone with the test. Its loopback interface is up. Except for
// the methods that build, all may be called concurrently. A nil *Host is the
// network that the test itself runs in; nothing can be built there.
//
// A Host is a fairlead.Place.
type Host struct {
	Name string // for messages

	t  testing.TB
	ns namespace
}

// Host adds a host.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	ns, err := newNamespace()
	if errors.Is(err, errors.ErrUnsupported) {
		lacking(n.t, "needs root: "+err.Error())
	}
	if err != nil {
		n.t.Fatalf("lab: make host %s: %v", name, err)
	}
	n.t.Cleanup(ns.close)
	h := &Host{Name: name, t: n.t, ns: ns}
	h.must("bring up", "lo", ns.setUp("lo", true))
	return h
}

// Wire connects two hosts by a pair of virtual Ethernet interfaces of these
// names, both up.
func (n *Net) Wire(a *Host, aLink string, b *Host, bLink string) {
	n.t.Helper()
	a.must("add", aLink, a.ns.addVeth(aLink, &b.ns, bLink))
	a.Up(aLink)
	b.Up(bLink)
}

// Bridge adds a bridge, up, that joins the host's interfaces ports.
func (h *Host) Bridge(name string, ports ...string) {
	h.t.Helper()
	h.must("add bridge", name, h.ns.addBridge(name, ports))
	h.Up(name)
}

// Addr gives an interface addresses, "192.0.2.1/24" or "2001:db8::1/64", which
// can be used at once (no duplicate address detection).
func (h *Host) Addr(link string, cidrs ...string) {
	h.t.Helper()
	for _, cidr := range cidrs {
		h.must("address "+cidr+" on", link, h.ns.addAddr(link, cidr))
	}
}

// DropAddr takes addresses away from an interface.
func (h *Host) DropAddr(link string, cidrs ...string) {
	h.t.Helper()
	for _, cidr := range cidrs {
		h.must("drop address "+cidr+" of", link, h.ns.dropAddr(link, cidr))
	}
}

// Route adds a route to dst, a prefix or "0.0.0.0/0" or "::/0", via a router's
// address, or directly through an interface when via is "".
func (h *Host) Route(dst, via, link string) {
	h.t.Helper()
	h.must("route to", dst, h.ns.addRoute(dst, via, link))
}

// Up brings an interface up.
func (h *Host) Up(link string) {
	h.t.Helper()
	h.must("bring up", link, h.ns.setUp(link, true))
}

// Down takes an interface down; its routes go with it.
func (h *Host) Down(link string) {
	h.t.Helper()
	h.must("take down", link, h.ns.setUp(link, false))
}

// RemoveLink removes an interface, and the other end of its wire.
func (h *Host) RemoveLink(link string) {
	h.t.Helper()
	h.must("remove", link, h.ns.removeLink(link))
}

// Sysctl sets a kernel parameter of this host, "net.ipv4.ip_forward".
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	h.must("set", key, h.Do(func() error { return writeSysctl(key, value) }))
}

func (h *Host) must(what, subject string, err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("lab: host %s: %s %s: %v", h.Name, what, subject, err)
	}
}

// Do runs f with the calling goroutine inside the host's network. Sockets that
// f opens belong to the host for good; goroutines that f starts run outside.
func (h *Host) Do(f func() error) error {
	if h == nil {
		return f()
	}
	return h.ns.do(f)
}

// DialContext connects from inside the host; network is tcp, udp (with or
// without 4 or 6) or unix. The address must be literal: a resolver would look
// around in the wrong network.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, network, netip.Addr{}, address)
}

// DialFrom is DialContext from one of the host's addresses; the zero Addr
// leaves the choice to the system.
func (h *Host) DialFrom(ctx context.Context, network string, from netip.Addr, address string) (net.Conn, error) {
	if err := literal(network, address); err != nil {
		return nil, err
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	if from.IsValid() {
		switch network[:3] {
		case "tcp":
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		case "udp":
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
	}
	var c net.Conn
	err := h.Do(func() (err error) {
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens inside the host for tcp or unix.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if err := literal(network, address); err != nil {
		return nil, err
	}
	if network[:3] == "udp" {
		return nil, fmt.Errorf("listen %s %s: a packet socket is no listener: %w", network, address, errors.ErrUnsupported)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	var ln net.Listener
	err := h.Do(func() (err error) {
		ln, err = lc.Listen(ctx, network, address)
		return err
	})
	return ln, err
}

// ListenPacket opens a UDP socket inside the host.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (*net.UDPConn, error) {
	if err := literal(network, address); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	var pc net.PacketConn
	err := h.Do(func() (err error) {
		pc, err = lc.ListenPacket(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

func literal(network, address string) error {
	switch network {
	case "unix":
		return nil
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return fmt.Errorf("%s %s: %w", network, address, errors.ErrUnsupported)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		return fmt.Errorf("%s %s: the lab resolves no names", network, address)
	}
	return nil
}

// A Command is a program to be run inside a host: an exec.Cmd whose Start,
// Run, Output and CombinedOutput happen there.
type Command struct {
	*exec.Cmd
	host *Host
}

// Command prepares a program; what still runs when the test ends is killed.
func (h *Host) Command(t testing.TB, name string, args ...string) *Command {
	t.Helper()
	c := &Command{exec.Command(name, args...), h}
	c.WaitDelay = 5 * time.Second
	t.Cleanup(func() {
		if c.Process != nil && c.ProcessState == nil {
			c.Process.Kill()
			c.Wait()
		}
	})
	return c
}

// Start starts the program in the host. The new process has the namespace of
// the thread that forked it, which is why it is not enough to use exec.Cmd.
func (c *Command) Start() error { return c.host.Do(c.Cmd.Start) }

// Run is Start and Wait.
func (c *Command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns its standard output.
func (c *Command) Output() (out []byte, err error) {
	err = c.host.Do(func() error {
		out, err = c.Cmd.Output()
		return err
	})
	return out, err
}

// CombinedOutput runs the program and returns both outputs.
func (c *Command) CombinedOutput() (out []byte, err error) {
	err = c.host.Do(func() error {
		out, err = c.Cmd.CombinedOutput()
		return err
	})
	return out, err
}
