package config

import (
	"strings"

	"fairlead"
)

// ParseArgs reads the words of a command line behind the program's name, the
// kind first. A modifier may also be written as a flag: "--idle 2s" and
// "--idle=2s" are "idle 2s". Each argument is one word, even with blanks in
// it; a single argument is a whole sentence. Places need not be declared:
// where one may stand, "user@host" may. The forward is nil when there are
// problems.
func ParseArgs(args []string) (*fairlead.Forward, []*fairlead.Problem) {
	if len(args) == 1 {
		return ParseSentence(args[0])
	}
	text := strings.Join(args, " ")
	src := &source{text: text}
	var list problems
	if tooLong(&list, src) {
		return nil, list.all()
	}
	if i := badCharacter(text); i >= 0 {
		list.badCharacter(src, i)
		return nil, list.all()
	}
	var toks []token
	off := 0
	for _, arg := range args {
		toks = appendArg(toks, arg, off)
		off += len(arg) + 1
	}
	return one(src, toks, &list)
}

// appendArg turns one argument into tokens.
func appendArg(toks []token, arg string, off int) []token {
	word := func(from, to int) token {
		return token{text: arg[from:to], off: int32(off + from), end: int32(off + to)}
	}
	if name, ok := strings.CutPrefix(arg, "--"); ok {
		name, value, pair := strings.Cut(name, "=")
		m := byWord[name]
		if m == nil && name != "to" {
			return append(toks, word(0, len(arg)))
		}
		toks = append(toks, word(2, 2+len(name)))
		if !pair {
			return toks
		}
		if m != nil && m.Value == "" && value != "" {
			// "--publish=yes": the value is told to be one word too many.
			return append(toks, word(3+len(name), len(arg)))
		}
		return appendArg(toks, value, off+3+len(name))
	}
	switch {
	case arg == "{":
		t := word(0, 1)
		t.kind = tokenOpen
		return append(toks, t)
	case arg == "}":
		t := word(0, 1)
		t.kind = tokenClose
		return append(toks, t)
	case strings.IndexByte(arg, ' ') < 0 && (strings.HasPrefix(arg, "{") || strings.HasSuffix(arg, "}")) && len(arg) > 1:
		if arg[0] == '{' {
			toks = appendArg(toks, "{", off)
			return appendArg(toks, arg[1:], off+1)
		}
		toks = appendArg(toks, arg[:len(arg)-1], off)
		return appendArg(toks, "}", off+len(arg)-1)
	}
	// Commas at either end separate, as they do in a file.
	begin, end := 0, len(arg)
	for begin < end && arg[begin] == ',' {
		t := word(begin, begin+1)
		t.kind = tokenComma
		toks = append(toks, t)
		begin++
	}
	stop := end
	for stop > begin && arg[stop-1] == ',' {
		stop--
	}
	if begin < stop || arg == "" {
		t := word(begin, stop)
		t.quoted = arg == "" || strings.ContainsAny(arg, " \t")
		toks = append(toks, t)
	}
	for ; stop < end; stop++ {
		t := word(stop, stop+1)
		t.kind = tokenComma
		toks = append(toks, t)
	}
	return toks
}

// ParseSentence reads one sentence, with its name ("web: forward ...") or
// without, under the rules of a command line. The forward is nil when there
// are problems.
func ParseSentence(text string) (*fairlead.Forward, []*fairlead.Problem) {
	src := &source{text: text}
	var list problems
	if tooLong(&list, src) {
		return nil, list.all()
	}
	var toks []token
	for from := 0; from <= len(text); {
		to := len(text)
		if i := strings.IndexByte(text[from:], '\n'); i >= 0 {
			to = from + i
		}
		var ok bool
		if toks, _, ok = list.lexLine(src, toks, from, to); !ok {
			return nil, list.all()
		}
		from = to + 1
	}
	if len(toks) > 0 {
		toks[0].first = false
	}
	return one(src, toks, &list)
}

func tooLong(list *problems, src *source) bool {
	if len(src.text) <= maxLine {
		return false
	}
	list.addProblem(fairlead.Problemf(fairlead.CodeTooLarge, "a sentence has at most 64 KiB, this one %d", len(src.text)))
	return true
}

func one(src *source, toks []token, list *problems) (*fairlead.Forward, []*fairlead.Problem) {
	p := parser{src: src, list: list, toks: toks, command: true}
	f := &fairlead.Forward{
		Owner:  fairlead.Owner{Kind: fairlead.OwnerCommand},
		Source: fairlead.Pos{Line: 1, Col: 1},
	}
	if len(toks) > 0 && isLabel(&toks[0]) {
		f.Name = strings.TrimSuffix(toks[0].text, ":")
		p.name(toks[0], f.Name)
		p.i++
	}
	p.sentence(f)
	if list.total() > 0 {
		return nil, list.all()
	}
	f.Expr = Sentence(f)
	return f, nil
}

// isLabel reports whether a token is "NAME:".
func isLabel(t *token) bool {
	return t.kind == tokenWord && !t.quoted && len(t.text) > 1 && t.text[len(t.text)-1] == ':' && strings.IndexByte(t.text, ':') == len(t.text)-1
}

// name checks a name and notes what is wrong with it.
func (p *parser) name(t token, name string) bool {
	t = t.part(0, len(name))
	switch {
	case kindOf(name) != nil || directiveWord(name) || name == "to":
		p.bad(fairlead.CodeBadName, t, "%q is a word of the grammar, not a name", name)
	case len(name) > 63:
		p.bad(fairlead.CodeBadName, t, "a name has at most 63 letters, this one %d", len(name))
	case !goodName(name):
		p.bad(fairlead.CodeBadName, t, "%s is not a name", shown(name)).hint(`a letter, then letters, digits, "-", "_" and "."`)
	default:
		return true
	}
	return false
}

func directiveWord(word string) bool {
	for i := range directives {
		if directives[i].Word == word {
			return true
		}
	}
	return false
}

// goodName reports whether a name has the form of one.
func goodName(name string) bool {
	if name == "" || len(name) > 63 || !letter(name[0]) {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !letter(c) && !digit(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}
