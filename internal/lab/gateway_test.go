package lab

import (
	"io"
	"net"
	"testing"
)

func TestAGatewayLeadsBetweenItsSides(t *testing.T) {
	g := NewGateway(t)
	// Nobody outside knows the LAN's addresses, unless told.
	g.Outside.Route("192.168.1.0/24", WAN4, "eth0")
	g.Outside.Route("2001:db8:2::/64", WAN6, "eth0")
	for _, leg := range []struct {
		name     string
		from, to *Host
		at       string
	}{
		{"the LAN reaches the outside", g.Inside, g.Outside, net.JoinHostPort(Outside4, "80")},
		{"also by IPv6", g.Inside, g.Outside, net.JoinHostPort(Outside6, "80")},
		{"the LAN's hosts reach each other", g.Inside, g.Beside, net.JoinHostPort(Beside6, "80")},
		{"the gateway reaches the outside", g.Gateway, g.Outside, net.JoinHostPort(Outside4Far, "80")},
		{"the outside reaches the gateway", g.Outside, g.Gateway, net.JoinHostPort(WAN6, "80")},
	} {
		t.Run(leg.name, func(t *testing.T) {
			ln, err := leg.to.Listen(t.Context(), "tcp", leg.at)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				if c, err := ln.Accept(); err == nil {
					c.Write([]byte("here"))
					c.Close()
				}
			}()
			c, err := leg.from.DialContext(t.Context(), "tcp", leg.at)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if b, err := io.ReadAll(c); string(b) != "here" {
				t.Errorf("read %q, %v", b, err)
			}
		})
	}
}
