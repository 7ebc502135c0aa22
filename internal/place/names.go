package place

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// How long answers hold, and how much is kept.
const (
	minTTL    = time.Second
	maxTTL    = time.Hour
	unseenTTL = 5 * time.Second // no DNS reply was seen: /etc/hosts, or the system's own resolver

	maxNegative = 5 * time.Second // "no such name" is believed for 1 s to this, as its SOA says (RFC 2308)

	// A lookup that failed is not repeated at once: soon when there is
	// nothing else to use, later when there is (RFC 8767 §5).
	retryBare  = time.Second
	retryStale = 5 * time.Second

	staleFor = 24 * time.Hour         // last good addresses, while lookups fail
	patience = 500 * time.Millisecond // for a new answer while there is an old one

	winnerFor = 10 * time.Minute

	lookupTime = 5 * time.Second
	maxLookups = 128 // at a time
	maxWaiting = maxNames
	maxNames   = 4096
	maxAddrs   = 32 // of one name
)

// Names looks names up and remembers the answers.
//
// An answer holds for the least time to live of the records it was made of,
// at least 1 s and at most 1 h. An older one is renewed when somebody asks;
// nothing is looked up in advance. While lookups fail the last good addresses
// are used for up to 24 h, and a renewal that hangs holds nobody up for more
// than half a second. "No such name" is an answer and no failure, and is
// believed at once.
//
// There is one lookup of a name at a time, and it has 5 s. At most 4096 names
// are remembered, the least recently used forgotten first.
//
// Methods may be called concurrently. NewNames makes one, Close ends it.
type Names struct {
	servers []netip.AddrPort
	server  atomic.Uint32 // counts up when a server fails; modulo len(servers) is the one to ask

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	slots   chan struct{}  // holds a token for each lookup that runs
	flights sync.WaitGroup // of all lookups

	// mu guards these, and the fields of each entry.
	mu      sync.Mutex
	closed  bool
	waiting int // flights
	entries map[string]*entry
	recent  list.List // of *entry, the most recently used first
}

// An entry is what is known of one name.
type entry struct {
	name string
	at   *list.Element

	good   *finding  // the last good answer
	fresh  time.Time // it holds until then
	usable time.Time // and while lookups fail, until then

	err   *fairlead.Problem // of the last lookup, if it had no good answer
	quiet time.Time         // no lookup before that

	flight *flight // the lookup under way

	winner netip.Addr
	won    time.Time
}

// A finding is what a name server has answered; it is never changed. An entry
// has either addresses or services.
type finding struct {
	addrs    []netip.Addr
	services []Service
}

// A flight is one lookup. Its result may be read when done is closed.
type flight struct {
	began time.Time
	done  chan struct{}
	found *finding
	err   *fairlead.Problem
}

// NewNames makes an empty cache that asks servers, or those of the system when
// there are none.
func NewNames(servers []netip.AddrPort) *Names {
	n := &Names{
		servers: slices.Clone(servers),
		slots:   make(chan struct{}, maxLookups),
		entries: map[string]*entry{},
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// Close ends the lookups under way, waits for them, and refuses new ones.
func (n *Names) Close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.flights.Wait()
}

// Lookup returns the addresses of name, from 1 to 32 of both families,
// alternating, IPv4 never as IPv4-in-IPv6. 0.0.0.0 and :: are not among them:
// filtering resolvers answer them for "blocked", and to dial them would reach
// this host.
//
// Errors are a *fairlead.Problem of CodeNameUnknown, CodeNameServer or
// CodeNoDescriptors, made for this caller; when ctx is cancelled the error
// matches [context.Canceled].
func (n *Names) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r, err := n.find(ctx, name, name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(r.addrs), nil
}

// find is what is known under key, which is asked for about name: the key is
// the name for addresses, and another for services.
func (n *Names) find(ctx context.Context, key, name string) (*finding, error) {
	n.mu.Lock()
	e, now := n.entryOf(key), time.Now()
	stale := e.stale(now)
	switch {
	case now.Before(e.fresh):
		n.mu.Unlock()
		return e.good, nil
	case now.Before(e.quiet):
		err := e.err
		n.mu.Unlock()
		return orStale(nil, err, stale)
	}
	if e.flight == nil {
		if p := n.take(name); p != nil {
			n.mu.Unlock()
			return orStale(nil, p, stale)
		}
		e.flight = &flight{began: now, done: make(chan struct{})}
		go n.fly(e, e.flight)
	}
	f := e.flight
	n.mu.Unlock()

	var enough <-chan time.Time
	if stale != nil {
		timer := time.NewTimer(patience - now.Sub(f.began))
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-f.done:
		n.mu.Lock()
		stale = e.stale(time.Now()) // "no such name" leaves none
		n.mu.Unlock()
		return orStale(f.found, f.err, stale)
	case <-enough:
		return stale, nil
	case <-ctx.Done():
		return nil, lookupEnded(ctx, name, time.Since(now))
	}
}

// orStale is what a lookup found, or else what was known before.
func orStale(found *finding, err *fairlead.Problem, stale *finding) (*finding, error) {
	switch {
	case err == nil:
		return found, nil
	case stale != nil:
		return stale, nil
	}
	p := *err // callers add notes to what they get
	p.Notes, p.Fixes = slices.Clone(p.Notes), slices.Clone(p.Fixes)
	return nil, &p
}

// entryOf is the entry of name, made when there is none. n.mu is held.
func (n *Names) entryOf(name string) *entry {
	name = strings.ToLower(name)
	if e := n.entries[name]; e != nil {
		n.recent.MoveToFront(e.at)
		return e
	}
	if len(n.entries) >= maxNames {
		// A lookup of it may be under way; it then ends in the entry that
		// nobody finds any more.
		oldest := n.recent.Remove(n.recent.Back()).(*entry)
		delete(n.entries, oldest.name)
	}
	e := &entry{name: name}
	e.at = n.recent.PushFront(e)
	n.entries[name] = e
	return e
}

// stale is the last good answer, if it may still be used.
func (e *entry) stale(now time.Time) *finding {
	if now.Before(e.usable) {
		return e.good
	}
	return nil
}

// take counts a lookup in, or says why there can be none. n.mu is held.
func (n *Names) take(name string) *fairlead.Problem {
	if n.closed {
		p := fairlead.Problemf(fairlead.CodeNameServer, "%q is not looked up: the program ends", name)
		p.Err = net.ErrClosed
		return p
	}
	if n.waiting >= maxWaiting {
		return fairlead.Problemf(fairlead.CodeNameServer, "%q is not looked up: %d other lookups wait for an answer", name, n.waiting).
			Fix("see whether the name server is up and can be reached", "")
	}
	n.waiting++
	n.flights.Add(1)
	return nil
}

// fly looks e.name up and settles e and f by the answer.
func (n *Names) fly(e *entry, f *flight) {
	defer n.flights.Done()
	ctx, cancel := context.WithTimeout(n.ctx, lookupTime)
	defer cancel()
	var a answer
	select {
	case n.slots <- struct{}{}:
		if name, ok := strings.CutPrefix(e.name, serviceKey); ok {
			a = n.askServices(ctx, name)
		} else {
			a = n.ask(ctx, e.name)
		}
		<-n.slots
	case <-ctx.Done():
		a = answer{err: fairlead.Problemf(fairlead.CodeNameServer, "the lookup of %q had no turn in %s: %d others wait for an answer", strings.TrimPrefix(e.name, serviceKey), span(lookupTime), maxLookups)}
		a.err.Err = ctx.Err()
		a.err.Fix("see whether the name server is up and can be reached", "")
	}

	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting--
	e.settle(a, time.Now())
	e.flight = nil
	f.found, f.err = a.found, a.err
	close(f.done)
}

// settle takes over what a lookup answered at now.
func (e *entry) settle(a answer, now time.Time) {
	e.err = a.err
	switch {
	case a.err == nil:
		e.good = a.found
		e.fresh = now.Add(min(max(a.ttl, minTTL), maxTTL))
		e.usable = now.Add(staleFor)
	case a.negative:
		e.quiet = now.Add(min(max(a.ttl, minTTL), maxNegative))
		e.usable = time.Time{} // an answer, and no failure (RFC 8767 §4)
	case e.stale(now) != nil:
		e.quiet = now.Add(retryStale)
	default:
		e.quiet = now.Add(retryBare)
	}
}

// won notes that a is the address of name that was connected to. A winner is
// not renewed by winning again, so that the others have their chance every
// ten minutes.
func (n *Names) won(name string, a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, now := n.entryOf(name), time.Now()
	if e.winner != a || now.Sub(e.won) >= winnerFor {
		e.winner, e.won = a, now
	}
}

// winner is the address of name that won within the last ten minutes.
func (n *Names) winner(name string) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.entries[strings.ToLower(name)]
	if e == nil || !e.winner.IsValid() || time.Since(e.won) >= winnerFor {
		return netip.Addr{}, false
	}
	return e.winner, true
}

// straight is the address of name to be tried first, if the last answer still
// holds and leaves no choice.
func (n *Names) straight(name string) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	e := n.entries[strings.ToLower(name)]
	switch {
	case e == nil || !now.Before(e.fresh):
	case len(e.good.addrs) == 1:
		return e.good.addrs[0], e.good.addrs[0].Zone() == ""
	case e.winner.IsValid() && now.Sub(e.won) < winnerFor && slices.Contains(e.good.addrs, e.winner):
		return e.winner, e.winner.Zone() == ""
	}
	return netip.Addr{}, false
}

func lookupEnded(ctx context.Context, name string, took time.Duration) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return cancelled(name, ctx)
	}
	p := fairlead.Problemf(fairlead.CodeNameServer, "the lookup of %q has no answer after %s", name, span(took))
	p.Err = ctx.Err()
	return p.Fix("see whether the name server is up and can be reached", "")
}
