package netmon

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPollTellsOfChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // for the race detector; the bubble orders it all
		state, broken, notices := "a", error(nil), 0
		look := func() (string, error) {
			mu.Lock()
			defer mu.Unlock()
			return state, broken
		}
		notify := func() {
			mu.Lock()
			defer mu.Unlock()
			notices++
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- poll(ctx, look, notify) }()
		// Each step is one look; a look that fails is no change.
		for _, step := range []struct {
			state  string
			broken error
			want   int
		}{
			{"a", nil, 1}, {"b", nil, 2}, {"b", nil, 2}, {"", errors.New("no list"), 2}, {"b", nil, 2}, {"a", nil, 3},
		} {
			synctest.Wait()
			mu.Lock()
			state, broken = step.state, step.broken
			mu.Unlock()
			time.Sleep(pollEvery) // the bubble's time
			synctest.Wait()
			mu.Lock()
			if notices != step.want {
				t.Errorf("%q, %v: %d notices, want %d", step.state, step.broken, notices, step.want)
			}
			mu.Unlock()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestPollThatCannotLookIsAnError(t *testing.T) {
	want := errors.New("no list")
	err := poll(t.Context(), func() (string, error) { return "", want }, func() { t.Error("notified") })
	if !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}
