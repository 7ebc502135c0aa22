package kernel

import (
	"cmp"
	"net/netip"
	"slices"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// The protocols that forwards are for, and those that a guard knows (RFC 5237's
// registry).
const (
	protoICMP   = 1
	protoIGMP   = 2
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// A family is one of IPv4 and IPv6, with nftables' words for it.
type family struct {
	digit        string // behind the names of its maps and chains
	proto        nft.Family
	typ          nft.Type
	saddr, daddr nft.Key
	saddr64      nft.Key // of a source that counts as one client
	origDaddr    nft.Key
}

var (
	ipv4 = &family{"4", nft.IPv4, nft.IPv4Addr, nft.IPSaddr, nft.IPDaddr, nft.IPSaddr, nft.CtOrigIPDaddr}
	ipv6 = &family{"6", nft.IPv6, nft.IPv6Addr, nft.IP6Saddr, nft.IP6Daddr, nft.IP6Saddr64, nft.CtOrigIP6Daddr}

	families = []*family{ipv4, ipv6}
)

func familyOf(a netip.Addr) *family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// is matches the family's packets.
func (fam *family) is() nft.Expr {
	return nft.Is{Key: nft.NFProto, Values: []nft.Range{nft.One(nft.Byte(byte(fam.proto)))}}
}

// loopback is the family's loopback addresses.
func (fam *family) loopback() nft.Range {
	if fam == ipv4 {
		return nft.Range{First: nft.Addr(netip.AddrFrom4([4]byte{127})), Last: nft.Addr(netip.AddrFrom4([4]byte{127, 255, 255, 255}))}
	}
	return nft.One(nft.Addr(netip.IPv6Loopback()))
}

// A group is one of the ways by which packets find a forward. They are tried
// in this order.
type group uint8

const (
	byAddr  group = iota // by the address asked for, whoever asks
	byNear               // by the address, unless the packet came in from a WAN
	byIface              // by the interface it came in by, at one of its addresses
	byAny                // any address of this host
)

var groups = []group{byAddr, byNear, byIface, byAny}

func (g group) String() string { return [...]string{"addr", "near", "iface", "any"}[g] }

// keys are what packets are told apart by in the group.
func (g group) keys(fam *family) []nft.Key {
	switch g {
	case byIface:
		return []nft.Key{nft.IIFName, nft.L4Proto, nft.Dport}
	case byAny:
		return []nft.Key{nft.L4Proto, nft.Dport}
	}
	return []nft.Key{fam.daddr, nft.L4Proto, nft.Dport}
}

func (g group) types(fam *family) []nft.Type {
	switch g {
	case byIface:
		return []nft.Type{nft.IfName, nft.InetProto, nft.InetService}
	case byAny:
		return []nft.Type{nft.InetProto, nft.InetService}
	}
	return []nft.Type{fam.typ, nft.InetProto, nft.InetService}
}

// A door is where clients of a forward come in.
type door struct {
	group group
	addr  netip.Addr // byAddr, byNear
	iface string     // byIface
	only  *family    // byAny: nil for both
	side  bool       // for those who come around; it yields to a forward at that very address

	left map[uint8][]fairlead.Ports // of a side: what is not yielded, by protocol
}

// serves reports whether packets of the family come in there.
func (d *door) serves(fam *family) bool {
	switch {
	case d.addr.IsValid():
		return familyOf(d.addr) == fam
	case d.only != nil:
		return d.only == fam
	}
	return true
}

// all are those of the ports, of a protocol, at which the door is the forward's.
func (d *door) all(proto uint8, of []fairlead.Ports) []fairlead.Ports {
	if !d.side {
		return of
	}
	var list []fairlead.Ports
	for _, r := range of {
		for _, l := range d.left[proto] {
			if l.First <= r.Last && r.First <= l.Last {
				list = append(list, fairlead.Ports{First: max(l.First, r.First), Last: min(l.Last, r.Last)})
			}
		}
	}
	return list
}

// key is the beginning of the keys of its elements.
func (d *door) key() []nft.Range {
	key := make([]nft.Range, 0, 3) // the protocol and the port follow
	switch d.group {
	case byIface:
		return append(key, nft.One(nft.Name(d.iface)))
	case byAny:
		return key
	}
	return append(key, nft.One(nft.Addr(d.addr)))
}

// protoRange is nft.Byte without making it anew.
func protoRange(proto uint8) nft.Range {
	switch proto {
	case protoTCP:
		return tcpRange
	case protoUDP:
		return udpRange
	}
	return nft.One(nft.Byte(proto))
}

var tcpRange, udpRange = nft.One(nft.Byte(protoTCP)), nft.One(nft.Byte(protoUDP))

// String is the door with ports as operators read it.
func (d *door) String() string {
	switch {
	case d.addr.Is6():
		return "[" + d.addr.String() + "]"
	case d.addr.IsValid():
		return d.addr.String()
	case d.group == byIface:
		return d.iface
	case d.only == ipv4:
		return "0.0.0.0"
	}
	return "*"
}

// doors are those of a spot. An interface has one by its name, which works for
// whatever addresses it has, and one for each of the addresses that it has now:
// for programs on this host, and for clients who come in by another interface.
// Where the interface is no WAN, who comes in by a WAN is not among these.
func (c *compiler) doors(at *fairlead.Spot) ([]door, *fairlead.Problem) {
	addr := at.Addr.Unmap()
	switch {
	case addr.Zone() != "":
		return nil, fairlead.Problemf(fairlead.CodeCannotHonour, "%s is an address of one link only, and address translation does not tell links apart", addr).
			Fix("listen at the interface", addr.Zone()+":PORT")
	case at.Any || addr.IsValid() && addr.IsUnspecified() && addr.Is6():
		return []door{{group: byAny}}, nil
	case addr.IsValid() && addr.IsUnspecified():
		return []door{{group: byAny, only: ipv4}}, nil
	case addr.IsLoopback():
		return []door{{group: byNear, addr: addr}}, nil
	case addr.IsValid():
		return []door{{group: byAddr, addr: addr}}, nil
	case at.Loopback():
		return []door{{group: byNear, addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})}, {group: byNear, addr: netip.IPv6Loopback()}}, nil
	}
	var list []door
	for _, name := range c.w.side(at.Where) {
		if _, ok := c.w.addrs[name]; !ok && at.Where == name {
			return nil, fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q", name)
		}
		list = append(list, door{group: byIface, iface: name})
		g := byNear
		if slices.Contains(c.w.wan, name) {
			g = byAddr
		}
		for _, p := range c.w.addrs[name] {
			if a := p.Addr().Unmap(); !a.IsLinkLocalUnicast() && !a.IsLoopback() {
				list = append(list, door{group: g, addr: a, side: true})
			}
		}
	}
	if len(list) == 0 {
		return nil, noSide(at.Where)
	}
	return list, nil
}

// A spot is where ports can be taken once: by one forward.
type spot struct {
	group group // byNear stands for byAddr, too
	addr  netip.Addr
	iface string
	proto uint8
}

func (d *door) spot(proto uint8) spot {
	s := spot{d.group, d.addr, d.iface, proto}
	if s.group == byNear {
		s.group = byAddr
	}
	return s
}

// A span is ports of a spot that are taken, and by which forward.
type span struct {
	ports fairlead.Ports
	i     int
}

// meets is the forward that has some of the ports already.
func (c *compiler) meets(s spot, p fairlead.Ports) (i int, ok bool) {
	spans := c.taken[s]
	at, _ := slices.BinarySearchFunc(spans, p.First, func(s span, first uint16) int { return cmp.Compare(s.ports.Last, first) })
	if at < len(spans) && spans[at].ports.First <= p.Last {
		return spans[at].i, true
	}
	return 0, false
}

// take notes that want[i] has the ports.
func (c *compiler) take(s spot, p fairlead.Ports, i int) {
	spans := c.taken[s]
	at, _ := slices.BinarySearchFunc(spans, p.First, func(s span, first uint16) int { return cmp.Compare(s.ports.Last, first) })
	c.taken[s] = slices.Insert(spans, at, span{p, i})
}

// free takes the ports of a door, all or none, or says whose they are.
func (c *compiler) free(i int, d *door) *fairlead.Problem {
	f := c.want[i]
	for _, proto := range protos(f.At.Net) {
		for _, ports := range f.At.Ports {
			if other, met := c.meets(d.spot(proto), ports); met {
				return fairlead.Problemf(fairlead.CodeOverlap, "%s is where %q listens, too", f.At.String(), c.want[other].Name)
			}
		}
	}
	for _, proto := range protos(f.At.Net) {
		for _, ports := range f.At.Ports {
			c.take(d.spot(proto), ports, i)
		}
	}
	return nil
}

// yield takes the ports of a side door that are nobody's, and reports whether
// there are any.
func (c *compiler) yield(i int, d *door) bool {
	f := c.want[i]
	d.left = map[uint8][]fairlead.Ports{}
	for _, proto := range protos(f.At.Net) {
		s := d.spot(proto)
		for _, ports := range f.At.Ports {
			for _, p := range c.between(s, ports) {
				c.take(s, p, i)
				d.left[proto] = append(d.left[proto], p)
			}
		}
	}
	return len(d.left) > 0
}

// between are the ports of p that are not taken.
func (c *compiler) between(s spot, p fairlead.Ports) (list []fairlead.Ports) {
	next := int(p.First)
	spans := c.taken[s]
	at, _ := slices.BinarySearchFunc(spans, p.First, func(s span, first uint16) int { return cmp.Compare(s.ports.Last, first) })
	for _, t := range spans[at:] {
		if t.ports.First > p.Last {
			break
		}
		if int(t.ports.First) > next {
			list = append(list, fairlead.Ports{First: uint16(next), Last: t.ports.First - 1})
		}
		next = int(t.ports.Last) + 1
	}
	if next <= int(p.Last) {
		list = append(list, fairlead.Ports{First: uint16(next), Last: p.Last})
	}
	return list
}

func protos(n fairlead.Network) []uint8 {
	switch n {
	case fairlead.TCP:
		return []uint8{protoTCP}
	case fairlead.UDP:
		return []uint8{protoUDP}
	}
	return []uint8{protoTCP, protoUDP}
}

func protoName(proto uint8) string {
	if proto == protoUDP {
		return "udp"
	}
	return "tcp"
}

// maps name the four maps of a group and a family.
func (g group) dnat(fam *family) string     { return g.String() + "_dnat" + fam.digit }
func (g group) ranges(fam *family) string   { return g.String() + "_range" + fam.digit }
func (g group) special(fam *family) string  { return g.String() + "_special" + fam.digit }
func (g group) specials(fam *family) string { return g.String() + "_specials" + fam.digit }

// lookups makes the rules that find forwards: "prerouting" and "output" lead to
// a chain for each family, and those to one for each group that has elements.
func (c *compiler) lookups() {
	ports := nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(protoTCP)), nft.One(nft.Byte(protoUDP))}}
	for _, fam := range families {
		for _, g := range groups {
			c.lookup(g, fam)
		}
		arrive, leave := "arrive"+fam.digit, "leave"+fam.digit
		there := func(g group) bool { return c.chainNamed[g.String()+fam.digit] != nil }
		lead := func(chain string, g group, exprs ...nft.Expr) {
			if there(g) {
				c.rule(chain, append(exprs, nft.Jump(g.String()+fam.digit))...)
			}
		}
		local := []nft.Range{nft.One(routeLocal)}
		lead(arrive, byAddr)
		if names := ifnames(c.w.wan); len(names) > 0 {
			lead(arrive, byNear, nft.Is{Key: nft.IIFName, Values: names, Not: true})
		} else {
			lead(arrive, byNear)
		}
		lead(arrive, byIface, nft.Is{Key: nft.FibDaddrIIFType, Values: local})
		lead(arrive, byAny, nft.Is{Key: nft.FibDaddrType, Values: local})
		lead(leave, byAddr)
		lead(leave, byNear)
		lead(leave, byAny, nft.Is{Key: nft.FibDaddrType, Values: local})
		for _, hook := range []struct{ base, chain string }{{chainPre, arrive}, {chainOut, leave}} {
			if c.chainNamed[hook.chain] != nil {
				c.rule(hook.base, fam.is(), ports, nft.Jump(hook.chain))
			}
		}
	}
}

// routeLocal is nft.RouteLocal as a value.
var routeLocal = nft.Value([]byte{0, 0, 0, nft.RouteLocal})

func ifnames(names []string) (list []nft.Range) {
	for _, n := range names {
		list = append(list, nft.One(nft.Name(n)))
	}
	return list
}

// lookup makes the chain of a group. What programs on this host ask of a
// loopback address can be led to a port of this host only: packets with such a
// source go nowhere else.
func (c *compiler) lookup(g group, fam *family) {
	chain, keys := g.String()+fam.digit, g.keys(fam)
	for _, name := range []string{g.special(fam), g.specials(fam)} {
		if c.has(name) {
			c.rule(chain, nft.VMap{Keys: keys, Map: name})
		}
	}
	plain := []string{g.dnat(fam), g.ranges(fam)}
	if g == byAny && slices.ContainsFunc(plain, c.has) {
		c.rule(chain, nft.Is{Key: fam.daddr, Values: []nft.Range{fam.loopback()}}, nft.Verdict{Do: "return"})
	}
	for _, name := range plain {
		if c.has(name) {
			c.rule(chain, nft.DNAT{Family: fam.proto, Keys: keys, Map: name})
		}
	}
}
