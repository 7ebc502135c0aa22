package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/firewalls"
	"fairlead/internal/sys/nft"
)

// mostForeign bounds the elements of one set of somebody else's that are read: a
// list of addresses to be blocked may have a million.
const mostForeign = 20_000

// mostTuples bounds how many packets are thought up for one forward.
const mostTuples = 64

// outside is what is known of the rules of others. The carrier's lock guards it.
type outside struct {
	rules   *others // nil: not read yet
	answers map[imagined]verdict
	legacy  map[bool]map[string]firewalls.Legacy // by v6 and chain

	programs map[bool]string // iptables and ip6tables, once they were looked for
}

// lookBeyond notes for each forward which rules of others drop its packets. The
// lock is held.
func (k *Kernel) lookBeyond(list []*carried, w *world) {
	o, err := k.rulesOfOthers()
	if err != nil {
		return // whoever may not read them has been told when the table was loaded
	}
	for _, c := range list {
		if c.part.problem != nil && !c.part.problem.Warning {
			continue
		}
		c.beyond, c.allBeyond = o.problem(c, w)
	}
}

// rulesOfOthers reads the rules of others, unless nobody has changed them since.
func (k *Kernel) rulesOfOthers() (*outside, error) {
	unchanged := k.unchanged.Swap(true) && k.watching
	legacy := k.legacyChains()
	if k.beyond.rules != nil && unchanged {
		k.beyond.legacy = legacy
		return &k.beyond, nil
	}
	var tables []*nft.Table
	err := k.inside(func() error {
		conn, err := nft.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		all, err := conn.Tables()
		if err != nil {
			return err
		}
		for _, l := range all {
			if strings.HasPrefix(l.Name, tablePrefix) && l.Family == nft.Inet {
				continue // ours, or another instance's: with ten thousand elements
			}
			t, err := conn.Read(l.Family, l.Name)
			if err != nil {
				return err
			}
			if t != nil {
				t.Owned = t.Owned || l.Owner != 0
				tables = append(tables, t)
			}
		}
		return nil
	})
	if err != nil {
		k.unchanged.Store(false)
		return nil, err
	}
	k.beyond = outside{rules: othersOf(tables, k.cfg.Table), answers: map[imagined]verdict{}, legacy: legacy, programs: map[bool]string{}}
	return &k.beyond, nil
}

// legacyChains are the chains of the old iptables, whose changes nobody tells
// of.
func (k *Kernel) legacyChains() map[bool]map[string]firewalls.Legacy {
	legacy := map[bool]map[string]firewalls.Legacy{false: {}, true: {}}
	k.inside(func() error {
		for v6, chains := range legacy {
			for _, chain := range []string{"FORWARD", "INPUT"} {
				if l, ok, err := firewalls.LegacyChain(k.ctx, v6, chain); ok && err == nil {
					chains[chain] = l
				}
			}
		}
		return nil
	})
	return legacy
}

// ask is others.ask, remembered. First it asks without addresses and ports: of
// most rule sets that is enough for all forwards at once.
func (o *outside) ask(p imagined) verdict {
	class := p
	class.dst, class.dport, class.asked, class.askedPort = netip.Addr{}, 0, netip.Addr{}, 0
	v, known := o.answers[class]
	if !known {
		v = o.rules.ask(class)
		o.answers[class] = v
	}
	if v.fate != perhaps {
		return v
	}
	return o.rules.ask(p)
}

// problem is which rules of others drop the packets of a forward; all is
// whether they drop every one that was thought up.
func (o *outside) problem(c *carried, w *world) (problem *fairlead.Problem, all bool) {
	tuples := tuplesOf(c, w)
	all = len(tuples) > 0
	var culprits []culprit
	var first imagined
	for _, p := range tuples {
		v := o.ask(p)
		if v.fate != drops {
			all = false
			continue
		}
		if len(culprits) == 0 {
			first = p
		}
		for _, by := range v.culprits {
			if by.sure && !slices.ContainsFunc(culprits, func(c culprit) bool { return c.String() == by.String() }) {
				culprits = append(culprits, by)
			}
		}
	}
	if len(culprits) == 0 {
		return o.legacyProblem(c, tuples), false
	}
	f := c.part.f
	by := culprits[0]
	what := fmt.Sprintf("packets for %q", f.Name)
	if f.Kind == fairlead.KindShare {
		what = fmt.Sprintf("packets of the LAN of %q", f.Name)
	}
	problem = fairlead.Problemf(fairlead.CodeForeignDrop, "%s are dropped by a rule that is not fairlead's: %s", what, by)
	if by.by != "" {
		problem.Note("by", "%s (set by %s)", by, by.by)
	} else {
		problem.Note("by", "%s", by)
	}
	for _, more := range culprits[1:] {
		problem.Note("and", "%s", more)
	}
	problem.Note("why", "a drop in any table is final; an accept ends only the chain that it stands in")
	if !all {
		problem.Note("note", "not all of its packets are dropped")
	}
	o.fixDrop(problem, c, culprits, first)
	return problem, all
}

// fixDrop adds the way out: by the program that keeps the rules where it is
// known, else the rules.
func (o *outside) fixDrop(problem *fairlead.Problem, c *carried, culprits []culprit, p imagined) {
	f := c.part.f
	by := culprits[0].by
	if by == "fw4" {
		problem.Note("note", "OpenWrt's firewall makes its table anew at each reload: put the rule into /etc/nftables.d as well")
	}
	switch {
	case slices.Contains([]string{firewalls.Docker, firewalls.UFW, firewalls.Firewalld}, by) && f.Policy.AllowIn != by &&
		f.Policy.AllowIn == "" && f.Owner.Kind == fairlead.OwnerFile && fitsAllowIn(f, by) == nil:
		problem.Fix("have fairlead ask "+by+" to let it through, and take that back with the forward", "fairlead edit "+f.Name+" allow-in "+by)
		return
	case slices.Contains([]string{firewalls.Docker, firewalls.UFW, firewalls.Firewalld}, by) && f.Policy.AllowIn == "" && fitsAllowIn(f, by) == nil:
		problem.Fix("have fairlead ask "+by+" to let it through, and take that back with the forward", "fairlead "+f.Expr+" allow-in "+by)
		return
	case culprits[0].owned:
		problem.Fix("ask the program that owns table "+culprits[0].table+" to let it through: it lets nobody else change that", "")
		return
	}
	var commands []string
	for _, by := range culprits {
		if by.owned {
			continue
		}
		for _, command := range o.letThrough(by, f, c, p) {
			if !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	problem.Fix("let it through there, until those rules are loaded anew", strings.Join(commands, " && "))
}

// letThrough are the commands that let a forward's packets and their answers
// through a base chain. One rule is enough for a connection: it is recognised
// by how it began.
func (o *outside) letThrough(by culprit, f *fairlead.Forward, c *carried, p imagined) (commands []string) {
	sudo := "sudo "
	if !by.xt {
		chain := familyWord(by.family) + " " + quoted(by.table) + " " + quoted(by.base)
		insert := func(match string) { commands = append(commands, sudo+"nft insert rule "+chain+" "+match+" accept") }
		ip := "ip"
		if p.v6 {
			ip = "ip6"
		}
		switch {
		case f.Kind == fairlead.KindShare:
			insert(fmt.Sprintf(`iifname '"%s"' oifname '"%s"'`, p.iif, p.oif))
			insert(fmt.Sprintf(`iifname '"%s"' oifname '"%s"' ct state established,related`, p.oif, p.iif))
		case p.translated:
			for _, t := range addressesOf(c, p.v6) {
				insert(fmt.Sprintf("ct status dnat ct reply %s saddr %s", ip, t))
			}
		default:
			for _, proto := range protosOf(f) {
				for _, ports := range f.At.Ports {
					match := ""
					if p.dst.IsValid() && p.hook == "forward" {
						match = fmt.Sprintf("%s daddr %s ", ip, p.dst)
					}
					insert(fmt.Sprintf("%s%s dport %s", match, protoWord(proto), ports))
					if p.dst.IsValid() && p.hook == "forward" {
						insert(fmt.Sprintf("%s saddr %s %s sport %s ct state established", ip, p.dst, protoWord(proto), ports))
					}
				}
			}
		}
		return commands
	}
	program := o.iptables(by.family == nft.IPv6)
	insert := func(match string) {
		table := ""
		if by.table != "filter" {
			table = " -t " + by.table
		}
		commands = append(commands, fmt.Sprintf("%s%s%s -I %s %s -j ACCEPT", sudo, program, table, by.base, match))
	}
	xtRules(f, c, p, insert)
	return commands
}

// xtRules are the matches by which iptables lets a forward through.
func xtRules(f *fairlead.Forward, c *carried, p imagined, insert func(match string)) {
	switch {
	case f.Kind == fairlead.KindShare:
		insert(fmt.Sprintf("-i %s -o %s", p.iif, p.oif))
		insert(fmt.Sprintf("-i %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED", p.oif, p.iif))
	case p.translated:
		for _, proto := range protosOf(f) {
			for _, ports := range f.At.Ports {
				insert(fmt.Sprintf("-m conntrack --ctstate DNAT --ctproto %d --ctorigdstport %s", proto, strings.Replace(ports.String(), "-", ":", 1)))
			}
		}
	default:
		for _, proto := range protosOf(f) {
			for _, ports := range f.At.Ports {
				dst := ""
				if p.dst.IsValid() && p.hook == "forward" {
					dst = " --ctorigdst " + p.dst.String()
				}
				insert(fmt.Sprintf("-m conntrack --ctproto %d%s --ctorigdstport %s", proto, dst, strings.Replace(ports.String(), "-", ":", 1)))
			}
		}
	}
}

// quoted is a table's or a chain's name for a shell, where it needs that.
func quoted(name string) string {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") == "" {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// iptables is the program that keeps its rules in nftables: the plain name may
// be the older one.
func (o *outside) iptables(v6 bool) string {
	if name := o.programs[v6]; name != "" {
		return name
	}
	name := "iptables"
	if v6 {
		name = "ip6tables"
	}
	if _, err := exec.LookPath(name + "-nft"); err == nil {
		name += "-nft"
	}
	o.programs[v6] = name
	return name
}

func protosOf(f *fairlead.Forward) (list []uint8) {
	if f.At.Net&fairlead.TCP != 0 {
		list = append(list, 6)
	}
	if f.At.Net&fairlead.UDP != 0 {
		list = append(list, 17)
	}
	return list
}

func protoWord(p uint8) string {
	if p == 17 {
		return "udp"
	}
	return "tcp"
}

// addressesOf are the addresses of a forward's targets of a family.
func addressesOf(c *carried, v6 bool) (list []netip.Addr) {
	for _, t := range c.part.targets {
		if a := t.Addr().Unmap(); a.Is6() == v6 && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// tuplesOf are packets of new connections of a forward, one for each way that
// rules may tell apart: by interface, protocol and family, target, and the first
// port of each range.
func tuplesOf(c *carried, w *world) (list []imagined) {
	f := c.part.f
	add := func(p imagined) {
		if len(list) < mostTuples {
			list = append(list, p)
		}
	}
	if f.Kind == fairlead.KindShare {
		for _, to := range f.To {
			for _, lan := range w.side(f.At.Where) {
				for _, wan := range w.side(to.Host) {
					add(imagined{hook: "forward", proto: 6, iif: lan, oif: wan})
				}
			}
		}
		return list
	}
	for _, iif := range entersBy(f, w) {
		for _, proto := range protosOf(f) {
			for i, at := 0, f.At.Ports; i < len(at); i++ {
				port := at[i].First
				if f.Kind == fairlead.KindOpen {
					for _, p := range opened(f, c, w) {
						p.iif, p.proto, p.dport = iif, proto, port
						add(p)
					}
					continue
				}
				for j, t := range c.part.targets {
					p := imagined{hook: "forward", v6: t.Addr().Is6(), proto: proto, iif: iif, dst: t.Addr().Unmap(), dport: t.Port(), translated: true, askedPort: port}
					if f.At.Addr.IsValid() && !f.At.Addr.IsUnspecified() {
						if p.asked = f.At.Addr.Unmap(); p.asked.Is6() != p.v6 {
							continue
						}
					}
					if i > 0 {
						p.dport = 0 // the target's port is that of the first range
					}
					if j < len(c.ways) {
						p.oif = c.ways[j].oif
						if c.ways[j].local {
							p.hook, p.oif = "input", ""
						}
					}
					add(p)
				}
			}
		}
	}
	return list
}

// opened are the packets that a pinhole lets in, without their protocol and port.
func opened(f *fairlead.Forward, c *carried, w *world) (list []imagined) {
	if toSelf(f) {
		return []imagined{{hook: "input"}, {hook: "input", v6: true}}
	}
	addrs := addressesOf(c, false)
	addrs = append(addrs, addressesOf(c, true)...)
	if len(addrs) == 0 && f.At.Addr.IsValid() {
		addrs = append(addrs, f.At.Addr.Unmap())
	}
	for _, a := range addrs {
		p := imagined{hook: "forward", v6: a.Is6(), dst: a, oif: w.linkOf(a)}
		if w.has(a) {
			p.hook, p.oif = "input", ""
		}
		list = append(list, p)
	}
	return list
}

// has reports whether an address is this host's.
func (w *world) has(a netip.Addr) bool {
	for _, nets := range w.addrs {
		for _, n := range nets {
			if n.Addr() == a {
				return true
			}
		}
	}
	return false
}

// entersBy are the interfaces by which a forward's clients come; "" is any.
func entersBy(f *fairlead.Forward, w *world) []string {
	switch {
	case f.At.Where != "":
		return w.side(f.At.Where)
	case f.At.Addr.IsValid() && !f.At.Addr.IsUnspecified():
		for name, nets := range w.addrs {
			for _, n := range nets {
				if n.Addr() == f.At.Addr.Unmap() && name != "lo" {
					return []string{name}
				}
			}
		}
	case f.At.Loopback():
		return nil // they do not leave this host
	}
	return []string{""}
}

// legacyProblem names a policy of the old iptables, which no rule of nftables
// shows. With rules beside it nobody can tell what it does.
func (o *outside) legacyProblem(c *carried, tuples []imagined) *fairlead.Problem {
	for _, p := range tuples {
		chain := strings.ToUpper(p.hook)
		l, ok := o.legacy[p.v6][chain]
		if !ok || !l.Drop {
			continue
		}
		program := "iptables-legacy"
		if p.v6 {
			program = "ip6tables-legacy"
		}
		var matches []string
		xtRules(c.part.f, c, p, func(match string) { matches = append(matches, match) })
		if !slices.ContainsFunc(matches, func(m string) bool { return !slices.Contains(l.Rules, m+" -j ACCEPT") }) {
			continue // the fix below was made
		}
		verb := "are dropped"
		if len(l.Rules) > 0 {
			verb = "may be dropped"
		}
		problem := fairlead.Problemf(fairlead.CodeForeignDrop, "packets for %q %s by a rule that is not fairlead's: %s, table filter, chain %s, policy drop", c.part.f.Name, verb, program, chain)
		problem.Warning = len(l.Rules) > 0
		problem.Note("why", "these rules are beside nftables: neither nft nor a trace shows them; %s-save does", program)
		var commands []string
		for _, match := range matches {
			commands = append(commands, fmt.Sprintf("sudo %s -I %s %s -j ACCEPT", program, chain, match))
		}
		return problem.Fix("let it through there, until those rules are loaded anew", strings.Join(commands, " && "))
	}
	return nil
}

// setHoles is firewalls.Set in the carrier's network.
func (k *Kernel) setHoles(ctx context.Context, firewall string, holes []firewalls.Hole) error {
	return k.inside(func() error {
		_, err := firewalls.Set(ctx, firewall, k.cfg.Table, holes)
		return err
	})
}
