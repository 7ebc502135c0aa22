//go:build !linux

package relay

import (
	"net"
	"net/netip"
)

// A udpEngine serves datagram sockets on event loops; on this system there is
// none, and goroutines serve all of them.
type udpEngine struct{}

func newUDPEngine(r *Relay) *udpEngine { return nil }

func (*udpEngine) server(u *udpEntry, c *net.UDPConn) datagramServer { return nil }

// A udpLink is what an event loop knows of a session: nothing.
type udpLink struct{}

func (*udpLink) address(at netip.Addr, a *arrived) {}
