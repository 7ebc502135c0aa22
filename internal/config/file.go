package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
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

// Bounds of what one file may include.
const (
	maxDepth    = 8
	maxIncluded = 1000
	maxTotal    = 64 << 20
)

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
	said    uint64 // the modifiers of the sentence
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
	defaults uint64
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

// words reads a list of words with commas between, up to a word that is none
// of it.
func (p *parser) words(word token, form string) ([]string, bool) {
	var list []string
	for {
		t, ok := p.value(word, form)
		if !ok {
			return nil, false
		}
		if t.quoted {
			list = append(list, t.text)
		} else {
			list = append(list, strings.Split(t.text, ",")...)
		}
		if !p.comma() {
			return list, true
		}
	}
}

// nothingElse notes what stands behind the end of a statement.
func (p *parser) nothingElse() bool {
	if p.i >= len(p.toks) {
		return true
	}
	t := p.toks[p.i]
	if t.kind == tokenOpen || t.kind == tokenClose {
		p.bad(fairlead.CodeBlock, t, "%q has no block", p.toks[0].text)
	} else {
		p.bad(fairlead.CodeSyntax, t, "%s is one word too many", shown(t.text))
	}
	return false
}

// interfaces reads "wan eth0, ppp0".
func (l *loader) interfaces(p *parser, to *[]string) {
	word := p.toks[0]
	if *to != nil {
		p.bad(fairlead.CodeTwice, word, "%q is said twice", word.text).hint("several interfaces are separated by commas")
		return
	}
	list, ok := p.words(word, "INTERFACE")
	if !ok {
		return
	}
	seen := map[string]bool{}
	for _, name := range list {
		if !p.placeWord(name) || name == "wan" || name == "lan" {
			p.bad(fairlead.CodeBadValue, p.toks[1], "%s is not the name of an interface", shown(name))
			return
		}
		if seen[name] {
			p.bad(fairlead.CodeTwice, word, "%s is said twice", shown(name))
			return
		}
		seen[name] = true
	}
	if p.nothingElse() {
		*to = list
	}
}

// setDefaults reads "defaults { ... }".
func (l *loader) setDefaults(p *parser) {
	if t, ok := p.peek(); !ok || t.kind != tokenOpen {
		at := p.toks[0]
		if ok {
			at = t
		}
		p.bad(fairlead.CodeBlock, at, "defaults stand in a block").hint("defaults { idle 5m }")
		return
	}
	p.said = l.defaults
	p.rest(&l.file.Defaults)
	l.defaults = p.said
}

// version reads "version 1".
func (l *loader) version(p *parser) {
	t, ok := p.value(p.toks[0], "1")
	switch {
	case !ok:
	case l.file.Version != 0 && len(l.stack) <= 1:
		p.bad(fairlead.CodeTwice, p.toks[0], "%q is said twice", "version")
	case t.text != "1":
		p.bad(fairlead.CodeBadValue, t, "version %s is not known; this program reads version 1", shown(t.text))
	case p.nothingElse():
		l.file.Version = 1
	}
}

// registry reads "registry etcd URL, URL".
func (l *loader) registry(p *parser) {
	word := p.toks[0]
	if l.file.Registry.Type != "" {
		p.bad(fairlead.CodeTwice, word, "%q is said twice", word.text)
		return
	}
	t, ok := p.value(word, "etcd URL")
	if !ok {
		return
	}
	if t.text != "etcd" {
		p.bad(fairlead.CodeBadValue, t, "%s is no kind of registry, which are etcd", shown(t.text)).meant(t.text, []string{"etcd"})
		return
	}
	to, ok := p.words(t, "URL")
	if ok && p.nothingElse() {
		l.file.Registry = Registry{Type: t.text, To: to, Source: l.pos(p.src, word.off)}
	}
}

// include reads "include GLOB" and the files that it means.
func (l *loader) include(p *parser) {
	word := p.toks[0]
	t, ok := p.value(word, "GLOB")
	if !ok || !p.notEmpty(t) || !p.nothingElse() {
		return
	}
	l.includeFiles(p, t)
}

func (l *loader) includeFiles(p *parser, t token) {
	if !l.followed {
		l.file.Include = append(l.file.Include, t.text)
		return
	}
	if len(l.stack) > maxDepth {
		p.bad(fairlead.CodeInclude, t, "includes lie more than %d deep", maxDepth)
		return
	}
	pattern := t.text
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(p.src.name), pattern)
	}
	paths, err := filepath.Glob(pattern)
	if err != nil {
		p.bad(fairlead.CodeInclude, t, "%s is not a pattern of file names", shown(t.text))
		return
	}
	if len(paths) == 0 && !strings.ContainsAny(t.text, `*?[`) {
		p.bad(fairlead.CodeInclude, t, "there is no file %s", pattern)
		return
	}
	for _, path := range paths {
		l.includeFile(p, t, path)
	}
}

func (l *loader) includeFile(p *parser, t token, path string) {
	real := absolute(path)
	switch {
	case slices.Contains(l.stack, real):
		p.bad(fairlead.CodeInclude, t, "%s includes itself", path)
		return
	case slices.Contains(l.file.Files, path):
		p.bad(fairlead.CodeInclude, t, "%s is included twice", path)
		return
	case len(l.file.Files) > maxIncluded:
		p.bad(fairlead.CodeInclude, t, "more than %d files are included", maxIncluded)
		return
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		p.bad(fairlead.CodeInclude, t, "cannot read %s: %v", path, reason(err))
		return
	case !info.Mode().IsRegular():
		p.bad(fairlead.CodeInclude, t, "%s is not a file", path)
		return
	case info.Mode().Perm()&0o002 != 0 && runtime.GOOS != "windows":
		p.bad(fairlead.CodeInclude, t, "%s may be written by everybody", path).fix("take that right away", "chmod o-w "+path)
		return
	}
	text, err := readFile(path)
	if err != nil {
		p.bad(fairlead.CodeInclude, t, "cannot read %s: %v", path, reason(err))
		return
	}
	l.file.Files = append(l.file.Files, path)
	l.stack = append(l.stack, real)
	// The statement that includes is not over: it goes on with its own tokens.
	toks, saved := l.toks, *p
	l.toks = nil
	l.read(&source{name: path, text: string(text)})
	l.toks, *p = toks, saved
	l.stack = l.stack[:len(l.stack)-1]
}

var errTooLarge = fmt.Errorf("more than %d MiB", maxFile>>20)

// readFile reads at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, errTooLarge
	}
	return text, nil
}

// reason is an error of the file system without the operation and the path,
// which the message has already.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// finish checks what only the whole file shows, and applies the defaults.
func (l *loader) finish() {
	l.checkPlaces()
	l.checkOverlaps()
	l.applyDefaults()
	var b []byte
	for i := range l.entries {
		if e := &l.entries[i]; e.f != nil {
			b = appendSentence(b[:0], e.f, e.said|l.defaults)
			e.f.Expr = string(b)
		}
	}
}

// sortProblems puts the problems in the order of the text: some are found only
// when all of it is read.
func (l *loader) sortProblems() {
	key := func(p *fairlead.Problem) (file, line, col int) {
		if p.At == nil {
			return len(l.file.Files), 0, 0
		}
		return slices.Index(l.file.Files, p.At.Pos.File), p.At.Pos.Line, p.At.Pos.Col
	}
	slices.SortStableFunc(l.list.list, func(a, b *fairlead.Problem) int {
		file1, line1, col1 := key(a)
		file2, line2, col2 := key(b)
		return cmp.Or(cmp.Compare(file1, file2), cmp.Compare(line1, line2), cmp.Compare(col1, col2))
	})
}

// applyDefaults gives every forward the defaults that it does not say itself
// and that its kind knows.
func (l *loader) applyDefaults() {
	if l.defaults == 0 {
		return
	}
	l.file.own = map[*fairlead.Forward]fairlead.Policy{}
	for _, f := range l.file.Forwards {
		k := kindOf(string(f.Kind))
		for i := range modifiers {
			m := &modifiers[i]
			if l.defaults&(1<<i) == 0 || m.kinds&k.bit == 0 || m.field.said(f) {
				continue
			}
			if _, ok := l.file.own[f]; !ok {
				l.file.own[f] = f.Policy
			}
			m.field.copy(f, &l.file.Defaults)
		}
	}
}

// written is a forward without what the defaults added.
func (file *File) written(f *fairlead.Forward) *fairlead.Forward {
	own, ok := file.own[f]
	if !ok {
		return f
	}
	c := *f
	c.Policy = own
	return &c
}

// checkPlaces notes uses of places that no line declares.
func (l *loader) checkPlaces() {
	if len(l.file.Include) > 0 {
		return // they may be declared there
	}
	for i := range l.entries {
		e := &l.entries[i]
		if e.f == nil {
			continue
		}
		if e.f.Via != "" {
			l.checkPlace(e.src, e.via.token(e.src), e.f.Via)
		}
		if w := e.f.At.Where; w != "" && (e.f.Kind == fairlead.KindRemote || e.f.Kind == fairlead.KindMap) {
			t := e.at.token(e.src)
			if strings.HasPrefix(t.text, w) {
				t = t.part(0, len(w))
			}
			l.checkPlace(e.src, t, w)
		}
	}
	for _, u := range l.vias {
		l.checkPlace(u.src, u.t, u.t.text)
	}
	l.checkPlaceLoops()
}

func (l *loader) checkPlace(src *source, t token, name string) {
	if _, ok := l.places[name]; ok {
		return
	}
	if l.list.full() {
		l.list.more++
		return
	}
	var names []string
	for _, p := range l.file.Places {
		names = append(names, p.Name)
	}
	l.list.add(fairlead.CodeUnknownPlace, src, t, "unknown place %s", shown(name)).
		meant(name, names).
		fix("declare it", "place "+name+" ssh USER@HOST")
}
