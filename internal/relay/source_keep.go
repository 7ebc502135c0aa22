package relay

import (
	"context"
	"fmt"
	"net/netip"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/sock"
)

// keepTries is how many sockets are tried to keep a client: with its own port,
// and with one that the system chooses.
const keepTries = 2

// A keeping is what becomes of a client's address toward a target.
type keeping int

const (
	kept       keeping = iota
	keptPlain          // it has none, or it is this host's own: the host's is as good
	keptOther          // it is of the other family than the target
	keptLink           // it means something on the client's link only
	keptBeside         // the target is on this host, and would answer around us
)

// keeps tells whether a client's address can be kept toward a target.
func (l *legs) keeps(client, to netip.Addr) keeping {
	switch {
	case !client.IsValid() || client.IsLoopback():
		return keptPlain
	case l.isOwn(to):
		return l.unlessOwn(client, keptBeside)
	case client.IsLinkLocalUnicast():
		return l.unlessOwn(client, keptLink)
	case client.Is4() != to.Is4():
		return l.unlessOwn(client, keptOther)
	}
	return kept
}

func (l *legs) unlessOwn(client netip.Addr, k keeping) keeping {
	if l.isOwn(client) {
		return keptPlain
	}
	return k
}

// keepClient binds the socket to the client's address, so that the target sees
// it (IP_TRANSPARENT, ip(7)). Where that cannot be the socket must not connect:
// from this host's address the target would let in whom it does not know.
func (s start) keepClient(fd int, to netip.Addr, stream bool, try int) error {
	client := netip.AddrPortFrom(s.client.Addr().Unmap(), s.client.Port())
	switch s.r.legs.Load().keeps(client.Addr(), to) {
	case keptPlain:
		return nil
	case keptOther:
		return unkept("the address of %s cannot be kept toward %s, which is of the other family", client.Addr(), to).
			Fix("give the target an address of the client's family", "")
	case keptLink:
		return unkept("the address of %s cannot be kept toward %s: it is known on the client's own link only", client.Addr(), to)
	case keptBeside:
		return beside(to, "the address of "+client.Addr().String())
	}
	if try > 0 {
		client = netip.AddrPortFrom(client.Addr(), 0)
	}
	err := sock.BindSource(fd, client, true, stream)
	if err != nil {
		if p := optionProblem("source keep", err); p.Code != fairlead.CodeTargetFailed {
			return p
		}
	}
	return err
}

// unkept says why a client's address cannot be kept toward a target.
func unkept(format string, client, to netip.Addr) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeNoSource, format, client, to).
		Fix("tell the target who the client is instead", "proxy-protocol v2")
}

// beside says that a target on this host cannot see whose address is kept: its
// answers would leave for the client without passing us.
func beside(to netip.Addr, whose string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeNoSource, "the target %s is on this host, and toward it %s cannot be kept", to, whose).
		Fix("tell the target who the client is instead", "proxy-protocol v2")
}

// doubt is told that a dial for a client whose address is kept had no answer, and
// finds out whether the target answers this host itself: then it is the way back
// that is missing.
func (r *Relay) doubt(ru *rule, t *target, client netip.AddrPort, network, address string, err error) {
	if !ru.departure.keep || !client.IsValid() || reason(err) != fairlead.DialTimeout || r.ctx.Err() != nil ||
		!t.doubted.CompareAndSwap(false, true) {
		return
	}
	r.wg.Go(func() {
		defer t.doubted.Store(false)
		r.lookBack(ru, t, client.Addr().Unmap(), network, address)
	})
}

// lookBack asks a target from this host's own address.
func (r *Relay) lookBack(ru *rule, t *target, client netip.Addr, network, address string) {
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	if network == "tcp" { // an answer of the other family says nothing about it
		if network = "tcp6"; client.Is4() {
			network = "tcp4"
		}
	}
	c, err := r.connect(ctx, ru, netip.AddrPort{}, network, address)
	if err != nil {
		return // it is not only the kept address that finds no answer
	}
	to, us := sock.AddrPort(c.RemoteAddr()).Addr(), sock.AddrPort(c.LocalAddr()).Addr()
	sock.Abort(c)
	if r.legs.Load().keeps(client, to) != kept {
		return
	}
	t.mu.Lock()
	t.lost = client
	t.mu.Unlock()
	p := lostProblem(t, to, client, us)
	r.trouble(p.Code, ru.f.Name+": "+p.What) // others may reach it, and then it stays in service
	r.saw(t, p)
}

// asker is for whom a target is probed: nobody, or a client whose answers were
// lost, so that the probe sees when they come back. It may be that client alone
// who has no way back. So where clients are led to other targets meanwhile, every
// second probe is nobody's, and the target is back for everybody if it answers.
func (t *target) asker(ru *rule) netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !ru.departure.keep || !t.lost.IsValid() || t.problem == nil || t.problem.Code != fairlead.CodeSourceLost {
		return netip.AddrPort{}
	}
	if t.nobody = !t.nobody && len(ru.pool.Load().all) > 1; t.nobody {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(t.lost, 0)
}

// divertMark is the firewall mark, and divertTable the routing table, that the
// printed commands use where this host has none for the purpose.
const (
	divertMark  = 0xfa1
	divertTable = 4001
)

// lostProblem says that answers to kept addresses do not come back from a
// target, or, where there was no client yet, that nothing here takes them in. It
// prints the commands that help, of those that are missing as far as that can be
// seen from here; us is this host's address toward the target.
func lostProblem(t *target, to, client, us netip.Addr) *fairlead.Problem {
	mark, diverted, err := netmon.Diverted(to.Is6())
	p := fairlead.Problemf(fairlead.CodeSourceLost, "%s answers this host, but its answers to %s do not come back here", t.t.Dest(), client)
	if !client.IsValid() {
		p = fairlead.Problemf(fairlead.CodeSourceLost, "nothing on this host takes in what %s answers to clients whose addresses are kept", t.t.Dest())
	}
	ip := "ip"
	if to.Is6() {
		ip = "ip -6"
	}
	switch {
	case diverted:
		p.Note("here", "marked packets (%#x) are delivered to this host; whether answers are marked, and whether they pass here, is not seen", mark)
	case err == nil:
		p.Note("here", "no policy rule leads marked packets to a table with a local route (%s rule)", ip)
	}
	if !diverted {
		mark = divertMark
	}
	p.Fix("here: mark the answers that belong to kept addresses", fmt.Sprintf(
		"nft 'add table inet fairlead_keep; add chain inet fairlead_keep divert { type filter hook prerouting priority mangle; }; "+
			"add rule inet fairlead_keep divert meta l4proto { tcp, udp } socket transparent 1 meta mark set %#x'", mark))
	if !diverted {
		p.Fix("here: deliver what is marked to this host", fmt.Sprintf(
			"%s rule add fwmark %#x lookup %d && %s route add local default dev lo table %d", ip, mark, divertTable, ip, divertTable))
	}
	way := "CLIENTS/PREFIX"
	if client.IsValid() {
		way = netip.PrefixFrom(client.WithZone(""), client.BitLen()).String()
	}
	via := "THIS-HOST"
	if us.IsValid() {
		via = us.WithZone("").String()
	}
	return p.Fix("on the target, unless its default route leads here: the way back to the clients", fmt.Sprintf("%s route add %s via %s", ip, way, via))
}
