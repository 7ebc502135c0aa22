package main

import (
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
				if c.name == name {
					rows = append(rows, r.verdict(a, c))
				}
			}
		}
	}
	return rows
}

func (r *report) verdict(a aim, c cell) []string {
	self := subject(c)
	values := r.values(c.name, self, a.value)
	with := "–"
	if len(a.of) > 0 {
		var other []float64
		with, other = r.best(a, c, self)
		values = stats.Ratios(values, other)
	}
	s := stats.Of(values)
	verdict := a.bound.Judge(s)
	if why := r.failure(c.name, self); why != "" {
		s, verdict = stats.Spread{}, stats.Verdict("**failed**: "+why)
	}
	return []string{c.name, a.says, with, a.bound.String(), s.String(), string(verdict)}
}

// best is the one of the aim's peers whose median is best.
func (r *report) best(a aim, c cell, self string) (name string, values []float64) {
	found := stats.Spread{}
	for _, of := range a.of {
		for _, t := range c.targets {
			if t != of && !strings.HasPrefix(t, of+"/") || t == self {
				continue
			}
			v := r.values(c.name, t, a.value)
			s := stats.Of(v)
			if s.N == 0 || found.N > 0 && (s.Median < found.Median) != a.bound.AtMost {
				continue
			}
			name, values, found = t, v, s
		}
	}
	if name == "" {
		name = strings.Join(a.of, " or ") + " (not measured)"
	}
	return name, values
}
