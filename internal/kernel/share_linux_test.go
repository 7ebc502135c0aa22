package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/lab"
)

func TestALANGoesOutWithTheSharedAddress(t *testing.T) {
	g := newTown(t, "share lan to wan")
	newDesk(t, g.Outside, ":80")
	for _, network := range []string{"tcp", "udp"} {
		for _, from := range []*lab.Host{g.Inside, g.Beside} {
			if s := g.answers(from, network, lab.Outside4+":80"); !strings.HasPrefix(s, lab.WAN4+":") {
				t.Errorf("%s from %s: outside sees %s, want %s", network, from.Name, s, lab.WAN4)
			}
		}
		// IPv6 needs no sharing.
		if s := g.answers(g.Inside, network, "["+lab.Outside6+"]:80"); !strings.HasPrefix(s, "["+lab.Inside6+"]:") && !strings.HasPrefix(s, lab.Inside6) {
			t.Errorf("%s: outside sees %s, want %s", network, s, lab.Inside6)
		}
		// The gateway itself goes out as well, and its answers come in.
		g.answers(g.Gateway.Gateway, network, lab.Outside4+":80")
		g.answers(g.Gateway.Gateway, network, "["+lab.Outside6+"]:80")
	}
	for _, at := range []string{lab.Outside4, lab.Outside6} {
		if err := ping(t, g.Inside, at); err != nil {
			t.Errorf("ping %s from the LAN: %v", at, err)
		}
	}
}

func TestAStatusSaysAsWhatALANGoesOut(t *testing.T) {
	g := newTown(t)
	st := g.carry("share lan to wan")[0]
	if want := "lan0 goes out by wan0 as " + lab.WAN4; len(st.Bound) != 1 || st.Bound[0] != want {
		t.Errorf("bound %q, want %q", st.Bound, want)
	}
	if st.Problem != nil {
		t.Errorf("problem: %v", st.Problem)
	}
}

func TestNobodyOutsideReachesTheLAN(t *testing.T) {
	g := newTown(t, "share lan to wan")
	newDesk(t, g.Inside, ":80")
	newDesk(t, g.Gateway.Gateway, ":81")
	for _, network := range []string{"tcp", "udp"} {
		for _, at := range []string{lab.Inside4 + ":80", "[" + lab.Inside6 + "]:80", // by routing to it
			lab.LAN4 + ":81", "[" + lab.LAN6 + "]:81", lab.WAN4 + ":81", "[" + lab.WAN6 + "]:81"} {
			g.silent(g.Outside, network, at)
		}
		// The LAN does.
		g.answers(g.Beside, network, lab.Inside4+":80")
		g.answers(g.Beside, network, lab.LAN4+":81")
		g.answers(g.Beside, network, "["+lab.LAN6+"]:81")
	}
	g.answers(g.Beside, "tcp", lab.WAN4+":81")
	if err := ping(t, g.Outside, lab.WAN4); err != nil {
		t.Errorf("ping of the gateway: %v", err)
	}
	if err := ping(t, g.Outside, lab.Inside6); err != nil {
		t.Errorf("ping of a host of the LAN by IPv6 (RFC 4890 section 4.3.1): %v", err)
	}
	if err := ping(t, g.Outside, lab.Inside4); err == nil {
		t.Error("a host of the LAN answers a ping from outside by IPv4")
	}
}

func TestUnguardedLeavesTheFilterToOthers(t *testing.T) {
	g := newTown(t, "share lan to wan unguarded")
	newDesk(t, g.Inside, ":80")
	newDesk(t, g.Gateway.Gateway, ":81")
	newDesk(t, g.Outside, ":80")
	g.answers(g.Outside, "tcp", "["+lab.Inside6+"]:80")
	g.answers(g.Outside, "udp", lab.WAN4+":81")
	if s := g.answers(g.Inside, "tcp", lab.Outside4+":80"); !strings.HasPrefix(s, lab.WAN4+":") {
		t.Errorf("outside sees %s", s)
	}
}

func TestASecondLANIsSharedAndMayBeUnguarded(t *testing.T) {
	g := newTown(t)
	den := g.Net.Host("den")
	g.Net.Wire(g.Gateway.Gateway, "lan1", den, "eth0")
	g.Gateway.Gateway.Addr("lan1", "192.168.2.1/24", "2001:db8:3::1/64")
	den.Addr("eth0", "192.168.2.10/24", "2001:db8:3::10/64")
	den.Route("0.0.0.0/0", "192.168.2.1", "eth0")
	den.Route("::/0", "2001:db8:3::1", "eth0")
	g.Outside.Route("2001:db8:3::/64", lab.WAN6, "eth0")
	newDesk(t, g.Outside, ":80")
	newDesk(t, den, ":80")
	newDesk(t, g.Inside, ":80")
	den6 := "[2001:db8:3::10]:80"

	// A share of one LAN guards the WAN's side as a whole.
	g.carry("share lan0 to wan0")
	g.silent(g.Outside, "tcp", den6)

	g.lan = []string{"lan0", "lan1"}
	g.carry("share lan to wan")
	for _, from := range []*lab.Host{g.Inside, den} {
		if s := g.answers(from, "tcp", lab.Outside4+":80"); !strings.HasPrefix(s, lab.WAN4+":") {
			t.Errorf("from %s: outside sees %s", from.Name, s)
		}
	}
	g.silent(g.Outside, "tcp", den6)
	g.answers(g.Inside, "tcp", "192.168.2.10:80") // between the LANs nobody stands

	g.carry("share lan0 to wan", "share lan1 to wan unguarded")
	g.answers(g.Outside, "tcp", den6)
	g.silent(g.Outside, "tcp", "["+lab.Inside6+"]:80")
}

func TestAGuardFollowsTheWAN(t *testing.T) {
	g := newTown(t, "share lan to wan")
	newDesk(t, g.Inside, ":80")
	newDesk(t, g.Outside, ":80")
	gateway := g.Gateway.Gateway
	for _, args := range [][]string{{"link", "set", "wan0", "down"}, {"link", "set", "wan0", "name", "wan1"}, {"link", "set", "wan1", "up"}} {
		lab.NeedTool(t, "ip")
		if out, err := gateway.Command(t, "ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	gateway.Route("0.0.0.0/0", lab.Outside4, "wan1")
	gateway.Addr("wan1", "2001:db8:1::1/64")
	gateway.Route("::/0", lab.Outside6, "wan1")
	g.mu.Lock()
	g.wan = []string{"wan1"}
	g.mu.Unlock()
	g.carry("share lan to wan")
	if s := g.answers(g.Inside, "tcp", lab.Outside4+":80"); !strings.HasPrefix(s, lab.WAN4+":") {
		t.Errorf("outside sees %s", s)
	}
	g.silent(g.Outside, "tcp", "["+lab.Inside6+"]:80")
}

// Without a default route nobody can tell what is outside, and without an
// address on its interface what is the LAN: who was kept out is kept out.
func TestAGuardStaysWhileASideIsMissing(t *testing.T) {
	for _, c := range []struct {
		name     string
		wan, lan []string
	}{{"wan", nil, []string{"lan0"}}, {"lan", []string{"wan0"}, nil}, {"both", nil, nil}} {
		t.Run(c.name, func(t *testing.T) {
			g := newTown(t, "share lan to wan")
			newDesk(t, g.Inside, ":80")
			newDesk(t, g.Gateway.Gateway, ":81")
			g.mu.Lock()
			g.wan, g.lan = c.wan, c.lan
			g.mu.Unlock()
			shut := func(when string, k *Kernel) {
				t.Helper()
				st := k.Apply(t.Context(), g.k.want)[0]
				if st.State != fairlead.Broken || st.Problem == nil || st.Problem.Code != fairlead.CodeNoInterface {
					t.Errorf("%s: %v: %v", when, st.State, st.Problem)
				}
				g.silent(g.Outside, "tcp", "["+lab.Inside6+"]:80")
				g.silent(g.Outside, "tcp", lab.WAN4+":81")
			}
			shut("meanwhile", g.k)
			shut("and again", g.k)
			g.k.Close()
			next := g.carrier(nil)
			shut("after a restart", next)
			g.mu.Lock()
			g.wan, g.lan = []string{"wan0"}, []string{"lan0"}
			g.mu.Unlock()
			if st := next.Apply(t.Context(), g.k.want)[0]; st.Problem != nil {
				t.Errorf("when it is back: %v", st.Problem)
			}
			// A share that is taken out takes its guard along.
			next.Apply(t.Context(), nil)
			g.answers(g.Outside, "tcp", lab.WAN4+":81")
		})
	}
}

func TestARelaysPortIsReachedThroughTheGuard(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Gateway.Gateway, ":8080")
	newDesk(t, g.Gateway.Gateway, lab.LAN4+":8081")
	newDesk(t, g.Gateway.Gateway, lab.WAN4+":8082")
	g.listens = []Listener{
		{Net: fairlead.TCP, At: netip.MustParseAddrPort("[::]:8080")},
		{Net: fairlead.TCP | fairlead.UDP, At: netip.MustParseAddrPort(lab.LAN4 + ":8081")},
		{Net: fairlead.UDP, At: netip.MustParseAddrPort(lab.WAN4 + ":8082")},
	}
	g.carry("share lan to wan")
	g.answers(g.Outside, "tcp", lab.WAN4+":8080")
	g.answers(g.Outside, "tcp", "["+lab.WAN6+"]:8080")
	g.silent(g.Outside, "udp", lab.WAN4+":8080")
	g.answers(g.Outside, "udp", lab.WAN4+":8082")
	g.silent(g.Outside, "tcp", lab.WAN4+":8082")
	// What listens for the LAN is not reached by asking for the LAN's address.
	g.silent(g.Outside, "tcp", lab.LAN4+":8081")
	g.answers(g.Inside, "tcp", lab.LAN4+":8081")
}

func TestAGuardWarnsWhomItShutsOff(t *testing.T) {
	w := &world{table: "fairlead", wan: []string{"wan0"}, lan: []string{"lan0"}, addrs: townAddrs(), now: time.Now(),
		listens: []Listener{{Net: fairlead.TCP, At: netip.MustParseAddrPort("[::]:8080")}},
		held: []Listener{
			{Net: fairlead.TCP, At: netip.MustParseAddrPort("0.0.0.0:22"), Program: "sshd"},
			{Net: fairlead.TCP, At: netip.MustParseAddrPort("[::]:22"), Program: "sshd"},
			{Net: fairlead.TCP, At: netip.MustParseAddrPort("[::]:8080"), Program: "fairlead"},
			{Net: fairlead.UDP, At: netip.MustParseAddrPort("192.168.1.1:53"), Program: "dnsmasq"},
			{Net: fairlead.TCP, At: netip.MustParseAddrPort("127.0.0.1:25"), Program: "master"},
		}}
	p := compile([]*fairlead.Forward{wish(t, "masq", "share lan to wan")}, w)
	problem := p.parts[0].problem
	if problem == nil || problem.Code != fairlead.CodeShutOff || !problem.Warning {
		t.Fatalf("problem %v, want a warning %s", problem, fairlead.CodeShutOff)
	}
	if want := "sshd (22/tcp) on this host can no longer be reached from wan0"; problem.What != want {
		t.Errorf("%q, want %q", problem.What, want)
	}
	if len(problem.Fixes) != 1 || problem.Fixes[0].Command != "fairlead add open wan:22 to self" {
		t.Errorf("fixes %v", problem.Fixes)
	}
	p = compile([]*fairlead.Forward{wish(t, "masq", "share lan to wan"), wish(t, "ssh", "open wan:22 to self")}, w)
	if problem := p.parts[0].problem; problem != nil {
		t.Errorf("with a pinhole for it: %v", problem)
	}
}

func townAddrs() map[string][]netip.Prefix {
	p := netip.MustParsePrefix
	return map[string][]netip.Prefix{
		"lo":   {p("127.0.0.1/8"), p("::1/128")},
		"wan0": {p(lab.WAN4 + "/24"), p(lab.WAN6 + "/64"), p("fe80::1/64")},
		"lan0": {p(lab.LAN4 + "/24"), p(lab.LAN6 + "/64"), p("fe80::2/64")},
	}
}

// Who outside sees a client of the LAN with the source port of a forward would
// have its packets (port shadow, CVE-2021-3773).
func TestALANClientNeverHoldsAPortOfOurs(t *testing.T) {
	const port = 51820
	g := newTown(t)
	gate := newDesk(t, g.Gateway.Gateway, fmt.Sprintf(":%d", port))
	newDesk(t, g.Outside, ":40000")
	_ = gate
	from := netip.AddrPortFrom(netip.MustParseAddr(lab.Inside4), port)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := func(network string) string {
		s, err := ask(ctx, g.Inside, network, from, lab.Outside4+":40000")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// A port that leads nowhere here is kept: games and others count on it.
	g.carry("share lan to wan")
	if s := seen("udp"); !strings.HasPrefix(s, fmt.Sprintf("%s:%d ", lab.WAN4, port)) {
		t.Errorf("outside sees %s, want port %d kept", s, port)
	}
	g.carry("share lan to wan", fmt.Sprintf("open wan:%d/tcp+udp to self", port))
	flush(t, g.Gateway.Gateway)
	for _, network := range []string{"tcp", "udp"} {
		if s := seen(network); !strings.HasPrefix(s, lab.WAN4+":") || strings.HasPrefix(s, fmt.Sprintf("%s:%d ", lab.WAN4, port)) {
			t.Errorf("%s: outside sees %s; port %d is ours", network, s, port)
		}
	}
	// So whoever outside has the port that the client asked comes to us.
	s, err := ask(ctx, g.Outside, "udp", netip.AddrPort{}, fmt.Sprintf("%s:%d", lab.WAN4, port))
	if err != nil || !strings.HasSuffix(s, " at gateway") {
		t.Errorf("who asks for port %d is answered %q, %v", port, s, err)
	}
}

// Where two clients have the same source port, one of them is given another, of
// all that there are: half of them ours, here.
func TestAPortInUseIsNotReplacedByOneOfOurs(t *testing.T) {
	g := newTown(t, "share lan to wan", "open wan:1024-30999/udp to self")
	newDesk(t, g.Outside, ":40000")
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	for n := range 8 {
		port := uint16(31000 + n) // of no stretch that is given out
		if n%2 == 0 {
			port = uint16(33000 + n)
		}
		for i, from := range []struct {
			h    *lab.Host
			addr string
		}{{g.Inside, lab.Inside4}, {g.Beside, lab.Beside4}} {
			s, err := ask(ctx, from.h, "udp", netip.AddrPortFrom(netip.MustParseAddr(from.addr), port), lab.Outside4+":40000")
			if err != nil {
				t.Fatal(err)
			}
			at, _, _ := strings.Cut(s, " ")
			switch seen := netip.MustParseAddrPort(at).Port(); {
			case seen >= 1024 && seen <= 30999:
				t.Errorf("outside sees port %d, which is ours", seen)
			case i == 0 && seen != port:
				t.Errorf("outside sees port %d of the first who has %d", seen, port)
			case i == 1 && seen == port:
				t.Errorf("outside sees port %d of two clients", seen)
			}
		}
	}
}

func TestAFreeStretchAvoidsWhatIsOurs(t *testing.T) {
	for _, c := range []struct {
		ours []fairlead.Ports
		want fairlead.Ports
		ok   bool
	}{
		{nil, usual, true},
		{[]fairlead.Ports{{First: 80, Last: 80}}, usual, true},
		{[]fairlead.Ports{{First: 40000, Last: 40000}}, fairlead.Ports{First: 40001, Last: 60999}, true},
		{[]fairlead.Ports{{First: 30000, Last: 60500}}, fairlead.Ports{First: 1024, Last: 29999}, true},
		{[]fairlead.Ports{{First: 1024, Last: 65535}}, fairlead.Ports{}, false},
		{[]fairlead.Ports{{First: 1, Last: 65535}}, fairlead.Ports{}, false},
	} {
		var s portSet
		s.add(c.ours...)
		got, ok := s.free()
		if ok != c.ok || ok && got != c.want {
			t.Errorf("without %v: %v, %v; want %v, %v", c.ours, got, ok, c.want, c.ok)
		}
	}
}

// ping asks once or more, until an answer comes or half a second is over.
func ping(t *testing.T, from *lab.Host, at string) error {
	t.Helper()
	from.Sysctl("net.ipv4.ping_group_range", "0 2147483647")
	a := netip.MustParseAddr(at)
	return from.Do(func() error {
		family, proto, request := unix.AF_INET, unix.IPPROTO_ICMP, byte(icmpEcho)
		var to unix.Sockaddr
		if !a.Is4() {
			family, proto, request = unix.AF_INET6, unix.IPPROTO_ICMPV6, icmp6Echo
			to = &unix.SockaddrInet6{Addr: a.As16()}
		} else {
			to = &unix.SockaddrInet4{Addr: a.As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		wait := unix.NsecToTimeval(int64(100 * time.Millisecond))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return err
		}
		b := make([]byte, 64)
		for n := range 5 {
			if err := unix.Sendto(fd, []byte{request, 0, 0, 0, 0, 0, 0, byte(n)}, 0, to); err != nil {
				return err
			}
			if _, _, err = unix.Recvfrom(fd, b, 0); err == nil {
				return nil
			}
		}
		return fmt.Errorf("no answer: %w", err)
	})
}

func TestAProgramThatAGuardShutsOffIsNamed(t *testing.T) {
	lab.NeedTool(t, "socat")
	g := newTown(t)
	server := g.Gateway.Gateway.Command(t, "socat", "TCP-LISTEN:22,fork", "SYSTEM:true")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "it listens", func() bool {
		c, err := g.Gateway.Gateway.DialContext(t.Context(), "tcp", "127.0.0.1:22")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	problem := g.carry("share lan to wan")[0].Problem
	if problem == nil || problem.Code != fairlead.CodeShutOff || !strings.HasPrefix(problem.What, "socat (22/tcp) on this host") {
		t.Errorf("problem %v, want that socat is shut off", problem)
	}
}
