// Package engine holds the table of wishes: who wants which forward until when.
// It settles conflicts, chooses a carrier for each wish, hands every carrier
// its whole set, tries again what did not come about, and tells how all of it
// stands. It is the Desk of the program.
//
// It is not where connections pass and not where sentences are understood: it
// opens no socket, reads no file, and knows carriers only by their interface.
package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"fairlead"
)

// Config is what an engine needs.
type Config struct {
	// Carriers in order of preference: a wish that names none is carried by
	// the first whose Fits is nil. Fits and Apply are called by Run only, one
	// at a time; Report, Conns and Kill by anybody.
	Carriers []fairlead.Carrier

	// Watch is told of each change of a forward's state: an EventState whose
	// State is "" when the forward is gone. It may be nil.
	Watch fairlead.Watch
}

// An Engine is the table of wishes and what became of them. All methods may
// be called concurrently.
//
// Askers write the table under a lock; Run alone reads it as a whole and speaks
// to the carriers, without the lock, so that a slow Apply holds up neither
// Status nor the next wish, and everything that was wished meanwhile is carried
// out in one go.
type Engine struct {
	carriers []*carriage // the slice is fixed, the rest is Run's
	watch    fairlead.Watch
	told     map[key]telling // Run's: what watchers were told last
	wake     chan struct{}   // one token: there is something to do
	ended    chan struct{}   // closed when Run has ended, or never will begin

	// mu guards the table, how much of it has been carried out, and the
	// phases of the engine's life.
	mu      sync.Mutex
	table   table
	changes uint64        // made to the table
	done    uint64        // carried out
	passed  chan struct{} // closed, and made anew, when done grows
	kicked  bool
	stop    context.CancelFunc // of Run; nil before it
	closed  bool
}

// A carriage is one carrier and what it was last asked. Only Run uses it.
type carriage struct {
	carrier fairlead.Carrier
	set     map[key]*fairlead.Forward // nil before the first Apply
	tries   int                       // since the set changed
	retry   time.Time                 // zero: all is well
}

// New is an engine that waits for Run.
func New(c Config) *Engine {
	e := &Engine{
		watch:  c.Watch,
		told:   map[key]telling{},
		wake:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
		table:  newTable(),
		passed: make(chan struct{}),
	}
	for _, carrier := range c.Carriers {
		e.carriers = append(e.carriers, &carriage{carrier: carrier})
	}
	return e
}

var errStopped = errors.New("the engine has stopped")

// tick is how often carriers are asked whether something changed while they
// run. Looking once a second keeps carriers free of any duty to tell, and is
// as quick as people and log files need.
const tick = time.Second

// Asking takes a hundredth of a processor at most, however many forwards there
// are, as long as they are asked this often.
const (
	sparing     = 100
	slowestTick = 5 * time.Second
)

// Run carries out what is wished until ctx ends or Close is called, and may
// run once. It touches no carrier before the first call of Replace, Ask or
// Drop: what a carrier kept from an earlier life stays until somebody says what
// is wanted now. What is carried when Run returns is left as it is; Close takes
// it down.
func (e *Engine) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	e.mu.Lock()
	if e.stop != nil || e.closed {
		e.mu.Unlock()
		return errors.New("an engine runs once")
	}
	e.stop = stop
	e.mu.Unlock()
	defer close(e.ended)

	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-timer.C:
		}
		e.pass(ctx)
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		e.tell()
		timer.Reset(e.pause(sparing * time.Since(began)))
	}
}

// Close stops Run, waits for it, and has every carrier carry nothing. How long
// that may take is ctx's to say; each carrier is asked even when ctx is over.
// Afterwards the table is empty and takes no wishes; Conns and Kill go on to
// serve the connections that outlive their forwards.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.table = newTable()
	if e.stop != nil {
		e.stop()
	} else {
		close(e.ended)
	}
	e.mu.Unlock()

	select {
	case <-e.ended:
	case <-ctx.Done():
		// An Apply is still under way, and a second one beside it is forbidden.
		return ctx.Err()
	}
	for _, c := range e.carriers {
		c.carrier.Apply(ctx, nil)
	}
	return nil
}

// Kick has all carriers apply at once, because the world around them changed:
// addresses came or went, a place is up again.
func (e *Engine) Kick() {
	e.mu.Lock()
	e.kicked = true
	e.mu.Unlock()
	e.rouse()
}

func (e *Engine) rouse() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// pass carries out all changes up to now, and whatever is due to be tried again.
func (e *Engine) pass(ctx context.Context) {
	e.mu.Lock()
	now := time.Now()
	kicked := e.kicked && e.changes > 0
	e.kicked = false
	if e.table.expire(now) {
		e.changes++
	}
	upTo := e.changes
	changed := upTo != e.done
	if !changed && !kicked && !e.retryDue(now) {
		e.mu.Unlock()
		return
	}
	open := e.table.unchosen(kicked)
	e.mu.Unlock()

	// Without the lock: Fits is foreign code.
	choices := make([]choice, len(open))
	for i, q := range open {
		choices[i] = e.choose(q.f)
	}

	e.mu.Lock()
	for i, q := range open {
		if q.w.given == q.f {
			q.w.choice = choices[i]
		}
	}
	want := e.table.settle(len(e.carriers))
	e.mu.Unlock()

	for _, i := range e.order(want) {
		c := e.carriers[i]
		differs := c.differs(want[i])
		if !differs && !kicked && (c.retry.IsZero() || now.Before(c.retry)) {
			continue
		}
		if differs || kicked {
			c.tries = 0
		}
		if ctx.Err() != nil {
			return
		}
		got := c.apply(ctx, want[i])
		e.mu.Lock()
		for j, f := range want[i] {
			e.table.applied(f, got[j])
		}
		e.mu.Unlock()
	}

	e.mu.Lock()
	e.done = upTo
	close(e.passed)
	e.passed = make(chan struct{})
	e.mu.Unlock()
}

// order is the order in which carriers apply: those that lose a forward come
// first, so that one which moves to another carrier finds its port free.
func (e *Engine) order(want [][]*fairlead.Forward) []int {
	var losing, rest []int
	for i, c := range e.carriers {
		kept := 0
		for _, f := range want[i] {
			if _, ok := c.set[keyOf(f)]; ok {
				kept++
			}
		}
		if kept < len(c.set) {
			losing = append(losing, i)
		} else {
			rest = append(rest, i)
		}
	}
	return append(losing, rest...)
}

// differs reports whether want is not what the carrier was last asked.
func (c *carriage) differs(want []*fairlead.Forward) bool {
	if c.set == nil || len(c.set) != len(want) {
		return true
	}
	for _, f := range want {
		old, ok := c.set[keyOf(f)]
		if !ok || old != f && !(same(old, f) && old.Expires.Equal(f.Expires)) {
			return true
		}
	}
	return false
}

// apply hands want to the carrier and returns a status for each of it.
func (c *carriage) apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	c.set = make(map[key]*fairlead.Forward, len(want))
	for _, f := range want {
		c.set[keyOf(f)] = f
	}
	got := c.carrier.Apply(ctx, want)
	wrong := false
	for i, f := range want {
		if i >= len(got) {
			got = append(got, fairlead.Status{
				Forward: f,
				State:   fairlead.Broken,
				Problem: fairlead.Problemf(fairlead.CodeFailed, "%s did not say what became of %q", c.carrier.Name(), f.Name),
			})
		}
		wrong = wrong || got[i].State == fairlead.Broken || got[i].State == fairlead.Partial
	}
	if !wrong {
		c.tries, c.retry = 0, time.Time{}
		return got
	}
	c.retry = time.Now().Add(backoff(c.tries))
	c.tries++
	return got
}

// backoff is how long to wait after so many failed tries: 1 s, 2 s, 4 s … 15 s,
// less up to a fifth, so that programs which failed together do not try again
// together.
func backoff(tries int) time.Duration {
	d := 15 * time.Second
	if tries < 4 {
		d = time.Second << tries
	}
	return d - rand.N(d/5)
}

func (e *Engine) retryDue(now time.Time) bool {
	for _, c := range e.carriers {
		if !c.retry.IsZero() && !now.Before(c.retry) {
			return true
		}
	}
	return false
}

// pause is how long Run may sleep.
func (e *Engine) pause(least time.Duration) time.Duration {
	now := time.Now()
	d := max(tick, min(least, slowestTick))
	sooner := func(t time.Time) {
		if !t.IsZero() {
			d = min(d, max(0, t.Sub(now)))
		}
	}
	for _, c := range e.carriers {
		sooner(c.retry)
	}
	e.mu.Lock()
	sooner(e.table.nextExpiry())
	e.mu.Unlock()
	return d
}
