package config

import (
	"net/netip"
	"strings"

	"fairlead"
)

// A conditionField is what a client has to ask for to be led to the target
// that stands before it: "sni", "http-host", "alpn" or "protocol".
type conditionField struct {
	at   func(*fairlead.Target) *[]string
	read func(p *parser, m *Modifier, t token) (value string, ok bool)
}

func (c conditionField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	n := len(f.To)
	if n == 0 {
		p.bad(fairlead.CodeSyntax, word, "%q stands behind its target", m.Word).hint("to TARGET %s %s", m.Word, t.text)
		return false
	}
	value, ok := c.read(p, m, t)
	if ok {
		list := c.at(&f.To[n-1])
		*list = append(*list, value)
	}
	return ok
}

// It belongs to the target, which prints and copies it.
func (conditionField) said(*fairlead.Forward) bool                          { return false }
func (conditionField) copy(_, _ *fairlead.Forward)                          {}
func (conditionField) print(b []byte, _ string, _ *fairlead.Forward) []byte { return b }

func (c conditionField) printTarget(b []byte, word string, t *fairlead.Target) []byte {
	for _, value := range *c.at(t) {
		b = appendPair(b, word, value)
	}
	return b
}

func (c conditionField) jsonTarget(w *jsonWriter, word string, t *fairlead.Target) {
	w.strings(word, *c.at(t))
}

// conditions are the modifiers that are conditions of targets, in the order of
// the table.
var conditions = func() (list []*Modifier) {
	for i := range modifiers {
		if _, ok := modifiers[i].field.(conditionField); ok {
			list = append(list, &modifiers[i])
		}
	}
	return list
}()

// conditionsOf is what t says of one of the conditions.
func (m *Modifier) conditionsOf(t *fairlead.Target) *[]string { return m.field.(conditionField).at(t) }

// readName reads the name of a service, or all names below one.
func readName(p *parser, _ *Modifier, t token) (string, bool) {
	name := strings.ToLower(strings.TrimSuffix(t.text, "."))
	below := strings.TrimPrefix(name, "*.")
	m := mark{}
	switch last := below[strings.LastIndexByte(below, '.')+1:]; {
	case hostName(below) && !isNumber(last):
		return name, true
	case strings.Contains(below, "*"):
		m = p.badValue(t, "a name that a client can ask for", "*.example.net is every name below example.net")
	case !isASCII(below):
		m = p.badValue(t, "a name in the form in which clients ask for it", "its ASCII form, which begins with xn--")
	default:
		m = p.badValue(t, "a name that a client can ask for", "www.example.net, or *.example.net")
		if _, err := netip.ParseAddr(strings.Trim(below, "[]")); err == nil {
			m.note("why", "no client names an address in its TLS hello")
		}
	}
	if host, _, ok := strings.Cut(below, ":"); ok && hostName(host) {
		m.hint("did you mean %q? The port makes no difference", host)
	}
	return "", false
}

// readHost is readName for HTTP, where a client may ask for an address too.
func readHost(p *parser, m *Modifier, t token) (string, bool) {
	text := t.text
	if in, ok := strings.CutPrefix(text, "["); ok {
		text = strings.TrimSuffix(in, "]")
	}
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return a.String(), true
	}
	return readName(p, m, t)
}

// readALPN reads the name of a protocol within TLS, which is arbitrary bytes
// (RFC 7301 section 3.1).
func readALPN(p *parser, _ *Modifier, t token) (string, bool) {
	if t.text == "" || len(t.text) > 255 {
		p.badValue(t, "the name of a protocol", "as in h2 or http/1.1")
		return "", false
	}
	return t.text, true
}

func readProtocol(p *parser, m *Modifier, t token) (value string, ok bool) {
	ok = p.oneOf(t, m, &value)
	return value, ok
}

// isASCII reports whether s has no other bytes.
func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}

// unused reports whether "front" names a condition that no target has.
func unused(f *fairlead.Forward) bool {
	for _, m := range conditions {
		if m.Word != f.Policy.Front {
			continue
		}
		for i := range f.To {
			if len(*m.conditionsOf(&f.To[i])) > 0 {
				return false
			}
		}
		return true
	}
	return false
}
