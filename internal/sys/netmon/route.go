package netmon

import (
	"context"
	"errors"
	"net/netip"
)

// A Route is which way a packet goes on from here.
type Route struct {
	Interface string     // by which it leaves; for a Local one, the loopback
	Via       netip.Addr // the router; the zero Addr: the destination is a neighbour
	Source    netip.Addr // this host's address toward it
	Local     bool       // it is for this host
}

// Why there is no Route.
var (
	// ErrNoRoute: no entry of the routing tables leads there, or, for a packet
	// that came in, this host does not forward what comes in by that interface.
	ErrNoRoute = errors.New("no route")
	// ErrSource: the packet would be thrown away for its source, either by
	// the check of the reverse path (rp_filter) or as a martian.
	ErrSource = errors.New("the source is not accepted at that interface")
)

// RouteOf asks the kernel which way a packet would go: one that came in by the
// interface iif, or with iif "" one of this host's own. from may be the zero
// Addr then. Other errors than the two above mean that nobody can tell.
func RouteOf(from, to netip.Addr, iif string) (Route, error) { return routeOf(from, to, iif) }

// A Neighbour is what is known of a host on a link (arp(7)).
type Neighbour uint8

// What may be known of one.
const (
	Unheard Neighbour = iota // it was not asked for
	Asked                    // it was asked for, and has not answered yet
	Silent                   // it was asked for, and did not answer
	Known                    // it answers, or did of late
)

// NeighbourOf is what is known of the host of that address. An error means that
// nobody can tell.
func NeighbourOf(ifname string, addr netip.Addr) (Neighbour, error) {
	return neighbourOf(ifname, addr)
}

// AskNeighbour is [NeighbourOf] of the host of that address, which is asked for
// anew when the kernel believes that it knows: what it heard some seconds ago
// stands for half a minute, also of a host that was switched off since. It ends
// when the host has answered or is given up, after some three seconds, and with
// ctx. What the kernel remembers is only confirmed, or forgotten as it would be
// soon. Without CAP_NET_ADMIN nobody is asked.
func AskNeighbour(ctx context.Context, ifname string, addr netip.Addr) (Neighbour, error) {
	return askNeighbour(ctx, ifname, addr)
}

// Surroundings are the links and neighbours of a moment, and the routes as they
// are when they are asked for: many ways can be looked at by it for the price of
// few. It may be used by one goroutine at a time; the caller closes it.
type Surroundings struct {
	own surroundings
}

// LookAround notes the links and neighbours of now.
func LookAround() (*Surroundings, error) {
	own, err := lookAround()
	if err != nil {
		return nil, err
	}
	return &Surroundings{own: own}, nil
}

// RouteTo is [RouteOf] for packets of this host's own.
func (s *Surroundings) RouteTo(to netip.Addr) (Route, error) { return s.own.routeTo(to) }

// Neighbour is [NeighbourOf], as it was.
func (s *Surroundings) Neighbour(ifname string, addr netip.Addr) Neighbour {
	return s.own.neighbour(ifname, addr)
}

// Close ends it.
func (s *Surroundings) Close() { s.own.close() }

// A RouteWatch knows whether routes may lead elsewhere than they did: the tables,
// the rules that choose among them, links or addresses changed. It may be used by
// one goroutine at a time; the caller closes it.
type RouteWatch struct {
	own routeWatch
}

// WatchRoutes begins to listen. It costs nothing until it is asked.
func WatchRoutes() (*RouteWatch, error) {
	own, err := watchRoutes()
	if err != nil {
		return nil, err
	}
	return &RouteWatch{own: own}, nil
}

// Changed reports whether anything changed since the last call, or may have.
func (w *RouteWatch) Changed() bool { return w.own.changed() }

// Close ends it.
func (w *RouteWatch) Close() { w.own.close() }

// Forwards reports whether the host passes packets on between its interfaces
// (all), and whether it does so with those that come in by the interface (own).
// known is false where nobody can tell.
func Forwards(ifname string, v6 bool) (all, own, known bool) { return forwards(ifname, v6) }

// ReversePath is how strictly the source of what comes in by the interface is
// checked: 0 not at all, 1 the route back must leave by it, 2 there must be one
// (rp_filter, RFC 3704). It is IPv4's only.
func ReversePath(ifname string) int { return reversePath(ifname) }
