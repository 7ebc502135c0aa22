package nft

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// tracing tells of traced packets of a host until the test ends.
func tracing(t *testing.T, h *lab.Host) <-chan TraceEvent {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan TraceEvent, 10000)
	ready, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- h.Do(func() error {
			return Trace(ctx, func() { close(ready) }, func(e TraceEvent) { events <- e })
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-over:
		over <- nil
		t.Fatal("trace ended:", err)
	}
	return events
}

// until gathers events until one is the last; it fails when none is.
func until(t *testing.T, events <-chan TraceEvent, last func(TraceEvent) bool) (list []TraceEvent) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case e := <-events:
			list = append(list, e)
			if last(e) {
				return list
			}
		case <-deadline:
			t.Fatalf("the packet did not come that far: %+v", list)
		}
	}
}

// crossing is a client, a router that forwards, and a server.
func crossing(t *testing.T) (client, router, server *lab.Host) {
	t.Helper()
	n := lab.NewNet(t)
	client, router, server = n.Host("client"), n.Host("router"), n.Host("server")
	n.Wire(client, "eth0", router, "wan")
	n.Wire(router, "lan", server, "eth0")
	client.Addr("eth0", "192.0.2.9/24", "2001:db8:1::9/64")
	router.Addr("wan", "192.0.2.1/24", "2001:db8:1::1/64")
	router.Addr("lan", "10.0.0.1/24", "2001:db8:2::1/64")
	server.Addr("eth0", "10.0.0.2/24", "2001:db8:2::2/64")
	client.Route("0.0.0.0/0", "192.0.2.1", "")
	server.Route("0.0.0.0/0", "10.0.0.1", "")
	client.Route("::/0", "2001:db8:1::1", "")
	server.Route("::/0", "2001:db8:2::1", "")
	router.Sysctl("net.ipv4.ip_forward", "1")
	router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	return client, router, server
}

// sendUDP sends one datagram.
func sendUDP(t *testing.T, from *lab.Host, to string) {
	t.Helper()
	c, err := from.DialContext(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
}

func TestATracedPacketIsFollowedThroughAllTables(t *testing.T) {
	client, router, _ := crossing(t)
	iptables := lab.NeedTool(t, "iptables-nft")
	nftRun(t, router, `table inet mine {
		chain early { type filter hook prerouting priority -350; udp dport 53 meta nftrace set 1; }
		chain pre { type nat hook prerouting priority -100;
			udp dport 53 dnat ip to 10.0.0.2:5353
		}
		chain forw { type filter hook forward priority -5; policy accept;
			jump sub
			goto end
		}
		chain sub {
			meta mark set 0x7
			return
		}
		chain end {
			ct status dnat accept
		}
	}`, "-f", "-")
	for _, args := range [][]string{
		{"-P", "FORWARD", "DROP"},
		{"-N", "DOCKER-USER"},
		{"-A", "FORWARD", "-j", "DOCKER-USER"},
		{"-A", "DOCKER-USER", "-p", "udp", "--dport", "5353", "-m", "comment", "--comment", "not here", "-j", "DROP"},
	} {
		if out, err := router.Command(t, iptables, args...).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	events := tracing(t, router)
	sendUDP(t, client, "192.0.2.1:53")
	list := until(t, events, func(e TraceEvent) bool { return e.Verdict == "drop" })

	id := list[0].ID
	var steps []string
	for _, e := range list {
		if e.ID != id {
			t.Errorf("an event of another packet: %+v", e)
		}
		if e.Kind == TraceRule && e.RuleHandle == 0 {
			t.Errorf("a rule without its number: %+v", e)
		}
		kind := map[TraceKind]string{TraceRule: "rule", TraceReturn: "return", TracePolicy: "policy"}[e.Kind]
		steps = append(steps, strings.TrimSpace(strings.Join([]string{e.Family.String(), e.Table, e.Chain, kind, e.Verdict, e.JumpTo}, " ")))
	}
	want := []string{
		"inet mine early rule continue",
		"inet mine early return continue",
		"inet mine early policy accept",
		"inet mine pre rule accept",
		"inet mine forw rule jump sub",
		"inet mine sub rule continue",
		"inet mine sub rule return",
		"inet mine forw rule goto end",
		"inet mine end rule accept",
		"ip filter FORWARD rule jump DOCKER-USER",
		"ip filter DOCKER-USER rule drop",
	}
	if got := strings.Join(steps, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the way of the packet:\n%s\nwanted:\n%s", got, strings.Join(want, "\n"))
	}

	first, last := list[0], list[len(list)-1]
	if first.IIF != "wan" || first.OIF != "" || first.NFProto != IPv4 {
		t.Errorf("it came in by %q and leaves by %q, of family %v", first.IIF, first.OIF, first.NFProto)
	}
	if len(first.LinkHeader) < 14 || len(first.NetworkHeader) != 20 || len(first.TransportHeader) < 8 {
		t.Fatalf("headers % x, % x, % x", first.LinkHeader, first.NetworkHeader, first.TransportHeader)
	}
	if !bytes.Equal(first.NetworkHeader[16:20], net.IPv4(192, 0, 2, 1).To4()) || !bytes.Equal(first.TransportHeader[2:4], []byte{0, 53}) {
		t.Errorf("it was sent to % x, port % x", first.NetworkHeader[16:20], first.TransportHeader[2:4])
	}
	for _, e := range list {
		if e.Chain != "FORWARD" {
			continue
		}
		if !bytes.Equal(e.NetworkHeader[16:20], []byte{10, 0, 0, 2}) || e.IIF != "wan" || e.OIF != "lan" {
			t.Errorf("it is forwarded from %q to %q, header % x", e.IIF, e.OIF, e.NetworkHeader)
		}
	}
	if last.Mark != 7 {
		t.Errorf("it is dropped with mark %d", last.Mark)
	}
	if last.HasCt && (last.CtReply || last.CtStatus&StatusDNAT == 0 || last.CtState&StateNew == 0 || last.CtID == 0) {
		t.Errorf("its connection: %+v", last)
	}
	words, err := opened(t, router).RuleText(last.Family, last.Table, last.Chain, last.RuleHandle)
	if want := `udp dport 5353 counter packets 1 bytes 33 drop comment "not here"`; err != nil || words != want {
		t.Errorf("the rule that drops it: %q, %v; want %q", words, err, want)
	}
}

func TestATraceEndsWithThePolicy(t *testing.T) {
	client, router, _ := crossing(t)
	nftRun(t, router, `table ip6 mine {
		chain early { type filter hook prerouting priority -350; meta nftrace set 1; }
		chain forw { type filter hook forward priority 0; policy drop; tcp dport 1 accept; }
	}`, "-f", "-")
	events := tracing(t, router)
	sendUDP(t, client, "[2001:db8:2::2]:7")
	list := until(t, events, func(e TraceEvent) bool { return e.Verdict == "drop" })
	e := list[len(list)-1]
	if e.Kind != TracePolicy || e.Family != IPv6 || e.Table != "mine" || e.Chain != "forw" || e.NFProto != IPv6 || e.RuleHandle != 0 {
		t.Errorf("it ends with %+v", e)
	}
}
