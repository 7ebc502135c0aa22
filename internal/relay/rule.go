package relay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// What holds where the sentence says nothing.
const (
	defaultConnect = 10 * time.Second
	defaultLinger  = 30 * time.Second
	defaultUDPIdle = 60 * time.Second
)

// A rule is one forward made ready for traffic. It is replaced as a whole when
// the forward changes; connections keep the rule under which they began.
type rule struct {
	*account
	f       *fairlead.Forward
	place   fairlead.Place    // nil when there is none
	noPlace *fairlead.Problem // why
	targets []*target

	connect, idle, udpIdle, linger, lifetime, keepalive time.Duration // 0: no limit

	bandwidth throttles
	arrivals  *bucket // new connections; nil: no limit

	passed atomic.Bool   // a connection has reached a target
	turns  atomic.Uint32 // given to targets that take turns

	mu      sync.Mutex // guards the rest
	bound   []string
	problem *fairlead.Problem // of listening
	partial bool              // it listens at some of its addresses
}

// An account outlives the versions of a forward: its counters go on through a
// reload.
type account struct {
	meter *fairlead.Meter
	flood flood

	counts  sync.Mutex // guards the rest
	active  int
	sources map[netip.Addr]int
}

type identity struct {
	owner fairlead.Owner
	name  string
}

func identify(f *fairlead.Forward) identity { return identity{f.Owner, f.Name} }

// sameMeaning compares by the canonical sentence: where it was written and
// when it expires makes no difference to the traffic.
func sameMeaning(a, b *fairlead.Forward) bool {
	return a == b || a.Expr != "" && a.Expr == b.Expr && a.Disabled == b.Disabled
}

func (r *Relay) newRule(f *fairlead.Forward, was *rule) *rule {
	ru := &rule{
		f:         f,
		connect:   orDefault(f.Policy.Connect, defaultConnect),
		idle:      orDefault(f.Policy.Idle, 0),
		udpIdle:   orDefault(f.Policy.Idle, defaultUDPIdle),
		linger:    orDefault(f.Policy.Linger, defaultLinger),
		lifetime:  orDefault(f.Policy.MaxLifetime, 0),
		keepalive: orDefault(f.Policy.Keepalive, sock.DefaultKeepalive),
	}
	ru.bandwidth = newThrottles(f.Policy.Bandwidth)
	if f.Policy.Rate > 0 {
		ru.arrivals = newBucket(float64(f.Policy.Rate), time.Second)
	}
	if was != nil {
		ru.account = was.account
	} else {
		ru.account = &account{meter: new(fairlead.Meter), sources: map[netip.Addr]int{}}
	}
	var err error
	if ru.place, err = r.cfg.Place(f.Via); err != nil { // though Fits had found it
		ru.place, ru.noPlace = nil, fairlead.AsProblem(err)
	}
	ru.passed.Store(was != nil && was.passed.Load() && slices.EqualFunc(was.f.To, f.To, sameDest))
	for i := range f.To {
		t := &target{t: &f.To[i], active: new(atomic.Int64)}
		if was != nil {
			t.inherit(was.targets)
		}
		ru.targets = append(ru.targets, t)
	}
	return ru
}

func sameDest(a, b fairlead.Target) bool { return a.Dest() == b.Dest() }

// orDefault is d with what an unsaid and an "off" value mean.
func orDefault(d, unsaid time.Duration) time.Duration {
	switch {
	case d == fairlead.Off:
		return 0
	case d == 0:
		return unsaid
	}
	return d
}

// dialContext bounds a dial by the time that the rule allows.
func (ru *rule) dialContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if ru.connect > 0 {
		return context.WithTimeout(ctx, ru.connect)
	}
	return context.WithCancel(ctx)
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

// choose returns the targets meant for a client, in the order to be tried:
// those with the longest prefix that holds the client, else those for
// everybody. Clients of unix sockets have no address and belong to everybody.
func (ru *rule) choose(client netip.Addr) []*target {
	if len(ru.targets) == 1 && len(ru.targets[0].t.From) == 0 {
		return ru.targets
	}
	best := -1
	var chosen []*target
	for _, t := range ru.targets {
		bits := -1
		for _, p := range t.t.From {
			if p.Contains(client) {
				bits = max(bits, p.Bits())
			}
		}
		if bits < 0 && len(t.t.From) > 0 {
			continue
		}
		switch {
		case bits > best:
			best, chosen = bits, []*target{t}
		case bits == best:
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// enter counts a client in, unless a limit is reached.
func (a *account) enter(client netip.Addr, p *fairlead.Policy) bool {
	source := sourceKey(client)
	a.counts.Lock()
	defer a.counts.Unlock()
	if p.MaxConns > 0 && a.active >= p.MaxConns ||
		p.MaxConnsPerSource > 0 && a.sources[source] >= p.MaxConnsPerSource {
		return false
	}
	a.active++
	a.sources[source]++
	return true
}

// leave counts a client out.
func (a *account) leave(client netip.Addr) {
	source := sourceKey(client)
	a.counts.Lock()
	defer a.counts.Unlock()
	a.active--
	if a.sources[source]--; a.sources[source] == 0 {
		delete(a.sources, source)
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

// status is how the forward stands.
func (ru *rule) status() fairlead.Status {
	s := fairlead.Status{Forward: ru.f, By: Name, Meter: ru.meter, State: fairlead.Listening}
	if ru.passed.Load() {
		s.State = fairlead.Passing
	}
	down := 0
	for _, t := range ru.targets {
		ts := t.status()
		if ts.Problem != nil {
			down++
			s.Problem = ts.Problem
		}
		s.Targets = append(s.Targets, ts)
	}
	switch {
	case down > 0 && down == len(ru.targets):
		s.State = fairlead.Broken
	case down > 0:
		s.State = fairlead.Partial
	}
	ru.mu.Lock()
	defer ru.mu.Unlock()
	s.Bound = ru.bound
	if ru.problem != nil {
		s.Problem = ru.problem
		switch {
		case !ru.partial:
			s.State = fairlead.Broken
		case s.State != fairlead.Broken:
			s.State = fairlead.Partial
		}
	}
	return s
}

// A target is a place where a rule leads, and what is known of it. It knows
// only what was seen: a dial that a client caused, or a probe.
type target struct {
	t      *fairlead.Target
	active *atomic.Int64 // connections now; goes on through a reload

	mu      sync.Mutex // guards the rest
	known   bool       // it was tried
	problem *fairlead.Problem
	since   time.Time
	failed  int       // checks in a row
	next    time.Time // of the next probe
	backoff time.Duration
}

func (t *target) inherit(old []*target) {
	for _, o := range old {
		if o.t.Dest() == t.t.Dest() {
			t.active = o.active
			o.mu.Lock()
			t.known, t.problem, t.since, t.next, t.backoff = o.known, o.problem, o.since, o.next, o.backoff
			o.mu.Unlock()
		}
	}
}

// saw notes what a dial or a probe met.
func (t *target) saw(p *fairlead.Problem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known || (t.problem == nil) != (p == nil) || p != nil && p.Code != t.problem.Code {
		t.since = time.Now()
	}
	if t.problem == nil && p != nil {
		t.backoff = 0
		t.next = time.Now().Add(firstBackoff)
	}
	if p == nil {
		t.failed = 0
	}
	t.known, t.problem = true, p
}

func (t *target) status() fairlead.TargetStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fairlead.TargetStatus{Target: t.t.Dest(), Up: t.known && t.problem == nil, Problem: t.problem, Since: t.since}
}

// address is what to dial, for the i-th of the listening ports.
func (t *target) address(at fairlead.PortList, i int) (network, address string) {
	if t.t.Unix != "" {
		return "unix", t.t.Unix
	}
	host := t.t.Host
	if host == "self" {
		host = "localhost"
	}
	if len(at) == 0 && len(t.t.Ports) == 0 {
		return "tcp", net.JoinHostPort(host, "0") // refused by Fits
	}
	return "tcp", net.JoinHostPort(host, strconv.Itoa(int(t.port(at, i))))
}

func (t *target) port(at fairlead.PortList, i int) uint16 {
	if len(t.t.Ports) > 0 && len(at) == 0 {
		return t.t.Ports[0].First // from a unix socket
	}
	return t.t.Port(at, i)
}
