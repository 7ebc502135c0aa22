package talk

import (
	"strconv"
	"strings"

	"fairlead"
)

// An Explanation is how one attempt of a client went, for "fairlead explain".
// Texts may be foreign.
type Explanation struct {
	Question string // one line
	Steps    []ExplainedStep
	Verdict  string // one line, where there is no problem
	Problem  *fairlead.Problem
	Notes    []string
}

// An ExplainedStep is one station of the attempt.
type ExplainedStep struct {
	Name     string
	What     string
	State    string // ok, bad, unknown, skipped
	Evidence string
}

// Explain prints a walk as numbered steps, and under them what is wrong.
func (p *Printer) Explain(e Explanation) error {
	l := p.out
	var b strings.Builder
	if p.conf.Plain {
		for i, s := range e.Steps {
			l.tabs(&b, strconv.Itoa(i+1), s.Name, s.State, s.What, s.Evidence)
		}
		if e.Problem != nil {
			l.tabs(&b, "problem", string(e.Problem.Code), e.Problem.What)
			for _, f := range e.Problem.Fixes {
				l.tabs(&b, "fix", f.Text, l.command(f.Command))
			}
		} else {
			l.tabs(&b, "verdict", e.Verdict)
		}
		return p.give(b.String())
	}
	l.paragraph(&b, "", 0, 0, e.Question)
	b.WriteByte('\n')
	l.explained(&b, e.Steps)
	b.WriteByte('\n')
	if e.Problem != nil {
		l.problem(&b, e.Problem)
	} else {
		l.paragraph(&b, "", 0, 0, e.Verdict)
	}
	for _, n := range e.Notes {
		l.note(&b, "note", n)
	}
	return p.give(b.String())
}

// explained writes the steps: number, name, mark and word, what, evidence.
func (l look) explained(b *strings.Builder, steps []ExplainedStep) {
	name, what := 0, 0
	for _, s := range steps {
		name = max(name, width(l.inert(s.Name)))
		what = max(what, width(l.inert(s.What)))
	}
	name, what = min(name, 16), min(what, 34)
	for i, s := range steps {
		mark, word, colour := l.stepMark(s.State)
		head := padLeft(strconv.Itoa(i+1), 2) + " " + pad(l.cut(l.inert(s.Name), 16), name) + "  "
		lead := head + l.paint(colour, mark+" "+pad(word, 2)) + "  "
		at := width(head) + width(mark) + 3 + 2
		text := l.inert(s.What)
		if s.Evidence != "" {
			if text != "" {
				text = pad(text, what) + "  "
			}
			text += l.inert(s.Evidence)
		}
		if at+width(text) <= l.width {
			writeLine(b, lead+text)
			continue
		}
		l.paragraph(b, lead, at, at, l.inert(s.What))
		if s.Evidence != "" {
			l.paragraph(b, blanks(at), at, at, s.Evidence)
		}
	}
}

// stepMark is the mark and the word of a step's state.
func (l look) stepMark(state string) (mark, word string, c paint) {
	switch state {
	case "ok":
		return l.pick("●", "*"), "ok", green
	case "bad":
		return l.pick("✖", "x"), "no", red
	case "unknown":
		return l.pick("◐", "o"), "?", yellow
	}
	return l.pick("○", "-"), "", plain
}
