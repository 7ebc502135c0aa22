package engine

import (
	"net/netip"
	"strings"
	"testing"

	"fairlead"
)

func TestOverlaps(t *testing.T) {
	spot := func(host string, net fairlead.Network, ports ...fairlead.Ports) fairlead.Spot {
		s := fairlead.Spot{Ports: ports, Net: net}
		switch a, err := netip.ParseAddr(host); {
		case host == "*":
			s.Any = true
		case err == nil:
			s.Addr = a
		case strings.HasPrefix(host, "/"):
			s = fairlead.Spot{Unix: host, Net: fairlead.TCP}
		default:
			s.Where = host
		}
		return s
	}
	p := func(a, b uint16) fairlead.Ports { return fairlead.Ports{First: a, Last: b} }
	const tcp, udp = fairlead.TCP, fairlead.UDP
	for _, c := range []struct {
		a, b fairlead.Spot
		want bool
	}{
		{spot("*", tcp, p(80, 80)), spot("10.0.0.1", tcp, p(80, 80)), true},
		{spot("*", tcp, p(80, 80)), spot("*", udp, p(80, 80)), false},
		{spot("*", tcp|udp, p(80, 80)), spot("*", udp, p(80, 80)), true},
		{spot("::", tcp, p(80, 80)), spot("10.0.0.1", tcp, p(80, 80)), true},
		{spot("::", tcp, p(80, 80)), spot("*", tcp, p(80, 80)), true},
		{spot("0.0.0.0", tcp, p(80, 80)), spot("10.0.0.1", tcp, p(80, 80)), true},
		{spot("0.0.0.0", tcp, p(80, 80)), spot("2001:db8::1", tcp, p(80, 80)), false},
		{spot("0.0.0.0", tcp, p(80, 80)), spot("::", tcp, p(80, 80)), true},
		{spot("", tcp, p(80, 80)), spot("127.0.0.1", tcp, p(80, 80)), true},
		{spot("", tcp, p(80, 80)), spot("::1", tcp, p(80, 80)), true},
		{spot("", tcp, p(80, 80)), spot("127.0.0.2", tcp, p(80, 80)), false},
		{spot("", tcp, p(80, 80)), spot("0.0.0.0", tcp, p(80, 80)), true},
		{spot("", tcp, p(80, 80)), spot("", tcp, p(80, 80)), true},
		{spot("::ffff:10.0.0.1", tcp, p(80, 80)), spot("10.0.0.1", tcp, p(80, 80)), true},
		{spot("wan", tcp, p(80, 80)), spot("wan", tcp, p(1, 100)), true},
		{spot("wan", tcp, p(80, 80)), spot("eth0", tcp, p(80, 80)), false},
		{spot("wan", tcp, p(80, 80)), spot("*", tcp, p(80, 80)), false},
		{spot("*", tcp, p(1, 10), p(20, 30)), spot("*", tcp, p(11, 19), p(31, 40)), false},
		{spot("*", tcp, p(1, 10), p(20, 30)), spot("*", tcp, p(11, 20)), true},
		{spot("/run/a.sock", tcp), spot("/run//a.sock", tcp), true},
		{spot("/run/a.sock", tcp), spot("/run/b.sock", tcp), false},
		{spot("/run/a.sock", tcp), spot("*", tcp, p(1, 65535)), false},
	} {
		for _, x := range [][2]*fairlead.Spot{{&c.a, &c.b}, {&c.b, &c.a}} {
			if got := overlaps(x[0], x[1]); got != c.want {
				t.Errorf("%s and %s: %v, want %v", x[0], x[1], got, c.want)
			}
		}
	}
}
