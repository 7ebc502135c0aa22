package packetfilter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"fairlead"
)

// The sets of ipfw's rules: those that hold, and those that are made ready to
// take their place. There are 32, and the last one is the kernel's own.
const (
	SetLive  = 24
	SetReady = 25
)

// RuleNumber is the number of all of ours: where they stand among others'. Of one
// number, rules are tried in the order in which they were added.
const RuleNumber = 1000

// instances is what the index of an interface is added to for the number of its
// translation, so that it is the same as long as the interface is there.
const instances = 24000

// An Instance is a translation of ipfw (libalias), one for each interface.
type Instance struct {
	Number    int
	Interface string
	Redirects []string // "tcp 192.168.1.10:80 203.0.113.1:8080"
}

// Config is the command that sets it up, or up anew.
func (n Instance) Config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "nat %d config if %s same_ports", n.Number, n.Interface)
	for _, r := range n.Redirects {
		b.WriteString(" redirect_port " + r)
	}
	return b.String()
}

// ipfw writes rules of ipfw. Forwards are redirections of the translation at
// their interface: what asks for one goes in by it, and the target's answers go
// out by it. Pinholes come first, shares last.
func (c *compiler) ipfw() {
	translates, hands := false, false
	for _, r := range c.routes {
		if r.f.Kind != fairlead.KindOpen {
			continue
		}
		for i := range r.leads {
			l := &r.leads[i]
			to := l.door.to
			if !l.door.addr.IsValid() {
				to = "me"
				if l.v6 {
					to = "me6"
				}
			}
			setup := ""
			if l.proto == "tcp" {
				setup = "setup"
			}
			from := fromText(l.from)
			for _, name := range l.door.on {
				c.add("allow", l.proto, "from", from, "to", to, "dst-port", l.ports.String(), "in recv", name, setup, "keep-state", comment(r))
			}
		}
	}
	for _, r := range c.routes {
		if r.f.Kind == fairlead.KindOpen || r.f.Kind == fairlead.KindShare {
			continue
		}
		var answers []string
		for i := range r.leads {
			l := &r.leads[i]
			if l.v6 {
				continue
			}
			head := []string{l.proto, "from", fromText(l.from), "to", l.door.to, "dst-port", l.ports.String(), "in recv", l.door.on[0]}
			switch {
			case len(l.to) == 0 && l.proto == "tcp":
				c.add("reset", strings.Join(head, " "), comment(r))
			case len(l.to) == 0:
				c.add("unreach port", strings.Join(head, " "), comment(r))
			case l.to[0] == l.door.addr:
				hands = true
				c.add("fwd "+l.door.to+","+strconv.Itoa(int(l.turn.first)), strings.Join(head, " "), comment(r))
			default:
				translates = true
				n := c.instance(l.door.on[0])
				c.redirect(n, l)
				c.add("nat", strconv.Itoa(c.plan.NAT[n].Number), strings.Join(head, " "), comment(r))
				for _, a := range l.to {
					answer := fmt.Sprintf("nat %d %s from %s %s to any out xmit %s", c.plan.NAT[n].Number, l.proto, a, l.becomes(), l.door.on[0])
					if !slices.Contains(answers, answer) {
						answers = append(answers, answer)
					}
				}
			}
		}
		for _, a := range answers {
			c.add(a, comment(r))
		}
	}
	for _, r := range c.routes {
		for _, p := range r.pairs {
			translates = true
			n := c.instance(p.wan)
			number := strconv.Itoa(c.plan.NAT[n].Number)
			c.add("nat", number, "ip4 from any to any out recv", p.lan, "xmit", p.wan, comment(r))
			in := fmt.Sprintf("nat %s ip4 from any to %s in recv %s", number, c.w.addrs(p.wan, false)[0], p.wan)
			if !strings.Contains(c.b.String(), in) {
				c.add(in, comment(r))
			}
		}
	}
	c.plan.Rules = c.b.String()
	c.note("rules of ipfw(8) in set %d, all of number %d: those of others with lower numbers come before them", SetLive, RuleNumber)
	c.note("rules are generated and checked against the grammar; they were not tested with packets by us")
	if translates {
		c.note("needs kldload ipfw_nat, net.inet.ip.forwarding=1, and net.inet.ip.fw.one_pass=1 unless later rules let translated packets through")
	}
	if hands {
		c.note("\"fwd\" hands a connection to a program on this host at the address that was asked for; nothing is rewritten")
	}
}

// add writes a rule.
func (c *compiler) add(words ...string) {
	c.line(append([]string{"add", strconv.Itoa(RuleNumber), "set", strconv.Itoa(SetLive)}, words...)...)
}

func comment(r *route) string { return "// " + r.label }

// instance is the index of the translation at an interface.
func (c *compiler) instance(name string) int {
	if i := slices.IndexFunc(c.plan.NAT, func(n Instance) bool { return n.Interface == name }); i >= 0 {
		return i
	}
	c.plan.NAT = append(c.plan.NAT, Instance{Number: instances + c.w.find(name).Index, Interface: name})
	return len(c.plan.NAT) - 1
}

// redirect adds what l leads to a translation, once.
func (c *compiler) redirect(n int, l *lead) {
	targets := make([]string, len(l.to))
	for i, a := range l.to {
		targets[i] = a.String() + ":" + l.becomes()
	}
	text := l.proto + " " + strings.Join(targets, ",") + " " + l.door.to + ":" + l.ports.String()
	if in := &c.plan.NAT[n]; !slices.Contains(in.Redirects, text) {
		in.Redirects = append(in.Redirects, text)
	}
}

// becomes is the target's ports of a lead.
func (l *lead) becomes() string {
	p := fairlead.Ports{First: l.turn.first, Last: l.turn.first}
	if l.turn.how != gathered {
		p.Last += l.ports.Last - l.ports.First
	}
	return p.String()
}

// note tells what the rules need, once.
func (c *compiler) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.plan.Notes, text) {
		c.plan.Notes = append(c.plan.Notes, text)
	}
}

// pfNotes tells what rules of pf need of the host.
func (c *compiler) pfNotes(anchors string) {
	c.note("rules of pf.conf(5) for an anchor of their own: pf.conf has to have %s", anchors)
	c.note("rules are generated and checked against the grammar; they were not tested with packets by us")
	c.note("programs on this host itself are not led: pf redirects what comes in by an interface")
	var v4, v6, loop bool
	for _, r := range c.routes {
		for i := range r.leads {
			if l := &r.leads[i]; len(l.to) > 0 && r.toOthers() || r.f.Kind == fairlead.KindOpen && l.door.addr.IsValid() {
				v4, v6 = v4 || !l.v6, v6 || l.v6
			}
		}
		v4 = v4 || len(r.pairs) > 0
		loop = loop || r.rank == byAddr && r.f.Kind != fairlead.KindOpen && r.f.At.Loopback()
	}
	if v4 {
		c.note("needs the sysctl net.inet.ip.forwarding=1")
	}
	if v6 {
		c.note("needs the sysctl net.inet6.ip6.forwarding=1")
	}
	if loop {
		c.note("pf must not skip the loopback interface: no \"set skip on lo\" in pf.conf")
	}
}
