package config

import (
	"slices"
	"strings"

	"fairlead"
)

// A PlaceHelp says how places of one type are declared.
type PlaceHelp struct {
	Type    string
	Address string   // how its address is written
	Options []Option // words with the form of their values
	Help    string   // one line without a full stop
}

var placeTypes = []PlaceHelp{
	{"ssh", "[USER@]HOST[:PORT]", []Option{{"key", "FILE"}, {"known-hosts", "FILE"}, {"via", "PLACE"}},
		"the far side of an SSH connection"},
	{"fairlead", "HOST:PORT{, HOST:PORT}", []Option{{"server-key", "KEY"}, {"key", "FILE"}, {"via", "PLACE"}},
		"the far side of our own tunnel"},
	{"router", "auto|ADDRESS", nil,
		"the router in front of this host: UPnP, NAT-PMP or PCP"},
	{"socks5", "[USER@]HOST[:PORT]", []Option{{"password", "FILE"}, {"via", "PLACE"}},
		"an upstream SOCKS 5 proxy"},
	{"socks4", "[USER@]HOST[:PORT]", []Option{{"via", "PLACE"}},
		"an upstream SOCKS 4 proxy"},
	{"http", "[USER@]HOST[:PORT]", []Option{{"password", "FILE"}, {"via", "PLACE"}},
		"an upstream HTTP proxy (CONNECT)"},
	{"https", "[USER@]HOST[:PORT]", []Option{{"password", "FILE"}, {"via", "PLACE"}},
		"an upstream HTTP proxy, spoken to over TLS"},
}

// PlaceTypes says how places of each type are declared.
func PlaceTypes() []PlaceHelp { return slices.Clone(placeTypes) }

var placeTypeWords = func() (words []string) {
	for _, t := range placeTypes {
		words = append(words, t.Type)
	}
	return words
}()

// place reads "place NAME TYPE ADDRESS [option ...]".
func (l *loader) place(p *parser) {
	word := p.toks[0]
	name, ok := p.value(word, "NAME TYPE ADDRESS")
	if !ok {
		return
	}
	kind, ok := p.value(name, "TYPE ADDRESS")
	if !ok {
		return
	}
	place := Place{Name: name.text, Type: kind.text}
	if !l.newPlace(p, name) {
		return
	}
	i := slices.IndexFunc(placeTypes, func(t PlaceHelp) bool { return t.Type == kind.text })
	if i < 0 {
		// The name is known all the same: its uses are not wrong as well.
		l.places[name.text] = l.pos(p.src, word.off)
		if l.list.full() {
			l.list.more++
			return
		}
		p.bad(fairlead.CodeBadValue, kind, "%s is no type of place, which are %s", shown(kind.text), strings.Join(placeTypeWords, ", ")).
			meant(kind.text, placeTypeWords)
		return
	}
	l.places[name.text] = l.pos(p.src, word.off)
	if place.To, ok = p.words(kind, placeTypes[i].Address); !ok {
		return
	}
	if len(place.To) > 1 && place.Type != "fairlead" {
		p.bad(fairlead.CodeSyntax, kind, "a place of type %s has one address, not %d", place.Type, len(place.To))
		return
	}
	for _, to := range place.To {
		if to == "" {
			p.bad(fairlead.CodeIncomplete, kind, "an address of the place is missing").hint("%s", placeTypes[i].Address)
			return
		}
	}
	if l.options(p, &placeTypes[i], &place) {
		place.Source = l.places[name.text]
		l.file.Places = append(l.file.Places, place)
	}
}

// newPlace checks the name of a place.
func (l *loader) newPlace(p *parser, t token) bool {
	name := t.text
	if !p.name(t, name) {
		return false
	}
	if name == "self" || name == "localhost" || name == "unix" {
		p.bad(fairlead.CodeBadName, t, "%q is a word of the grammar, not a name", name)
		return false
	}
	if at, twice := l.places[name]; twice {
		where := "line " + itoa(at.Line)
		if at.File != p.src.name {
			where = at.File + ":" + itoa(at.Line)
		}
		p.bad(fairlead.CodeTwice, t, "the place %q stands in %s already", name, where)
		return false
	}
	return true
}

func (l *loader) options(p *parser, help *PlaceHelp, place *Place) bool {
	for p.i < len(p.toks) {
		t := p.toks[p.i]
		p.i++
		if t.kind != tokenWord {
			p.i--
			return p.nothingElse()
		}
		i := slices.IndexFunc(help.Options, func(o Option) bool { return t.is(o.Word) })
		if i < 0 {
			if l.list.full() {
				l.list.more++
				return false
			}
			var words []string
			for _, o := range help.Options {
				words = append(words, o.Word)
			}
			m := p.bad(fairlead.CodeUnknownWord, t, "unknown option %s of a place of type %s", shown(t.text), help.Type).meant(t.text, words)
			if len(words) > 0 {
				m.note("note", "it knows %s", strings.Join(words, ", "))
			}
			return false
		}
		if place.Option(t.text) != "" {
			p.bad(fairlead.CodeTwice, t, "%q is said twice", t.text)
			return false
		}
		value, ok := p.value(t, help.Options[i].Value)
		if !ok || !p.notEmpty(value) {
			return false
		}
		if t.text == "via" {
			l.vias = append(l.vias, use{p.src, value})
		}
		place.Options = append(place.Options, Option{t.text, value.text})
	}
	return true
}

// checkPlaceLoops notes places that are reached over themselves.
func (l *loader) checkPlaceLoops() {
	at := make(map[string]*Place, len(l.file.Places))
	for i := range l.file.Places {
		at[l.file.Places[i].Name] = &l.file.Places[i]
	}
	walk := make(map[string]int, len(at)) // on which walk a place was seen first
	for i := range l.file.Places {
		for p := &l.file.Places[i]; p != nil; p = at[p.Option("via")] {
			if n := walk[p.Name]; n == i+1 {
				l.list.addProblem(fairlead.Problemf(fairlead.CodeLoop, "the place %q is reached over itself (%s)", p.Name, p.Source))
				break
			} else if n != 0 {
				break
			}
			walk[p.Name] = i + 1
		}
	}
}
