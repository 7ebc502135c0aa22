//go:build !linux

package netmon

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

func interfaces() ([]Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var list []Interface
	for _, link := range links {
		i := Interface{
			Name:     link.Name,
			Index:    link.Index,
			Up:       link.Flags&net.FlagUp != 0,
			Loopback: link.Flags&net.FlagLoopback != 0,
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // gone meanwhile
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				i.add(n, link.Flags&net.FlagPointToPoint != 0)
			}
		}
		list = append(list, i)
	}
	return list, nil
}

// defaultRoutes asks the system from which address it would reach the public
// internet: connecting a UDP socket chooses a route and sends nothing.
func defaultRoutes(list []Interface) ([]int, error) {
	var found []int
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // RFC 5737, RFC 3849
		c, err := net.Dial("udp", far)
		if err != nil {
			continue // no route of this family
		}
		own := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		for _, i := range list {
			if slices.ContainsFunc(i.Addrs, func(a netip.Addr) bool { return a.WithZone("") == own.WithZone("") }) {
				found = append(found, i.Index)
				break
			}
		}
	}
	return found, nil
}

func watch(ctx context.Context, notify func()) error { return poll(ctx, snapshot, notify) }
