package config

import (
	"cmp"
	"slices"
	"strings"

	"fairlead"
)

// finish checks what only the whole file shows, and applies the defaults.
func (l *loader) finish() {
	l.checkPlaces()
	l.checkOverlaps()
	l.applyDefaults()
	var b []byte
	for i := range l.entries {
		if e := &l.entries[i]; e.f != nil {
			b = appendSentence(b[:0], e.f, e.said.with(l.defaults))
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

// applyDefaults gives every forward the defaults that it does not say itself,
// that its kind knows and that mean something for it.
func (l *loader) applyDefaults() {
	if l.defaults.empty() {
		return
	}
	l.file.own = map[*fairlead.Forward]fairlead.Policy{}
	for _, f := range l.file.Forwards {
		k := kindOf(string(f.Kind))
		for i := range modifiers {
			m := &modifiers[i]
			if !l.defaults.has(i) || m.kinds&k.bit == 0 || m.field.said(f) || !suits(m.Word, f, &l.file.Defaults.Policy) {
				continue
			}
			if _, ok := l.file.own[f]; !ok {
				l.file.own[f] = f.Policy
			}
			m.field.copy(f, &l.file.Defaults)
		}
	}
}

// suits reports whether a word of the defaults means something for f, which has
// the defaults before it in the table already. A carrier refuses such words
// where a forward says them itself. Words that keep somebody out or something
// secret suit every forward: a carrier that cannot keep them has to say so.
func suits(word string, f *fairlead.Forward, defaults *fairlead.Policy) bool {
	if f.Kind != fairlead.KindForward {
		return true
	}
	p := &f.Policy
	tcp, udp := f.At.Net&fairlead.TCP != 0, f.At.Net&fairlead.UDP != 0
	switch word {
	case "mode":
		return f.At.Unix != ""
	case "greet":
		return p.Front != "" || slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Conditional() })
	case "queue":
		return !udp && (p.MaxConns != 0 || p.MaxConnsPerSource != 0 || p.Rate != 0 || p.RatePerSource != 0)
	case "max-queue":
		return p.Queue != 0
	case "linger", "keepalive", "congestion":
		return tcp
	case "check":
		return tcp || defaults.Check.How != "tcp" && defaults.Check.How != "http"
	case "slow-start":
		return p.Choose != "" && p.Choose != "failover" && p.Choose != "source-hash"
	case "requests", "replies":
		return udp
	case "proxy-protocol":
		return !udp || defaults.ProxyProtocol != 1
	}
	return true
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
