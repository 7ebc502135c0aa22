package config

import (
	"strings"

	"fairlead"
)

// dscpField is a code point by name or number.
type dscpField struct{}

func (dscpField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	d, ok := fairlead.ParseDSCP(strings.ToLower(t.text))
	if !ok {
		p.badValue(t, "a code point", "a number up to 63, or a name").meant(t.text, fairlead.DSCPNames())
		return false
	}
	f.Policy.DSCP = d
	return true
}

func (dscpField) said(f *fairlead.Forward) bool   { return f.Policy.DSCP != "" }
func (dscpField) copy(to, from *fairlead.Forward) { to.Policy.DSCP = from.Policy.DSCP }

func (dscpField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, string(f.Policy.DSCP))
}

// congestionField is "auto", "off", or the name of an algorithm as the kernel
// has it.
type congestionField struct{}

// maxCongestion is TCP_CA_NAME_MAX without the end of the string.
const maxCongestion = 15

func (congestionField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	name := strings.ToLower(t.text)
	if name == "" || len(name) > maxCongestion || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		p.badValue(t, "a congestion control", "auto, off, or a name such as cubic")
		return false
	}
	f.Policy.Congestion = name
	return true
}

func (congestionField) said(f *fairlead.Forward) bool { return f.Policy.Congestion != "" }
func (congestionField) copy(to, from *fairlead.Forward) {
	to.Policy.Congestion = from.Policy.Congestion
}

func (congestionField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, f.Policy.Congestion)
}
