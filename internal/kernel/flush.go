package kernel

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"fairlead"
	"fairlead/internal/sys/conntrack"
)

// A program that speaks UDP keeps its port, so its packets go where its first
// one went for as long as the kernel remembers that: to a target that is gone,
// or to nobody, long after the forward is right. So what is tracked of UDP is
// forgotten whenever its forward changes. Connections of TCP begin anew by
// themselves, and live on.

// flushBatch is how many entries are forgotten at a time.
const flushBatch = 512

// lateness is for how long answers to a forgotten connection are dropped: were
// they let through, they would be tracked as a connection of the target's own,
// in the way of the one that the client's next packet is to begin.
const lateness = 2 * time.Second

// follow has connections follow the change from old to p, which is in force now
// on a host of w. It asks the kernel for its list once for all forwards, and not
// at all where nothing of UDP changed. A table that was adopted as it was is no
// change.
func (k *Kernel) follow(ctx context.Context, old, p *plan, w *world) {
	here := w.addresses()
	k.ledger.turn(p, here)
	if old == nil && k.adopted {
		return
	}
	k.flush(ctx, changedUDP(old, p), here, func(*conntrack.Entry) bool { return true })
}

// mend forgets the UDP connections that went by while the table was not there:
// nothing leads them on, for as long as they last.
func (k *Kernel) mend(ctx context.Context, p *plan, w *world) {
	k.flush(ctx, changedUDP(nil, p), w.addresses(), func(e *conntrack.Entry) bool { return e.Status&conntrack.DNAT == 0 })
}

// flush forgets the UDP connections that entered at these stretches of a host
// of these addresses, if they are meant, and says how many there were.
func (k *Kernel) flush(ctx context.Context, changed []*stretch, here map[netip.Addr]bool, meant func(*conntrack.Entry) bool) int {
	if len(changed) == 0 {
		return 0
	}
	look := newLook(changed, nil, here)
	n := 0
	var batch []*conntrack.Entry
	var failed error
	forget := func() bool {
		n += len(batch)
		failed = k.forget(batch)
		batch = batch[:0]
		return failed == nil
	}
	err := k.inside(func() error {
		err := conntrack.EachOf(ctx, conntrack.Filter{Proto: protoUDP}, func(e *conntrack.Entry) bool {
			if look.entered(e) && meant(e) {
				batch = append(batch, new(*e))
			}
			return len(batch) < flushBatch || forget()
		})
		if err == nil && failed == nil {
			forget()
		}
		return cmp.Or(failed, err)
	})
	if err != nil {
		p := fairlead.Problemf(fairlead.CodeNotFlushed, "UDP connections of forwards that changed could not be forgotten: %v", err).
			Fix("forget those of one port by hand", "sudo conntrack -D -p udp --orig-port-dst PORT")
		p.Err, p.Warning = err, true
		k.trouble(p)
	}
	return n
}

// forget forgets tracked connections of UDP, and has answers that are under way
// dropped. Without the right to drop them they are forgotten all the same.
func (k *Kernel) forget(entries []*conntrack.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	tuples := make([]conntrack.Tuple, len(entries))
	for i, e := range entries {
		tuples[i] = e.Reply
	}
	refused := k.killing.refuse(tuples, lateness)
	if err := conntrack.Delete(entries...); err != nil {
		return err
	}
	return refused
}

// changedUDP are the stretches of UDP where forwards were added, changed or
// removed between two plans. A forward is changed when its sentence says
// something else or leads elsewhere; where only its addresses are others, as an
// interface's, those are meant.
func changedUDP(old, now *plan) []*stretch {
	before, after := parts(old), parts(now)
	alike := func(a, b *part) bool {
		return a.f == b.f && slices.Equal(a.targets, b.targets) && slices.Equal(a.entries, b.entries)
	}
	for len(before) > 0 && len(after) > 0 && alike(&before[0], &after[0]) {
		before, after = before[1:], after[1:]
	}
	was := make(map[key]*part, len(before))
	for i := range before {
		was[keyOf(before[i].f)] = &before[i]
	}
	var changed []*stretch
	add := func(p *part, unless map[same]bool) {
		if !slices.ContainsFunc(p.entries, func(e entry) bool { return e.proto == protoUDP }) {
			return
		}
		for _, s := range p.stretches() {
			if s.gate.proto == protoUDP && !unless[s.what()] {
				changed = append(changed, s)
			}
		}
	}
	for i := range after {
		p := &after[i]
		o := was[keyOf(p.f)]
		delete(was, keyOf(p.f))
		switch {
		case o == nil:
			add(p, nil)
		case alike(o, p):
		case !sameMeaning(o.f, p.f) || !slices.Equal(o.targets, p.targets):
			add(o, nil)
			add(p, nil)
		case !slices.Equal(o.entries, p.entries):
			add(o, set(p))
			add(p, set(o))
		}
	}
	for _, o := range was {
		add(o, nil)
	}
	return changed
}

func parts(p *plan) []part {
	if p == nil {
		return nil
	}
	return p.parts
}

func set(p *part) map[same]bool {
	m := map[same]bool{}
	for _, s := range p.stretches() {
		m[s.what()] = true
	}
	return m
}

// addresses are those of this host.
func (w *world) addresses() map[netip.Addr]bool {
	here := map[netip.Addr]bool{}
	for _, list := range w.addrs {
		for _, p := range list {
			here[p.Addr()] = true
		}
	}
	return here
}
