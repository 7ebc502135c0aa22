package config

import (
	"fairlead"
)

// Sentence is a forward in canonical words: kind, spot, targets and modifiers
// in the order of the grammar's table, without the name. Parsed again it is an
// equal forward.
func Sentence(f *fairlead.Forward) string {
	return string(appendSentence(make([]byte, 0, 96), f))
}

// Line is a forward as a line of the file, "NAME: SENTENCE".
func Line(f *fairlead.Forward) string {
	return f.Name + ": " + Sentence(f)
}

func appendSentence(b []byte, f *fairlead.Forward) []byte {
	b = append(b, f.Kind...)
	if k := kindOf(string(f.Kind)); k == nil || k.listen != no {
		b = append(b, ' ')
		if f.Kind == fairlead.KindTrigger {
			at := fairlead.Spot{Ports: f.At.Ports, Net: f.At.Net}
			b = appendSpot(b, &at)
		} else {
			b = appendSpot(b, &f.At)
		}
	}
	for i := range f.To {
		t := &f.To[i]
		if i == 0 {
			b = append(b, " to "...)
		} else {
			b = append(b, ", "...)
		}
		b = appendDest(b, t)
		b = appendPrefixes(b, "from", t.From)
		for _, name := range t.SNI {
			b = appendPair(b, "sni", name)
		}
	}
	for i := range modifiers {
		if m := &modifiers[i]; m.field.said(f) {
			b = m.field.print(b, m.Word, f)
		}
	}
	return appendUsers(b, f.Policy.Users)
}

func appendSpot(b []byte, s *fairlead.Spot) []byte {
	if s.Unix != "" {
		return appendWord(b, "unix:"+s.Unix)
	}
	return append(b, s.String()...)
}

func appendDest(b []byte, t *fairlead.Target) []byte {
	if t.Unix != "" {
		return appendWord(b, "unix:"+t.Unix)
	}
	return append(b, t.Dest()...)
}
