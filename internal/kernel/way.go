package kernel

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// A way is how one target is reached, as far as the routing tables and the
// neighbours' say. Nothing is sent to find out.
type way struct {
	target  netip.AddrPort
	local   bool   // the target is this host
	oif     string // the interface by which packets leave for it; "" where nobody can tell
	problem *fairlead.Problem
}

// lookAround notes for each forward how its targets are reached and what of this
// host stands in the way of that. The carrier's lock is held.
func (k *Kernel) lookAround(list []*carried) {
	k.inside(func() error {
		around, err := netmon.LookAround()
		if err != nil {
			return err // what nobody can tell is told of no target
		}
		defer around.Close()
		k.routes.refresh()
		ways := map[netip.Addr]way{}
		lacks := map[bool]*fairlead.Problem{}
		for _, c := range list {
			c.ways = make([]way, 0, len(c.part.targets))
			for _, t := range c.part.targets {
				w, known := ways[t.Addr()]
				if !known {
					w = k.routes.wayTo(around, t.Addr())
					ways[t.Addr()] = w
				}
				w.target = t
				c.ways = append(c.ways, w)
				if w.local || w.problem != nil {
					continue
				}
				v6 := t.Addr().Is6()
				lack, known := lacks[v6]
				if !known {
					lack = forwardingOff(v6)
					lacks[v6] = lack
				}
				if c.lacks == nil {
					c.lacks = lack
				}
			}
		}
		k.routes.forget(ways)
		return nil
	})
}

// routes remembers the answers of the routing tables for as long as nothing of
// them has changed: to ask anew for ten thousand targets is the dearest part of
// changing one. The carrier's lock guards it.
type routes struct {
	watch *netmon.RouteWatch // nil: nothing is remembered
	known map[netip.Addr]netmon.Route
}

// refresh forgets what may have become wrong.
func (r *routes) refresh() {
	if r.watch == nil {
		r.watch, _ = netmon.WatchRoutes()
	}
	if r.watch == nil || r.watch.Changed() || r.known == nil {
		r.known = map[netip.Addr]netmon.Route{}
	}
}

// forget keeps what is known of these targets alone.
func (r *routes) forget(but map[netip.Addr]way) {
	if r.watch == nil {
		r.known = nil
	}
	for a := range r.known {
		if _, ok := but[a]; !ok {
			delete(r.known, a)
		}
	}
}

// to is the route to a target.
func (r *routes) to(around *netmon.Surroundings, a netip.Addr) (netmon.Route, error) {
	if route, ok := r.known[a]; ok {
		return route, nil
	}
	route, err := around.RouteTo(a)
	if err == nil {
		r.known[a] = route
	}
	return route, err
}

func (r *routes) close() {
	if r.watch != nil {
		r.watch.Close()
		r.watch = nil
	}
}

// wayTo asks for the way to one target.
func (r *routes) wayTo(around *netmon.Surroundings, a netip.Addr) way {
	route, err := r.to(around, a)
	switch {
	case errors.Is(err, netmon.ErrNoRoute):
		return way{problem: fairlead.Problemf(fairlead.CodeTargetUnreachable, "no route leads to the target %s", a).
			Fix("look at the routes", "ip route get "+a.String())}
	case err != nil:
		return way{}
	case route.Local:
		return way{local: true}
	}
	next := a
	if route.Via.IsValid() {
		next = route.Via
	}
	if around.Neighbour(route.Interface, next) == netmon.Silent {
		who := "the target " + a.String()
		if next != a {
			who = "the router " + next.String() + " toward the target " + a.String()
		}
		return way{problem: fairlead.Problemf(fairlead.CodeTargetUnreachable, "%s does not answer on %s: it is off, or not in that network", who, route.Interface).
			Fix("see whether it answers", "ping "+next.String())}
	}
	return way{oif: route.Interface}
}

// forwardingOff warns where this host forwards no packets of the family. It is
// off by default nearly everywhere, and is the administrator's to switch on:
// then this host is a router, for everybody.
func forwardingOff(v6 bool) *fairlead.Problem {
	family, key, dir := "IPv4", "net.ipv4.ip_forward", "/proc/sys/net/ipv4/conf"
	if v6 {
		family, key, dir = "IPv6", "net.ipv6.conf.all.forwarding", "/proc/sys/net/ipv6/conf"
	}
	now, err := os.ReadFile(sysctlPath(key))
	if err != nil || strings.TrimSpace(string(now)) != "0" {
		return nil
	}
	// IPv4 can be forwarded from single interfaces; for IPv6 it is "all" that
	// counts, but where an interface is forced (Linux 6.17).
	which := "forwarding"
	if v6 {
		which = "force_forwarding"
	}
	if links, err := os.ReadDir(dir); err == nil && slices.ContainsFunc(links, func(l os.DirEntry) bool {
		if l.Name() == "lo" || l.Name() == "all" || l.Name() == "default" {
			return false
		}
		on, err := os.ReadFile(dir + "/" + l.Name() + "/" + which)
		return err == nil && strings.TrimSpace(string(on)) != "0"
	}) {
		return nil
	}
	p := fairlead.Problemf(fairlead.CodeForwardingOff, "%s forwarding is off on this host (%s = 0): no packet gets to the target", family, key).
		Fix("switch it on for good, with the service (uninstall puts it back)", "sudo fairlead install --forwarding").
		Fix("only for now", "sudo sysctl -w "+key+"=1")
	p.Warning = true
	return p
}
