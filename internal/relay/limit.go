package relay

import (
	"sync"
	"time"
)

// A bucket is a token bucket kept as a time: each unit moves the moment at
// which all that passed is paid for, and that moment may lie burst in the past
// but no further. One serves all connections of a forward, so that they share
// what there is in the order in which they ask.
type bucket struct {
	rate  float64 // units a second
	burst time.Duration

	mu  sync.Mutex // guards due
	due time.Time  // when all that was let pass is paid for
}

// throttles are the buckets of a forward's bandwidth: each direction has all
// of it.
type throttles struct {
	up, down *bucket
}

// bandwidthBurst is how much may pass at once after a silence, as the time
// that it takes at the full rate.
const bandwidthBurst = 100 * time.Millisecond

func newThrottles(bytesPerSecond int64) throttles {
	if bytesPerSecond == 0 {
		return throttles{}
	}
	rate := float64(bytesPerSecond)
	return throttles{newBucket(rate, bandwidthBurst), newBucket(rate, bandwidthBurst)}
}

// chunk is how much of a stream is read at a time, so that a slow rate is a
// steady one.
func (b *bucket) chunk() int {
	return min(bufferSize, max(int(b.rate/20), 1024))
}

func newBucket(rate float64, burst time.Duration) *bucket {
	return &bucket{rate: rate, burst: burst}
}

func (b *bucket) cost(n int) time.Duration {
	return time.Duration(float64(n) / b.rate * float64(time.Second))
}

// take lets n units pass and says how long to wait before more.
func (b *bucket) take(n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if earliest := now.Add(-b.burst); b.due.Before(earliest) {
		b.due = earliest
	}
	b.due = b.due.Add(b.cost(n))
	return b.due.Sub(now)
}

// try lets n units pass if they need not wait.
func (b *bucket) try(n int, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if earliest := now.Add(-b.burst); b.due.Before(earliest) {
		b.due = earliest
	}
	if b.due.After(now) {
		return false
	}
	b.due = b.due.Add(b.cost(n))
	return true
}
