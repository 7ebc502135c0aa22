// Package stats is the arithmetic of the benchmark: medians and spreads,
// ratios of one round, and the verdict on an aim. It knows nothing of how
// figures come about.
package stats

import (
	"fmt"
	"math"
	"slices"
)

// A Spread is what several rounds came to. The zero Spread is that of none.
type Spread struct {
	Min, Median, Max float64
	N                int
}

// Of is the spread of values; those that are no number do not count.
func Of(values []float64) Spread {
	v := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(v) == 0 {
		return Spread{}
	}
	slices.Sort(v)
	m := v[len(v)/2]
	if len(v)%2 == 0 {
		m = (v[len(v)/2-1] + m) / 2
	}
	return Spread{v[0], m, v[len(v)-1], len(v)}
}

// Ratios divides round by round: above[i] by below[i]. What has no partner,
// or would be divided by nothing, is no number.
func Ratios(above, below []float64) []float64 {
	r := make([]float64, min(len(above), len(below)))
	for i := range r {
		if r[i] = above[i] / below[i]; below[i] == 0 {
			r[i] = math.NaN()
		}
	}
	return r
}

// Differences subtracts round by round, as [Ratios] divides.
func Differences(from, what []float64) []float64 {
	d := make([]float64, min(len(from), len(what)))
	for i := range d {
		d[i] = from[i] - what[i]
	}
	return d
}

// Varies says by which part of the median the values lie apart.
func (s Spread) Varies() float64 {
	if s.N < 2 || s.Median == 0 {
		return 0
	}
	return (s.Max - s.Min) / s.Median
}

func (s Spread) String() string {
	switch {
	case s.N == 0:
		return "–"
	case s.N == 1:
		return Number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", Number(s.Median), Number(s.Min), Number(s.Max))
}

// Number writes about three significant digits, and no exponent.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 999500:
		return fmt.Sprintf("%.2f M", v/1e6)
	case a >= 99950:
		return fmt.Sprintf("%.0f k", v/1000)
	case a >= 9995:
		return fmt.Sprintf("%.1f k", v/1000)
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.9995 || a == 0:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// A Bound is an aim and what must never be missed; where both are equal,
// there is only the aim, and single rounds may miss it.
type Bound struct {
	Aim, Floor float64
	AtMost     bool // small is good
}

// A Verdict is whether a bound is kept.
type Verdict string

// The verdicts: the median has reached the aim, and every round the floor; one
// of both is not so; the median has not even reached the floor; there is no
// figure.
const (
	Reached    Verdict = "reached"
	NotReached Verdict = "**not reached**"
	Missed     Verdict = "**missed**"
	NoFigure   Verdict = "no figure"
)

// Judge holds a spread against a bound.
func (b Bound) Judge(s Spread) Verdict {
	if s.N == 0 {
		return NoFigure
	}
	worst, keeps := s.Min, func(v, than float64) bool { return v >= than }
	if b.AtMost {
		worst, keeps = s.Max, func(v, than float64) bool { return v <= than }
	}
	switch floored := b.Floor != b.Aim; {
	case floored && !keeps(s.Median, b.Floor):
		return Missed
	case keeps(s.Median, b.Aim) && (!floored || keeps(worst, b.Floor)):
		return Reached
	}
	return NotReached
}

func (b Bound) String() string {
	sign := "≥"
	if b.AtMost {
		sign = "≤"
	}
	if b.Aim == b.Floor {
		return fmt.Sprintf("%s %g", sign, b.Aim)
	}
	return fmt.Sprintf("%s %g (%g)", sign, b.Aim, b.Floor)
}
