package engine

import "fairlead"

// choose picks the carrier that the policy names, or else the first that can
// carry f. Where none can, it says so, in the words of the one that came
// nearest: a carrier which knows the kind but not some condition of it says
// more than one which does not know the kind. Where the sentence leaves the choice
// to the program, it is told why it came out so.
func (e *Engine) choose(f *fairlead.Forward) choice {
	by := f.Policy.By
	auto := by == "" || by == "auto"
	var nearest *fairlead.Problem
	because := "nothing in it needs this process"
	for i, c := range e.carriers {
		if !auto && c.carrier.Name() != by {
			continue
		}
		err := c.carrier.Fits(f)
		if err == nil {
			found := choice{made: true, carrier: i}
			if by == "auto" {
				found.because = "the " + c.carrier.Name() + ", because " + because
			}
			return found
		}
		p := fairlead.AsProblem(err)
		because = p.What
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

// Fits is nil when some carrier would take f, or the reason why none does, a
// *Problem. It changes nothing and may be called instead of Run, not beside it.
func (e *Engine) Fits(f *fairlead.Forward) error {
	if c := e.choose(f); c.problem != nil {
		return c.problem
	}
	return nil
}
