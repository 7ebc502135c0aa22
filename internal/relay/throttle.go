package relay

import (
	"net/netip"
	"sync"

	"fairlead"
)

// The directions of a connection, as indices.
const (
	up   = 0 // from the client to the target
	down = 1
)

// Throttles keep a forward's bandwidth: of all its connections together, of
// those of one source, and of each. They go on through a reload, which changes
// the rates for live connections, too.
type throttles struct {
	whole [2]shaper

	mu                 sync.Mutex // guards the rest
	perSource, perConn [2]int64   // 0: no limit
	live               map[*throttle]struct{}
	stakes             map[netip.Addr]*stake
	sweep              int // how many stakes there may be before those of the gone are thrown away
}

// A stake is what one source has of a forward's bandwidth.
type stake struct {
	source netip.Addr
	conns  int       // guarded by the throttles' lock
	shares [2]share  // of the whole
	own    [2]shaper // among its connections
}

// limitsBandwidth reports whether a sentence does.
func limitsBandwidth(p *fairlead.Policy) bool {
	none := fairlead.Bandwidth{}
	return p.Bandwidth != none || p.BandwidthPerConn != none || p.BandwidthPerSource != none
}

// newThrottles are those of p, for who comes and for who came under was, nil
// where nothing is limited and nothing was.
func newThrottles(p *fairlead.Policy, was *rule) *throttles {
	var t *throttles
	if was != nil {
		t = was.bandwidth
	}
	if t == nil {
		if !limitsBandwidth(p) {
			return nil
		}
		t = &throttles{live: map[*throttle]struct{}{}, stakes: map[netip.Addr]*stake{}}
	}
	t.set(p)
	return t
}

// set makes the rates those of p.
func (t *throttles) set(p *fairlead.Policy) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.perSource = [2]int64{p.BandwidthPerSource.Up, p.BandwidthPerSource.Down}
	t.perConn = [2]int64{p.BandwidthPerConn.Up, p.BandwidthPerConn.Down}
	for dir, n := range [2]int64{p.Bandwidth.Up, p.Bandwidth.Down} {
		t.whole[dir].set(n)
		for _, st := range t.stakes {
			st.own[dir].set(t.perSource[dir])
		}
		for th := range t.live {
			th.own[dir].set(t.perConn[dir])
		}
	}
}

// A throttle holds one connection or session to the limits. Each direction
// may be used by one goroutine at a time.
type throttle struct {
	of    *throttles
	stake *stake
	own   [2]shaper
	gates [2][]gate // none in a direction that had no limit when it began
	plea  [2]*plea
}

// A gate is a shaper that has to be passed, and whose share of it counts.
type gate struct {
	shaper *shaper
	share  *share
}

// join makes the throttle of a client's connection, nil where nothing is
// limited now. It has to leave. A direction that is limited has every gate,
// because a reload may close those that are open; one that is not stays so:
// the ways that carry a connection's cannot be held up.
func (t *throttles) join(client netip.Addr) *throttle {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.limits(up) && !t.limits(down) {
		return nil
	}
	th := &throttle{of: t, stake: t.stake(sourceKey(client))}
	t.live[th] = struct{}{}
	for dir := range 2 {
		if !t.limits(dir) {
			continue
		}
		th.own[dir].set(t.perConn[dir])
		// The narrowest first, so that who waits there is in nobody's way.
		th.gates[dir] = []gate{
			{&th.own[dir], new(share)},
			{&th.stake.own[dir], new(share)},
			{&t.whole[dir], &th.stake.shares[dir]},
		}
		th.plea[dir] = newPlea()
	}
	return th
}

// limits reports whether a direction has any. The caller holds t.mu.
func (t *throttles) limits(dir int) bool {
	return t.perConn[dir] != 0 || t.perSource[dir] != 0 || t.whole[dir].limit.Load() != 0
}

// stake finds or makes a source's, and counts a connection. The caller holds
// t.mu.
func (t *throttles) stake(source netip.Addr) *stake {
	st := t.stakes[source]
	if st == nil {
		st = &stake{source: source}
		for dir, n := range t.perSource {
			st.own[dir].set(n)
		}
		t.stakes[source] = st
	}
	st.conns++
	return st
}

// maxRemembered is how many sources without a connection are remembered
// because they were given more than others.
const maxRemembered = 1 << 16

// leave ends a connection's part. Who was given more than the others is
// remembered until they have caught up, so that coming back is no way to get
// more.
func (th *throttle) leave() {
	if th == nil {
		return
	}
	t := th.of
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, th)
	th.stake.conns--
	if th.stake.conns == 0 && t.settled(th.stake) {
		delete(t.stakes, th.stake.source)
		return
	}
	if len(t.stakes) < t.sweep {
		return
	}
	gone := 0
	for source, st := range t.stakes {
		switch {
		case st.conns > 0:
		case t.settled(st) || gone == maxRemembered:
			delete(t.stakes, source)
		default:
			gone++
		}
	}
	t.sweep = 2*len(t.stakes) + 64
}

// settled reports whether a source that has no connection is owed and owes
// nothing.
func (t *throttles) settled(st *stake) bool {
	for dir := range t.whole {
		if t.whole[dir].ahead(&st.shares[dir]) || !st.own[dir].idle() {
			return false
		}
	}
	return true
}

// limits reports whether a direction had any when it began.
func (th *throttle) limits(dir int) bool { return th != nil && len(th.gates[dir]) > 0 }

// chunk is how much of a direction may ask to pass at a time.
func (th *throttle) chunk(dir int) int {
	n := bufferSize
	for _, g := range th.gates[dir] {
		n = min(n, g.shaper.chunk())
	}
	return n
}

// pass waits until n bytes, at most a chunk, may pass, or over is closed: then
// it returns false. waits is told that there is something to wait for.
func (th *throttle) pass(dir, n int, over <-chan struct{}, waits func(bool)) bool {
	for _, g := range th.gates[dir] {
		q := th.plea[dir]
		if g.shaper.ask(q, g.share, n) {
			continue
		}
		waits(true)
		select {
		case <-q.ready:
			waits(false)
		case <-over:
			g.shaper.withdraw(q)
			return false
		}
	}
	return true
}

// try is pass for datagrams, which do not wait but are dropped. It may be
// called from several goroutines.
func (th *throttle) try(dir, n int) bool {
	if th == nil {
		return true
	}
	for _, g := range th.gates[dir] {
		if !g.shaper.try(g.share, n) {
			return false
		}
	}
	return true
}
