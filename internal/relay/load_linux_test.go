package relay_test

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// A load is clients that come one after the other, eight at a time, from many
// addresses, and hear which target they were led to.
type load struct {
	to   string
	work sync.WaitGroup
	done chan struct{}
	gate sync.RWMutex // held by each client from its first packet to its last

	heard  [256]atomic.Int64 // by the first letter of the target
	served atomic.Int64
	phase  atomic.Int64 // counts what was done to the targets

	stopping int64 // the phase in which a target is being stopped, and may still be found

	mu     sync.Mutex // guards the rest
	failed []failure
}

// A failure is a client that heard nothing, and the phases in which it came and
// failed.
type failure struct {
	err      error
	from, to int64
}

func startLoad(t *testing.T, f *fairlead.Forward) *load {
	l := &load{to: entryOf(f), done: make(chan struct{}), stopping: -1}
	for i := range 8 {
		l.work.Go(func() { l.client(i) })
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) stop() {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	l.work.Wait()
}

func (l *load) client(worker int) {
	for i := 0; ; i++ {
		select {
		case <-l.done:
			return
		default:
		}
		l.gate.RLock()
		from := l.phase.Load()
		name, err := l.ask(netip.AddrFrom4([4]byte{127, 0, byte(1 + worker), byte(1 + i%200)}))
		if err == nil {
			l.heard[name].Add(1)
			l.served.Add(1)
		} else {
			l.mu.Lock()
			l.failed = append(l.failed, failure{err, from, l.phase.Load()})
			l.mu.Unlock()
		}
		l.gate.RUnlock()
	}
}

func (l *load) ask(client netip.Addr) (byte, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 0))}
	c, err := d.Dial("tcp", l.to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		return 0, err
	}
	return b[0], nil
}

// more waits until so many clients more were served.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	goal := l.served.Load() + n
	eventually(t, "clients are served", func() bool { return l.served.Load() >= goal })
}

// wantNoneLost fails where a client failed whose whole life was within another
// phase. Of those that were on a target when it stopped, there are as many as
// clients come at a time, at most.
func (l *load) wantNoneLost(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.failed {
		if f.from == f.to && f.from != l.stopping {
			t.Errorf("a new client failed in phase %d: %v", f.from, f.err)
		}
	}
	if len(l.failed) > 8 {
		t.Errorf("%d clients failed, and 8 come at a time", len(l.failed))
	}
}

var everyPolicy = []string{"failover", "round-robin", "least-conn", "random", "source-hash"}

func TestATargetStopsUnderLoadAndComesBack(t *testing.T) {
	for _, policy := range everyPolicy {
		for _, goroutines := range []bool{false, true} {
			name := policy
			if goroutines {
				name += ", goroutines"
			}
			t.Run(name, func(t *testing.T) {
				lab.CheckLeaks(t)
				a := lab.Serve(t, lab.At{}, lab.Banner("a"))
				b := lab.Serve(t, lab.At{}, lab.Banner("b"))
				f := between(t, policy, a.Address, b.Address)
				r := newRelay(t, relay.Config{Goroutines: goroutines})
				r.Apply(t.Context(), []*fairlead.Forward{f})
				l := startLoad(t, f)
				l.more(t, 200)
				if l.heard['a'].Load() == 0 {
					t.Error("a was not used at all")
				}
				l.stopping = l.phase.Add(1)
				a.Stop()
				l.phase.Add(1)
				l.more(t, 400)
				eventually(t, "a is told to be down", func() bool { return r.Report()[0].State == fairlead.Partial })
				l.phase.Add(1)
				lab.Serve(t, lab.At{Address: a.Address}, lab.Banner("a"))
				was := l.heard['a'].Load()
				eventually(t, "a is used again", func() bool { return l.heard['a'].Load() >= was+20 })
				l.stop()
				l.wantNoneLost(t)
			})
		}
	}
}

func TestATargetFallsSilentUnderLoad(t *testing.T) {
	for _, policy := range everyPolicy {
		t.Run(policy, func(t *testing.T) {
			lab.CheckLeaks(t)
			a := lab.Serve(t, lab.At{}, lab.Banner("a"))
			b := lab.Serve(t, lab.At{}, lab.Banner("b"))
			f := between(t, policy, a.Address, b.Address)
			f.Policy.Connect = time.Second
			r := newRelay(t, relay.Config{})
			r.Apply(t.Context(), []*fairlead.Forward{f})
			l := startLoad(t, f)
			l.more(t, 100)
			// Between two clients: for the relay a is up until it is asked.
			l.gate.Lock()
			a.Stop()
			hole := lab.BlackHole(t, lab.At{Address: a.Address})
			l.phase.Add(1)
			l.gate.Unlock()
			if hole != a.Address {
				t.Fatalf("the black hole is %s and not %s", hole, a.Address)
			}
			was := l.heard['b'].Load()
			eventually(t, "a is told to be down", func() bool { return r.Report()[0].State == fairlead.Partial })
			eventually(t, "b serves", func() bool { return l.heard['b'].Load() >= was+200 })
			l.stop()
			l.wantNoneLost(t)
			if p := r.Report()[0].Problem; p == nil || p.Code != fairlead.CodeTargetSilent {
				t.Errorf("told: %v, want %s", p, fairlead.CodeTargetSilent)
			}
		})
	}
}
