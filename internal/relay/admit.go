package relay

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// admit finds the targets for a client, or why it is turned away. A client
// that is admitted is counted, and has to leave. One with a ticket is not yet
// admitted: it waits for its turn.
func admit(ru *rule, client netip.Addr) ([]*target, *ticket, fairlead.Reason) {
	targets, why := ru.meant(client)
	if why != "" {
		return nil, nil, why
	}
	t, why := ru.enter(client)
	return targets, t, why
}

// meant are the targets meant for a client now, or why there are none for it.
func (ru *rule) meant(client netip.Addr) ([]*target, fairlead.Reason) {
	if !ru.allowed(client) {
		return nil, fairlead.Denied
	}
	if len(ru.schedule) > 0 && !ru.schedule.open(time.Now()) {
		return nil, fairlead.OutsideSchedule
	}
	targets := ru.choose(client)
	if len(targets) == 0 {
		return nil, fairlead.NoTarget
	}
	return targets, ""
}

// allowed tells whether the client may enter at all.
func (ru *rule) allowed(client netip.Addr) bool {
	for _, p := range ru.f.Policy.Deny {
		if p.Contains(client) {
			return false
		}
	}
	return true
}

// An account outlives the versions of a forward: its counters go on through a
// reload, and who waits for a turn goes on waiting, under the limits that hold
// now.
type account struct {
	meter *fairlead.Meter
	flood flood

	active  atomic.Int64 // connections
	talks   atomic.Int64 // UDP sessions, at all its sockets, that max-conns counts
	limited atomic.Bool  // something below limits who may enter

	counts  sync.Mutex // guards the rest
	limits  limits
	sources map[netip.Addr]int // connections of each; nil where no limit asks
	queue   queue
	timer   *time.Timer // when a rate lets the next one in
	closed  bool        // the forward is gone
}

// Limits are what a forward's sentence says about how many may enter. Zero is
// no limit.
type limits struct {
	conns, perSource int
	rate             *bucket
	sourceRate       *sourceRates
	patience         time.Duration // 0: nobody waits
	places           int           // for those who wait
}

// limit sets the limits of a sentence. live counts the connections of each
// source, and is called when they were not counted before.
func (a *account) limit(p *fairlead.Policy, places int, live func() map[netip.Addr]int) {
	a.counts.Lock()
	defer a.counts.Unlock()
	if p.MaxQueue > 0 {
		places = p.MaxQueue
	}
	a.limits = limits{
		conns: p.MaxConns, perSource: p.MaxConnsPerSource,
		rate: newRate(p.Rate, a.limits.rate), sourceRate: newSourceRates(p.RatePerSource, a.limits.sourceRate),
		patience: p.Queue, places: places,
	}
	switch {
	case p.MaxConnsPerSource == 0:
		a.sources = nil
	case a.sources == nil:
		a.sources = live()
	}
	a.limited.Store(p.MaxConns > 0 || p.MaxConnsPerSource > 0 || p.Rate > 0 || p.RatePerSource > 0)
	a.advance(time.Now())
}

// enter counts a client in, or where a limit is reached gives it a ticket, or
// a reason to turn it away.
func (a *account) enter(client netip.Addr) (*ticket, fairlead.Reason) {
	if !a.limited.Load() {
		a.active.Add(1)
		return nil, ""
	}
	source, now := sourceKey(client), time.Now()
	a.counts.Lock()
	defer a.counts.Unlock()
	l := &a.limits
	if a.queue.n == 0 {
		if v, _ := a.judge(source, now); v == mayEnter {
			return nil, ""
		}
	}
	if l.patience == 0 || a.closed {
		return nil, fairlead.Limited
	}
	t := a.queue.join(source, l.places, fairlead.QueueFull)
	if t == nil {
		return nil, fairlead.QueueFull
	}
	a.meter.Queued.Store(int64(a.queue.n))
	a.advance(now)
	if t.at == nil && t.why == "" { // its turn came at once
		return nil, ""
	}
	return t, ""
}

// arrive counts one new UDP session against the rates. Sessions do not wait.
func (a *account) arrive(client netip.Addr) bool {
	if !a.limited.Load() {
		return true
	}
	source, now := sourceKey(client), time.Now()
	a.counts.Lock()
	defer a.counts.Unlock()
	l := &a.limits
	if l.rate != nil && l.rate.open(now) > 0 || l.sourceRate != nil && l.sourceRate.open(source, now) > 0 {
		return false
	}
	l.pay(source, now)
	return true
}

// pay counts one arrival.
func (l *limits) pay(source netip.Addr, now time.Time) {
	if l.rate != nil {
		l.rate.pay(1)
	}
	if l.sourceRate != nil {
		l.sourceRate.pay(source, now)
	}
}

// judge counts a client of source in if it may enter. Otherwise wait is when
// time alone may change that, 0 for never. The caller holds a.counts.
func (a *account) judge(source netip.Addr, now time.Time) (v ruling, wait time.Duration) {
	l := &a.limits
	if l.conns > 0 && a.active.Load() >= int64(l.conns) {
		return nobody, 0
	}
	if l.rate != nil {
		if wait := l.rate.open(now); wait > 0 {
			return nobody, wait
		}
	}
	if l.perSource > 0 && a.sources[source] >= l.perSource {
		return notThisSource, 0
	}
	if l.sourceRate != nil {
		if wait := l.sourceRate.open(source, now); wait > 0 {
			return notThisSource, wait
		}
	}
	l.pay(source, now)
	a.active.Add(1)
	if a.sources != nil {
		a.sources[source]++
	}
	return mayEnter, 0
}

// leave counts a client out.
func (a *account) leave(client netip.Addr) {
	a.active.Add(-1)
	if !a.limited.Load() {
		return
	}
	source := sourceKey(client)
	a.counts.Lock()
	defer a.counts.Unlock()
	switch n := a.sources[source]; {
	case n > 1:
		a.sources[source] = n - 1
	case n == 1:
		delete(a.sources, source)
	}
	a.advance(time.Now())
}

// advance lets in who may of those who wait. The caller holds a.counts.
func (a *account) advance(now time.Time) {
	if a.queue.n == 0 {
		return
	}
	soonest := time.Duration(0)
	a.queue.advance(func(source netip.Addr) ruling {
		v, wait := a.judge(source, now)
		if wait > 0 && (soonest == 0 || wait < soonest) {
			soonest = wait
		}
		return v
	})
	a.meter.Queued.Store(int64(a.queue.n))
	if soonest > 0 && a.queue.n > 0 {
		if a.timer == nil {
			a.timer = time.AfterFunc(soonest, a.onTime)
		} else {
			a.timer.Reset(soonest)
		}
	}
}

func (a *account) onTime() {
	a.counts.Lock()
	defer a.counts.Unlock()
	a.advance(time.Now())
}

// dismiss ends t's waiting for a reason. It is false when its turn had come,
// or another reason had.
func (a *account) dismiss(t *ticket, why fairlead.Reason) bool {
	a.counts.Lock()
	defer a.counts.Unlock()
	done := a.queue.dismiss(t, why)
	a.meter.Queued.Store(int64(a.queue.n))
	return done
}

// close turns away who waits for a forward that is gone.
func (a *account) close() {
	a.counts.Lock()
	defer a.counts.Unlock()
	a.closed = true
	a.queue.dismissAll(fairlead.Shutdown)
	a.meter.Queued.Store(0)
	if a.timer != nil {
		a.timer.Stop()
	}
}

// sourceKey is what counts as one source: an IPv4 address, or an IPv6 /64,
// which is the least that a host is given.
func sourceKey(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}
