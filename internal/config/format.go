package config

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"fairlead"
)

// Format lays a file out: columns aligned within a paragraph, one blank
// between words and two between modifiers, blocks indented. It changes blanks
// and nothing else, keeps every comment and every blank line, and leaves alone
// what it has laid out before. A text that does not parse comes back as it is,
// with its problems; that places are unknown or listeners overlap does not
// matter here. JSON is not laid out.
func Format(text []byte) ([]byte, []*fairlead.Problem) {
	if isJSON(string(text)) {
		return text, []*fairlead.Problem{fairlead.Problemf(fairlead.CodeJSON, "JSON is laid out by other programs; only sentences are formatted here")}
	}
	lines, problems := splitLines(string(text))
	if problems != nil {
		return text, problems
	}
	end := "\n"
	if len(lines) > 0 && strings.HasSuffix(string(text), "\r\n") {
		end = "\r\n"
	}
	var out bytes.Buffer
	for begin := 0; begin < len(lines); {
		stop := begin
		for stop < len(lines) && !lines[stop].empty() {
			stop++
		}
		formatParagraph(&out, lines[begin:stop], end)
		for ; stop < len(lines) && lines[stop].empty(); stop++ {
			out.WriteString(end)
		}
		begin = stop
	}
	return out.Bytes(), nil
}

// A textLine is one line of a file as it stands there.
type textLine struct {
	src     string  // the whole text
	toks    []token // raw is what is printed, not text
	comment string  // with its mark, "" for none
	depth   int     // open blocks before it
	begins  bool    // a statement
}

func (t *textLine) empty() bool { return len(t.toks) == 0 && t.comment == "" }

func (t *textLine) raw(i int) string { return t.src[t.toks[i].off:t.toks[i].end] }

// splitLines takes a text apart. The problems are those of single sentences.
func splitLines(text string) ([]textLine, []*fairlead.Problem) {
	src := &source{text: text}
	l := newLoader("")
	l.words = map[int32]bool{}
	l.read(src)
	var list problems
	var lines []textLine
	depth := 0
	for pos := 0; pos < len(text); {
		to := len(text)
		next := to
		if i := strings.IndexByte(text[pos:], '\n'); i >= 0 {
			to = pos + i
			next = to + 1
		}
		line := textLine{src: text, depth: depth, begins: depth == 0}
		var comment int
		line.toks, comment, _ = list.lexLine(src, nil, pos, to)
		if comment >= 0 {
			line.comment = strings.TrimRight(text[comment:to], " \t\r")
		}
		for i := range line.toks {
			line.toks[i].modifier = l.words[line.toks[i].off]
			switch line.toks[i].kind {
			case tokenOpen:
				depth++
			case tokenClose:
				depth--
			}
		}
		lines = append(lines, line)
		pos = next
	}
	return lines, l.list.all()
}

// columns are the widths that the lines of a paragraph share.
type columns struct {
	label, kind, spot int // of forwards; label of directives as well
	name              int // of places
}

// widest is the longest spot that others are aligned to.
const widest = 40

// follow takes the columns over that the lines of a paragraph stand in, as far
// as they agree, so that one line can be put among others that were laid out
// by hand.
func (c *columns) follow(lines []textLine) {
	spot := -1
	for i := range lines {
		t := &lines[i]
		stop := t.spotEnd()
		if !t.begins || len(t.toks) == 0 || !isLabel(&t.toks[0]) || stop <= 2 || stop >= len(t.toks) || t.toks[stop].kind != tokenWord || t.toks[2].is("on") {
			continue
		}
		n := utf8.RuneCountInString(t.src[t.toks[2].off:t.toks[stop].off]) - 2
		if spot >= 0 && n != spot {
			return
		}
		spot = n
	}
	if spot > c.spot && spot <= 2*widest {
		c.spot = spot
	}
}

func formatParagraph(out *bytes.Buffer, lines []textLine, end string) {
	var c columns
	for i := range lines {
		c.widen(&lines[i])
	}
	bodies := make([]string, len(lines))
	for i := range lines {
		bodies[i] = c.line(&lines[i])
	}
	// Comments behind lines that follow one another stand below each other.
	for i := 0; i < len(lines); {
		j, width := i, 0
		for j < len(lines) && lines[j].comment != "" && bodies[j] != "" {
			if w := utf8.RuneCountInString(bodies[j]); w <= 2*widest {
				width = max(width, w)
			}
			j++
		}
		for k := i; k < j; k++ {
			out.WriteString(bodies[k])
			pad(out, width-utf8.RuneCountInString(bodies[k])+2, 2)
			out.WriteString(lines[k].comment)
			out.WriteString(end)
		}
		if i = j; i < len(lines) {
			out.WriteString(bodies[i])
			if bodies[i] == "" {
				out.WriteString(strings.Repeat(indent, lines[i].depth))
			}
			out.WriteString(lines[i].comment)
			out.WriteString(end)
			i++
		}
	}
}

const indent = "    "

func pad(out *bytes.Buffer, n, least int) {
	for range max(n, least) {
		out.WriteByte(' ')
	}
}

// widen makes room for a line's words.
func (c *columns) widen(t *textLine) {
	if !t.begins || len(t.toks) == 0 {
		return
	}
	c.label = max(c.label, t.width(0))
	if !isLabel(&t.toks[0]) {
		if t.toks[0].is("place") && len(t.toks) > 1 {
			c.name = max(c.name, t.width(1))
		}
		return
	}
	if len(t.toks) > 1 {
		c.kind = max(c.kind, t.width(1))
	}
	if stop := t.spotEnd(); stop > 2 && stop < len(t.toks) && t.toks[stop].kind == tokenWord && !t.toks[2].is("on") {
		if w := utf8.RuneCountInString(t.join(2, stop)); w <= widest {
			c.spot = max(c.spot, w)
		}
	}
}

func (t *textLine) width(i int) int { return utf8.RuneCountInString(t.raw(i)) }

// spotEnd is the first token behind the spot of a forward.
func (t *textLine) spotEnd() int {
	i := 3
	if len(t.toks) > 2 && t.toks[2].kind != tokenWord {
		return 2
	}
	for i+1 < len(t.toks) && t.toks[i].kind == tokenComma {
		i += 2
	}
	return min(i, len(t.toks))
}

// join is the tokens from i to before stop with one blank between them, none
// before a comma, and two before a modifier that begins something new.
func (t *textLine) join(i, stop int) string {
	var b strings.Builder
	for k := i; k < stop; k++ {
		tok := &t.toks[k]
		switch {
		case k == i || tok.kind == tokenComma:
		case tok.modifier && t.toks[k-1].kind == tokenWord:
			b.WriteString("  ")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(t.raw(k))
	}
	return b.String()
}

// line is a line without its comment.
func (c *columns) line(t *textLine) string {
	if len(t.toks) == 0 {
		return ""
	}
	n := len(t.toks)
	var b bytes.Buffer
	cell := func(text string, width, gap int) {
		b.WriteString(text)
		pad(&b, width-utf8.RuneCountInString(text)+gap, gap)
	}
	switch {
	case !t.begins:
		depth := t.depth
		if t.toks[0].kind == tokenClose {
			depth--
		}
		return strings.Repeat(indent, max(depth, 0)) + t.join(0, n)
	case n == 1:
		return t.raw(0)
	case t.toks[1].kind != tokenWord:
		cell(t.raw(0), 0, 1)
		b.WriteString(t.join(1, n))
	case !isLabel(&t.toks[0]):
		cell(t.raw(0), c.label, 1)
		if t.toks[0].is("place") && n > 2 {
			cell(t.raw(1), c.name, 1)
			b.WriteString(t.words(2))
		} else {
			b.WriteString(t.words(1))
		}
	default:
		cell(t.raw(0), c.label, 1)
		if n == 2 {
			return b.String() + t.raw(1)
		}
		cell(t.raw(1), c.kind, 1)
		stop := t.spotEnd()
		if stop <= 2 || stop >= n || t.toks[stop].kind != tokenWord || t.toks[2].is("on") {
			b.WriteString(t.join(2, n))
			break
		}
		cell(t.join(2, stop), c.spot, 2)
		b.WriteString(t.join(stop, n))
	}
	return b.String()
}

// words is a directive's tokens from i on, with one blank between them.
func (t *textLine) words(i int) string {
	var b strings.Builder
	for k := i; k < len(t.toks); k++ {
		if k > i && t.toks[k].kind != tokenComma {
			b.WriteByte(' ')
		}
		b.WriteString(t.raw(k))
	}
	return b.String()
}
