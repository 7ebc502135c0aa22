package config

import (
	"strings"

	"fairlead"
)

// A lineReader reads one statement after the other: a line, or a line with
// the block that opens at its end.
type lineReader struct {
	src  *source
	list *problems
	toks []token // of the statement
	line int     // on which it begins, from 1

	pos, lines int // behind what was read
}

// next reads the next statement that has tokens.
func (r *lineReader) next() bool {
	for r.pos < len(r.src.text) && !r.list.enough() {
		r.toks = r.toks[:0]
		if !r.readLine() || len(r.toks) == 0 {
			continue
		}
		r.line = r.lines
		if r.block() {
			return true
		}
	}
	return false
}

// readLine appends the tokens of the next line.
func (r *lineReader) readLine() bool {
	text := r.src.text
	from, to := r.pos, len(text)
	if i := strings.IndexByte(text[from:], '\n'); i >= 0 {
		to = from + i
		r.pos = to + 1
	} else {
		r.pos = to
	}
	r.lines++
	if to-from > maxLine {
		pr := fairlead.Problemf(fairlead.CodeTooLarge, "a line has at most 64 KiB, this one %d", to-from)
		pr.At = &fairlead.Excerpt{
			Pos:   fairlead.Pos{File: r.src.name, Line: r.lines, Col: 1},
			Text:  visible(strings.ToValidUTF8(text[from:from+60], "?")) + " ...",
			Width: 60,
		}
		r.list.addProblem(pr)
		return false
	}
	var ok bool
	r.toks, _, ok = r.list.lexLine(r.src, r.toks, from, to)
	return ok
}

// block appends the lines of a block that is open at the end of the first
// line. A line that can only begin another statement ends it as well, so that
// one forgotten brace does not swallow the rest of the file.
func (r *lineReader) block() bool {
	depth, open, at := 0, token{}, 0
	first := r.lines
	for {
		for ; at < len(r.toks); at++ {
			switch r.toks[at].kind {
			case tokenOpen:
				if depth == 0 {
					open = r.toks[at]
				}
				depth++
			case tokenClose:
				depth--
			}
		}
		if depth <= 0 || r.pos >= len(r.src.text) {
			return true // what is still open, the parser says
		}
		if r.lines-first >= maxBlockLines || len(r.toks) > maxTokens {
			r.list.add(fairlead.CodeTooLarge, r.src, open, "a block has at most %d lines", maxBlockLines)
			r.skipBlock(depth)
			return false
		}
		if r.opensStatement() {
			return true
		}
		r.readLine()
	}
}

// opensStatement reports whether the next line begins with a name and a kind
// or with a directive, as no line of a block does.
func (r *lineReader) opensStatement() bool {
	line, _, _ := strings.Cut(r.src.text[r.pos:min(len(r.src.text), r.pos+256)], "\n")
	word := strings.TrimLeft(line, " \t")
	word, rest, _ := strings.Cut(word, " ")
	if name, ok := strings.CutSuffix(word, ":"); ok {
		kind, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), " ")
		return goodName(name) && kindOf(strings.TrimRight(kind, "\r\t")) != nil
	}
	return directiveWord(word)
}

// skipBlock goes to the end of a block that is too large, reading nothing.
func (r *lineReader) skipBlock(depth int) {
	for r.pos < len(r.src.text) && depth > 0 && !r.opensStatement() {
		line, _, found := strings.Cut(r.src.text[r.pos:], "\n")
		r.pos += len(line)
		if found {
			r.pos++
		}
		r.lines++
		if strings.TrimSpace(line) == "}" {
			depth--
		}
	}
}
