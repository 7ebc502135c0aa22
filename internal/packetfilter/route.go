package packetfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// A route is what one forward leads to, in the making.
type route struct {
	i     int // of what is wanted
	f     *fairlead.Forward
	label string
	rank  rank
	doors []door
	leads []lead
	out   [2]source // v4, v6: what becomes of the source
	pairs []pair    // share: by which interfaces the LAN goes out

	bound []string
	led   []netip.AddrPort
}

// A rank is how closely a spot is named.
type rank uint8

const (
	byAddr rank = iota
	byIface
	byAny
)

// A door is where clients come in: whom they ask, and by which interfaces.
type door struct {
	to     string // as the filter's language has it: "(em0)", "203.0.113.1", "(self)"
	addr   netip.Addr
	on     []string
	v4, v6 bool
}

// A lead is a rule in the making: what is asked at a door by some clients.
type lead struct {
	door  *door
	v6    bool
	proto string // "tcp", "udp"
	from  netip.Prefix
	ports fairlead.Ports
	to    []netip.Addr // none: they are refused
	turn  turn
}

// A source is what becomes of the source of connections that are led to another
// host.
type source struct {
	how  sourceHow
	addr netip.Addr // rewritten to it
}

type sourceHow uint8

const (
	wayBack    sourceHow = iota // rewritten where they leave by the interface by which they came
	asIs                        // not rewritten
	masquerade                  // to the address of the interface by which they leave
	rewritten                   // to an address
)

// A pair is a LAN's interface and a WAN's, by which the LAN goes out.
type pair struct{ lan, wan string }

// A place is where ports can be taken once.
type place struct{ to, proto string }

// build says where f leads in this world. A warning leaves r carried.
func (c *compiler) build(r *route) *fairlead.Problem {
	switch r.f.Kind {
	case fairlead.KindShare:
		return c.buildShare(r)
	case fairlead.KindOpen:
		return c.buildOpen(r)
	}
	return c.buildNAT(r)
}

func (c *compiler) buildNAT(r *route) *fairlead.Problem {
	f := r.f
	dests := make([][2]netip.Addr, len(f.To))
	self := make([]bool, len(f.To))
	reach := [2]bool{}
	named := false
	for i := range f.To {
		t := &f.To[i]
		if t.Host == "self" {
			self[i], reach = true, [2]bool{true, c.d != IPFW}
			continue
		}
		addrs, literal, p := c.addrsOf(f, t)
		if p != nil {
			return p
		}
		named = named || !literal
		for _, a := range addrs {
			fam := index(a.Is6())
			if a.Is6() && c.d == IPFW {
				continue
			}
			if !dests[i][fam].IsValid() {
				dests[i][fam], reach[fam] = a, true
			}
		}
	}
	if p := c.doors(r, slices.Contains(self, true)); p != nil {
		return p
	}
	classes := classesOf(f)
	conditions := len(classes) > 1
	served, missed := [2]bool{}, [2]bool{}
	for n := range r.doors {
		d := &r.doors[n]
		for fam := range 2 {
			v6 := fam == 1
			if v6 && !d.v6 || !v6 && !d.v4 {
				continue
			}
			if !reach[fam] {
				missed[fam] = missed[fam] || c.offered(d, v6)
				if !conditions || c.d == IPFW && v6 {
					continue
				}
			} else {
				served[fam] = true
			}
			for _, cl := range classes {
				if cl.from.IsValid() && cl.from.Addr().Is6() != v6 {
					continue
				}
				c.leadsOf(r, d, v6, cl, dests, self)
			}
		}
	}
	if !served[0] && !served[1] {
		return fairlead.Problemf(fairlead.CodeNameFamily, "%s has no address of the version of IP that clients of %s come with", f.To[0].Dest(), f.At.String())
	}
	if !slices.ContainsFunc(r.leads, func(l lead) bool { return len(l.to) > 0 && (c.d != IPFW || !l.v6) }) {
		return fairlead.Problemf(fairlead.CodeNoWay, "the clients of %s and its targets have no IP version in common", f.Name)
	}
	if p := c.claimPorts(r); p != nil {
		return p
	}
	if p := r.sources(); p != nil {
		return p
	}
	if p := c.sourceKnown(r); p != nil {
		return p
	}
	for i := range f.To {
		for fam := range 2 {
			if a := dests[i][fam]; a.IsValid() {
				r.led = append(r.led, netip.AddrPortFrom(a, f.To[i].Port(f.At.Ports, 0)))
			}
		}
	}
	if c.d == IPFW {
		p := fairlead.Problemf(fairlead.CodePartOfClients, "only clients who come in by the interface of %s itself, with IPv4, are led: ipfw translates there alone", f.At.String()).
			Note("note", "who asks for the same address from the LAN, or by IPv6, reaches this host itself")
		p.Warning = true
		return p
	}
	for fam, miss := range missed {
		if miss && named {
			p := fairlead.Problemf(fairlead.CodeNameFamily, "no target has an IPv%d address, so that IPv%d clients are not served", 4+2*fam, 4+2*fam)
			p.Warning = true
			return p
		}
	}
	return nil
}

func index(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

// addrsOf are the addresses of a target that is another host.
func (c *compiler) addrsOf(f *fairlead.Forward, t *fairlead.Target) (list []netip.Addr, literal bool, p *fairlead.Problem) {
	if a, err := netip.ParseAddr(t.Host); err == nil {
		return []netip.Addr{a.Unmap()}, true, nil
	}
	all := c.w.Resolved[t.Host]
	if t.Host == "localhost" && f.At.Loopback() {
		all = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	for _, a := range all {
		a = a.Unmap()
		if a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || a.IsLinkLocalUnicast() || a.IsLoopback() != f.At.Loopback() {
			return nil, false, cannot(c.d, "%s has the address %s, to which no packet of %s can be led", t.Host, a, f.At.String())
		}
		list = append(list, a)
	}
	if len(list) == 0 {
		return nil, false, fairlead.Problemf(fairlead.CodeNameUnknown, "no address is known of %q", t.Host)
	}
	return list, false, nil
}

// leadsOf are the rules for the clients of one class at a door.
func (c *compiler) leadsOf(r *route, d *door, v6 bool, cl class, dests [][2]netip.Addr, self []bool) {
	var to []netip.Addr
	var first *fairlead.Target
	for _, t := range cl.targets {
		a := dests[t][index(v6)]
		if self[t] {
			a = d.addr
		}
		if a.IsValid() {
			to = append(to, a)
			if first == nil {
				first = &r.f.To[t]
			}
		}
	}
	turns := []turn(nil)
	if first != nil {
		turns = turnsOf(r.f.At.Ports, first)
	} else {
		for _, p := range r.f.At.Ports {
			turns = append(turns, turn{ports: p})
		}
	}
	r.f.At.Net.Each(func(proto string) {
		for _, t := range turns {
			r.leads = append(r.leads, lead{door: d, v6: v6, proto: proto, from: cl.from, ports: t.ports, to: to, turn: t})
		}
	})
}

// doors are those of f's spot. A target that is this host itself keeps the
// address that was asked for, so that each address has a door of its own.
func (c *compiler) doors(r *route, self bool) *fairlead.Problem {
	at := &r.f.At
	addr := at.Addr.Unmap()
	every := c.w.outer(true)
	switch {
	case at.Any || addr.IsValid() && addr.IsUnspecified():
		r.rank = byAny
		v6 := at.Any || addr.Is6()
		if !self {
			r.doors = []door{{to: "(self)", on: every, v4: true, v6: v6}}
			break
		}
		for _, name := range every {
			c.doorsOf(r, name, every, v6)
		}
	case at.Loopback():
		list := []netip.Addr{addr}
		if !addr.IsValid() {
			list = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		}
		for _, a := range list {
			r.doors = append(r.doors, door{to: a.String(), addr: a, on: c.w.loopbacks(), v4: a.Is4(), v6: a.Is6()})
		}
	case addr.IsValid():
		r.doors = []door{{to: addr.String(), addr: addr, on: every, v4: addr.Is4(), v6: addr.Is6()}}
	default:
		r.rank = byIface
		names := c.w.side(at.Where)
		if len(names) == 0 {
			return noSide(at.Where)
		}
		for _, name := range names {
			if !plainWord(name, 15) {
				return cannot(c.d, "%q is no interface's name that could stand in a rule", name)
			}
			if i := c.w.find(name); i == nil && at.Where == name {
				return fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q", name)
			} else if i != nil && i.Loopback {
				return cannot(c.d, "%s is where this host talks to itself", name)
			}
			on := c.w.outer(slices.Contains(c.w.WAN, name), name)
			if self || c.d == IPFW {
				c.doorsOf(r, name, on, true)
			} else {
				r.doors = append(r.doors, door{to: "(" + name + ")", on: on, v4: true, v6: true})
			}
		}
	}
	if c.d == IPFW {
		if p := c.alone(r); p != nil {
			return p
		}
	}
	if len(r.doors) == 0 {
		return fairlead.Problemf(fairlead.CodeNoInterface, "%s has no address now that rules could name", at.String())
	}
	for i := range r.doors {
		if len(r.doors[i].on) == 0 {
			return fairlead.Problemf(fairlead.CodeNoInterface, "this machine has no interface by which clients could come in")
		}
		for _, name := range r.doors[i].on {
			if !plainWord(name, 15) {
				return cannot(c.d, "%q is no interface's name that could stand in a rule", name)
			}
		}
	}
	return nil
}

// doorsOf appends a door for each address of an interface.
func (c *compiler) doorsOf(r *route, name string, on []string, v6 bool) {
	for _, six := range []bool{false, true} {
		if six && !v6 {
			continue
		}
		for _, a := range c.w.addrs(name, six) {
			r.doors = append(r.doors, door{to: a.String(), addr: a, on: on, v4: !six, v6: six})
		}
	}
}

// alone leaves a forward for ipfw the doors at IPv4 addresses of interfaces,
// each of which has to have one only: a translation has one.
func (c *compiler) alone(r *route) *fairlead.Problem {
	var kept []door
	for _, d := range r.doors {
		if !d.v4 {
			continue
		}
		i := slices.IndexFunc(c.w.Interfaces, func(i netmon.Interface) bool { return slices.Contains(c.w.addrs(i.Name, false), d.addr) })
		if i < 0 {
			return cannot(c.d, "%s is no address of an interface of this host, and ipfw translates at one", d.to)
		}
		name := c.w.Interfaces[i].Name
		if n := len(c.w.addrs(name, false)); n > 1 {
			return cannot(c.d, "%s has %d IPv4 addresses, and a translation of ipfw has one", name, n)
		}
		d.on = []string{name}
		kept = append(kept, d)
	}
	r.doors = kept
	return nil
}

// offered reports whether clients of the family can come in at a door now.
func (c *compiler) offered(d *door, v6 bool) bool {
	if d.addr.IsValid() {
		return true
	}
	name := strings.Trim(d.to, "()")
	if name != "self" {
		return len(c.w.addrs(name, v6)) > 0
	}
	return slices.ContainsFunc(d.on, func(n string) bool { return len(c.w.addrs(n, v6)) > 0 })
}

// claimPorts takes the ports of r's doors, or says that they are another's.
func (c *compiler) claimPorts(r *route) *fairlead.Problem {
	var places []place
	for i := range r.doors {
		r.f.At.Net.Each(func(proto string) {
			d := &r.doors[i]
			if r.rank == byIface {
				// Each address of an interface is a door of its own at times:
				// the interface is what is taken.
				places = append(places, place{"on " + strings.Join(c.w.side(r.f.At.Where), " "), proto})
				return
			}
			places = append(places, place{d.to, proto})
		})
	}
	slices.SortFunc(places, func(a, b place) int { return strings.Compare(a.to+a.proto, b.to+b.proto) })
	places = slices.Compact(places)
	for _, p := range places {
		for _, ports := range r.f.At.Ports {
			for _, t := range c.taken[p] {
				if t.First <= ports.Last && ports.First <= t.Last {
					return fairlead.Problemf(fairlead.CodeOverlap, "%s is where another forward listens, too", r.f.At.String())
				}
			}
		}
	}
	for _, p := range places {
		c.taken[p] = append(c.taken[p], r.f.At.Ports...)
	}
	for i := range r.doors {
		r.f.At.Net.Each(func(proto string) {
			for _, ports := range r.f.At.Ports {
				r.bound = append(r.bound, strings.Trim(r.doors[i].to, "()")+":"+ports.String()+"/"+proto)
			}
		})
	}
	return nil
}

// sources says what becomes of the source of r's connections.
func (r *route) sources() *fairlead.Problem {
	p := &r.f.Policy
	switch {
	case p.Source == "keep":
		r.out = [2]source{{how: asIs}, {how: asIs}}
	case p.Source != "":
		for word := range strings.SplitSeq(p.Source, ",") {
			a, err := netip.ParseAddr(strings.TrimSpace(word))
			if err != nil || a.Zone() != "" {
				return fairlead.Problemf(fairlead.CodeCannotHonour, "\"source %s\" is no address", p.Source)
			}
			a = a.Unmap()
			r.out[index(a.Is6())] = source{rewritten, a}
		}
	case p.Masquerade:
		r.out = [2]source{{how: masquerade}, {how: masquerade}}
	}
	return nil
}

// sourceKnown refuses a forward whose connections take the address of an
// interface by IPv6 where that is not known, and has to be written out.
func (c *compiler) sourceKnown(r *route) *fairlead.Problem {
	if how := r.out[1].how; !r.toOthers() || how != wayBack && how != masquerade {
		return nil
	}
	for i := range r.leads {
		if l := &r.leads[i]; l.v6 && len(l.to) > 0 {
			for _, name := range l.door.on {
				if c.w.find(name) == nil {
					return fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q, and its IPv6 address has to stand in the rules", name).
						Fix("leave the source as it is", "fairlead "+r.f.Expr+" source keep")
				}
			}
		}
	}
	return nil
}

// toOthers reports whether something of r is led to another host.
func (r *route) toOthers() bool {
	return slices.ContainsFunc(r.f.To, func(t fairlead.Target) bool { return t.Host != "self" && !r.f.At.Loopback() })
}

func (c *compiler) buildShare(r *route) *fairlead.Problem {
	lans := c.w.side(r.f.At.Where)
	if len(lans) == 0 {
		return noSide(r.f.At.Where)
	}
	for i := range r.f.To {
		wans := c.w.side(r.f.To[i].Host)
		if len(wans) == 0 {
			return noSide(r.f.To[i].Host)
		}
		for _, lan := range lans {
			for _, wan := range wans {
				if p := (pair{lan, wan}); lan != wan && !slices.Contains(r.pairs, p) {
					r.pairs = append(r.pairs, p)
				}
			}
		}
	}
	if len(r.pairs) == 0 {
		return fairlead.Problemf(fairlead.CodeNoWay, "%s and %s are the same interface, %s", r.f.At.Where, r.f.To[0].Host, lans[0])
	}
	r.rank = byAny
	for _, p := range r.pairs {
		for _, name := range []string{p.lan, p.wan} {
			if !plainWord(name, 15) {
				return cannot(c.d, "%q is no interface's name that could stand in a rule", name)
			}
		}
		if n := len(c.w.addrs(p.wan, false)); c.d == IPFW && n != 1 {
			return cannot(c.d, "%s has %d IPv4 addresses, and a translation of ipfw has one", p.wan, n)
		}
		r.bound = append(r.bound, p.lan+" goes out by "+p.wan)
	}
	return nil
}

func (c *compiler) buildOpen(r *route) *fairlead.Problem {
	f := r.f
	in := c.w.WAN
	if f.At.Where != "" {
		in = c.w.side(f.At.Where)
	}
	if len(in) == 0 {
		return noSide("wan")
	}
	for _, name := range in {
		if !plainWord(name, 15) {
			return cannot(c.d, "%q is no interface's name that could stand in a rule", name)
		}
	}
	r.rank = byAddr
	var to []netip.Addr // none: this host itself
	switch {
	case len(f.To) == 1 && f.To[0].Host == "self", len(f.To) == 0 && (!f.At.Addr.IsValid() || f.At.Addr.IsUnspecified()):
	case len(f.To) == 0:
		to = []netip.Addr{f.At.Addr.Unmap()}
	default:
		var p *fairlead.Problem
		if to, _, p = c.addrsOf(f, &f.To[0]); p != nil {
			return p
		}
	}
	from := f.Policy.Allow
	if len(f.To) == 1 && len(f.To[0].From) > 0 {
		from = f.To[0].From
	}
	doors := []door{{to: "(self)", on: in, v4: true, v6: true}}
	if len(to) > 0 {
		doors = nil
		for _, a := range to {
			doors = append(doors, door{to: a.String(), addr: a, on: in, v4: a.Is4(), v6: a.Is6()})
			r.led = append(r.led, netip.AddrPortFrom(a, f.At.Ports[0].First))
		}
	}
	r.doors = doors
	for i := range r.doors {
		d := &r.doors[i]
		for _, v6 := range []bool{false, true} {
			if v6 && !d.v6 || !v6 && !d.v4 {
				continue
			}
			clients := []netip.Prefix{{}}
			if len(from) > 0 {
				clients = nil
				for _, p := range from {
					if p = plainPrefix(p); p.Addr().Is6() == v6 {
						clients = append(clients, p)
					}
				}
			}
			f.At.Net.Each(func(proto string) {
				for _, ports := range f.At.Ports {
					for _, p := range clients {
						r.leads = append(r.leads, lead{door: d, v6: v6, proto: proto, from: p, ports: ports})
					}
				}
			})
		}
		f.At.Net.Each(func(proto string) {
			for _, name := range in {
				for _, ports := range f.At.Ports {
					text := name + ":" + ports.String() + "/" + proto
					if d.addr.IsValid() {
						text += " to " + d.addr.String()
					}
					r.bound = append(r.bound, text)
				}
			}
		})
	}
	if len(r.leads) == 0 {
		return fairlead.Problemf(fairlead.CodeNoWay, "the clients of %s and its target have no IP version in common", f.Name)
	}
	return nil
}

// noSide tells that this host has no interface on a side.
func noSide(where string) *fairlead.Problem {
	why := "no other interface with a private address"
	if where == "wan" {
		why = "no default route"
	}
	return fairlead.Problemf(fairlead.CodeNoInterface, "this machine has no %s interface: %s", where, why).
		Fix("name it", "--"+where+" em0")
}

// tagOf is what packets of the i-th forward are marked with.
func tagOf(i int) string { return "fl" + strconv.Itoa(i+1) }

// quoted is a label within a rule.
func quoted(s string) string { return fmt.Sprintf("%q", s) }
