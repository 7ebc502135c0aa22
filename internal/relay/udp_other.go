//go:build !unix

package relay

import "net/netip"

// A sockaddr is not needed here: package net keeps the client's address.
type sockaddr struct{}

func destination(netip.Addr, netip.AddrPort, int) (none sockaddr) { return }

// answer sends a datagram to a client.
func (u *udpEntry) answer(s *session, d []byte) error {
	_, _, err := u.c.WriteMsgUDPAddrPort(d, s.source, s.key.client)
	return err
}

// An outlet sends datagrams.
type outlet struct{}

func newOutlet() *outlet { return nil }

func (*outlet) send(s *session, d []byte) error {
	_, err := s.up.Write(d)
	return err
}
