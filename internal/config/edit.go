package config

import (
	"bytes"
	"strings"

	"fairlead"
)

// Add writes one more forward at the end of a file. The sentence may be in any
// words; it is laid out in the columns of the paragraph before it. Every other
// byte stays. A change after which the text has more problems than before is
// refused with them. These functions see one text: what it includes, and what
// includes it, has to be checked by parsing the whole again.
func Add(text []byte, name, sentence string) ([]byte, []*fairlead.Problem) {
	if p := editable(text); p != nil {
		return nil, p
	}
	if p := checkSentence(name, sentence); p != nil {
		return nil, p
	}
	end := lineEnd(text)
	out := bytes.Clone(text)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, end...)
	}
	line := name + ": " + strings.TrimSpace(sentence)
	lines, _ := splitLines(string(out) + line)
	begin := len(lines) - 1
	for begin > 0 && !lines[begin-1].empty() {
		begin--
	}
	var c columns
	for i := begin; i < len(lines); i++ {
		c.widen(&lines[i])
	}
	c.follow(lines[begin : len(lines)-1])
	if last := &lines[len(lines)-1]; last.begins && last.comment == "" {
		line = c.line(last)
	}
	out = append(append(out, line...), end...)
	return accept(text, out)
}

// Remove takes a forward out, with its block and the comment behind it.
func Remove(text []byte, name string) ([]byte, []*fairlead.Problem) {
	e, p := findEntry(text, name)
	if p != nil {
		return nil, p
	}
	return accept(text, splice(text, e.begin, e.end, ""))
}

// Replace writes another sentence for a forward and keeps its name, its place
// in the file and the comment behind its first line. A block that it had is
// gone: the sentence says everything.
func Replace(text []byte, name, sentence string) ([]byte, []*fairlead.Problem) {
	e, p := findEntry(text, name)
	if p != nil {
		return nil, p
	}
	if p := checkSentence(name, sentence); p != nil {
		return nil, p
	}
	sentence = strings.TrimSpace(sentence)
	out := splice(text, e.sentence, e.tokensEnd, sentence)
	if e.lines > 1 {
		// The comment behind the brace that opened the block stays.
		if first := e.firstComment; first != "" {
			out = splice(text, e.sentence, e.tokensEnd, sentence+"  "+first)
		}
	} else {
		out = layout(out, e)
	}
	return accept(text, out)
}

// SetDisabled writes the word "disabled" behind a sentence, or takes it out.
func SetDisabled(text []byte, name string, disabled bool) ([]byte, []*fairlead.Problem) {
	e, p := findEntry(text, name)
	if p != nil {
		return nil, p
	}
	var at *token
	for i := range e.toks {
		if t := &e.toks[i]; t.modifier && t.is("disabled") {
			at = &e.toks[i]
		}
	}
	switch {
	case disabled == (at != nil):
		return text, nil
	case disabled:
		// Before a block, or behind the last word.
		before := e.toks[len(e.toks)-1].end
		for i, t := range e.toks {
			if t.kind == tokenOpen {
				before = e.toks[i-1].end
				break
			}
		}
		return accept(text, splice(text, int(before), int(before), "  disabled"))
	}
	begin, end := int(at.off), int(at.end)
	for begin > 0 && (text[begin-1] == ' ' || text[begin-1] == '\t') {
		begin--
	}
	if at.first {
		// A line of a block that says nothing else goes as a whole.
		stop := end
		for stop < len(text) && (text[stop] == ' ' || text[stop] == '\t' || text[stop] == '\r') {
			stop++
		}
		if stop < len(text) && text[stop] == '\n' && begin > 0 && text[begin-1] == '\n' {
			end = stop + 1
		} else {
			begin = int(at.off)
		}
	}
	return accept(text, splice(text, begin, end, ""))
}

// MakeName makes a name for a forward that has none, from its kind and what it
// listens at: forward-8080. taken says which names there are already.
func MakeName(f *fairlead.Forward, taken func(name string) bool) string {
	name := string(f.Kind)
	switch {
	case len(f.At.Ports) > 0:
		name += "-" + itoa(int(f.At.Ports[0].First))
	case f.At.Unix != "":
		base := f.At.Unix[strings.LastIndexAny(f.At.Unix, `/\`)+1:]
		name += "-" + strings.TrimSuffix(base, ".sock")
	case f.At.Where != "":
		name += "-" + f.At.Where
	}
	if len(name) > 56 || !goodName(name) || kindOf(name) != nil {
		name = string(f.Kind) + "-1"
	}
	if taken == nil || !taken(name) {
		return name
	}
	for i := 2; ; i++ {
		if n := name + "-" + itoa(i); !taken(n) {
			return n
		}
	}
}

// A textEntry is one forward as it stands in a text.
type textEntry struct {
	toks         []token
	begin, end   int // whole lines, with the end of the last one
	sentence     int // behind the name's colon and its blanks
	tokensEnd    int
	lines        int
	firstComment string
}

// editable refuses texts that these functions cannot change.
func editable(text []byte) []*fairlead.Problem {
	if isJSON(string(text)) {
		return []*fairlead.Problem{fairlead.Problemf(fairlead.CodeJSON, "the configuration is JSON and belongs to the program that writes it; it is not changed here").
			Fix("turn it into sentences once", "fairlead adapt --to conf")}
	}
	return nil
}

// findEntry finds a forward in a text, or says that there is none.
func findEntry(text []byte, name string) (*textEntry, []*fairlead.Problem) {
	if p := editable(text); p != nil {
		return nil, p
	}
	src := &source{text: string(text)}
	r := lineReader{src: src, list: &problems{}}
	var names []string
	for r.next() {
		if !isLabel(&r.toks[0]) {
			continue
		}
		label := strings.TrimSuffix(r.toks[0].text, ":")
		if label != name {
			names = append(names, label)
			continue
		}
		// Only the grammar tells a modifier from a value that looks like one.
		p := parser{src: src, list: &problems{}, toks: r.toks, i: 1}
		p.sentence(&fairlead.Forward{})
		e := &textEntry{toks: r.toks, end: r.pos, lines: r.lines - r.line + 1}
		first := int(r.toks[0].off)
		e.begin = strings.LastIndexByte(src.text[:first], '\n') + 1
		last := r.toks[len(r.toks)-1]
		e.tokensEnd = int(last.end)
		e.sentence = int(r.toks[0].end)
		if len(r.toks) > 1 {
			e.sentence = int(r.toks[1].off)
		}
		if e.lines > 1 {
			line, _, _ := strings.Cut(src.text[e.begin:], "\n")
			if _, comment, ok := r.list.lexLine(src, nil, e.begin, e.begin+len(line)); ok && comment >= 0 {
				e.firstComment = strings.TrimRight(src.text[comment:e.begin+len(line)], " \t\r")
			}
		}
		return e, nil
	}
	return nil, []*fairlead.Problem{NoSuchForward(name, names)}
}

// Names reports whether an entry of that name stands in a file, be it right or
// wrong.
func Names(text []byte, name string) bool {
	_, p := findEntry(text, name)
	return p == nil
}

// NoSuchForward is the problem that a name means nothing, with the name that
// was probably meant among those there are.
func NoSuchForward(name string, names []string) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeNoSuchForward, "there is no forward %s", shown(name))
	if s := nearest(name, names); s != "" {
		p.Note("note", "did you mean %q?", s)
	}
	return p
}

// checkSentence refuses a sentence that is none by itself, and one that would
// become more than one line.
func checkSentence(name, sentence string) []*fairlead.Problem {
	if strings.ContainsAny(sentence, "\r\n") {
		return []*fairlead.Problem{fairlead.Problemf(fairlead.CodeSyntax, "a sentence is one line")}
	}
	f, p := ParseSentence(name + ": " + sentence)
	if p != nil {
		return p
	}
	if f.Name != name {
		return []*fairlead.Problem{fairlead.Problemf(fairlead.CodeBadName, "%s is not a name", shown(name))}
	}
	return nil
}

// layout puts a replaced line into the columns of its paragraph.
func layout(text []byte, e *textEntry) []byte {
	lines, _ := splitLines(string(text))
	at := bytes.Count(text[:e.begin], []byte("\n"))
	if at >= len(lines) {
		return text
	}
	begin, stop := at, at
	for begin > 0 && !lines[begin-1].empty() {
		begin--
	}
	for stop < len(lines) && !lines[stop].empty() {
		stop++
	}
	var c columns
	for i := begin; i < stop; i++ {
		c.widen(&lines[i])
	}
	c.follow(lines[begin:at])
	if at == begin {
		c.follow(lines[at+1 : stop])
	}
	t := &lines[at]
	if !t.begins || len(t.toks) == 0 {
		return text
	}
	from, to := int(t.toks[0].off), int(t.toks[len(t.toks)-1].end)
	return splice(text, from, to, c.line(t))
}

// accept hands out a changed text unless the change broke it.
func accept(before, after []byte) ([]byte, []*fairlead.Problem) {
	was := newLoader("")
	was.read(&source{text: string(before)})
	was.finish()
	is := newLoader("")
	is.read(&source{text: string(after)})
	is.finish()
	if is.list.total() > was.list.total() {
		return nil, is.list.all()
	}
	return after, nil
}

func splice(text []byte, from, to int, with string) []byte {
	out := make([]byte, 0, len(text)+len(with))
	out = append(out, text[:from]...)
	out = append(out, with...)
	return append(out, text[to:]...)
}

func lineEnd(text []byte) string {
	if i := bytes.IndexByte(text, '\n'); i > 0 && text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}
