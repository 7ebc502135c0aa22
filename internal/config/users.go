package config

import (
	"strings"

	"fairlead"
)

// secretWord is what proves a user of each kind, and how its value is called.
func secretWord(kind fairlead.Kind) (word, value string) {
	switch kind {
	case fairlead.KindSSHD:
		return "keys", "FILE"
	case fairlead.KindTunnel:
		return "key", "KEY"
	}
	return "password", "FILE"
}

// userField is "user NAME password FILE", "user NAME keys FILE" or "agent
// NAME key KEY".
type userField struct{ agent bool }

func (u userField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	secret, form := secretWord(f.Kind)
	name, ok := p.value(word, "NAME "+secret+" "+form)
	if !ok {
		return false
	}
	if len(name.text) > 255 || name.text == "" || strings.ContainsAny(name.text, ":/") {
		p.badValue(name, "a user's name", "at most 255 bytes without : and /")
		return false
	}
	if p.users[name.text] {
		p.bad(fairlead.CodeTwice, name, "%s %s is said twice", word.text, shown(name.text))
		return false
	}
	t, ok := p.value(name, secret+" "+form)
	if !ok {
		return false
	}
	if !t.is(secret) {
		p.bad(fairlead.CodeIncomplete, t, "%s %s needs a %s", word.text, shown(name.text), secret).
			hint("%s %s %s %s", word.text, name.text, secret, form)
		return false
	}
	value, ok := p.value(t, form)
	if !ok || !p.notEmpty(value) {
		return false
	}
	if p.users == nil {
		p.users = map[string]bool{}
	}
	p.users[name.text] = true
	f.Policy.Users = append(f.Policy.Users, fairlead.User{Agent: u.agent, Name: name.text, Secret: secret, Value: value.text})
	return true
}

func (u userField) said(f *fairlead.Forward) bool { return false }
func (u userField) copy(_, _ *fairlead.Forward)   {}

func (u userField) print(b []byte, _ string, _ *fairlead.Forward) []byte { return b }

// appendUsers prints all users with their grants, as a block.
func appendUsers(b []byte, users []fairlead.User) []byte {
	if len(users) == 0 {
		return b
	}
	b = append(b, " {"...)
	for _, u := range users {
		word := "user"
		if u.Agent {
			word = "agent"
		}
		b = appendPair(b, word, u.Name)
		b = appendPair(b, u.Secret, u.Value)
		verb := ""
		for _, g := range u.May {
			if g.Verb != verb {
				b = appendPair(b, "may", g.Verb)
				verb = g.Verb
			}
			b = appendWord(append(b, ' '), g.What)
		}
	}
	return append(b, " }"...)
}

// mayField is "may listen WHAT ..." or "may dial WHAT ...", of the user before
// it.
type mayField struct{}

func (mayField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	verb, ok := p.value(word, m.Value)
	if !ok {
		return false
	}
	if !verb.is("listen") && !verb.is("dial") {
		p.bad(fairlead.CodeBadValue, verb, "%s is nothing for may, which knows listen, dial", shown(verb.text)).meant(verb.text, m.Choices)
		return false
	}
	n := len(f.Policy.Users)
	if n == 0 {
		p.bad(fairlead.CodeSyntax, word, "\"may\" stands behind its user").hint("user NAME ... may %s", verb.text)
		return false
	}
	user := &f.Policy.Users[n-1]
	form := "PORTS[/udp]"
	if verb.text == "dial" {
		form = "HOST:PORTS"
	}
	for said := false; ; said = true {
		t, ok := p.peek()
		if ok && t.kind == tokenComma && said {
			p.i++
			continue
		}
		if said && (!ok || t.kind != tokenWord || t.first || !t.quoted && (t.text == "to" || byWord[t.text] != nil)) {
			return true
		}
		if t, ok = p.value(verb, form); !ok {
			return false
		}
		what, ok := p.grant(t, verb.text)
		if !ok {
			return false
		}
		user.May = append(user.May, fairlead.Grant{Verb: verb.text, What: what})
	}
}

// grant reads what may be listened at or dialed and writes it in one form.
func (p *parser) grant(t token, verb string) (string, bool) {
	text := t.text
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return text, p.unixPath(t, path)
	}
	network := ""
	// The last slash names a network unless it belongs to an address before
	// the ports, as in 10.0.0.0/8:22.
	if i := strings.LastIndexByte(text, '/'); i >= 0 && strings.IndexByte(text[i:], ':') < 0 {
		net, ok := p.network(t.part(i+1, len(text)-i-1), text[i+1:])
		if !ok {
			return "", false
		}
		if net != fairlead.TCP {
			network = "/" + net.String()
		}
		text = text[:i]
	}
	host, list := "", text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		host, list = text[:i], text[i+1:]
	} else if verb == "dial" {
		p.badValue(t, "something to dial", "10.0.0.0/8:22, NAME:PORT or *:443")
		return "", false
	}
	ports, ok := p.ports(t.part(len(text)-len(list), len(list)), list)
	if !ok {
		return "", false
	}
	if host == "" && list == text {
		return ports.String() + network, true
	}
	host, ok = grantHost(host, verb)
	if !ok {
		if verb == "dial" {
			p.badValue(t, "something to dial", "10.0.0.0/8:22, [2001:db8::]/32:22, NAME:PORT or *:443")
		} else {
			p.badValue(t, "something to listen at", "8000-8010, 127.0.0.1:80, *:80 or 51820/udp")
		}
		return "", false
	}
	return host + ":" + ports.String() + network, true
}

// grantHost writes the host of a grant in one form: a network or an address,
// of IPv6 in brackets, a name, or "*".
func grantHost(host, verb string) (string, bool) {
	if host == "*" || host == "localhost" {
		return host, true
	}
	if host == "" && verb == "listen" {
		return "*", true
	}
	if strings.HasPrefix(host, "[") != strings.Contains(host, "]") {
		return "", false
	}
	if x, ok := parsePrefix(host); ok && (x.Addr().Is4() || host[0] == '[') {
		if !x.IsSingleIP() && verb == "listen" {
			return "", false
		}
		if x.Addr().Is4() {
			return prefixText(x), true
		}
		if x.IsSingleIP() {
			return "[" + x.Addr().String() + "]", true
		}
		return "[" + x.Addr().String() + "]/" + itoa(x.Bits()), true
	}
	if verb == "dial" && hostName(strings.TrimPrefix(host, "*.")) {
		return host, true
	}
	return "", false
}

func (mayField) said(*fairlead.Forward) bool                          { return false }
func (mayField) copy(_, _ *fairlead.Forward)                          {}
func (mayField) print(b []byte, _ string, _ *fairlead.Forward) []byte { return b }
