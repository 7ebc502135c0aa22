package relay

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// A bucket is a token bucket kept as a time: each unit moves the moment at
// which all that passed is paid for, and that moment may lie burst in the past
// but no further. It has no lock of its own.
type bucket struct {
	rate  float64 // units a second; 0: no limit
	burst time.Duration
	due   time.Time // when all that was let pass is paid for
}

func (b *bucket) cost(n int) time.Duration {
	if b.rate == 0 {
		return 0
	}
	return time.Duration(float64(n) / b.rate * float64(time.Second))
}

// open is how long to wait until something may pass, 0 or less for now.
func (b *bucket) open(now time.Time) time.Duration {
	if earliest := now.Add(-b.burst); b.due.Before(earliest) {
		b.due = earliest
	}
	return b.due.Sub(now)
}

// pay lets n units pass.
func (b *bucket) pay(n int) { b.due = b.due.Add(b.cost(n)) }

// bandwidthBurst is how much may pass at once after a silence, as the time
// that it takes at the full rate.
const bandwidthBurst = 100 * time.Millisecond

// A shaper divides a bandwidth among several parties by start-time fair
// queueing (Goyal, Vin, Cheng, SIGCOMM 1996): each request has as its start
// what its party was given so far, the one with the least is next, and who
// comes back after a silence begins where the others are. So a party that asks
// for little is served at once, and who asks for much, often, or over many
// connections gets what the others leave. It has one timer, which runs only
// while somebody waits. The zero value has no limit.
type shaper struct {
	limit atomic.Int64 // bytes a second, the same as the bucket's; 0: none

	mu      sync.Mutex // guards the rest, and every share of it
	bucket  bucket
	reached int64  // the start of what passed last
	waiting pleas  // a heap by start
	last    uint64 // plea numbered last
	timer   *time.Timer
}

// A share is what one party was given by a shaper. The zero value is a party
// that is new.
type share struct {
	given int64 // where its next plea starts, unless the others are further
}

// A plea is one party's wish to pass bytes. It is used again and again by
// one goroutine, for one wish at a time.
type plea struct {
	start  int64
	n      int
	number uint64 // tells equals apart: first come, first served
	at     int    // index in the heap, -1 when it does not wait
	ready  chan struct{}
}

func newPlea() *plea { return &plea{at: -1, ready: make(chan struct{}, 1)} }

// set makes the rate bytesPerSecond, 0 for no limit, also for those who wait.
// What has passed is paid for at whichever rate is the higher: nobody pays for
// minutes what was allowed at once.
func (s *shaper) set(bytesPerSecond int64) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	was, rate := s.bucket.rate, float64(bytesPerSecond)
	if was == rate {
		return
	}
	s.limit.Store(bytesPerSecond)
	s.bucket.rate, s.bucket.burst = rate, bandwidthBurst
	switch owed := s.bucket.due.Sub(now); {
	case owed <= 0:
	case rate == 0:
		s.bucket.due = now
	case rate > was:
		s.bucket.due = now.Add(time.Duration(float64(owed) * was / rate))
	}
	n := s.chunk()
	for _, q := range s.waiting {
		q.n = min(q.n, n) // it was asked for when more might pass at a time
	}
	s.admit(now)
}

// chunk is how much of a stream may ask to pass at a time, so that a slow rate
// is a steady one, and nobody waits long for another's turn. It is never more
// than a second's worth, because what passes is paid for afterwards.
func (s *shaper) chunk() int {
	rate := int(min(s.limit.Load(), 50*bufferSize))
	if rate == 0 {
		return bufferSize
	}
	return min(bufferSize, max(rate/50, 512), rate)
}

// ask reports whether n bytes of a party may pass now. Otherwise q waits until
// they may, which q.ready tells, or until it is withdrawn.
func (s *shaper) ask(q *plea, of *share, n int) bool {
	if s.limit.Load() == 0 {
		return true
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.chunk()) // more was a chunk before the rate changed
	start := max(of.given, s.reached)
	of.given = start + int64(n)
	if wait := s.bucket.open(now); wait > 0 || len(s.waiting) > 0 {
		s.last++
		q.start, q.n, q.number = start, n, s.last
		heap.Push(&s.waiting, q)
		if len(s.waiting) == 1 {
			s.arm(wait)
		}
		return false
	}
	s.pass(start, n)
	return true
}

// withdraw takes back a plea that nobody waits for any more.
func (s *shaper) withdraw(q *plea) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.at >= 0 {
		heap.Remove(&s.waiting, q.at)
	}
}

// try lets a datagram pass or not, because datagrams do not wait. While there
// is less than is asked for, it passes for a party that was given no more than
// the others.
func (s *shaper) try(of *share, n int) bool {
	if s.limit.Load() == 0 {
		return true
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	start := max(of.given, s.reached)
	wait := s.bucket.open(now)
	if (wait > 0 || len(s.waiting) > 0) && (start > s.reached || wait > s.bucket.burst) {
		return false
	}
	of.given = start + int64(n)
	s.pass(start, n)
	return true
}

// ahead reports whether a party was given more than the others, and they mind:
// while there is enough for all, nobody does.
func (s *shaper) ahead(of *share) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return of.given > s.reached && (len(s.waiting) > 0 || s.bucket.open(now) > 0)
}

// idle reports whether all that passed is paid for.
func (s *shaper) idle() bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.waiting) == 0 && s.bucket.open(now) <= 0
}

// pass lets n bytes pass. The caller holds s.mu.
func (s *shaper) pass(start int64, n int) {
	s.reached = max(s.reached, start)
	s.bucket.pay(n)
}

// coarse is the least time between two rounds of a timer: a fast rate lets
// several pass in each.
const coarse = time.Millisecond

// arm has those who wait looked after. The caller holds s.mu.
func (s *shaper) arm(wait time.Duration) {
	wait = max(wait, coarse)
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, s.serve)
		return
	}
	s.timer.Reset(wait)
}

// serve lets pass what may by now.
func (s *shaper) serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admit(time.Now())
}

// admit is serve for who holds s.mu.
func (s *shaper) admit(now time.Time) {
	for len(s.waiting) > 0 {
		if wait := s.bucket.open(now); wait > 0 {
			s.arm(wait)
			return
		}
		q := heap.Pop(&s.waiting).(*plea)
		s.pass(q.start, q.n)
		q.ready <- struct{}{} // it has room, and one is waited for at a time
	}
}

// pleas are a heap, see package heap.
type pleas []*plea

func (h pleas) Len() int { return len(h) }

func (h pleas) Less(i, j int) bool {
	return h[i].start < h[j].start || h[i].start == h[j].start && h[i].number < h[j].number
}

func (h pleas) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *pleas) Push(x any) {
	q := x.(*plea)
	q.at = len(*h)
	*h = append(*h, q)
}

func (h *pleas) Pop() any {
	old := *h
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*h, q.at = old[:len(old)-1], -1
	return q
}
