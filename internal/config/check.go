package config

import (
	"strconv"
	"strings"

	"fairlead"
)

// checkWords are what may follow "check". "send" and "expect" begin the same
// check, with and without something to say first.
var checkWords = []string{"tcp", "http", "send", "expect", "off"}

// checkHows are the values of Check.How.
var checkHows = []string{"tcp", "http", "expect", "off"}

// maxCheckText bounds what a check sends, and what it waits for.
const maxCheckText = 1024

// checkField is "check tcp", "check http /health", "check send TEXT expect
// TEXT" or "check off", and behind it "every 5s", "rise 2" and "fall 3".
type checkField struct{}

func (checkField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	c := &f.Policy.Check
	t, ok := p.value(word, m.Value)
	if !ok || !p.oneOf(t, m, &c.How) {
		return false
	}
	switch c.How {
	case "http":
		if next, ok := p.peek(); ok && next.kind == tokenWord && !next.first && strings.HasPrefix(next.text, "/") {
			p.i++
			if !urlPath(next.text) {
				p.badValue(next, "the path of a URL", "/health")
				return false
			}
			c.Path = next.text
		}
	case "send":
		if !p.checkText(t, &c.Send) {
			return false
		}
		next, ok := p.peek()
		if !ok || !next.is("expect") || next.first {
			at := p.end()
			if ok {
				at = next
			}
			p.bad(fairlead.CodeIncomplete, at, "a check that sends has to say what it expects").hint("check send TEXT expect TEXT")
			return false
		}
		p.i++
		t = next
		fallthrough
	case "expect":
		c.How = "expect"
		if !p.checkText(t, &c.Expect) {
			return false
		}
	}
	return p.checkOptions(c)
}

// checkText reads the text behind word, which is not empty.
func (p *parser) checkText(word token, text *string) bool {
	t, ok := p.value(word, "TEXT")
	if !ok || !p.notEmpty(t) {
		return false
	}
	raw, bad := unescape(t.text)
	switch {
	case bad != "":
		p.bad(fairlead.CodeBadValue, t, "%s is no escape", shown(bad)).hint(`\r, \n, \t, \xNN, or \\ for a backslash`)
		return false
	case len(raw) > maxCheckText:
		p.bad(fairlead.CodeTooLarge, t, "the text has %d bytes; at most %d are used", len(raw), maxCheckText)
		return false
	}
	*text = raw
	return true
}

// checkOptions reads how often, and how many results count.
func (p *parser) checkOptions(c *fairlead.Check) bool {
	for {
		word, ok := p.peek()
		if !ok || word.first || word.kind != tokenWord || word.quoted {
			return true
		}
		var count *int
		again := false
		switch word.text {
		case "every":
			again = c.Every != 0
		case "rise":
			count, again = &c.Rise, c.Rise != 0
		case "fall":
			count, again = &c.Fall, c.Fall != 0
		default:
			return true
		}
		p.i++
		switch {
		case c.How == "off" && word.text == "every":
			p.bad(fairlead.CodeBadValue, word, "a check that is off has no interval")
			return false
		case c.How == "off":
			p.bad(fairlead.CodeBadValue, word, "a check that is off counts nothing")
			return false
		case again:
			p.bad(fairlead.CodeTwice, word, "%q is said twice", word.text)
			return false
		}
		form := "N"
		if count == nil {
			form = "DURATION"
		}
		t, ok := p.value(word, form)
		if !ok {
			return false
		}
		if count == nil {
			if !p.duration(t, false, &c.Every) {
				return false
			}
			continue
		}
		n, err := strconv.Atoi(t.text)
		if err != nil || n < 1 || n > 100 || strconv.Itoa(n) != t.text {
			p.badValue(t, "a number of checks", "a number from 1 to 100")
			return false
		}
		*count = n
	}
}

func (checkField) said(f *fairlead.Forward) bool   { return f.Policy.Check.How != "" }
func (checkField) copy(to, from *fairlead.Forward) { to.Policy.Check = from.Policy.Check }

func (checkField) print(b []byte, word string, f *fairlead.Forward) []byte {
	c := &f.Policy.Check
	b = append(append(b, ' '), word...)
	if c.Send != "" {
		b = appendText(append(b, " send "...), c.Send)
	}
	b = append(append(b, ' '), c.How...)
	switch {
	case c.Expect != "":
		b = appendText(append(b, ' '), c.Expect)
	case c.Path != "":
		b = appendWord(append(b, ' '), c.Path)
	}
	if c.Rise != 0 {
		b = strconv.AppendInt(append(b, " rise "...), int64(c.Rise), 10)
	}
	if c.Fall != 0 {
		b = strconv.AppendInt(append(b, " fall "...), int64(c.Fall), 10)
	}
	if c.Every != 0 {
		b = appendDuration(append(b, " every "...), c.Every)
	}
	return b
}

func (checkField) json(w *jsonWriter, word string, c *fairlead.Check) {
	w.key(word)
	w.open('{')
	w.field("how", c.How)
	if c.Path != "" {
		w.field("path", c.Path)
	}
	if c.Send != "" {
		w.field("send", string(appendEscaped(nil, c.Send)))
	}
	if c.Expect != "" {
		w.field("expect", string(appendEscaped(nil, c.Expect)))
	}
	for _, n := range [...]struct {
		word string
		n    int
	}{{"rise", c.Rise}, {"fall", c.Fall}} {
		if n.n != 0 {
			w.key(n.word)
			w.raw(itoa(n.n))
		}
	}
	if c.Every != 0 {
		w.field("every", string(appendDuration(nil, c.Every)))
	}
	w.close('}')
}

// check is a check that is written as an object, as words.
func (d *decoder) check(word token, n *node) []token {
	if !d.object(n, []string{"how", "path", "send", "expect", "rise", "fall", "every"}) || !d.has(n, "how") {
		return nil
	}
	how, ok := d.value(n.member("how"))
	if !ok {
		return nil
	}
	how.quoted = false
	toks := []token{word}
	pair := func(name string) {
		m := n.member(name)
		if m == nil {
			return
		}
		if t, ok := d.value(m); ok {
			t.quoted = true
			toks = append(toks, m.word(name), t)
		}
	}
	switch how.text {
	case "expect":
		if !d.has(n, "expect") {
			return nil
		}
		pair("send")
		pair("expect")
	default:
		toks = append(toks, how)
		for _, name := range [...]string{"send", "expect"} {
			if m := n.member(name); m != nil {
				d.bad(m, "%s goes with the check \"expect\"", shown(m.path))
				return nil
			}
		}
	}
	if m := n.member("path"); m != nil {
		t, ok := d.value(m)
		switch {
		case !ok:
			return nil
		case how.text != "http" || !strings.HasPrefix(t.text, "/"):
			d.bad(m, "%s is the path that a check with http asks for, and begins with a slash", shown(m.path))
			return nil
		}
		toks = append(toks, t)
	}
	pair("rise")
	pair("fall")
	pair("every")
	return toks
}

// urlPath reports whether s can stand in the first line of a request.
func urlPath(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' {
			return false
		}
	}
	return len(s) <= maxCheckText
}

// unescape turns \r, \n, \t, \\, \" and \xNN into the bytes that they mean. bad
// is the first that means nothing.
func unescape(s string) (raw, bad string) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, ""
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", `\`
		}
		switch s[i] {
		case 'r':
			b.WriteByte('\r')
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case '\\', '"':
			b.WriteByte(s[i])
		case 'x':
			if i+2 >= len(s) {
				return "", s[i-1:]
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", s[i-1 : i+3]
			}
			b.WriteByte(byte(n))
			i += 2
		default:
			return "", s[i-1 : i+1]
		}
	}
	return b.String(), ""
}

// appendEscaped is the text that unescape reads as raw.
func appendEscaped(b []byte, raw string) []byte {
	for i := range len(raw) {
		switch c := raw[i]; {
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\\':
			b = append(b, `\\`...)
		case c < ' ' || c >= 0x7f:
			b = append(append(b, `\x`...), hex(uint32(c), 2)...)
		default:
			b = append(b, c)
		}
	}
	return b
}

// appendText appends raw as a quoted word, with its escapes: between quotes the
// lexer takes a backslash away only before a quote or another backslash.
func appendText(b []byte, raw string) []byte {
	b = append(b, '"')
	text := appendEscaped(nil, raw)
	for i, c := range text {
		switch {
		case c == '"':
			b = append(b, '\\')
		case c == '\\' && (i+1 == len(text) || text[i+1] == '\\' || text[i+1] == '"' || i > 0 && text[i-1] == '\\'):
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}
