package kernel

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// advertised are the interfaces through which a default route leads that was
// learned from router advertisements.
func advertised() ([]string, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, err
	}
	var names []string
	add := func(index int) error {
		if index == 0 {
			return nil
		}
		link, err := net.InterfaceByIndex(index)
		if err != nil {
			return fmt.Errorf("interface %d: %w", index, err)
		}
		if !slices.Contains(names, link.Name) {
			names = append(names, link.Name)
		}
		return nil
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if err := add(r.LinkIndex); err != nil {
			return nil, err
		}
		for _, hop := range r.MultiPath {
			if err := add(hop.LinkIndex); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}
