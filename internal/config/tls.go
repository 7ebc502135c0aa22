package config

import (
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"fairlead"
)

// certField is "tls-cert FILE", each with the "tls-key FILE" behind it.
type certField struct{}

func (certField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok || !p.notEmpty(t) {
		return false
	}
	f.Policy.TLS.Certs = append(f.Policy.TLS.Certs, fairlead.Certificate{Cert: t.text})
	return true
}

func (certField) said(f *fairlead.Forward) bool   { return len(f.Policy.TLS.Certs) > 0 }
func (certField) copy(to, from *fairlead.Forward) { to.Policy.TLS.Certs = from.Policy.TLS.Certs }

func (certField) print(b []byte, word string, f *fairlead.Forward) []byte {
	for _, c := range f.Policy.TLS.Certs {
		b = appendPair(b, word, c.Cert)
		if c.Key != "" {
			b = appendPair(b, "tls-key", c.Key)
		}
	}
	return b
}

// certKeyField is "tls-key FILE", of the certificate before it.
type certKeyField struct{}

func (certKeyField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok || !p.notEmpty(t) {
		return false
	}
	n := len(f.Policy.TLS.Certs)
	if n == 0 {
		p.bad(fairlead.CodeSyntax, word, "\"tls-key\" stands behind its tls-cert").hint("tls-cert FILE tls-key %s", t.text)
		return false
	}
	c := &f.Policy.TLS.Certs[n-1]
	if c.Key != "" {
		p.bad(fairlead.CodeTwice, word, "the certificate %s has a key already", shown(c.Cert))
		return false
	}
	c.Key = t.text
	return true
}

func (certKeyField) said(*fairlead.Forward) bool                          { return false }
func (certKeyField) copy(_, _ *fairlead.Forward)                          {}
func (certKeyField) print(b []byte, _ string, _ *fairlead.Forward) []byte { return b }

// textField is a value that is a single word, of a form that check knows.
type textField struct {
	at    func(*fairlead.Forward) *string
	check func(string) (what, form string) // "" when it is right; nil: anything
}

func (x textField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	t, ok := p.value(word, m.Value)
	if !ok || !p.notEmpty(t) {
		return false
	}
	if x.check != nil {
		if what, form := x.check(t.text); what != "" {
			p.badValue(t, what, form)
			return false
		}
	}
	*x.at(f) = t.text
	return true
}

func (x textField) said(f *fairlead.Forward) bool   { return *x.at(f) != "" }
func (x textField) copy(to, from *fairlead.Forward) { *x.at(to) = *x.at(from) }

func (x textField) print(b []byte, word string, f *fairlead.Forward) []byte {
	return appendPair(b, word, *x.at(f))
}

// textsField is words with commas between, or each behind its own modifier.
type textsField struct {
	at    func(*fairlead.Forward) *[]string
	check func(string) (what, form string)
	each  bool // printed each behind its own modifier
}

func (x textsField) parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool {
	for {
		t, ok := p.value(word, m.Value)
		if !ok {
			return false
		}
		at := 0
		for s := range strings.SplitSeq(t.text, ",") {
			part := t.part(at, len(s))
			at += len(s) + 1
			if what, form := x.check(s); what != "" {
				p.badValue(part, what, form)
				return false
			}
			if slices.Contains(*x.at(f), s) {
				p.bad(fairlead.CodeTwice, part, "%s is said twice", shown(s))
				return false
			}
			*x.at(f) = append(*x.at(f), s)
		}
		if !p.comma() {
			return true
		}
	}
}

func (x textsField) said(f *fairlead.Forward) bool   { return len(*x.at(f)) > 0 }
func (x textsField) copy(to, from *fairlead.Forward) { *x.at(to) = *x.at(from) }

func (x textsField) print(b []byte, word string, f *fairlead.Forward) []byte {
	for i, s := range *x.at(f) {
		if i > 0 && !x.each {
			b = append(append(b, ','), s...)
			continue
		}
		b = append(append(append(append(b, ' '), word...), ' '), s...)
	}
	return b
}

// targetTLSField is "target-tls", with "verify" where nothing follows.
type targetTLSField struct{}

func (targetTLSField) parse(p *parser, m *Modifier, _ token, f *fairlead.Forward) bool {
	f.Policy.TLS.Target = fairlead.TargetVerify
	if p.i < len(p.toks) && !p.toks[p.i].first && slices.Contains(m.Choices, p.toks[p.i].text) {
		f.Policy.TLS.Target = p.toks[p.i].text
		p.i++
	}
	return true
}

func (targetTLSField) said(f *fairlead.Forward) bool   { return f.Policy.TLS.Target != "" }
func (targetTLSField) copy(to, from *fairlead.Forward) { to.Policy.TLS.Target = from.Policy.TLS.Target }

func (targetTLSField) print(b []byte, word string, f *fairlead.Forward) []byte {
	if f.Policy.TLS.Target == fairlead.TargetVerify {
		return append(append(b, ' '), word...)
	}
	return appendPair(b, word, f.Policy.TLS.Target)
}

// isALPN is what a protocol's identifier may be: RFC 7301 allows any bytes, the
// registered ones look like this.
func isALPN(s string) (what, form string) {
	for i := range len(s) {
		if c := s[i]; !letter(c) && !digit(c) && strings.IndexByte("./_-+:", c) < 0 {
			return "the name of a protocol", "h2,http/1.1"
		}
	}
	if s == "" || len(s) > 255 {
		return "the name of a protocol", "h2,http/1.1"
	}
	return "", ""
}

func isACMEName(s string) (what, form string) {
	switch {
	case strings.HasPrefix(s, "*."):
		return "a name to get a certificate for", "a name for all others needs a challenge over DNS, which is not supported"
	case !hostName(s) || !strings.Contains(s, ".") || s != strings.ToLower(s):
		return "a name to get a certificate for", "www.example.net"
	}
	return "", ""
}

func isServerName(s string) (what, form string) {
	if _, err := netip.ParseAddr(s); err != nil && !hostName(s) {
		return "the name of a server", "db.example.net"
	}
	return "", ""
}

func isHTTPS(s string) (what, form string) {
	if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
		return "the address of an ACME directory", "https://acme.example.net/directory"
	}
	return "", ""
}

func isMail(s string) (what, form string) {
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s {
		return "a mail address", "ops@example.net"
	}
	return "", ""
}

// secured notes words about TLS that say nothing without another one.
func (p *parser) secured(f *fairlead.Forward) {
	t := &f.Policy.TLS
	words := []struct {
		word  string
		said  bool
		needs string
		has   bool
	}{
		{"tls-client-ca", t.ClientCA != "", "tls-cert FILE", t.Terminates()},
		{"tls-alpn", len(t.ALPN) > 0, "tls-cert FILE", t.Terminates()},
		{"acme-directory", t.ACMEDirectory != "", "tls-acme NAME", len(t.ACME) > 0},
		{"acme-email", t.ACMEEmail != "", "tls-acme NAME", len(t.ACME) > 0},
		{"acme-ca", t.ACMECA != "", "tls-acme NAME", len(t.ACME) > 0},
		{"target-name", t.TargetName != "", "target-tls", t.Originates()},
		{"target-ca", t.TargetCA != "", "target-tls", t.Originates()},
		{"target-cert", t.TargetCert != "", "target-tls", t.Originates()},
		{"target-key", t.TargetKey != "", "target-cert FILE", t.TargetCert != ""},
	}
	for _, w := range words {
		if w.said && !w.has && p.saidWord(w.word) {
			p.bad(fairlead.CodeIncomplete, p.end(), "%s says nothing without %q", w.word, w.needs).hint("%s", w.needs)
			return
		}
	}
	if t.Target == fairlead.TargetInsecure && t.TargetCA != "" && p.saidWord("target-ca") {
		p.bad(fairlead.CodeBadValue, p.end(), "target-tls insecure asks for no proof, and target-ca says whose").hint("target-tls verify")
	}
}
