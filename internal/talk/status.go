package talk

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead"
)

// StatusView is what "fairlead status" shows.
type StatusView struct {
	Service *Service // nil: no heading
	Rows    []StatusRow
}

// A Service is the program that carries the forwards.
type Service struct {
	Version string
	Up      time.Duration
	File    string        // "" where there is none
	InForce time.Duration // since the file was last read without error

	// FileProblems says why the file as it now is was refused, the first ten
	// of FileTotal (0: all).
	FileProblems []*fairlead.Problem
	FileTotal    int
}

// A StatusRow is one forward in the table. Texts may be foreign.
type StatusRow struct {
	Name   string
	State  fairlead.State
	Kind   string
	Listen string
	Target string // several are separated by ", "; "" where there is none

	Active  int64 // connections now
	Queued  int64 // clients that wait for their turn
	In, Out int64 // bytes from and to clients

	Code  fairlead.Code // "" with nothing wrong
	Error string
}

// Status prints the table of forwards, the broken ones first, then those that
// work in part, then the others in the order given.
func (p *Printer) Status(v StatusView) error {
	rows := slices.Clone(v.Rows)
	slices.SortStableFunc(rows, func(a, b StatusRow) int { return rank(a.State) - rank(b.State) })
	var b strings.Builder
	if p.conf.Plain {
		for _, r := range rows {
			p.out.tabs(&b, string(r.State), r.Name, r.Kind, r.Listen, r.Target,
				decimal(r.Active), decimal(r.In), decimal(r.Out), string(r.Code), r.Error)
		}
		return p.give(b.String())
	}
	if v.Service != nil {
		p.out.service(&b, v.Service)
		b.WriteByte('\n')
	}
	p.out.statusTable(&b, rows)
	return p.give(b.String())
}

func rank(s fairlead.State) int {
	switch s {
	case fairlead.Broken:
		return 0
	case fairlead.Partial:
		return 1
	}
	return 2
}

func (l look) service(b *strings.Builder, s *Service) {
	words := []string{"fairlead " + s.Version, "up " + Duration(s.Up)}
	if s.File != "" {
		words = append(words, "file "+s.File+" (in force for "+Duration(s.InForce)+")")
	}
	for i := range words {
		words[i] = l.inert(words[i])
	}
	line := strings.Join(words, l.between())
	if width(line) <= l.width {
		writeLine(b, line)
	} else {
		for _, w := range words {
			l.paragraph(b, "", 0, 2, w)
		}
	}
	if len(s.FileProblems) > 0 {
		b.WriteByte('\n')
		l.paragraph(b, "", 0, 0, "the file as it is now was refused; what was in force before goes on")
		l.problems(b, s.FileProblems, s.FileTotal)
	}
}

// statusLine is a row made inert, with the widths that the table aligns.
type statusLine struct {
	StatusRow
	word, code, conns, bytes string
}

// The table of forwards keeps its columns as long as it can. What does not fit
// gives way in this order: the code goes to the line of the error, the end of
// the target is cut, the figures go to a line of their own, and at last each
// forward becomes a few lines. A name is never cut.
func (l look) statusTable(b *strings.Builder, rows []StatusRow) {
	if len(rows) == 0 {
		l.paragraph(b, "", 0, 0, "no forwards")
		return
	}
	lines := make([]statusLine, len(rows))
	states := make([]fairlead.State, len(rows))
	var word, name, kind, listen, target, conns, bytes, code int
	for i, r := range rows {
		states[i] = r.State
		s := statusLine{StatusRow: r, word: l.cut(l.inert(string(r.State)), 12), code: l.inert(string(r.Code))}
		s.Name, s.Kind, s.Listen, s.Target = l.inert(r.Name), l.inert(r.Kind), l.inert(r.Listen), l.inert(r.Target)
		if r.Active != 0 || r.In != 0 || r.Out != 0 || r.Queued != 0 {
			s.conns, s.bytes = fmt.Sprintf("%d conn", r.Active), Bytes(r.In+r.Out)
			if r.Queued != 0 {
				s.conns += fmt.Sprintf(", %d queued", r.Queued)
			}
		}
		lines[i] = s
		word, name, kind = max(word, width(s.word)), max(name, width(s.Name)), max(kind, width(s.Kind))
		listen, target = max(listen, width(s.Listen)), max(target, width(s.Target))
		conns, bytes, code = max(conns, width(s.conns)), max(bytes, width(s.bytes)), max(code, width(s.code))
	}

	const enough = 16 // columns of a target from which one can guess the rest
	figures := 0
	if conns > 0 {
		figures = 2 + conns + 2 + bytes
	}
	codes := 0
	if code > 0 {
		codes = 2 + code
	}
	indent := 2 + word + 2
	left := indent + name + 2 + kind + 2 + listen
	if target > 0 {
		left += 1 + width(l.arrow()) + 1
	}
	room := l.width - left
	codeBeside, figuresBeside := true, true
	switch least := min(target, enough); {
	case target+figures+codes <= room:
	case target+figures <= room:
		codeBeside = false
	case least+figures <= room:
		codeBeside = false
		target = room - figures
	case least <= room:
		codeBeside, figuresBeside = false, false
		target = min(target, room)
	default:
		l.statusStack(b, lines)
		l.statusEnd(b, rows, states)
		return
	}

	for _, s := range lines {
		glyph, colour := l.stateMark(s.State)
		head := l.paint(colour, glyph+" "+s.word)
		row := blanks(word-width(s.word)) + "  " + pad(s.Name, name) + "  " + pad(s.Kind, kind) + "  " + pad(s.Listen, listen)
		if target > 0 {
			if s.Target != "" {
				row += " " + l.arrow() + " " + pad(l.cut(s.Target, target), target)
			} else {
				row += blanks(1 + width(l.arrow()) + 1 + target)
			}
		}
		if figuresBeside && figures > 0 {
			row += "  " + padLeft(s.conns, conns) + "  " + padLeft(s.bytes, bytes)
		}
		if codeBeside && s.code != "" {
			row += "  " + s.code
		}
		writeLine(b, head+row)
		if !figuresBeside && s.conns != "" {
			writeLine(b, blanks(indent)+s.conns+"  "+s.bytes)
		}
		l.statusError(b, indent, s, !codeBeside)
	}
	l.statusEnd(b, rows, states)
}

func (l look) statusStack(b *strings.Builder, lines []statusLine) {
	const indent = 2
	for _, s := range lines {
		glyph, colour := l.stateMark(s.State)
		l.paragraph(b, l.paint(colour, glyph+" "+s.word)+"  ", 2+width(s.word)+2, indent, s.Name)
		text := s.Kind + " " + s.Listen
		if s.Target != "" {
			text += " " + l.arrow() + " " + s.Target
		}
		l.paragraph(b, blanks(indent), indent, indent+2, text)
		if s.conns != "" {
			writeLine(b, blanks(indent)+s.conns+"  "+s.bytes)
		}
		l.statusError(b, indent, s, true)
	}
}

func (l look) statusError(b *strings.Builder, indent int, s statusLine, withCode bool) {
	text := s.Error
	switch {
	case withCode && s.code != "" && text != "":
		text = s.code + ": " + text
	case withCode && s.code != "":
		text = s.code
	case text == "":
		return
	}
	indent = min(indent, l.width/3)
	l.paragraph(b, blanks(indent), indent, indent, text)
}

// statusEnd writes how many there are, and where to read more of the first
// that is broken.
func (l look) statusEnd(b *strings.Builder, rows []StatusRow, states []fairlead.State) {
	b.WriteByte('\n')
	l.paragraph(b, "", 0, 0, Summary(states))
	if rank(rows[0].State) < 2 && rows[0].Name != "" {
		writeLine(b, "more: "+l.command("fairlead status "+rows[0].Name))
	}
}

// stateMark is the mark that stands before a state's word.
func (l look) stateMark(s fairlead.State) (string, paint) {
	switch s {
	case fairlead.Broken:
		return l.pick("✖", "x"), red
	case fairlead.Partial:
		return l.pick("◐", "o"), yellow
	case fairlead.Listening, fairlead.Passing, fairlead.Verified:
		return l.pick("●", "*"), green
	}
	return l.pick("○", "-"), plain
}

// tabs writes fields for programs that split lines at tabs.
func (l look) tabs(b *strings.Builder, fields ...string) {
	for i, f := range fields {
		if i > 0 {
			b.WriteByte('\t')
		}
		b.WriteString(join(l.cells(f)))
	}
	b.WriteByte('\n')
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
