package relay

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// A crowd is who holds the relay's descriptors, by source. While there are
// enough of them it only counts. A source may hold up to generosity times what
// it leaves to the others (a dynamic threshold, Choudhury and Hahne, IEEE/ACM
// ToN 6(2), 1998): two greedy ones get seven fifteenths each, and somebody new
// always finds something. One that is alone may be a gateway in front of
// everybody: it gets seven eighths, or all but leftAlone where that is more,
// and what is above the threshold shrinks eight times as fast as others take
// something. Those who want more than that wait, a few of them and not for long, in turns with
// other sources; the rest is refused. Where all descriptors are in use by many
// who have little each, new connections wait in the kernel's queue.
type crowd struct {
	budget *budget
	shards [16]crowdShard

	some     atomic.Int32 // as many wait
	sessions atomic.Int64 // of datagrams, each with a descriptor

	mu     sync.Mutex // guards the rest
	queue  queue
	places int
}

const (
	generosity = 7
	leftAlone  = 256              // descriptors that one source leaves free when there is no other
	leastHeld  = 8                // descriptors that a source may hold whatever the others do
	crowdTime  = 10 * time.Second // how long one waits for a descriptor that is its share
	perConn    = 2                // descriptors of a connection
)

// A crowdShard has a part of the sources, so that they seldom wait for each
// other's lock.
type crowdShard struct {
	mu   sync.Mutex // guards held
	held map[netip.Addr]int32
	_    [48]byte // a cache line of its own
}

// crowdPlaces is how many of n descriptors are for connections that wait for
// theirs. A handful is not divided at all.
func crowdPlaces(n int) int {
	if n < 64 {
		return 0
	}
	return min(n/16, 64)
}

// newCrowd shares a budget out. places are for connections that wait for a
// descriptor, which hold one that is not of the budget; without any, no share
// is kept for anybody.
func newCrowd(b *budget, places int) *crowd {
	c := &crowd{budget: b, places: places}
	b.freed = c.freed
	for i := range c.shards {
		c.shards[i].held = map[netip.Addr]int32{}
	}
	return c
}

func (c *crowd) shard(source netip.Addr) *crowdShard {
	b := source.As16()
	return &c.shards[(b[15]^b[7]^b[6]^b[14])%byte(len(c.shards))]
}

// enter takes the descriptors of a connection from source, if they are free,
// are its share, and nobody waits for them.
func (c *crowd) enter(source netip.Addr) bool {
	return c.some.Load() == 0 && c.take(source, perConn)
}

// enterSession takes the descriptor of a datagram session as enter does those
// of a connection. Sources of datagrams are forged for nothing and never leave
// by themselves: a quarter of all descriptors is not for them.
func (c *crowd) enterSession(source netip.Addr) bool {
	if c.some.Load() > 0 {
		return false
	}
	if c.sessions.Add(1) <= c.budget.size-c.budget.size/4 && c.take(source, 1) {
		return true
	}
	c.sessions.Add(-1)
	return false
}

// leaveSession gives the descriptor of a session of source back.
func (c *crowd) leaveSession(source netip.Addr) {
	c.sessions.Add(-1)
	c.leave(source, 1)
}

// take takes n descriptors for source if they are free and its share.
func (c *crowd) take(source netip.Addr, n int32) bool {
	s := c.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held[source] + n
	if !c.fair(held, c.budget.free()-int64(n)) || !c.budget.try(int64(n)) {
		return false
	}
	s.held[source] = held
	return true
}

// greedy reports whether source has its share already. Where there is no place
// left to wait for a descriptor, it is refused; others wait in the kernel's
// queue.
func (c *crowd) greedy(source netip.Addr) bool {
	s := c.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	return !c.fair(s.held[source]+perConn, c.budget.free()-perConn)
}

// fair reports whether a source may hold so many descriptors when it leaves so
// many.
func (c *crowd) fair(held int32, left int64) bool {
	h := int64(held)
	others := c.budget.size - left - h
	return c.places == 0 || h <= leastHeld || h <= max(generosity*left, c.budget.size-leftAlone-(generosity+1)*others)
}

// leave gives n of source's descriptors back.
func (c *crowd) leave(source netip.Addr, n int32) {
	if n > 0 {
		c.forget(source, n)
		c.budget.give(int64(n))
	}
}

// await takes n descriptors for source as soon as they are free, whatever its
// share. It is false when ctx is done before.
func (c *crowd) await(ctx context.Context, source netip.Addr, n int32) bool {
	if c.budget.take(ctx, int64(n)) != nil {
		return false
	}
	c.add(source, n)
	return true
}

// freed is told when descriptors were given back.
func (c *crowd) freed() {
	if c.some.Load() > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.advance()
	}
}

func (c *crowd) forget(source netip.Addr, n int32) {
	s := c.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[source] -= n; s.held[source] <= 0 {
		delete(s.held, source)
	}
}

// move counts n descriptors as another source's. It is false, and nothing is
// moved, where they are not that one's share.
func (c *crowd) move(from, to netip.Addr, n int32) bool {
	if from == to {
		return true
	}
	s := c.shard(to)
	s.mu.Lock()
	held := s.held[to] + n
	fair := c.fair(held, c.budget.free())
	if fair {
		s.held[to] = held
	}
	s.mu.Unlock()
	if fair {
		c.forget(from, n)
	}
	return fair
}

// give counts n descriptors of one source as another's, whatever its share.
func (c *crowd) give(from, to netip.Addr, n int32) {
	c.add(to, n)
	c.forget(from, n)
}

func (c *crowd) add(source netip.Addr, n int32) {
	s := c.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[source] += n
}

// wait gives a connection a place among those that wait for descriptors, nil
// when there is none left.
func (c *crowd) wait(source netip.Addr) *ticket {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.some.Add(1) // from now on who gives back looks here
	defer func() { c.some.Store(int32(c.queue.n)) }()
	t := c.queue.join(source, c.places, fairlead.Crowded)
	c.advance()
	return t
}

// dismiss ends t's waiting for a reason, unless it is over.
func (c *crowd) dismiss(t *ticket, why fairlead.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue.dismiss(t, why)
	c.some.Store(int32(c.queue.n))
}

// advance lets in who may. The caller holds c.mu.
func (c *crowd) advance() {
	c.queue.advance(func(source netip.Addr) ruling {
		switch {
		case c.take(source, perConn):
			return mayEnter
		case c.budget.free() < perConn:
			return nobody
		}
		return notThisSource
	})
	c.some.Store(int32(c.queue.n))
}

// places is how many clients may wait for their turn with a forward that does
// not say it: each holds a descriptor.
func (r *Relay) places() int { return int(min(max(r.budget.size/8, 1), 1024)) }

// sourcesOf counts the live connections of a forward's sources.
func (r *Relay) sourcesOf(a *account) map[netip.Addr]int {
	sources := map[netip.Addr]int{}
	for _, c := range r.table.gather(nil) {
		if c, ok := c.(admitted); ok {
			if ru, client := c.admittedBy(); ru.account == a {
				sources[sourceKey(client)]++
			}
		}
	}
	return sources
}

// An admitted is a live connection that a forward's limits count.
type admitted interface {
	admittedBy() (*rule, netip.Addr)
}

func (c *conn) admittedBy() (*rule, netip.Addr) { return c.rule, c.from.Addr() }
