package config

import (
	"strconv"
	"strings"

	"fairlead"
)

// A targetField is a modifier that belongs to the target before it, and is
// printed with it.
type targetField interface {
	field
	printTarget(b []byte, word string, t *fairlead.Target) []byte
	jsonTarget(w *jsonWriter, word string, t *fairlead.Target)
}

// ofTarget reports whether a modifier belongs to the target before it.
func (m *Modifier) ofTarget() bool {
	_, ok := m.field.(targetField)
	return ok
}

// targetWords are the modifiers of targets, in the order in which they are
// printed. It is filled once, after the table.
var targetWords = func() (list []*Modifier) {
	for i := range modifiers {
		if modifiers[i].ofTarget() {
			list = append(list, &modifiers[i])
		}
	}
	return list
}()

// targetWord reports whether the next token is a word of the target before it.
func (p *parser) targetWord() bool {
	t, ok := p.peek()
	if !ok || t.kind != tokenWord || t.quoted {
		return false
	}
	m := byWord[t.text]
	return m != nil && m.ofTarget()
}

func appendTargetWords(b []byte, t *fairlead.Target) []byte {
	for _, m := range targetWords {
		b = m.field.(targetField).printTarget(b, m.Word, t)
	}
	return b
}

// target is the target to which a word belongs, or notes that there is none.
func (p *parser) target(word token, f *fairlead.Forward, form string) *fairlead.Target {
	if n := len(f.To); n > 0 {
		return &f.To[n-1]
	}
	p.bad(fairlead.CodeSyntax, word, "%q stands behind its target", word.text).hint("to TARGET %s", form)
	return nil
}

// unsaid is what a field of targets is for the forward as a whole.
type unsaid struct{}

func (unsaid) said(*fairlead.Forward) bool                          { return false }
func (unsaid) copy(_, _ *fairlead.Forward)                          {}
func (unsaid) print(b []byte, _ string, _ *fairlead.Forward) []byte { return b }

// maxWeight bounds a target's weight.
const maxWeight = 1000

// weightField is a target's share: "weight 3".
type weightField struct{ unsaid }

func (weightField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	v, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	t := p.target(word, f, "weight "+v.text)
	if t == nil {
		return false
	}
	if t.Weight != 0 {
		p.bad(fairlead.CodeTwice, word, "%q is said twice for %s", m.Word, t.Dest())
		return false
	}
	n, err := strconv.Atoi(v.text)
	if err != nil || n < 1 || n > maxWeight || strconv.Itoa(n) != v.text {
		p.badValue(v, "a weight", "a number from 1 to "+itoa(maxWeight))
		return false
	}
	t.Weight = n
	return true
}

func (weightField) printTarget(b []byte, word string, t *fairlead.Target) []byte {
	if t.Weight == 0 {
		return b
	}
	return strconv.AppendInt(append(append(append(b, ' '), word...), ' '), int64(t.Weight), 10)
}

func (weightField) jsonTarget(w *jsonWriter, word string, t *fairlead.Target) {
	if t.Weight != 0 {
		w.key(word)
		w.raw(itoa(t.Weight))
	}
}

// targetFlag is a word of a target without a value.
type targetFlag struct {
	unsaid
	at func(*fairlead.Target) *bool
}

func (x targetFlag) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t := p.target(word, f, m.Word)
	if t == nil {
		return false
	}
	if *x.at(t) {
		p.bad(fairlead.CodeTwice, word, "%q is said twice for %s", m.Word, t.Dest())
		return false
	}
	*x.at(t) = true
	return true
}

func (x targetFlag) printTarget(b []byte, word string, t *fairlead.Target) []byte {
	if !*x.at(t) {
		return b
	}
	return append(append(b, ' '), word...)
}

func (x targetFlag) jsonTarget(w *jsonWriter, word string, t *fairlead.Target) {
	if *x.at(t) {
		w.key(word)
		w.raw("true")
	}
}

// resolveField says what the addresses of a target's name are: "resolve all".
type resolveField struct{ unsaid }

func (resolveField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	v, ok := p.value(word, strings.Join(m.Choices, "|"))
	if !ok {
		return false
	}
	t := p.target(word, f, "resolve "+v.text)
	if t == nil {
		return false
	}
	if t.Resolve != "" {
		p.bad(fairlead.CodeTwice, word, "%q is said twice for %s", m.Word, t.Dest())
		return false
	}
	return p.oneOf(v, m, &t.Resolve)
}

func (resolveField) printTarget(b []byte, word string, t *fairlead.Target) []byte {
	if t.Resolve == "" {
		return b
	}
	return appendPair(b, word, t.Resolve)
}

func (resolveField) jsonTarget(w *jsonWriter, word string, t *fairlead.Target) {
	if t.Resolve != "" {
		w.field(word, t.Resolve)
	}
}

func (fromField) printTarget(b []byte, word string, t *fairlead.Target) []byte {
	return appendPrefixes(b, word, t.From)
}

func (fromField) jsonTarget(w *jsonWriter, word string, t *fairlead.Target) {
	w.strings(word, prefixTexts(t.From))
}
