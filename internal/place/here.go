// Package place is this host as a [fairlead.Place]: it dials targets by
// address, by name or by path, and listens. Names are looked up for each dial
// through a cache that keeps to the records' time to live; all addresses of a
// name are raced. What fails is told as a [fairlead.Problem].
//
// It does not accept, copy, meter or set socket options: listening sockets
// with all their options are internal/sys/sock's, traffic is the relay's.
// Connections are returned as the standard library made them, never wrapped.
package place

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead"
)

// Config says how this host dials. The zero value is usable.
type Config struct {
	// Servers are the name servers to ask. Empty means those of the system:
	// resolv.conf, or what macOS and Windows use for all their programs.
	// /etc/hosts and the search list hold either way.
	Servers []netip.AddrPort

	// Control is called with each socket that is to connect to a target,
	// before it does, as [net.Dialer.Control] is, with unix networks as well.
	// It is where socket options are set; nil sets none. No keepalive is
	// switched on otherwise.
	Control func(network, address string, c syscall.RawConn) error
}

// Here is this host. Its methods may be called concurrently. New makes one.
type Here struct {
	names  *Names
	dialer net.Dialer // for addresses and paths only: it never resolves
}

var _ fairlead.Place = (*Here)(nil)

// unixPatience bounds the wait for a unix socket whose accept queue is full
// when the caller's context sets no bound.
const unixPatience = 5 * time.Second

// New makes this host's Place. Close ends it.
func New(c Config) *Here {
	h := &Here{names: NewNames(c.Servers)}
	h.dialer.Control = c.Control
	h.dialer.KeepAlive = -1
	h.dialer.SetMultipathTCP(false)
	return h
}

// Close ends the lookups that are under way and waits for them. Connections
// and listeners live on: they are the callers'. Afterwards addresses can be
// dialed, names not.
func (h *Here) Close() { h.names.Close() }

// DialContext connects to address: "host:port" for the networks tcp, tcp4,
// tcp6, udp, udp4 and udp6, a path (or "@name" where the system has abstract
// names) for unix, unixgram and unixpacket. Ports are numbers from 1 to 65535
// or names of services. An address may have a zone, as in "[fe80::1%eth0]:80".
//
// All addresses of a name are tried as RFC 8305 says: families alternate, the
// next one begins after 250 ms or when the one before has failed, and the
// first connection wins. An address that won a tcp dial is tried first for ten
// minutes. ctx bounds all of it, the lookup included; without a deadline the
// system's own patience holds.
//
// The connection is a *net.TCPConn, *net.UDPConn or *net.UnixConn. Errors are
// a *fairlead.Problem that wraps the cause, except when ctx was cancelled:
// then the error matches [context.Canceled]; and for another network, when it
// matches [errors.ErrUnsupported].
func (h *Here) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, network, address, Start{})
}

// A Start readies the sockets of one dial before they connect: where they set
// out from, and how their packets are marked. Several addresses of a name are
// raced, so that its functions are called concurrently. The zero value does
// nothing.
type Start struct {
	// Prepare is called with each socket, and the address that it is to connect
	// to. try counts the sockets for that address from 0. An error keeps the
	// socket from connecting; a *fairlead.Problem is what the dial then returns.
	Prepare func(network string, to netip.AddrPort, try int, c syscall.RawConn) error

	// Failed is told why a socket could not be prepared or connected, unless the
	// dial is over. With again, another socket for the same address is tried;
	// otherwise told is the error that counts.
	Failed func(err error, to netip.AddrPort, try int) (again bool, told error)
}

// DialFrom is DialContext with sockets that start readies. For unix sockets it
// is not called.
func (h *Here) DialFrom(ctx context.Context, network, address string, start Start) (net.Conn, error) {
	began := time.Now()
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	case "unix", "unixgram", "unixpacket":
		return h.dialUnix(ctx, network, address)
	default:
		return nil, fmt.Errorf("connect to %s: network %q: %w", address, network, errors.ErrUnsupported)
	}
	host, port, err := splitHostPort(ctx, network, address)
	if err != nil {
		return nil, err
	}
	addrs, err := h.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	addrs, err = ofFamily(network, host, addrs)
	if err != nil {
		return nil, err
	}
	winner, _ := h.names.winner(host)
	targets := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range interleave(addrs, winner) {
		targets = append(targets, netip.AddrPortFrom(a, port))
	}
	conn, failed := race(ctx, &dialer{h.dialer, start}, network, targets)
	if conn == nil {
		return nil, connectError(ctx, address, failed, time.Since(began))
	}
	// A connected UDP socket proves nothing about its address.
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok && len(targets) > 1 {
		h.names.won(host, tcp.AddrPort().Addr().Unmap())
	}
	return conn, nil
}

// Listen listens at address, in the notation of DialContext, for the networks
// tcp, tcp4, tcp6, unix and unixpacket, with the system's defaults and without
// MPTCP. An empty host means all addresses. The listener is a
// *net.TCPListener or *net.UnixListener, and the caller closes it.
func (h *Here) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "unix", "unixpacket":
	default:
		return nil, fmt.Errorf("listen at %s: network %q: %w", address, network, errors.ErrUnsupported)
	}
	var lc net.ListenConfig
	lc.KeepAlive = -1
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // the operation and the address are said by us
		}
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	return ln, nil
}

// Resolve returns the addresses that host has now: itself when it is an
// address, else at most 32 that the cache or the name server knows, families
// alternating. The last good ones are returned while lookups fail (see
// [Names]). Errors are as those of [Names.Lookup].
func (h *Here) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return h.names.Lookup(ctx, host)
	}
	if zone := a.Zone(); zone != "" && !zoneExists(zone) {
		// The standard library would dial scope 0, and the system say "invalid argument".
		return nil, fairlead.Problemf(fairlead.CodeTargetUnreachable, "%s cannot be reached: this host has no interface %q", host, zone).
			Note("note", "it is looked for at each connection, and found when it appears").
			Fix("correct the interface behind the %, or bring it up", "")
	}
	return []netip.Addr{a.Unmap()}, nil
}

// Straight is the one address that a dial to host would try first, where that
// is known without asking anyone: host is an address, or a name whose answer
// still holds and of which one address is all there is or won lately. It never
// waits. A caller that connects there by itself, and fails, should still use
// DialContext, which tries the others and puts the failure into words.
func (h *Here) Straight(host string) (a netip.Addr, ok bool) {
	if h.dialer.Control != nil {
		return a, false // who watches each dial would miss it
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap(), a.Zone() == ""
	}
	return h.names.straight(host)
}

func zoneExists(zone string) bool {
	if index, err := strconv.Atoi(zone); err == nil {
		_, err = net.InterfaceByIndex(index)
		return err == nil
	}
	_, err := net.InterfaceByName(zone)
	return err == nil
}

func splitHostPort(ctx context.Context, network, address string) (string, uint16, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, badAddress(address, err, "it is not HOST:PORT, nor [IPv6]:PORT")
	}
	if host == "" {
		return "", 0, badAddress(address, nil, "it names no host")
	}
	if n, err := strconv.ParseUint(service, 10, 16); err == nil && n > 0 {
		return host, uint16(n), nil
	}
	// The list of services is a local file: nobody is asked.
	n, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil || n == 0 {
		return "", 0, badAddress(address, err, fmt.Sprintf("%q is not a port", service))
	}
	return host, uint16(n), nil
}

func badAddress(address string, err error, why string) error {
	p := fairlead.Problemf(fairlead.CodeTargetFailed, "cannot connect to %q: %s", address, why)
	p.Err = err
	return p.Fix("write the target as HOST:PORT or [IPv6]:PORT", "")
}

// ofFamily is the addresses of the family that the network's last letter asks.
func ofFamily(network, host string, addrs []netip.Addr) ([]netip.Addr, error) {
	var want, other string
	switch network[len(network)-1] {
	case '4':
		want, other = "IPv4", "IPv6"
	case '6':
		want, other = "IPv6", "IPv4"
	default:
		return addrs, nil
	}
	var fit []netip.Addr
	for _, a := range addrs {
		if a.Is4() == (want == "IPv4") {
			fit = append(fit, a)
		}
	}
	if len(fit) > 0 {
		return fit, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil, fairlead.Problemf(fairlead.CodeNameFamily, "%s is an %s address, but %s is needed", host, other, want).
			Fix("name an "+want+" address, or let the forward use both families", "")
	}
	p := fairlead.Problemf(fairlead.CodeNameFamily, "%q has only %s addresses, but %s is needed", host, other, want)
	return nil, p.Note("note", "%s", listed(addrs)).
		Fix("let the forward use both families, or give the name an "+want+" address", "")
}

// dialUnix connects to a unix socket. A full accept queue makes Linux answer
// EAGAIN at once (connect(2)), where a TCP client would wait: so do we.
func (h *Here) dialUnix(ctx context.Context, network, path string) (net.Conn, error) {
	began := time.Now()
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, unixPatience)
		defer cancel()
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		conn, err := h.dialer.DialContext(ctx, network, path)
		if err == nil {
			return conn, nil
		}
		if !errors.Is(err, errAgain) {
			return nil, unixError(ctx, path, err, time.Since(began))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, unixError(ctx, path, err, time.Since(began))
		}
	}
}

// isSocket is true as well when nobody can tell.
func isSocket(path string) bool {
	if strings.HasPrefix(path, "@") {
		return true
	}
	info, err := os.Stat(path)
	return err != nil || info.Mode()&os.ModeSocket != 0
}
