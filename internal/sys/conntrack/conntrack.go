package conntrack

import (
	"context"
	"net/netip"
	"time"
)

// A Tuple is one direction of a connection.
type Tuple struct {
	Proto    uint8 // unix.IPPROTO_TCP, unix.IPPROTO_UDP, …
	Src, Dst netip.AddrPort
}

// An Entry is a tracked connection.
type Entry struct {
	ID       uint32
	Original Tuple // as the client sent it
	Reply    Tuple // as the answers come: from the target, to whom the target saw
	Status   uint32
	Mark     uint32
	TCPState uint8         // as in linux/netfilter/nf_conntrack_tcp.h; 0 for other protocols
	Timeout  time.Duration // until it is forgotten
	Started  time.Time     // zero unless nf_conntrack_timestamp is on

	// What passed, zero unless nf_conntrack_acct is on.
	OrigPackets, OrigBytes, ReplyPackets, ReplyBytes uint64
}

// Bits of Status, as in linux/netfilter/nf_conntrack_common.h.
const (
	SeenReply = 1 << 1
	Assured   = 1 << 2
	SNAT      = 1 << 4
	DNAT      = 1 << 5
)

// Each calls do for every entry, v4 and v6, as the kernel streams them, until
// do returns false. Entries that begin or end meanwhile may be missed.
func Each(ctx context.Context, do func(*Entry) bool) error { return each(ctx, do) }

// Delete forgets one entry; one that is not there is no error.
func Delete(e *Entry) error { return forget(e) }

// A What says what became of an entry.
type What uint8

// What may become of one.
const (
	New What = iota + 1
	Updated
	Destroyed
)

// Watch calls told for what becomes of entries until ctx ends, on Watch's own
// goroutine, and lost when the kernel dropped notices because told was slow.
func Watch(ctx context.Context, which []What, ready func(), told func(What, *Entry), lost func()) error {
	return watch(ctx, which, ready, told, lost)
}
