package talk

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"fairlead"
)

// shown is how many problems are printed at once; who has more than ten reads
// the first ones anyway.
const shown = 10

// gutter is the width of the labels and the gap behind them.
const (
	labelWidth = 5
	gutter     = labelWidth + 2
)

// Problem prints one problem on standard error. With Quiet, warnings are still
// printed: they tell of something that is not as it was asked for.
func (p *Printer) Problem(problem *fairlead.Problem) {
	p.Problems([]*fairlead.Problem{problem}, 1)
}

// Problems prints the first ten of list, separated by empty lines, and under
// several how many there are. total is how many were found where list is only
// their beginning; 0 means len(list).
func (p *Printer) Problems(list []*fairlead.Problem, total int) {
	if len(list) == 0 {
		return
	}
	var b strings.Builder
	p.err.problems(&b, list, total)
	p.tell(b.String())
}

func (l look) problems(b *strings.Builder, list []*fairlead.Problem, total int) {
	total = max(total, len(list))
	warnings := 0
	for _, problem := range list {
		if problem.Warning {
			warnings++
		}
	}
	for i, problem := range list[:min(len(list), shown)] {
		if i > 0 {
			b.WriteByte('\n')
		}
		l.problem(b, problem)
	}
	if total == 1 {
		return
	}
	var counts []string
	if errors := total - warnings; errors > 0 {
		counts = append(counts, Count(errors, "error"))
	}
	if warnings > 0 {
		counts = append(counts, Count(warnings, "warning"))
	}
	line := strings.Join(counts, " and ")
	if n := min(len(list), shown); n == 1 {
		line += ", the first is shown"
	} else if n < total {
		line += fmt.Sprintf(", the first %d are shown", n)
	}
	b.WriteByte('\n')
	l.paragraph(b, "", 0, 0, line)
}

// problem writes the fixed form: what happened, who is involved, where, the
// other evidence, and at most three ways out.
func (l look) problem(b *strings.Builder, p *fairlead.Problem) {
	word, colour := "error", red
	if p.Warning {
		word, colour = "warn", yellow
	}
	if p.Code != "" {
		word += "[" + l.cut(l.inert(string(p.Code)), 12) + "]"
	}
	l.paragraph(b, l.paint(colour, word)+": ", width(word)+2, gutter, p.What)

	// Who holds it stands before where it was asked for; a place with a mark
	// belongs right under the sentence that it explains.
	marked := p.At != nil && p.At.Pos.Col > 0
	if marked {
		l.excerpt(b, "at", p.At, colour)
	}
	for _, n := range p.Notes {
		if n.Label == "by" {
			l.note(b, n.Label, n.Text)
		}
	}
	if p.At != nil && !marked {
		l.excerpt(b, "in", p.At, colour)
	}
	for _, n := range p.Notes {
		if n.Label != "by" {
			l.note(b, n.Label, n.Text)
		}
	}
	if l.verbose && p.Err != nil && p.Err.Error() != p.What {
		l.note(b, "cause", p.Err.Error())
	}
	l.fixes(b, p.Fixes)
}

// label is a label at the right of its column, and the gap behind it.
func (l look) label(s string) string {
	return padLeft(l.cut(l.inert(s), 12), labelWidth) + "  "
}

func (l look) note(b *strings.Builder, label, text string) {
	lead := l.label(label)
	l.paragraph(b, lead, width(lead), gutter, text)
}

// fixes writes the ways out. Their commands stand in one column where all of
// them fit there, else each on a line of its own, whole in any case.
func (l look) fixes(b *strings.Builder, fixes []fairlead.Fix) {
	const number = 3 // "1  "
	fixes = fixes[:min(len(fixes), 3)]
	texts, commands := make([]string, len(fixes)), make([]string, len(fixes))
	column, beside := 0, true
	for i, f := range fixes {
		texts[i], commands[i] = l.inert(f.Text), l.command(f.Command)
		if commands[i] != "" && texts[i] != "" {
			column = max(column, gutter+number+width(texts[i])+2)
		}
	}
	for i := range fixes {
		if texts[i] != "" && commands[i] != "" && column+width(commands[i]) > l.width {
			beside = false
		}
	}
	for i := range fixes {
		lead := blanks(gutter)
		if i == 0 {
			lead = l.label("fix")
		}
		lead += strconv.Itoa(i+1) + "  "
		switch {
		case texts[i] == "":
			writeLine(b, lead+commands[i])
		case commands[i] != "" && beside:
			writeLine(b, pad(lead+texts[i], column)+commands[i])
		default:
			l.paragraph(b, lead, gutter+number, gutter+number, fixes[i].Text)
			if commands[i] != "" {
				writeLine(b, blanks(gutter+number)+commands[i])
			}
		}
	}
}

// where is the place of an excerpt. A column of the command line says nothing
// that the mark does not show.
func (l look) where(pos fairlead.Pos) string {
	s := l.inert(pos.File)
	if pos.File == "" {
		return "command line"
	}
	if pos.Line > 0 {
		s += ":" + strconv.Itoa(pos.Line)
		if pos.Col > 0 {
			s += ":" + strconv.Itoa(pos.Col)
		}
	}
	return s
}

// excerpt writes a place, its line, and under the line a mark with a hint:
// beside the place where that fits, else below it, and as a window around the
// mark where the line is too long for the width.
func (l look) excerpt(b *strings.Builder, label string, at *fairlead.Excerpt, colour paint) {
	const gap = 3
	lead, where := l.label(label), l.where(at.Pos)
	line, mark := l.lineAndMark(at)
	hint := ""
	if mark.width > 0 {
		hint = l.inert(at.Hint)
	}

	// ends is the column behind the line and behind its mark, when the line
	// begins at column c.
	ends := func(c int) int { return c + max(columnsOf(line), mark.column+mark.width) }
	hinted := func(c int) int {
		if hint == "" {
			return ends(c)
		}
		return max(ends(c), c+mark.column+mark.width+2+width(hint))
	}
	start, below := gutter+width(where)+gap, gutter
	switch {
	case hinted(start) <= l.width:
	case hinted(below) <= l.width:
		start = below
	case ends(start) > l.width:
		start = below
	}
	if ends(start) > l.width {
		line, mark = l.window(line, mark, l.width-start)
	}

	switch {
	case strings.TrimSpace(at.Text) == "":
		l.paragraph(b, lead, width(lead), gutter, where)
		if hint != "" {
			l.paragraph(b, blanks(gutter), gutter, gutter, at.Hint)
		}
		return
	case start == below:
		l.paragraph(b, lead, width(lead), gutter, where)
		writeLine(b, blanks(below)+join(line))
	default:
		writeLine(b, lead+where+blanks(gap)+join(line))
	}
	if mark.width == 0 {
		return
	}
	under := blanks(start+mark.column) + l.paint(colour, strings.Repeat("~", mark.width))
	if hint != "" && start+mark.column+mark.width+2+width(hint) <= l.width {
		under += "  " + hint
		hint = ""
	}
	writeLine(b, under)
	if hint != "" {
		l.paragraph(b, blanks(gutter), gutter, gutter, at.Hint)
	}
}

// A mark is the columns of a line that are meant; none when its width is 0.
type mark struct {
	column, width int
	first, last   int // cells, the last exclusive
}

// lineAndMark is the line of an excerpt as cells, without the blanks around
// it, and its mark. A mark behind the end of the line gets a blank of its own.
func (l look) lineAndMark(at *fairlead.Excerpt) ([]cell, mark) {
	text, from := at.Text, max(at.Pos.Col-1, 0)
	from = min(from, len(text))
	to := min(from+max(at.Width, 1), len(text))
	if at.Width > len(text) { // also where from + Width overflows
		to = len(text)
	}
	if len(text) > 2*maxText {
		// More than a screen on either side would be cut away again.
		lo, hi := max(from-maxText, 0), min(from+maxText, len(text))
		for lo > 0 && lo < from && !utf8.RuneStart(text[lo]) {
			lo++
		}
		for hi < len(text) && !utf8.RuneStart(text[hi]) {
			hi--
		}
		text, from, to = text[lo:hi], from-lo, min(to, hi)-lo
	}
	cs := l.cells(text)
	var m mark
	if at.Pos.Col > 0 {
		for m.first < len(cs) && cs[m.first].end <= from {
			m.first++
		}
		if m.first == len(cs) {
			cs = append(cs, cell{" ", 1, len(text) + 1})
		}
		for m.last = m.first + 1; m.last < len(cs) && cs[m.last-1].end < to; m.last++ {
		}
	}
	begin, end := 0, len(cs)
	for begin < end && cs[begin].blank() && (m.last == 0 || begin < m.first) {
		begin++
	}
	for end > begin && cs[end-1].blank() && end > m.last {
		end--
	}
	cs = cs[begin:end]
	if m.last > 0 {
		m.first, m.last = m.first-begin, m.last-begin
		m.column, m.width = columnsOf(cs[:m.first]), columnsOf(cs[m.first:m.last])
	}
	return cs, m
}

// window is the part of a line around its mark that fits into room columns,
// with an ellipsis on each side that is cut, and the mark where it now stands.
func (l look) window(line []cell, m mark, room int) ([]cell, mark) {
	dots := cell{l.ellipsis(), width(l.ellipsis()), 0}
	used := 0
	fits := func(lo, hi, columns int) bool {
		if lo > 0 {
			columns += dots.width
		}
		if hi < len(line) {
			columns += dots.width
		}
		return columns <= room
	}
	lo, hi := m.first, m.first
	for hi < max(m.last, m.first+1) && fits(lo, hi+1, used+line[hi].width) {
		used += line[hi].width
		hi++
	}
	marked := used
	for grown := true; grown; {
		grown = false
		if lo > 0 && fits(lo-1, hi, used+line[lo-1].width) {
			lo--
			used += line[lo].width
			grown = true
		}
		if hi < len(line) && fits(lo, hi+1, used+line[hi].width) {
			used += line[hi].width
			hi++
			grown = true
		}
	}
	var out []cell
	column := 0
	if lo > 0 {
		out = append(out, dots)
		column = dots.width
	}
	out = append(out, line[lo:hi]...)
	if hi < len(line) {
		out = append(out, dots)
	}
	if m.width > 0 {
		m = mark{column: column + columnsOf(line[lo:m.first]), width: max(marked, 1)}
	}
	return out, m
}
