package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// A route is what one forward leads to, in the making.
type route struct {
	i     int // of want
	f     *fairlead.Forward
	dests []dest // as many as f.To
	doors []door

	classes   []class  // clients told apart; of a plain forward one with one target
	clients   []client // which of them are of which class
	rest      int      // the class of all others
	special   bool     // it has a chain of its own
	base      string   // what the names of its chains begin with
	chains    map[string]string
	timeout   time.Duration
	limits    string  // the chain that counts new connections, "" for none
	reachable [2]bool // v4, v6: some target has an address of it
}

// A dest is where a target is.
type dest struct {
	t    *fairlead.Target
	self bool
	addr [2]netip.Addr // v4, v6; invalid where it has none
}

func (d *dest) at(fam *family) (netip.Addr, bool) {
	a := d.addr[fam.index()]
	return a, a.IsValid()
}

// takes reports whether clients of the family are r's: they are led somewhere,
// or refused because the sentence says who may come.
func (r *route) takes(fam *family) bool {
	return r.reachable[fam.index()] || len(r.clients) > 0
}

func (fam *family) index() int {
	if fam == ipv4 {
		return 0
	}
	return 1
}

// translate puts the forwards that rewrite destinations into the table: kinds
// nat and forward. Their own spots come first, so that the elements for who
// comes around never take one away.
func (c *compiler) translate() {
	var routes []*route
	for i, f := range c.want {
		if f.Kind != fairlead.KindNAT && f.Kind != fairlead.KindForward {
			continue
		}
		r, p := c.route(i, f)
		if p == nil {
			p = c.firm(r)
		}
		if p != nil {
			c.fail(i, p)
			continue
		}
		routes = append(routes, r)
	}
	led := routes[:0]
	for _, r := range routes {
		if p := c.agree(r); p != nil {
			c.giveUp(r, len(r.doors))
			c.fail(r.i, p)
			continue
		}
		led = append(led, r)
		doors := r.doors[:0]
		for _, d := range r.doors {
			if !d.side || c.yield(r.i, &d) {
				doors = append(doors, d)
			}
		}
		r.doors = doors
		c.lead(r)
	}
	c.disagreements(led)
	c.triggered = c.triggers()
	c.lookups()
	c.accountRules()
	c.sources()
	c.triggerRules(c.triggered)
}

// firm takes the ports of f's own doors, all or none.
func (c *compiler) firm(r *route) *fairlead.Problem {
	for n := range r.doors {
		if d := &r.doors[n]; !d.side {
			if p := c.free(r.i, d); p != nil {
				c.giveUp(r, n)
				return p
			}
		}
	}
	return nil
}

// giveUp frees the ports of the first n doors again.
func (c *compiler) giveUp(r *route, n int) {
	for _, d := range r.doors[:n] {
		for _, proto := range protos(r.f.At.Net) {
			s := d.spot(proto)
			c.taken[s] = slices.DeleteFunc(c.taken[s], func(s span) bool { return s.i == r.i })
		}
	}
}

// route says where f leads, or why it cannot be carried as things are.
func (c *compiler) route(i int, f *fairlead.Forward) (*route, *fairlead.Problem) {
	r := &route{i: i, f: f, chains: map[string]string{}}
	if !f.Expires.IsZero() {
		if r.timeout = f.Expires.Sub(c.w.now).Round(time.Second); r.timeout <= 0 {
			return nil, fairlead.Problemf(fairlead.CodeTimeOver, "its time is over")
		}
	}
	var unknown *fairlead.Problem
	known := 0
	for t := range f.To {
		d, p := c.dest(f, &f.To[t])
		switch {
		case p == nil:
			known++
		case p.Code == fairlead.CodeNameUnknown:
			unknown = p
		default:
			return nil, p
		}
		r.dests = append(r.dests, d)
	}
	if known == 0 {
		return nil, unknown
	}
	var p *fairlead.Problem
	if r.doors, p = c.doors(&f.At); p != nil {
		return nil, p
	}
	if p := r.classify(); p != nil {
		return nil, p
	}
	for _, d := range r.dests {
		for _, fam := range families {
			if _, ok := d.at(fam); ok || d.self {
				r.reachable[fam.index()] = true
			}
		}
	}
	if p := c.fitsFamilies(r); p != nil {
		return nil, p
	}
	c.missesLoopback(r)
	if unknown != nil {
		// Its clients go to the others that they share, or are refused.
		c.warn(i, unknown)
	}
	r.special = r.isSpecial()
	if r.special {
		r.base = c.baseName(f)
		if n := len(r.turns()); n > maxTurns {
			return nil, fairlead.Problemf(fairlead.CodeTooManyPorts, "%s leads each of %d ports to another one, and for a forward with conditions at most %d of them can", f.At.String(), n, maxTurns).
				Fix("lead them to the ports of the same numbers", f.At.String()+" to "+f.To[0].Host)
		}
	}
	return r, nil
}

// dest says where t is.
func (c *compiler) dest(f *fairlead.Forward, t *fairlead.Target) (dest, *fairlead.Problem) {
	d := dest{t: t}
	if t.Host == "self" {
		d.self = true
		return d, nil
	}
	addrs, known := c.w.resolved[t.Host]
	if a, err := netip.ParseAddr(t.Host); err == nil {
		addrs, known = []netip.Addr{a}, true
	}
	for _, a := range addrs {
		a = a.Unmap()
		if p := fitsAddr(f, t, a); p != nil {
			return d, p
		}
		if fam := familyOf(a); !d.addr[fam.index()].IsValid() {
			d.addr[fam.index()] = a
		}
	}
	if !known || len(addrs) == 0 {
		return d, fairlead.Problemf(fairlead.CodeNameUnknown, "no address is known of %q", t.Host)
	}
	return d, nil
}

// fitsAddr refuses a target's address to which no packet can be led.
func fitsAddr(f *fairlead.Forward, t *fairlead.Target, a netip.Addr) *fairlead.Problem {
	switch {
	case a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast():
		return fairlead.Problemf(fairlead.CodeCannotHonour, "%s is an address of one link only, and address translation cannot lead there", t.Host).
			Fix("have a process carry it", "forward "+f.At.String()+" to "+t.Dest())
	case a.IsUnspecified() || a.IsMulticast():
		return fairlead.Problemf(fairlead.CodeCannotHonour, "%s is the address of no host", t.Host)
	case a.IsLoopback() && !f.At.Loopback():
		return loopbackTarget(f, t)
	case !a.IsLoopback() && f.At.Loopback():
		return loopbackElsewhere(f, t)
	}
	return nil
}

// loopbackTarget refuses to lead others to a loopback address: the kernel drops
// such packets unless they come from this host.
func loopbackTarget(f *fairlead.Forward, t *fairlead.Target) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeLoopbackNAT, "%s cannot be reached by address translation: packets from elsewhere to a loopback address are dropped", t.Dest()).
		Fix("lead to a port of this host", "nat "+f.At.String()+" to self"+portsOf(t)).
		Fix("have a process carry it", "forward "+f.At.String()+" to "+t.Dest())
}

func portsOf(t *fairlead.Target) string {
	if len(t.Ports) == 0 {
		return ""
	}
	return ":" + t.Ports.String()
}

// loopbackElsewhere refuses to lead loopback to another host: the packets have
// a loopback address as their source until they leave, and answers to it are
// dropped unless the whole interface is opened to such packets (route_localnet),
// which lets neighbours reach what listens at loopback only.
func loopbackElsewhere(f *fairlead.Forward, t *fairlead.Target) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeLoopbackNAT, "%s is reached by programs on this host only, and address translation cannot lead them to %s: packets with a loopback address as their source do not leave it", f.At.String(), t.Dest()).
		Note("why", "the sysctl route_localnet would let them out, and neighbours in").
		Fix("have a process carry it", "forward "+f.At.String()+" to "+t.Dest())
}

// fitsFamilies refuses a forward whose targets have no address of the family
// that clients come with, and warns where that is so for one of two families.
func (c *compiler) fitsFamilies(r *route) *fairlead.Problem {
	var served, missed []string
	for _, fam := range families {
		if !c.offered(r, fam) {
			continue
		}
		if r.reachable[fam.index()] {
			served = append(served, "IPv"+fam.digit)
		} else {
			missed = append(missed, "IPv"+fam.digit)
		}
	}
	if len(missed) == 0 || len(served) > 0 && literal(r) && r.f.Kind == fairlead.KindNAT {
		return nil
	}
	p := fairlead.Problemf(fairlead.CodeNameFamily, "%s has no %s address, so that %s clients are not served", r.f.To[0].Dest(), missed[0], missed[0])
	if len(r.f.To) > 1 {
		p.What = fmt.Sprintf("no target has an %s address, so that %s clients are not served", missed[0], missed[0])
	}
	if len(served) > 0 && r.f.Kind == fairlead.KindForward {
		c.warn(r.i, p.Fix("have a process carry it, which serves both", "by relay"))
		return nil
	}
	if len(served) > 0 {
		c.warn(r.i, p.Fix("name a target of each family", "to ADDRESS, [ADDRESS]"))
		return nil
	}
	return p
}

// missesLoopback warns of a plain forward at every address that a process would
// carry for programs on this host as well, whatever address they ask.
func (c *compiler) missesLoopback(r *route) {
	if r.f.Kind != fairlead.KindForward || !r.f.At.Any || !slices.ContainsFunc(r.dests, func(d dest) bool { return !d.self }) {
		return
	}
	const missed = "programs on this host that ask for a loopback address are not served: the kernel leads nobody from there to another host"
	if p := c.parts[r.i].problem; p != nil {
		p.Note("note", missed)
		return
	}
	c.warn(r.i, fairlead.Problemf(fairlead.CodeLoopbackNAT, missed).Fix("have a process carry it, which serves them", "by relay"))
}

// heardAt is a door as operators read it, of which those families are told that
// are led on.
func (r *route) heardAt(d *door) string {
	switch {
	case d.group != byAny || r.takes(ipv4) == r.takes(ipv6):
		return d.String()
	case r.takes(ipv4):
		return "0.0.0.0"
	}
	return "[::]"
}

// literal reports whether all targets are named by their addresses: then whoever
// wrote them said which family is served.
func literal(r *route) bool {
	return !slices.ContainsFunc(r.dests, func(d dest) bool {
		_, err := netip.ParseAddr(d.t.Host)
		return err != nil
	})
}

// offered reports whether clients of the family can come in.
func (c *compiler) offered(r *route, fam *family) bool {
	for i := range r.doors {
		d := &r.doors[i]
		if d.addr.IsValid() {
			if familyOf(d.addr) == fam {
				return true
			}
			continue
		}
		for name, nets := range c.w.addrs {
			if d.group == byIface && name != d.iface || !d.serves(fam) {
				continue
			}
			for _, p := range nets {
				if a := p.Addr().Unmap(); familyOf(a) == fam && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
					return true
				}
			}
		}
	}
	return false
}

// A turn is ports one after the other that lead to the same chain of targets'
// ports: to "" where every port keeps its number, else to those in to, one for
// each target.
type turn struct {
	ports fairlead.Ports
	to    []uint16 // nil: the same number
}

// turns are the ports of r in pieces, each of which fits into one element.
func (r *route) turns() (list []turn) {
	at := r.f.At.Ports
	n := 0
	for _, ports := range at {
		for p := int(ports.First); p <= int(ports.Last); p++ {
			to, kept := make([]uint16, len(r.dests)), true
			for i := range r.dests {
				to[i] = r.dests[i].t.Port(at, n)
				kept = kept && to[i] == uint16(p)
			}
			if kept {
				to = nil
			}
			if k := len(list) - 1; k >= 0 && int(list[k].ports.Last) == p-1 && p > int(ports.First) && slices.Equal(list[k].to, to) {
				list[k].ports.Last++
			} else {
				list = append(list, turn{fairlead.Ports{First: uint16(p), Last: uint16(p)}, to})
			}
			n++
		}
	}
	return list
}

// lead makes r's elements.
func (c *compiler) lead(r *route) {
	pt := &c.parts[r.i]
	for _, t := range r.turns() {
		chain := ""
		if r.special {
			chain = c.own(r, t.to)
		}
		for n := range r.doors {
			d := &r.doors[n]
			for _, fam := range families {
				if d.serves(fam) && r.takes(fam) {
					c.elements(r, d, fam, &t, chain)
				}
			}
		}
	}
	for n := range r.doors {
		d := &r.doors[n]
		for _, proto := range protos(r.f.At.Net) {
			for _, ports := range d.all(proto, r.f.At.Ports) {
				if d.group == byIface && slices.ContainsFunc(r.doors, func(s door) bool { return s.side }) {
					continue // its addresses are listed
				}
				if !d.addr.IsValid() || r.takes(familyOf(d.addr)) { // else nothing leads on from there
					pt.bound = append(pt.bound, r.heardAt(d)+":"+ports.String()+"/"+protoName(proto))
				}
				if d.group != byIface {
					pt.entries = append(pt.entries, entry{proto, d.addr, ports})
				}
			}
		}
	}
	for i := range r.dests {
		d := &r.dests[i]
		port := d.t.Port(r.f.At.Ports, 0)
		for _, fam := range families {
			if a, ok := d.at(fam); ok {
				pt.targets = append(pt.targets, netip.AddrPortFrom(a, port))
			}
		}
	}
	c.say(r)
	c.claimed(r.i, r.f)
	c.accountsOf(r)
}

// elements puts a piece of r's ports into the maps of a door's group: to a
// chain, or to the address of the only target.
func (c *compiler) elements(r *route, d *door, fam *family, t *turn, chain string) {
	like := nft.Set{Key: d.group.types(fam), Timed: true, Data: []nft.Type{fam.typ, nft.InetService}}
	name := d.group.dnat(fam)
	wide := t.ports.First < t.ports.Last
	pieces := []fairlead.Ports{t.ports}
	var data []nft.Value
	switch {
	case chain != "":
		like.Data, like.Verdicts = nil, true
		if name = d.group.special(fam); wide {
			name, like.Interval = d.group.specials(fam), true
		}
	case wide && t.to == nil:
		a, _ := r.dests[0].at(fam)
		name, data = d.group.ranges(fam), []nft.Value{nft.Addr(a)}
		like.Data, like.Interval = like.Data[:1], true
	default:
		a, _ := r.dests[0].at(fam)
		port := t.ports.First
		if t.to != nil {
			port = t.to[0]
		}
		data = []nft.Value{nft.Addr(a), nft.Port(port)}
		pieces = single(t.ports)
	}
	set := c.set(name, like)
	for _, proto := range protos(r.f.At.Net) {
		for _, ports := range d.all(proto, pieces) {
			e := nft.Element{Key: append(d.key(), protoRange(proto), portRange(ports)), Data: data, Timeout: r.timeout}
			if chain != "" {
				e.Verdict = nft.Goto(chain)
			}
			put(set, e)
		}
	}
}

// single is each port by itself.
func single(p fairlead.Ports) (list []fairlead.Ports) {
	for n := int(p.First); n <= int(p.Last); n++ {
		list = append(list, fairlead.Ports{First: uint16(n), Last: uint16(n)})
	}
	return list
}
