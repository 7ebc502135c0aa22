package main

import (
	"slices"
	"strings"

	"fairlead/bench/stats"
)

// verdicts are the rows of the table of aims: those that this run has cells
// for.
func (r *report) verdicts() [][]string {
	var rows [][]string
	for _, a := range aims {
		for _, name := range a.cells {
			for _, c := range r.cells {
				if c.name != name {
					continue
				}
				if row := r.verdict(a, c); row != nil {
					rows = append(rows, row)
				}
			}
		}
	}
	return rows
}

// verdict is the row of an aim and a cell, nil where that was not asked for.
func (r *report) verdict(a aim, c cell) []string {
	self := visited(c, a.who)
	if self == "" {
		return nil
	}
	if a.how == growth {
		i := slices.IndexFunc(c.targets, func(t string) bool { return has(t, many) })
		if i < 0 {
			return nil
		}
		self = c.targets[i]
	}
	values := r.values(c.name, self, a.value)
	with := "–"
	switch {
	case a.how == growth:
		with = visited(c, a.who)
		values = stats.Ratios(values, r.values(c.name, with, a.value))
	case len(a.of) > 0:
		var other []float64
		if with, other = r.best(a, c); with == "" {
			return nil
		}
		if a.how == difference {
			values = stats.Differences(values, other)
		} else {
			values = stats.Ratios(values, other)
		}
	}
	s := stats.Of(values)
	verdict := a.bound.Judge(s)
	if why := r.failure(c.name, self); why != "" {
		verdict = stats.Verdict("**failed**")
	}
	return []string{c.name, a.says, with, a.bound.String(), s.String(), string(verdict)}
}

// best is the one of the aim's peers whose median is best; "" when none of
// them was asked for.
func (r *report) best(a aim, c cell) (name string, values []float64) {
	found := stats.Spread{}
	var asked []string
	for _, t := range c.targets {
		if !slices.ContainsFunc(a.of, func(name string) bool { return goesBy(t, name) }) {
			continue
		}
		asked = append(asked, t)
		v := r.values(c.name, t, a.value)
		s := stats.Of(v)
		if s.N > 0 && (found.N == 0 || a.bound.AtMost == (s.Median < found.Median)) {
			name, values, found = t, v, s
		}
	}
	if name == "" && len(asked) > 0 {
		name = strings.Join(asked, " or ") + " (no figure)"
	}
	return name, values
}
