package kernel

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// Port triggering, as docs/decisions/020-triggers.md has it: packets of the LAN
// toward the WAN at a trigger's port note who sent them, in sets to which the
// rules themselves add, and for as long as that is remembered packets from the
// WAN at the opened ports are led there. Nobody of this process is in the way.

// Chains and maps that triggers have together. The maps lead to the chains of
// each. They are Timed: after the service's end nothing is opened any more.
const (
	chainTriggers = "triggers" // filter forward, behind the filters of others

	mapAsks    = "trigger_asks" // incoming . outgoing interface . protocol . ports: what opens, and what comes in
	mapAnswers = "trigger_back" // the same, of answers
	mapLeads   = "trigger_to"   // incoming interface . protocol . ports: translation
	mapLetIn   = "trigger_in"   // the same for IPv6, through the guard
)

// Bounds and times of triggers.
const (
	triggerFor  = 2 * time.Minute // "for", where nothing is said
	triggerMin  = time.Second
	triggerMax  = 24 * time.Hour
	triggerPins = 1024 // hosts that may have pinholes of one trigger at a time, by IPv6
	askedFor    = time.Minute
	askedMost   = 64 // hosts that were refused and are remembered for the log

	// ownerSlack is how much longer a trigger's owner is remembered than his
	// ports are open, so that nobody else becomes the owner of what still
	// leads to him.
	ownerSlack = 20 * time.Millisecond
)

// fitsTrigger refuses what a trigger cannot be, or cannot keep.
func fitsTrigger(f *fairlead.Forward) *fairlead.Problem {
	switch {
	case len(f.At.Ports) == 0 || len(f.Opens) == 0:
		return fairlead.Problemf(fairlead.CodeIncomplete, "trigger needs ports that trigger and ports that open: trigger 6667/tcp opens 113/tcp")
	case f.At.Any || f.At.Addr.IsValid():
		return fairlead.Problemf(fairlead.CodeCannotHonour, "\"on %s\" is no interface, and a trigger watches one", f.At.Host()).
			Fix("name the LAN's interface, or all of the LAN", "on lan")
	case f.At.Where == "wan" || f.At.Where == "lo":
		return fairlead.Problemf(fairlead.CodeNoWay, "a trigger watches what a LAN sends, not %s", f.At.Where).
			Fix("name the LAN's interface, or all of the LAN", "on lan")
	case len(f.To) > 0:
		return fairlead.Problemf(fairlead.CodeSyntax, "a trigger leads to whoever triggers it, and names no target")
	}
	if life := f.Policy.For; life != 0 && (life < triggerMin || life > triggerMax) {
		return fairlead.Problemf(fairlead.CodeBadValue, "a trigger's ports stay open for 1s to 24h after the last packet, not for %s", life)
	}
	switch p := &f.Policy; {
	case p.By != "" && p.By != "auto" && p.By != Name:
		return fairlead.Problemf(fairlead.CodeCannotHonour, "a trigger is carried by the kernel, not by %q", p.By)
	case len(p.Allow) > 0:
		return cannot("from", "is not kept by triggers in this version: the opened ports are open to everybody")
	case len(p.Deny) > 0:
		return cannot("deny", "is not kept by triggers in this version: the opened ports are open to everybody")
	case p.AllowIn != "":
		return cannot("allow-in "+p.AllowIn, "needs a target, and a trigger has none before somebody triggers it")
	case p.Idle != 0:
		return cannot("idle", "is said by \"for\" of a trigger: how long its ports stay open without traffic")
	case p.Keepalive > 0 && p.Keepalive >= lifeOf(f):
		return fairlead.Problemf(fairlead.CodeBadValue, "a keepalive every %s comes too late for ports that close after %s", p.Keepalive, lifeOf(f)).
			Fix("say it oftener", "keepalive "+(lifeOf(f)/2).String())
	}
	return nil
}

// lifeOf is how long a trigger's ports stay open after the last packet.
func lifeOf(f *fairlead.Forward) time.Duration {
	if f.Policy.For > 0 {
		return f.Policy.For
	}
	return triggerFor
}

// A trigger is one forward of that kind in the making.
type trigger struct {
	i      int
	f      *fairlead.Forward
	base   string
	lans   []string
	wans   []string
	life   time.Duration
	opens  []opening
	asked  string // base of the names of what counts who was refused
	memory *memory
}

// An opening is ports of one protocol.
type opening struct {
	proto uint8
	ports fairlead.Ports
}

// A memory is the names of the sets in which the kernel remembers a trigger's
// openings: who has them, and who was refused.
type memory struct {
	owner4 string // addresses of IPv4, one unless the last wins
	busy4  string // one constant key, as long as there is an owner; "" where the last wins
	lead4  string // a map: the one to whom packets are led
	owner6 string // addresses of IPv6: each has a pinhole of its own
	asked4 string // addresses that were refused
}

// remembered reports whether a set is one of those, whose elements outlive a
// replacement of the table.
func remembered(set string) bool {
	_, what, ok := strings.Cut(set, "/")
	if !ok {
		return false
	}
	what, _, ok = strings.Cut(what, "_")
	return ok && slices.Contains([]string{"own4", "own6", "busy", "to", "who4"}, what)
}

// triggers makes the sets of all triggers and what counts for them. Their rules
// follow those of translation, so that a forward wins.
func (c *compiler) triggers() []*trigger {
	var list []*trigger
	var seen map[uint8]*portSet
	for i, f := range c.want {
		if f.Kind != fairlead.KindTrigger || c.failed(i) {
			continue
		}
		t := &trigger{i: i, f: f, life: lifeOf(f)}
		if p := c.sidesOf(t); p != nil {
			c.fail(i, p)
			continue
		}
		if p := c.opensOf(t); p != nil {
			c.fail(i, p)
			continue
		}
		if seen == nil {
			seen = map[uint8]*portSet{protoTCP: {}, protoUDP: {}}
		}
		c.remember(t)
		c.triggerAccounts(t, seen)
		list = append(list, t)
	}
	return list
}

// sidesOf says which interfaces t watches, and by which the LAN goes out.
func (c *compiler) sidesOf(t *trigger) *fairlead.Problem {
	where := t.f.At.Where
	if where == "" {
		where = "lan"
	}
	wans := c.w.side("wan")
	if len(wans) == 0 {
		return noSide("wan")
	}
	for _, lan := range c.w.side(where) {
		if !slices.Contains(wans, lan) {
			t.lans = append(t.lans, lan)
		}
	}
	switch {
	case len(c.w.side(where)) == 0:
		return noSide(where)
	case len(t.lans) == 0:
		return fairlead.Problemf(fairlead.CodeNoWay, "%s leads outside: a trigger watches what a LAN sends", where).
			Fix("name the LAN's interface", "on lan")
	}
	t.wans = wans
	for _, name := range append(slices.Clone(t.lans), wans...) {
		if _, ok := c.w.addrs[name]; !ok {
			c.warn(t.i, fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q on this machine now", name))
		}
	}
	return nil
}

// opensOf says what t opens: ports at which something of ours is reached from
// outside stay with that.
func (c *compiler) opensOf(t *trigger) *fairlead.Problem {
	var met []string
	for _, g := range t.f.Opens {
		for _, proto := range protos(g.Net) {
			held := new(portSet)
			for _, ports := range g.Ports {
				for _, h := range c.heldOutside(proto, t.wans) {
					if h.ports.First <= ports.Last && ports.First <= h.ports.Last {
						held.add(h.ports)
						if !slices.Contains(met, h.who) {
							met = append(met, h.who)
						}
					}
				}
				for _, free := range held.without(ports) {
					t.opens = append(t.opens, opening{proto, free})
				}
			}
		}
	}
	if len(met) == 0 {
		return nil
	}
	slices.Sort(met)
	p := fairlead.Problemf(fairlead.CodeTriggerTaken, "ports that %s opens are those of %s, which has them", t.f.Name, strings.Join(met, ", ")).
		Fix("open other ports", "")
	if len(t.opens) == 0 {
		return p
	}
	c.warn(t.i, p)
	return nil
}

// A holding is ports that are reached from outside already.
type holding struct {
	ports fairlead.Ports
	who   string
}

// heldOutside are the ports of a protocol that are reached by these WANs.
func (c *compiler) heldOutside(proto uint8, wans []string) (list []holding) {
	has := func(n fairlead.Network) bool { return slices.Contains(protos(n), proto) }
	for i, f := range c.want {
		switch f.Kind {
		case fairlead.KindNAT, fairlead.KindForward:
		case fairlead.KindOpen:
			if !toSelf(f) {
				continue
			}
		default:
			continue
		}
		if c.failed(i) || !has(f.At.Net) || f.At.Loopback() || f.At.Addr.IsValid() && !c.w.facing(f.At.Addr.Unmap(), wans) ||
			f.At.Where != "" && !slices.ContainsFunc(c.w.side(f.At.Where), func(name string) bool { return slices.Contains(wans, name) }) {
			continue
		}
		for _, ports := range f.At.Ports {
			list = append(list, holding{ports, f.Name})
		}
	}
	for _, l := range c.w.listens {
		if has(l.Net) && c.w.facing(l.At.Addr().Unmap().WithZone(""), wans) {
			list = append(list, holding{fairlead.Ports{First: l.At.Port(), Last: l.At.Port()}, "a forward at " + l.At.String()})
		}
	}
	return list
}

// remember makes the sets of t. Their names have a digest of what the sentence
// says: where that changes, what was opened by the old one is not open any more.
func (c *compiler) remember(t *trigger) {
	t.base = c.baseName(t.f)
	sum := sha256.Sum256(fmt.Append(nil, t.f.At.String(), t.f.Opens, t.f.Policy.LastWins))
	mark := "_" + hex.EncodeToString(sum[:2])
	m := &memory{
		owner4: t.base + "/own4" + mark, lead4: t.base + "/to" + mark,
		owner6: t.base + "/own6" + mark, asked4: t.base + "/who4" + mark,
	}
	t.memory = m
	// What has ended, or was taken out, has room in the set until the kernel has
	// cleared it away, a second later.
	owners, leads := 16, 16
	if t.f.Policy.LastWins {
		owners, leads = triggerPins, 4096
	} else {
		m.busy4 = t.base + "/busy" + mark
		c.set(m.busy4, nft.Set{Key: []nft.Type{nft.NFProtoType}, Dynamic: true, Timed: true, Size: 16})
	}
	c.set(m.owner4, nft.Set{Key: []nft.Type{nft.IPv4Addr}, Dynamic: true, Timed: true, Size: owners})
	c.set(m.lead4, nft.Set{Key: []nft.Type{nft.NFProtoType}, Data: []nft.Type{nft.IPv4Addr}, Dynamic: true, Timed: true, Size: leads})
	c.set(m.owner6, nft.Set{Key: []nft.Type{nft.IPv6Addr}, Dynamic: true, Timed: true, Size: triggerPins})
	c.set(m.asked4, nft.Set{Key: []nft.Type{nft.IPv4Addr}, Dynamic: true, Timed: true, Size: askedMost})
	part := &c.parts[t.i]
	part.memory = m
	for _, o := range t.opens {
		part.entries = append(part.entries, entry{proto: o.proto, ports: o.ports})
	}
	for _, wan := range t.wans {
		for _, o := range t.opens {
			part.bound = append(part.bound, wan+":"+o.String())
		}
	}
}

func (o opening) String() string { return o.ports.String() + "/" + protoName(o.proto) }

// triggerAccounts makes the elements that count. What two triggers open counts
// for the first.
func (c *compiler) triggerAccounts(t *trigger, seen map[uint8]*portSet) {
	for _, o := range t.opens {
		for _, r := range seen[o.proto].without(o.ports) {
			seen[o.proto].add(r)
			like := nft.Set{Key: []nft.Type{nft.InetService}, Counted: true, Interval: r.First < r.Last}
			key := []nft.Range{portRange(r)}
			name := accountSets(o.proto, nil, like.Interval)
			c.accounts[accountOf(name, key)] = t.i
			for _, what := range []tally{flows, in, out} {
				s := c.set(name+ends[what], like)
				s.Elements = append(s.Elements, nft.Element{Key: key, Comment: t.f.Name})
			}
		}
	}
	t.asked = t.base + "/by"
	for _, proto := range protos(t.f.At.Net) {
		key := []nft.Range{nft.One(nft.Byte(proto))}
		c.accounts[accountOf(t.asked, key)] = t.i
		s := c.set(t.asked+ends[turned], nft.Set{Key: []nft.Type{nft.InetProto}, Counted: true})
		s.Elements = append(s.Elements, nft.Element{Key: key, Comment: t.f.Name})
	}
}

// triggerRules makes the rules of the triggers, behind those of translation.
func (c *compiler) triggerRules(list []*trigger) {
	if len(list) == 0 {
		return
	}
	ports := nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(protoTCP)), nft.One(nft.Byte(protoUDP))}}
	// Who is dropped by a filter, ours or another's, triggers nothing.
	c.hook(chainTriggers, nft.Hook{Type: "filter", Hook: "forward", Priority: nft.Filter + 10})
	through := []nft.Key{nft.IIFName, nft.OIFName, nft.L4Proto, nft.CtOrigDport}
	for direction, name := range []string{mapAsks, mapAnswers} {
		c.rule(chainTriggers, ports, nft.Is{Key: nft.CtDirection, Values: []nft.Range{nft.One(nft.Byte(byte(direction)))}}, nft.VMap{Keys: through, Map: name})
	}
	c.rule(chainPre, ipv4.is(), ports, nft.Is{Key: nft.FibDaddrIIFType, Values: []nft.Range{nft.One(routeLocal)}},
		nft.VMap{Keys: []nft.Key{nft.IIFName, nft.L4Proto, nft.Dport}, Map: mapLeads})
	var asks, answers, leads []reach
	for _, t := range list {
		c.ask(t)
		c.passing(t)
		c.rule(t.base+"/lead", nft.DNAT{Family: nft.IPv4, Keys: []nft.Key{nft.NFProto}, Map: t.memory.lead4})
		for _, wan := range t.wans {
			for _, lan := range t.lans {
				for _, proto := range protos(t.f.At.Net) {
					for _, ports := range t.f.At.Ports {
						asks = append(asks, reach{lan + "\x00" + wan, opening{proto, ports}, t.base + "/ask"})
					}
				}
				for _, o := range t.opens {
					asks = append(asks, reach{wan + "\x00" + lan, o, t.base + "/in"})
					answers = append(answers, reach{lan + "\x00" + wan, o, t.base + "/back"})
				}
			}
			for _, o := range t.opens {
				leads = append(leads, reach{wan, o, t.base + "/lead"})
			}
		}
	}
	pairs := []nft.Type{nft.IfName, nft.IfName, nft.InetProto, nft.InetService}
	c.ways(mapAsks, pairs, asks)
	c.ways(mapAnswers, pairs, answers)
	c.ways(mapLeads, pairs[1:], leads)
}

// openOnce matches once in a tenth of a second. Nobody opens a trigger's ports
// that soon after another: they stay open for a second at least.
var openOnce = nft.Limit{Rate: 10, Per: time.Second, Burst: 1}

// ask is the chain of packets of the LAN that trigger.
func (c *compiler) ask(t *trigger) {
	m, chain := t.memory, t.base+"/ask"
	back := nft.Verdict{Do: "return"}
	fresh := nft.Has{Key: nft.CtStatus, Mask: nft.StatusConfirmed, Not: true}
	own := nft.Update{Op: "update", Set: m.owner4, Keys: []nft.Key{nft.IPSaddr}, Timeout: t.life + ownerSlack}
	lead := nft.Update{Op: "update", Set: m.lead4, Keys: []nft.Key{nft.NFProto}, DataKeys: []nft.Key{nft.IPSaddr}, Timeout: t.life}
	// A source to which no answer goes by where it came from is none of the LAN's.
	c.rule(chain, nft.Is{Key: nft.FibSaddrOIF, Values: []nft.Range{nft.One(nft.Number(0))}}, back)
	if t.f.Policy.LastWins {
		// An update leaves what is there as it is, so that it is taken out first.
		away := lead
		away.Op, away.Timeout = "delete", 0
		c.rule(chain, nft.Has{Key: nft.CtStatus, Mask: nft.StatusConfirmed}, nft.In{Keys: []nft.Key{nft.IPSaddr}, Set: m.owner4}, own, lead, back)
		c.rule(chain, own, away, lead, back)
	} else {
		busy := nft.Update{Op: "update", Set: m.busy4, Keys: []nft.Key{nft.NFProto}, Timeout: t.life + ownerSlack}
		c.rule(chain, nft.In{Keys: []nft.Key{nft.IPSaddr}, Set: m.owner4}, own, busy, lead, back)
		// Of two that find nobody at the same moment, the limit lets one pass.
		c.rule(chain, ipv4.is(), nft.In{Keys: []nft.Key{nft.NFProto}, Set: m.busy4, Not: true}, openOnce, own, busy, lead, back)
	}
	c.rule(chain, nft.Update{Op: "update", Set: m.owner6, Keys: []nft.Key{nft.IP6Saddr}, Timeout: t.life}, back)
	// The others have found an owner, or by IPv6 the set full.
	c.rule(chain, fresh, nft.In{Keys: []nft.Key{nft.L4Proto}, Set: t.asked + ends[turned]},
		nft.Update{Op: "update", Set: m.asked4, Keys: []nft.Key{nft.IPSaddr}, Timeout: askedFor})
}

// passing is the chains of packets of what was let in, either way: they keep the
// ports open for who has them, and open nothing.
func (c *compiler) passing(t *trigger) {
	m := t.memory
	for _, leg := range []struct {
		chain  string
		k4, k6 nft.Key
	}{{t.base + "/in", nft.IPDaddr, nft.IP6Daddr}, {t.base + "/back", nft.IPSaddr, nft.IP6Saddr}} {
		host4, host6 := []nft.Key{leg.k4}, []nft.Key{leg.k6}
		renew := []nft.Expr{translated, nft.In{Keys: host4, Set: m.owner4},
			nft.Update{Op: "update", Set: m.owner4, Keys: host4, Timeout: t.life + ownerSlack}}
		if m.busy4 != "" {
			renew = append(renew, nft.Update{Op: "update", Set: m.busy4, Keys: []nft.Key{nft.NFProto}, Timeout: t.life + ownerSlack})
		}
		c.rule(leg.chain, append(renew, nft.Update{Op: "update", Set: m.lead4, Keys: []nft.Key{nft.NFProto}, DataKeys: host4, Timeout: t.life})...)
		c.rule(leg.chain, nft.In{Keys: host6, Set: m.owner6}, nft.Update{Op: "update", Set: m.owner6, Keys: host6, Timeout: t.life})
		// Translated packets have been counted.
		if leg.k4 == nft.IPDaddr {
			c.rule(leg.chain, nft.In{Keys: host6, Set: m.owner6}, nft.Has{Key: nft.CtStatus, Mask: nft.StatusConfirmed, Not: true}, nft.Jump(chainAccount+ends[flows]))
		}
		c.rule(leg.chain, nft.In{Keys: host6, Set: m.owner6}, nft.Jump(chainAccount))
	}
}

// triggerPins makes the pinholes of triggers in the guard.
func (c *compiler) triggerPins(list []*trigger) {
	var pins []reach
	for _, t := range list {
		for _, wan := range t.wans {
			for _, o := range t.opens {
				pins = append(pins, reach{wan, o, t.base + "/pin"})
			}
		}
		c.rule(t.base+"/pin", nft.In{Keys: []nft.Key{nft.IP6Daddr}, Set: t.memory.owner6}, nft.Accept)
	}
	if len(pins) == 0 {
		return
	}
	c.rule(chainGuard, ipv6.is(), nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(protoTCP)), nft.One(nft.Byte(protoUDP))}},
		nft.VMap{Keys: []nft.Key{nft.IIFName, nft.L4Proto, nft.Dport}, Map: mapLetIn})
	c.ways(mapLetIn, []nft.Type{nft.IfName, nft.InetProto, nft.InetService}, pins)
}

// A reach is packets that belong to a chain: between interfaces, whose names have
// a zero between them, at ports.
type reach struct {
	between string
	at      opening
	chain   string
}

// ways fills a map of verdicts. Ports of several triggers lead to a chain of
// their own, which asks one after the other in the order of their sentences.
func (c *compiler) ways(name string, types []nft.Type, list []reach) {
	s := c.set(name, nft.Set{Key: types, Verdicts: true, Interval: true, Timed: true})
	type place struct {
		between string
		proto   uint8
	}
	groups := map[place][]reach{}
	var places []place
	for _, w := range list {
		p := place{w.between, w.at.proto}
		if groups[p] == nil {
			places = append(places, p)
		}
		groups[p] = append(groups[p], w)
	}
	for _, p := range places {
		var cuts []int // where a stretch of ports begins
		for _, w := range groups[p] {
			cuts = append(cuts, int(w.at.ports.First), int(w.at.ports.Last)+1)
		}
		slices.Sort(cuts)
		cuts = slices.Compact(cuts)
		for n := 0; n+1 < len(cuts); n++ {
			ports := fairlead.Ports{First: uint16(cuts[n]), Last: uint16(cuts[n+1] - 1)}
			var chains []string
			for _, w := range groups[p] {
				if w.at.ports.First <= ports.First && ports.Last <= w.at.ports.Last && !slices.Contains(chains, w.chain) {
					chains = append(chains, w.chain)
				}
			}
			if len(chains) == 0 {
				continue
			}
			key := make([]nft.Range, 0, 4)
			for _, iface := range strings.Split(p.between, "\x00") {
				key = append(key, nft.One(nft.Name(iface)))
			}
			key = append(key, nft.One(nft.Byte(p.proto)), portRange(ports))
			s.Elements = append(s.Elements, nft.Element{Key: key, Verdict: nft.Jump(c.several(chains))})
		}
	}
}

// several is a chain that leads to each of these.
func (c *compiler) several(chains []string) string {
	if len(chains) == 1 {
		return chains[0]
	}
	sum := sha256.Sum256([]byte(strings.Join(chains, "\x00")))
	name := chainTriggers + "/" + hex.EncodeToString(sum[:8])
	if c.chainNamed[name] == nil {
		for _, chain := range chains {
			c.rule(name, nft.Jump(chain))
		}
	}
	return name
}

// A keeper is a host that has a trigger's ports, or was refused them.
type keeper struct {
	addr netip.Addr
	left time.Duration
}

// keepersOf are those in a set of a memory: the keys, or what a map leads to.
func keepersOf(s *nft.Set) (list []keeper) {
	if s == nil {
		return nil
	}
	for _, e := range s.Elements {
		v := nft.Value("")
		switch {
		case len(e.Data) == 1:
			v = e.Data[0]
		case len(e.Key) == 1:
			v = e.Key[0].First
		}
		if a, ok := netip.AddrFromSlice([]byte(v)); ok {
			list = append(list, keeper{a, left(e, 0)})
		}
	}
	return list
}
