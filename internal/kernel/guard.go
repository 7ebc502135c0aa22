package kernel

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// The guard of the WAN, as docs/decisions/018-the-guard.md has it: of what
// comes in by an interface of the set outside, only answers, what is forwarded
// and what has a pinhole goes on; to hosts behind this one (chain guard) and to
// this host itself (chain guard/self).

// Chains and sets of shares and their guard.
const (
	chainGuard     = "guard"
	chainGuardSelf = "guard/self"
	chainShadow    = "shadow"

	setShared  = "shared"  // pairs of interfaces: who goes out by which
	setOurs    = "ours"    // ports that are never given out
	setOutside = "outside" // interfaces that are guarded
	setPassed  = "passed"  // pairs of interfaces, from outside, without a guard
	setInside4 = "inside4" // networks that are not outside
	setInside6 = "inside6"
	setHeard   = "heard" // ports of this process, at every address
	setHeard4  = "heard4"
	setHeard6  = "heard6"
)

// gateway makes what shares and pinholes become. It comes last: a share's
// translation avoids the ports that are forwarded.
func (c *compiler) gateway() {
	var (
		guarded, unguarded []pair
		shares             []int
		kept               []string // guarded all the same
	)
	for i, f := range c.want {
		if f.Kind != fairlead.KindShare || c.failed(i) {
			continue
		}
		pairs, problem := pairsOf(f, c.w)
		if problem != nil {
			if !f.Policy.Unguarded {
				kept = append(kept, c.w.stillOutside(f)...)
			}
			if len(kept) > 0 {
				problem.Note("note", "the guard still stands before %s", strings.Join(kept, ", "))
			}
			c.fail(i, problem)
			continue
		}
		shares = append(shares, i)
		c.parts[i].bound = shareText(pairs, c.w)
		if f.Policy.Unguarded {
			unguarded = append(unguarded, pairs...)
		} else {
			guarded = append(guarded, pairs...)
		}
		if problem := c.w.lacks(pairs); problem != nil {
			c.warn(i, problem)
		}
	}
	outside := sideNames(guarded, func(p pair) string { return p.wan })
	for _, name := range kept {
		if !slices.Contains(outside, name) {
			outside = append(outside, name)
		}
	}
	if len(outside) > 0 {
		c.guard(guarded, unguarded, outside)
	}
	c.pinholes(outside)
	if len(outside) > 0 {
		c.triggerPins(c.triggered)
		c.rule(chainGuard, nft.Drop)
		c.rule(chainGuardSelf, nft.Drop)
	}
	if len(shares) > 0 {
		c.share(shares, append(guarded, unguarded...))
	}
	for _, i := range shares {
		if !c.want[i].Policy.Unguarded {
			if problem := c.shutOff(outside); problem != nil {
				c.warn(i, problem)
			}
		}
	}
}

// stillOutside are the interfaces that a share guards of which one side is not
// there: a line that is down, or a LAN's interface without its address, must not
// let in whoever is out there. Where nobody can tell which these are, as without
// a default route, they are those that were guarded before.
func (w *world) stillOutside(f *fairlead.Forward) (list []string) {
	for i := range f.To {
		list = append(list, w.side(f.To[i].Host)...)
	}
	if len(list) == 0 {
		return w.guarded
	}
	return list
}

// share makes the translation of addresses.
func (c *compiler) share(shares []int, pairs []pair) {
	set := c.set(setShared, nft.Set{Key: []nft.Type{nft.IfName, nft.IfName}})
	for _, p := range pairs {
		element := nft.Element{Key: []nft.Range{nft.One(nft.Name(p.lan)), nft.One(nft.Name(p.wan))}}
		if !slices.ContainsFunc(set.Elements, func(e nft.Element) bool { return slices.Equal(e.Key, element.Key) }) {
			set.Elements = append(set.Elements, element)
		}
	}
	tcp, udp := c.reached()
	post, shadow, ours, cramped := masquerades(tcp, udp)
	*c.set(setOurs, nft.Set{}) = ours
	c.chain(chainPost).Rules = append(c.chain(chainPost).Rules, post...)
	c.hook(chainShadow, nft.Hook{Type: "filter", Hook: "postrouting", Priority: nft.SrcNAT + 10}).Rules = shadow
	if len(cramped) > 0 {
		for _, i := range shares {
			c.warn(i, fairlead.Problemf(fairlead.CodeNoWay, "nearly every port of %s is forwarded, none is left to be given to the LAN alone", strings.Join(cramped, " and ")).
				Note("note", "a host of the LAN can get packets that were meant for a forward").
				Fix("forward fewer ports", ""))
		}
	}
}

// reached are the ports at which something of ours is reached from outside.
func (c *compiler) reached() (tcp, udp *portSet) {
	tcp, udp = new(portSet), new(portSet)
	add := func(net fairlead.Network, list ...fairlead.Ports) {
		if net&fairlead.TCP != 0 {
			tcp.add(list...)
		}
		if net&fairlead.UDP != 0 {
			udp.add(list...)
		}
	}
	for i, f := range c.want {
		if (f.Kind == fairlead.KindNAT || f.Kind == fairlead.KindForward || f.Kind == fairlead.KindOpen && !elsewhere(f)) && !c.failed(i) {
			add(f.At.Net, f.At.Ports...)
		}
	}
	for _, t := range c.triggered {
		for _, o := range t.opens {
			if o.proto == protoTCP {
				tcp.add(o.ports)
			} else {
				udp.add(o.ports)
			}
		}
	}
	for _, l := range c.w.listens {
		if !l.At.Addr().IsLoopback() {
			add(l.Net, fairlead.Ports{First: l.At.Port(), Last: l.At.Port()})
		}
	}
	return tcp, udp
}

// elsewhere reports whether a pinhole leads to a host that has an address of its
// own: its ports are not the shared address's.
func elsewhere(f *fairlead.Forward) bool { return !toSelf(f) && len(f.To) == 1 }

// guard makes the two chains up to where pinholes and the last drop follow.
func (c *compiler) guard(guarded, unguarded []pair, outside []string) {
	set := c.set(setOutside, nft.Set{Key: []nft.Type{nft.IfName}})
	for _, name := range outside {
		set.Elements = append(set.Elements, nft.Element{Key: []nft.Range{nft.One(nft.Name(name))}})
	}
	inside4 := c.set(setInside4, nft.Set{Key: []nft.Type{nft.IPv4Addr}, Interval: true})
	inside6 := c.set(setInside6, nft.Set{Key: []nft.Type{nft.IPv6Addr}, Interval: true})
	for _, net := range c.w.inside(sideNames(append(slices.Clone(guarded), unguarded...), func(p pair) string { return p.lan }), outside) {
		element := nft.Element{Key: []nft.Range{prefixRange(net)}}
		if net.Addr().Is4() {
			inside4.Elements = append(inside4.Elements, element)
		} else {
			inside6.Elements = append(inside6.Elements, element)
		}
	}

	c.hook(chainIn, nft.Hook{Type: "filter", Hook: "input", Priority: nft.Filter})
	from := nft.In{Keys: []nft.Key{nft.IIFName}, Set: setOutside}
	for _, leg := range []struct{ base, guard string }{{chainForward, chainGuard}, {chainIn, chainGuardSelf}} {
		c.rule(leg.base, from, nft.Jump(leg.guard))
		// Whoever says that he is of the LAN is not outside.
		c.rule(leg.guard, nft.In{Keys: []nft.Key{nft.IPSaddr}, Set: setInside4}, nft.Drop)
		c.rule(leg.guard, nft.In{Keys: []nft.Key{nft.IP6Saddr}, Set: setInside6}, nft.Drop)
		c.rule(leg.guard, translated, nft.Accept)
		c.rule(leg.guard, nft.Has{Key: nft.CtState, Mask: nft.StateEstablished | nft.StateRelated}, nft.Goto(chainKnown))
		c.rule(leg.guard, nft.Has{Key: nft.CtState, Mask: nft.StateInvalid}, nft.Drop)
	}
	c.chain(chainGuard).Rules = append(c.chain(chainGuard).Rules, icmpThrough()...)
	c.chain(chainGuardSelf).Rules = append(c.chain(chainGuardSelf).Rules, icmpToSelf()...)

	// A lease's answers come from an address that is not known yet, or by
	// broadcast, and belong to no connection (RFC 2131 section 4.1, RFC 8415
	// section 7.2).
	isUDP := isByte(nft.L4Proto, protoUDP)
	c.rule(chainGuardSelf, isByte(nft.NFProto, byte(nft.IPv4)), isUDP, isPort(nft.Dport, 68), nft.Accept)
	c.rule(chainGuardSelf, fromLink(), isUDP, isPort(nft.Dport, 546), nft.Accept)

	c.pass(unguarded, outside)
	c.hear(outside)
}

// pass lets through what is not the guard's: by a WAN that one share guards and
// another one leaves to other filters, and from a WAN to that WAN, between hosts
// that are both out there. (So goes what a bridge passes from port to port, where
// br_netfilter shows that to the forward hook.)
func (c *compiler) pass(unguarded []pair, outside []string) {
	set := c.set(setPassed, nft.Set{Key: []nft.Type{nft.IfName, nft.IfName}})
	put := func(from, to string) {
		key := []nft.Range{nft.One(nft.Name(from)), nft.One(nft.Name(to))}
		if !slices.ContainsFunc(set.Elements, func(e nft.Element) bool { return slices.Equal(e.Key, key) }) {
			set.Elements = append(set.Elements, nft.Element{Key: key})
		}
	}
	for _, wan := range outside {
		put(wan, wan)
		for _, p := range unguarded {
			if p.wan == wan {
				put(wan, p.lan)
			}
		}
	}
	c.rule(chainGuard, nft.In{Keys: []nft.Key{nft.IIFName, nft.OIFName}, Set: setPassed}, nft.Accept)
}

// hear lets in who asks for a port of this process. A listener at an address of
// the LAN is meant for the LAN. The sets are Timed, so that these ports close
// with the service, which nobody listens at for it any more.
func (c *compiler) hear(outside []string) {
	any := c.set(setHeard, nft.Set{Key: []nft.Type{nft.NFProtoType, nft.InetProto, nft.InetService}, Timed: true})
	at4 := c.set(setHeard4, nft.Set{Key: []nft.Type{nft.IPv4Addr, nft.InetProto, nft.InetService}, Timed: true})
	at6 := c.set(setHeard6, nft.Set{Key: []nft.Type{nft.IPv6Addr, nft.InetProto, nft.InetService}, Timed: true})
	for _, l := range c.w.listens {
		a := l.At.Addr().Unmap().WithZone("")
		if !c.w.facing(a, outside) {
			continue
		}
		l.Net.Each(func(network string) {
			port := []nft.Range{nft.One(nft.Byte(protoOf(network))), nft.One(nft.Port(l.At.Port()))}
			put := func(set *nft.Set, first nft.Value) {
				key := append([]nft.Range{nft.One(first)}, port...)
				if !slices.ContainsFunc(set.Elements, func(e nft.Element) bool { return slices.Equal(e.Key, key) }) {
					set.Elements = append(set.Elements, nft.Element{Key: key})
				}
			}
			switch {
			case a == netip.IPv4Unspecified():
				put(any, nft.Byte(byte(nft.IPv4)))
			case a == netip.IPv6Unspecified():
				put(any, nft.Byte(byte(nft.IPv4)))
				put(any, nft.Byte(byte(nft.IPv6)))
			case a.Is4():
				put(at4, nft.Addr(a))
			default:
				put(at6, nft.Addr(a))
			}
		})
	}
	c.rule(chainGuardSelf, nft.In{Keys: []nft.Key{nft.NFProto, nft.L4Proto, nft.Dport}, Set: setHeard}, nft.Accept)
	c.rule(chainGuardSelf, nft.In{Keys: []nft.Key{nft.IPDaddr, nft.L4Proto, nft.Dport}, Set: setHeard4}, nft.Accept)
	c.rule(chainGuardSelf, nft.In{Keys: []nft.Key{nft.IP6Daddr, nft.L4Proto, nft.Dport}, Set: setHeard6}, nft.Accept)
}

// facing reports whether who comes from outside may ask for a: a wildcard, an
// address of an outer interface, or one that no interface has.
func (w *world) facing(a netip.Addr, outside []string) bool {
	if a.IsLoopback() {
		return false
	}
	if a.IsUnspecified() {
		return true
	}
	inner := false
	for name, nets := range w.addrs {
		if !slices.ContainsFunc(nets, func(net netip.Prefix) bool { return net.Addr().WithZone("") == a }) {
			continue
		}
		if slices.Contains(outside, name) {
			return true
		}
		inner = true
	}
	return !inner
}

// inside are the networks of the LANs, disjoint and in order, and the loopback
// ones. A network that overlaps one of an outer interface is not among them:
// hosts out there would be shut off with it.
func (w *world) inside(lans, outside []string) []netip.Prefix {
	list := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, lan := range lans {
	next:
		for _, net := range w.addrs[lan] {
			net = net.Masked()
			if net.Addr().IsLinkLocalUnicast() {
				continue
			}
			for _, wan := range outside {
				if slices.ContainsFunc(w.addrs[wan], net.Overlaps) {
					continue next
				}
			}
			list = append(list, net)
		}
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if n := a.Addr().Compare(b.Addr()); n != 0 {
			return n
		}
		return a.Bits() - b.Bits()
	})
	var apart []netip.Prefix
	for _, net := range list {
		if n := len(apart); n == 0 || !apart[n-1].Overlaps(net) {
			apart = append(apart, net)
		}
	}
	return apart
}

// shutOff tells of programs on this host that the guard keeps from being reached
// by the WAN: an operator who sets a share up from outside would lock himself
// out. nil when there is none.
func (c *compiler) shutOff(outside []string) *fairlead.Problem {
	var names, opens []string
	for _, l := range c.w.held {
		a := l.At.Addr().Unmap().WithZone("")
		if !c.w.facing(a, outside) || c.opened(l) {
			continue
		}
		name := l.Program
		if name == "" {
			name = "a program"
		}
		l.Net.Each(func(network string) {
			port := fairlead.PortGroup{Ports: fairlead.PortList{{First: l.At.Port(), Last: l.At.Port()}}, Net: fairlead.TCP}
			if network == "udp" {
				port.Net = fairlead.UDP
			}
			names = append(names, name+" ("+port.String()+")")
			at := fairlead.Spot{Where: outside[0], Ports: port.Ports, Net: port.Net}
			if slices.Contains(c.w.wan, outside[0]) {
				at.Where = "wan"
			}
			opens = append(opens, "fairlead add open "+at.String()+" to self")
		})
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	slices.Sort(opens)
	names, opens = slices.Compact(names), slices.Compact(opens)
	more := ""
	if len(names) > 5 {
		more = " and " + strconv.Itoa(len(names)-5) + " others"
		names = names[:5]
	}
	p := fairlead.Problemf(fairlead.CodeShutOff, "%s%s on this host can no longer be reached from %s", strings.Join(names, ", "), more, strings.Join(outside, ", ")).
		Note("note", "connections that are there already go on; the LAN is not affected")
	p.Warning = true
	for _, open := range opens[:min(len(opens), 3)] {
		p.Fix("let it be reached", open)
	}
	return p
}

// opened reports whether all of a listener is reached through a pinhole or
// because it is ours. A source that a pinhole names does not count against it.
func (c *compiler) opened(l Listener) bool {
	for i, f := range c.want {
		if f.Kind == fairlead.KindOpen && !c.failed(i) && f.At.Net&l.Net == l.Net && toSelf(f) &&
			slices.ContainsFunc(f.At.Ports, func(r fairlead.Ports) bool { return r.First <= l.At.Port() && l.At.Port() <= r.Last }) {
			return true
		}
	}
	return slices.ContainsFunc(c.w.listens, func(own Listener) bool { return own.Net&l.Net == l.Net && own.At == l.At })
}

// sideNames are one side of pairs, each once and in order.
func sideNames(pairs []pair, side func(pair) string) (list []string) {
	for _, p := range pairs {
		if name := side(p); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

func isPort(key nft.Key, port uint16) nft.Is {
	return nft.Is{Key: key, Values: []nft.Range{nft.One(nft.Port(port))}}
}

func protoOf(network string) uint8 {
	if network == "udp" {
		return protoUDP
	}
	return protoTCP
}

// prefixRange is the addresses of a network.
func prefixRange(p netip.Prefix) nft.Range {
	if p.IsSingleIP() {
		return nft.One(nft.Addr(p.Addr()))
	}
	return nft.Range{First: nft.Addr(p.Masked().Addr()), Last: nft.Addr(lastOf(p))}
}
