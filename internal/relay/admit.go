package relay

import (
	"net/netip"
	"sync"
	"time"

	"fairlead"
)

// admit finds the targets for a client, or why it is turned away. A client
// that is admitted is counted, and has to leave.
func admit(ru *rule, client netip.Addr) ([]*target, fairlead.Reason) {
	if !ru.allowed(client) {
		return nil, fairlead.Denied
	}
	targets := ru.choose(client)
	if len(targets) == 0 {
		return nil, fairlead.NoTarget
	}
	if ru.arrivals != nil && !ru.arrivals.try(1, time.Now()) || !ru.enter(client, &ru.f.Policy) {
		return nil, fairlead.Limited
	}
	return targets, ""
}

// An account outlives the versions of a forward: its counters go on through a
// reload.
type account struct {
	meter *fairlead.Meter
	flood flood

	counts  sync.Mutex // guards the rest
	active  int
	sources map[netip.Addr]int
}

// allowed tells whether the client may enter at all.
func (ru *rule) allowed(client netip.Addr) bool {
	for _, p := range ru.f.Policy.Deny {
		if p.Contains(client) {
			return false
		}
	}
	return true
}

// enter counts a client in, unless a limit is reached.
func (a *account) enter(client netip.Addr, p *fairlead.Policy) bool {
	source := sourceKey(client)
	a.counts.Lock()
	defer a.counts.Unlock()
	if p.MaxConns > 0 && a.active >= p.MaxConns ||
		p.MaxConnsPerSource > 0 && a.sources[source] >= p.MaxConnsPerSource {
		return false
	}
	a.active++
	a.sources[source]++
	return true
}

// leave counts a client out.
func (a *account) leave(client netip.Addr) {
	source := sourceKey(client)
	a.counts.Lock()
	defer a.counts.Unlock()
	a.active--
	if a.sources[source]--; a.sources[source] == 0 {
		delete(a.sources, source)
	}
}

// sourceKey is what counts as one source: an IPv4 address, or an IPv6 /64,
// which is the least that a host is given.
func sourceKey(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}
