package netmon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func routeOf(from, to netip.Addr, iif string) (Route, error) {
	opts := &netlink.RouteGetOptions{Iif: iif}
	if from.IsValid() {
		opts.SrcAddr = from.Unmap().AsSlice()
	}
	routes, err := netlink.RouteGetWithOptions(to.Unmap().AsSlice(), opts)
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
	if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		route.Interface = link.Attrs().Name
	}
	return route, nil
}

func neighbourOf(ifname string, addr netip.Addr) (Neighbour, error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return Unheard, err
	}
	family := netlink.FAMILY_V4
	if addr.Is6() && !addr.Is4In6() {
		family = netlink.FAMILY_V6
	}
	list, err := netlink.NeighList(link.Attrs().Index, family)
	if err != nil {
		return Unheard, fmt.Errorf("list the neighbours on %s: %w", ifname, err)
	}
	for _, n := range list {
		if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() != addr.Unmap().WithZone("") {
			continue
		}
		switch {
		case n.State&unix.NUD_FAILED != 0:
			return Silent, nil
		case n.State&unix.NUD_INCOMPLETE != 0:
			return Asked, nil
		case n.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE|unix.NUD_PERMANENT|unix.NUD_NOARP) != 0:
			return Known, nil
		}
	}
	return Unheard, nil
}

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
