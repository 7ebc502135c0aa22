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
// those of one source, and of each. They go on through a reload that does not
// change the bandwidth.
type throttles struct {
	whole              [2]*shaper // nil: no limit
	perSource, perConn [2]int64

	mu     sync.Mutex // guards the rest
	stakes map[netip.Addr]*stake
	sweep  int // how many stakes there may be before those of the gone are thrown away
}

// A stake is what one source has of a forward's bandwidth.
type stake struct {
	source netip.Addr
	conns  int       // guarded by the throttles' lock
	shares [2]share  // of the whole
	own    [2]shaper // among its connections, where there is a limit per source
}

// newThrottles is nil where nothing is limited.
func newThrottles(p *fairlead.Policy, was *rule) *throttles {
	if p.Bandwidth == (fairlead.Bandwidth{}) && p.BandwidthPerConn == p.Bandwidth && p.BandwidthPerSource == p.Bandwidth {
		return nil
	}
	if was != nil {
		if o := &was.f.Policy; o.Bandwidth == p.Bandwidth && o.BandwidthPerConn == p.BandwidthPerConn && o.BandwidthPerSource == p.BandwidthPerSource {
			return was.bandwidth
		}
	}
	return &throttles{
		whole:     [2]*shaper{newShaper(p.Bandwidth.Up), newShaper(p.Bandwidth.Down)},
		perSource: [2]int64{p.BandwidthPerSource.Up, p.BandwidthPerSource.Down},
		perConn:   [2]int64{p.BandwidthPerConn.Up, p.BandwidthPerConn.Down},
		stakes:    map[netip.Addr]*stake{},
	}
}

// A throttle holds one connection or session to the limits. Each direction
// may be used by one goroutine at a time.
type throttle struct {
	of    *throttles
	stake *stake
	gates [2][]gate
	plea  [2]*plea
}

// A gate is a shaper that has to be passed, and whose share of it counts.
type gate struct {
	shaper *shaper
	share  *share
}

// join makes the throttle of a client's connection, nil where t is nil. It has
// to leave.
func (t *throttles) join(client netip.Addr) *throttle {
	if t == nil {
		return nil
	}
	th := &throttle{of: t, stake: t.stake(sourceKey(client))}
	for dir := range 2 {
		// The narrowest first, so that who waits there is in nobody's way.
		if n := t.perConn[dir]; n != 0 {
			th.gates[dir] = append(th.gates[dir], gate{newShaper(n), new(share)})
		}
		if t.perSource[dir] != 0 {
			th.gates[dir] = append(th.gates[dir], gate{&th.stake.own[dir], new(share)})
		}
		if s := t.whole[dir]; s != nil {
			th.gates[dir] = append(th.gates[dir], gate{s, &th.stake.shares[dir]})
		}
		if len(th.gates[dir]) > 0 {
			th.plea[dir] = newPlea()
		}
	}
	return th
}

// stake finds or makes a source's, and counts a connection.
func (t *throttles) stake(source netip.Addr) *stake {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := t.stakes[source]
	if st == nil {
		st = &stake{source: source}
		for dir, n := range t.perSource {
			if n != 0 {
				st.own[dir].bucket = newBandwidthBucket(n)
			}
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
	for dir, s := range t.whole {
		if s != nil && s.ahead(&st.shares[dir]) || t.perSource[dir] != 0 && !st.own[dir].idle() {
			return false
		}
	}
	return true
}

// limits reports whether a direction has any.
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
