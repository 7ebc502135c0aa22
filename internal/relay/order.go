package relay

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// The policies: which of several targets that are meant for a client is tried
// first. Whatever the policy, a target that is known to be down comes after
// those that are not, a backup after those that are none, and what refuses is
// passed over for the next.
const (
	failover   = "failover" // the order written; the default
	roundRobin = "round-robin"
	leastConn  = "least-conn"
	random     = "random"
	sourceHash = "source-hash"
)

var policies = []string{failover, roundRobin, leastConn, random, sourceHash}

// weighing are the policies under which a target's weight is its share.
func weighing(policy string) bool { return policy != "" && policy != failover }

// fitsShares is what keeps f's policy from sharing connections out as its words
// say, nil for nothing.
func fitsShares(f *fairlead.Forward) *fairlead.Problem {
	choose := f.Policy.Choose
	refuse := func(format string, args ...any) *fairlead.Problem {
		return fairlead.Problemf(fairlead.CodeCannotHonour, format, args...).
			Fix("share the connections out", "policy round-robin, least-conn or random")
	}
	for i := range f.To {
		if t := &f.To[i]; t.Weight != 0 && !weighing(choose) {
			return refuse("%s has a weight, and policy failover knows no shares: it takes the first target that is up", t.Dest())
		}
	}
	switch {
	case f.Policy.SlowStart == 0:
	case !weighing(choose):
		return refuse("slow-start lets a share grow, and policy failover knows no shares: it takes the first target that is up")
	case choose == sourceHash:
		return refuse("slow-start lets a share grow, and with policy source-hash that would move clients from target to target")
	}
	return nil
}

// A chooser is what a rule needs to choose among its targets.
type chooser struct {
	pool  atomic.Pointer[pool]
	draw  func() float64 // of policy random: from 0 to less than 1
	turns atomic.Uint64  // choices so far; among equals the one chosen longest ago is next

	round   sync.Mutex // guards target.current of all targets
	filling sync.Mutex // held by who makes the pool anew
}

// A pool is what a rule's targets are at the moment: those written, and in the
// place of one that stands for several, its members. It is never changed.
type pool struct {
	all   []*target // in the order written
	ready []*target // those of all that take new connections
	plain bool      // none is meant for certain clients only
}

// fill makes the pool anew from what the targets are now.
func (ru *rule) fill() {
	ru.filling.Lock()
	defer ru.filling.Unlock()
	p := &pool{plain: true}
	for _, t := range ru.targets {
		p.all = append(p.all, t.leaves()...)
	}
	for _, t := range p.all {
		if !t.t.Drain {
			p.ready = append(p.ready, t)
		}
		p.plain = p.plain && len(t.t.From) == 0
	}
	ru.pool.Store(p)
}

// choose returns the targets meant for a client: those with the longest prefix
// that holds the client, else those for everybody; of these, the ones that
// take new connections. What a target that is drained has claimed is nobody
// else's. Clients of unix sockets have no address and belong to everybody.
func (ru *rule) choose(client netip.Addr) []*target {
	p := ru.pool.Load()
	if ru.routed {
		return p.candidates(client)
	}
	if p.plain {
		return p.ready
	}
	best := -1
	var chosen []*target
	for _, t := range p.all {
		bits := -1
		for _, p := range t.t.From {
			if p.Contains(client) {
				bits = max(bits, p.Bits())
			}
		}
		if bits < best || bits < 0 && len(t.t.From) > 0 {
			continue
		}
		if bits > best {
			best, chosen = bits, nil
		}
		if !t.t.Drain {
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// pick is the target that this client's connection tries first, nil when there
// is none. It does not build the whole order, and allocates nothing unless
// some targets are meant for certain clients only. Each call is a turn.
func (ru *rule) pick(client netip.Addr) *target {
	return ru.first(ru.choose(client), client, nil)
}

// pickOther is the target to try when those in tried have failed.
func (ru *rule) pickOther(client netip.Addr, tried []*target) *target {
	return ru.first(ru.choose(client), client, tried)
}

// order is targets in the order in which this client's connection tries them.
// It may return targets itself, and never changes it.
func (ru *rule) order(targets []*target, client netip.Addr) []*target {
	if len(targets) < 2 {
		return targets
	}
	return ru.orderBehind(ru.first(targets, client, nil), targets, client)
}

// orderBehind is order for a connection whose first choice is made already.
func (ru *rule) orderBehind(head *target, targets []*target, client netip.Addr) []*target {
	if len(targets) < 2 {
		return targets
	}
	type place struct {
		t     *target
		level int
		rank  float64
	}
	rest := make([]place, 0, len(targets)-1)
	now := ru.clock()
	ru.round.Lock()
	for _, t := range targets {
		if t != head {
			rest = append(rest, place{t, t.level(), ru.rank(t, client, now)})
		}
	}
	ru.round.Unlock()
	slices.SortStableFunc(rest, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.rank, b.rank), cmp.Compare(a.t.chosen.Load(), b.t.chosen.Load()))
	})
	ordered := make([]*target, 1, len(targets))
	ordered[0] = head
	for _, p := range rest {
		ordered = append(ordered, p.t)
	}
	return ordered
}

// first is the one of targets that comes first, without those in tried.
func (ru *rule) first(targets []*target, client netip.Addr, tried []*target) *target {
	// Of those that come before all others by what they are and how they
	// stand, the policy chooses.
	var only *target
	level, n := math.MaxInt, 0
	for _, t := range targets {
		if tried != nil && slices.Contains(tried, t) {
			continue
		}
		switch l := t.level(); {
		case l < level:
			only, level, n = t, l, 1
		case l == level:
			n++
		}
	}
	if n < 2 || !weighing(ru.f.Policy.Choose) {
		return only
	}
	now := ru.clock()
	if ru.f.Policy.Choose == roundRobin {
		return ru.next(targets, tried, level, now, only)
	}
	best, least := only, math.Inf(1)
	for _, t := range targets {
		if t.level() != level || tried != nil && slices.Contains(tried, t) {
			continue
		}
		if r := ru.rank(t, client, now); r < least || r == least && t.chosen.Load() < best.chosen.Load() {
			best, least = t, r
		}
	}
	best.chosen.Store(ru.turns.Add(1))
	return best
}

// next is the target whose turn it is: everybody gains its share, and who has
// most pays for all. So turns come as evenly as the weights allow, and a
// target with much weight does not get its turns in a row.
func (ru *rule) next(targets, tried []*target, level int, now time.Time, otherwise *target) *target {
	ru.round.Lock()
	defer ru.round.Unlock()
	var best *target
	all := int64(0)
	for _, t := range targets {
		if t.level() != level || tried != nil && slices.Contains(tried, t) {
			continue
		}
		share := ru.share(t, now)
		all += share
		t.current += share
		if best == nil || t.current > best.current {
			best = t
		}
	}
	if best == nil { // it went down just now
		return otherwise
	}
	best.current -= all
	return best
}

// rank tells how early t comes among its like, the least first. The caller
// holds ru.round where the policy is round-robin.
func (ru *rule) rank(t *target, client netip.Addr, now time.Time) float64 {
	switch ru.f.Policy.Choose {
	case roundRobin:
		return -float64(t.current + ru.share(t, now))
	case leastConn:
		return float64(t.active.Load()+1) / float64(ru.share(t, now))
	case random:
		return lot(1-ru.draw(), ru.share(t, now))
	case sourceHash:
		// The highest random weight: a client keeps its target when others
		// come and go. An address counts without the bits that a host gives
		// itself (IPv6 privacy addresses). A share that grows would move
		// clients, so that it is the whole one.
		return lot(unit(hashOf(sourceKey(client), t.hash)), t.weight*wholeShare)
	}
	return 0
}

// lot draws so that the least of several is each one's with a chance of its
// share of all: an exponential variate whose rate is the share. u is over 0 and
// at most 1.
func lot(u float64, share int64) float64 { return -math.Log(u) / float64(share) }

// wholeShare is the share that a weight of one is. A target that comes back
// begins with a part of it.
const wholeShare = 1000

// share is what t gets in proportion to the others.
func (ru *rule) share(t *target, now time.Time) int64 {
	whole := t.weight * wholeShare
	slow := ru.f.Policy.SlowStart
	if slow <= 0 {
		return whole
	}
	back := t.back.Load()
	if back == 0 {
		return whole
	}
	gone := now.Sub(time.Unix(0, back))
	if gone >= slow {
		return whole
	}
	return max(int64(float64(whole)*float64(gone)/float64(slow)), 1)
}

// clock is the time, where shares depend on it.
func (ru *rule) clock() (now time.Time) {
	if ru.f.Policy.SlowStart > 0 {
		now = time.Now()
	}
	return now
}

// hashOf is the same after a restart, and on every machine.
func hashOf(client netip.Addr, target uint64) uint64 {
	b := client.As16()
	h := mix(target ^ binary.BigEndian.Uint64(b[:8]))
	return mix(h ^ binary.BigEndian.Uint64(b[8:]))
}

// mix spreads every bit over all of them: the finalizer of SplitMix64 (Steele,
// Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit is h as a number over 0 and at most 1.
func unit(h uint64) float64 { return float64(h>>11+1) / (1 << 53) }

func hashOfDest(dest string) uint64 {
	sum := sha256.Sum256([]byte(dest))
	return binary.BigEndian.Uint64(sum[:])
}

// The levels: the lower, the earlier a target is tried.
const (
	levelBackup = 1 << 16 // above every priority of a service record
	levelDown   = 1 << 17
)

// level is whether t is tried before others whatever the policy.
func (t *target) level() int {
	if t.down.Load() {
		return t.tier | levelDown
	}
	return t.tier
}
