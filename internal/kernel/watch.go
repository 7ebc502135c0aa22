package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// blame is who last changed our table.
type blame struct {
	mu   sync.Mutex // guards the rest
	last nft.Notice
}

// Repairs follow a foreign change at once, and each other no faster than
// calm: somebody who empties the table in a loop costs us five repairs a second
// and no more. They are told of one by one, and in numbers when there are many.
const (
	calm       = 200 * time.Millisecond
	aroundEach = 5 * time.Second
	tellEach   = 10 * time.Second
	listenEach = 5 * time.Second
)

// watchOn begins to watch the table. The lock is held.
func (k *Kernel) watchOn() {
	if k.watching {
		return
	}
	k.watching = true
	k.wg.Go(k.listen)
	k.wg.Go(k.repairAll)
	k.wg.Go(k.kickAround)
	k.wg.Go(k.followTriggers)
	if k.cfg.Listeners != nil {
		k.wg.Go(k.followListeners)
	}
}

// listen hears of what others change until the carrier is closed.
func (k *Kernel) listen() {
	for k.ctx.Err() == nil {
		err := k.inside(func() error { return nft.Watch(k.ctx, k.look, k.told) })
		if k.ctx.Err() != nil {
			return
		}
		k.trouble(fairlead.Problemf(fairlead.CodeUnwatched, "changes of the table %s by others are not seen for now: %v", k.cfg.Table, err))
		select {
		case <-k.ctx.Done():
		case <-time.After(listenEach):
		}
	}
}

// look has the table looked at: it may have changed before anybody listened.
func (k *Kernel) look() { k.told(nft.Notice{Lost: true}) }

// told hears of one change.
func (k *Kernel) told(n nft.Notice) {
	to := k.changed
	switch {
	case n.Lost:
		k.unchanged.Store(false)
	case n.Family == nft.Inet && n.Table == k.cfg.Table:
		if n.By != 0 && n.By == k.own.Load() {
			return
		}
		k.blame.mu.Lock()
		k.blame.last = n
		k.blame.mu.Unlock()
	case strings.HasPrefix(n.Table, tablePrefix):
		return // another instance's, or a trace
	default:
		k.unchanged.Store(false)
		to = k.around
	}
	select {
	case to <- struct{}{}:
	default:
	}
}

// kickAround asks for another Apply when the firewalls around have changed: what
// they let through may be told differently.
func (k *Kernel) kickAround() {
	for pausing(k.ctx, k.around, aroundEach) {
		k.kick()
	}
}

// followListeners asks for another Apply when other carriers of this process
// listen elsewhere than they did.
func (k *Kernel) followListeners() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	was := k.cfg.Listeners()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-tick.C:
		}
		if !slices.ContainsFunc(*k.carried.Load(), func(c *carried) bool { return c.part.f.Kind == fairlead.KindShare || c.part.memory != nil }) {
			continue // nobody is guarded, and nothing opened
		}
		if now := k.cfg.Listeners(); !slices.Equal(was, now) {
			was = now
			k.kick()
		}
	}
}

// pausing waits for a token and reports whether there was one before ctx ended.
// Then it waits for the pause, so that the next call does not follow sooner.
func pausing(ctx context.Context, tokens <-chan struct{}, pause time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-tokens:
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
	}
	return true
}

// repairAll puts the table right when somebody else changed it, and tries again
// where it could not.
func (k *Kernel) repairAll() {
	var told time.Time
	silent, failing := 0, ""
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-k.changed:
		}
		did, failed := k.repair()
		pause := calm
		if failed == nil {
			failing = ""
		} else {
			if failed.What != failing {
				k.trouble(failed)
			}
			failing, pause = failed.What, listenEach
			select {
			case k.changed <- struct{}{}:
			default: // it is known anyway
			}
		}
		if did != nil {
			if now := time.Now(); now.Sub(told) >= tellEach {
				if silent > 0 {
					did.Note("note", "and %d times before, since the last line", silent)
				}
				k.trouble(did)
				told, silent = now, 0
			} else {
				silent++
			}
		}
		select {
		case <-k.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// repair looks at the table and makes it what it was, if it is not. It returns
// what it did, or why it could not.
func (k *Kernel) repair() (did, failed *fairlead.Problem) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left || k.conn == nil || k.plan == nil {
		return nil, nil
	}
	var now *nft.Table
	err := k.inside(func() (err error) {
		now, err = k.conn.Read(nft.Inet, k.cfg.Table)
		return err
	})
	if err != nil {
		return nil, k.refused(err)
	}
	if now != nil && !foreign(now) && k.loaded != nil {
		if ch, ok := nft.Diff(now, survivors(k.loaded, time.Since(k.seen))); ok && ch.Empty() {
			return nil, nil
		}
	}
	what := "changed"
	if now == nil {
		what = "removed"
	}
	known, _, _ := k.names.now()
	k.loaded = now
	k.seen = time.Now()
	if now == nil || foreign(now) {
		k.loaded = nil
	}
	w, err := k.world(known)
	if err != nil {
		return nil, fairlead.AsProblem(err)
	}
	w.guarded = k.guarded()
	p := k.compile(k.want, w)
	explainNames(p, known)
	if err := k.load(p.table); err != nil {
		return nil, k.refused(err)
	}
	k.follow(k.ctx, k.plan, p, w)
	k.plan = p
	k.keep(p)
	k.mend(k.ctx, p, w)
	k.repairs.Add(1)
	did = fairlead.Problemf(fairlead.CodeRepaired, "repaired: the table %s was %s by %s", k.cfg.Table, what, k.culprit())
	did.Warning = true
	return did, nil
}

// culprit is who changed the table last, as far as the kernel said.
func (k *Kernel) culprit() string {
	k.blame.mu.Lock()
	defer k.blame.mu.Unlock()
	n := k.blame.last
	k.blame.last = nft.Notice{}
	switch {
	case n.Name != "" && n.PID != 0:
		return fmt.Sprintf("process %s (%d)", n.Name, n.PID)
	case n.PID != 0:
		return fmt.Sprintf("process %d", n.PID)
	}
	return "somebody else"
}

// Repairs is how often the table was put right after somebody else changed it.
func (k *Kernel) Repairs() int64 { return k.repairs.Load() }
