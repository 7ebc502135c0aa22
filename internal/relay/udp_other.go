//go:build !unix

package relay

import "net/netip"

// A sockaddr is not needed here: package net keeps the client's address.
type sockaddr struct{}

func destination(netip.Addr, netip.AddrPort, int) (none sockaddr) { return }

// answer sends a datagram to a client.
func (l *udpReader) answer(s *session, d []byte) error {
	_, _, err := l.c.WriteMsgUDPAddrPort(d, s.source, s.client)
	return err
}

// An outlet sends datagrams.
type outlet struct{}

func newOutlet() *outlet { return nil }

func (*outlet) send(s *session, d []byte) error {
	_, err := s.hand.up.Write(d)
	return err
}
