package relay

import (
	"sync"
	"time"

	"fairlead"
)

// lackTold is how long a status tells of what this side of a dial lacked.
const lackTold = time.Minute

// A lack is why a dial lately did not even begin to ask the target: nothing of
// this host was left for it to set out from, or the client's address could not
// be kept.
type lack struct {
	mu      sync.Mutex // guards the rest
	problem *fairlead.Problem
	at      time.Time
}

func (l *lack) note(p *fairlead.Problem, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problem, l.at = p, now
}

// told is the lack of the last minute, as a warning; nil where there was none.
func (l *lack) told(now time.Time) *fairlead.Problem {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.at) >= lackTold {
		return nil
	}
	return l.problem
}

// lacks reports whether a dial failed for a lack on this side, which says
// nothing about the target and may be this one client's.
func (ru *rule) lacks(p *fairlead.Problem) bool {
	return p.Code == fairlead.CodeNoSourcePort || p.Code == fairlead.CodeNoSource && ru.departure.keep
}

// noteLack tells of a lack, in the log and in the forward's status.
func (r *Relay) noteLack(ru *rule, p *fairlead.Problem) {
	ru.lack.note(warning(p), time.Now())
	r.trouble(p.Code, ru.f.Name+": "+p.What)
}

// blame notes what a client's dial to a target failed with.
func (r *Relay) blame(ru *rule, t *target, p *fairlead.Problem) {
	if ru.lacks(p) {
		r.noteLack(ru, p)
		return
	}
	r.saw(t, p)
}
