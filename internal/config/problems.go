package config

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"fairlead"
)

// maxProblems is how many problems are told at once.
const maxProblems = 10

// problems collects what is wrong with a text, the first ten in full. The
// others are only counted, so that garbage costs no more than reading it.
type problems struct {
	list []*fairlead.Problem
	more int
}

// maxCounted is how many more are counted before reading ends.
const maxCounted = 10_000

// enough reports whether what follows need not be read any more.
func (l *problems) enough() bool { return l.more >= maxCounted }

// total is how many problems there were.
func (l *problems) total() int { return len(l.list) + l.more }

func (l *problems) full() bool { return len(l.list) >= maxProblems }

// A mark is a problem that was added and may be told more about. The zero
// mark stands for one that was only counted.
type mark struct{ p *fairlead.Problem }

// add notes a problem at a token of a source. The token's text is not looked
// at, only where it stands.
func (l *problems) add(code fairlead.Code, src *source, t token, format string, args ...any) mark {
	if l.full() {
		l.more++
		return mark{}
	}
	p := fairlead.Problemf(code, format, args...)
	p.At = excerpt(src, int(t.off), int(t.end))
	l.list = append(l.list, p)
	return mark{p}
}

// addProblem notes a problem without an excerpt, or with one of its own.
func (l *problems) addProblem(p *fairlead.Problem) mark {
	if l.full() {
		l.more++
		return mark{}
	}
	l.list = append(l.list, p)
	return mark{p}
}

// hint says behind the excerpt's mark what was probably meant.
func (m mark) hint(format string, args ...any) mark {
	if m.p != nil && m.p.At != nil {
		m.p.At.Hint = fmt.Sprintf(format, args...)
	}
	return m
}

// meant hints at the candidate that is nearest to word, if one is near.
func (m mark) meant(word string, candidates ...[]string) mark {
	if m.p == nil {
		return m
	}
	if s := nearest(word, candidates...); s != "" {
		return m.hint("did you mean %q?", s)
	}
	return m
}

func (m mark) note(label, format string, args ...any) mark {
	if m.p != nil {
		m.p.Note(label, format, args...)
	}
	return m
}

func (m mark) fix(text, command string) mark {
	if m.p != nil {
		m.p.Fix(text, command)
	}
	return m
}

// all are the problems to tell, with a last one that counts the rest.
func (l *problems) all() []*fairlead.Problem {
	if l.more == 0 {
		return l.list
	}
	what := fmt.Sprintf("%d more errors are not shown", l.more)
	if l.enough() {
		what = fmt.Sprintf("at least %d more errors are not shown", l.more)
	}
	if l.more == 1 {
		what = "one more error is not shown"
	}
	return append(l.list[:len(l.list):len(l.list)], fairlead.Problemf(fairlead.CodeSyntax, "%s", what))
}

// excerpt shows the bytes from off to end of a source with their line.
func excerpt(src *source, off, end int) *fairlead.Excerpt {
	off = min(max(off, 0), len(src.text))
	// The end of a line is where its text ends, whatever stands behind it.
	begin := strings.LastIndexByte(src.text[:off], '\n') + 1
	stop := len(src.text)
	if i := strings.IndexByte(src.text[off:], '\n'); i >= 0 {
		stop = off + i
	}
	line := strings.TrimSuffix(src.text[begin:stop], "\r")
	off = min(off, begin+len(line))
	width := max(min(end, begin+len(line))-off, 1)
	return &fairlead.Excerpt{
		Pos:   fairlead.Pos{File: src.name, Line: 1 + strings.Count(src.text[:begin], "\n"), Col: off - begin + 1},
		Text:  visible(line),
		Width: width,
	}
}

// visible is a line that can be shown: what must not reach a terminal is
// replaced byte by byte, so that columns stay.
func visible(line string) string {
	if badCharacter(line) < 0 {
		return line
	}
	b := []byte(line)
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r != '\t' && (r == utf8.RuneError && n == 1 || r != ' ' && unseen(r)) {
			for j := range n {
				b[i+j] = '?'
			}
		}
		i += n
	}
	return string(b)
}
