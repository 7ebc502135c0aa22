package nft

import "context"

// A TraceEvent is one step of a packet whose nftrace is set, through one of the
// tables of nf_tables, those of iptables-nft included.
type TraceEvent struct {
	ID   uint32 // the same for all steps of one packet, also in the hooks that follow
	Kind TraceKind

	Family     Family
	Table      string
	Chain      string
	RuleHandle uint64 // of a TraceRule

	// Verdict is in nft(8)'s words: accept, drop, continue, jump, goto, return,
	// queue, and "stolen" for a packet that was taken over (a reject, a
	// synproxy). Of a TracePolicy it is the policy.
	Verdict string
	JumpTo  string // jump and goto

	NFProto Family // of the packet: IPv4 or IPv6; 0 unknown
	Mark    uint32

	// The interfaces and the headers of the packet as it was when it entered the
	// base chain: they come with the first event of each, and are "" and nil in
	// those that follow.
	IIF, OIF        string // names; "" for none
	LinkHeader      []byte // up to 20 bytes
	NetworkHeader   []byte // up to 40 bytes
	TransportHeader []byte // up to 20 bytes

	// What connection tracking knew, from Linux 6.16 on.
	HasCt    bool
	CtID     uint32
	CtReply  bool
	CtStatus uint32 // StatusDNAT and its like
	CtState  uint32 // StateNew and its like
}

// A TraceKind says what a step is.
type TraceKind uint8

// The steps, as in linux/netfilter/nf_tables.h.
const (
	TracePolicy TraceKind = iota + 1 // the end of a base chain
	TraceReturn                      // the end of a chain; the policy of a base chain follows
	TraceRule                        // a rule that matched
)

// Trace calls told for each step of a traced packet until ctx ends; told runs on
// Trace's own goroutine. It calls ready once it listens. Where steps were lost,
// which happens when packets come faster than told returns, told gets an event
// with no Kind.
func Trace(ctx context.Context, ready func(), told func(TraceEvent)) error {
	return trace(ctx, ready, told)
}
