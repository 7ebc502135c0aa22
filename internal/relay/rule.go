package relay

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/certs"
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
	targets []*target         // as written
	groups  []*target         // those of them that stand for several

	server    *certs.Server     // what clients are shown; nil: they are not spoken TLS with
	client    *certs.Client     // the same for targets
	unsecured *fairlead.Problem // why there is none though the sentence wants it

	connect, idle, udpIdle, linger, lifetime, keepalive time.Duration // 0: no limit

	routed     bool          // a target depends on what the client asks for
	greeting   time.Duration // that it may take to say so
	departure  *departure
	congestion string // "": chosen for each leg; see congestionFor

	bandwidth *throttles
	schedule  schedule

	loops bool // event loops may carry its TCP connections

	// straight says that a TCP connection needs nothing but a target, so that an
	// event loop may accept it and connect for it.
	straight bool

	passed atomic.Bool // a connection has reached a target
	lack   lack
	chooser

	mu      sync.Mutex // guards the rest
	bound   []string
	problem *fairlead.Problem // of listening
	partial bool              // it listens at some of its addresses
	leaving leaving
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
	ru.greeting = orDefault(f.Policy.Greet, defaultGreet)
	ru.bandwidth = newThrottles(&f.Policy, was)
	ru.departure = newDeparture(&f.Policy)
	if ru.congestion = f.Policy.Congestion; ru.congestion == "auto" {
		ru.congestion = ""
	}
	ru.schedule = f.Policy.Schedule
	if was != nil {
		ru.account = was.account
	} else {
		ru.account = &account{meter: new(fairlead.Meter)}
	}
	ru.limit(&f.Policy, r.places(), func() map[netip.Addr]int { return r.sourcesOf(ru.account) })
	var err error
	if ru.place, err = r.cfg.Place(f.Via); err != nil { // though Fits had found it
		ru.place, ru.noPlace = nil, fairlead.AsProblem(err)
	}
	ru.secure(was, r.cfg.State)
	ru.passed.Store(was != nil && was.passed.Load() && slices.EqualFunc(was.f.To, f.To, sameDest))
	for i := range f.To {
		t := ru.newTarget(&f.To[i])
		if was != nil {
			t.inherit(was.targets)
		}
		ru.routed = ru.routed || conditionsOf(t.t) != 0
		if t.group != nil {
			ru.groups = append(ru.groups, t)
		}
		ru.targets = append(ru.targets, t)
	}
	ru.loops = f.Policy.Engine != engineGoroutines && offLoops(f) == ""
	if _, ok := ru.place.(straightPlace); ok {
		ru.straight = !ru.routed && ru.loops && f.Policy.Queue == 0
	}
	ru.draw = rand.Float64
	ru.fill()
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

// dialContext bounds a dial by the time that the rule allows, of which some is
// spent.
func (ru *rule) dialContext(ctx context.Context, spent time.Duration) (context.Context, context.CancelFunc) {
	if ru.connect > 0 {
		return context.WithTimeout(ctx, ru.connect-spent)
	}
	return context.WithCancel(ctx)
}

// status is how the forward stands.
func (ru *rule) status() fairlead.Status {
	s := fairlead.Status{Forward: ru.f, By: Name, Meter: ru.meter, State: fairlead.Listening}
	if ru.passed.Load() {
		s.State = fairlead.Passing
	}
	for _, t := range ru.targets {
		s.Targets = append(s.Targets, t.status())
	}
	taking, down := 0, 0
	for _, t := range ru.pool.Load().all {
		if t.t.Drain {
			continue
		}
		taking++
		if p := t.status().Problem; p != nil {
			down++
			s.Problem = p
		}
	}
	switch {
	case taking == 0:
		s.State = fairlead.Broken
		s.Problem = drained(ru.f)
	case down > 0 && down == taking:
		s.State = fairlead.Broken
	case down > 0:
		s.State = fairlead.Partial
	}
	if p := ru.schedule.closed(time.Now()); p != nil && s.Problem == nil {
		s.State, s.Problem = fairlead.Disabled, p
	}
	ru.withoutCertificates(&s)
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
	ru.leaving.add(&s)
	if s.Problem == nil {
		s.Problem = ru.lack.told(time.Now())
	}
	return s
}
