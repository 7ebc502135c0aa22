// Package packetfilter says which rules of the packet filters of the BSDs and
// macOS carry forwards: pf as FreeBSD and macOS have it, pf of OpenBSD, and
// ipfw with its address translation. What such a filter cannot do exactly as
// the sentence says is refused, never done nearly.
//
// The rules are text: pfctl(8) and ipfw(8) read it. Compile asks nobody and
// changes nothing. Sources: pf.conf(5) of FreeBSD 14 and of OpenBSD 7, ipfw(8)
// of FreeBSD 14.
package packetfilter

import (
	"net/netip"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// A Dialect is a packet filter's language.
type Dialect string

// The dialects.
const (
	PF        Dialect = "pf"         // FreeBSD, macOS: nat and rdr are rules of their own
	OpenBSDPF Dialect = "openbsd-pf" // OpenBSD: nat-to and rdr-to are options of filter rules
	IPFW      Dialect = "ipfw"       // FreeBSD
)

// Dialects are all of them, in the order in which help lists them.
var Dialects = []Dialect{PF, OpenBSDPF, IPFW}

// program is what the filter is called in a sentence.
func (d Dialect) program() string {
	if d == IPFW {
		return "ipfw"
	}
	return "pf"
}

// A World is what Compile has to know of the host and of what is around it.
type World struct {
	WAN, LAN   []string
	Interfaces []netmon.Interface
	Resolved   map[string][]netip.Addr // of the names of targets; the first of each family is used
}

// A Plan is rules, and what of them belongs to whom.
type Plan struct {
	Dialect Dialect
	Rules   string     // one on each line; "" when nothing is carried
	NAT     []Instance // ipfw's translations, which its rules name
	Notes   []string   // what the rules need of the host, in words
	Parts   []Part     // one for each forward, in their order
}

// A Part is what one forward became.
type Part struct {
	Forward *fairlead.Forward
	Problem *fairlead.Problem // a warning when the forward is carried all the same
	Label   string            // by which its counters are known; "" where it has none
	Bound   []string          // "em0:80/tcp"
	Targets []netip.AddrPort  // the first port's, of each target and family
}

// Carried reports whether there are rules for the forward.
func (p *Part) Carried() bool { return p.Problem == nil || p.Problem.Warning }

// Compile says which rules carry exactly want in w. A forward that cannot be
// carried has a part with a problem, and no rule.
func Compile(d Dialect, want []*fairlead.Forward, w *World) *Plan {
	c := &compiler{d: d, w: w, taken: map[place][]fairlead.Ports{}, plan: &Plan{Dialect: d, Parts: make([]Part, len(want))}}
	for i, f := range want {
		c.plan.Parts[i].Forward = f
		if p := fits(d, f); p != nil {
			c.plan.Parts[i].Problem = p
			continue
		}
		r := &route{i: i, f: f, label: labelOf(f, i)}
		if p := c.build(r); p != nil && !p.Warning {
			c.plan.Parts[i].Problem = p
			continue
		} else if p != nil {
			c.plan.Parts[i].Problem = p
		}
		c.plan.Parts[i].Label = r.label
		c.plan.Parts[i].Bound, c.plan.Parts[i].Targets = r.bound, r.led
		c.routes = append(c.routes, r)
	}
	// The filter takes the first rule that matches: who is named more closely
	// comes first, as with nftables.
	slices.SortStableFunc(c.routes, func(a, b *route) int { return int(a.rank) - int(b.rank) })
	if len(c.routes) > 0 {
		switch d {
		case IPFW:
			c.ipfw()
		case OpenBSDPF:
			c.openbsd()
		default:
			c.pf()
		}
	}
	return c.plan
}

// Text is the plan as an operator reads it and as the filter's program takes it:
// what it needs first, as comments.
func (p *Plan) Text() string {
	if p.Rules == "" {
		return ""
	}
	var b strings.Builder
	for _, n := range p.Notes {
		b.WriteString("# " + n + "\n")
	}
	for _, n := range p.NAT {
		b.WriteString(n.Config() + "\n")
	}
	b.WriteString(p.Rules)
	return b.String()
}

// A compiler is a plan in the making.
type compiler struct {
	d      Dialect
	w      *World
	plan   *Plan
	routes []*route // that are carried
	taken  map[place][]fairlead.Ports
	b      strings.Builder
}

// line writes one rule of the words that are not empty.
func (c *compiler) line(words ...string) {
	n := 0
	for _, w := range words {
		if w == "" {
			continue
		}
		if n > 0 {
			c.b.WriteByte(' ')
		}
		c.b.WriteString(w)
		n++
	}
	c.b.WriteByte('\n')
}

// side is the interfaces that a word stands for.
func (w *World) side(where string) []string {
	switch where {
	case "wan":
		return w.WAN
	case "lan":
		return w.LAN
	}
	return []string{where}
}

func (w *World) find(name string) *netmon.Interface {
	for i := range w.Interfaces {
		if w.Interfaces[i].Name == name {
			return &w.Interfaces[i]
		}
	}
	return nil
}

// outer are the interfaces by which clients come from elsewhere, those of a
// WAN only if wan says so. What is to be there later is among them by its name.
func (w *World) outer(wan bool, also ...string) (list []string) {
	for _, i := range w.Interfaces {
		if !i.Loopback && (wan || !slices.Contains(w.WAN, i.Name)) {
			list = append(list, i.Name)
		}
	}
	also = append(also, w.LAN...)
	if wan {
		also = append(also, w.WAN...)
	}
	for _, name := range also {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

func (w *World) loopbacks() (list []string) {
	for _, i := range w.Interfaces {
		if i.Loopback {
			list = append(list, i.Name)
		}
	}
	if len(list) == 0 {
		return []string{"lo0"}
	}
	return list
}

// addrs are the addresses of an interface that others can ask for.
func (w *World) addrs(name string, v6 bool) (list []netip.Addr) {
	i := w.find(name)
	if i == nil {
		return nil
	}
	for _, a := range i.Addrs {
		if a = a.Unmap(); a.Is6() == v6 && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			list = append(list, a.WithZone(""))
		}
	}
	return list
}

// labelOf is the label of f's rules: its name, which has no character that the
// filters' languages know, or its place where it has no such name.
func labelOf(f *fairlead.Forward, i int) string {
	if plainWord(f.Name, 63) {
		return f.Name
	}
	return tagOf(i)
}

// plainWord reports whether a word of at most so many bytes may stand in a rule
// as it is.
func plainWord(s string, most int) bool {
	if s == "" || len(s) > most || !letter(s[0]) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r > 127 || !letter(byte(r)) && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

func letter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }

// Hosts are the names whose addresses Compile has to know, each once.
func Hosts(want []*fairlead.Forward) (list []string) {
	for _, f := range want {
		if f.Kind == fairlead.KindShare {
			continue // it leads to interfaces
		}
		for i := range f.To {
			h := f.To[i].Host
			if _, err := netip.ParseAddr(h); err == nil || h == "" || h == "self" || h == "localhost" || slices.Contains(list, h) {
				continue
			}
			list = append(list, h)
		}
	}
	return list
}
