package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"fairlead"
)

// networkWords are the networks as written behind a slash.
var networkWords = []string{"tcp", "udp", "tcp+udp"}

// listen reads the spot behind a kind.
func (p *parser) listen(kind token, f *fairlead.Forward) {
	t, ok := p.peek()
	if !ok || t.kind != tokenWord || t.is("to") || !t.quoted && byWord[t.text] != nil {
		at := kind
		at.off, at.end = kind.end, kind.end+1
		p.bad(fairlead.CodeIncomplete, at, "%s does not say where to listen", kind.text).hint("%s %s", p.kind.Kind, p.kind.Syntax)
		return
	}
	p.i++
	// "80, 443" is one list.
	for p.i+1 < len(p.toks) && p.toks[p.i].kind == tokenComma && p.toks[p.i+1].kind == tokenWord && !p.toks[p.i+1].first {
		next := p.toks[p.i+1]
		t.text, t.end = t.text+","+next.text, next.end
		p.i += 2
	}
	p.at = t
	p.spot(t, &f.At, p.kind.ports)
}

// spot reads one spot, with ports or, where the kind has none, a bare word.
func (p *parser) spot(t token, s *fairlead.Spot, ports bool) bool {
	s.Net = fairlead.TCP
	text := t.text
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		s.Unix = path
		return p.unixPath(t, path)
	}
	if !ports {
		return p.spotHost(t, text, s)
	}
	if i := strings.LastIndexByte(text, '/'); i >= 0 {
		net, ok := p.network(t.part(i+1, len(text)-i-1), text[i+1:])
		if !ok {
			return false
		}
		s.Net = net
		text = text[:i]
	}
	helps, cut := p.kind != nil && p.kind.bit == isHelper, 0
	if where, group, rest, ok := cutGroup(text); helps && ok {
		if !group.IsMulticast() {
			p.bad(fairlead.CodeBadValue, t.part(len(where)+1, len(text)-len(where)-len(rest)-2), "%s is no multicast group", group).
				hint("239.0.0.0 to 239.255.255.255; broadcasts of an interface: %s:%s", where, rest)
			return false
		}
		s.Group = group
		cut = len(text)
		text = where + ":" + rest
		cut -= len(text)
	}
	host, list, colon, ok := p.split(t, text, true)
	if !ok {
		return false
	}
	if colon && host == "" {
		s.Any = true
	} else if colon && !p.spotHost(t.part(0, len(host)), host, s) {
		return false
	}
	if list == "" {
		at := t.part(len(text), 0)
		p.bad(fairlead.CodeBadPort, at, "a port is missing").hint("%s:PORT", strings.TrimSuffix(text, ":"))
		return false
	}
	if helps && list == defaultSet {
		s.Ports = slices.Clone(defaultPorts)
		return true
	}
	s.Ports, ok = p.ports(t.part(cut+len(text)-len(list), len(list)), list)
	return ok
}

// defaultSet stands for the ports that routers with a helper address pass on
// unless they are told which: time, TACACS, DNS, BOOTP and DHCP, TFTP, NetBIOS.
const defaultSet = "default-set"

var defaultPorts = fairlead.PortList{{First: 37, Last: 37}, {First: 49, Last: 49}, {First: 53, Last: 53}, {First: 67, Last: 69}, {First: 137, Last: 138}}

// cutGroup parts "lan:239.1.2.3:5000" and "lan:[ff05::5]:5000". Its parts are
// checked like those of any spot.
func cutGroup(text string) (where string, group netip.Addr, ports string, ok bool) {
	where, rest, _ := strings.Cut(text, ":")
	i := strings.LastIndexByte(rest, ':')
	if i < 1 || where == "" || isNumber(where[:1]) || where[0] == '[' {
		return "", netip.Addr{}, "", false
	}
	group, ok = parseAddr(rest[:i])
	return where, group, rest[i+1:], ok && group.Zone() == ""
}

// split parts a word at the colon before its ports. An address of IPv6 has to
// stand in brackets, or nobody can tell where it ends.
func (p *parser) split(t token, text string, spot bool) (host, ports string, colon, ok bool) {
	if strings.HasPrefix(text, "[") {
		i := strings.IndexByte(text, ']')
		if i < 0 {
			p.bad(fairlead.CodeSyntax, t, "a bracket is not closed").hint("[ADDRESS]:PORT")
			return "", "", false, false
		}
		if i+1 == len(text) {
			return text, "", false, true
		}
		if text[i+1] != ':' {
			p.bad(fairlead.CodeSyntax, t.part(i+1, len(text)-i-1), "a colon is missing behind the bracket").hint("%s:PORT", text[:i+1])
			return "", "", false, false
		}
		return text[:i+1], text[i+2:], true, true
	}
	i := strings.IndexByte(text, ':')
	if i < 0 {
		if spot {
			return "", text, false, true
		}
		return text, "", false, true
	}
	if strings.IndexByte(text[i+1:], ':') < 0 {
		if spot && i > 0 && isNumber(text[:i]) {
			p.twoPorts(t, "", text[:i], text[i+1:])
			return "", "", false, false
		}
		return text[:i], text[i+1:], true, true
	}
	if p.list.full() {
		p.list.more++
		return "", "", false, false
	}
	last := strings.LastIndexByte(text, ':')
	if parts := strings.Split(text, ":"); spot && len(parts) == 3 && isNumber(parts[1]) && isNumber(parts[2]) && strings.Contains(parts[0], ".") {
		p.twoPorts(t, parts[0]+":", parts[1], parts[2])
		return "", "", false, false
	}
	addr, port := text[:last], text[last+1:]
	if strings.HasSuffix(addr, ":") {
		addr += ":"
	}
	whole, err := netip.ParseAddr(text)
	head, headErr := netip.ParseAddr(addr)
	switch {
	case headErr == nil && isPortWord(port) && err == nil:
		p.bad(fairlead.CodeAmbiguousIPv6, t, "%s is ambiguous; write [%s]:%s", text, head, port).hint("or [%s] for all of it", whole)
	case headErr == nil && port != "" && err != nil:
		p.bad(fairlead.CodeAmbiguousIPv6, t, "%s is ambiguous; write [%s]:%s", text, head, port)
	case err == nil:
		p.bad(fairlead.CodeAmbiguousIPv6, t, "an IPv6 address needs brackets; write [%s]", whole)
	default:
		p.bad(fairlead.CodeSyntax, t, "%s has too many colons", shown(text)).hint("HOST:PORT, or [ADDRESS]:PORT for IPv6")
	}
	return "", "", false, false
}

// twoPorts is told of "8080:80", as other programs write a forward to
// themselves. It says nothing of the host, so it is not guessed.
func (p *parser) twoPorts(t token, host, from, to string) {
	p.bad(fairlead.CodeSyntax, t, "%s has two ports and no target", shown(t.text)).
		hint("%s%s to HOST:%s", host, from, to).
		fix("forward to this machine", "fairlead forward "+host+from+" to localhost:"+to)
}

// spotHost reads the part of a spot before the ports.
func (p *parser) spotHost(t token, host string, s *fairlead.Spot) bool {
	switch host {
	case "*":
		s.Any = true
		return true
	case "localhost":
		return true
	case "":
		p.bad(fairlead.CodeIncomplete, t, "an interface or address is missing")
		return false
	}
	if host[0] == '[' || host[0] <= '9' {
		if addr, ok := parseAddr(host); ok {
			s.Addr = addr
			return true
		}
		if host[0] == '[' || looksLikeIPv4(host) {
			p.bad(fairlead.CodeBadValue, t, "%s is not an address", shown(host))
			return false
		}
	}
	if !p.placeWord(host) {
		p.bad(fairlead.CodeBadValue, t, "%s is neither an address nor an interface nor a place", shown(host))
		return false
	}
	s.Where = host
	return true
}

// placeWord reports whether a word can name an interface or a place. On a
// command line it may also be a host with its user.
func (p *parser) placeWord(word string) bool {
	if len(word) > 253 {
		return false
	}
	for i := range len(word) {
		switch c := word[i]; {
		case letter(c) || digit(c) || c == '-' || c == '_' || c == '.' && i > 0:
		case c == '@' && p.command && i > 0:
		default:
			return false
		}
	}
	return word != "" && word[0] != '-'
}

// network reads what stands behind a slash.
func (p *parser) network(t token, word string) (fairlead.Network, bool) {
	switch word {
	case "tcp":
		return fairlead.TCP, true
	case "udp":
		return fairlead.UDP, true
	case "tcp+udp", "udp+tcp":
		return fairlead.TCP | fairlead.UDP, true
	}
	p.bad(fairlead.CodeBadValue, t, "%s is not a network; networks are tcp, udp and tcp+udp", shown(word)).meant(word, networkWords)
	return 0, false
}

// maxRanges bounds a list of ports: what compares two lists takes the product
// of their lengths.
const maxRanges = 1024

// ports reads a list of ports and ranges.
func (p *parser) ports(t token, text string) (fairlead.PortList, bool) {
	if n, ok := port(text); ok {
		return fairlead.PortList{{First: n, Last: n}}, true
	}
	if strings.Count(text, ",") >= maxRanges {
		p.bad(fairlead.CodeTooLarge, t, "a list has at most %d ports and ranges", maxRanges)
		return nil, false
	}
	var list fairlead.PortList
	for at := 0; at <= len(text); {
		n := strings.IndexByte(text[at:], ',')
		if n < 0 {
			n = len(text) - at
		}
		r, ok := p.portRange(t.part(at, n), text[at:at+n])
		if !ok {
			return nil, false
		}
		list = append(list, r)
		at += n + 1
	}
	if len(list) > 1 {
		if twice := overlapping(list); twice != 0 {
			p.bad(fairlead.CodeTwice, t, "port %d stands twice in the list", twice)
			return nil, false
		}
	}
	return list, true
}

// overlapping is the first port that a list has twice, 0 without one.
func overlapping(list fairlead.PortList) uint16 {
	var seen [1024]uint64
	for _, r := range list {
		for n := int(r.First); n <= int(r.Last); n++ {
			if seen[n>>6]&(1<<(n&63)) != 0 {
				return uint16(n)
			}
			seen[n>>6] |= 1 << (n & 63)
		}
	}
	return 0
}

func (p *parser) portRange(t token, text string) (fairlead.Ports, bool) {
	if n, ok := port(text); ok {
		return fairlead.Ports{First: n, Last: n}, true
	}
	if a, b, ok := strings.Cut(text, "-"); ok {
		first, ok1 := port(a)
		last, ok2 := port(b)
		switch {
		case ok1 && ok2 && first <= last:
			return fairlead.Ports{First: first, Last: last}, true
		case ok1 && ok2:
			p.bad(fairlead.CodeBadPort, t, "%s runs backwards", shown(text)).hint("did you mean %d-%d?", last, first)
			return fairlead.Ports{}, false
		case ok1 && b != "":
			t, text = t.part(len(a)+1, len(b)), b
		case ok2 && a != "":
			t, text = t.part(0, len(a)), a
		}
	}
	p.badPort(t, text)
	return fairlead.Ports{}, false
}

func (p *parser) badPort(t token, text string) {
	if p.list.full() {
		p.list.more++
		return
	}
	if text == "" {
		p.bad(fairlead.CodeBadPort, t, "a port is missing")
		return
	}
	m := p.bad(fairlead.CodeBadPort, t, "%s is not a port; ports are 1 to 65535", shown(text))
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= 65535 {
		m.hint("did you mean %d?", n)
	} else if n, err := strconv.ParseInt(text, 0, 32); err == nil && n >= 1 && n <= 65535 {
		m.hint("did you mean %d?", n)
	} else if letter(text[0]) {
		m.meant(text, serviceWords)
	}
}

// port is a decimal number without sign, blank and leading zero, or the name
// of a service.
func port(text string) (uint16, bool) {
	if text == "" {
		return 0, false
	}
	if !digit(text[0]) {
		n, ok := services[text]
		return n, ok
	}
	if len(text) > 5 || text[0] == '0' {
		return 0, false
	}
	n := 0
	for i := range len(text) {
		if !digit(text[i]) {
			n, ok := services[text]
			return n, ok
		}
		n = n*10 + int(text[i]-'0')
	}
	return uint16(n), n <= 65535
}

func isPortWord(text string) bool {
	_, ok := port(text)
	return ok
}

func isNumber(text string) bool {
	for i := range len(text) {
		if !digit(text[i]) {
			return false
		}
	}
	return text != ""
}

// parseAddr reads an address, of IPv6 only in brackets.
func parseAddr(host string) (netip.Addr, bool) {
	bare := host
	if host[0] == '[' {
		bare = strings.TrimSuffix(host[1:], "]")
	}
	a, err := netip.ParseAddr(bare)
	if err != nil || a.Is4() && host[0] == '[' || a.Is6() && host[0] != '[' || !zoneWord(a.Zone()) {
		return netip.Addr{}, false
	}
	return a, true
}

// zoneWord reports whether a zone can be printed without changing what it is
// in: netip takes any bytes.
func zoneWord(zone string) bool {
	for i := range len(zone) {
		if c := zone[i]; !letter(c) && !digit(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// looksLikeIPv4 reports whether the last label of a host is a number, which
// no name ends with (RFC 3696 section 2; WHATWG URL section 3.5).
func looksLikeIPv4(host string) bool {
	return isNumber(host[strings.LastIndexByte(host, '.')+1:])
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func digit(c byte) bool { return '0' <= c && c <= '9' }

// unixPath checks the path of a unix socket. The kernel's field for it has 108
// bytes with the ending NUL (unix(7)).
func (p *parser) unixPath(t token, path string) bool {
	switch {
	case path == "":
		p.bad(fairlead.CodeIncomplete, t, "the path of a unix socket is missing").hint("unix:/run/NAME.sock")
	case len(path) > 107:
		p.bad(fairlead.CodeBadValue, t, "the path of a unix socket has at most 107 bytes, this one %d", len(path))
	default:
		return true
	}
	return false
}
