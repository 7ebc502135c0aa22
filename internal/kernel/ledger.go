package kernel

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"fairlead"
	"fairlead/internal/sys/conntrack"
)

// A ledger says to which forward a tracked connection belongs: by what its
// client asked for, which neither a change of the targets nor translation
// alters. What forwards were entered at before is remembered as long as
// connections of it live, so that these are listed and can be ended. Where
// something else is entered there now, connections are the new one's: the
// kernel does not say by which rule one was let in.
type ledger struct {
	mu   sync.Mutex // guards the rest
	now  []*stretch
	past []*stretch          // oldest first
	here map[netip.Addr]bool // addresses that this host has, or had
	look *look               // of the above, once it was asked for
}

// pastMost bounds what is remembered; the oldest goes first.
const pastMost = 1 << 16

// missedMost is after how many lists without a connection of it something past
// is forgotten: one list may miss what is there.
const missedMost = 2

// An owner is a forward whose connections are meant.
type owner struct {
	key key
	nat bool // only translated connections are its own
}

// A gate is where connections enter: without an address, at any of this host.
type gate struct {
	proto uint8
	at    netip.Addr
}

// A stretch is ports of a gate that are, or were, one forward's.
type stretch struct {
	gate  gate
	ports fairlead.Ports
	owner owner

	missed int // of the past: lists in a row without a connection of it
}

// same tells stretches apart by what they say.
type same struct {
	gate  gate
	ports fairlead.Ports
	key   key
}

// alike reports whether the two are of one forward and stand for the same.
func (s *stretch) alike(t *stretch) bool {
	return s.gate == t.gate && s.ports == t.ports && s.owner == t.owner
}

func (s *stretch) what() same { return same{s.gate, s.ports, s.owner.key} }

// stretches are what the parts of a plan are entered at.
func (p *plan) stretches() []*stretch {
	if p == nil {
		return nil
	}
	var list []*stretch
	for i := range p.parts {
		list = append(list, p.parts[i].stretches()...)
	}
	return list
}

func (p *part) stretches() []*stretch {
	o := owner{key: keyOf(p.f), nat: p.f.Kind != fairlead.KindOpen}
	list := make([]*stretch, len(p.entries))
	room := make([]stretch, len(p.entries))
	for i, e := range p.entries {
		room[i] = stretch{gate: e.gate(), ports: e.ports, owner: o}
		list[i] = &room[i]
	}
	return list
}

func (e *entry) gate() gate {
	at := e.at.Unmap().WithZone("")
	if at.IsUnspecified() {
		at = netip.Addr{}
	}
	return gate{e.proto, at}
}

// turn has the ledger know p, in force on a host of these addresses.
func (l *ledger) turn(p *plan, here map[netip.Addr]bool) {
	now := p.stretches()
	l.mu.Lock()
	defer l.mu.Unlock()
	// Nothing is both in force and past, so that only what is new has to be looked
	// for there; mostly that is little of a long list.
	gone, come := l.now, now
	for len(gone) > 0 && len(come) > 0 && gone[0].alike(come[0]) {
		gone, come = gone[1:], come[1:]
	}
	for len(gone) > 0 && len(come) > 0 && gone[len(gone)-1].alike(come[len(come)-1]) {
		gone, come = gone[:len(gone)-1], come[:len(come)-1]
	}
	still := make(map[same]bool, len(come))
	for _, s := range come {
		still[s.what()] = true
	}
	past := slices.DeleteFunc(slices.Clone(l.past), func(s *stretch) bool { return still[s.what()] })
	for _, s := range gone {
		if !still[s.what()] {
			past = append(past, s)
		}
	}
	if n := len(past) - pastMost; n > 0 {
		past = slices.Delete(past, 0, n)
	}
	all := maps.Clone(here)
	if len(l.here) < pastMost {
		maps.Copy(all, l.here)
	}
	l.now, l.past, l.here, l.look = now, past, all, nil
}

// open is what is needed to read a list of connections, by one reader; nil
// where none of them could be anybody's.
func (l *ledger) open() *look {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.now)+len(l.past) == 0 {
		return nil
	}
	if l.look == nil {
		l.look = newLook(l.now, l.past, l.here)
	}
	own := *l.look
	own.met = map[*stretch]bool{}
	return &own
}

// closed forgets what is past and had no connection in a whole list.
func (l *ledger) closed(read *look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	past := slices.DeleteFunc(slices.Clone(l.past), func(s *stretch) bool {
		s.missed++
		if read.met[s] {
			s.missed = 0
		}
		return s.missed >= missedMost
	})
	if len(past) < len(l.past) {
		l.past, l.look = past, nil
	}
}

// A look is the ledger as it was when it was opened. It is read only, but for
// met, which is its reader's own.
type look struct {
	now, past index
	here      map[netip.Addr]bool
	status    uint32            // bits that every connection of anybody has
	met       map[*stretch]bool // of the past: had a connection
}

func newLook(now, past []*stretch, here map[netip.Addr]bool) *look {
	lk := &look{now: indexOf(now), past: indexOf(past), here: here, status: conntrack.DNAT}
	for _, list := range [][]*stretch{now, past} {
		for _, s := range list {
			if !s.owner.nat {
				lk.status = 0
			}
		}
	}
	return lk
}

// entered reports whether e came in where somebody's connections do, translated
// or not.
func (lk *look) entered(e *conntrack.Entry) bool {
	s, _ := lk.by(e)
	return s != nil
}

// by is the stretch that e entered by. What another connection announced, as
// FTP's for data, entered by the other's.
func (lk *look) by(e *conntrack.Entry) (s *stretch, past bool) {
	s, past = lk.find(e.Original)
	if s == nil && e.Master.Proto != 0 {
		s, past = lk.find(e.Master)
	}
	return s, past
}

// of is whose connection e is, nil for nobody's.
func (lk *look) of(e *conntrack.Entry) *owner {
	s, past := lk.by(e)
	if s == nil || s.owner.nat && e.Status&conntrack.DNAT == 0 {
		return nil
	}
	if past {
		lk.met[s] = true
	}
	return &s.owner
}

// find is the stretch that a connection entered by: what names the address
// before what does not.
func (lk *look) find(t conntrack.Tuple) (s *stretch, past bool) {
	at, port := t.Dst.Addr(), t.Dst.Port()
	gates := []gate{{t.Proto, at}, {t.Proto, netip.Addr{}}}
	if !lk.here[at] && !at.IsLoopback() {
		gates = gates[:1]
	}
	for _, d := range gates {
		if s := lk.now.find(d, port); s != nil {
			return s, false
		}
		if s := lk.past.find(d, port); s != nil {
			return s, true
		}
	}
	return nil, false
}

// An index finds stretches by gate and port.
type index map[gate][]indexed // by first port, of equals the newer one last

type indexed struct {
	s     *stretch
	reach uint16 // the last port of this one and of all before it
}

func indexOf(list []*stretch) index {
	x := index{}
	for _, s := range list {
		x[s.gate] = append(x[s.gate], indexed{s: s})
	}
	for _, at := range x {
		slices.SortStableFunc(at, func(a, b indexed) int { return int(a.s.ports.First) - int(b.s.ports.First) })
		reach := uint16(0)
		for i := range at {
			reach = max(reach, at[i].s.ports.Last)
			at[i].reach = reach
		}
	}
	return x
}

// find looks at one stretch where they do not overlap, as those in force never
// do.
func (x index) find(d gate, port uint16) *stretch {
	at := x[d]
	n, _ := slices.BinarySearchFunc(at, int(port)+1, func(e indexed, p int) int { return int(e.s.ports.First) - p })
	for i := n - 1; i >= 0 && at[i].reach >= port; i-- {
		if at[i].s.ports.Last >= port {
			return at[i].s
		}
	}
	return nil
}
