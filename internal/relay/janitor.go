package relay

import (
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// tick is how often the janitor goes round, and so how exact limits of time
// are. One coarse round costs less than a timer for every read.
const tick = 250 * time.Millisecond

// patience is how long a connection moves nothing before the kernel is asked
// whether both peers are alive.
const patience = 15 * time.Second

// impatience is the same while a receiver takes nothing. It is much longer
// than the question takes, for ten thousand such connections.
const impatience = time.Second

// keepTime goes round the live connections and ends those whose time is up.
func (r *Relay) keepTime() {
	t := time.NewTicker(tick)
	defer t.Stop()
	var live []tracked
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-t.C:
			live = r.table.gather(live[:0])
			for _, c := range live {
				c.look(now)
			}
			clear(live) // keeps nothing alive
			r.tellFloods(now)
		}
	}
}

func (c *conn) look(now time.Time) {
	if c.over.Load() {
		return
	}
	if n := c.in.Load() + c.out.Load(); n != c.seen {
		c.seen, c.moved = n, now
	}
	if c.up.held.Load() || c.down.held.Load() {
		c.moved = now // it is we who let it wait
	}
	if !c.half && c.ended.Load() != 0 {
		c.half, c.moved = true, now
	}
	silent := now.Sub(c.moved)
	switch ru := c.rule; {
	case ru.lifetime > 0 && now.Sub(c.began) >= ru.lifetime:
		c.finish(fairlead.Lifetime, true)
	case ru.idle > 0 && silent >= ru.idle:
		c.finish(fairlead.IdleTimeout, true)
	case ru.linger > 0 && c.half && silent >= ru.linger:
		c.finish(fairlead.LingerTimeout, true)
	default:
		c.lookAtPeers(now, silent)
	}
}

// lookAtPeers finds what no pump can see: a sender that was reset while its
// receiver takes nothing, and a peer that vanished while it owed
// acknowledgements, where keepalive does not ask.
func (c *conn) lookAtPeers(now time.Time, silent time.Duration) {
	stalled := c.up.stalled.Load() || c.down.stalled.Load()
	wait := patience
	if stalled {
		wait = impatience
	}
	if !stalled && silent < patience || now.Sub(c.asked) < wait {
		return
	}
	c.asked = now
	patient := 2 * max(c.rule.keepalive, time.Second) // the kernel asks no faster
	for _, peer := range []struct {
		p               *pump
		reset, vanished fairlead.Reason
	}{
		{&c.up, fairlead.ClientReset, fairlead.ClientVanished},
		{&c.down, fairlead.TargetReset, fairlead.TargetVanished},
	} {
		if peer.p.src == nil {
			continue
		}
		h, ok := sock.Look(peer.p.src)
		switch {
		case !ok:
		case h.Failed && stalled:
			c.r.wg.Go(func() { c.finish(peer.reset, true) }) // it may wait for what is unsent
			return
		case h.Unacked && c.rule.keepalive > 0 && h.Silent >= patient:
			c.finish(peer.vanished, true)
			return
		}
	}
}
