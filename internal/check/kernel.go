package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"fairlead"
	"fairlead/internal/place"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/wire/packet"
)

// judgeKernel says what the trace of a packet means that the kernel leads.
func (w *walk) judgeKernel(ctx context.Context) *Report {
	there := w.seen.there()
	if there == nil {
		return w.neverSeen()
	}
	entry := there.station(chainRouted)
	local := entry == nil && there.station(chainLocal) != nil
	if local {
		entry = there.station(chainLocal)
	}
	if w.link == "" && entry == nil { // what begins here has neither
		if entry = there.station(chainLeft); entry == nil {
			entry = &there.steps[len(there.steps)-1]
		}
	}
	drop := there.drop()

	// To where it was rewritten.
	dst := w.at
	switch {
	case entry != nil:
		dst = entry.packet.Dst
	default:
		dst = w.meant(there)
	}
	rewriting := w.rewrites()
	switch {
	case drop != nil && isMine(drop.Table, w.q.Table) && entry == nil: // before it was rewritten
	case rewriting && dst == w.at && entry != nil:
		return w.notRewritten(drop)
	case rewriting && dst != w.at:
		w.r.add(stepRewritten, OK, "to "+dst.String(), w.ruleOf(there))
		w.r.Target = dst.String()
	case rewriting:
		w.r.add(stepRewritten, Unknown, "", "it was not seen")
	}

	// Who drops it on the way.
	switch {
	case drop != nil && isMine(drop.Table, w.q.Table):
		w.r.add(stepOwn, Bad, "drop", place1(drop))
		return w.ownDrop(drop)
	case drop != nil:
		w.r.add(stepOwn, OK, "accept", "")
		w.r.add(stepOther, Bad, "drop", place1(drop))
		w.wouldBe(stepRoute, stepTarget, stepBack)
		return w.r.broken(w.foreignDrop(drop, there, local, false))
	}
	w.r.add(stepOwn, OK, "accept", "")

	left, taken := there.station(chainLeft), there.station(chainTaken)
	switch {
	case left == nil && taken == nil && entry == nil && w.link != "":
		w.r.add(stepOther, OK, "accept", "")
		return w.lostInRouting(dst)
	case left == nil && taken == nil && w.link != "":
		return w.lostInHook(there, local)
	}
	w.r.add(stepOther, OK, "accept", "")
	switch {
	case taken != nil || local:
		w.r.add(stepRoute, OK, "to this host", "")
	case left != nil:
		w.r.add(stepRoute, OK, "by "+left.OIF, w.routeText(dst))
	}
	return w.judgeAnswer(ctx, there, dst, local)
}

// rewrites reports whether the destination has to become another one.
func (w *walk) rewrites() bool {
	f := w.q.Forward
	if f.Kind == fairlead.KindOpen {
		return false
	}
	for i := range f.To {
		if t := &f.To[i]; t.Host != "self" || t.Port(f.At.Ports, w.i) != w.at.Port() {
			return true
		}
	}
	return false
}

// meant is where the packet would go, as far as the trace tells: nat rules come
// after all that is seen of a packet that routing refused, so that the sentence
// has to say it.
func (w *walk) meant(p *passage) netip.AddrPort {
	for _, t := range meantFor(w.q.Forward, w.from) {
		a, err := netip.ParseAddr(t.Host)
		if err == nil {
			return netip.AddrPortFrom(a, t.Port(w.q.Forward.At.Ports, w.i))
		}
	}
	return w.at
}

func (w *walk) neverSeen() *Report {
	w.r.add(stepOther, Unknown, "", "the probe came by none of nftables' hooks")
	return w.r.untested(fairlead.Problemf(fairlead.CodeUntested, "the probe was not seen again after it came in at %s", w.link).
		Note("why", "something before nftables takes packets there: XDP, traffic control, or a bridge that %s belongs to", w.link).
		Fix("look what is there", "tc filter show dev "+w.link+" ingress"))
}

// notRewritten: nothing of fairlead's took hold.
func (w *walk) notRewritten(drop *sight) *Report {
	evidence := "no rule of fairlead's took hold"
	w.r.add(stepRewritten, Bad, "no", evidence)
	w.wouldBe(stepOwn, stepOther, stepRoute, stepTarget, stepBack)
	return w.r.broken(w.notCarried())
}

// notCarried is why nobody carries the forward: what the service says, else
// that it does not run or does not know it.
func (w *walk) notCarried() *fairlead.Problem {
	q := w.q
	if q.Problem != nil && !q.Problem.Warning {
		return q.told(q.Problem)
	}
	p := fairlead.Problemf(fairlead.CodeNotCarried, "nothing carries %s", w.what())
	switch {
	case q.Running && q.Problem != nil:
		return q.told(q.Problem)
	case q.Running:
		p.Note("why", "the service says that it is %s, and the kernel does not do it: the table may have been flushed, or it is for other clients", q.State)
		return p.Fix("have it loaded anew", "fairlead reload")
	case q.Edit != "":
		return p.Note("why", "it is written down, and no service runs").Fix("start the service", "fairlead up")
	}
	return p.Note("why", "it is only a sentence so far").Fix("have it carried", "fairlead add "+q.Forward.Expr)
}

func (w *walk) what() string {
	if w.q.Forward.Name != "" {
		return fmt.Sprintf("%q", w.q.Forward.Name)
	}
	return w.q.Forward.At.String()
}

// wouldBe adds steps that were not come to.
func (w *walk) wouldBe(steps ...string) {
	for _, s := range steps {
		w.r.add(s, Skipped, "", "")
	}
}

func (w *walk) routeText(dst netip.AddrPort) string {
	route, err := netmon.RouteOf(netip.Addr{}, dst.Addr(), "")
	switch {
	case err != nil:
		return ""
	case route.Via.IsValid():
		return "via " + route.Via.String()
	}
	return dst.Addr().String() + " is a neighbour"
}

// lostInRouting: it came in, and routing threw it away.
func (w *walk) lostInRouting(dst netip.AddrPort) *Report {
	_, err := netmon.RouteOf(w.from, dst.Addr(), w.link)
	fail := func(evidence string, p *fairlead.Problem) *Report {
		w.r.add(stepRoute, Bad, "none", evidence)
		w.wouldBe(stepTarget, stepBack)
		return w.r.broken(p)
	}
	v6 := dst.Addr().Is6()
	all, own, known := netmon.Forwards(w.link, v6)
	mode := netmon.ReversePath(w.link)
	switch {
	case dst.Addr().IsLoopback():
		g := *w.q.Forward
		g.To = append([]fairlead.Target(nil), g.To...)
		for i := range g.To {
			if a, err := netip.ParseAddr(g.To[i].Host); err == nil && a.IsLoopback() {
				g.To[i].Host = "self"
			}
		}
		return fail("a loopback address, from outside", fairlead.Problemf(fairlead.CodeLoopbackNAT, "the kernel leads nothing from outside to %s", dst.Addr()).
			Note("why", "a loopback address in a packet that came in by %s is a martian (RFC 1812, 5.3.7)", w.link).
			Fix("say self: the port alone is rewritten", w.q.rewrite(&g)))
	case known && (!own || v6 && !all):
		key, value := "net.ipv4.ip_forward", "0"
		switch {
		case v6:
			key = "net.ipv6.conf.all.forwarding"
		case all:
			key = "net.ipv4.conf." + w.link + ".forwarding"
		}
		p := fairlead.Problemf(fairlead.CodeForwardingOff, "forwarding of IPv%d is off (%s = %s)", version(v6), key, value).
			Note("why", "the kernel passes nothing on between its interfaces then")
		if v6 {
			p.Note("note", "an interface that gets its address from router advertisements needs accept_ra = 2 with it")
		}
		p.Note("note", "for good, and with the service: fairlead install --forwarding")
		return fail(key+" = "+value, p.Fix("switch it on, for now", "sysctl -w "+key+"=1"))
	case errors.Is(err, netmon.ErrSource) && mode > 0:
		evidence := fmt.Sprintf("rp_filter = %d on %s", mode, w.link)
		p := fairlead.Problemf(fairlead.CodeReversePath, "the check of the reverse path drops the packet on %s", w.link)
		if back, err := netmon.RouteOf(netip.Addr{}, w.from, ""); err == nil {
			evidence += fmt.Sprintf(", and the route back to %s leaves by %s", w.from, back.Interface)
			p.Note("why", "the route back to %s leaves by %s (rp_filter = %d)", w.from, back.Interface, mode)
		} else {
			p.Note("why", "no route leads back to %s (rp_filter = %d)", w.from, mode)
		}
		return fail(evidence, p.Fix("accept any route back (loose mode, RFC 3704)", "sysctl -w net.ipv4.conf."+w.link+".rp_filter=2"))
	case errors.Is(err, netmon.ErrSource):
		return fail("the kernel takes "+w.from.String()+" for a martian there",
			fairlead.Problemf(fairlead.CodeReversePath, "packets from %s are not accepted on %s", w.from, w.link).
				Note("why", "the kernel takes that address for a martian there: it may be one of this host's own networks"))
	case err != nil:
		return fail("no route to "+dst.Addr().String(), fairlead.Problemf(fairlead.CodeTargetUnreachable, "this host has no route to %s", dst.Addr()).
			Note("why", "%v", err).
			Fix("add one", "ip route add "+dst.Addr().String()+" via ROUTER"))
	}
	return w.vanished("behind prerouting")
}

func version(v6 bool) int {
	if v6 {
		return 6
	}
	return 4
}

// lostInHook: it came to a hook and not to its end, and no rule of nftables
// dropped it.
func (w *walk) lostInHook(there *passage, local bool) *Report {
	hook := "forward"
	if local {
		hook = "input"
	}
	return w.vanished("in the " + hook + " hook")
}

// vanished: something that the trace does not show took it.
func (w *walk) vanished(where string) *Report {
	evidence := "it vanished " + where + ", and no rule of nftables did it"
	if where == "on the way back" {
		w.r.add(stepBack, Bad, "none", evidence)
	} else {
		w.r.add(stepOther, Bad, "drop", evidence)
		w.wouldBe(stepRoute, stepTarget, stepBack)
	}
	if tables := legacyTables(w.at.Addr().Is6()); len(tables) > 0 {
		program := "iptables-legacy"
		if w.at.Addr().Is6() {
			program = "ip6tables-legacy"
		}
		chain := "FORWARD"
		extra := " -m conntrack --ctstate DNAT"
		if where == "in the input hook" {
			chain, extra = "INPUT", fmt.Sprintf(" -p %s --dport %d", w.r.Network, w.at.Port())
		}
		return w.r.broken(fairlead.Problemf(fairlead.CodeForeignDrop, "packets for %s are dropped by rules of iptables-legacy", w.what()).
			Note("why", "the probe vanished %s; no rule of nftables dropped it, and the tables of iptables-legacy are in use (%s), which no trace shows", where, joined(tables)).
			Note("note", "see them with: %s-save", program).
			Fix("let forwarded connections through", program+" -I "+chain+extra+" -j ACCEPT"))
	}
	return w.r.untested(fairlead.Problemf(fairlead.CodeUntested, "the probe vanished %s", where).
		Note("why", "no rule of nftables dropped it; another part of the kernel did (IPsec, a security module, eBPF)"))
}

// judgeAnswer says what came of a packet that left for the target, or was taken
// by this host.
func (w *walk) judgeAnswer(ctx context.Context, there *passage, dst netip.AddrPort, local bool) *Report {
	answer := w.seen.answer()
	if w.link == "" {
		return w.judgeOwn(ctx, there, dst)
	}
	if answer == nil {
		return w.noAnswer(ctx, there, dst, local)
	}
	first := answer.steps[0].packet
	said := w.answerText(first)
	switch {
	case refusal(first):
		w.r.add(stepTarget, Bad, dst.String(), said)
		w.wouldBe(stepBack)
		return w.r.broken(w.refused(ctx, dst, local))
	case first.Proto == packet.ICMP || first.Proto == packet.ICMPv6:
		w.r.add(stepTarget, Bad, dst.String(), said)
		w.wouldBe(stepBack)
		return w.r.broken(w.icmpError(ctx, first, dst))
	}
	w.r.add(stepTarget, OK, dst.String(), said)
	switch drop := answer.drop(); {
	case drop != nil && isMine(drop.Table, w.q.Table):
		w.r.add(stepBack, Bad, "drop", place1(drop))
		return w.ownDrop(drop)
	case drop != nil:
		w.r.add(stepBack, Bad, "drop", place1(drop))
		return w.r.broken(w.foreignDrop(drop, answer, local, true))
	case answer.station(chainLeft) == nil:
		return w.answerLost(first)
	}
	w.r.add(stepBack, OK, "through this host", "the answer was on its way to "+w.from.String()+", and was kept here")
	w.r.Outcome = Works
	return w.r
}

// answerText is what an answer says.
func (w *walk) answerText(p packet.Packet) string {
	switch {
	case p.Proto == packet.TCP && p.Flags&packet.RST != 0:
		return "it refuses (RST)"
	case p.Proto == packet.TCP:
		return "it answers (SYN-ACK)"
	case p.Proto == packet.UDP:
		return "it answers"
	}
	return fmt.Sprintf("ICMP error from %s: %s", p.Src.Addr(), icmpText(p))
}

// refusal reports whether nobody listens at the target's port.
func refusal(p packet.Packet) bool {
	switch p.Proto {
	case packet.TCP:
		return p.Flags&packet.RST != 0
	case packet.ICMP:
		return p.Type == 3 && p.Code == 3
	case packet.ICMPv6:
		return p.Type == 1 && p.Code == 4
	}
	return false
}

// icmpText is an ICMP error in words (RFC 792, RFC 1812, RFC 4443).
func icmpText(p packet.Packet) string {
	v4 := map[uint8]string{0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
		4: "too large", 9: "network prohibited", 10: "host prohibited", 13: "prohibited by a filter"}
	v6 := map[uint8]string{0: "no route", 1: "prohibited by a filter", 3: "address unreachable", 4: "port unreachable",
		5: "source not accepted", 6: "route rejected"}
	switch {
	case p.Proto == packet.ICMP && p.Type == 3 && v4[p.Code] != "":
		return v4[p.Code]
	case p.Proto == packet.ICMPv6 && p.Type == 1 && v6[p.Code] != "":
		return v6[p.Code]
	}
	return fmt.Sprintf("type %d, code %d", p.Type, p.Code)
}

func (w *walk) icmpError(ctx context.Context, p packet.Packet, dst netip.AddrPort) *fairlead.Problem {
	prohibited := p.Proto == packet.ICMP && p.Type == 3 && (p.Code == 9 || p.Code == 10 || p.Code == 13) ||
		p.Proto == packet.ICMPv6 && p.Type == 1 && (p.Code == 1 || p.Code == 5 || p.Code == 6)
	if prohibited {
		return w.targetFirewall(dst, fmt.Sprintf("%s says %q", p.Src.Addr(), icmpText(p)))
	}
	if w.host.mine(p.Src.Addr()) {
		if i := w.host.near(dst.Addr()); i != nil {
			return w.targetDown(dst, i)
		}
	}
	return fairlead.Problemf(fairlead.CodeTargetUnreachable, "%s cannot be reached", dst.Addr()).
		Note("why", "%s says %q", p.Src.Addr(), icmpText(p)).
		Fix("correct the target's address", w.q.words("to HOST:"+fmt.Sprint(dst.Port())))
}

// noAnswer: it left for the target, or was taken here, and nothing came back.
func (w *walk) noAnswer(ctx context.Context, there *passage, dst netip.AddrPort, local bool) *Report {
	if w.r.Network == "udp" {
		return w.udpSilence(ctx, there, dst, local)
	}
	if local {
		w.r.add(stepTarget, Bad, dst.String(), "it does not answer")
		return w.r.broken(fairlead.Problemf(fairlead.CodeTargetSilent, "%s on this host does not answer", dst).
			Note("why", "the packet was taken by this host, and no program answered: its queue of connections may be full").
			Fix("see who listens", fmt.Sprintf("ss -ltnp sport = :%d", dst.Port())))
	}
	direct := w.dialTarget(ctx, dst)
	switch reason := place.ReasonOf(direct); {
	case direct == nil:
		w.r.add(stepTarget, OK, dst.String(), "it answers when asked by this host")
		return w.noWayBack(there, dst)
	case reason == fairlead.Refused:
		w.r.add(stepTarget, Bad, dst.String(), "it refuses when asked by this host")
		w.wouldBe(stepBack)
		return w.r.broken(w.refused(ctx, dst, false))
	}
	if i := w.host.near(dst.Addr()); i != nil {
		if gone(ctx, i, dst.Addr()) {
			w.r.add(stepTarget, Bad, dst.String(), "no machine answers for that address on "+i.Name)
			w.wouldBe(stepBack)
			return w.r.broken(w.targetDown(dst, i))
		}
	}
	w.r.add(stepTarget, Bad, dst.String(), "it does not answer, this host neither")
	w.wouldBe(stepBack)
	return w.r.broken(w.targetFirewall(dst, ""))
}

// answerLost: the target's answer came here, and went no further.
func (w *walk) answerLost(p packet.Packet) *Report {
	_, err := netmon.RouteOf(p.Src.Addr(), w.from, w.backLink())
	w.r.add(stepBack, Bad, "none", "the answer came here and was not led on")
	if errors.Is(err, netmon.ErrNoRoute) {
		return w.r.broken(fairlead.Problemf(fairlead.CodeNoWayBack, "this host has no route back to %s", w.from).
			Fix("add one", "ip route add "+w.from.String()+" via ROUTER"))
	}
	if errors.Is(err, netmon.ErrSource) {
		link := w.backLink()
		return w.r.broken(fairlead.Problemf(fairlead.CodeReversePath, "the check of the reverse path drops the target's answers on %s", link).
			Note("why", "the route to %s leaves by another interface (rp_filter = %d)", p.Src.Addr(), netmon.ReversePath(link)).
			Fix("accept any route back (loose mode, RFC 3704)", "sysctl -w net.ipv4.conf."+link+".rp_filter=2"))
	}
	w.r.Steps = w.r.Steps[:len(w.r.Steps)-1]
	return w.vanished("on the way back")
}

// backLink is the interface by which the answer came.
func (w *walk) backLink() string {
	if a := w.seen.answer(); a != nil {
		for i := range a.steps {
			if a.steps[i].IIF != "" {
				return a.steps[i].IIF
			}
		}
	}
	return ""
}

// noWayBack: the target answers us, and did not answer the client through us.
func (w *walk) noWayBack(there *passage, dst netip.AddrPort) *Report {
	left := there.station(chainLeft)
	kept := left != nil && left.packet.Src.Addr() == w.from
	near := w.host.near(dst.Addr())
	if kept && near != nil && w.host.near(w.from) == near {
		w.r.add(stepBack, Bad, "past this host", "client and target are neighbours on "+near.Name)
		p := fairlead.Problemf(fairlead.CodeNoHairpin, "%s and %s are both on %s, and answer each other directly", w.from, dst.Addr(), near.Name).
			Note("why", "the client asked %s and takes no answer from %s; the source has to be rewritten for such clients (hairpin)", w.at.Addr(), dst.Addr())
		if w.q.Forward.Policy.Source == "keep" {
			g := *w.q.Forward
			g.Policy.Source = ""
			return w.r.broken(p.Fix("do not insist on the source: without \"source keep\" it is rewritten only for these", w.q.rewrite(&g)))
		}
		return w.r.broken(p.Fix("rewrite the source: the target then sees this host", w.q.words("masquerade")))
	}
	us := "this host"
	if left != nil && near != nil {
		for _, a := range near.Addrs {
			if a.Is4() == dst.Addr().Is4() && !a.IsLinkLocalUnicast() {
				us = a.String()
				break
			}
		}
	}
	w.r.add(stepBack, Bad, "none", "no answer to "+w.from.String()+" came through "+us)
	p := fairlead.Problemf(fairlead.CodeNoWayBack, "%s never answers %s through this host", dst.Addr(), w.from).
		Note("why", "its route to the client leads elsewhere, or its own firewall takes only neighbours: it answers %s itself", us)
	if near != nil {
		p.Note("note", "with a route on the target it keeps seeing the clients' addresses: ip route add %s via %s", w.from, us)
	}
	if !kept {
		return w.r.broken(p.Fix("see where it sends its answers (on the target)", "ip route get "+w.from.String()))
	}
	g := *w.q.Forward
	if g.Policy.Source == "keep" {
		g.Policy.Source, g.Policy.Masquerade = "", true
		return w.r.broken(p.Fix("rewrite the source: the target then sees this host", w.q.rewrite(&g)))
	}
	return w.r.broken(p.Fix("rewrite the source: the target then sees this host", w.q.words("masquerade")))
}

// judgeOwn says what came of a connection that began on this host.
func (w *walk) judgeOwn(ctx context.Context, there *passage, dst netip.AddrPort) *Report {
	err := w.seen.err
	switch {
	case w.seen.connected:
		w.r.add(stepTarget, OK, dst.String(), "it answers")
		w.r.add(stepBack, OK, "to this host", "")
		w.r.Outcome = Works
		return w.r
	case place.ReasonOf(err) == fairlead.Refused:
		w.r.add(stepTarget, Bad, dst.String(), "it refuses")
		w.wouldBe(stepBack)
		return w.r.broken(w.refused(ctx, dst, w.host.mine(dst.Addr())))
	}
	if answer := w.seen.answer(); answer != nil {
		if drop := answer.drop(); drop != nil && !isMine(drop.Table, w.q.Table) {
			w.r.add(stepTarget, OK, dst.String(), "it answers")
			w.r.add(stepBack, Bad, "drop", place1(drop))
			return w.r.broken(w.foreignDrop(drop, answer, true, true))
		}
	}
	return w.noAnswer(ctx, there, dst, w.host.mine(dst.Addr()))
}

// udpSilence: a datagram that was not answered proves nothing.
func (w *walk) udpSilence(ctx context.Context, there *passage, dst netip.AddrPort, local bool) *Report {
	if local {
		if w.c.Holders != nil && len(w.c.Holders("udp", dst)) == 0 {
			w.r.add(stepTarget, Bad, dst.String(), "nothing listens there")
			return w.r.broken(w.refused(ctx, dst, true))
		}
	} else if i := w.host.near(dst.Addr()); i != nil {
		if gone(ctx, i, dst.Addr()) {
			w.r.add(stepTarget, Bad, dst.String(), "no machine answers for that address on "+i.Name)
			w.wouldBe(stepBack)
			return w.r.broken(w.targetDown(dst, i))
		}
	}
	w.r.add(stepTarget, Unknown, dst.String(), "the datagram went there, and was not answered")
	w.r.add(stepBack, Unknown, "", "")
	return w.r.untested(fairlead.Problemf(fairlead.CodeUntested, "the datagram left toward %s; whether it was taken, UDP does not say", dst).
		Note("why", "a service answers only what it understands, and the probe is nothing of its language"))
}

// gone reports whether no machine on the link has the address now.
func gone(ctx context.Context, on *netmon.Interface, a netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second) // a neighbour is given up after three
	defer cancel()
	state, err := netmon.AskNeighbour(ctx, on.Name, a)
	return err == nil && (state == netmon.Silent || state == netmon.Asked)
}

// dialTarget asks the target from this host.
func (w *walk) dialTarget(ctx context.Context, dst netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, max(w.c.patience(), 4*time.Second)) // a neighbour is given up after three
	defer cancel()
	return w.connect(ctx, dst)
}
