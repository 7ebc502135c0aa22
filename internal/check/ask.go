package check

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"

	"fairlead/internal/wire/packet"
)

// A flow is a connection that was made only to ask, as the client of it sees it.
type flow struct {
	proto    uint8
	src, dst netip.AddrPort // src may be without an address
}

func (f flow) is(proto uint8, src, dst netip.AddrPort) bool {
	return f.proto == proto && f.dst == dst && f.src.Port() == src.Port() &&
		(f.src == src || !f.src.Addr().IsValid() || f.src.Addr().IsUnspecified())
}

// somePort is not one of the ports that this host's own connections get by
// default (net.ipv4.ip_local_port_range).
func somePort() uint16 { return uint16(61001 + rand.IntN(65535-61001)) }

// connect connects from this host, and resets at once.
func (w *walk) connect(ctx context.Context, to netip.AddrPort) error {
	from := flow{packet.TCP, netip.AddrPortFrom(netip.Addr{}, somePort()), to}
	w.asked = append(w.asked, from)
	d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(from.src.Port())}}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	c.(*net.TCPConn).SetLinger(0)
	return c.Close()
}
