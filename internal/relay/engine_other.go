//go:build !linux

package relay

import "net"

// An engine carries pairs of connections on event loops; on this system there
// is none, and goroutines carry all of them.
type engine struct{}

// A listening is a socket that event loops accept from: none here.
type listening struct{}

func newEngine(r *Relay) *engine { return nil }

func (*engine) ready() bool { return false }

func (*engine) listen(e *entry) bool { return false }

func (*listening) close() {}

func (*listening) control(func(fd int) error) error { return net.ErrClosed }

func (*engine) carry(id uint64, ru *rule, to *target, o *origin, client, server net.Conn) bool {
	return false
}
