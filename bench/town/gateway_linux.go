package town

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// A Gateway is a host between client and server as the middle is, with wires of
// its own: what its kernel does with packets, such as tracking connections, is
// done to none that goes another way.
type Gateway struct {
	*Host
	Entry   netip.Addr   // the gateway, seen from the client
	Sources []netip.Addr // the client's, as many as ClientAddrs; answers go back by the gateway
}

// maxGateways bounds the gateways of a town: their networks are numbered.
const maxGateways = 100

// Gateway adds a gateway. It goes with the town.
func (t *Town) Gateway(name string) (*Gateway, error) {
	k := len(t.gateways)
	if k == maxGateways {
		return nil, errors.New("the town has all the gateways that it can have")
	}
	h, err := newHost(name)
	if err != nil {
		return nil, err
	}
	t.gateways = append(t.gateways, h)
	near, far, server := net4(1, k, 254), net4(2, k, 254), net4(2, k, 1)
	g := &Gateway{Host: h, Entry: near, Sources: addrs(net4(1, k, 1).String(), len(ClientAddrs))}
	wire := fmt.Sprintf("wire%d", k)
	err = errors.Join(h.join("toclient", t.Client, wire), h.join("toserver", t.Server, wire))
	if err != nil {
		return nil, err
	}
	for _, a := range g.Sources {
		if err := t.Client.address(wire, a); err != nil {
			return nil, err
		}
	}
	err = errors.Join(tune(h),
		h.address("toclient", near), h.address("toserver", far), t.Server.address(wire, server),
		h.routeTo(netip.PrefixFrom(ServerAddr, 32), "toserver", server),
		t.Server.routeTo(netip.PrefixFrom(near, 24).Masked(), wire, far))
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", name, err)
	}
	return g, nil
}

// net4 is an address of gateway k's network on one side: 1 toward the client, 2
// toward the server.
func net4(side, k, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(100 + side), byte(k), byte(host)})
}

func (h *Host) routeTo(dst netip.Prefix, link string, via netip.Addr) error {
	return h.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		to, err := netlink.ParseIPNet(dst.String())
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: to, Gw: via.AsSlice()})
	})
}
