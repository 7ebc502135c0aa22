// Package sock makes and adjusts sockets as a forwarder needs them: listeners
// that never speak MPTCP and set their options once, for all connections they
// accept; datagram sockets that tell which address was asked and answer from
// it; resets on purpose; pipes and splice. It opens nothing by itself and
// knows nothing of forwards.
package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Options are what a listener is made with. The zero value is usable.
type Options struct {
	// Keepalive is the silence after which a peer is asked whether it lives;
	// a dead one is found after twice that time. 0 means DefaultKeepalive,
	// negative switches it off.
	Keepalive time.Duration
}

// DefaultKeepalive lies below the four minutes after which usual middleboxes
// forget a connection.
const DefaultKeepalive = time.Minute

// keepaliveProbes spread over a second Keepalive period, unanswered, mean that
// the peer is gone.
const keepaliveProbes = 4

// KeepaliveConfig is d, as in Options, in the terms of package net.
func KeepaliveConfig(d time.Duration) net.KeepAliveConfig {
	if d < 0 {
		return net.KeepAliveConfig{Enable: false}
	}
	if d == 0 {
		d = DefaultKeepalive
	}
	return net.KeepAliveConfig{
		Enable:   true,
		Idle:     max(d, time.Second),
		Interval: max(d/keepaliveProbes, time.Second),
		Count:    keepaliveProbes,
	}
}

// ListenTCP listens at exactly one address of one family: "::" does not take
// IPv4 with it. Where the system lets accepted sockets inherit, keepalive is
// set once on the listener. The caller closes it.
func ListenTCP(ctx context.Context, at netip.AddrPort, o Options) (*net.TCPListener, error) {
	lc := net.ListenConfig{
		KeepAlive: -1, // no system calls for each accepted connection
		Control: func(network, address string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return setListenerKeepalive(fd, KeepaliveConfig(o.Keepalive)) })
		},
	}
	lc.SetMultipathTCP(false) // a Go default that Landlock, splice and CRIU do not know
	ln, err := lc.Listen(ctx, family("tcp", at.Addr()), at.String())
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// ListenUDP opens a datagram socket at exactly one address of one family that
// reports for each datagram which address was asked. The caller closes it.
func ListenUDP(ctx context.Context, at netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{
		Control: func(network, address string, c syscall.RawConn) error {
			return control(c, func(fd int) error { return setPacketInfo(fd, at.Addr().Is6()) })
		},
	}
	pc, err := lc.ListenPacket(ctx, family("udp", at.Addr()), at.String())
	if err != nil {
		return nil, err
	}
	c := pc.(*net.UDPConn)
	enlarge(c)
	return c, nil
}

// PrepareUDP does for a socket that somebody else has bound what ListenUDP
// does: it has each datagram tell which address was asked.
func PrepareUDP(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	at := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	enlarge(c)
	return control(raw, func(fd int) error { return setPacketInfo(fd, at.Is6()) })
}

// enlarge makes room for bursts, as far as the system allows.
func enlarge(c *net.UDPConn) {
	c.SetReadBuffer(udpBuffer)
	c.SetWriteBuffer(udpBuffer)
}

// TakesIPv4 reports whether f is an IPv6 socket that takes IPv4 with it.
func TakesIPv4(f *os.File) (yes bool) {
	if raw, err := f.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { yes = takesIPv4(int(fd)) })
	}
	return yes
}

// udpBuffer holds a burst of datagrams while the reader is busy, in bytes.
const udpBuffer = 4 << 20

// ListenUnix listens at path with the given mode. A socket file that a killed
// program left behind is replaced; one that answers is EADDRINUSE, and a file
// that is no socket is never touched. Closing the listener removes the file.
func ListenUnix(ctx context.Context, path string, mode fs.FileMode) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if path[0] != '@' {
		if err := os.Chmod(path, mode); err != nil {
			ln.Close()
			return nil, err
		}
	}
	return ln.(*net.UnixListener), nil
}

func removeStale(path string) error {
	if path == "" {
		return errors.New("the path of a unix socket is empty")
	}
	st, err := os.Lstat(path)
	if path[0] == '@' || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket: %w", path, syscall.EADDRINUSE)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE) // alive with a full backlog, or not ours to judge
}

func family(network string, a netip.Addr) string {
	if a.Is4() {
		return network + "4"
	}
	return network + "6"
}

// control runs f with c's descriptor and returns its error.
func control(c syscall.RawConn, f func(fd int) error) error {
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// A Resetter can be closed with a reset: *net.TCPConn.
type resetter interface {
	SetLinger(sec int) error
}

// Abort closes c so that the peer sees a reset where c has such a thing, and
// plainly otherwise. What was not sent yet is lost.
func Abort(c net.Conn) {
	if r, ok := c.(resetter); ok {
		r.SetLinger(0)
	}
	c.Close()
}

// AddrPort is a's address and port without the IPv4-in-IPv6 form, or zero for
// addresses that have none.
func AddrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	default:
		return ap
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// NoDescriptors reports whether err says that this process or the system has
// no descriptor or socket memory left, which passes by itself.
func NoDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}
