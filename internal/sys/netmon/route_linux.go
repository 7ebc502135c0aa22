package netmon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func routeOf(from, to netip.Addr, iif string) (Route, error) {
	opts := &netlink.RouteGetOptions{Iif: iif}
	if from.IsValid() {
		opts.SrcAddr = from.Unmap().AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(to.Unmap().AsSlice(), opts)
	return routeIn(routes, err, from, to, iif, func(index int) string {
		link, err := netlink.LinkByIndex(index)
		if err != nil {
			return ""
		}
		return link.Attrs().Name
	})
}

// routeIn is the kernel's answer in our words.
func routeIn(routes []netlink.Route, err error, from, to netip.Addr, iif string, name func(index int) string) (Route, error) {
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EXDEV):
		// Linux 6.14 and later say EINVAL for both.
		return Route{}, fmt.Errorf("route from %s by %s to %s: %w", from, iif, to, ErrSource)
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EACCES):
		return Route{}, fmt.Errorf("route to %s: %w", to, ErrNoRoute)
	case err != nil:
		return Route{}, fmt.Errorf("route to %s: %w", to, err)
	case len(routes) == 0:
		return Route{}, fmt.Errorf("route to %s: %w", to, ErrNoRoute)
	}
	r := routes[0]
	switch r.Type {
	case unix.RTN_UNREACHABLE, unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT:
		return Route{}, fmt.Errorf("route to %s: %w", to, ErrNoRoute)
	}
	route := Route{Local: r.Type == unix.RTN_LOCAL}
	route.Via, _ = netip.AddrFromSlice(r.Gw)
	route.Source, _ = netip.AddrFromSlice(r.Src)
	route.Via, route.Source = route.Via.Unmap(), route.Source.Unmap()
	route.Interface = name(r.LinkIndex)
	return route, nil
}

func neighbourOf(ifname string, addr netip.Addr) (Neighbour, error) {
	n, err := neighbourEntry(ifname, addr)
	if n == nil {
		return Unheard, err
	}
	return neighbourIn(n.State), nil
}

// askedEach is how often it is looked whether a neighbour has answered.
const askedEach = 20 * time.Millisecond

func askNeighbour(ctx context.Context, ifname string, addr netip.Addr) (Neighbour, error) {
	n, err := neighbourEntry(ifname, addr)
	if n == nil || n.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY) == 0 {
		return neighbourOf(ifname, addr)
	}
	n.State = unix.NUD_PROBE
	if err = netlink.NeighSet(n); err != nil {
		return neighbourOf(ifname, addr)
	}
	again := time.NewTicker(askedEach)
	defer again.Stop()
	for {
		if n, err = neighbourEntry(ifname, addr); err != nil {
			return Unheard, err
		}
		switch {
		case n == nil: // given up, and tidied away
			return Silent, nil
		case n.State&unix.NUD_PROBE == 0:
			return neighbourIn(n.State), nil
		}
		select {
		case <-ctx.Done():
			return Asked, nil
		case <-again.C:
		}
	}
}

// neighbourEntry is what the kernel remembers of a neighbour, nil for nothing.
func neighbourEntry(ifname string, addr netip.Addr) (*netlink.Neigh, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return nil, err
	}
	family := netlink.FAMILY_V4
	if addr.Is6() && !addr.Is4In6() {
		family = netlink.FAMILY_V6
	}
	list, err := netlink.NeighList(link.Attrs().Index, family)
	if err != nil {
		return nil, fmt.Errorf("list the neighbours on %s: %w", ifname, err)
	}
	for i := range list {
		n := &list[i]
		if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() != addr.Unmap().WithZone("") {
			continue
		}
		if neighbourIn(n.State) != Unheard {
			return n, nil
		}
	}
	return nil, nil
}

// neighbourIn is the state of a neighbour (rtnetlink(7), NUD_) in our words.
func neighbourIn(state int) Neighbour {
	switch {
	case state&unix.NUD_FAILED != 0:
		return Silent
	case state&unix.NUD_INCOMPLETE != 0:
		return Asked
	case state&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE|unix.NUD_PERMANENT|unix.NUD_NOARP) != 0:
		return Known
	}
	return Unheard
}

type surroundings struct {
	handle     *netlink.Handle
	links      map[int]string
	neighbours map[neighbourKey]Neighbour
}

type neighbourKey struct {
	on   string
	addr netip.Addr
}

func lookAround() (surroundings, error) {
	s := surroundings{links: map[int]string{}, neighbours: map[neighbourKey]Neighbour{}}
	var err error
	if s.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return s, fmt.Errorf("ask for routes: %w", err)
	}
	links, err := s.handle.LinkList()
	if err != nil {
		s.close()
		return s, fmt.Errorf("list the interfaces: %w", err)
	}
	for _, l := range links {
		s.links[l.Attrs().Index] = l.Attrs().Name
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := s.handle.NeighList(0, family)
		if err != nil {
			continue // nothing is known of them, then
		}
		for _, n := range list {
			a, _ := netip.AddrFromSlice(n.IP)
			if is := neighbourIn(n.State); is != Unheard {
				s.neighbours[neighbourKey{s.links[n.LinkIndex], a.Unmap()}] = is
			}
		}
	}
	return s, nil
}

func (s surroundings) routeTo(to netip.Addr) (Route, error) {
	routes, err := s.handle.RouteGet(to.Unmap().AsSlice())
	return routeIn(routes, err, netip.Addr{}, to, "", func(index int) string { return s.links[index] })
}

func (s surroundings) neighbour(ifname string, addr netip.Addr) Neighbour {
	return s.neighbours[neighbourKey{ifname, addr.Unmap().WithZone("")}]
}

func (s surroundings) close() { s.handle.Close() }

// A routeWatch is a socket in which notices gather. What does not fit into it is
// a change all the same.
type routeWatch struct {
	fd int
}

func watchRoutes() (routeWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return routeWatch{}, fmt.Errorf("watch routes: %w", err)
	}
	w := routeWatch{fd}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		w.close()
		return routeWatch{}, fmt.Errorf("watch routes: %w", err)
	}
	// A group that this kernel does not have is of something that it does not have.
	for _, g := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_NEXTHOP,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	} {
		err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			w.close()
			return routeWatch{}, fmt.Errorf("watch routes: %w", err)
		}
	}
	// A router's thousands of changes are to be no more than one.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<14)
	return w, nil
}

func (w routeWatch) changed() bool {
	var buf [16]byte // what is said does not matter
	changed := false
	for {
		switch _, _, err := unix.Recvfrom(w.fd, buf[:], unix.MSG_DONTWAIT); err {
		case unix.EAGAIN:
			return changed
		case nil, unix.EINTR, unix.ENOBUFS:
			changed = changed || err != unix.EINTR
		default:
			return true
		}
	}
}

func (w routeWatch) close() { unix.Close(w.fd) }

func forwards(ifname string, v6 bool) (all, own, known bool) {
	if v6 {
		// The interface's own value makes it a router in other respects, and
		// decides nothing here (ip6_forward in Linux's net/ipv6/ip6_output.c).
		n, ok := parameter("ipv6", "all", "forwarding")
		return n != 0, n != 0, ok
	}
	a, ok := parameter("ipv4", "all", "forwarding")
	o, has := parameter("ipv4", ifname, "forwarding")
	return a != 0, o != 0, ok && has
}

func reversePath(ifname string) int {
	all, _ := parameter("ipv4", "all", "rp_filter")
	own, _ := parameter("ipv4", ifname, "rp_filter")
	return max(all, own)
}

// parameter is net.FAMILY.conf.IFNAME.KEY of sysctl(8).
func parameter(family, ifname, key string) (int, bool) {
	if strings.ContainsAny(ifname, "/\x00") || ifname == "." || ifname == ".." {
		return 0, false
	}
	b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + ifname + "/" + key)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, err == nil
}
