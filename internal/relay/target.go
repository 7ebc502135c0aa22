package relay

import (
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// A target is a place where a rule leads, and what is known of it. It knows
// only what was seen: a dial that a client caused, or a probe.
type target struct {
	t      *fairlead.Target
	ru     *rule
	active *atomic.Int64 // connections now, and dials; goes on through a reload
	group  *group        // its members, when it stands for several; nil: it is dialed itself

	// What a choice looks at, without a lock.
	weight int64
	tier   int           // lower ones are tried first
	hash   uint64        // of what is dialed
	down   atomic.Bool   // problem is not nil
	far    atomic.Bool   // the last connection took long to be made
	back   atomic.Int64  // when it came back, in Unix nanoseconds; 0: it was never down
	chosen atomic.Uint64 // its last turn

	doubted atomic.Bool // it is being asked whether answers to kept addresses come back

	name    string // of whom it is an address; "": as t says
	as      member // what DNS says of it, for a member
	current int64  // what it has of its share; guarded by chooser.round

	// What a connection that came about leaves behind, without a lock.
	fine   atomic.Bool  // known, and no problem
	good   atomic.Int64 // when a dial last succeeded, in Unix nanoseconds
	failed atomic.Int32 // dials in a row since

	mu      sync.Mutex // guards the rest
	known   bool       // it was tried
	problem *fairlead.Problem
	byCheck bool // problem is what a check that the sentence asks for has found
	since   time.Time
	results int // checks in a row that say otherwise than how it stands
	asking  bool
	next    time.Time // of the next probe
	backoff time.Duration
	lost    netip.Addr // client whose answers did not come back; see doubt
	nobody  bool       // the last probe of a lost one was nobody's; see asker
}

// One connection that fails among many that do not takes nobody out of
// service: a target that was reached within recently has to fail so often in a
// row. What is silent or has no route costs clients time, and does not get
// that chance; and neither does the only target, where it makes no difference.
// Where clients' addresses are kept, silence may be one client's, who has no way
// back, and takes the target from nobody while others reach it.
const (
	failures = 3
	recently = 10 * time.Second
)

func (ru *rule) newTarget(ft *fairlead.Target) *target {
	t := &target{
		t: ft, ru: ru, active: new(atomic.Int64),
		weight: int64(max(ft.Weight, 1)), hash: hashOfDest(ft.Dest()),
	}
	if ft.Backup {
		t.tier = levelBackup
	}
	if grouped(ft) {
		t.group = &group{first: make(chan struct{})}
	}
	return t
}

// inherit takes over what was known of the same target before a reload.
func (t *target) inherit(old []*target) {
	for _, o := range old {
		if o.t.Dest() == t.t.Dest() {
			t.take(o)
			return
		}
	}
}

func (t *target) take(o *target) {
	t.active = o.active
	t.back.Store(o.back.Load())
	t.good.Store(o.good.Load())
	if t.group != nil && o.group != nil {
		t.group.take(t, o.group)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byCheck && o.ru.f.Policy.Check != t.ru.f.Policy.Check {
		return // another check may find otherwise
	}
	t.known, t.problem, t.byCheck, t.since = o.known, o.problem, o.byCheck, o.since
	t.next, t.backoff, t.lost = o.next, o.backoff, o.lost
	t.publish()
}

// publish makes what a choice looks at what the rest says. The caller holds
// t.mu, or nobody else has t yet.
func (t *target) publish() {
	t.down.Store(t.problem != nil)
	t.fine.Store(t.known && t.problem == nil)
}

// saw notes what a client's dial met.
func (t *target) saw(p *fairlead.Problem) {
	now := time.Now()
	if p == nil {
		t.good.Store(now.UnixNano())
		t.failed.Store(0)
		if t.fine.Load() {
			return
		}
	} else if t.forgives(p, now) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p != nil && p.Code == fairlead.CodeTargetSilent && t.problem != nil && t.problem.Code == fairlead.CodeSourceLost {
		p = t.problem // which says why
	}
	if p == nil && t.byCheck {
		return // it lets connect, and does not serve
	}
	t.settle(p, now)
}

// forgives reports whether a failed dial may be one of a kind.
func (t *target) forgives(p *fairlead.Problem, now time.Time) bool {
	onesOwn := t.ru.departure.keep && (p.Code == fairlead.CodeTargetSilent || p.Code == fairlead.CodeSourceLost)
	if !t.fine.Load() || !onesOwn && p.Code != fairlead.CodeTargetRefuses && p.Code != fairlead.CodeTargetFailed {
		return false
	}
	if now.UnixNano()-t.good.Load() >= int64(recently) || len(t.ru.pool.Load().all) < 2 {
		return false
	}
	return onesOwn || t.failed.Add(1) < failures
}

// answered notes what a probe met. Where the sentence asks for checks it takes
// some in a row to change how the target stands.
func (t *target) answered(p *fairlead.Problem) {
	check := &t.ru.f.Policy.Check
	t.mu.Lock()
	defer t.mu.Unlock()
	if checked(check) && t.known && (p == nil) != (t.problem == nil) {
		need := fall(check)
		if p == nil {
			need = rise(check)
		}
		if t.results++; t.results < need {
			return
		}
	}
	t.settle(p, time.Now())
	t.byCheck = p != nil && checked(check)
}

// settle makes p how t stands. The caller holds t.mu.
func (t *target) settle(p *fairlead.Problem, now time.Time) {
	t.results = 0
	wentDown := t.problem == nil && p != nil
	if wentDown {
		// One that has been up for a while begins anew; one that goes up and
		// down is asked less and less.
		if t.backoff == 0 || t.known && now.Sub(t.since) >= lastBackoff {
			t.backoff = firstBackoff
		}
		if !checked(&t.ru.f.Policy.Check) {
			t.next = now.Add(t.backoff)
		}
	}
	if t.problem != nil && p == nil {
		t.back.Store(now.UnixNano())
	}
	if !t.known || (t.problem == nil) != (p == nil) || p != nil && p.Code != t.problem.Code {
		t.since = now
	}
	if p == nil {
		t.byCheck = false
		t.failed.Store(0)
	}
	t.known, t.problem = true, p
	t.publish()
}

// found takes back that the target's name or path is missing. How it stands
// then, nobody knows yet.
func (t *target) found() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.problem == nil {
		return
	}
	switch t.problem.Code {
	case fairlead.CodeNameUnknown, fairlead.CodeNameFamily, fairlead.CodeNameServer, fairlead.CodeNoSocket:
		t.forget()
	}
}

// forget makes t one of which nobody knows how it stands. The caller holds
// t.mu.
func (t *target) forget() {
	now := time.Now()
	if t.problem != nil {
		t.back.Store(now.UnixNano())
	}
	t.known, t.problem, t.byCheck, t.since = false, nil, false, now
	t.publish()
}

func (t *target) status() fairlead.TargetStatus {
	t.mu.Lock()
	s := fairlead.TargetStatus{
		Target: t.t.Dest(), Up: t.known && t.problem == nil, Problem: t.problem, Since: t.since,
		Active: t.active.Load(), Weight: t.t.Weight, Backup: t.t.Backup, Draining: t.t.Drain,
	}
	t.mu.Unlock()
	if t.group != nil {
		t.group.describe(&s)
	}
	return s
}

// host is the name, or the address, by which the service is known.
func (t *target) host() string {
	if t.name != "" {
		return t.name
	}
	return t.t.Host
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
