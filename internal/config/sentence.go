package config

import (
	"strings"

	"fairlead"
)

// A parser reads one sentence from the tokens of one source.
type parser struct {
	src     *source
	list    *problems
	toks    []token
	i       int
	command bool // from a command line: a place may be a host

	kind   *KindHelp // nil for defaults
	said   wordSet   // modifiers by index
	braced bool      // within { }
	open   token     // the brace, when braced
	users  map[string]bool

	at, via token // for problems that are found later
}

// end is behind the last token, for what is missing there.
func (p *parser) end() token {
	if len(p.toks) == 0 {
		return token{off: int32(len(p.src.text)), end: int32(len(p.src.text))}
	}
	t := p.toks[len(p.toks)-1]
	t.off, t.first = t.end, false
	return t
}

func (p *parser) bad(code fairlead.Code, t token, format string, args ...any) mark {
	return p.list.add(code, p.src, t, format, args...)
}

// peek is the next token, without a kind of word when there is none.
func (p *parser) peek() (token, bool) {
	if p.i < len(p.toks) {
		return p.toks[p.i], true
	}
	return token{}, false
}

// value takes the next token as the value of word, or notes that it is
// missing: it has to be a word of the same line.
func (p *parser) value(word token, form string) (token, bool) {
	t, ok := p.peek()
	if !ok || t.kind != tokenWord || t.first {
		at := word
		at.off, at.end = word.end, word.end+1
		p.bad(fairlead.CodeIncomplete, at, "%s needs a value", shown(word.text)).hint("%s %s", word.text, form)
		return t, false
	}
	p.i++
	return t, true
}

// comma takes a comma if it is next.
func (p *parser) comma() bool {
	if p.i < len(p.toks) && p.toks[p.i].kind == tokenComma {
		p.i++
		return true
	}
	return false
}

// skip goes to the next word of the grammar, after something that was not
// understood.
func (p *parser) skip() {
	for ; p.i < len(p.toks); p.i++ {
		t := &p.toks[p.i]
		if t.kind == tokenOpen || t.kind == tokenClose {
			return
		}
		if t.kind == tokenWord && !t.quoted && (t.text == "to" || byWord[t.text] != nil) {
			return
		}
	}
}

// sentence reads kind, spot, targets and modifiers into f, up to the last
// token. It reports whether there was no problem.
func (p *parser) sentence(f *fairlead.Forward) bool {
	before := p.list.total()
	word, ok := p.peek()
	if !ok || word.kind != tokenWord {
		if !ok {
			word = p.end()
		}
		p.bad(fairlead.CodeIncomplete, word, "a sentence begins with its kind").hint("KIND LISTEN to TARGET")
		return false
	}
	p.i++
	p.kind = kindOf(word.text)
	if p.kind == nil || word.quoted {
		p.unknownKind(word)
		return false
	}
	f.Kind = p.kind.Kind
	f.At.Net = fairlead.TCP
	if p.kind.listen != no {
		p.listen(word, f)
	} else if t, ok := p.peek(); ok && t.kind == tokenWord && byWord[t.text] == nil {
		p.bad(fairlead.CodeSyntax, t, "%s serves on something", p.kind.Kind).hint("%s on %s", p.kind.Kind, shown(t.text))
		p.skip()
	}
	p.rest(f)
	if p.list.total() == before {
		p.complete(f)
	}
	return p.list.total() == before
}

func (p *parser) unknownKind(word token) {
	if p.list.full() {
		p.list.more++
		return
	}
	if byWord[word.text] != nil || word.text == "to" {
		p.bad(fairlead.CodeUnknownKind, word, "%q is no kind; a sentence begins with one: %s", word.text, strings.Join(kindWords, ", "))
		return
	}
	p.bad(fairlead.CodeUnknownKind, word, "unknown kind %s; kinds are %s", shown(word.text), strings.Join(kindWords, ", ")).meant(word.text, kindWords)
}

// rest reads targets and modifiers in any order, and the block.
func (p *parser) rest(f *fairlead.Forward) {
	for p.i < len(p.toks) {
		t := p.toks[p.i]
		switch t.kind {
		case tokenOpen:
			p.i++
			if p.braced {
				p.bad(fairlead.CodeBlock, t, "a block cannot stand in a block")
				p.skipBlock()
				continue
			}
			p.braced, p.open = true, t
		case tokenClose:
			p.i++
			if !p.braced {
				p.bad(fairlead.CodeBlock, t, "this brace closes nothing")
				return
			}
			p.braced = false
			if p.i < len(p.toks) {
				p.bad(fairlead.CodeBlock, p.toks[p.i], "nothing may follow the end of a block").hint("write it before the {, or within")
				p.i = len(p.toks)
			}
			return
		case tokenComma:
			p.i++
			p.bad(fairlead.CodeSyntax, t, "this comma separates nothing").hint("a comma stands between targets, and within lists of ports")
			p.skip()
		default:
			p.modifier(t, f)
		}
	}
	if p.braced {
		p.bad(fairlead.CodeBlock, p.open, "the block is not closed").hint("} is missing")
	}
}

// skipBlock goes behind the brace that closes a nested block.
func (p *parser) skipBlock() {
	for depth := 1; p.i < len(p.toks) && depth > 0; p.i++ {
		switch p.toks[p.i].kind {
		case tokenOpen:
			depth++
		case tokenClose:
			depth--
		}
	}
}

// modifier reads the modifier that begins with t, or the targets.
func (p *parser) modifier(t token, f *fairlead.Forward) {
	p.i++
	if t.is("to") && p.kind != nil {
		p.targets(t, f)
		return
	}
	m := byWord[t.text]
	if m == nil || t.quoted {
		p.unknownWord(t, f)
		p.skip()
		return
	}
	p.toks[p.i-1].modifier = len(f.To) == 0 || !m.ofTarget()
	before := p.list.total()
	switch {
	case p.kind != nil && m.kinds&p.kind.bit == 0:
		p.wrongKind(t, m)
	case p.kind == nil && m.noDefault:
		p.bad(fairlead.CodeWrongKind, t, "%q cannot be a default", m.Word)
	case p.said.has(m.index) && !m.list:
		p.bad(fairlead.CodeTwice, t, "%q is said twice", m.Word)
	default:
		p.said.add(m.index)
		if m.field.parse(p, m, t, f) {
			return
		}
		if p.list.total() == before {
			panic("config: a modifier failed without a problem")
		}
	}
	p.skip()
}

func (p *parser) wrongKind(t token, m *Modifier) {
	if p.list.full() {
		p.list.more++
		return
	}
	var names []string
	for _, k := range m.Kinds {
		names = append(names, string(k))
	}
	p.bad(fairlead.CodeWrongKind, t, "%q does not go with %s", m.Word, p.kind.Kind).note("note", "%s goes with %s", m.Word, strings.Join(names, ", "))
}

// elsewhere are words that other programs and people use for what here has
// another name, or needs no word.
var elsewhere = map[string]string{
	"->":          `write "to"`,
	"=>":          `write "to"`,
	"→":           `write "to"`,
	"hairpin":     "nat does that by itself, leave it out",
	"upstream":    `write "via"`,
	"through":     `write "via"`,
	"timeout":     "connect, idle, linger or max-lifetime",
	"allow":       `write "from"`,
	"target":      `write "to"`,
	"maxconn":     `write "max-conns"`,
	"transparent": `write "source keep"`,
	"balance":     `write "policy"`,
	"send-proxy":  `write "proxy-protocol v1"`,
	"off":         `write "disabled"`,
}

func (p *parser) unknownWord(t token, f *fairlead.Forward) {
	if p.list.full() {
		p.list.more++
		return
	}
	hint := elsewhere[t.text]
	switch {
	case t.text == "->" || t.text == "=>" || t.text == "→":
		p.bad(fairlead.CodeShellArrow, t, "%q is written \"to\" here", t.text).hint("%s", hint)
	case t.text == "-" || t.text == "=":
		p.shellArrow(t)
	case hint != "" && !t.quoted:
		p.bad(fairlead.CodeUnknownWord, t, "unknown modifier %s", shown(t.text)).hint("%s", hint)
	default:
		set := kindSet(everyKind)
		words := []string{"to"}
		if p.kind != nil {
			set = p.kind.bit
			if p.kind.target == no {
				words = nil
			}
		}
		m := p.bad(fairlead.CodeUnknownWord, t, "unknown modifier %s", shown(t.text))
		if name, ok := strings.CutPrefix(t.text, "--"); ok {
			name, _, _ = strings.Cut(name, "=")
			if s := nearest(name, wordsFor(set)); s != "" {
				m.hint("did you mean %q?", "--"+s)
			}
			return
		}
		m.meant(t.text, words, wordsFor(set))
		if m.p.At.Hint == "" {
			// A word of another kind is worth a hint as well: what it then
			// says of the kind is the better explanation.
			m.meant(t.text, wordsFor(everyKind))
		}
		if m.p.At.Hint == "" && len(words) > 0 && len(f.To) == 0 && strings.ContainsAny(t.text, ":.") {
			m.hint("a target stands behind \"to\"")
		}
	}
}

// shellArrow is told where an arrow lost its head: the shell takes ">" and
// what follows, and leaves the dash.
func (p *parser) shellArrow(t token) {
	if !p.command {
		p.bad(fairlead.CodeShellArrow, t, "%q is not a word; the separator is \"to\"", t.text).hint(`write "to"`)
		return
	}
	said := strings.TrimSpace(p.src.text[:t.off])
	p.bad(fairlead.CodeShellArrow, t, "%q was not received: your shell took it and what follows it", t.text+">").
		fix(`write the word "to"`, "fairlead "+said+" to HOST:PORT")
}

// complete checks what only the whole sentence shows.
func (p *parser) complete(f *fairlead.Forward) {
	k := p.kind
	end := p.end()
	switch {
	case k.on == must && f.At.Unix == "" && !p.saidWord("on"):
		p.bad(fairlead.CodeIncomplete, end, "%s does not say where it serves", k.Kind).hint("%s %s", k.Kind, k.Syntax)
	case k.target == must && len(f.To) == 0 && f.Policy.Front == "":
		p.bad(fairlead.CodeIncomplete, end, "%s needs a target", k.Kind).hint("to HOST:PORT")
	case k.target == must && len(f.To) == 0 && unused(f):
		p.bad(fairlead.CodeIncomplete, end, "front %s chooses among targets, and there is none", f.Policy.Front).
			hint("to HOST:PORT %s %s", f.Policy.Front, byWord[f.Policy.Front].Value)
	case len(f.To) > 0 && unused(f):
		p.bad(fairlead.CodeIncomplete, end, "front %s chooses among targets, and none has %q behind it", f.Policy.Front, f.Policy.Front).
			hint("to %s %s %s", f.To[0].Dest(), f.Policy.Front, byWord[f.Policy.Front].Value)
	case f.Kind == fairlead.KindLocal && f.Via == "":
		p.bad(fairlead.CodeIncomplete, end, "local does not say from where to dial").hint("via PLACE; without a place it is a forward")
	case f.Kind == fairlead.KindRemote && f.At.Where == "":
		p.bad(fairlead.CodeIncomplete, p.at, "remote does not say at which place to listen").hint("PLACE:%s", f.At.Ports)
	case f.Kind == fairlead.KindTrigger && len(f.Opens) == 0:
		p.bad(fairlead.CodeIncomplete, end, "trigger does not say what it opens").hint("opens PORTS")
	case f.Kind == fairlead.KindHelper && f.At.Net != fairlead.UDP:
		p.bad(fairlead.CodeBadValue, p.at, "helper passes on UDP only").hint("did you mean %q?", spotText(&f.At, fairlead.UDP))
	case f.At.Unix != "" && (f.Kind == fairlead.KindNAT || f.Kind == fairlead.KindOpen || f.Kind == fairlead.KindMap || f.Kind == fairlead.KindTrigger || f.Kind == fairlead.KindHelper):
		p.bad(fairlead.CodeSyntax, p.at, "%s knows ports only, no unix sockets", k.Kind)
	default:
		p.loop(f)
		p.secured(f)
	}
}

func (p *parser) saidWord(word string) bool {
	return p.said.has(byWord[word].index)
}

func spotText(s *fairlead.Spot, net fairlead.Network) string {
	c := *s
	c.Net = net
	return c.String()
}

// shown is a word from outside as it is put into a message: in quotes, with
// everything escaped that is not printable, and not longer than a line.
func shown(word string) string {
	if len(word) > 60 {
		word = word[:57] + "..."
	}
	return quoted(word)
}
