package config

import (
	"slices"
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
	src := &source{text: strings.Join(words, " ")}
	var list problems
	if tooLong(&list, src) {
		return nil, list.all()
	}
	if i := badCharacter(src.text); i >= 0 {
		list.badCharacter(src, i)
		return nil, list.all()
	}
	p := parser{src: src, list: &list, command: true, kind: kindOf(string(old.Kind))}
	off := 0
	for _, w := range words {
		p.toks = appendArg(p.toks, w, off)
		off += len(w) + 1
	}
	// The forward as it would be if only its kind, its spot and its targets
	// had been said, with lists of its own.
	f := &fairlead.Forward{Kind: old.Kind, At: old.At, To: slices.Clone(old.To)}
	for i := range f.To {
		f.To[i].From = slices.Clip(f.To[i].From)
		for _, m := range conditions {
			list := m.conditionsOf(&f.To[i])
			*list = slices.Clip(*list)
		}
	}
	for i := range p.toks {
		switch {
		case p.toks[i].is("to"):
			f.To = nil
		case p.toks[i].is("on") && old.Kind == fairlead.KindTrigger:
			f.At = fairlead.Spot{Ports: old.At.Ports, Net: old.At.Net}
		case p.toks[i].is("on"):
			f.At = fairlead.Spot{}
		}
	}
	p.rest(f)
	for i := range modifiers {
		m := &modifiers[i]
		switch m.field.(type) {
		case fromField, conditionField:
			if len(old.To) > 0 {
				continue // they belong to the targets
			}
		case onField:
			p.said.add(m.index) // here or before
			continue
		}
		if m.field.said(old) && !p.said.has(m.index) {
			m.field.copy(f, old)
		}
	}
	if !p.saidWord("user") && !p.saidWord("agent") {
		f.Policy.Users = old.Policy.Users
	}
	if list.total() == 0 {
		for i := range f.To {
			p.rangeFits(p.end(), f, &f.To[i])
		}
		p.complete(f)
	}
	if list.total() > 0 {
		return nil, list.all()
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
