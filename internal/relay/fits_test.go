package relay_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/relay"
)

// What a word could never mean for a forward is told as that, and not as
// something that a later version may do.
func TestFitsRefusesWordsThatMeanNothing(t *testing.T) {
	r := newRelay(t, relay.Config{})
	const stream, datagrams, both = fairlead.TCP, fairlead.UDP, fairlead.TCP | fairlead.UDP
	for _, c := range []struct {
		net  fairlead.Network
		says string // "" where it is kept
		set  func(f *fairlead.Forward)
	}{
		{stream, `"mode"`, func(f *fairlead.Forward) { f.Policy.SocketMode = 0o600 }},
		{stream, "", func(f *fairlead.Forward) {
			f.Policy.SocketMode, f.At = 0o600, fairlead.Spot{Unix: "/run/x", Net: fairlead.TCP}
		}},
		{stream, `"greet"`, func(f *fairlead.Forward) { f.Policy.Greet = time.Second }},
		{stream, "", func(f *fairlead.Forward) { f.Policy.Greet, f.To[0].SNI = time.Second, []string{"a.net"} }},
		{stream, `"queue"`, func(f *fairlead.Forward) { f.Policy.Queue = time.Second }},
		{stream, "", func(f *fairlead.Forward) { f.Policy.Queue, f.Policy.RatePerSource = time.Second, 1 }},
		{stream, "", func(f *fairlead.Forward) { f.Policy.Queue, f.Policy.MaxConns = time.Second, 1 }},
		{both, `"queue"`, func(f *fairlead.Forward) { f.Policy.Queue, f.Policy.MaxConns = time.Second, 1 }},
		{stream, `"max-queue"`, func(f *fairlead.Forward) { f.Policy.MaxQueue = 1 }},
		{datagrams, `"linger"`, func(f *fairlead.Forward) { f.Policy.Linger = time.Second }},
		{both, "", func(f *fairlead.Forward) { f.Policy.Linger = time.Second }},
		{datagrams, `"keepalive"`, func(f *fairlead.Forward) { f.Policy.Keepalive = time.Second }},
		{datagrams, `"congestion"`, func(f *fairlead.Forward) { f.Policy.Congestion = "reno" }},
		{datagrams, "", func(f *fairlead.Forward) { f.Policy.Congestion = "auto" }},
		{datagrams, "", func(f *fairlead.Forward) { f.Policy.Engine = "loops" }},
		{datagrams, "slow-start", func(f *fairlead.Forward) { f.Policy.SlowStart = time.Second }},
		{datagrams, "_sip._tcp.example.net", func(f *fairlead.Forward) { f.To[0] = fairlead.Target{Host: "_sip._tcp.example.net"} }},
		{both, "_sip._TCP.example.net", func(f *fairlead.Forward) { f.To[0] = fairlead.Target{Host: "_sip._TCP.example.net"} }},
		{stream, "_sip._udp.example.net", func(f *fairlead.Forward) { f.To[0] = fairlead.Target{Host: "_sip._udp.example.net"} }},
		{stream, "", func(f *fairlead.Forward) { f.To[0] = fairlead.Target{Host: "_sip._tcp.example.net"} }},
		{datagrams, "", func(f *fairlead.Forward) { f.To[0] = fairlead.Target{Host: "_sip._udp.example.net"} }},
		{stream, `"requests"`, func(f *fairlead.Forward) { f.Policy.Requests = 1 }},
		{stream, `"replies"`, func(f *fairlead.Forward) { f.Policy.Replies = 1 }},
		{datagrams, `"proxy-protocol v1"`, func(f *fairlead.Forward) { f.Policy.ProxyProtocol = 1 }},
		{datagrams, `"check http"`, func(f *fairlead.Forward) { f.Policy.Check.How = "http" }},
		{stream, `"accept-proxy"`, func(f *fairlead.Forward) {
			f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
			f.At = fairlead.Spot{Unix: "/run/x", Net: fairlead.TCP}
		}},
	} {
		f := wish(t, "web", c.net, "127.0.0.1:1", c.set)
		err := r.Fits(f)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", f.Expr, err)
			}
			continue
		}
		p := fairlead.AsProblem(err)
		if err == nil || p.Code != fairlead.CodeCannotHonour || !strings.Contains(p.What, c.says) || strings.Contains(p.What, "yet") {
			t.Errorf("%s: %v, want a refusal of %s", f.Expr, err, c.says)
		}
	}
}
