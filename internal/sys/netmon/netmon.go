// Package netmon knows this host's interfaces, their addresses, which of them
// lead outside, and when any of that changes. It reads only: it sets up no
// interface and no route. What it says holds for the network namespace of the
// calling thread. All functions may be called concurrently.
package netmon

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// An Interface is a network interface as it was when it was asked for.
type Interface struct {
	Name     string
	Index    int
	Up       bool // set up by the administrator; the cable may still be out
	Loopback bool

	// Addrs are its own addresses, v4 first, in the order of the system;
	// link-local v6 addresses carry the interface's name as their zone.
	Addrs []netip.Addr

	// Nets are the networks whose hosts it reaches without a router, by its
	// addresses. A tunnel (point-to-point) has none: its far end may be anywhere.
	Nets []netip.Prefix
}

// Settle is how long Watch gathers changes before it tells of them. It is
// also the shortest time between two notices.
const Settle = 100 * time.Millisecond

// pollEvery is how often Watch looks where the system does not tell.
const pollEvery = 5 * time.Second

// Interfaces are all interfaces, ordered by index.
func Interfaces() ([]Interface, error) {
	list, err := interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	slices.SortFunc(list, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	for _, i := range list {
		slices.SortStableFunc(i.Addrs, func(a, b netip.Addr) int { return cmp.Compare(a.BitLen(), b.BitLen()) })
	}
	return list, nil
}

// add appends an address, with a zone where it needs one, and its network unless
// the interface is a tunnel.
func (i *Interface) add(n *net.IPNet, tunnel bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return
	}
	a = a.Unmap()
	if ones, bits := n.Mask.Size(); !tunnel && bits > 0 {
		if p, err := a.Prefix(ones - bits + a.BitLen()); err == nil {
			i.Nets = append(i.Nets, p)
		}
	}
	if a.Is6() && (a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast()) {
		a = a.WithZone(i.Name)
	}
	i.Addrs = append(i.Addrs, a)
}

// Addresses are all addresses of the interface called name. An interface
// without an address is no error; one that does not exist is.
func Addresses(name string) ([]netip.Addr, error) {
	list, err := Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if i.Name == name {
			return i.Addrs, nil
		}
	}
	return nil, fmt.Errorf("addresses of %s: no such network interface", name)
}

// Local are all addresses of this host, loopback among them.
func Local() ([]netip.Addr, error) {
	list, err := Interfaces()
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, i := range list {
		all = append(all, i.Addrs...)
	}
	return all, nil
}

// Default guesses the two sides of a gateway: wan are the interfaces of the
// default routes, the preferred first; lan are the others that are up, not
// loopback, and have a private address (RFC 1918, RFC 4193), by index. Either
// may be empty. On Linux the main routing table counts; on other systems only
// the one interface per family that would reach the public internet.
func Default() (wan, lan []string, err error) {
	list, err := Interfaces()
	if err != nil {
		return nil, nil, err
	}
	indices, err := defaultRoutes(list)
	if err != nil {
		return nil, nil, fmt.Errorf("list default routes: %w", err)
	}
	for _, index := range indices {
		at := slices.IndexFunc(list, func(i Interface) bool { return i.Index == index })
		if at >= 0 && !slices.Contains(wan, list[at].Name) {
			wan = append(wan, list[at].Name)
		}
	}
	for _, i := range list {
		if i.Up && !i.Loopback && !slices.Contains(wan, i.Name) && slices.ContainsFunc(i.Addrs, netip.Addr.IsPrivate) {
			lan = append(lan, i.Name)
		}
	}
	return wan, lan, nil
}

// Watch calls notify once when it has begun to watch, and again after links,
// addresses, default routes or policy rules have changed, until ctx is over; then it
// returns nil. It returns an error when it cannot watch. Changes that follow
// each other closely make one notice, [Settle] after the first of them; none
// is lost, so a notify that reads the state anew is always right in the end.
// Notify is called from Watch's own goroutine, and Watch waits for it. Where
// the system does not tell of changes they are looked for every 5 seconds.
func Watch(ctx context.Context, notify func()) error { return watch(ctx, notify) }

// poll is Watch by looking at snapshots.
func poll(ctx context.Context, snapshot func() (string, error), notify func()) error {
	last, err := snapshot()
	if err != nil {
		return err
	}
	notify()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// A look that fails tells nothing; the next one may.
		if now, err := snapshot(); err == nil && now != last {
			last = now
			notify()
		}
	}
}

// snapshot is all that Watch watches, as text to compare.
func snapshot() (string, error) {
	list, err := Interfaces()
	if err != nil {
		return "", err
	}
	wan, _, err := Default()
	return fmt.Sprint(list, wan), err
}
