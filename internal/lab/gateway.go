package lab

import "testing"

// A Gateway is a small network around a gateway, as kernel forwarding needs it:
//
//	Outside ── wan0 Gateway lan0 ─┬─ Inside
//	                              └─ Beside
//
// Outside stands for the Internet and is the gateway's default router; Inside
// and Beside are hosts of the LAN, whose gateway is Gateway. Every host's
// interface is eth0 but for the gateway's. Forwarding is on, for both families.
type Gateway struct {
	Net                              *Net
	Outside, Gateway, Inside, Beside *Host
}

// The addresses of a Gateway's hosts. Outside has two of each
// family.
const (
	WAN4, WAN6         = "203.0.113.1", "2001:db8:1::1"
	LAN4, LAN6         = "192.168.1.1", "2001:db8:2::1"
	Outside4, Outside6 = "203.0.113.9", "2001:db8:1::9"
	Inside4, Inside6   = "192.168.1.10", "2001:db8:2::10"
	Beside4, Beside6   = "192.168.1.20", "2001:db8:2::20"

	Outside4Far, Outside6Far = "198.51.100.2", "2001:db8:9::2"
)

// NewGateway builds one, or skips the test where that needs more rights than it
// has.
func NewGateway(t testing.TB) *Gateway {
	t.Helper()
	n := NewNet(t)
	g := &Gateway{Net: n, Outside: n.Host("outside"), Gateway: n.Host("gateway"), Inside: n.Host("inside"), Beside: n.Host("beside")}
	n.Wire(g.Gateway, "wan0", g.Outside, "eth0")
	n.Wire(g.Gateway, "port1", g.Inside, "eth0")
	n.Wire(g.Gateway, "port2", g.Beside, "eth0")
	g.Gateway.Bridge("lan0", "port1", "port2")
	g.Gateway.Addr("wan0", WAN4+"/24", WAN6+"/64")
	g.Gateway.Addr("lan0", LAN4+"/24", LAN6+"/64")
	g.Outside.Addr("eth0", Outside4+"/24", Outside6+"/64", Outside4Far+"/32", Outside6Far+"/128")
	g.Inside.Addr("eth0", Inside4+"/24", Inside6+"/64")
	g.Beside.Addr("eth0", Beside4+"/24", Beside6+"/64")
	g.Gateway.Sysctl("net.ipv4.ip_forward", "1")
	g.Gateway.Sysctl("net.ipv6.conf.all.forwarding", "1")
	g.Gateway.Route("0.0.0.0/0", Outside4, "wan0")
	g.Gateway.Route("::/0", Outside6, "wan0")
	for _, h := range []*Host{g.Inside, g.Beside} {
		h.Route("0.0.0.0/0", LAN4, "eth0")
		h.Route("::/0", LAN6, "eth0")
	}
	return g
}
