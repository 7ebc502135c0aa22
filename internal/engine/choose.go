package engine

import "fairlead"

// choose picks the carrier that the policy names, or else the first that can
// carry f. Where none can, it says so, in the words of the one that came
// nearest: a carrier which knows the kind but not some condition of it says
// more than one which does not know the kind.
func (e *Engine) choose(f *fairlead.Forward) choice {
	by := f.Policy.By
	auto := by == "" || by == "auto"
	var nearest *fairlead.Problem
	for i, c := range e.carriers {
		if !auto && c.carrier.Name() != by {
			continue
		}
		err := c.carrier.Fits(f)
		if err == nil {
			return choice{made: true, carrier: i}
		}
		p := fairlead.AsProblem(err)
		if nearest == nil || nearest.Code == fairlead.CodeCannotCarry && p.Code != fairlead.CodeCannotCarry {
			nearest = p
		}
	}
	switch {
	case nearest == nil && !auto:
		nearest = fairlead.Problemf(fairlead.CodeCannotCarry, "this version cannot carry %s by %s yet", f.Kind, by)
	case nearest == nil, auto && nearest.Code == fairlead.CodeCannotCarry && len(e.carriers) > 1:
		// All say that they do not know the kind: which of them said it
		// first is no news to anybody.
		nearest = fairlead.Problemf(fairlead.CodeCannotCarry, "this version cannot carry %s yet", f.Kind)
	}
	return choice{made: true, problem: nearest}
}
