package config

import (
	"net/netip"
	"strconv"
	"strings"

	"fairlead"
)

// Sentence is a forward in canonical words: kind, spot, targets and modifiers
// in the order of the grammar's table, without the name. Parsed again it is an
// equal forward.
func Sentence(f *fairlead.Forward) string {
	return string(appendSentence(make([]byte, 0, 96), f, everyWord))
}

// Line is a forward as a line of the file, "NAME: SENTENCE".
func Line(f *fairlead.Forward) string {
	return f.Name + ": " + Sentence(f)
}

// appendSentence prints f. Only modifiers in mask, by their index, are looked
// at.
func appendSentence(b []byte, f *fairlead.Forward, mask wordSet) []byte {
	b = append(b, f.Kind...)
	if k := kindOf(string(f.Kind)); k == nil || k.listen != no {
		b = append(b, ' ')
		if f.Kind == fairlead.KindTrigger {
			at := fairlead.Spot{Ports: f.At.Ports, Net: f.At.Net}
			b = appendSpot(b, &at)
		} else {
			b = appendSpot(b, &f.At)
		}
	} else {
		b = appendSpot(append(b, " on "...), &f.At)
	}
	for i := range f.To {
		t := &f.To[i]
		if i == 0 {
			b = append(b, " to "...)
		} else {
			b = append(b, ", "...)
		}
		b = appendDest(b, t)
		b = appendTargetWords(b, t)
	}
	mask.each(func(i int) {
		if m := &modifiers[i]; m.field.said(f) {
			b = m.field.print(b, m.Word, f)
		}
	})
	return appendUsers(b, f.Policy.Users)
}

// appendSpot is Spot.String without an allocation, and quoted where a path
// needs it.
func appendSpot(b []byte, s *fairlead.Spot) []byte {
	if s.Unix != "" {
		return appendWord(b, "unix:"+s.Unix)
	}
	switch {
	case s.Any && len(s.Ports) == 0:
		return append(b, '*')
	case s.Any:
	case s.Addr.IsValid():
		b = appendAddr(b, s.Addr)
	default:
		b = append(b, s.Where...)
		if s.Group.IsValid() {
			b = appendAddr(append(b, ':'), s.Group)
		}
	}
	if len(s.Ports) == 0 {
		return b
	}
	if s.Any || s.Addr.IsValid() || s.Where != "" {
		b = append(b, ':')
	}
	b = appendPorts(b, s.Ports)
	if s.Net == fairlead.TCP {
		return b
	}
	return append(append(b, '/'), s.Net.String()...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		return a.AppendTo(b)
	}
	return append(a.AppendTo(append(b, '[')), ']')
}

func appendPorts(b []byte, list fairlead.PortList) []byte {
	for i, r := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(r.First), 10)
		if r.Last != r.First {
			b = strconv.AppendUint(append(b, '-'), uint64(r.Last), 10)
		}
	}
	return b
}

// appendDest is Target.Dest likewise.
func appendDest(b []byte, t *fairlead.Target) []byte {
	if t.Unix != "" {
		return appendWord(b, "unix:"+t.Unix)
	}
	if strings.IndexByte(t.Host, ':') >= 0 {
		b = append(append(append(b, '['), t.Host...), ']')
	} else {
		b = append(b, t.Host...)
	}
	if len(t.Ports) == 0 {
		return b
	}
	return appendPorts(append(b, ':'), t.Ports)
}
