package relay

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// The policies: which of several targets that are meant for a client is tried
// first. Whatever the policy, a target that is known to be down comes after
// those that are not, and what refuses is passed over for the next.
const (
	failover   = "failover" // the order written; the default
	roundRobin = "round-robin"
	leastConn  = "least-conn"
	random     = "random"
	sourceHash = "source-hash"
)

var policies = []string{failover, roundRobin, leastConn, random, sourceHash}

// choose returns the targets meant for a client, in the order to be tried:
// those with the longest prefix that holds the client, else those for
// everybody. Clients of unix sockets have no address and belong to everybody.
func (ru *rule) choose(client netip.Addr) []*target {
	if len(ru.targets) == 1 && len(ru.targets[0].t.From) == 0 {
		return ru.targets
	}
	best := -1
	var chosen []*target
	for _, t := range ru.targets {
		bits := -1
		for _, p := range t.t.From {
			if p.Contains(client) {
				bits = max(bits, p.Bits())
			}
		}
		if bits < 0 && len(t.t.From) > 0 {
			continue
		}
		switch {
		case bits > best:
			best, chosen = bits, []*target{t}
		case bits == best:
			chosen = append(chosen, t)
		}
	}
	return chosen
}

// order is targets in the order in which this client's connection tries them.
// It may return targets itself, and never changes it.
func (ru *rule) order(targets []*target, client netip.Addr) []*target {
	if len(targets) < 2 {
		return targets
	}
	targets = slices.Clone(targets)
	switch ru.f.Policy.Choose {
	case roundRobin:
		n := ru.turn(len(targets))
		targets = slices.Concat(targets[n:], targets[:n])
	case leastConn:
		// Equals take turns, so that a quiet service is spread as well.
		n := ru.turn(len(targets))
		targets = slices.Concat(targets[n:], targets[:n])
		slices.SortStableFunc(targets, func(a, b *target) int { return cmp.Compare(a.active.Load(), b.active.Load()) })
	case random:
		rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	case sourceHash:
		// The highest random weight: a client keeps its target when others
		// come and go. An address counts without the bits that a host gives
		// itself (IPv6 privacy addresses).
		weight := make(map[*target]uint64, len(targets))
		for _, t := range targets {
			weight[t] = hashOf(sourceKey(client), t.t.Dest())
		}
		slices.SortStableFunc(targets, func(a, b *target) int { return cmp.Compare(weight[b], weight[a]) })
	}
	slices.SortStableFunc(targets, func(a, b *target) int { return cmp.Compare(downness(a), downness(b)) })
	return targets
}

// turn counts round among n.
func (ru *rule) turn(n int) int { return int((ru.turns.Add(1) - 1) % uint32(n)) }

// hashOf is the same after a restart, and on every machine.
func hashOf(client netip.Addr, dest string) uint64 {
	h := sha256.New()
	b := client.As16()
	h.Write(b[:])
	h.Write([]byte(dest))
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func downness(t *target) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.problem != nil {
		return 1
	}
	return 0
}
