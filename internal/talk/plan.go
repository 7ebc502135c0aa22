package talk

import (
	"strings"
)

// A PlanOp is what a change of the file does to one forward.
type PlanOp string

// The changes.
const (
	Add    PlanOp = "add"
	Change PlanOp = "change"
	Remove PlanOp = "remove"
)

// A PlanRow is one forward that a change of the file touches. Texts may be
// foreign.
type PlanRow struct {
	Op       PlanOp
	Name     string
	Sentence string // as it will be; for Remove, as it was
	Was      string // Change: as it was
	Cuts     int    // live connections that end with it
}

// Plan prints what a change would do, in the order given, and counts it.
func (p *Printer) Plan(rows []PlanRow) error {
	var b strings.Builder
	if p.conf.Plain {
		for _, r := range rows {
			p.out.tabs(&b, string(r.Op), r.Name, r.Sentence, decimal(int64(r.Cuts)), r.Was)
		}
		return p.give(b.String())
	}
	p.out.plan(&b, rows)
	return p.give(b.String())
}

func (l look) plan(b *strings.Builder, rows []PlanRow) {
	if len(rows) == 0 {
		writeLine(b, "no changes")
		return
	}
	counts := map[PlanOp]int{}
	cuts := 0
	for _, r := range rows {
		counts[r.Op]++
		cuts += r.Cuts
		var glyph string
		var colour paint
		switch r.Op {
		case Add:
			glyph, colour = "+", green
		case Change:
			glyph, colour = "~", yellow
		case Remove:
			glyph, colour = l.minus(), red
		default:
			glyph = "?"
		}
		const indent = 4
		text := l.inert(r.Name) + ": " + l.inert(r.Sentence)
		cut := ""
		if r.Cuts > 0 {
			cut = "cuts " + Count(r.Cuts, "live connection")
			if 2+width(text)+2+width(cut) <= l.width {
				text += "  " + cut
				cut = ""
			}
		}
		l.paragraph(b, l.paint(colour, glyph)+" ", 2, indent, text)
		if r.Was != "" {
			l.paragraph(b, blanks(indent)+"was ", indent+4, indent+4, r.Was)
		}
		if cut != "" {
			writeLine(b, blanks(indent)+cut)
		}
	}
	var words []string
	for _, op := range []struct {
		op   PlanOp
		word string
	}{{Add, "added"}, {Change, "changed"}, {Remove, "removed"}} {
		if n := counts[op.op]; n > 0 {
			words = append(words, decimal(int64(n))+" "+op.word)
		}
	}
	line := strings.Join(words, ", ")
	if cuts > 0 {
		line += "; cuts " + Count(cuts, "live connection")
	}
	b.WriteByte('\n')
	l.paragraph(b, "", 0, 0, line)
}
