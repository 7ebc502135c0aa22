package talk

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A look is how one stream may look. It is a value and its methods are pure:
// they lay text out and write to nobody.
type look struct {
	width   int
	ascii   bool
	colour  bool
	verbose bool
}

// A cell is what stands for one character of a source text: the character
// with its combining marks, or the escape that replaces it.
type cell struct {
	text  string // inert
	width int    // display columns, at least 1
	end   int    // byte offset in the source behind it
}

func (c cell) blank() bool { return c.text == " " || c.text == tab }

// tab stands for a tab. Stops would need to know where a line begins.
const tab = "    "

// maxMarks is how many combining marks a character may carry. Living
// languages need three; without a bound a text of no width could be endless.
const maxMarks = 3

// maxText bounds what one text may take of the screen, in bytes.
const maxText = 4096

// cells makes s inert. This is the only door through which foreign text comes
// in: each character that is not visible, or that moves, reorders or hides
// others, becomes an escape.
func (l look) cells(s string) []cell {
	cs := make([]cell, 0, len(s))
	marks := maxMarks // on the last cell; an escape takes none
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		text, columns := s[i:i+n], 1
		switch i += n; {
		case r == ' ':
			marks = maxMarks
		case r == '\t':
			text, columns, marks = tab, len(tab), maxMarks
		case r > ' ' && r < 0x7f:
			marks = 0
		case r == utf8.RuneError && n == 1 || l.ascii || !visible(r):
			text = l.escape(r, text)
			columns, marks = len(text), maxMarks
		case zeroWidth(r):
			if marks < maxMarks {
				marks++
				cs[len(cs)-1].text += text
				cs[len(cs)-1].end = i
				continue
			}
			text = l.escape(r, text)
			columns, marks = len(text), maxMarks
		case wide(r):
			columns, marks = 2, 0
		default:
			marks = 0
		}
		cs = append(cs, cell{text, columns, i})
	}
	return cs
}

// spelled are characters with a usual spelling in ASCII.
var spelled = map[rune]string{
	'…': "...", '→': "->", '−': "-", '–': "-", '—': "-", '·': "-", '×': "x", 'µ': "u",
	'“': `"`, '”': `"`, '„': `"`, '‘': "'", '’': "'",
}

// escape is what is printed for r, which was written as raw.
func (l look) escape(r rune, raw string) string {
	if s := spelled[r]; l.ascii && s != "" {
		return s
	}
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case len(raw) == 1: // also a byte that is not UTF-8
		return fmt.Sprintf(`\x%02x`, raw[0])
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// visible reports whether r may be printed as it is: a letter, mark, number,
// punctuation or symbol that shows. Controls, bidirectional formatting,
// joiners, foreign spaces, fillers that look like nothing, and selectors that
// change the width of the character before them are not.
func visible(r rune) bool {
	if !unicode.IsPrint(r) {
		return false
	}
	switch {
	case r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0100 && r <= 0xe01ef, // variation selectors
		r == 0x034f, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5,
		r >= 0x180b && r <= 0x180f, r == 0x2800, r == 0x3164, r == 0xffa0:
		return false
	}
	return true
}

// inert is s without power over the terminal, on one line. Texts beyond
// maxText are cut.
func (l look) inert(s string) string {
	return join(l.cells(l.bound(s)))
}

// command is s inert and whole: what is copied must not be cut. Tabs show as
// escapes, since a shell may care.
func (l look) command(s string) string {
	return join(l.cells(strings.ReplaceAll(strings.TrimSpace(s), "\t", `\t`)))
}

func (l look) bound(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for !utf8.RuneStart(s[end]) && end > maxText-utf8.UTFMax {
		end--
	}
	return s[:end] + "…"
}

func join(cs []cell) string {
	var b strings.Builder
	for _, c := range cs {
		b.WriteString(c.text)
	}
	return strings.TrimRight(b.String(), " ")
}

// width is how many columns an inert text takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case r < 0x7f:
			n++
		case zeroWidth(r):
		case wide(r):
			n += 2
		default:
			n++
		}
	}
	return n
}

func columnsOf(cs []cell) int {
	n := 0
	for _, c := range cs {
		n += c.width
	}
	return n
}

// cut is an inert text in at most n columns, with an ellipsis where something
// is missing. n is at least 4.
func (l look) cut(s string, n int) string {
	if width(s) <= n {
		return s
	}
	dots := l.ellipsis()
	room := n - width(dots)
	var b strings.Builder
	for _, c := range l.cells(s) {
		if room -= c.width; room < 0 {
			break
		}
		b.WriteString(c.text)
	}
	return strings.TrimRight(b.String(), " ") + dots
}

// pad fills an inert text with blanks up to n columns.
func pad(s string, n int) string { return s + blanks(n-width(s)) }

// padLeft is pad for what is aligned at the right.
func padLeft(s string, n int) string { return blanks(n-width(s)) + s }

func blanks(n int) string { return strings.Repeat(" ", max(n, 0)) }

// paragraph writes text wrapped at the width. The first line begins with lead,
// whose display width is given since it may hold colour; the others begin with
// indent blanks.
func (l look) paragraph(b *strings.Builder, lead string, leadWidth, indent int, text string) {
	for i, line := range wrap(l.cells(l.bound(text)), l.width-leadWidth, l.width-indent) {
		if i > 0 {
			lead = blanks(indent)
		}
		writeLine(b, lead+line)
	}
}

// writeLine writes one line without blanks at its end.
func writeLine(b *strings.Builder, line string) {
	b.WriteString(strings.TrimRight(line, " "))
	b.WriteByte('\n')
}

// wrap breaks cells into lines: the first of at most first columns, the others
// of at most rest. Lines break at blanks, and inside a word only when the word
// is longer than a line. There is always a first line, maybe empty.
func wrap(cs []cell, first, rest int) []string {
	var lines []string
	var line strings.Builder
	room, used := first, 0
	flush := func() {
		lines = append(lines, line.String())
		line.Reset()
		room, used = rest, 0
	}
	for len(cs) > 0 {
		n := 0
		for n < len(cs) && cs[n].blank() {
			n++
		}
		gap := cs[:n]
		cs = cs[n:]
		for n = 0; n < len(cs) && !cs[n].blank(); n++ {
		}
		word := cs[:n]
		cs = cs[n:]
		if len(word) == 0 {
			break
		}
		long := columnsOf(word)
		if used > 0 && used+columnsOf(gap)+long <= room {
			for _, c := range gap {
				line.WriteString(c.text)
			}
			used += columnsOf(gap)
		} else if used > 0 || long > room && long <= rest {
			flush()
		}
		for _, c := range word {
			if used > 0 && used+c.width > room {
				flush()
			}
			line.WriteString(c.text)
			used += c.width
		}
	}
	return append(lines, line.String())
}

// The glyphs.

func (l look) pick(glyph, ascii string) string {
	if l.ascii {
		return ascii
	}
	return glyph
}

func (l look) ellipsis() string { return l.pick("…", "...") }
func (l look) arrow() string    { return l.pick("→", "->") }
func (l look) minus() string    { return l.pick("−", "-") }
func (l look) between() string  { return l.pick(" · ", ", ") }

// A paint is a colour for a word that already says the same.
type paint string

const (
	red    paint = "\x1b[1;31m"
	yellow paint = "\x1b[1;33m"
	green  paint = "\x1b[32m"
	plain  paint = ""
	reset        = "\x1b[0m"
)

func (l look) paint(c paint, s string) string {
	if !l.colour || c == plain || s == "" {
		return s
	}
	return string(c) + s + reset
}
