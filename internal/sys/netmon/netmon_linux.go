package netmon

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumps is how often a list is asked for that changed while it was read.
const dumps = 4

func interfaces() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	// One list for all: package net would ask for all addresses anew for
	// each interface, and a host of containers has thousands.
	var addrs []netlink.Addr
	for range dumps {
		addrs, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, err
	}
	at := map[int]int{}
	var list []Interface
	for _, link := range links {
		at[link.Index] = len(list)
		list = append(list, Interface{
			Name:     link.Name,
			Index:    link.Index,
			Up:       link.Flags&net.FlagUp != 0,
			Loopback: link.Flags&net.FlagLoopback != 0,
		})
	}
	for _, a := range addrs {
		if n, ok := at[a.LinkIndex]; ok && a.IPNet != nil {
			list[n].add(a.IPNet, links[n].Flags&net.FlagPointToPoint != 0)
		}
	}
	return list, nil
}

// defaultRoutes are the indices of the interfaces of the main table's default
// routes, by metric, v4 before v6.
func defaultRoutes([]Interface) ([]int, error) {
	var all []int
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := defaults(family)
		for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < dumps; tries++ {
			routes, err = defaults(family)
		}
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, err
		}
		slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
		for _, r := range routes {
			all = append(all, r.LinkIndex)
			for _, hop := range r.MultiPath {
				all = append(all, hop.LinkIndex)
			}
		}
	}
	return all, nil
}

// defaults picks while the routes are listed: a router may have a million.
func defaults(family int) ([]netlink.Route, error) {
	var found []netlink.Route
	err := netlink.RouteListFilteredIter(family, &netlink.Route{}, 0, func(r netlink.Route) bool {
		if r.Type == unix.RTN_UNICAST && isDefault(r.Dst) {
			found = append(found, r)
		}
		return true
	})
	if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
		return nil, nil
	}
	return found, err
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0 && dst.IP.IsUnspecified()
}

func watch(ctx context.Context, notify func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("watch network interfaces: %w", err)
	}
	groups := uint32(0)
	for _, g := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	} {
		groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		// Sandboxed kernels (gVisor) have the lists and not the notices.
		unix.Close(fd)
		return poll(ctx, snapshot, notify)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()

	notify()
	buf := make([]byte, 64<<10) // the kernel's messages are at most 32 KiB
	var due time.Time           // when to tell of the changes seen; zero when there are none
	for {
		f.SetReadDeadline(due)
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			due = time.Time{}
			notify()
			continue
		case errors.Is(err, unix.ENOBUFS): // notices were lost, so take it as one
		case err != nil:
			return fmt.Errorf("watch network interfaces: %w", err)
		case !concerns(buf[:n]):
			continue
		}
		if due.IsZero() {
			due = time.Now().Add(Settle)
		}
	}
}

// concerns says whether one of the netlink messages in b (rtnetlink(7)) tells
// of a link, an address, a policy rule or a default route. Other routes come and go by the
// thousand on a router, and do not. What is cut off may concern us.
func concerns(b []byte) bool {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return true
		}
		size := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true
		}
		switch body := b[unix.SizeofNlMsghdr:size]; kind {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			if len(body) < unix.SizeofRtMsg || body[1] == 0 { // rtm_dst_len
				return true
			}
		case unix.NLMSG_NOOP, unix.NLMSG_DONE:
		default:
			return true
		}
		b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
	return false
}
