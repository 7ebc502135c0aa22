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
	active *atomic.Int64 // connections now, and dials; goes on through a reload

	// What a choice looks at, without a lock.
	weight int64
	tier   int           // lower ones are tried first
	hash   uint64        // of what is dialed
	down   atomic.Bool   // problem is not nil
	back   atomic.Int64  // when it came back, in Unix nanoseconds; 0: it was never down
	chosen atomic.Uint64 // its last turn

	doubted atomic.Bool // it is being asked whether answers to kept addresses come back

	current int64 // what it has of its share; guarded by chooser.round

	mu      sync.Mutex // guards the rest
	known   bool       // it was tried
	problem *fairlead.Problem
	since   time.Time
	failed  int       // checks in a row
	next    time.Time // of the next probe
	backoff time.Duration
	lost    netip.Addr // client whose answers did not come back; see doubt
}

func newTarget(ft *fairlead.Target) *target {
	t := &target{
		t: ft, active: new(atomic.Int64),
		weight: int64(max(ft.Weight, 1)), hash: hashOfDest(ft.Dest()),
	}
	if ft.Backup {
		t.tier = levelBackup
	}
	return t
}

// leaves are the targets to choose among.
func (t *target) leaves() []*target { return []*target{t} }

func (t *target) inherit(old []*target) {
	for _, o := range old {
		if o.t.Dest() == t.t.Dest() {
			t.active = o.active
			o.mu.Lock()
			t.known, t.problem, t.since, t.next, t.backoff, t.lost = o.known, o.problem, o.since, o.next, o.backoff, o.lost
			t.down.Store(t.problem != nil)
			t.back.Store(o.back.Load())
			o.mu.Unlock()
		}
	}
}

// saw notes what a dial or a probe met.
func (t *target) saw(p *fairlead.Problem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p != nil && p.Code == fairlead.CodeTargetSilent && t.problem != nil && t.problem.Code == fairlead.CodeSourceLost {
		p = t.problem // which says why
	}
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
	if t.problem != nil && p == nil {
		t.back.Store(time.Now().UnixNano())
	}
	t.known, t.problem = true, p
	t.down.Store(p != nil)
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
