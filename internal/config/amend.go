package config

import (
	"strings"

	"fairlead"
)

// Amend is the forward old with words said anew: a whole sentence, a target
// ("to HOST:PORT"), or modifiers that are added or replace those of the same
// word. What is not said again stays. Like ParseArgs it takes modifiers as
// flags, too. Name, owner and source are old's.
func Amend(old *fairlead.Forward, words []string) (*fairlead.Forward, []*fairlead.Problem) {
	if len(words) > 0 && kindOf(words[0]) != nil {
		f, problems := ParseArgs(words)
		return amended(f, old), problems
	}
	bare := &fairlead.Forward{Kind: old.Kind, At: old.At, To: old.To}
	if len(words) > 0 && words[0] == "to" {
		bare.To = nil
	}
	f, problems := ParseArgs(append(strings.Fields(Sentence(bare)), words...))
	if len(problems) > 0 {
		return nil, problems
	}
	for i := range modifiers {
		m := &modifiers[i]
		switch m.field.(type) {
		case fromField, sniField:
			if len(old.To) > 0 {
				continue // they belong to the targets
			}
		}
		if m.field.said(old) && !m.field.said(f) {
			m.field.copy(f, old)
		}
	}
	f.Expr = Sentence(f)
	return amended(f, old), nil
}

func amended(f, old *fairlead.Forward) *fairlead.Forward {
	if f != nil {
		f.Name, f.Owner, f.Source = old.Name, old.Owner, old.Source
	}
	return f
}
