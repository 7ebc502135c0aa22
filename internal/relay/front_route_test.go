package relay

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"fairlead"
	"fairlead/internal/wire/sniff"
)

func TestTheClosestDescriptionWins(t *testing.T) {
	const ten, far = "10.1.2.3", "192.0.2.1"
	tenNet := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	www := fairlead.Target{Host: "www", SNI: []string{"www.example.net"}}
	deep := fairlead.Target{Host: "deep", SNI: []string{"*.a.example.net"}}
	wild := fairlead.Target{Host: "wild", SNI: []string{"*.example.net"}}
	h2 := fairlead.Target{Host: "h2", SNI: []string{"*.example.net"}, ALPN: []string{"h2"}}
	h1 := fairlead.Target{Host: "h1", ALPN: []string{"http/1.1"}}
	any2 := fairlead.Target{Host: "any2", ALPN: []string{"h2"}}
	tls := fairlead.Target{Host: "tls", Protocol: []string{"tls", "ssh"}}
	near := fairlead.Target{Host: "near", SNI: []string{"*.example.net"}, From: tenNet}
	rest := fairlead.Target{Host: "rest"}
	ours := fairlead.Target{Host: "ours", From: tenNet}
	gone := fairlead.Target{Host: "gone", SNI: []string{"www.example.net"}, Drain: true}
	hello := func(name string, alpn ...string) asked { return asked{protocol: sniff.TLS, name: name, alpn: alpn} }
	for _, c := range []struct {
		to     []fairlead.Target
		client string
		asked  asked
		want   string
	}{
		{[]fairlead.Target{wild, www, rest}, far, hello("www.example.net"), "www"},
		{[]fairlead.Target{h2, www}, far, hello("www.example.net", "h2"), "www"},
		{[]fairlead.Target{wild, deep}, far, hello("x.a.example.net"), "deep"},
		{[]fairlead.Target{wild, deep}, far, hello("a.example.net"), "wild"},
		{[]fairlead.Target{wild, h2}, far, hello("x.example.net", "http/1.1", "h2"), "h2"},
		{[]fairlead.Target{wild, h2}, far, hello("x.example.net", "http/1.1"), "wild"},
		{[]fairlead.Target{wild, rest}, far, hello("example.net"), "rest"},
		{[]fairlead.Target{wild, rest}, far, hello("badexample.net"), "rest"},
		{[]fairlead.Target{wild, rest}, far, hello(""), "rest"},
		{[]fairlead.Target{wild}, far, hello("example.org"), "no-match"},
		{[]fairlead.Target{h1, any2}, far, hello("", "h2", "http/1.1"), "any2"},
		{[]fairlead.Target{h1, any2}, far, hello("", "http/1.1", "h2"), "h1"},
		{[]fairlead.Target{tls, any2, rest}, far, hello("", "h2"), "any2"},
		{[]fairlead.Target{rest, tls}, far, asked{protocol: sniff.SSH}, "tls"},
		{[]fairlead.Target{rest, tls}, far, asked{protocol: sniff.HTTP}, "rest"},
		{[]fairlead.Target{www, near, rest}, ten, hello("www.example.net"), "near"},
		{[]fairlead.Target{www, near, rest}, far, hello("www.example.net"), "www"},
		{[]fairlead.Target{www, near, rest}, ten, hello("example.org"), "rest"},
		{[]fairlead.Target{www, ours, rest}, ten, hello("www.example.net"), "ours"},
		{[]fairlead.Target{www, ours}, far, hello("example.org"), "no-match"},
		{[]fairlead.Target{www, www, rest}, far, hello("www.example.net"), "www www"},
		{[]fairlead.Target{gone, www, rest}, far, hello("www.example.net"), "www"},
		{[]fairlead.Target{gone, rest}, far, hello("www.example.net"), "no-target"},
		{[]fairlead.Target{gone, rest}, far, hello("example.org"), "rest"},
	} {
		if got := routed(c.to, netip.MustParseAddr(c.client), &c.asked); got != c.want {
			t.Errorf("%s asks for %+v: %s, want %s", c.client, c.asked, got, c.want)
		}
	}
}

// routed are the hosts of the targets chosen, or the reason why none is.
func routed(to []fairlead.Target, client netip.Addr, a *asked) string {
	p := &pool{}
	for i := range to {
		p.all = append(p.all, &target{t: &to[i]})
	}
	chosen, why := route(p.candidates(client), client, a)
	if why != "" {
		return string(why)
	}
	var hosts []string
	for _, t := range chosen {
		hosts = append(hosts, t.t.Host)
	}
	return strings.Join(hosts, " ")
}

// TestEveryClientGoesWhereTheRulesSay checks random targets and clients
// against the rules one by one, and against the order in which the targets are
// written.
func TestEveryClientGoesWhereTheRulesSay(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[rnd.IntN(len(list))] }
	some := func(list ...string) (out []string) {
		for range rnd.IntN(3) {
			out = append(out, pick(list...))
		}
		return out
	}
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::/0")}
	matched := 0
	for range 20_000 {
		to := make([]fairlead.Target, 1+rnd.IntN(5))
		for i := range to {
			to[i] = fairlead.Target{
				Host: string(rune('a' + i)), SNI: some("a.net", "*.a.net", "x.a.net", "*.x.a.net", "*.net"),
				ALPN: some("h2", "h3", "http/1.1"), Protocol: some(sniff.TLS, sniff.SSH, sniff.Other),
			}
			if rnd.IntN(3) == 0 {
				to[i].From = []netip.Prefix{prefixes[rnd.IntN(len(prefixes))]}
			}
		}
		client := netip.MustParseAddr(pick("10.1.0.1", "10.2.0.1", "192.0.2.1"))
		a := asked{protocol: pick(sniff.TLS, sniff.TLS, sniff.SSH, sniff.HTTP, sniff.Other)}
		if a.protocol == sniff.TLS {
			a.name, a.alpn = pick("", "a.net", "x.a.net", "y.x.a.net", "b.org"), some("h2", "h3")
		}
		got := routed(to, client, &a)
		chosen := map[string]bool{}
		if got != string(fairlead.NoMatch) && got != string(fairlead.NoTarget) {
			for h := range strings.FieldsSeq(got) {
				chosen[h] = true
			}
			matched++
		}
		for i := range to {
			fits := meets(&to[i], client, &a)
			if chosen[to[i].Host] && !fits {
				t.Fatalf("%s of %+v was chosen for %v, %+v", to[i].Host, to, client, a)
			}
			if fits && len(chosen) == 0 {
				t.Fatalf("%s of %+v was not chosen for %v, %+v: %s", to[i].Host, to, client, a, got)
			}
		}
		slices.Reverse(to)
		back := strings.Fields(routed(to, client, &a))
		slices.Reverse(back)
		if strings.Join(back, " ") != got {
			t.Fatalf("the order matters: %s and %s of %+v for %+v", got, back, to, a)
		}
	}
	if matched < 1000 {
		t.Errorf("only %d met a target", matched)
	}
}

// meets says in the simplest way whether a target may be chosen at all.
func meets(t *fairlead.Target, client netip.Addr, a *asked) bool {
	one := func(list []string, met func(string) bool) bool {
		return len(list) == 0 || slices.ContainsFunc(list, met)
	}
	name := func(p string) bool {
		return p == a.name && a.name != "" || p[0] == '*' && strings.HasSuffix(a.name, p[1:])
	}
	from := len(t.From) == 0 || slices.ContainsFunc(t.From, func(p netip.Prefix) bool { return p.Contains(client) })
	return from && one(t.SNI, name) &&
		one(t.ALPN, func(p string) bool { return slices.Contains(a.alpn, p) }) &&
		one(t.Protocol, func(p string) bool { return p == a.protocol })
}

// FuzzLearn asserts that what is learnt does not depend on how the bytes came,
// and that a decision comes within what is read.
func FuzzLearn(f *testing.F) {
	for _, s := range []string{
		"", "S", "SSH-2.0-x\r\n", "GET / HTTP/1.1\r\nHost: a.net\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nxyz",
		"GET / HTTP/1.1\r\nHost: a.net\rX\r\n\r\n", "OPTIONS * HTTP/1.1\n",
	} {
		f.Add([]byte(s), uint8(15), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, wanted, piece uint8) {
		b = b[:min(len(b), sniff.Limit)]
		want := facts(wanted) & (protocolFact | alpnFact | hostFact | nameFact)
		if len(b) == 0 || want == 0 {
			return
		}
		// In pieces, a decision may need the piece that holds the next end of
		// a line; then it is the same.
		var whole, parts asked
		err := whole.learn(b, len(b), want)
		size := int(piece) + 1
		for n := 0; n < len(b); {
			fresh := min(size, len(b)-n)
			n += fresh
			got := parts.learn(b[:n], fresh, want)
			if got == sniff.ErrShort {
				continue
			}
			if (got == nil) != (err == nil) || got != nil && got.Error() != err.Error() {
				t.Fatalf("%v after %d bytes, %v after all %d", got, n, err, len(b))
			}
			if parts.protocol != whole.protocol || parts.what() != whole.what() || !slices.Equal(parts.alpn, whole.alpn) {
				t.Fatalf("%+v after %d bytes, %+v after all", parts, n, whole)
			}
			return
		}
		if len(b) == sniff.Limit {
			t.Fatalf("no decision after %d bytes: %v", len(b), err)
		}
	})
}
