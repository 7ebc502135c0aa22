package engine

import (
	"time"

	"fairlead"
)

// Status is how each wish stands, in the order of wishing (for the file: the
// order of the file). It asks the carriers, and never waits for an Apply; a
// wish that no Apply has seen yet is Broken with a warning that says so.
func (e *Engine) Status() []fairlead.Status {
	rows := e.rows()
	out := make([]fairlead.Status, len(rows))
	for i, r := range rows {
		out[i] = r.Status
	}
	return out
}

// A row is a status, and whether it only says that the carrier is not yet done.
type row struct {
	fairlead.Status
	waiting bool
}

func (e *Engine) rows() []row {
	now := make([]map[key]fairlead.Status, len(e.carriers))
	for i, c := range e.carriers {
		report := c.carrier.Report()
		now[i] = make(map[key]fairlead.Status, len(report))
		for _, s := range report {
			if s.Forward != nil {
				now[i][keyOf(s.Forward)] = s
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	rows := make([]row, 0, len(e.table.list))
	for _, w := range e.table.list {
		if w.spent {
			continue
		}
		r := row{}
		switch c := w.choice; {
		case w.given.Disabled:
			r.State = fairlead.Disabled
		case c.made && c.problem != nil:
			r.State, r.Problem = fairlead.Broken, c.problem
		case w.rival != nil:
			r.State, r.Problem = fairlead.Broken, w.rival
		case !c.made || w.fresh:
			p := fairlead.Problemf(fairlead.CodeBeingSetUp, "%q is being set up", w.given.Name)
			p.Warning = true
			r.State, r.Problem, r.waiting = fairlead.Broken, p, true
		default:
			// A report of the forward as it read before says nothing of it.
			r.Status = w.last
			if s, ok := now[c.carrier][keyOf(w.given)]; ok && same(s.Forward, w.given) {
				r.Status = s
			}
			if r.By == "" {
				r.By = e.carriers[c.carrier].carrier.Name()
			}
			r.Because = c.because
		}
		r.Forward = w.given
		rows = append(rows, r)
	}
	return rows
}

// A telling is what watchers were told of a forward.
type telling struct {
	state   fairlead.State
	code    fairlead.Code
	expires time.Time
}

// tell tells the watcher what stands differently since the last time: another
// state, or another reason for the same one.
func (e *Engine) tell() {
	if e.watch == nil {
		return
	}
	now := time.Now()
	seen := make(map[key]bool, len(e.told))
	for _, r := range e.rows() {
		k := keyOf(r.Forward)
		seen[k] = true
		if r.waiting {
			continue
		}
		is := telling{state: r.State, expires: r.Forward.Expires}
		if r.Problem != nil {
			is.code = r.Problem.Code
		}
		was, known := e.told[k]
		e.told[k] = is
		if !known || was.state != is.state || was.code != is.code {
			e.watch(fairlead.Event{Time: now, Kind: fairlead.EventState, Forward: k.name, State: r.State, Problem: r.Problem})
		}
	}
	for k, was := range e.told {
		if seen[k] {
			continue
		}
		delete(e.told, k)
		text := "taken back"
		if !was.expires.IsZero() && !now.Before(was.expires) {
			text = "its time is over"
		}
		e.watch(fairlead.Event{Time: now, Kind: fairlead.EventState, Forward: k.name, Text: text})
	}
}

// Conns are the live connections of all carriers that know theirs.
func (e *Engine) Conns() []fairlead.Conn {
	var all []fairlead.Conn
	for _, c := range e.carriers {
		if t, ok := c.carrier.(fairlead.Tracker); ok {
			all = append(all, t.Conns()...)
		}
	}
	return all
}

// Kill ends the connections that m selects and says how many there were.
func (e *Engine) Kill(m fairlead.Match) int {
	n := 0
	for _, c := range e.carriers {
		if t, ok := c.carrier.(fairlead.Tracker); ok {
			n += t.Kill(m)
		}
	}
	return n
}
