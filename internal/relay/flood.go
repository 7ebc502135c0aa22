package relay

import (
	"fmt"
	"sync"
	"time"

	"fairlead"
)

// toldPerSecond is how many clients that were turned away are told one by one,
// for each forward. The rest of them is told as a number.
const toldPerSecond = 10

// A flood keeps clients that are turned away from filling the log.
type flood struct {
	mu     sync.Mutex // guards the rest
	began  time.Time  // of the second that counts now
	told   int
	untold int
	last   fairlead.Reason // of those untold
}

// tells reports whether one more client turned away is told, and counts it
// otherwise.
func (f *flood) tells(now time.Time, why fairlead.Reason) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.began) >= time.Second && f.untold == 0 {
		f.began, f.told = now, 0
	}
	if f.told < toldPerSecond {
		f.told++
		return true
	}
	f.untold++
	f.last = why
	return false
}

// rest is how many were not told in the second that is over.
func (f *flood) rest(now time.Time) (n int, last fairlead.Reason) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.untold == 0 || now.Sub(f.began) < time.Second {
		return 0, ""
	}
	n, f.began, f.told, f.untold = f.untold, now, 0, 0
	return n, f.last
}

// tellFloods tells the rest of every forward; the janitor calls it.
func (r *Relay) tellFloods(now time.Time) {
	for _, ru := range r.current() {
		if n, last := ru.flood.rest(now); n > 0 {
			text := fmt.Sprintf("%s: %d more clients were turned away (the last one: %s)", ru.f.Name, n, last)
			p := fairlead.Problemf(fairlead.CodeTurnedAway, "%s", text)
			p.Warning = true
			r.tell(fairlead.Event{Kind: fairlead.EventTrouble, Forward: ru.f.Name, Text: text, Problem: p}, nil)
		}
	}
}
