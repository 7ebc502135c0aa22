package inject

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"fairlead/internal/lab"
	"fairlead/internal/wire/packet"
)

func TestAnInjectedPacketComesInFromAStranger(t *testing.T) {
	g := lab.NewGateway(t)
	for _, leg := range []struct{ at, from string }{
		{"203.0.113.1:5300", "198.51.100.77:4000"},
		{"[2001:db8:1::1]:5300", "[2001:db8:77::1]:4000"},
	} {
		c, err := g.Gateway.ListenPacket(t.Context(), "udp", leg.at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p := packet.Packet{Proto: packet.UDP, Src: netip.MustParseAddrPort(leg.from), Dst: netip.MustParseAddrPort(leg.at)}
		b, err := p.Append(nil, []byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		err = g.Gateway.Do(func() error {
			i, err := Open("wan0")
			if err != nil {
				return err
			}
			defer i.Close()
			return i.Send(b)
		})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 100)
		n, from, err := c.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "hello" || from.(*net.UDPAddr).AddrPort().String() != leg.from {
			t.Errorf("%q from %v, %v", buf[:n], from, err)
		}
	}
	g.Gateway.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			t.Error(err)
		}
		for _, l := range links {
			if l.Type() == "tuntap" || l.Type() == "tun" {
				t.Errorf("%s is left", l.Attrs().Name)
			}
		}
		return nil
	})
}

func TestAnInterfaceThatIsNotThereIsAnError(t *testing.T) {
	g := lab.NewGateway(t)
	g.Gateway.Do(func() error {
		if i, err := Open("nothing0"); err == nil {
			i.Close()
			t.Error("it was opened")
		}
		return nil
	})
}
