package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// Pinholes are elements of maps that lead to a verdict. What a pinhole lets in
// is named by the interface, the address (but for this host itself), the
// protocol and the port; with clients told apart by their address, or with a
// range of ports, it is an interval.
const (
	setPin4         = "pin4" // interface . destination . protocol . port
	setPin6         = "pin6"
	setPinSelf      = "pinself"  // interface . protocol . port
	setPinFrom4     = "pinfrom4" // interface . source . destination . protocol . ports
	setPinFrom6     = "pinfrom6"
	setPinSelfFrom4 = "pinselffrom4" // interface . source . protocol . ports
	setPinSelfFrom6 = "pinselffrom6"
)

// fitsOpen refuses what a pinhole cannot be, or cannot keep.
func fitsOpen(f *fairlead.Forward) *fairlead.Problem {
	switch {
	case len(f.At.Ports) == 0:
		return fairlead.Problemf(fairlead.CodeIncomplete, "open needs a port: open wan:443 to HOST")
	case f.At.Loopback():
		return fairlead.Problemf(fairlead.CodeIncomplete, "open %s does not say on which side: open wan:%s", f.At.String(), f.At.String())
	case len(f.To) > 1:
		return fairlead.Problemf(fairlead.CodeSyntax, "open leads to one host, not to %d", len(f.To))
	}
	if len(f.To) == 1 {
		t := &f.To[0]
		switch a, err := netip.ParseAddr(t.Host); {
		case t.Unix != "":
			return fairlead.Problemf(fairlead.CodeBadValue, "open lets packets through to a host, not to a unix socket")
		case len(t.Ports) > 0 && !slices.Equal(t.Ports, f.At.Ports):
			return fairlead.Problemf(fairlead.CodeBadValue, "open rewrites nothing: port %s cannot become %s", f.At.Ports, t.Ports).
				Fix("translate it", "fairlead nat "+f.At.String()+" to "+t.Dest())
		case f.At.Addr.IsValid() && !f.At.Addr.IsUnspecified() && (err != nil || a.Unmap() != f.At.Addr.Unmap()):
			return fairlead.Problemf(fairlead.CodeBadValue, "open rewrites nothing: who asks for %s is not led to %s", f.At.Addr, t.Host).
				Fix("translate it", "fairlead nat "+f.At.String()+" to "+t.Dest())
		}
	}
	switch p := &f.Policy; {
	case p.ALG != "":
		return cannot("alg "+p.ALG, "is for forwards that translate; open the ports that the protocol agrees upon")
	case p.Publish:
		return cannot("publish", "is not kept by this version: no router is asked yet")
	}
	return nil
}

// toSelf reports whether f opens ports of this host, whatever its addresses.
func toSelf(f *fairlead.Forward) bool {
	if len(f.To) == 1 {
		return f.To[0].Host == "self"
	}
	return !f.At.Addr.IsValid() || f.At.Addr.IsUnspecified()
}

// letIn is the verdict of a pinhole without conditions.
var letIn = nft.Goto(chainLetIn)

// A pinhole is one way in of a forward.
type pinhole struct {
	iif     string
	to      netip.Addr // invalid: this host, at any address
	proto   uint8
	ports   fairlead.Ports
	from    netip.Prefix // of the family; all of it where every client may
	verdict nft.Verdict
	lease   lease
	forward int
}

// A lease is how long the kernel keeps an element by itself: 0 for good.
type lease time.Duration

// leaseOf is the kernel's lease of f; ok is false when its time is over.
func leaseOf(f *fairlead.Forward, now time.Time) (l lease, ok bool) {
	if f.Expires.IsZero() {
		return 0, true
	}
	// The kernel counts in milliseconds at the finest.
	left := f.Expires.Sub(now)
	return lease(left), left >= time.Millisecond
}

// outlasts reports whether l ends after m.
func (l lease) outlasts(m lease) bool { return m != 0 && (l == 0 || l > m) }

// pinholes makes the maps and the rules that look into them. outside are the
// interfaces that are guarded.
func (c *compiler) pinholes(outside []string) {
	var holes []pinhole
	seen := map[counted]*portSet{}
	for i, f := range c.want {
		if f.Kind == fairlead.KindOpen && !c.failed(i) {
			holes = append(holes, c.holesOf(i, f, outside, seen)...)
		}
	}
	if len(outside) == 0 {
		return
	}
	for _, m := range []struct {
		name, from string
		self       bool
		keys       []nft.Key
		types      []nft.Type
	}{
		{setPin4, setPinFrom4, false, []nft.Key{nft.IIFName, nft.IPSaddr, nft.IPDaddr, nft.L4Proto, nft.Dport},
			[]nft.Type{nft.IfName, nft.IPv4Addr, nft.IPv4Addr, nft.InetProto, nft.InetService}},
		{setPin6, setPinFrom6, false, []nft.Key{nft.IIFName, nft.IP6Saddr, nft.IP6Daddr, nft.L4Proto, nft.Dport},
			[]nft.Type{nft.IfName, nft.IPv6Addr, nft.IPv6Addr, nft.InetProto, nft.InetService}},
		{setPinSelf, setPinSelfFrom4, true, []nft.Key{nft.IIFName, nft.IPSaddr, nft.L4Proto, nft.Dport},
			[]nft.Type{nft.IfName, nft.IPv4Addr, nft.InetProto, nft.InetService}},
		{setPinSelf, setPinSelfFrom6, true, []nft.Key{nft.IIFName, nft.IP6Saddr, nft.L4Proto, nft.Dport},
			[]nft.Type{nft.IfName, nft.IPv6Addr, nft.InetProto, nft.InetService}},
	} {
		chains := []string{chainGuard, chainGuardSelf}
		if m.self {
			chains = chains[1:]
		}
		without := func(i int) []nft.Key { return append(slices.Clone(m.keys[:i]), m.keys[i+1:]...) }
		if !c.has(m.name) {
			c.set(m.name, nft.Set{Key: append(slices.Clone(m.types[:1]), m.types[2:]...), Verdicts: true, Timed: true})
			for _, chain := range chains {
				c.rule(chain, nft.VMap{Keys: without(1), Map: m.name})
			}
		}
		c.set(m.from, nft.Set{Key: m.types, Verdicts: true, Timed: true, Interval: true})
		for _, chain := range chains {
			c.rule(chain, nft.VMap{Keys: m.keys, Map: m.from})
		}
	}
	c.fill(holes)
	c.holeRules()
}

// holesOf are the ways in of want[i], and what is to be said of it.
func (c *compiler) holesOf(i int, f *fairlead.Forward, outside []string, seen map[counted]*portSet) (holes []pinhole) {
	until, ok := leaseOf(f, c.w.now)
	if !ok {
		return nil
	}
	to, problem := c.openTo(f)
	if problem != nil {
		c.fail(i, problem)
		return nil
	}
	in := outside
	if f.At.Where != "" {
		in = c.w.side(f.At.Where)
		if len(in) == 0 {
			c.fail(i, noSide(f.At.Where))
			return nil
		}
	}
	part := &c.parts[i]
	for _, a := range to {
		if a.IsValid() {
			part.targets = append(part.targets, netip.AddrPortFrom(a, f.At.Ports[0].First))
		}
	}
	if in = slices.DeleteFunc(slices.Clone(in), func(name string) bool { return !slices.Contains(outside, name) }); len(in) == 0 {
		if f.Policy.AllowIn == "" { // else there is the firewall of somebody else
			c.warn(i, nothingToOpen(f))
		}
		return nil
	}
	from := f.Policy.Allow
	if len(f.To) == 1 && len(f.To[0].From) > 0 {
		from = f.To[0].From
	}
	verdict := letIn
	if len(f.Policy.Deny) > 0 || limited(&f.Policy) {
		verdict = nft.Jump(c.checkpoint(i, f))
	}
	for _, a := range to {
		f.At.Net.Each(func(network string) {
			for _, ports := range f.At.Ports {
				part.entries = append(part.entries, entry{proto: protoOf(network), at: a, ports: ports})
				c.countHole(seen, i, protoOf(network), a, ports)
				for _, name := range in {
					part.bound = append(part.bound, holeText(name, a, ports, network))
					for _, p := range sourcesFor(a, from) {
						holes = append(holes, pinhole{iif: name, to: a, proto: protoOf(network), ports: ports,
							from: p, verdict: verdict, lease: until, forward: i})
					}
				}
			}
		})
	}
	switch {
	case len(holes) == 0:
		c.fail(i, fairlead.Problemf(fairlead.CodeNoWay, "the clients of %s and its target have no IP version in common", f.Name))
	case slices.ContainsFunc(to, func(a netip.Addr) bool { return a.Is4() && a.IsPrivate() }) && len(from) == 0:
		c.warn(i, fairlead.Problemf(fairlead.CodeNoWay, "%s is a private address: nobody on the Internet can ask for it", to[0]).
			Fix("translate it", "fairlead nat "+f.At.String()+" to "+f.To[0].Dest()))
	}
	return holes
}

// openTo are the addresses that f opens; an invalid one is this host itself.
func (c *compiler) openTo(f *fairlead.Forward) ([]netip.Addr, *fairlead.Problem) {
	switch {
	case toSelf(f):
		return []netip.Addr{{}}, nil
	case len(f.To) == 0:
		return []netip.Addr{f.At.Addr.Unmap().WithZone("")}, nil
	}
	if a, err := netip.ParseAddr(f.To[0].Host); err == nil {
		return []netip.Addr{a.Unmap().WithZone("")}, nil
	}
	list := c.w.resolved[f.To[0].Host]
	if len(list) == 0 {
		return nil, fairlead.Problemf(fairlead.CodeNameUnknown, "the name %s has no address", f.To[0].Host)
	}
	return list, nil
}

// nothingToOpen says that f's side is closed by nothing of ours.
func nothingToOpen(f *fairlead.Forward) *fairlead.Problem {
	where := f.At.Where
	if where == "" {
		where = "any side"
	}
	return fairlead.Problemf(fairlead.CodeNothingToOpen, "there is nothing to open: no guard of ours stands toward %s", where).
		Note("note", "what the firewall of somebody else drops there is dropped all the same").
		Fix("guard that side, if this host is a gateway", "fairlead add share lan to wan")
}

func holeText(iif string, to netip.Addr, ports fairlead.Ports, network string) string {
	at := iif + ":" + ports.String() + "/" + network
	if !to.IsValid() {
		return at
	}
	return at + " to " + to.String()
}

// sourcesFor are the clients who may ask for a, of its families; for this host
// itself an address of each family stands for it.
func sourcesFor(a netip.Addr, from []netip.Prefix) (list []netip.Prefix) {
	if len(from) == 0 {
		from = []netip.Prefix{every4, every6}
	}
	for _, p := range from {
		if p = p.Masked(); !a.IsValid() || p.Addr().Is4() == a.Is4() {
			list = append(list, p)
		}
	}
	return list
}

var (
	every4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	every6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// fill makes the elements. What several pinholes let in stays open as long as
// one of them does.
func (c *compiler) fill(holes []pinhole) {
	type place struct {
		iif   string
		to    netip.Addr
		proto uint8
		v4    bool
	}
	exact := map[string]pinhole{}
	var order []string
	groups := map[place][]pinhole{}
	var places []place
	for _, h := range holes {
		if h.ports.Len() == 1 && h.from.Bits() == 0 {
			set, key := h.exact()
			at := set + "\x00" + key.text()
			was, ok := exact[at]
			if !ok {
				order = append(order, at)
			}
			if !ok || h.beats(was) {
				exact[at] = h
			}
			continue
		}
		p := place{h.iif, h.to, h.proto, h.from.Addr().Is4()}
		if groups[p] == nil {
			places = append(places, p)
		}
		groups[p] = append(groups[p], h)
	}
	for _, at := range order {
		h := exact[at]
		set, key := h.exact()
		c.setNamed[set].Elements = append(c.setNamed[set].Elements, nft.Element{Key: key, Verdict: h.verdict, Timeout: time.Duration(h.lease)})
	}
	for _, p := range places {
		for _, cell := range apart(groups[p]) {
			set, key := cell.key()
			c.setNamed[set].Elements = append(c.setNamed[set].Elements, nft.Element{Key: key, Verdict: cell.verdict, Timeout: time.Duration(cell.lease)})
		}
	}
}

// beats reports whether h lets more in, or longer, than was.
func (h pinhole) beats(was pinhole) bool {
	if free, other := h.verdict == letIn, was.verdict == letIn; free != other {
		return free
	}
	return h.lease.outlasts(was.lease)
}

type elementKey []nft.Range

func (k elementKey) text() string {
	var b strings.Builder
	for _, r := range k {
		b.WriteString(string(r.First) + "\x00" + string(r.Last) + "\x00")
	}
	return b.String()
}

// exact is the element of a pinhole that is one port for everybody.
func (h pinhole) exact() (set string, key elementKey) {
	rest := elementKey{nft.One(nft.Byte(h.proto)), portRange(h.ports)}
	key = elementKey{nft.One(nft.Name(h.iif))}
	switch {
	case !h.to.IsValid():
		return setPinSelf, append(key, rest...)
	case h.to.Is4():
		set = setPin4
	default:
		set = setPin6
	}
	return set, append(append(key, nft.One(nft.Addr(h.to))), rest...)
}

// A cell is a pinhole for a range of clients and ports.
type cell struct {
	pinhole
	first, last netip.Addr
}

func (h cell) key() (set string, key elementKey) {
	from := nft.Range{First: nft.Addr(h.first), Last: nft.Addr(h.last)}
	if h.first == h.last {
		from = nft.One(from.First)
	}
	key = elementKey{nft.One(nft.Name(h.iif)), from}
	v4 := h.first.Is4()
	switch {
	case !h.to.IsValid() && v4:
		set = setPinSelfFrom4
	case !h.to.IsValid():
		set = setPinSelfFrom6
	case v4:
		set = setPinFrom4
	default:
		set = setPinFrom6
	}
	if h.to.IsValid() {
		key = append(key, nft.One(nft.Addr(h.to)))
	}
	return set, append(key, nft.One(nft.Byte(h.proto)), portRange(h.ports))
}

// apart makes disjoint cells of pinholes of one host, protocol and family: the
// kernel takes no element that overlaps another.
func apart(holes []pinhole) (cells []cell) {
	var cuts []int // where a stretch of ports begins
	for _, h := range holes {
		cuts = append(cuts, int(h.ports.First), int(h.ports.Last)+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for n := 0; n+1 < len(cuts); n++ {
		ports := fairlead.Ports{First: uint16(cuts[n]), Last: uint16(cuts[n+1] - 1)}
		var here []pinhole
		for _, h := range holes {
			if h.ports.First <= ports.First && ports.Last <= h.ports.Last {
				here = append(here, h)
			}
		}
		for _, c := range apartBySource(here) {
			c.ports = ports
			cells = append(cells, c)
		}
	}
	return cells
}

// apartBySource makes disjoint cells of pinholes of the same ports.
func apartBySource(holes []pinhole) (cells []cell) {
	var cuts []netip.Addr // where a stretch of clients begins
	for _, h := range holes {
		cuts = append(cuts, h.from.Addr())
		if after := lastOf(h.from).Next(); after.IsValid() {
			cuts = append(cuts, after)
		}
	}
	slices.SortFunc(cuts, netip.Addr.Compare)
	cuts = slices.Compact(cuts)
	for n, first := range cuts {
		var best *pinhole
		for i := range holes {
			if h := &holes[i]; h.from.Contains(first) && (best == nil || h.beats(*best)) {
				best = h
			}
		}
		if best == nil {
			continue
		}
		last := lastOf(best.from)
		if n+1 < len(cuts) {
			last = cuts[n+1].Prev()
		}
		if k := len(cells) - 1; k >= 0 && cells[k].last.Next() == first && cells[k].verdict == best.verdict && cells[k].lease == best.lease {
			cells[k].last = last
			continue
		}
		cells = append(cells, cell{*best, first, last})
	}
	return cells
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return end
}
