package relay

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"fairlead"
)

// wants is what there is to know about a client before one of targets can be
// chosen, 0 when each takes everybody.
func wants(targets []*target) facts {
	var all facts
	for _, t := range targets {
		all |= conditionsOf(t.t)
	}
	return all
}

// conditionsOf are the facts that t depends on.
func conditionsOf(t *fairlead.Target) facts {
	var f facts
	for _, c := range [...]struct {
		fact facts
		said bool
	}{
		{nameFact, len(t.SNI) > 0}, {hostFact, len(t.HTTPHost) > 0},
		{alpnFact, len(t.ALPN) > 0}, {protocolFact, len(t.Protocol) > 0},
	} {
		if c.said {
			f |= c.fact
		}
	}
	return f
}

// fronted reports whether a target has a condition of the kind that "front"
// names, where it names one.
func fronted(f *fairlead.Forward) bool {
	want, ok := map[string]facts{"sni": nameFact, "http-host": hostFact, "alpn": alpnFact, "protocol": protocolFact}[f.Policy.Front]
	return !ok || slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return conditionsOf(&t)&want != 0 })
}

// candidates are the targets that may be meant for a client whatever it asks
// for. Those that others with a closer claim on its address leave nothing to
// are left out, and those that are drained stay, because what they claim is
// nobody else's; unless there is nothing to ask.
func (p *pool) candidates(client netip.Addr) []*target {
	var list []*target
	rest := notMeant
	for _, t := range p.all {
		if n := nearness(t.t, client); n != notMeant {
			list = append(list, t)
			if conditionsOf(t.t) == 0 {
				rest = max(rest, n)
			}
		}
	}
	list = slices.DeleteFunc(list, func(t *target) bool { return nearness(t.t, client) < rest })
	if wants(list) == 0 {
		return ready(list)
	}
	return list
}

// ready are those of list that take new connections; list is used up.
func ready(list []*target) []*target {
	return slices.DeleteFunc(list, func(t *target) bool { return t.t.Drain })
}

const (
	everybody = -1
	notMeant  = -2
)

// nearness is how closely the addresses of t's clients enclose this one: the
// length of the prefix, everybody without any, or notMeant.
func nearness(t *fairlead.Target, client netip.Addr) int {
	if len(t.From) == 0 {
		return everybody
	}
	best := notMeant
	for _, p := range t.From {
		if p.Contains(client) {
			best = max(best, p.Bits())
		}
	}
	return best
}

// A fit is how well a target's conditions describe a client. Of two that do,
// the greater is meant; several targets may fit equally well.
type fit struct {
	near  int   // nearness of its addresses
	names int   // length of the names that matched, exact ones being longer than any pattern
	kinds int   // how many kinds of condition it has
	which facts // and which
	alpn  int   // minus the place of its protocol in the client's list
}

func (a fit) compare(b fit) int {
	return cmp.Or(cmp.Compare(a.near, b.near), cmp.Compare(a.names, b.names), cmp.Compare(a.kinds, b.kinds),
		cmp.Compare(a.which, b.which), cmp.Compare(a.alpn, b.alpn))
}

// route returns those of targets that fit a client best and take new
// connections, in their order. With none, why tells whether any fits.
func route(targets []*target, client netip.Addr, a *asked) (chosen []*target, why fairlead.Reason) {
	var best fit
	for _, t := range targets {
		f, ok := fitOf(t.t, client, a)
		if !ok {
			continue
		}
		switch n := f.compare(best); {
		case len(chosen) == 0 || n > 0:
			best, chosen = f, []*target{t}
		case n == 0:
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return nil, fairlead.NoMatch
	}
	if chosen = ready(chosen); len(chosen) == 0 {
		return nil, fairlead.NoTarget
	}
	return chosen, ""
}

// fitOf matches one target. Each kind of condition that it has must be met by
// one of its values.
func fitOf(t *fairlead.Target, client netip.Addr, a *asked) (f fit, ok bool) {
	if f.near = nearness(t, client); f.near == notMeant {
		return f, false
	}
	f.which = conditionsOf(t)
	for _, c := range [...]struct {
		patterns []string
		name     string
	}{{t.SNI, a.name}, {t.HTTPHost, a.host}} {
		if len(c.patterns) == 0 {
			continue
		}
		n := longest(c.patterns, c.name)
		if n == 0 {
			return f, false
		}
		f.names += n
		f.kinds++
	}
	if len(t.ALPN) > 0 {
		i := slices.IndexFunc(a.alpn, func(offered string) bool { return slices.Contains(t.ALPN, offered) })
		if i < 0 {
			return f, false
		}
		f.alpn = -i
		f.kinds++
	}
	if len(t.Protocol) > 0 {
		if !slices.Contains(t.Protocol, a.protocol) {
			return f, false
		}
		f.kinds++
	}
	return f, true
}

// exact is more than the length of any name.
const exact = 1 << 10

// longest is how well the best of patterns describes a name, 0 for not at all.
// Both are in the form in which package sniff gives names. "*.example.net" is
// every name below example.net, at any depth, and not example.net itself.
func longest(patterns []string, name string) int {
	best := 0
	for _, p := range patterns {
		suffix, wild := strings.CutPrefix(p, "*")
		switch {
		case name == "":
		case !wild && p == name:
			return exact
		case wild && len(name) > len(suffix) && strings.HasSuffix(name, suffix):
			best = max(best, len(suffix))
		}
	}
	return best
}
