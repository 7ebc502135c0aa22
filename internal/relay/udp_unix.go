//go:build unix

package relay

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// A sockaddr is a client's address as sendmsg wants it.
type sockaddr = unix.Sockaddr

// destination is a client as addressed from a socket bound to at. ifindex is
// the interface that it came by, which a link-local address needs.
func destination(at netip.Addr, client netip.AddrPort, ifindex int) sockaddr {
	if at.Is4() {
		return &unix.SockaddrInet4{Port: int(client.Port()), Addr: client.Addr().As4()}
	}
	to := &unix.SockaddrInet6{Port: int(client.Port()), Addr: client.Addr().As16()}
	if client.Addr().IsLinkLocalUnicast() {
		to.ZoneId = uint32(ifindex)
	}
	return to
}

// answer sends a datagram to a client without ever waiting: nobody else must be
// held up by a client that cannot be reached.
func (l *udpReader) answer(s *session, d []byte) error {
	var err error
	if werr := l.raw.Write(func(fd uintptr) bool {
		_, err = unix.SendmsgN(int(fd), d, s.source, s.hand.to, unix.MSG_DONTWAIT)
		return true
	}); werr != nil {
		return werr
	}
	return err
}

// An outlet sends datagrams without ever waiting: where the socket takes no
// more, a datagram is dropped, as the network would. It is used by one
// goroutine and allocates once.
type outlet struct {
	d   []byte
	err error
	try func(fd uintptr) bool
}

func newOutlet() *outlet {
	o := new(outlet)
	o.try = o.once
	return o
}

func (o *outlet) once(fd uintptr) bool {
	// send rather than write: an empty datagram is one, too.
	o.err = unix.Send(int(fd), o.d, unix.MSG_DONTWAIT)
	return true
}

func (o *outlet) send(s *session, d []byte) error {
	if s.hand.raw == nil {
		_, err := s.hand.up.Write(d)
		return err
	}
	o.d = d
	err := s.hand.raw.Write(o.try)
	o.d = nil
	if err != nil {
		return err
	}
	return o.err
}
