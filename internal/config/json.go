package config

import (
	"slices"
	"strings"

	"fairlead"
)

// SchemaName is the name inside a JSON document that says what it is.
const SchemaName = "fairlead/config/1"

// FromJSON reads a configuration as JSON, the form of [Schema]. Its values are
// read by the same rules as a sentence; unknown fields and fields said twice
// are problems. Includes are not followed; [Parse] and [Load] do, and take
// JSON as well.
func FromJSON(text []byte) (*File, []*fairlead.Problem) {
	l := newLoader("")
	if len(text) > maxFile {
		l.list.addProblem(fairlead.Problemf(fairlead.CodeTooLarge, "the JSON has %d bytes; at most 16 MiB are read", len(text)))
		return l.file, l.list.all()
	}
	l.json(&source{text: string(text)})
	l.finish()
	l.sortProblems()
	return l.file, l.list.all()
}

// documentFields are the names at the top of a document.
var documentFields = []string{"schema", "version", "wan", "lan", "places", "registry", "defaults", "include", "forwards"}

// json reads a JSON source.
func (l *loader) json(src *source) {
	j := jsonParser{src: src, list: &l.list}
	doc := j.document()
	if doc == nil {
		return
	}
	d := decoder{l: l, src: src}
	if doc.kind != '{' {
		d.bad(doc, "the JSON is not an object")
		return
	}
	d.unknown(doc, documentFields)
	if n := doc.member("schema"); n != nil && n.text != SchemaName {
		d.bad(n, "the schema is %s, and this program reads %s", shown(n.text), SchemaName)
		return
	}
	for _, m := range doc.members {
		switch m.name {
		case "version":
			l.directive(src, m.key.word("version"), d.values(m.value)...)
		case "wan":
			d.interfaces(m, &l.file.WAN)
		case "lan":
			d.interfaces(m, &l.file.LAN)
		case "places":
			for _, n := range d.list(m.value) {
				d.place(n)
			}
		case "registry":
			if d.object(m.value, []string{"type", "to"}) {
				words := append(d.values(m.value.member("type")), commas(d.values(m.value.member("to")))...)
				l.directive(src, m.key.word("registry"), words...)
			}
		case "include":
			for _, t := range d.values(m.value) {
				l.directive(src, m.key.word("include"), t)
			}
		case "defaults":
			d.defaults(m)
		case "forwards":
			for _, n := range d.list(m.value) {
				d.forward(n)
			}
		}
	}
}

// A decoder turns nodes into tokens, so that one parser knows the grammar.
type decoder struct {
	l   *loader
	src *source
}

func (d *decoder) bad(n *node, format string, args ...any) mark {
	return d.l.list.add(fairlead.CodeJSON, d.src, n.token(), format, args...)
}

// unknown notes the fields of an object that are none of names.
func (d *decoder) unknown(n *node, names []string) bool {
	ok := true
	for _, m := range n.members {
		if slices.Contains(names, m.name) {
			continue
		}
		ok = false
		if d.l.list.full() {
			d.l.list.more++
			continue
		}
		d.bad(m.key, "unknown field %s", shown(m.value.path)).meant(m.name, names)
	}
	return ok
}

// object reports whether a node is an object with only these fields.
func (d *decoder) object(n *node, names []string) bool {
	if n.kind != '{' {
		d.bad(n, "%s is not an object", shown(n.path))
		return false
	}
	return d.unknown(n, names)
}

// list is the items of an array.
func (d *decoder) list(n *node) []*node {
	if n.kind != '[' {
		d.bad(n, "%s is not a list", shown(n.path))
		return nil
	}
	return n.items
}

// value is a string or a number as a word.
func (d *decoder) value(n *node) (token, bool) {
	if n.kind != '"' && n.kind != '0' {
		d.bad(n, "%s is not a string", shown(n.path))
		return token{}, false
	}
	return n.token(), true
}

// values are the words of a list, or of a single one.
func (d *decoder) values(n *node) (toks []token) {
	if n == nil {
		return nil
	}
	items := []*node{n}
	if n.kind == '[' {
		items = n.items
	}
	for _, item := range items {
		if t, ok := d.value(item); ok {
			toks = append(toks, t)
		}
	}
	return toks
}

// words are the values of n as a sentence would have them: each of them may
// hold several words, and there is a comma between one and the next.
func (d *decoder) words(n *node) (toks []token) {
	for i, t := range d.values(n) {
		if i > 0 {
			toks = append(toks, token{text: ",", kind: tokenComma, off: t.off, end: t.off})
		}
		for _, s := range strings.Fields(strings.ReplaceAll(t.text, ",", " , ")) {
			if s == "," {
				toks = append(toks, token{text: s, kind: tokenComma, off: t.off, end: t.off})
				continue
			}
			w := t
			w.text = s
			toks = append(toks, w)
		}
	}
	return toks
}

// commas puts commas between words.
func commas(words []token) (toks []token) {
	for i, t := range words {
		if i > 0 {
			toks = append(toks, token{text: ",", kind: tokenComma, off: t.off, end: t.off})
		}
		toks = append(toks, t)
	}
	return toks
}

// directive reads a directive that was put together from nodes.
func (l *loader) directive(src *source, word token, words ...token) {
	l.statement(src, append([]token{word}, words...), src.line(word.off))
}

func (d *decoder) interfaces(m member, to *[]string) {
	words := d.values(m.value)
	if len(words) > 0 {
		d.l.directive(d.src, m.key.word(m.name), commas(words)...)
	}
}

func (d *decoder) place(n *node) {
	names := []string{"name", "type", "to"}
	if kind := n.member("type"); kind != nil {
		for i := range placeTypes {
			if placeTypes[i].Type == kind.text {
				for _, o := range placeTypes[i].Options {
					names = append(names, o.Word)
				}
			}
		}
	}
	if !d.object(n, names) || !d.has(n, "name") || !d.has(n, "type") {
		return
	}
	toks := append(d.values(n.member("name")), d.values(n.member("type"))...)
	toks = append(toks, commas(d.values(n.member("to")))...)
	for _, m := range n.members {
		if m.name == "name" || m.name == "type" || m.name == "to" {
			continue
		}
		if t, ok := d.value(m.value); ok {
			toks = append(toks, m.key.word(m.name), t)
		}
	}
	word := n.word("place")
	word.end = word.off + 1
	d.l.directive(d.src, word, toks...)
}

// has notes a field that is missing.
func (d *decoder) has(n *node, name string) bool {
	if n.member(name) != nil {
		return true
	}
	at := *n
	at.end = at.off + 1
	d.bad(&at, "%s has no field %q", shown(n.path), name)
	return false
}

func (d *decoder) defaults(m member) {
	names := []string{}
	for i := range modifiers {
		if !modifiers[i].noDefault {
			names = append(names, modifiers[i].Word)
		}
	}
	if !d.object(m.value, names) {
		return
	}
	open, end := m.value.word("{"), m.value.word("}")
	open.kind, end.kind = tokenOpen, tokenClose
	toks := append([]token{open}, d.modifiers(m.value)...)
	d.l.directive(d.src, m.key.word("defaults"), append(toks, end)...)
}

// forwardFields are the names in a forward.
var forwardFields = func() []string {
	names := []string{"name", "expr", "kind", "listen", "to", "users"}
	for i := range modifiers {
		switch m := &modifiers[i]; m.Word {
		case "user", "agent", "may", "tls-key":
		default:
			if _, both := m.field.(fromField); both || !m.ofTarget() {
				names = append(names, m.Word)
			}
		}
	}
	return names
}()

func (d *decoder) forward(n *node) {
	if !d.object(n, forwardFields) || !d.has(n, "name") {
		return
	}
	name, ok := d.value(n.member("name"))
	if !ok {
		return
	}
	label := name
	label.text, label.quoted = name.text+":", false
	toks := []token{label}
	if expr := n.member("expr"); expr != nil {
		for _, m := range n.members {
			if m.name != "name" && m.name != "expr" {
				d.bad(m.key, "%s stands beside an expr, which says everything", shown(m.value.path))
				return
			}
		}
		words, ok := d.expr(expr)
		if !ok {
			return
		}
		toks = append(toks, words...)
	} else {
		if !d.has(n, "kind") {
			return
		}
		kind, ok := d.value(n.member("kind"))
		if !ok {
			return
		}
		kind.quoted = false
		toks = append(toks, kind)
		if m := n.member("listen"); m != nil {
			t, ok := d.value(m)
			if !ok {
				return
			}
			toks = append(toks, t)
		}
		if m := n.member("to"); m != nil {
			words, ok := d.targets(m)
			if !ok {
				return
			}
			if f := n.member("from"); f != nil {
				d.bad(f, "%s belongs into the target", shown(f.path)).hint(`"to": [{"dest": ..., "from": [...]}]`)
				return
			}
			toks = append(append(toks, m.word("to")), words...)
		}
		before := d.l.list.total()
		toks = append(toks, d.modifiers(n)...)
		if m := n.member("users"); m != nil {
			for _, u := range d.list(m) {
				toks = append(toks, d.user(u)...)
			}
		}
		if d.l.list.total() > before {
			return
		}
	}
	d.l.p = parser{src: d.src, list: &d.l.list, toks: toks}
	d.l.forward(&d.l.p, d.src.line(name.off))
}

// expr takes a whole sentence apart.
func (d *decoder) expr(n *node) ([]token, bool) {
	if n.kind != '"' {
		d.bad(n, "%s is not a string", shown(n.path))
		return nil, false
	}
	t := n.token()
	if t.plain() {
		toks, _, ok := d.l.list.lexLine(d.src, nil, int(t.off), int(t.end))
		notFirst(toks)
		return toks, ok
	}
	// The text has escapes: its words cannot be pointed at one by one.
	toks, _, ok := d.l.list.lexLine(&source{name: d.src.name, text: n.text}, nil, 0, len(n.text))
	for i := range toks {
		toks[i].off, toks[i].end = n.off, n.end
	}
	notFirst(toks)
	return toks, ok
}

// notFirst takes from a sentence within a line that it begins one.
func notFirst(toks []token) {
	if len(toks) > 0 {
		toks[0].first = false
	}
}

// targetFields are the names in a target.
var targetFields = func() []string {
	names := []string{"dest"}
	for _, m := range targetWords {
		names = append(names, m.Word)
	}
	return names
}()

// targets are what stands behind "to".
func (d *decoder) targets(n *node) (toks []token, ok bool) {
	items := []*node{n}
	if n.kind == '[' {
		items = n.items
	}
	for i, item := range items {
		if i > 0 {
			toks = append(toks, token{text: ",", kind: tokenComma, off: item.off, end: item.off})
		}
		if item.kind != '{' {
			t, ok := d.value(item)
			if !ok {
				return nil, false
			}
			toks = append(toks, t)
			continue
		}
		if !d.object(item, targetFields) || !d.has(item, "dest") {
			return nil, false
		}
		t, ok := d.value(item.member("dest"))
		if !ok {
			return nil, false
		}
		toks = append(toks, t)
		for _, mod := range targetWords {
			m := item.member(mod.Word)
			switch {
			case m == nil:
			case mod.Value != "":
				for _, t := range d.values(m) {
					toks = append(toks, m.word(mod.Word), t)
				}
			case m.kind == 't':
				toks = append(toks, m.word(mod.Word))
			case m.kind != 'f':
				d.bad(m, "%s is neither true nor false", shown(m.path))
				return nil, false
			}
		}
	}
	return toks, true
}

// modifiers are the words of an object's fields that are modifiers.
func (d *decoder) modifiers(n *node) (toks []token) {
	for _, m := range n.members {
		mod := byWord[m.name]
		if mod == nil {
			continue
		}
		toks = append(toks, d.modifier(mod, m)...)
	}
	return toks
}

func (d *decoder) modifier(mod *Modifier, m member) (toks []token) {
	word, n := m.key.word(mod.Word), m.value
	switch mod.field.(type) {
	case flag:
		switch n.kind {
		case 't':
			return []token{word}
		case 'f':
			return nil
		}
		d.bad(n, "%s is neither true nor false", shown(n.path))
		return nil
	case prefixes, fromField:
		for _, t := range d.values(n) {
			toks = append(toks, word, t)
		}
		return toks
	case certField:
		return d.certs(word, n)
	case targetTLSField:
		switch n.kind {
		case 't':
			return []token{word}
		case 'f':
			return nil
		}
	case opensField, sourceField, textsField:
		return append([]token{word}, commas(d.values(n))...)
	case bandwidthField:
		if n.kind != '{' {
			return append([]token{word}, d.words(n)...)
		}
		if !d.object(n, []string{"up", "down"}) {
			return nil
		}
		for _, way := range [...]string{"up", "down"} {
			v := n.member(way)
			if v == nil {
				continue
			}
			t, ok := d.value(v)
			if !ok {
				return nil
			}
			if len(toks) > 0 {
				toks = append(toks, token{text: ",", kind: tokenComma, off: t.off, end: t.off})
			}
			toks = append(toks, t, v.word(way))
		}
		if len(toks) == 0 {
			d.bad(n, "%s has neither up nor down", shown(n.path))
			return nil
		}
		return append([]token{word}, toks...)
	case scheduleField:
		return append([]token{word}, d.words(n)...)
	case pacField:
		switch {
		case n.kind == 't':
			return []token{word}
		case n.kind == 'f':
			return nil
		case n.kind == '"' && n.text == "kill-switch":
			return []token{word, n.word(n.text)}
		}
		d.bad(n, `%s is none of true, false, "kill-switch"`, shown(n.path))
		return nil
	case checkField:
		if n.kind != '{' {
			break
		}
		return d.check(word, n)
	}
	t, ok := d.value(n)
	if !ok {
		return nil
	}
	if c, ok := mod.field.(count); ok && n.kind == '0' {
		t.text += c.unit
	}
	return []token{word, t}
}

// certs are certificates, each a file, or an object with those of the
// certificate and of its key.
func (d *decoder) certs(word token, n *node) (toks []token) {
	items := []*node{n}
	if n.kind == '[' {
		items = n.items
	}
	for _, item := range items {
		if item.kind != '{' {
			if t, ok := d.value(item); ok {
				toks = append(toks, word, t)
			}
			continue
		}
		if !d.object(item, []string{"cert", "key"}) || !d.has(item, "cert") {
			return nil
		}
		for _, name := range [...]string{"cert", "key"} {
			if m := item.member(name); m != nil {
				if t, ok := d.value(m); ok {
					toks = append(toks, m.word("tls-"+name), t)
				}
			}
		}
	}
	return toks
}

// user is one user with its grants.
func (d *decoder) user(n *node) (toks []token) {
	if !d.object(n, []string{"user", "agent", "password", "keys", "key", "may"}) {
		return nil
	}
	for _, word := range [...]string{"user", "agent", "password", "keys", "key"} {
		if m := n.member(word); m != nil {
			if t, ok := d.value(m); ok {
				toks = append(toks, m.word(word), t)
			}
		}
	}
	if n.member("user") == nil && n.member("agent") == nil {
		d.has(n, "user")
		return nil
	}
	may := n.member("may")
	if may == nil {
		return toks
	}
	for _, g := range d.list(may) {
		if !d.object(g, []string{"listen", "dial"}) {
			return nil
		}
		for _, m := range g.members {
			for _, t := range d.values(m.value) {
				toks = append(toks, m.key.word("may"), m.key.word(m.name), t)
			}
		}
	}
	return toks
}
