package packetfilter

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"fairlead"
)

// pf writes rules as FreeBSD and macOS have them. Translations come first and
// the first that matches is taken; filter rules follow. What is redirected is
// marked with a tag of the forward, and where it may have to turn back by the
// interface it came by, of the interface, too: by that it is let through and its
// source rewritten.
func (c *compiler) pf() {
	var filter []func()
	for _, r := range c.routes {
		if r.f.Kind == fairlead.KindShare || r.f.Kind == fairlead.KindOpen {
			continue
		}
		var tags []string
		for i := range r.leads {
			l := &r.leads[i]
			if len(l.to) == 0 {
				c.line("no rdr on", list(l.door.on), af(l.v6), "proto", l.proto, "from", fromText(l.from), "to", l.door.to, "port", portText(l.ports))
				filter = append(filter, func() { c.block(l) })
				continue
			}
			for _, group := range r.tagged(l) {
				tag := r.tag(group)
				c.line("rdr on", list(group), af(l.v6), "proto", l.proto, "from", fromText(l.from), "to", l.door.to, "port", portText(l.ports),
					"tag", tag, "->", poolText(l))
				if !slices.Contains(tags, tag) {
					tags = append(tags, tag)
				}
			}
		}
		c.natRules(r, func(on, family, tag, to string) { c.line("nat on", on, family, "all tagged", tag, "->", to) })
		filter = append(filter, func() {
			for _, tag := range tags {
				c.line("pass in quick all tagged", tag, "keep state label", quoted(r.label))
				if r.toOthers() {
					c.line("pass out quick all tagged", tag, "keep state")
				}
			}
		})
	}
	for _, r := range c.routes {
		for _, p := range r.pairs {
			c.line("nat on", p.wan, "inet from", "("+p.lan+":network)", "to any ->", "("+p.wan+":0)")
			c.note("the share of %s is for the networks of its own addresses, not for those behind a router in them", p.lan)
		}
	}
	for _, write := range filter {
		write()
	}
	c.openings("keep state")
	c.plan.Rules = c.b.String()
	c.pfNotes("rdr-anchor \"fairlead/*\", nat-anchor \"fairlead/*\" and, before other rules with \"quick\", anchor \"fairlead/*\"")
}

// openbsd writes rules as OpenBSD has them: the first one that matches with
// "quick" is taken, and translates.
func (c *compiler) openbsd() {
	for _, r := range c.routes {
		if r.f.Kind == fairlead.KindShare || r.f.Kind == fairlead.KindOpen {
			continue
		}
		for i := range r.leads {
			l := &r.leads[i]
			if len(l.to) == 0 {
				c.block(l)
				continue
			}
			c.line("pass in quick on", list(l.door.on), af(l.v6), "proto", l.proto, "from", fromText(l.from), "to", l.door.to, "port", portText(l.ports),
				"label", quoted(r.label), "tag", tagOf(r.i), "rdr-to", poolText(l))
		}
		c.natRules(r, func(on, family, tag, to string) {
			if name, ok := strings.CutPrefix(tag, tagOf(r.i)+"."); ok {
				c.line("pass out quick on", on, family, "all received-on", name, "tagged", tagOf(r.i), "nat-to", to)
				return
			}
			c.line("pass out quick on", on, family, "all tagged", tag, "nat-to", to)
		})
		if r.toOthers() {
			c.line("pass out quick all tagged", tagOf(r.i))
		}
	}
	c.openings("")
	for _, r := range c.routes {
		for _, p := range r.pairs {
			c.line("match out on", p.wan, "inet all received-on", p.lan, "nat-to", "("+p.wan+":0)")
		}
	}
	c.plan.Rules = c.b.String()
	c.pfNotes("anchor \"fairlead/*\" before other rules with \"quick\"")
}

// tagged are a lead's interfaces in groups that have a tag each: one by one
// where it matters by which of them a packet came.
func (r *route) tagged(l *lead) (groups [][]string) {
	if !r.toOthers() || r.out[index(l.v6)].how != wayBack {
		return [][]string{l.door.on}
	}
	for _, name := range l.door.on {
		groups = append(groups, []string{name})
	}
	return groups
}

func (r *route) tag(group []string) string {
	if len(group) == 1 {
		return tagOf(r.i) + "." + group[0]
	}
	return tagOf(r.i)
}

// natRules calls write for each rewriting of a source of r's connections.
func (c *compiler) natRules(r *route, write func(on, family, tag, to string)) {
	if !r.toOthers() {
		return
	}
	for fam := range 2 {
		v6 := fam == 1
		var ins, shared []string // by which they come, where it matters; tags where it does not
		for i := range r.leads {
			l := &r.leads[i]
			if l.v6 != v6 || len(l.to) == 0 {
				continue
			}
			for _, group := range r.tagged(l) {
				if r.out[fam].how == wayBack && !slices.Contains(ins, group[0]) {
					ins = append(ins, group[0])
				} else if tag := r.tag(group); !slices.Contains(shared, tag) {
					shared = append(shared, tag)
				}
			}
		}
		if c.d == OpenBSDPF && len(shared) > 0 {
			shared = []string{tagOf(r.i)}
		}
		switch r.out[fam].how {
		case wayBack:
			for _, name := range ins {
				if to := c.ownAddr(name, v6); to != "" {
					write(name, af(v6), tagOf(r.i)+"."+name, to)
				}
			}
		case masquerade:
			for _, name := range c.w.outer(true) {
				if to := c.ownAddr(name, v6); to != "" {
					for _, tag := range shared {
						write(name, af(v6), tag, to)
					}
				}
			}
		case rewritten:
			for _, tag := range shared {
				write(list(c.w.outer(true)), af(v6), tag, r.out[fam].addr.String())
			}
		}
	}
}

// ownAddr is the address of an interface for who goes out by it: by its name
// where that means its first address. For IPv6 the first may be of the link
// only, so that there it is the address itself.
func (c *compiler) ownAddr(name string, v6 bool) string {
	if !v6 {
		return "(" + name + ":0)"
	}
	if own := c.w.addrs(name, true); len(own) > 0 {
		return own[0].String()
	}
	return ""
}

// block refuses clients aloud, as nftables does.
func (c *compiler) block(l *lead) {
	c.line("block return in quick on", list(l.door.on), af(l.v6), "proto", l.proto, "from", fromText(l.from), "to", l.door.to, "port", portText(l.ports))
}

// openings writes pinholes.
func (c *compiler) openings(state string) {
	for _, r := range c.routes {
		if r.f.Kind != fairlead.KindOpen {
			continue
		}
		for i := range r.leads {
			l := &r.leads[i]
			c.line("pass in quick on", list(l.door.on), af(l.v6), "proto", l.proto, "from", fromText(l.from), "to", l.door.to, "port", portText(l.ports),
				"tag", tagOf(r.i), state, "label", quoted(r.label))
		}
		if r.doors[0].addr.IsValid() {
			c.line("pass out quick all tagged", tagOf(r.i), state)
		}
	}
}

func af(v6 bool) string {
	if v6 {
		return "inet6"
	}
	return "inet"
}

func list(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "{ " + strings.Join(words, ", ") + " }"
}

func fromText(p netip.Prefix) string {
	switch {
	case !p.IsValid() || p.Bits() == 0:
		return "any"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

func portText(p fairlead.Ports) string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return strconv.Itoa(int(p.First)) + ":" + strconv.Itoa(int(p.Last))
}

// poolText is where a lead leads, behind "->" and "rdr-to".
func poolText(l *lead) string {
	words := make([]string, len(l.to))
	for i, a := range l.to {
		words[i] = a.String()
	}
	text := list(words)
	switch l.turn.how {
	case gathered:
		text += " port " + strconv.Itoa(int(l.turn.first))
	case shifted:
		text += " port " + strconv.Itoa(int(l.turn.first))
		if l.turn.ports.Len() > 1 {
			text += ":*"
		}
	}
	if len(words) > 1 {
		text += " round-robin"
	}
	return text
}
