package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"fairlead"
)

// badValue notes a value that is not what the modifier wants.
func (p *parser) badValue(t token, what string, form string) mark {
	return p.bad(fairlead.CodeBadValue, t, "%s is not %s", shown(t.text), what).hint("%s", form)
}

// A flag is a modifier without value.
type flag func(*fairlead.Forward) *bool

func (at flag) parse(_ *parser, _ *Modifier, _ token, f *fairlead.Forward) bool {
	*at(f) = true
	return true
}

func (at flag) said(f *fairlead.Forward) bool   { return *at(f) }
func (at flag) copy(to, from *fairlead.Forward) { *at(to) = *at(from) }

func (at flag) print(b []byte, word string, f *fairlead.Forward) []byte {
	return append(append(b, ' '), word...)
}

// A choice is one word of a closed set.
type choice func(*fairlead.Forward) *string

func (at choice) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, strings.Join(m.Choices, "|"))
	if !ok {
		return false
	}
	return p.oneOf(t, m, at(f))
}

// oneOf reads a word of m's choices.
func (p *parser) oneOf(t token, m *Modifier, value *string) bool {
	if slices.Contains(m.Choices, t.text) {
		*value = t.text
		return true
	}
	p.bad(fairlead.CodeBadValue, t, "%s is nothing for %s, which knows %s", shown(t.text), m.Word, strings.Join(m.Choices, ", ")).
		meant(t.text, m.Choices)
	return false
}

func (at choice) said(f *fairlead.Forward) bool   { return *at(f) != "" }
func (at choice) copy(to, from *fairlead.Forward) { *at(to) = *at(from) }

func (at choice) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, *at(f))
}

func appendPair(b []byte, word, value string) []byte {
	b = append(append(b, ' '), word...)
	return appendWord(append(b, ' '), value)
}

// A count is a whole number from 1 on, with a unit behind it if it has one, or
// the word for none where that can be said.
type count struct {
	at   func(*fairlead.Forward) *int
	unit string
	none int // what is set for "none"; 0: it cannot be said
}

// maxCount is far more than any machine has of anything that is counted here.
const maxCount = 1 << 30

func (c count) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	if c.none != 0 && t.text == "none" {
		*c.at(f) = c.none
		return true
	}
	digits, ok := strings.CutSuffix(t.text, c.unit)
	if !ok && isNumber(t.text) {
		p.badValue(t, "a rate", "did you mean "+quoted(t.text+c.unit)+"?")
		return false
	}
	n, err := strconv.Atoi(digits)
	if c.none != 0 && err == nil && n == 0 {
		p.badValue(t, "a count", `did you mean "none"?`)
		return false
	}
	if err != nil || n < 1 || n > maxCount || !isNumber(digits) {
		p.badValue(t, "a count", "a whole number from 1 on"+c.tail())
		return false
	}
	*c.at(f) = n
	return true
}

func (c count) tail() string {
	if c.unit == "" {
		return ""
	}
	return ", as in 100" + c.unit
}

func (c count) said(f *fairlead.Forward) bool   { return *c.at(f) != 0 }
func (c count) copy(to, from *fairlead.Forward) { *c.at(to) = *c.at(from) }

func (c count) print(b []byte, word string, f *fairlead.Forward) []byte {
	b = append(append(append(b, ' '), word...), ' ')
	if n := *c.at(f); n != c.none {
		return append(strconv.AppendInt(b, int64(n), 10), c.unit...)
	}
	return append(b, "none"...)
}

// A duration is a time above zero, or "off" where that can be said.
type duration struct {
	at  func(*fairlead.Forward) *time.Duration
	off bool
}

func (d duration) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	if d.off && t.text == "off" {
		*d.at(f) = fairlead.Off
		return true
	}
	return p.duration(t, d.off, d.at(f))
}

// duration reads a time above zero.
func (p *parser) duration(t token, off bool, value *time.Duration) bool {
	if v, ok := parseDuration(t.text); ok {
		*value = v
		return true
	}
	form := "write it as 500ms, 2s, 5m, 1h or 2d"
	switch {
	case isNumber(t.text) && strings.Trim(t.text, "0") != "" && len(t.text) < 9:
		form = "did you mean " + t.text + "s?"
	case off && (t.text == "no" || t.text == "none" || t.text == "never" || t.text == "0s" || isNumber(t.text)):
		form = `did you mean "off"?`
	}
	p.badValue(t, "a duration", form)
	return false
}

func (d duration) said(f *fairlead.Forward) bool   { return *d.at(f) != 0 }
func (d duration) copy(to, from *fairlead.Forward) { *d.at(to) = *d.at(from) }

func (d duration) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendDuration(append(append(append(b, ' '), word...), ' '), *d.at(f))
}

// prefixes are networks, each behind its own word or with commas between.
type prefixes func(*fairlead.Forward) *[]netip.Prefix

func (at prefixes) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	for {
		t, ok := p.value(word, m.Value)
		if !ok {
			return false
		}
		x, ok := p.prefix(t)
		if !ok {
			return false
		}
		*at(f) = append(*at(f), x)
		if !p.comma() {
			return true
		}
	}
}

func (p *parser) prefix(t token) (netip.Prefix, bool) {
	x, ok := parsePrefix(t.text)
	if !ok {
		p.badValue(t, "a network", "10.0.0.0/8, 2001:db8::/32, or one address")
	}
	return x, ok
}

func (at prefixes) said(f *fairlead.Forward) bool   { return len(*at(f)) > 0 }
func (at prefixes) copy(to, from *fairlead.Forward) { *at(to) = *at(from) }

func (at prefixes) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPrefixes(b, word, *at(f))
}

func appendPrefixes(b []byte, word string, list []netip.Prefix) []byte {
	for _, x := range list {
		b = appendPrefix(append(append(append(b, ' '), word...), ' '), x)
	}
	return b
}

// fromField is "from": of the target before it, or of the forward where the
// kind has no target. Commas do not continue it, they begin another target.
type fromField struct{}

func (fromField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	x, ok := p.prefix(t)
	if !ok {
		return false
	}
	list := &f.Policy.Allow
	if n := len(f.To); n > 0 {
		list = &f.To[n-1].From
	} else if p.kind != nil && p.kind.target == must && f.Policy.Front == "" {
		p.bad(fairlead.CodeSyntax, word, "\"from\" stands behind its target").hint("to TARGET from %s", t.text)
		return false
	}
	*list = append(*list, x)
	if next, ok := p.peek(); ok && next.kind == tokenComma && p.i+1 < len(p.toks) {
		if t := p.toks[p.i+1]; t.kind == tokenWord {
			if _, err := netip.ParsePrefix(t.text); err == nil {
				p.bad(fairlead.CodeSyntax, t, "a comma begins another target, and %s is none", shown(t.text)).hint("from %s", t.text)
				return false
			}
		}
	}
	return true
}

func (fromField) said(f *fairlead.Forward) bool   { return len(f.Policy.Allow) > 0 }
func (fromField) copy(to, from *fairlead.Forward) { to.Policy.Allow = from.Policy.Allow }

func (fromField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPrefixes(b, word, f.Policy.Allow)
}

// viaField is a place: a declared one in a file, on a command line a host of
// its own as well.
type viaField struct{}

func (viaField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	if !p.command && !p.placeWord(t.text) {
		p.bad(fairlead.CodeUnknownPlace, t, "%s is not the name of a place", shown(t.text)).
			fix("declare it", "place NAME ssh "+t.text)
		return false
	}
	f.Via, p.via = t.text, t
	return true
}

func (viaField) said(f *fairlead.Forward) bool   { return f.Via != "" }
func (viaField) copy(to, from *fairlead.Forward) { to.Via = from.Via }

func (viaField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, f.Via)
}

// opensField is the ports of a trigger: "113/tcp, 5000-5003/udp".
type opensField struct{}

func (opensField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	for {
		t, ok := p.value(word, m.Value)
		if !ok {
			return false
		}
		// "113/tcp,5000-5003/udp" is two groups in one word.
		text := t.text
		for at := 0; at <= len(text); {
			rest := text[at:]
			n := len(rest)
			if i := strings.IndexByte(rest, '/'); i >= 0 {
				if j := strings.IndexByte(rest[i:], ','); j >= 0 {
					n = i + j
				}
			}
			group := fairlead.PortGroup{Net: fairlead.TCP}
			list := rest[:n]
			if i := strings.IndexByte(list, '/'); i >= 0 {
				if group.Net, ok = p.network(t.part(at+i+1, n-i-1), list[i+1:]); !ok {
					return false
				}
				list = list[:i]
			}
			if group.Ports, ok = p.ports(t.part(at, len(list)), list); !ok {
				return false
			}
			f.Opens = append(f.Opens, group)
			at += n + 1
		}
		if !p.comma() {
			return true
		}
	}
}

func (opensField) said(f *fairlead.Forward) bool   { return len(f.Opens) > 0 }
func (opensField) copy(to, from *fairlead.Forward) { to.Opens = from.Opens }

func (opensField) print(b []byte, word string, f *fairlead.Forward) []byte {
	b = append(append(append(b, ' '), word...), ' ')
	for i, g := range f.Opens {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, g.String()...)
	}
	return b
}

// onField is where a kind serves: an interface, an address, or for a server
// its whole spot.
type onField struct{}

func (onField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	if p.kind.on == must && p.kind.ports {
		p.at = t
		return p.spot(t, &f.At, true)
	}
	if f.At.Any || f.At.Addr.IsValid() || f.At.Where != "" || f.At.Unix != "" {
		p.bad(fairlead.CodeTwice, t, "the interface is said twice")
		return false
	}
	p.at = t
	if t.text == "localhost" || t.text == "*" {
		p.badValue(t, "an interface or an address", p.kind.Syntax)
		return false
	}
	return p.spotHost(t, t.text, &f.At)
}

// said is only whether it stands among the modifiers: the kinds that serve on
// a spot have it right behind the kind.
func (onField) said(f *fairlead.Forward) bool {
	return f.Kind == fairlead.KindTrigger && f.At.Host() != ""
}

func (onField) copy(to, from *fairlead.Forward) {}

func (onField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return append(append(append(append(b, ' '), word...), ' '), f.At.Host()...)
}

// versionField is the PROXY protocol's version.
type versionField struct{}

func (versionField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	switch t.text {
	case "v1":
		f.Policy.ProxyProtocol = 1
	case "v2":
		f.Policy.ProxyProtocol = 2
	default:
		p.bad(fairlead.CodeBadValue, t, "%s is nothing for %s, which knows v1, v2", shown(t.text), m.Word).meant(t.text, m.Choices)
		return false
	}
	return true
}

func (versionField) said(f *fairlead.Forward) bool { return f.Policy.ProxyProtocol != 0 }
func (versionField) copy(to, from *fairlead.Forward) {
	to.Policy.ProxyProtocol = from.Policy.ProxyProtocol
}

func (versionField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, "v"+itoa(f.Policy.ProxyProtocol))
}

// sourceField is "keep", or addresses and interfaces with commas between.
type sourceField struct{}

func (sourceField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	var words []string
	for {
		t, ok := p.value(word, m.Value)
		if !ok {
			return false
		}
		for at := 0; at <= len(t.text); {
			s, _, _ := strings.Cut(t.text[at:], ",")
			part := t.part(at, len(s))
			at += len(s) + 1
			if a, ok := parseSource(s); ok {
				words = append(words, a)
				continue
			}
			if s == "" || looksLikeIPv4(s) || strings.ContainsAny(s, ":/[]") || !p.placeWord(s) {
				p.badValue(part, "an address or an interface", "ADDRESS, INTERFACE or keep")
				return false
			}
			words = append(words, s)
		}
		if !p.comma() {
			break
		}
	}
	if len(words) > 1 && slices.Contains(words, "keep") {
		p.bad(fairlead.CodeBadValue, word, "source is kept or it is chosen, not both")
		return false
	}
	f.Policy.Source = strings.Join(words, ",")
	return true
}

// parseSource is an address as it is printed, in brackets or without.
func parseSource(s string) (string, bool) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !zoneWord(a.Zone()) {
		return "", false
	}
	return a.String(), true
}

func (sourceField) said(f *fairlead.Forward) bool   { return f.Policy.Source != "" }
func (sourceField) copy(to, from *fairlead.Forward) { to.Policy.Source = from.Policy.Source }

func (sourceField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return append(append(append(append(b, ' '), word...), ' '), f.Policy.Source...)
}

// markField is a firewall mark, decimal or as 0x1f.
type markField struct{}

func (markField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	base, digits := 10, t.text
	if s, ok := strings.CutPrefix(t.text, "0x"); ok {
		base, digits = 16, s
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n == 0 || base == 10 && digits[0] == '0' {
		p.badValue(t, "a mark", "a number from 1 to 4294967295, or 0x1f")
		return false
	}
	f.Policy.Mark = uint32(n)
	return true
}

func (markField) said(f *fairlead.Forward) bool   { return f.Policy.Mark != 0 }
func (markField) copy(to, from *fairlead.Forward) { to.Policy.Mark = from.Policy.Mark }

func (markField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return strconv.AppendUint(append(append(append(b, ' '), word...), ' '), uint64(f.Policy.Mark), 10)
}

// modeField is who may use a unix socket, in octal: "mode 660".
type modeField struct{}

func (modeField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	n, err := strconv.ParseUint(t.text, 8, 32)
	if err != nil || n == 0 || n > 0o777 {
		p.badValue(t, "a mode", "octal digits as 600, 660 or 666")
		return false
	}
	f.Policy.SocketMode = uint32(n)
	return true
}

func (modeField) said(f *fairlead.Forward) bool   { return f.Policy.SocketMode != 0 }
func (modeField) copy(to, from *fairlead.Forward) { to.Policy.SocketMode = from.Policy.SocketMode }

func (modeField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return strconv.AppendUint(append(append(append(b, ' '), word...), ' '), uint64(f.Policy.SocketMode), 8)
}

// pacField is "pac" or "pac kill-switch".
type pacField struct{}

func (pacField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	f.Policy.PAC = "on"
	if p.i < len(p.toks) && p.toks[p.i].is("kill-switch") {
		f.Policy.PAC = "kill-switch"
		p.i++
	}
	return true
}

func (pacField) said(f *fairlead.Forward) bool   { return f.Policy.PAC != "" }
func (pacField) copy(to, from *fairlead.Forward) { to.Policy.PAC = from.Policy.PAC }

func (pacField) print(b []byte, word string, f *fairlead.Forward) []byte {
	b = append(append(b, ' '), word...)
	if f.Policy.PAC == "kill-switch" {
		b = append(b, " kill-switch"...)
	}
	return b
}

// keyField is the file of a relay's own key.
type keyField struct{}

func (keyField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok || !p.notEmpty(t) {
		return false
	}
	f.Policy.KeyFile = t.text
	return true
}

func (p *parser) notEmpty(t token) bool {
	if t.text == "" {
		p.bad(fairlead.CodeBadValue, t, "a value is empty")
	}
	return t.text != ""
}

func (keyField) said(f *fairlead.Forward) bool   { return f.Policy.KeyFile != "" }
func (keyField) copy(to, from *fairlead.Forward) { to.Policy.KeyFile = from.Policy.KeyFile }

func (keyField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, f.Policy.KeyFile)
}
