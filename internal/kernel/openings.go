package kernel

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/conntrack"
	"fairlead/internal/sys/nft"
)

// The kernel opens and closes a trigger's ports by itself, and tells nobody.
// What it remembers is read here twice a second: for the status and the log.
// What falls between two looks is not told, and works all the same.
const (
	lookEach  = 500 * time.Millisecond
	lookFresh = 100 * time.Millisecond // how old a look may be for a status
)

// openings is what was last seen of the triggers' openings.
type openings struct {
	mu   sync.Mutex // guards the rest, and is held while the kernel is asked
	when time.Time
	of   map[key]*sighting
}

// A sighting is what was seen of one trigger.
type sighting struct {
	memory  memory
	holders map[netip.Addr]tenure
	refused map[netip.Addr]bool
	kept    time.Time // when its holders were last spoken for
}

// A tenure is since when and until when a host has the ports.
type tenure struct {
	since, until time.Time
}

// A reading is what the kernel remembers of one trigger.
type reading struct {
	holders, asked []keeper
}

// followTriggers looks at the openings until the carrier is closed.
func (k *Kernel) followTriggers() {
	tick := time.NewTicker(lookEach)
	defer tick.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-tick.C:
		}
		k.lookAtOpenings(0)
		k.keepOpen()
	}
}

// lookAtOpenings reads what the kernel remembers of the triggers, unless that
// was done less than fresh ago, and tells what has changed.
func (k *Kernel) lookAtOpenings(fresh time.Duration) {
	list := *k.carried.Load()
	if !slices.ContainsFunc(list, func(c *carried) bool { return c.part.memory != nil }) {
		return
	}
	o := &k.openings
	o.mu.Lock()
	defer o.mu.Unlock()
	if fresh > 0 && time.Since(o.when) < fresh {
		return
	}
	readings := map[key]reading{}
	if k.inside(func() error { return k.readOpenings(list, readings) }) != nil {
		return // the table is being repaired, or gone
	}
	o.when = time.Now()
	was := o.of
	o.of = map[key]*sighting{}
	for _, c := range list {
		r, ok := readings[keyOf(c.part.f)]
		if !ok {
			continue
		}
		now := was[keyOf(c.part.f)]
		if now == nil || now.memory != *c.part.memory {
			now = &sighting{memory: *c.part.memory, kept: o.when}
		}
		o.of[keyOf(c.part.f)] = now
		k.compare(c, now, r, o.when)
	}
}

// readOpenings reads the sets of all triggers.
func (k *Kernel) readOpenings(list []*carried, into map[key]reading) error {
	conn, err := nft.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, c := range list {
		m := c.part.memory
		if m == nil {
			continue
		}
		var r reading
		for _, s := range []struct {
			set string
			to  *[]keeper
		}{{m.lead4, &r.holders}, {m.owner6, &r.holders}, {m.asked4, &r.asked}} {
			set, err := conn.ReadSet(nft.Inet, k.cfg.Table, s.set)
			if err != nil {
				return err
			}
			*s.to = append(*s.to, keepersOf(set)...)
		}
		into[keyOf(c.part.f)] = r
	}
	return nil
}

// compare notes what a trigger's reading says and tells what is new of it.
func (k *Kernel) compare(c *carried, now *sighting, r reading, when time.Time) {
	holders := map[netip.Addr]tenure{}
	first := false
	for _, h := range r.holders {
		was, had := now.holders[h.addr]
		if !had {
			was.since = when
			first = true
			if now.holders == nil { // what was there before this process
				k.tellTrigger(c, h.addr.String()+" has "+c.opensText()+" open")
			} else {
				k.tellTrigger(c, h.addr.String()+" opened "+c.opensText())
			}
		}
		holders[h.addr] = tenure{was.since, when.Add(h.left)}
	}
	for addr := range now.holders {
		switch _, has := holders[addr]; {
		case has:
		case c.part.f.Policy.LastWins && addr.Is4() && slices.ContainsFunc(r.holders, func(h keeper) bool { return h.addr.Is4() }):
			k.tellTrigger(c, c.opensText()+" led to "+addr.String()+" no longer: another host has it")
		default:
			k.tellTrigger(c, c.opensText()+" closed for "+addr.String()+": no traffic for "+lifeOf(c.part.f).String())
		}
	}
	refused := map[netip.Addr]bool{}
	for _, a := range r.asked {
		refused[a.addr] = true
		if !now.refused[a.addr] {
			k.tellTrigger(c, a.addr.String()+" was refused "+c.opensText()+": "+holdersText(r.holders))
		}
	}
	now.holders, now.refused = holders, refused
	if first {
		k.unstick(c)
	}
}

// unstick forgets UDP connections that came to the opened ports while they were
// closed: the kernel would go on leading them to this host itself.
func (k *Kernel) unstick(c *carried) {
	p := k.counted.Load()
	if p == nil || p.world == nil {
		return
	}
	var udp []*stretch
	for _, s := range c.part.stretches() {
		if s.gate.proto == protoUDP {
			udp = append(udp, s)
		}
	}
	k.flush(k.ctx, udp, p.world.addresses(), func(e *conntrack.Entry) bool { return e.Status&conntrack.DNAT == 0 })
}

// tellTrigger writes a line of the log about a trigger.
func (k *Kernel) tellTrigger(c *carried, text string) {
	if k.cfg.Watch != nil {
		k.cfg.Watch(fairlead.Event{Time: time.Now(), Kind: fairlead.EventTrigger, Forward: c.part.f.Name, Text: text})
	}
}

// opensText is the ports that a trigger opens.
func (c *carried) opensText() string {
	var words []string
	for _, g := range c.part.f.Opens {
		words = append(words, g.String())
	}
	return strings.Join(words, ", ")
}

// holdersText says who has the one IPv4 opening that there is.
func holdersText(list []keeper) string {
	for _, h := range list {
		if h.addr.Is4() {
			return h.addr.String() + " has it"
		}
	}
	return "another host had it"
}

// holding adds the hosts that have a trigger's ports to its status.
func (k *Kernel) holding(s *fairlead.Status) {
	k.openings.mu.Lock()
	defer k.openings.mu.Unlock()
	o := k.openings.of[keyOf(s.Forward)]
	if o == nil {
		return
	}
	for addr, h := range o.holders {
		s.Targets = append(s.Targets, fairlead.TargetStatus{Target: addr.String(), Up: true, Since: h.since, Until: h.until})
	}
	slices.SortFunc(s.Targets, func(a, b fairlead.TargetStatus) int {
		if n := a.Since.Compare(b.Since); n != 0 {
			return n
		}
		return strings.Compare(a.Target, b.Target)
	})
}

// replace loads t in place of the whole table. What the kernel remembers by
// itself goes over into the new one: who has a trigger's ports keeps them. An
// opening of the moment between the two is lost, and made anew by the next
// packet.
func (k *Kernel) replace(conn *nft.Conn, t *nft.Table) error {
	return k.inside(func() error { return conn.Replace(k.withMemory(conn, t)) })
}

// withMemory is t with the elements that rules have added to the table that is
// loaded now.
func (k *Kernel) withMemory(conn *nft.Conn, t *nft.Table) *nft.Table {
	full := t
	for i := range t.Sets {
		s := &t.Sets[i]
		if !s.Dynamic || !remembered(s.Name) {
			continue
		}
		now, err := conn.ReadSet(t.Family, t.Name, s.Name)
		if err != nil || now == nil || !slices.Equal(now.Key, s.Key) || !slices.Equal(now.Data, s.Data) {
			continue // there is none yet
		}
		list := slices.DeleteFunc(now.Elements, func(e nft.Element) bool { return left(e, 0) <= 0 })
		if s.Size > 0 && len(list) > s.Size {
			list = list[:s.Size]
		}
		if full == t {
			own := *t
			own.Sets = slices.Clone(t.Sets)
			full = &own
		}
		full.Sets[i].Elements = list
	}
	return full
}
