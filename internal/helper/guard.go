package helper

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// A guard keeps datagrams from going round between helpers, and a sender from
// taking everything for itself. Its memory is bounded: what it remembers is in
// two generations, and the older one is forgotten as a whole.
type guard struct {
	seed maphash.Seed

	mu       sync.Mutex // guards the rest
	turned   time.Time
	seen     [2]map[uint64]*sighting
	senders  [2]map[netip.Addr]*bucket
	together bucket
}

// A sighting is what is remembered of a datagram.
type sighting struct {
	hops  uint8     // the hop limit with which it came first
	times int       // since began
	began time.Time // of the second in which times count
}

// The bounds of a guard.
const (
	generation = 5 * time.Second // how long something is remembered at least
	remembered = 2048            // of each kind and generation

	// sameInASecond is how often the very same datagram may come: who repeats a
	// question waits for an answer first.
	sameInASecond = 10

	// farthest is how many routers a datagram may have passed between two
	// sightings. Senders whose hop limits begin at 64, 128 and 255 are farther
	// apart, and may well send the same.
	farthest = 32

	perSender, perSenderBurst = 100, 200 // datagrams a second
	inAll, inAllBurst         = 1000, 2000
)

// A verdict is what a guard says of a datagram.
type verdict uint8

const (
	pass  verdict = iota
	loop          // it was here before
	flood         // there are too many
)

func newGuard() *guard {
	return &guard{seed: maphash.MakeSeed()}
}

// rate counts a datagram of a sender.
func (g *guard) rate(now time.Time, sender netip.Addr) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn(now)
	b := g.senders[0][sender]
	if b == nil {
		if b = g.senders[1][sender]; b == nil {
			b = &bucket{}
		}
		g.senders[0][sender] = b
	}
	if !b.take(now, perSender, perSenderBurst) || !g.together.take(now, inAll, inAllBurst) {
		return flood
	}
	return pass
}

// loops tells whether a datagram with that hop limit was here before and has
// come round. Kept tells that the sender's address stays with it all the way.
func (g *guard) loops(now time.Time, from netip.AddrPort, kept bool, port uint16, hops uint8, payload []byte) verdict {
	var hash maphash.Hash
	hash.SetSeed(g.seed)
	if kept {
		a := from.Addr().As16()
		hash.Write(a[:])
		hash.Write(binary.BigEndian.AppendUint16(nil, from.Port()))
	}
	hash.Write(binary.BigEndian.AppendUint16(nil, port))
	hash.Write(payload)
	key := hash.Sum64()

	g.mu.Lock()
	defer g.mu.Unlock()
	g.turn(now)
	s := g.seen[0][key]
	if s == nil {
		if s = g.seen[1][key]; s == nil {
			s = &sighting{hops: hops, began: now}
		}
		g.seen[0][key] = s
	}
	if hops < s.hops && s.hops-hops <= farthest {
		return loop
	}
	s.hops = hops
	if now.Sub(s.began) >= time.Second {
		s.began, s.times = now, 0
	}
	if s.times++; s.times > sameInASecond {
		return loop
	}
	return pass
}

// turn begins another generation when it is time.
func (g *guard) turn(now time.Time) {
	if g.seen[0] != nil && now.Sub(g.turned) < generation && len(g.seen[0]) < remembered && len(g.senders[0]) < remembered {
		return
	}
	if now.Sub(g.turned) >= 2*generation {
		g.seen[0], g.senders[0] = nil, nil // nobody came meanwhile: that is old, too
	}
	g.turned = now
	g.seen[0], g.seen[1] = map[uint64]*sighting{}, g.seen[0]
	g.senders[0], g.senders[1] = map[netip.Addr]*bucket{}, g.senders[0]
}

// A bucket is tokens that grow with time.
type bucket struct {
	left float64
	at   time.Time
}

func (b *bucket) take(now time.Time, perSecond, burst float64) bool {
	if b.at.IsZero() {
		b.left = burst
	} else {
		b.left = min(burst, b.left+now.Sub(b.at).Seconds()*perSecond)
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
