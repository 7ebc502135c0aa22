//go:build !linux

package relay

import "net"

// An engine carries pairs of connections on event loops; on this system there
// is none, and goroutines carry all of them.
type engine struct{}

func newEngine(r *Relay) *engine { return nil }

func (*engine) carry(id uint64, ru *rule, to *target, o *origin, client, server net.Conn) bool {
	return false
}
