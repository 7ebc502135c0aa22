package config

import (
	"errors"
	"path/filepath"
	"strings"

	"fairlead"
)

// A File is a configuration: one file with everything it includes.
type File struct {
	Path     string                                // under which it was read, "" when it was only text
	Forwards []*fairlead.Forward                   // in the order written, disabled ones too, defaults applied
	Places   []Place                               // in the order written
	WAN, LAN []string                              // interfaces; nil: by default routes and private addresses
	Registry Registry                              // zero: none
	Version  int                                   // of the grammar, 0 when it is not said
	Files    []string                              // every file that was read, Path first
	Include  []string                              // patterns that were not followed, since text without a path includes nothing
	Defaults fairlead.Forward                      // Policy: what "defaults" says
	own      map[*fairlead.Forward]fairlead.Policy // what a forward said itself, where defaults added to it
}

// Written is f as it stands in the file: without what the defaults added.
func (file *File) Written(f *fairlead.Forward) *fairlead.Forward {
	own, ok := file.own[f]
	if !ok {
		return f
	}
	written := *f
	written.Policy = own
	written.Expr = Sentence(&written)
	return &written
}

// A Place is a declared place. Its type says what To and Options mean.
type Place struct {
	Name    string
	Type    string   // ssh, fairlead, router, socks5, socks4, http, https
	To      []string // addresses as written, "ops@jump.example.net", "relay.example.net:7443", "auto"
	Options []Option // in the order written
	Source  fairlead.Pos
}

// An Option is a word of a place's line with its value.
type Option struct {
	Word, Value string
}

// Option is the value of an option, "" when it is not said.
func (p *Place) Option(word string) string {
	for _, o := range p.Options {
		if o.Word == word {
			return o.Value
		}
	}
	return ""
}

// A Registry is where several relays share their claims.
type Registry struct {
	Type   string // "etcd", "" for none
	To     []string
	Source fairlead.Pos
}

// Load reads a file with everything it includes, sentences or JSON. The File
// is nil only when the file itself cannot be read; with problems it has what
// could be understood. Problems that are not warnings mean that it must not
// be used.
func Load(path string) (*File, []*fairlead.Problem) {
	text, err := readFile(path)
	if err != nil {
		p := fairlead.Problemf(fairlead.CodeUnreadable, "cannot read %s: %v", path, reason(err))
		p.Err = err
		if errors.Is(err, errTooLarge) {
			p.Code = fairlead.CodeTooLarge
		}
		return nil, []*fairlead.Problem{p}
	}
	return Parse(path, text)
}

// Parse reads the text of a file. name is its path: relative includes are
// looked for beside it. With an empty name includes are not followed, and
// places they might declare are taken as declared.
func Parse(name string, text []byte) (*File, []*fairlead.Problem) {
	l := newLoader(name)
	l.read(&source{name: name, text: string(text)})
	l.finish()
	l.sortProblems()
	return l.file, l.list.all()
}

// Find says in which of its files a name is written, for changing it there.
func Find(file *File, name string) (path string, ok bool) {
	for _, f := range file.Forwards {
		if f.Name == name {
			return f.Source.File, true
		}
	}
	return "", false
}

// An entry is what the loader remembers of a forward until all is read.
type entry struct {
	f       *fairlead.Forward
	src     *source
	at, via span32 // the spot and the place, for pointing at
	line    int32
	said    wordSet // the modifiers of the sentence
}

// A span32 is a part of a source's text.
type span32 struct{ off, end int32 }

func (t token) span() span32 { return span32{t.off, t.end} }

// token is the span as a token of src. Its text is that of the source, so that
// it can be taken apart only where it was not quoted.
func (s span32) token(src *source) token {
	return token{text: src.text[s.off:s.end], off: s.off, end: s.end}
}

// A loader reads sources into one File.
type loader struct {
	file    *File
	list    problems
	entries []entry
	toks    []token
	p       parser
	slab    []fairlead.Forward

	names    map[string]int // into entries
	places   map[string]fairlead.Pos
	vias     []use // of places, by places and remote forwards
	defaults wordSet
	followed bool           // includes are read
	words    map[int32]bool // where modifiers begin; nil: nobody asks
	stack    []string       // the files being read, outermost first
	bytes    int
}

// A use is where a name of a place stands.
type use struct {
	src *source
	t   token
}

// slab is how many forwards are allocated at once: so many that the allocator
// still takes them from its small sizes.
const slab = 32

func newLoader(name string) *loader {
	l := &loader{
		file:     &File{Path: name},
		names:    map[string]int{},
		places:   map[string]fairlead.Pos{},
		followed: name != "",
	}
	if name != "" {
		l.file.Files = []string{name}
		l.stack = []string{absolute(name)}
	}
	return l
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path
}

// read reads one source, sentences or JSON.
func (l *loader) read(src *source) {
	l.bytes += len(src.text)
	if len(src.text) > maxFile || l.bytes > maxTotal {
		l.list.addProblem(fairlead.Problemf(fairlead.CodeTooLarge, "%s has %d bytes; at most 16 MiB are read", src.called(), len(src.text)))
		return
	}
	if isJSON(src.text) {
		l.json(src)
		return
	}
	l.lines(src)
}

func (s *source) called() string {
	if s.name == "" {
		return "the text"
	}
	return s.name
}

// isJSON reports whether a text begins with a brace, which no sentence does.
func isJSON(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{")
}

// lines reads a source of sentences.
func (l *loader) lines(src *source) {
	if n := strings.Count(src.text, ":") / 4; len(l.entries) == 0 {
		// Room for about as many forwards as there will be.
		l.entries = make([]entry, 0, n)
		l.names = make(map[string]int, n)
		l.file.Forwards = make([]*fairlead.Forward, 0, n)
	}
	r := lineReader{src: src, list: &l.list, toks: l.toks}
	afterForward := false
	for !l.list.enough() && r.next() {
		t := &r.toks[0]
		switch {
		case t.kind == tokenOpen:
			m := l.list.add(fairlead.CodeBlock, src, *t, "a block opens on the line that it belongs to")
			if afterForward {
				m.hint("put the { at the end of the line before")
			}
		case t.kind == tokenClose:
			l.list.add(fairlead.CodeBlock, src, *t, "this brace closes nothing")
		default:
			afterForward = l.statement(src, r.toks, r.line)
			if l.words != nil {
				for _, t := range r.toks {
					if t.modifier {
						l.words[t.off] = true
					}
				}
			}
			continue
		}
		afterForward = false
	}
	l.toks = r.toks[:0]
}

// statement reads one statement, and reports whether a block could have
// followed it.
func (l *loader) statement(src *source, toks []token, line int) bool {
	t := &toks[0]
	// One parser serves all statements, so that none is allocated for each.
	l.p = parser{src: src, list: &l.list, toks: toks}
	p := &l.p
	if isLabel(t) {
		l.forward(p, line)
		return true
	}
	p.i = 1
	if t.kind != tokenWord || t.quoted {
		p.bad(fairlead.CodeSyntax, *t, "a line begins with NAME: or with a directive")
		return false
	}
	switch t.text {
	case "place":
		l.place(p)
	case "wan":
		l.interfaces(p, &l.file.WAN)
	case "lan":
		l.interfaces(p, &l.file.LAN)
	case "defaults":
		l.setDefaults(p)
		return true
	case "include":
		l.include(p)
	case "registry":
		l.registry(p)
	case "version":
		l.version(p)
	default:
		l.unknownLine(p)
		return true
	}
	return false
}

// unknownLine tells what is wrong with a line that begins with nothing known.
func (l *loader) unknownLine(p *parser) {
	if l.list.full() {
		l.list.more++
		return
	}
	t := p.toks[0]
	if kindOf(t.text) != nil {
		p.bad(fairlead.CodeIncomplete, t, "a forward in a file begins with its name").hint("NAME: %s ...", t.text)
		return
	}
	if name, rest, ok := strings.Cut(t.text, ":"); ok && goodName(name) && (rest == "" || kindOf(rest) != nil) {
		p.bad(fairlead.CodeSyntax, t, "a blank is missing behind the colon").hint("%s: %s", name, rest)
		return
	}
	if len(p.toks) > 1 && goodName(t.text) {
		if next := p.toks[1]; next.text == ":" && next.kind == tokenWord {
			p.bad(fairlead.CodeSyntax, next, "the colon stands right behind the name").hint("%s:", t.text)
			return
		}
		if kindOf(p.toks[1].text) != nil && nearest(t.text, directiveWords) == "" {
			p.bad(fairlead.CodeSyntax, t, "a colon is missing behind the name").hint("%s:", t.text)
			return
		}
	}
	if byWord[t.text] != nil {
		p.bad(fairlead.CodeUnknownWord, t, "%q is a modifier; a line begins with NAME: or with a directive", t.text).
			hint("it belongs behind a forward, or into defaults { }")
		return
	}
	m := p.bad(fairlead.CodeUnknownWord, t, "unknown directive %s", shown(t.text)).
		note("note", "a line begins with NAME: or with one of %s", strings.Join(directiveWords, ", "))
	if t.text == "upstream" {
		m.hint(`did you mean "place"?`)
		return
	}
	m.meant(t.text, directiveWords, kindWords)
}

// forward reads "NAME: SENTENCE".
func (l *loader) forward(p *parser, line int) {
	t := p.toks[0]
	name := t.text[:len(t.text)-1]
	p.i = 1
	good := p.name(t, name)
	if len(l.slab) == 0 {
		l.slab = make([]fairlead.Forward, slab)
	}
	f := &l.slab[0]
	f.Name = name
	f.Owner.Kind = fairlead.OwnerFile
	if at, twice := l.names[name]; twice && good {
		l.list.add(fairlead.CodeTwice, p.src, t.part(0, len(name)), "the name %q of line %d stands in %s already", name, line, l.lineOf(p.src, at))
		good = false
	}
	if !p.sentence(f) || !good {
		l.slab[0] = fairlead.Forward{}
		if good {
			// The name is taken all the same, or its second use would be
			// taken for the first.
			l.names[name] = len(l.entries)
			l.entries = append(l.entries, entry{src: p.src, line: int32(line)})
		}
		return
	}
	l.slab = l.slab[1:]
	f.Source = fairlead.Pos{File: p.src.name, Line: line, Col: columnOf(p.src, int(t.off))}
	l.names[name] = len(l.entries)
	l.entries = append(l.entries, entry{f: f, src: p.src, at: p.at.span(), via: p.via.span(), line: int32(line), said: p.said})
	l.file.Forwards = append(l.file.Forwards, f)
}

// lineOf says where an entry stands, seen from a source.
func (l *loader) lineOf(src *source, at int) string {
	e := &l.entries[at]
	if e.src == src {
		return "line " + itoa(int(e.line))
	}
	return e.src.name + ":" + itoa(int(e.line))
}

func columnOf(src *source, off int) int {
	return off - strings.LastIndexByte(src.text[:off], '\n')
}

func (l *loader) pos(src *source, off int32) fairlead.Pos {
	return fairlead.Pos{File: src.name, Line: src.line(off), Col: columnOf(src, int(off))}
}
