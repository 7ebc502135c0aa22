package config

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"fairlead"
)

// Limits on what is read.
const (
	maxFile       = 16 << 20
	maxLine       = 64 << 10
	maxBlockLines = 1000
	maxTokens     = 64 << 10 // of one statement
)

// A source is one text with the name under which problems mention it.
type source struct {
	name string
	text string

	// The line of an offset that was asked for, so that asking in the order
	// of the text costs no more than reading it.
	seenOff  int32
	seenLine int
}

// line is the line, from 1, in which an offset lies.
func (s *source) line(off int32) int {
	if off < s.seenOff || s.seenLine == 0 {
		s.seenOff, s.seenLine = 0, 1
	}
	s.seenLine += strings.Count(s.text[s.seenOff:off], "\n")
	s.seenOff = off
	return s.seenLine
}

type tokenKind uint8

const (
	tokenWord tokenKind = iota
	tokenComma
	tokenOpen  // {
	tokenClose // }
)

// A token is a word or a mark of a source. Its text is a part of the source's
// text unless it was quoted.
type token struct {
	text     string
	off, end int32 // bytes in the source, with quotes
	kind     tokenKind
	quoted   bool // never a keyword
	first    bool // the first of its line
	modifier bool // the parser took it for the word that begins a modifier
}

// is reports whether t is this word of the grammar.
func (t *token) is(word string) bool {
	return t.kind == tokenWord && !t.quoted && t.text == word
}

// plain reports whether the text stands in the source byte for byte, so that
// an offset into one is an offset into the other.
func (t *token) plain() bool { return len(t.text) == int(t.end-t.off) }

// part is the token that consists of n bytes of t from the i-th, for pointing
// at. It is t itself where the source has other bytes than the text.
func (t token) part(i, n int) token {
	if !t.plain() || i < 0 || n < 0 || i+n > len(t.text) {
		return t
	}
	t.text = t.text[i : i+n]
	t.off += int32(i)
	t.end = t.off + int32(n)
	return t
}

// lexLine appends the tokens of text[from:to], one line without its end, and
// returns with them where its comment begins, -1 without one. A line that is
// no text at all yields a problem and no tokens.
func (l *problems) lexLine(src *source, toks []token, from, to int) (out []token, comment int, ok bool) {
	text := src.text[:to]
	begin := len(toks)
	checked := false // all characters of the line
	for i := from; i < to; {
		switch c := text[i]; class[c] {
		case plain, quote, odd:
			if class[c] == odd && !checked {
				if bad := badCharacter(text[from:]); bad >= 0 {
					l.badCharacter(src, from+bad)
					return toks[:begin], -1, false
				}
				checked = true
			}
			// The usual word ends at a blank and has nothing special in it.
			stop := i
			for stop < to && class[text[stop]] == plain {
				stop++
			}
			if stop == to || text[stop] == ' ' {
				toks = append(toks, token{text: text[i:stop], off: int32(i), end: int32(stop), first: len(toks) == begin})
				i = stop
				continue
			}
			if !checked {
				if bad := badCharacter(text[from:]); bad >= 0 {
					l.badCharacter(src, from+bad)
					return toks[:begin], -1, false
				}
				checked = true
			}
			t, ok := lexWord(text, i)
			t.first = len(toks) == begin
			if !ok {
				l.add(fairlead.CodeSyntax, src, t, "a quote is not closed").hint(`a quoted word ends with " on the same line`)
				return toks[:begin], -1, false
			}
			toks = append(toks, t)
			i = int(t.end)
		case blank:
			if c == '\r' && i != to-1 && !checked {
				l.badCharacter(src, i)
				return toks[:begin], -1, false
			}
			i++
		default:
			if c == '#' {
				if bad := badCharacter(text[i:]); bad >= 0 {
					l.badCharacter(src, i+bad)
					return toks[:begin], -1, false
				}
				return toks, i, true
			}
			kind := tokenComma
			switch c {
			case '{':
				kind = tokenOpen
			case '}':
				kind = tokenClose
			}
			toks = append(toks, token{text: text[i : i+1], off: int32(i), end: int32(i + 1), kind: kind, first: len(toks) == begin})
			i++
		}
	}
	return toks, -1, true
}

// The classes of bytes, as the lexer sees them.
const (
	plain = iota // part of a word
	blank
	quote
	odd     // no ASCII, or none that may stand in a line: look closer
	special // a mark of its own, at the beginning of a word
)

var class = func() (c [256]uint8) {
	for b := range c {
		if b >= utf8.RuneSelf || !plainByte[b] {
			c[b] = odd
		}
	}
	c[' '], c['\t'], c['\r'] = blank, blank, blank
	c['"'] = quote
	c[','], c['{'], c['}'], c['#'] = special, special, special, special
	return c
}()

// lexWord reads the word that begins at i. A comma ends it only where nothing
// of the word follows; a quoted part keeps everything up to its end.
func lexWord(text string, i int) (t token, ok bool) {
	t.off = int32(i)
	begin, plain := i, true
	var b strings.Builder
	for i < len(text) {
		switch c := text[i]; c {
		case ' ', '\t', '\r', '{', '}':
			goto done
		case ',':
			if i+1 == len(text) || strings.IndexByte(" \t\r,{}", text[i+1]) >= 0 {
				goto done
			}
			i++
		case '"':
			b.WriteString(text[begin:i])
			plain = false
			i++
			for ; ; i++ {
				if i >= len(text) {
					t.end = int32(len(text))
					return t, false
				}
				if text[i] == '"' {
					break
				}
				if text[i] == '\\' && i+1 < len(text) && (text[i+1] == '"' || text[i+1] == '\\') {
					i++
				}
				b.WriteByte(text[i])
			}
			i++
			begin = i
		default:
			i++
		}
	}
done:
	t.end = int32(i)
	if plain {
		t.text = text[begin:i]
		return t, true
	}
	b.WriteString(text[begin:i])
	t.text, t.quoted = b.String(), true
	return t, true
}

// plainByte says of each ASCII byte whether it may stand in a line.
var plainByte = func() (ok [utf8.RuneSelf]bool) {
	for c := ' '; c <= '~'; c++ {
		ok[c] = true
	}
	ok['\t'] = true
	return ok
}()

// badCharacter is the offset of the first character that may not stand in a
// line, -1 without one. A carriage return may end it.
func badCharacter(line string) int {
	for i := 0; i < len(line); {
		c := line[i]
		if c < utf8.RuneSelf {
			if !plainByte[c] && (c != '\r' || i != len(line)-1) {
				return i
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(line[i:])
		if r == utf8.RuneError && n == 1 || unseen(r) {
			return i
		}
		i += n
	}
	return -1
}

// unseen reports characters that cannot be told from others or from nothing
// when the file is looked at: controls, spaces that are no blank, marks
// without width and those that turn the direction of writing (Trojan Source,
// CVE-2021-42574).
func unseen(r rune) bool {
	return unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || r == '\u115f' || r == '\u3164'
}

func (l *problems) badCharacter(src *source, off int) {
	if l.full() {
		l.more++
		return
	}
	r, n := utf8.DecodeRuneInString(src.text[off:])
	t := token{text: src.text[off : off+n], off: int32(off), end: int32(off + n)}
	var what string
	switch {
	case r == utf8.RuneError && n <= 1:
		what = "a byte that is not UTF-8 (0x" + hex(uint32(src.text[off]), 2) + ")"
	case r == 0:
		what = "a NUL byte"
	case r == '\ufeff':
		what = "a byte order mark (U+FEFF)"
	case r == '\r':
		what = "a carriage return within the line (0x0D)"
	case r < 0x20 || r == 0x7f:
		what = "a control character (0x" + hex(uint32(r), 2) + ")"
	case r == '\u00a0':
		what = "a no-break space (U+00A0)"
	case r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x061c:
		what = "a character that turns the direction of writing (U+" + hex(uint32(r), 4) + ")"
	default:
		what = "an invisible character (U+" + hex(uint32(r), 4) + ")"
	}
	l.add(fairlead.CodeBadCharacter, src, t, "byte %d is %s", off+1, what)
}

func hex(n uint32, digits int) string {
	const set = "0123456789ABCDEF"
	var b [8]byte
	i := len(b)
	for ; n > 0 || digits > 0; digits-- {
		i--
		b[i] = set[n&15]
		n >>= 4
	}
	return string(b[i:])
}
