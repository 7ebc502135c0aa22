package config

import (
	"net/netip"
	"strings"

	"fairlead"
)

// targets reads what follows "to": targets with their conditions, separated by
// commas.
func (p *parser) targets(to token, f *fairlead.Forward) {
	switch {
	case p.kind.target == no:
		p.bad(fairlead.CodeWrongKind, to, "%s has no target", p.kind.Kind).hint("%s %s", p.kind.Kind, p.kind.Syntax)
		p.skip()
		return
	case len(f.To) > 0:
		p.bad(fairlead.CodeTwice, to, "\"to\" is said twice").hint("several targets are separated by commas")
		p.skip()
		return
	}
	if len(f.Policy.Allow) > 0 {
		p.bad(fairlead.CodeSyntax, to, "\"from\" stands behind its target").hint("to TARGET from CIDR")
		p.skip()
		return
	}
	last := to
	for {
		t, ok := p.peek()
		if !ok || t.kind != tokenWord {
			at := last
			at.off, at.end = last.end, last.end+1
			p.bad(fairlead.CodeIncomplete, at, "a target is missing").hint("to HOST:PORT")
			p.skip()
			return
		}
		p.i++
		if !p.dests(t, f) {
			p.skip()
			return
		}
		for p.targetWord() {
			p.modifier(p.toks[p.i], f)
		}
		if p.i >= len(p.toks) || p.toks[p.i].kind != tokenComma {
			break
		}
		last = p.toks[p.i]
		p.i++
	}
	if len(f.To) > 1 && !p.kind.many {
		p.bad(fairlead.CodeSyntax, to, "%s has one target, not %d", p.kind.Kind, len(f.To))
	}
}

// dests reads the targets of one word: "a:80,b:80" are two, "a:80,443" is one.
func (p *parser) dests(t token, f *fairlead.Forward) bool {
	text := t.text
	for at := 0; ; {
		rest := text[at:]
		n := len(rest)
		if !strings.HasPrefix(rest, "unix:") {
			n = destEnd(rest)
		}
		var target fairlead.Target
		if !p.dest(t.part(at, n), rest[:n], f, &target) {
			return false
		}
		f.To = append(f.To, target)
		at += n + 1
		if at > len(text) {
			return true
		}
	}
}

// destEnd is where the first target of a word ends: at a comma that is not
// followed by another port.
func destEnd(text string) int {
	colon := false
	for i := range len(text) {
		switch text[i] {
		case ']':
			colon = false
		case ':':
			colon = true
		case ',':
			next := text[i+1:]
			if j := strings.IndexByte(next, ','); j >= 0 {
				next = next[:j]
			}
			if a, b, ok := strings.Cut(next, "-"); ok && isNumber(a) && isNumber(b) {
				next = a
			}
			if !colon || !isPortWord(next) && !isNumber(next) {
				return i
			}
		}
	}
	return len(text)
}

// dest reads one target.
func (p *parser) dest(t token, text string, f *fairlead.Forward, target *fairlead.Target) bool {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		target.Unix = path
		return p.unixPath(t, path)
	}
	host, ports, colon, ok := p.split(t, text, false)
	if !ok || !p.targetHost(t.part(0, len(host)), host, ports, target) {
		return false
	}
	if colon {
		if target.Ports, ok = p.ports(t.part(len(text)-len(ports), len(ports)), ports); !ok {
			return false
		}
	}
	if !p.kind.ports {
		if colon {
			p.bad(fairlead.CodeSyntax, t.part(len(host), len(text)-len(host)), "%s has no ports", p.kind.Kind).hint("%s %s", p.kind.Kind, p.kind.Syntax)
			return false
		}
		return true
	}
	if f.At.Unix != "" && len(target.Ports) == 0 && !target.Service() {
		p.bad(fairlead.CodeIncomplete, t, "%s needs a port, since a unix socket has none to take over", shown(text)).hint("%s:PORT", text)
		return false
	}
	return p.rangeFits(t, f, target)
}

// rangeFits checks that ports lead to as many ports, or to one.
func (p *parser) rangeFits(t token, f *fairlead.Forward, target *fairlead.Target) bool {
	from, to := f.At.Ports.Len(), target.Ports.Len()
	if to <= 1 || to == from || f.At.Ports == nil && f.At.Unix == "" {
		return true
	}
	from = max(from, 1)
	p.bad(fairlead.CodeRangeMismatch, t, "%s cannot lead to %s", portCount(from), portCount(to)).
		hint("as many ports, or a single one")
	return false
}

func portCount(n int) string {
	if n == 1 {
		return "one port"
	}
	return itoa(n) + " ports"
}

func (p *parser) targetHost(t token, host, ports string, target *fairlead.Target) bool {
	if host == "" {
		p.bad(fairlead.CodeIncomplete, t, "a target needs a host").hint("localhost:%s", ports)
		return false
	}
	if host[0] == '[' || digit(host[0]) {
		if addr, ok := parseAddr(host); ok {
			target.Host = addr.String()
			return true
		}
		if ports == "" && isPortWord(host) {
			p.bad(fairlead.CodeIncomplete, t, "a target needs a host").hint("localhost:%s", host)
			return false
		}
		if host[0] == '[' || looksLikeIPv4(host) {
			p.bad(fairlead.CodeBadValue, t, "%s is not an address", shown(host))
			return false
		}
	}
	if !hostName(host) {
		m := p.bad(fairlead.CodeBadValue, t, "%s is not the name of a host", shown(host))
		if _, err := netip.ParsePrefix(host); err == nil {
			m.hint("from %s", host)
		}
		return false
	}
	target.Host = host
	return true
}

// hostName reports whether a word can be looked up: labels of letters, digits,
// dashes and underscores, at most 253 bytes (RFC 1123 section 2.1, with the
// underscore of RFC 8552 and of many a LAN).
func hostName(host string) bool {
	if len(host) > 253 {
		return false
	}
	label := 0
	for i := range len(host) {
		c := host[i]
		switch {
		case letter(c) || digit(c) || c == '_' || c == '-' && label > 0:
			label++
		case c == '.' && label > 0:
			label = 0
		default:
			return false
		}
		if label > 63 {
			return false
		}
	}
	return host != "" && !looksLikeIPv4(strings.TrimSuffix(host, "."))
}

// loop notes a forward whose target is its own listener.
func (p *parser) loop(f *fairlead.Forward) {
	if !p.kind.here || f.Via != "" {
		return
	}
	for i := range f.To {
		t := &f.To[i]
		if f.At.Unix != "" || t.Unix != "" {
			if f.At.Unix == t.Unix {
				p.bad(fairlead.CodeLoop, p.at, "the forward leads to itself: unix:%s is where it listens", t.Unix)
				return
			}
			continue
		}
		ports := t.Ports
		if len(ports) == 0 {
			ports = f.At.Ports
		}
		if n := common(f.At.Ports, ports); n != 0 && reaches(&f.At, t.Host, f.Kind) {
			host := t.Host
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			p.bad(fairlead.CodeLoop, p.at, "the forward leads to itself: %s:%d is where it listens", host, n)
			return
		}
	}
}

// reaches reports whether a target's host is certainly an address at which
// the spot listens.
func reaches(s *fairlead.Spot, host string, kind fairlead.Kind) bool {
	addr, err := netip.ParseAddr(host)
	if kind == fairlead.KindNAT {
		return err == nil && s.Addr == addr
	}
	local := host == "self" || host == "localhost"
	switch {
	case s.Where != "":
		return false
	case s.Any || s.Addr.IsValid() && s.Addr.IsUnspecified() && s.Addr.Is6():
		return local || err == nil && (addr.IsLoopback() || addr.IsUnspecified())
	case s.Addr.IsValid() && s.Addr.IsUnspecified():
		return local || err == nil && addr.Is4() && (addr.IsLoopback() || addr.IsUnspecified())
	case s.Addr.IsValid():
		return err == nil && addr == s.Addr || local && (s.Addr == ip4Loopback || s.Addr == ip6Loopback)
	}
	return local || err == nil && (addr == ip4Loopback || addr == ip6Loopback)
}

var (
	ip4Loopback = netip.MustParseAddr("127.0.0.1")
	ip6Loopback = netip.MustParseAddr("::1")
)

// common is a port that both lists have, 0 without one.
func common(a, b fairlead.PortList) uint16 {
	for _, x := range a {
		for _, y := range b {
			if x.First <= y.Last && y.First <= x.Last {
				return max(x.First, y.First)
			}
		}
	}
	return 0
}
