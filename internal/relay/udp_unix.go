//go:build unix

package relay

import (
	"golang.org/x/sys/unix"
)

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
	if s.raw == nil {
		_, err := s.up.Write(d)
		return err
	}
	o.d = d
	err := s.raw.Write(o.try)
	o.d = nil
	if err != nil {
		return err
	}
	return o.err
}
