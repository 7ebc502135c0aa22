package relay

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// A budget is the descriptors that the relay may use. Because everything that
// lasts draws from it, the process as a whole keeps a reserve: listeners stay
// open, names can be looked up, and the control socket answers.
type budget struct {
	size int64
	sem  *semaphore.Weighted
	used atomic.Int64

	freed func() // told when some were given back; nil: nobody
}

func newBudget(n int) *budget {
	return &budget{size: int64(n), sem: semaphore.NewWeighted(int64(n))}
}

// take waits for n descriptors until ctx is done.
func (b *budget) take(ctx context.Context, n int64) error {
	err := b.sem.Acquire(ctx, n)
	if err == nil {
		b.used.Add(n)
	}
	return err
}

// try takes n descriptors if they are free.
func (b *budget) try(n int64) bool {
	ok := b.sem.TryAcquire(n)
	if ok {
		b.used.Add(n)
	}
	return ok
}

func (b *budget) give(n int64) {
	b.used.Add(-n)
	b.sem.Release(n)
	if b.freed != nil {
		b.freed()
	}
}

func (b *budget) free() int64 { return b.size - b.used.Load() }

func (b *budget) inUse() int { return int(b.used.Load()) }
