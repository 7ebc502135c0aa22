package packetfilter

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A grammar is productions as the manual pages have them, read from a file: words
// in quotes, names of productions, [ optional ], ( groups ), *( repetitions )
// and, in angle brackets, words that are told by their form. What the generator
// writes is not looked at here, only what the manual pages allow.
type grammar map[string]node

// A node matches tokens from at on, and returns where it may have ended.
type node func(g grammar, tokens []string, at int) []int

var grammarWord = regexp.MustCompile(`"[^"]*"|<[a-z0-9]+>|\*\(|[\[\]()|]|[a-z][a-z0-9-]*`)

func readGrammar(path string) (grammar, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	g := grammar{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		name, rule, _ := strings.Cut(line, "=")
		words := grammarWord.FindAllString(rule, -1)
		n, rest := alternatives(words)
		if len(rest) > 0 {
			return nil, fmt.Errorf("%s: %q is left of %s", path, rest, name)
		}
		g[strings.TrimSpace(name)] = n
	}
	return g, nil
}

func alternatives(words []string) (node, []string) {
	var list []node
	for {
		var n node
		n, words = sequence(words)
		list = append(list, n)
		if len(words) == 0 || words[0] != "|" {
			break
		}
		words = words[1:]
	}
	return func(g grammar, tokens []string, at int) (ends []int) {
		for _, n := range list {
			ends = append(ends, n(g, tokens, at)...)
		}
		return ends
	}, words
}

func sequence(words []string) (node, []string) {
	var list []node
	for len(words) > 0 && !slices.Contains([]string{"|", ")", "]"}, words[0]) {
		word := words[0]
		words = words[1:]
		switch word {
		case "(", "[", "*(":
			var inner node
			inner, words = alternatives(words)
			words = words[1:] // its end
			switch word {
			case "[":
				list = append(list, func(g grammar, tokens []string, at int) []int { return append(inner(g, tokens, at), at) })
			case "*(":
				list = append(list, func(g grammar, tokens []string, at int) []int {
					ends := []int{at}
					for i := 0; i < len(ends); i++ {
						ends = append(ends, inner(g, tokens, ends[i])...)
					}
					return ends
				})
			default:
				list = append(list, inner)
			}
		default:
			list = append(list, one(word))
		}
	}
	return func(g grammar, tokens []string, at int) []int {
		ends := []int{at}
		for _, n := range list {
			var next []int
			for _, e := range ends {
				next = append(next, n(g, tokens, e)...)
			}
			ends = next
		}
		return ends
	}, words
}

func one(word string) node {
	return func(g grammar, tokens []string, at int) []int {
		switch {
		case word[0] != '"' && word[0] != '<':
			n := g[word]
			if n == nil {
				panic("no production " + word)
			}
			return n(g, tokens, at)
		case at >= len(tokens):
			return nil
		case word[0] == '"' && tokens[at] == strings.Trim(word, `"`), word[0] == '<' && formed(word, tokens[at]):
			return []int{at + 1}
		}
		return nil
	}
}

var (
	ifaceForm = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
	tagForm   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,62}$`)
)

// formed reports whether a token has the form of a word in angle brackets.
func formed(form, s string) bool {
	count := func(s string, least, most int) bool {
		n, err := strconv.Atoi(s)
		return err == nil && n >= least && n <= most && strconv.Itoa(n) == s
	}
	span := func(s, between string) bool {
		first, last, ok := strings.Cut(s, between)
		if !ok {
			return count(s, 1, 65535)
		}
		a, _ := strconv.Atoi(first)
		b, _ := strconv.Atoi(last)
		return count(first, 1, 65535) && count(last, 1, 65535) && a < b
	}
	a, addrErr := netip.ParseAddr(s)
	p, netErr := netip.ParsePrefix(s)
	switch form {
	case "<iface>":
		return ifaceForm.MatchString(s) && !slices.Contains([]string{"any", "self", "all", "in", "out", "on", "to", "from"}, s)
	case "<tag>":
		return tagForm.MatchString(s)
	case "<label>":
		return len(s) > 2 && s[0] == '"' && s[len(s)-1] == '"' && tagForm.MatchString(s[1:len(s)-1])
	case "<ip4>":
		return addrErr == nil && a.Is4()
	case "<ip6>":
		return addrErr == nil && a.Is6() && !a.Is4In6() && a.Zone() == ""
	case "<net4>":
		return netErr == nil && p.Addr().Is4() && p == p.Masked()
	case "<net6>":
		return netErr == nil && p.Addr().Is6() && p == p.Masked()
	case "<port>":
		return count(s, 1, 65535)
	case "<ports>":
		return span(s, ":")
	case "<portup>":
		return strings.HasSuffix(s, ":*") && count(strings.TrimSuffix(s, ":*"), 1, 65535)
	case "<dashes>":
		return span(s, "-")
	case "<number>":
		return count(s, 1, 65535)
	case "<rule>":
		return count(s, 1, 65534)
	case "<set>":
		return count(s, 0, 30)
	case "<addrport>":
		at, err := netip.ParseAddrPort(s)
		return err == nil && at.Addr().Is4() && at.Port() > 0
	case "<addrports>":
		host, ports, ok := strings.Cut(s, ":")
		a, err := netip.ParseAddr(host)
		return ok && err == nil && a.Is4() && span(ports, "-")
	}
	panic("no form " + form)
}

var (
	pfToken   = regexp.MustCompile(`"[^"]*"|->|[{}(),]|[^\s{}(),"]+`)
	ipfwToken = regexp.MustCompile(`,|[^\s,]+`)
)

// tokens cuts a line into what the filter's scanner would.
func tokens(d Dialect, line string) (list []string) {
	if d == IPFW {
		return ipfwToken.FindAllString(line, -1)
	}
	for _, t := range pfToken.FindAllString(line, -1) {
		// "em0:0" and "em1:network" are an interface with a modifier.
		if name, what, ok := strings.Cut(t, ":"); ok && (what == "0" || what == "network") && ifaceForm.MatchString(name) {
			list = append(list, name, ":", what)
			continue
		}
		list = append(list, t)
	}
	return list
}

var grammars = map[Dialect]grammar{} // those that were read

// accepts returns nil when the grammar of the dialect has each line of text, and
// the lines stand in an order that the filter takes.
func accepts(d Dialect, text string) error {
	g := grammars[d]
	if g == nil {
		var err error
		if g, err = readGrammar("testdata/" + string(d) + ".bnf"); err != nil {
			return err
		}
		grammars[d] = g
	}
	tags := map[string]bool{}
	filtering, rules := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		list := tokens(d, line)
		if !slices.Contains(g["line"](g, list, 0), len(list)) {
			return fmt.Errorf("not of the grammar: %s", line)
		}
		switch word := list[0]; {
		case d == PF && slices.Contains([]string{"nat", "rdr", "no"}, word) && filtering:
			return fmt.Errorf("translation rules stand before filter rules: %s", line)
		case d == PF && (word == "pass" || word == "block"):
			filtering = true
		case d == IPFW && word == "nat" && rules:
			return fmt.Errorf("a translation is set up before rules name it: %s", line)
		case d == IPFW && word == "add":
			rules = true
		}
		// A tag is set before somebody asks for it.
		if i := slices.Index(list, "tag"); i >= 0 {
			tags[list[i+1]] = true
		}
		if i := slices.Index(list, "tagged"); i >= 0 && !tags[list[i+1]] {
			return fmt.Errorf("nothing sets the tag: %s", line)
		}
	}
	return nil
}

// TestGrammarRefusesWhatIsWrong has the grammars refuse lines with one fault each.
func TestGrammarRefusesWhatIsWrong(t *testing.T) {
	good := map[Dialect][]string{
		PF: {
			`rdr on em0 inet proto tcp from any to (em0) port 80 tag fl1 -> 192.168.1.10 port 8080`,
			`rdr on { em0, em1 } inet6 proto udp from 2001:db8::/32 to (self) port 80:90 tag fl1 -> 2001:db8::1 port 180:*`,
			`nat on em0 inet from (em1:network) to any -> (em0:0)`,
			`block return in quick on em0 inet proto tcp from 10.0.0.0/8 to (em0) port 80`,
		},
		OpenBSDPF: {
			`pass in quick on em0 inet proto tcp from any to (em0) port 80 label "web" tag fl1 rdr-to { 10.0.0.1, 10.0.0.2 } port 81 round-robin`,
			`match out on em0 inet all received-on em1 nat-to (em0:0)`,
		},
		IPFW: {
			`nat 1 config if em0 same_ports redirect_port tcp 10.0.0.1:80,10.0.0.2:80 203.0.113.1:80`,
			`add 1000 set 24 nat 1 tcp from 10.0.0.1 80 to any out xmit em0 // web`,
		},
	}
	for d, lines := range good {
		for _, line := range lines {
			if err := accepts(d, line); err != nil {
				t.Errorf("%s: %v", d, err)
			}
		}
	}
	wrong := []struct {
		d    Dialect
		line string
	}{
		{PF, `rdr on em0 inet proto tcp from any to (em0) port 80 -> 192.168.1.10`},                                                        // no tag
		{PF, `rdr on em0 inet proto tcp from any to (em0) port 0 tag fl1 -> 192.168.1.10`},                                                 // port 0
		{PF, `rdr on em0 inet proto tcp from any to (em0) port 80-90 tag fl1 -> 192.168.1.10`},                                             // "-" is no range of ports
		{PF, `rdr on em0 inet proto tcp from any to (em0) port 90:80 tag fl1 -> 192.168.1.10`},                                             // downwards
		{PF, `rdr on em0 inet6 proto tcp from any to (em0) port 80 tag fl1 -> 192.168.1.10`},                                               // families mixed
		{PF, `rdr on em0 inet proto icmp from any to (em0) port 80 tag fl1 -> 192.168.1.10`},                                               // has no ports
		{PF, `rdr on em0 inet proto tcp from any to (em0) port 80 tag fl1 -> { 10.0.0.1, 10.0.0.2 } source-hash`},                          // not for lists
		{PF, `rdr on em0 inet proto tcp from any to (em0) port 80 tag fl1 -> 192.168.1.10:8080`},                                           // "port" is missing
		{PF, `rdr on { em0 em1 inet proto tcp from any to (em0) port 80 tag fl1 -> 192.168.1.10`},                                          // brace
		{PF, `rdr in on em0 inet proto tcp from any to (em0) port 80 tag fl1 -> 192.168.1.10`},                                             // rdr has no direction
		{PF, `rdr on em0 inet proto tcp to (em0) from any port 80 tag fl1 -> 192.168.1.10`},                                                // order
		{PF, `nat on em0 inet all tagged fl9 -> (em0:0)`},                                                                                  // nobody sets the tag
		{PF, `nat on em0 inet from em1:network to any -> (em0:0)`},                                                                         // not followed
		{PF, `no rdr on em0 inet proto tcp from any to (em0) port 80 -> 192.168.1.10`},                                                     // leads somewhere
		{PF, `pass in quick on em0 inet proto tcp from any to (em0) port 80 rdr-to 10.0.0.1`},                                              // OpenBSD's
		{PF, "pass in quick on em0 inet proto tcp from any to (em0) port 80 tag a keep state label \"x\"\nnat on em0 inet all -> (em0:0)"}, // order of sections
		{PF, `block return in quick on em0 inet proto tcp from 10.0.0.1/8 to (em0) port 80`},                                               // bits behind the prefix
		{OpenBSDPF, `rdr on em0 inet proto tcp from any to (em0) port 80 tag fl1 -> 192.168.1.10`},                                         // FreeBSD's
		{OpenBSDPF, `pass out quick on em0 inet proto tcp from any to (em0) port 80 label "web" tag fl1 rdr-to 10.0.0.1`},                  // rdr-to is for what comes in
		{OpenBSDPF, `pass in quick on em0 inet proto tcp from any to (em0) port 80 label "web" tag fl1 rdr-to { 10.0.0.1, 10.0.0.2 } random`},
		{OpenBSDPF, `pass in quick on em0 inet proto tcp from any to (em0) port 80 label web" tag fl1 rdr-to 10.0.0.1`}, // quote
		{OpenBSDPF, `match out on em0 inet all received-on em1 -> (em0:0)`},                                             // FreeBSD's
		{OpenBSDPF, `match out on em0 inet all received-on { em1, em2 } nat-to (em0:0)`},                                // takes one
		{OpenBSDPF, `pass out quick all tagged fl1`},                                                                    // nobody sets the tag
		{IPFW, `add 1000 set 31 nat 1 tcp from any to 203.0.113.1 dst-port 80 in recv em0`},                             // the kernel's set
		{IPFW, `add 65535 set 24 nat 1 tcp from any to 203.0.113.1 dst-port 80 in recv em0`},                            // the kernel's rule
		{IPFW, `add 1000 set 24 nat 1 tcp from any to 203.0.113.1 dst-port 80:90 in recv em0`},                          // pf's range
		{IPFW, `add 1000 set 24 reset udp from any to 203.0.113.1 dst-port 80 in recv em0`},                             // TCP's
		{IPFW, `add 1000 set 24 nat 1 tcp from any to 2001:db8::1 dst-port 80 in recv em0`},                             // libalias has no IPv6
		{IPFW, `nat 1 config if em0 same_ports redirect_port tcp 10.0.0.1 203.0.113.1:80`},                              // no port
		{IPFW, "add 1000 set 24 nat 1 tcp from 10.0.0.1 80 to any out xmit em0\nnat 1 config if em0 same_ports"},        // late
		{IPFW, `add 1000 set 24 fwd 203.0.113.1:8080 tcp from any to 203.0.113.1 dst-port 80 in recv em0`},              // a comma
	}
	if len(wrong) < 30 {
		t.Errorf("only %d wrong lines", len(wrong))
	}
	for _, w := range wrong {
		if accepts(w.d, w.line) == nil {
			t.Errorf("%s: accepted %s", w.d, w.line)
		}
	}
}
