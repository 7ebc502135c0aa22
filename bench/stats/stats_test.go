package stats

import (
	"math"
	"testing"
)

var nan = math.NaN()

func TestSpreads(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want Spread
	}{
		{nil, Spread{}},
		{[]float64{nan}, Spread{}},
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{3, 1, 2}, Spread{1, 2, 3, 3}},
		{[]float64{4, nan, 1, 3, 2}, Spread{1, 2.5, 4, 4}},
	} {
		if got := Of(c.in); got != c.want {
			t.Errorf("Of(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestRatiosAreOfOneRound(t *testing.T) {
	// The machine was half as fast in the second round: the ratio is the same.
	got := Of(Ratios([]float64{20, 10, nan, 20}, []float64{10, 5, 10, 0}))
	if want := (Spread{2, 2, 2, 2}); got != want {
		t.Errorf("ratios spread as %v, want %v", got, want)
	}
	if got := Ratios([]float64{1, 2}, nil); len(got) != 0 {
		t.Errorf("ratios to nothing are %v", got)
	}
}

func TestVerdicts(t *testing.T) {
	more, less, bare := Bound{Aim: 1, Floor: 0.95}, Bound{Aim: 1, Floor: 1.1, AtMost: true}, Bound{Aim: 1, Floor: 1}
	for _, c := range []struct {
		bound  Bound
		values []float64
		want   Verdict
	}{
		{more, nil, NoFigure},
		{more, []float64{0.96, 1, 1.2}, Reached},
		{more, []float64{0.94, 1, 1.2}, NotReached}, // a round below the floor
		{more, []float64{0.96, 0.99, 1.2}, NotReached},
		{more, []float64{0.96, 0.94, 0.9}, Missed},
		{less, []float64{0.9, 1, 1.1}, Reached},
		{less, []float64{0.9, 1, 1.2}, NotReached},
		{less, []float64{0.9, 1.05, 1.06}, NotReached},
		{less, []float64{1.2, 1.2, 0.5}, Missed},
		{bare, []float64{0.5, 1, 1}, Reached},
		{bare, []float64{0.5, 0.6, 1}, NotReached},
	} {
		if got := c.bound.Judge(Of(c.values)); got != c.want {
			t.Errorf("%v of %v is %q, want %q", c.values, c.bound, got, c.want)
		}
	}
}

func TestNumbersAreShort(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.1234: "0.123", 1: "1.00", 9.996: "10.0", 12.34: "12.3", 123.4: "123", 9990: "9990", 56234: "56.2 k", 123456: "123 k",
		1.5e6: "1.50 M",
	} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) = %q, want %q", v, got, want)
		}
	}
	if got := Number(nan); got != "–" {
		t.Errorf("no number is written %q", got)
	}
}
