package relay

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// A budget is the descriptors that the relay may use. Because everything that
// lasts draws from it, the process as a whole keeps a reserve: listeners stay
// open, names can be looked up, and the control socket answers.
type budget struct {
	size int64
	sem  *semaphore.Weighted
}

func newBudget(n int) *budget {
	return &budget{size: int64(n), sem: semaphore.NewWeighted(int64(n))}
}

// take waits for n descriptors until ctx is done.
func (b *budget) take(ctx context.Context, n int64) error { return b.sem.Acquire(ctx, n) }

// try takes n descriptors if they are free.
func (b *budget) try(n int64) bool { return b.sem.TryAcquire(n) }

func (b *budget) give(n int64) { b.sem.Release(n) }
