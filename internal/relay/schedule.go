package relay

import (
	"slices"
	"time"

	"fairlead"
)

// A schedule is when new connections are let in; an empty one is always.
type schedule []fairlead.Window

// open reports whether now, in the time zone that it carries, lies within the
// schedule. It goes by what clocks on the wall show: where an hour comes twice
// both are meant, and one that is left out does not come.
func (s schedule) open(now time.Time) bool {
	if len(s) == 0 {
		return true
	}
	today := int(now.Weekday())
	yesterday := (today + 6) % 7
	minute := now.Hour()*60 + now.Minute()
	for _, w := range s {
		on := func(day int) bool { return w.Days&(1<<day) != 0 }
		switch {
		case w.From < w.To && on(today) && minute >= w.From && minute < w.To,
			w.From > w.To && on(today) && minute >= w.From,
			w.From > w.To && on(yesterday) && minute < w.To:
			return true
		}
	}
	return false
}

// next is when the schedule opens next, for one that is closed now. It looks
// no further than the days of two weeks, and is zero where it never opens.
func (s schedule) next(now time.Time) time.Time {
	var times []time.Time
	year, month, day := now.Date()
	for d := range 15 {
		for _, w := range s {
			// An hour that the clock leaves out begins where it goes on: Date
			// gives a time in one of the two zones, and both count here.
			t := time.Date(year, month, day+d, w.From/60, w.From%60, 0, 0, now.Location())
			start, end := t.ZoneBounds()
			times = append(times, t)
			for _, edge := range []time.Time{start, end} {
				if !edge.IsZero() && edge.Sub(t).Abs() < 24*time.Hour {
					times = append(times, edge)
				}
			}
		}
		slices.SortFunc(times, time.Time.Compare)
		for _, t := range times {
			if t.After(now) && s.open(t) {
				return t
			}
		}
		times = times[:0]
	}
	return time.Time{}
}

// closed is why nobody is let in now, nil where the schedule is open.
func (s schedule) closed(now time.Time) *fairlead.Problem {
	if s.open(now) {
		return nil
	}
	text := "outside its schedule"
	if next := s.next(now); !next.IsZero() {
		text += " until " + next.Format("Mon 15:04")
	}
	p := fairlead.Problemf(fairlead.CodeOutsideSchedule, "%s", text)
	p.Warning = true
	return p
}
