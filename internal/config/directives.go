package config

import (
	"strings"

	"fairlead"
)

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
