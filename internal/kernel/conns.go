package kernel

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/conntrack"
)

// Conns is every live connection that one of the forwards led on, also one that
// began before its forward was changed or removed. When it began is known where
// nf_conntrack_timestamp is on, and the bytes, which are those of whole packets,
// where nf_conntrack_acct is.
func (k *Kernel) Conns() []fairlead.Conn {
	conns := []fairlead.Conn{}
	seen := map[uint32]bool{}
	k.flows(k.ctx, func(e *conntrack.Entry, o *owner) bool {
		if !seen[e.ID] {
			seen[e.ID] = true
			conns = append(conns, connOf(e, o))
		}
		return true
	})
	slices.SortFunc(conns, func(a, b fairlead.Conn) int {
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.Forward, b.Forward), cmp.Compare(a.ID, b.ID))
	})
	return conns
}

func connOf(e *conntrack.Entry, o *owner) fairlead.Conn {
	network := "tcp"
	if e.Original.Proto == protoUDP {
		network = "udp"
	}
	in, out := int64(e.OrigBytes), int64(e.ReplyBytes)
	if e.OrigPackets == 0 { // there is a first packet, where they are counted
		in, out = -1, -1
	}
	return fairlead.Conn{
		ID: idText(e.ID), Forward: o.key.name, Network: network,
		Client: e.Original.Src.String(), Local: e.Original.Dst.String(), Target: e.Reply.Src.String(),
		Began: e.Started, In: in, Out: out,
	}
}

// idText is the ID of a connection: the kernel's own, told apart from those of
// other carriers.
func idText(id uint32) string { return fmt.Sprintf("k%08x", id) }

// live reports whether something is left to be said on a connection.
func live(e *conntrack.Entry) bool {
	return e.Original.Proto == protoUDP || e.Original.Proto == protoTCP && e.TCPState < conntrack.TimeWait
}

// flows calls do for the live connections of the forwards that are, and of
// those that were, until it returns false. It asks the kernel once, and not at
// all where there is nobody whose connections these could be.
func (k *Kernel) flows(ctx context.Context, do func(*conntrack.Entry, *owner) bool) error {
	look := k.ledger.open()
	if look == nil {
		return nil
	}
	whole := true
	err := k.inside(func() error {
		return conntrack.EachOf(ctx, conntrack.Filter{Status: look.status}, func(e *conntrack.Entry) bool {
			if o := look.of(e); o != nil && live(e) {
				whole = do(e, o)
			}
			return whole
		})
	})
	if err == nil && whole {
		k.ledger.closed(look)
	}
	return err
}

// A census is when connections were last counted, and what that cost.
type census struct {
	mu    sync.Mutex // guards the rest, and is held while the kernel is asked
	when  time.Time
	spent time.Duration
}

// Connections are counted for the meters no oftener than that, and so that it
// takes no more than a fiftieth of the time where there are very many.
const (
	censusEvery = time.Second
	censusShare = 50
)

// countActive brings the meters' numbers of live connections up to date, unless
// that was done a moment ago.
func (k *Kernel) countActive() {
	list := *k.carried.Load()
	if len(list) == 0 {
		return
	}
	k.census.mu.Lock()
	defer k.census.mu.Unlock()
	if time.Since(k.census.when) < max(censusEvery, censusShare*k.census.spent) {
		return
	}
	begun := time.Now()
	n := map[key]int64{}
	if k.flows(k.ctx, func(_ *conntrack.Entry, o *owner) bool { n[o.key]++; return true }) != nil {
		return // meters stay as they were
	}
	k.census.when = time.Now()
	k.census.spent = k.census.when.Sub(begun)
	for _, c := range list {
		c.tally.meter.Active.Store(n[keyOf(c.part.f)])
	}
}
