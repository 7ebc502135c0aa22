package kernel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/nft"
)

// said fails the test unless who asks at is answered by the host called who,
// which sees the client as seen, "" for whatever address.
func (g *town) said(from *lab.Host, network, at, seen, who string) {
	g.t.Helper()
	s := g.answers(from, network, at)
	addr, host, _ := strings.Cut(s, " at ")
	ap, _ := netip.ParseAddrPort(addr)
	if host != who || seen != "" && ap.Addr().Unmap().String() != seen {
		g.t.Errorf("%s from %s to %s was answered %q, want %s to answer and to see %s", network, from.Name, at, s, who, seen)
	}
}

// from is said with a source address of the client's.
func (g *town) from(host *lab.Host, source, network, at, who string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	s, err := ask(ctx, host, network, netip.AddrPortFrom(netip.MustParseAddr(source), 0), at)
	if addr, host, _ := strings.Cut(s, " at "); err != nil || host != who || !strings.HasPrefix(strings.Trim(addr, "["), source) {
		g.t.Errorf("%s from %s to %s was answered %q, %v; want %s", network, source, at, s, err, who)
	}
}

// refused fails the test unless who asks is told at once that it may not.
func (g *town) refused(from *lab.Host, source, network, at string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	src := netip.AddrPort{}
	if source != "" {
		src = netip.AddrPortFrom(netip.MustParseAddr(source), 0)
	}
	s, err := ask(ctx, from, network, src, at)
	if from == g.Gateway.Gateway && network == "udp" && errors.Is(err, syscall.EPERM) {
		return // so the kernel says it to a socket of its own
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		g.t.Errorf("%s from %s to %s: %q, %v; want a refusal", network, from.Name, at, s, err)
	}
}

// routes has the LAN's bridge leave packets to the gateway's addresses to the
// gateway, as it does where br_netfilter is not loaded. Where it is, a bridge
// turns round what is translated to another of its ports, and drops what would
// leave by the port by which it came.
func (g *town) routes() {
	g.t.Helper()
	for _, key := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		if _, err := os.Stat("/proc/sys/net/bridge/" + key); err == nil {
			g.Gateway.Gateway.Sysctl("net.bridge."+key, "0")
		}
	}
}

func TestForwardsLeadToTheTargetAndKeepTheSource(t *testing.T) {
	for _, name := range []string{"bridged", "routed"} {
		t.Run(name, func(t *testing.T) { forwardsLeadToTheTarget(t, name == "routed") })
	}
}

func forwardsLeadToTheTarget(t *testing.T, routed bool) {
	g := newTown(t,
		"nat wan:2222/tcp+udp to 192.168.1.10:22",
		"nat wan:2223/tcp+udp to [2001:db8:2::10]:22",
		"nat wan:9000-9010/tcp+udp to 192.168.1.10",
		"nat wan:19000-19002/tcp+udp to 192.168.1.10:9000-9002",
		"nat :5353/tcp+udp to [2001:db8:2::10]:22",
		"nat 203.0.113.77:80/tcp+udp to 192.168.1.10:22",
	)
	newDesk(t, g.Inside, "192.168.1.10:22")
	newDesk(t, g.Inside, "[2001:db8:2::10]:22")
	if routed {
		g.routes()
	}
	for _, port := range []string{"9000", "9002", "9010"} {
		newDesk(t, g.Inside, "192.168.1.10:"+port)
	}
	g.Outside.Route("203.0.113.77/32", lab.WAN4, "eth0")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Outside, network, "203.0.113.1:2222", lab.Outside4, "inside")
		g.said(g.Outside, network, "[2001:db8:1::1]:2223", lab.Outside6, "inside")
		g.said(g.Outside, network, "203.0.113.1:9000", lab.Outside4, "inside")
		g.said(g.Outside, network, "203.0.113.1:9010", lab.Outside4, "inside")
		g.said(g.Outside, network, "203.0.113.1:19002", lab.Outside4, "inside")
		g.said(g.Outside, network, "[2001:db8:1::1]:5353", lab.Outside6, "inside")
		g.said(g.Outside, network, "203.0.113.77:80", lab.Outside4, "inside")
		// Around: from the LAN, from the target itself, from the gateway.
		g.said(g.Beside, network, "203.0.113.1:2222", lab.LAN4, "inside")
		g.said(g.Beside, network, "[2001:db8:1::1]:2223", lab.LAN6, "inside")
		if routed {
			g.said(g.Inside, network, "203.0.113.1:2222", lab.LAN4, "inside")
			g.said(g.Inside, network, "[2001:db8:1::1]:2223", lab.LAN6, "inside")
		}
		g.said(g.Gateway.Gateway, network, "203.0.113.1:2222", lab.LAN4, "inside")
		g.said(g.Gateway.Gateway, network, "[2001:db8:1::1]:2223", lab.LAN6, "inside")
		g.said(g.Gateway.Gateway, network, "203.0.113.1:9002", lab.LAN4, "inside")
		g.said(g.Gateway.Gateway, network, "[2001:db8:2::1]:5353", lab.LAN6, "inside")
	}
}

func TestSelfKeepsTheAddress(t *testing.T) {
	g := newTown(t, "nat wan:80/tcp+udp to self:8080", "nat :81-82/tcp+udp to self:8081-8082", "nat 83/tcp+udp to self:8080")
	// At each address by itself: a UDP server at all of them answers from the
	// address that suits the way back, not from the one that was asked.
	for _, addr := range []string{"127.0.0.1", "[::1]", lab.WAN4, "[" + lab.WAN6 + "]", lab.LAN4, "[" + lab.LAN6 + "]"} {
		newDesk(t, g.Gateway.Gateway, addr+":8080")
		newDesk(t, g.Gateway.Gateway, addr+":8082")
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, c := range []struct {
			from *lab.Host
			at   string
			seen string
		}{
			{g.Outside, "203.0.113.1:80", lab.Outside4},
			{g.Outside, "[2001:db8:1::1]:80", lab.Outside6},
			{g.Inside, "203.0.113.1:80", lab.Inside4},
			{g.Gateway.Gateway, "203.0.113.1:80", lab.WAN4},
			{g.Gateway.Gateway, "[2001:db8:1::1]:80", lab.WAN6},
			{g.Outside, "203.0.113.1:82", lab.Outside4},
			{g.Inside, "192.168.1.1:82", lab.Inside4},
			{g.Inside, "[2001:db8:2::1]:82", lab.Inside6},
			{g.Gateway.Gateway, "127.0.0.1:82", "127.0.0.1"},
			{g.Gateway.Gateway, "[::1]:82", "::1"},
			{g.Gateway.Gateway, "192.168.1.1:82", lab.LAN4},
			{g.Gateway.Gateway, "127.0.0.1:83", "127.0.0.1"},
			{g.Gateway.Gateway, "[::1]:83", "::1"},
		} {
			g.said(c.from, network, c.at, c.seen, "gateway")
		}
		g.refused(g.Outside, "", network, "203.0.113.1:83")
		g.refused(g.Inside, "", network, "192.168.1.1:80")
	}
}

func TestClientsAreLedByTheirAddress(t *testing.T) {
	g := newTown(t,
		"nat wan:80/tcp+udp to 192.168.1.10 from 198.51.100.0/24 from 2001:db8:9::/48, 192.168.1.20",
		"nat wan:81/tcp+udp to 192.168.1.10:80 from 198.51.100.0/24",
		"nat wan:82/tcp+udp to self:8080 deny 198.51.100.0/24 deny 2001:db8:9::/48",
		"nat wan:83/tcp+udp to self:8080 from 2001:db8:9::2/128, [2001:db8:2::10]:80",
	)
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Inside, "[2001:db8:2::10]:80")
	newDesk(t, g.Beside, "192.168.1.20:80")
	for _, port := range []string{"80", "81", "82", "8080"} {
		newDesk(t, g.Gateway.Gateway, "[::]:"+port) // what no refused client may reach
	}
	for _, network := range []string{"tcp", "udp"} {
		g.from(g.Outside, lab.Outside4Far, network, "203.0.113.1:80", "inside")
		g.from(g.Outside, lab.Outside4, network, "203.0.113.1:80", "beside")
		g.refused(g.Outside, lab.Outside6Far, network, "[2001:db8:1::1]:80")
		g.refused(g.Outside, lab.Outside6, network, "[2001:db8:1::1]:80")
		g.from(g.Outside, lab.Outside4Far, network, "203.0.113.1:81", "inside")
		g.refused(g.Outside, lab.Outside4, network, "203.0.113.1:81")
		g.refused(g.Outside, lab.Outside6, network, "[2001:db8:1::1]:81")
		g.refused(g.Inside, "", network, "203.0.113.1:81")
		g.refused(g.Gateway.Gateway, "", network, "203.0.113.1:81")
		g.from(g.Outside, lab.Outside4, network, "203.0.113.1:82", "gateway")
		g.from(g.Outside, lab.Outside6, network, "[2001:db8:1::1]:82", "gateway")
		g.refused(g.Outside, lab.Outside4Far, network, "203.0.113.1:82")
		g.refused(g.Outside, lab.Outside6Far, network, "[2001:db8:1::1]:82")
		g.from(g.Outside, lab.Outside6Far, network, "[2001:db8:1::1]:83", "gateway")
		g.from(g.Outside, lab.Outside6, network, "[2001:db8:1::1]:83", "inside")
	}
}

func TestTargetsShareClients(t *testing.T) {
	g := newTown(t,
		"nat wan:80/tcp+udp to 192.168.1.10 weight 3, 192.168.1.20 policy round-robin",
		"nat wan:81/tcp+udp to [2001:db8:2::10]:80, [2001:db8:2::20]:80 policy random",
		"nat wan:82/tcp+udp to 192.168.1.10:80, 192.168.1.20:80 policy source-hash")
	for _, d := range []struct {
		h  *lab.Host
		at string
	}{{g.Inside, "192.168.1.10:80"}, {g.Beside, "192.168.1.20:80"}, {g.Inside, "[2001:db8:2::10]:80"}, {g.Beside, "[2001:db8:2::20]:80"}} {
		newDesk(t, d.h, d.at)
	}
	for _, network := range []string{"tcp", "udp"} {
		for at, n := range map[string]int{"203.0.113.1:80": 8, "[2001:db8:1::1]:81": 60, "203.0.113.1:82": 8} {
			led := map[string]int{}
			for range n {
				_, host, _ := strings.Cut(g.answers(g.Outside, network, at), " at ")
				led[host]++
			}
			switch at[len(at)-2:] {
			case "80":
				if led["inside"] != 6 || led["beside"] != 2 {
					t.Errorf("%s by turns of 3 and 1: %v", network, led)
				}
			case "81": // both or neither: 2 in 2^60
				if led["inside"] == 0 || led["beside"] == 0 {
					t.Errorf("%s by chance: %v", network, led)
				}
			case "82":
				if len(led) != 1 {
					t.Errorf("%s by address: one client was led to %v", network, led)
				}
			}
		}
	}
}

// A WAN's address changes: clients who come in by it are served at the new one
// at once, with no rule touched.
func TestForwardsFollowTheAddress(t *testing.T) {
	g := newTown(t, "nat wan:80/tcp+udp to 192.168.1.10", "nat wan:81/tcp+udp to self:8080", "nat wan:82 to [2001:db8:2::10]:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Inside, "[2001:db8:2::10]:80")
	newDesk(t, g.Gateway.Gateway, "[::]:8080")
	g.said(g.Outside, "tcp", "203.0.113.1:80", lab.Outside4, "inside")
	g.Gateway.Gateway.DropAddr("wan0", "203.0.113.1/24", "2001:db8:1::1/64")
	g.Gateway.Gateway.Addr("wan0", "203.0.113.99/24", "2001:db8:1::99/64")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Outside, network, "203.0.113.99:80", lab.Outside4, "inside")
		g.said(g.Outside, network, "203.0.113.99:81", lab.Outside4, "gateway")
		g.said(g.Outside, network, "[2001:db8:1::99]:81", lab.Outside6, "gateway")
	}
	g.said(g.Outside, "tcp", "[2001:db8:1::99]:82", lab.Outside6, "inside")
}

// What a process of the LAN may reach by a spot of the LAN, nobody reaches from
// outside, who may know the address and the way there.
func TestSpotsOfTheLANAreNotReachedFromOutside(t *testing.T) {
	g := newTown(t, "nat lan:80/tcp+udp to 192.168.1.10", "nat lan0:81/tcp+udp to self:8080", "nat 82/tcp+udp to self:8080")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Gateway.Gateway, "[::]:8080")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Beside, network, "192.168.1.1:80", lab.LAN4, "inside")
		g.said(g.Beside, network, "192.168.1.1:81", lab.Beside4, "gateway")
		g.said(g.Beside, network, "[2001:db8:2::1]:81", lab.Beside6, "gateway")
		g.said(g.Gateway.Gateway, network, "192.168.1.1:80", lab.LAN4, "inside")
		for _, at := range []string{"192.168.1.1:80", "192.168.1.1:81", "203.0.113.1:81", "203.0.113.1:82", "[2001:db8:2::1]:81"} {
			g.refused(g.Outside, "", network, at)
		}
		g.refused(g.Beside, "", network, "203.0.113.1:80")
	}
}

// Counters tell what went each way, what began and what was turned away, also
// where one address of this host asks another.
func TestAccountsAreKept(t *testing.T) {
	g := newTown(t)
	list := g.carry("nat wan:80/tcp+udp to 192.168.1.10 from 203.0.113.0/24", "nat wan:81-82/tcp+udp to self:8081-8082", "nat :83/tcp+udp to 192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Gateway.Gateway, "[::]:8081")
	for _, network := range []string{"tcp", "udp"} {
		g.answers(g.Outside, network, "203.0.113.1:80")
		g.answers(g.Gateway.Gateway, network, "203.0.113.1:80")
		g.refused(g.Outside, lab.Outside4Far, network, "203.0.113.1:80")
		g.answers(g.Outside, network, "[2001:db8:1::1]:81")
		g.answers(g.Gateway.Gateway, network, "203.0.113.1:81")
		g.answers(g.Beside, network, "192.168.1.1:83")
	}
	for i, want := range []struct{ flows, refused int64 }{{4, 2}, {4, 0}, {2, 0}} {
		until(t, "the counters of "+list[i].Forward.Expr, func() bool {
			st := g.k.Report()
			m := st[i].Meter
			return m != nil && m.Flows.Load() == want.flows && m.Refused.Load() == want.refused && m.In.Load() > 0 && m.Out.Load() > 0
		})
	}
}

// The source is rewritten where the sentence says so, or kept where it would be.
func TestSourceIsWhatTheSentenceSays(t *testing.T) {
	g := newTown(t,
		"nat wan:80/tcp+udp to 192.168.1.10 masquerade",
		"nat wan:81/tcp+udp to 192.168.1.10:80",
		"nat wan:82/tcp+udp to 192.168.1.10:80 source 192.168.1.77",
		"nat wan:8000-8001/tcp+udp to 192.168.1.10 masquerade",
		"nat wan:83/tcp+udp to [2001:db8:2::10]:80 masquerade",
		"nat lan:84/tcp+udp to [2001:db8:2::10]:80 source keep",
	)
	g.routes()
	g.Gateway.Gateway.Addr("lan0", "192.168.1.77/24")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:8001")
	newDesk(t, g.Inside, "[2001:db8:2::10]:80")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Outside, network, "203.0.113.1:80", lab.LAN4, "inside")
		g.said(g.Outside, network, "203.0.113.1:81", lab.Outside4, "inside")
		g.said(g.Outside, network, "203.0.113.1:82", "192.168.1.77", "inside")
		g.said(g.Outside, network, "203.0.113.1:8001", lab.LAN4, "inside")
		g.said(g.Outside, network, "[2001:db8:1::1]:83", lab.LAN6, "inside")
	}
	// Kept, the answer goes to the client directly, who asked somebody else: only
	// a target whose way back leads through us can be asked so.
	g.Inside.Route("2001:db8:2::20/128", lab.LAN6, "eth0")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Beside, network, "[2001:db8:2::1]:84", lab.Beside6, "inside")
	}
}

// A forward at an address takes from one at its interface what it names, and
// nothing else: neither from clients who come around nor of what is counted.
func TestAnAddressTakesNothingMoreFromItsInterface(t *testing.T) {
	g := newTown(t,
		"nat wan:80-90/tcp+udp to 192.168.1.10:1080-1090", "nat wan:8000-8010/tcp+udp to 192.168.1.10 deny 198.51.100.77/32",
		"nat 203.0.113.1:85/tcp+udp to 192.168.1.10:5000", "nat 203.0.113.1:8005/tcp to 192.168.1.10:5000",
	)
	g.routes()
	for _, port := range []string{"1080", "1090", "5000", "8000", "8005", "8010"} {
		newDesk(t, g.Inside, "192.168.1.10:"+port)
	}
	for _, network := range []string{"tcp", "udp"} {
		for _, port := range []string{"80", "85", "90", "8000", "8005", "8010"} {
			g.said(g.Outside, network, "203.0.113.1:"+port, lab.Outside4, "inside")
			g.said(g.Beside, network, "203.0.113.1:"+port, lab.LAN4, "inside")
			g.said(g.Gateway.Gateway, network, "203.0.113.1:"+port, "", "inside")
		}
	}
	list := g.k.Report()
	g.k.recount(true)
	for i, want := range []int64{12, 15, 6, 3} {
		if n := list[i].Meter.Flows.Load(); n != want {
			t.Errorf("%s: %d flows, want %d", list[i].Forward.Expr, n, want)
		}
	}
	if want := "203.0.113.1:80-84/tcp 203.0.113.1:86-90/tcp 203.0.113.1:80-84/udp 203.0.113.1:86-90/udp"; strings.Join(list[0].Bound, " ") != want {
		t.Errorf("bound %q, want %s", list[0].Bound, want)
	}
}

// The textbook: three hosts and the target on one network, and an address that
// is nobody's but is routed to us. The client believes that it talked with it.
func TestOneArm(t *testing.T) {
	g := newTown(t, "nat 192.168.1.3:80/tcp+udp to 192.168.1.10:8080", "nat [2001:db8:2::3]:80/tcp+udp to [2001:db8:2::10]:8080")
	g.routes()
	newDesk(t, g.Inside, "192.168.1.10:8080")
	newDesk(t, g.Inside, "[2001:db8:2::10]:8080")
	g.Beside.Route("192.168.1.3/32", lab.LAN4, "eth0")
	g.Beside.Route("2001:db8:2::3/128", lab.LAN6, "eth0")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Beside, network, "192.168.1.3:80", lab.LAN4, "inside")
		g.said(g.Beside, network, "[2001:db8:2::3]:80", lab.LAN6, "inside")
		g.said(g.Gateway.Gateway, network, "192.168.1.3:80", lab.LAN4, "inside")
	}
}

// Two WANs: each is a way in, and answers go out by the one by which they were
// asked for, as far as the routes lead there.
func TestTwoWANs(t *testing.T) {
	g := newTown(t)
	other := g.Net.Host("other")
	g.Net.Wire(g.Gateway.Gateway, "wan1", other, "eth0")
	g.Gateway.Gateway.Addr("wan1", "192.0.2.1/24", "2001:db8:5::1/64")
	other.Addr("eth0", "192.0.2.9/24", "2001:db8:5::9/64")
	g.mu.Lock()
	g.wan = []string{"wan0", "wan1"}
	g.mu.Unlock()
	g.carry("nat wan:80/tcp+udp to 192.168.1.10", "nat wan1:81/tcp+udp to self:8080")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Gateway.Gateway, "[::]:8080")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Outside, network, "203.0.113.1:80", lab.Outside4, "inside")
		g.said(other, network, "192.0.2.1:80", "192.0.2.9", "inside")
		g.said(g.Beside, network, "192.0.2.1:80", lab.LAN4, "inside")
		g.said(other, network, "[2001:db8:5::1]:81", "2001:db8:5::9", "gateway")
		g.refused(g.Outside, "", network, "203.0.113.1:81")
	}
}

// Forwards of every form come and go, and after each change the table in the
// kernel is the one that was wanted.
func TestWhateverComesAndGoesIsLoaded(t *testing.T) {
	g := newTown(t)
	all := []string{
		"nat wan:80/tcp+udp to 192.168.1.10",
		"nat wan:81/tcp+udp to 192.168.1.10:80 from 198.51.100.0/24, [2001:db8:2::10]:80",
		"nat wan:82 to 192.168.1.10, 192.168.1.20 policy random",
		"nat wan:83 to self:8080 deny 198.51.100.0/24",
		"nat :84-90/tcp+udp to 192.168.1.10",
		"nat :91-95 to self:1091-1095 max-conns 5 rate-per-source 3/s",
		"nat lan:96-97 to 192.168.1.10 masquerade",
		"nat 98 to self:8080",
		"nat 192.168.1.3:80 to [2001:db8:2::10]:80 source 192.168.1.1",
		"nat 192.168.1.3:81 to 192.168.1.10 source keep log",
	}
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 40 {
		var want []*fairlead.Forward
		for i, s := range all {
			if r.IntN(2) == 0 {
				want = append(want, wish(t, fmt.Sprintf("f%d", i), s))
			}
		}
		for _, st := range g.k.Apply(t.Context(), want) {
			if st.State == fairlead.Broken && st.Problem.Code != fairlead.CodeNameFamily {
				t.Fatalf("round %d: %s: %v", round, st.Forward.Expr, st.Problem)
			}
		}
		if err := g.Gateway.Gateway.Do(func() error {
			conn, err := nft.Open()
			if err != nil {
				return err
			}
			defer conn.Close()
			have, err := conn.Read(nft.Inet, "fairlead")
			if err != nil {
				return err
			}
			wanted := g.k.counted.Load().table
			if have == nil {
				return errors.New("there is no table")
			}
			return differ(have, wanted)
		}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// differ says in what the kernel's table is not the wanted one: its sets, how
// many elements they have, its chains and how many rules they have.
func differ(have, wanted *nft.Table) error {
	sizes := func(t *nft.Table) map[string]int {
		m := map[string]int{}
		for _, s := range t.Sets {
			if !s.Dynamic {
				m["set "+s.Name] = len(s.Elements)
			}
		}
		for _, c := range t.Chains {
			m["chain "+c.Name] = len(c.Rules)
		}
		return m
	}
	a, b := sizes(have), sizes(wanted)
	for name, n := range b {
		if got, ok := a[name]; !ok || got != n {
			return fmt.Errorf("%s has %d of %d (there: %t)", name, got, n, ok)
		}
	}
	for name := range a {
		if _, ok := b[name]; !ok && !strings.HasPrefix(name, "chain made_by") {
			return fmt.Errorf("%s is left over", name)
		}
	}
	return nil
}

// A forward that is to end does so by itself, also when nobody of ours lives.
func TestAForwardEndsInTheKernel(t *testing.T) {
	g := newTown(t, "nat wan:80/tcp+udp to 192.168.1.10 for 2s", "nat wan:81-82/tcp+udp to self:8081-8082 for 2s")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Gateway.Gateway, "[::]:8081")
	g.said(g.Outside, "tcp", "203.0.113.1:80", lab.Outside4, "inside")
	g.said(g.Outside, "tcp", "203.0.113.1:81", lab.Outside4, "gateway")
	until(t, "both have ended", func() bool {
		for _, at := range []string{"203.0.113.1:80", "203.0.113.1:81"} {
			c, refused := g.hold(g.Outside, "", at)
			if !refused {
				c.Close()
				return false
			}
		}
		return true
	})
}
