package conntrack

import (
	"context"
	"net/netip"
	"time"
)

// A Tuple is one direction of a connection. The ports of protocols that have
// none are zero.
type Tuple struct {
	Proto    uint8 // unix.IPPROTO_TCP, unix.IPPROTO_UDP, …
	Src, Dst netip.AddrPort
}

// An Entry is a tracked connection.
type Entry struct {
	ID       uint32
	Original Tuple // as the client sent it
	Reply    Tuple // as the answers come: from the target, to whom the target saw
	Master   Tuple // of the connection that announced this one, as FTP's does for data; zero: none
	Status   uint32
	Mark     uint32
	Zone     uint16
	TCPState uint8         // one of the TCP states below; 0 for other protocols
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

// States of TCP, as in linux/netfilter/nf_conntrack_tcp.h.
const (
	SynSent     = 1
	SynRecv     = 2
	Established = 3
	FinWait     = 4
	CloseWait   = 5
	LastAck     = 6
	TimeWait    = 7
	Closed      = 8
)

// A Filter says which entries are meant. Its zero value means all.
type Filter struct {
	Proto  uint8  // of this protocol
	Status uint32 // with all of these bits
}

// Each calls do for every entry, v4 and v6, as the kernel streams them, until
// do returns false. The entry is do's only until it returns. Entries that
// begin or end meanwhile may be missed, or told twice.
//
// Without CAP_NET_ADMIN the error matches [os.ErrPermission], and where the
// kernel has no connection tracking [errors.ErrUnsupported].
func Each(ctx context.Context, do func(*Entry) bool) error { return each(ctx, Filter{}, do) }

// EachOf is Each for the entries that f means. The kernel leaves the others out
// where it can (Linux 5.8 for protocols, 5.19 for bits of the status), so that
// not all of a million entries come here.
func EachOf(ctx context.Context, f Filter, do func(*Entry) bool) error { return each(ctx, f, do) }

// Delete forgets entries, each by its original tuple and its ID, so that
// another connection that has taken the tuple meanwhile stays. One that is not
// there is no error. It goes on after an error and returns the first. Entries
// of ICMP cannot be named so and are refused.
func Delete(entries ...*Entry) error { return forget(entries) }

// A What says what became of an entry.
type What uint8

// What may become of one.
const (
	New What = iota + 1
	Updated
	Destroyed
)

// Watch calls told for what becomes of entries until ctx ends, on Watch's own
// goroutine, and lost (which may be nil) when the kernel dropped notices because
// told was slow. The entry is told's only until it returns. ready is called once
// notices come.
//
// With nf_conntrack_events=2, which is the kernel's default, there are notices
// only of entries that began while somebody listened.
func Watch(ctx context.Context, which []What, ready func(), told func(What, *Entry), lost func()) error {
	return watch(ctx, which, ready, told, lost)
}
