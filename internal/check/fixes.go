package check

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/nft"
)

// words is the command that says words of the forward anew.
func (q *Question) words(words string) string {
	if q.Edit != "" {
		return q.Edit + " " + words
	}
	f, problems := config.Amend(q.Forward, strings.Fields(words))
	if len(problems) > 0 {
		return "fairlead " + q.Forward.Expr + " " + words
	}
	return "fairlead " + config.Sentence(f)
}

// rewrite is the command that makes g of the forward, a whole sentence.
func (q *Question) rewrite(g *fairlead.Forward) string {
	if q.Edit != "" {
		return q.Edit + " " + config.Sentence(g)
	}
	return "fairlead " + config.Sentence(g)
}

// told is what the service says is wrong, as the end of a walk: with one way
// out, which changes the forward where the service had one to begin anew.
func (q *Question) told(p *fairlead.Problem) *fairlead.Problem {
	own := *p
	own.Warning = false
	own.Fixes = nil
	if len(p.Fixes) == 0 {
		return &own
	}
	fix := p.Fixes[0]
	kind := "fairlead " + string(q.Forward.Kind) + " "
	if words, ok := strings.CutPrefix(fix.Command, kind); ok && q.Edit != "" {
		fix.Command = q.Edit + " " + string(q.Forward.Kind) + " " + words
	}
	own.Fixes = []fairlead.Fix{fix}
	return &own
}

// enable is the command that switches it on.
func (q *Question) enable() string {
	if q.Edit != "" {
		return strings.Replace(q.Edit, " edit ", " enable ", 1)
	}
	g := *q.Forward
	g.Disabled = false
	return "fairlead " + config.Sentence(&g)
}

// place1 is where a step happened, in words: "table ip filter, chain FORWARD,
// policy drop".
func place1(s *sight) string {
	text := fmt.Sprintf("table %s %s, chain %s", familyText(s.Family), s.Table, s.Chain)
	switch {
	case s.Kind == nft.TracePolicy:
		text += ", policy " + s.Verdict
	case ruleText(s) != "":
		text += ", rule: " + ruleText(s)
	default:
		text += ", verdict " + s.Verdict
	}
	return text
}

func familyText(f nft.Family) string {
	switch f {
	case nft.Inet:
		return "inet"
	case nft.IPv4:
		return "ip"
	case nft.IPv6:
		return "ip6"
	case nft.Bridge:
		return "bridge"
	case nft.Netdev:
		return "netdev"
	case nft.ARP:
		return "arp"
	}
	return fmt.Sprint(int(f))
}

// ruleOf is who rewrote the packet: the table and the chain of the last rule
// before the packet was routed.
func (w *walk) ruleOf(p *passage) string {
	for i := range p.steps {
		s := &p.steps[i]
		if isMine(s.Table, w.q.Table) && s.Kind == nft.TraceRule && s.Verdict == "accept" {
			return fmt.Sprintf("table %s %s, chain %s", familyText(s.Family), s.Table, s.Chain)
		}
	}
	return ""
}

// ownDrop: the forward's own conditions turn the client away.
func (w *walk) ownDrop(s *sight) *Report {
	f := w.q.Forward
	p := fairlead.Problemf(fairlead.CodeTurnedAway, "fairlead's own rules turn %s away", w.from).
		Note("by", "%s", place1(s))
	w.conditions(p, f)
	return w.r.broken(p)
}

// conditions says which word of the sentence turns the client away, with the
// sentence that would not.
func (w *walk) conditions(p *fairlead.Problem, f *fairlead.Forward) {
	g := *f
	for _, d := range f.Policy.Deny {
		if d.Contains(w.from) {
			p.Note("why", "the sentence says \"deny %s\"", d)
			g.Policy.Deny = nil
			for _, other := range f.Policy.Deny {
				if other != d {
					g.Policy.Deny = append(g.Policy.Deny, other)
				}
			}
			p.Fix("take that away", w.q.rewrite(&g))
			return
		}
	}
	if len(f.To) > 0 && len(meantFor(f, w.from)) == 0 {
		p.Note("why", "no target of the sentence is for such clients (\"from\")")
		g.To = append([]fairlead.Target(nil), f.To...)
		g.To[0].From = append(append([]netip.Prefix(nil), g.To[0].From...), netip.PrefixFrom(w.from, w.from.BitLen()))
		p.Fix("let this one in", w.q.rewrite(&g))
		return
	}
	if len(f.Policy.Schedule) > 0 && w.q.Problem != nil && w.q.Problem.Code == fairlead.CodeOutsideSchedule {
		p.Note("why", "%s", w.q.Problem.What)
		g.Policy.Schedule = nil
		p.Fix("let clients in at any time", w.q.rewrite(&g))
		return
	}
	if n := f.Policy.MaxConns; n > 0 && w.q.Active >= int64(n) {
		p.Note("why", "%d connections are open, and the sentence says \"max-conns %d\"", w.q.Active, n)
		p.Fix("allow more", w.q.words(fmt.Sprintf("max-conns %d", 2*n)))
		return
	}
	if over := w.q.Problem; over != nil && over.Code == fairlead.CodeTimeOver {
		p.Note("why", "%s", over.What)
		p.Fixes = w.q.told(over).Fixes
		return
	}
	p.Note("why", "its guard or one of its limits does; the rule above says which")
}

// foreignDrop: a rule that is not ours ends the way. back is whether it is the
// way of the answer.
func (w *walk) foreignDrop(s *sight, p *passage, local, back bool) *fairlead.Problem {
	what := "packets for " + w.what()
	if back {
		what = "the answers of " + w.what()
	}
	problem := fairlead.Problemf(fairlead.CodeForeignDrop, "%s are dropped by a rule that is not fairlead's", what)
	by := place1(s)
	who := w.whose(s)
	if who != "" {
		by += "  (" + who + ")"
	}
	problem.Note("by", "%s", by).
		Note("why", "in nftables an accept ends only the tables' own chain, and a drop anywhere ends the packet")
	problem.Fixes = append(problem.Fixes, w.letThrough(s, p, who, local))
	return problem
}

// whose is which program's a table is, as far as names tell: docker, ufw,
// firewalld, "iptables-nft", or "".
func (w *walk) whose(s *sight) string {
	if s.Table == "firewalld" {
		return "firewalld"
	}
	if !xtables(s) {
		return ""
	}
	chains := chainsOf(s.Family, s.Table)
	has := func(prefix string) bool {
		for _, c := range chains {
			if strings.HasPrefix(c, prefix) {
				return true
			}
		}
		return false
	}
	switch {
	case strings.HasPrefix(s.Chain, "ufw"), has("ufw-before"), has("ufw6-before"):
		return "ufw"
	case strings.HasPrefix(s.Chain, "DOCKER"), has("DOCKER-USER") && s.base == "FORWARD":
		return "docker"
	}
	return "iptables-nft"
}

// xtables reports whether the table is one that iptables-nft keeps, which nft
// had better not edit.
func xtables(s *sight) bool {
	if s.Family != nft.IPv4 && s.Family != nft.IPv6 {
		return false
	}
	switch s.Table {
	case "filter", "mangle", "nat", "raw", "security":
		return s.base == strings.ToUpper(s.base)
	}
	return false
}

// letThrough is the one fix for a foreign drop. With the program's own
// interface where it has one: a rule put into its tables would go with its next
// reload.
func (w *walk) letThrough(s *sight, p *passage, who string, local bool) fairlead.Fix {
	port, network := w.at.Port(), w.r.Network
	if entry := p.station(chainLocal); entry != nil && !p.back {
		port = entry.packet.Dst.Port()
	}
	// What comes before the translation knows nothing of it, and what comes before
	// connection tracking nothing of connections.
	early := !local && !p.back && w.rewrites() && s.packet.Dst == w.at
	switch {
	case local && who == "ufw":
		return fairlead.Fix{Text: "open the port there", Command: fmt.Sprintf("ufw allow %d/%s", port, network)}
	case local && who == "firewalld":
		return fairlead.Fix{Text: "open the port there", Command: fmt.Sprintf("firewall-cmd --add-port=%d/%s", port, network)}
	case !local && w.q.Forward.Policy.AllowIn != who && (who == "ufw" || who == "docker" || who == "firewalld"):
		return fairlead.Fix{Text: "let fairlead ask " + who + " to let it through, and to forget that with the forward", Command: w.q.words("allow-in " + who)}
	case xtables(s):
		program := iptables(s.Family == nft.IPv6)
		if s.Table != "filter" {
			program += " -t " + s.Table
		}
		match := fmt.Sprintf("-p %s -m conntrack --ctstate DNAT --ctorigdstport %d", network, w.at.Port())
		if local || !w.rewrites() {
			match = fmt.Sprintf("-p %s -m conntrack --ctorigdstport %d", network, w.at.Port())
		}
		if early {
			match = fmt.Sprintf("-d %s -p %s --dport %d", w.at.Addr(), network, w.at.Port())
		}
		return fairlead.Fix{Text: "let this forward through", Command: fmt.Sprintf("%s -I %s %s -j ACCEPT", program, s.base, match)}
	}
	match := "ct status dnat"
	if early {
		match = fmt.Sprintf("%s daddr %s %s dport %d", addressWord(w.at.Addr()), w.at.Addr(), network, w.at.Port())
	} else if local || !w.rewrites() {
		match = fmt.Sprintf("%s dport %d", network, port)
		if p.back {
			match = "ct state established"
		}
	}
	return fairlead.Fix{Text: "let it through there", Command: fmt.Sprintf("nft insert rule %s %s %s %s accept", familyText(s.Family), s.Table, s.base, match)}
}

// addressWord is what nft calls an address of that family.
func addressWord(a netip.Addr) string {
	if a.Is6() {
		return "ip6"
	}
	return "ip"
}

// refused: the target says that nobody listens there.
func (w *walk) refused(ctx context.Context, dst netip.AddrPort, local bool) *fairlead.Problem {
	on := dst.Addr().String()
	if local {
		on = "this host"
	}
	p := fairlead.Problemf(fairlead.CodeTargetRefuses, "%s refuses: %s is up, and nothing listens at port %d", dst, on, dst.Port())
	if other := w.otherPort(ctx, dst); other != 0 {
		host := dst.Addr().String()
		if dst.Addr().Is6() {
			host = "[" + host + "]"
		}
		if local {
			host = "self"
		}
		return p.Note("why", "it does listen at port %d", other).
			Fix("lead there, if that is the service", w.q.words(fmt.Sprintf("to %s:%d", host, other)))
	}
	return p.Fix("start the service on "+on+", or correct the port", w.q.words("to "+hostOf(w.q.Forward)+":PORT"))
}

func hostOf(f *fairlead.Forward) string {
	if len(f.To) == 0 {
		return "HOST"
	}
	if h := f.To[0].Host; !strings.Contains(h, ":") {
		return h
	}
	return "[" + f.To[0].Host + "]"
}

// otherPort is a port of the target at which it does listen, of the few that
// such a mistake is usually about: the one listened at here, and those that
// services of the same sort have. 0 without one.
func (w *walk) otherPort(ctx context.Context, dst netip.AddrPort) uint16 {
	if w.r.Network != "tcp" {
		return 0
	}
	usual := []uint16{w.at.Port()}
	for _, group := range [][]uint16{{80, 8080, 8000, 3000}, {443, 8443}, {22, 2222}, {25, 587}} {
		for _, p := range group {
			if p == dst.Port() || p == w.at.Port() {
				usual = append(usual, group...)
				break
			}
		}
	}
	tried := map[uint16]bool{dst.Port(): true}
	for _, port := range usual {
		if tried[port] || len(tried) > 6 {
			continue
		}
		tried[port] = true
		at := netip.AddrPortFrom(dst.Addr(), port)
		if w.host.mine(dst.Addr()) && port == w.at.Port() {
			continue // that is the forward itself
		}
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		err := w.connect(ctx, at)
		cancel()
		if err == nil {
			return port
		}
	}
	return 0
}

// targetDown: no machine has the target's address.
func (w *walk) targetDown(dst netip.AddrPort, i *netmon.Interface) *fairlead.Problem {
	asked := "ARP"
	if dst.Addr().Is6() {
		asked = "neighbour discovery"
	}
	return fairlead.Problemf(fairlead.CodeTargetUnreachable, "no machine answers for %s on %s: it is switched off, or has another address", dst.Addr(), i.Name).
		Note("why", "%s was asked for by %s, and did not answer", dst.Addr(), asked).
		Fix("switch it on, or say its present address", w.q.words(fmt.Sprintf("to HOST:%d", dst.Port())))
}

// targetFirewall: the machine is there, and its port does not answer anybody.
func (w *walk) targetFirewall(dst netip.AddrPort, why string) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeTargetSilent, "%s does not answer, and this host gets no answer from it either", dst)
	if i := w.host.near(dst.Addr()); i != nil && why == "" {
		why = fmt.Sprintf("the machine is up, as it answers for its address on %s: its own firewall drops the packets", i.Name)
	} else if why == "" {
		why = "the machine is off, or a firewall on the way to it or on it drops the packets"
	}
	return p.Note("why", "%s", why).
		Fix("open the port on "+dst.Addr().String()+", there: or with the firewall that it has",
			fmt.Sprintf("%s -I INPUT -p %s --dport %d -j ACCEPT", iptables(dst.Addr().Is6()), w.r.Network, dst.Port()))
}

// iptables is the program that edits the tables of iptables-nft here.
func iptables(v6 bool) string {
	name := "iptables"
	if v6 {
		name = "ip6tables"
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if legacyProgram(dir + name) {
			return name + "-nft"
		}
	}
	return name
}

// legacyTables are the tables of iptables-legacy that are in use.
func legacyTables(v6 bool) []string {
	name := "/proc/net/ip_tables_names"
	if v6 {
		name = "/proc/net/ip6_tables_names"
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

func joined(list []string) string { return strings.Join(list, ", ") }
