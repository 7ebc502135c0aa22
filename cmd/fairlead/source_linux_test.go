package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
)

// A gateway stands between a client and a server, with a network on each side.
type gateway struct {
	client, here, server *lab.Host
}

func newGateway(t *testing.T) gateway {
	t.Helper()
	n := lab.NewNet(t)
	g := gateway{n.Host("client"), n.Host("gateway"), n.Host("server")}
	n.Wire(g.client, "eth0", g.here, "lan0")
	n.Wire(g.here, "wan0", g.server, "eth0")
	g.client.Addr("eth0", "10.0.1.2/24", "fd01::2/64")
	g.here.Addr("lan0", "10.0.1.1/24", "fd01::1/64")
	g.here.Addr("wan0", "10.0.2.1/24", "10.0.2.3/24", "fd02::1/64")
	g.server.Addr("eth0", "10.0.2.2/24", "fd02::2/64")
	return g
}

// tellWho serves at the server, over TCP and UDP, and says to each client which
// address it has.
func (g gateway) tellWho(t *testing.T, address string) {
	t.Helper()
	lab.Serve(t, lab.At{Host: g.server, Address: address}, func(v *lab.Visit) {
		bufio.NewReader(v.Conn).ReadString('\n')
		fmt.Fprintln(v.Conn, v.Conn.RemoteAddr())
		bufio.NewReader(v.Conn).ReadString('\n') // until the client goes
	})
	lab.ServeUDP(t, lab.At{Host: g.server, Address: address}, func(_ []byte, from netip.AddrPort) [][]byte {
		return [][]byte{[]byte(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()).String() + "\n")}
	})
}

// who asks at address which address the server sees, and returns it with the
// client's own.
func (g gateway) who(network, address string) (seen, own netip.AddrPort, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := g.client.DialContext(ctx, network, address)
	if err != nil {
		return seen, own, err
	}
	defer c.Close()
	return ask(c)
}

// ask asks which address the server sees.
func ask(c net.Conn) (seen, own netip.AddrPort, err error) {
	c.SetDeadline(time.Now().Add(patience))
	if strings.HasPrefix(c.LocalAddr().Network(), "udp") {
		c.SetDeadline(time.Now().Add(time.Second)) // may be lost
	}
	if _, err := fmt.Fprintln(c, "who?"); err != nil {
		return seen, own, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return seen, own, err
	}
	seen, err = netip.ParseAddrPort(strings.TrimSpace(line))
	own = netip.MustParseAddrPort(c.LocalAddr().String())
	return seen, own, err
}

// shell runs a command as it is printed, in a host.
func shell(t *testing.T, h *lab.Host, command string) string {
	t.Helper()
	out, err := h.Command(t, "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.Name, command, err, out)
	}
	return string(out)
}

// TestSourceKeepPrintsTheCommandsThatMakeItWork runs exactly what is printed.
func TestSourceKeepPrintsTheCommandsThatMakeItWork(t *testing.T) {
	lab.NeedTool(t, "nft")
	lab.NeedTool(t, "ip")
	for _, c := range []struct{ family, at, to, server string }{
		{"IPv4", "10.0.1.1:80", "10.0.2.2:80", "10.0.2.2:80"},
		{"IPv6", "[fd01::1]:80", "[fd02::2]:80", "[fd02::2]:80"},
	} {
		t.Run(c.family, func(t *testing.T) {
			g := newGateway(t)
			g.tellWho(t, c.server)
			v := spec{host: g.here}.up(t, "web: forward "+c.at+"/tcp+udp to "+c.to+" source keep connect 2s\n"+
				"twin: forward "+strings.TrimSuffix(c.at, "80")+"81 to "+c.to+" source keep\n")

			f := v.forward("web")
			if f.Error == nil || f.Error.Code != "FL-208" || f.Error.Severity != "warning" || !strings.Contains(f.Error.Text, "takes in") {
				t.Fatalf("nothing is set up, and the forward says %+v", f.Error)
			}
			if _, _, err := g.who("tcp", c.at); err == nil {
				t.Fatal("an answer came back though no way leads there")
			}
			v.await("web", func(f control.Forward) bool {
				return f.Error != nil && f.Error.Code == "FL-208" && strings.Contains(f.Error.Text, "do not come back")
			})
			fixes := v.forward("web").Error.Fixes
			if len(fixes) != 3 {
				t.Fatalf("fixes are %+v", fixes)
			}
			for _, fix := range fixes[:2] {
				shell(t, g.here, fix.Command)
			}
			shell(t, g.server, fixes[2].Command)

			seen, own, err := g.who("tcp", c.at)
			if err != nil || seen != own {
				t.Fatalf("the server sees %v of the client %v, %v", seen, own, err)
			}
			v.await("web", func(f control.Forward) bool { return f.Error == nil && f.State == "passing" })
			seen, own, err = g.who("udp", c.at)
			if err != nil || seen != own {
				t.Fatalf("over UDP the server sees %v of the client %v, %v", seen, own, err)
			}

			// Two connections from one port of the client's to two forwards with
			// one target: the second cannot have the port as well, and is served
			// all the same.
			from := netip.AddrPortFrom(own.Addr(), 41000)
			for i, at := range []string{c.at, strings.TrimSuffix(c.at, "80") + "81"} {
				seen, err := g.whoFrom(t, from, at)
				if err != nil || seen.Addr() != own.Addr() || (seen.Port() == from.Port()) != (i == 0) {
					t.Errorf("the server sees %v of %v at %s, %v", seen, from, at, err)
				}
			}
			// A probe sees it as well, when the way back goes and comes again.
			shell(t, g.server, strings.Replace(fixes[2].Command, "route add", "route del", 1))
			if _, _, err := g.who("tcp", c.at); err == nil {
				t.Error("an answer came back though the route is gone")
			}
			v.await("web", func(f control.Forward) bool { return f.Error != nil && f.Error.Code == "FL-208" })
			if f := v.forward("web"); strings.Contains(fmt.Sprint(f.Error.Fixes), "rule add") {
				t.Errorf("it prints what is there already: %+v", f.Error.Fixes)
			}
			shell(t, g.server, fixes[2].Command)
			v.await("web", func(f control.Forward) bool { return f.Error == nil })
		})
	}
}

// whoFrom is who with a chosen port; the connection stays until the test ends.
func (g gateway) whoFrom(t *testing.T, from netip.AddrPort, address string) (seen netip.AddrPort, err error) {
	err = g.client.Do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: patience, Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		seen, _, err = ask(c)
		return err
	})
	return seen, err
}

// await waits until a forward stands as it should.
func (v *unit) await(name string, good func(control.Forward) bool) {
	v.t.Helper()
	for deadline := time.Now().Add(2 * patience); ; {
		f := v.forward(name)
		if good(f) {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("%s stands %s with %+v", name, f.State, f.Error)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestSourceKeepIsToldWhereItCannotBe(t *testing.T) {
	g := newGateway(t)
	g.tellWho(t, "10.0.2.2:80")
	lab.Serve(t, lab.At{Host: g.here, Address: "127.0.0.1:81"}, lab.Banner("here"))
	v := spec{host: g.here}.up(t, `
beside: forward 10.0.1.1:81 to 127.0.0.1:81 source keep
other:  forward [fd01::1]:80/tcp+udp to 10.0.2.2:80 source keep
`)
	// Nothing takes answers in, until a policy rule does.
	v.await("other", func(f control.Forward) bool { return f.Error != nil && f.Error.Code == "FL-208" && f.State != "broken" })
	shell(t, g.here, "ip route add local default dev lo table 77 && ip rule add fwmark 0x77 lookup 77")
	v.await("other", func(f control.Forward) bool { return f.Error == nil })
	if f := v.forward("beside"); f.Error == nil || f.Error.Code != "FL-207" || !strings.Contains(f.Error.Text, "on this host") {
		t.Errorf("a target on this host: %+v", f.Error)
	}
	if _, _, err := g.who("tcp", "10.0.1.1:81"); err == nil {
		t.Error("a target on this host was reached with an address that cannot be kept")
	}
	for _, network := range []string{"tcp", "udp"} {
		if seen, _, err := g.who(network, "[fd01::1]:80"); err == nil {
			t.Errorf("over %s a client of the other family was let through, and the target saw %v", network, seen)
		}
	}
	v.await("other", func(f control.Forward) bool {
		return f.Error != nil && f.Error.Code == "FL-207" && f.Error.Severity == "warning" && f.State != "broken"
	})
	v.says("of the other family")
}

func TestSourcesOptionsNeedRights(t *testing.T) {
	g := newGateway(t)
	for words, code := range map[string]string{"source keep": "FL-111", "mark 7": "FL-111", "congestion nosuch": "FL-311"} {
		p := spec{host: g.here, before: []string{"nobody"}}.start(t, append([]string{"forward", "10.0.1.1:8080", "to", "10.0.2.2:80"}, strings.Fields(words)...)...)
		<-p.done
		if code0 := p.cmd.ProcessState.ExitCode(); code0 == 0 || !strings.Contains(p.stderr.tail(), code) {
			t.Errorf("%s as nobody: exit code %d, %s", words, code0, p.stderr.tail())
		}
	}
}

func TestSourceAddressesTakeTurnsAndRunOut(t *testing.T) {
	g := newGateway(t)
	g.here.Sysctl("net.ipv4.ip_local_port_range", "40000 40003")
	g.tellWho(t, "10.0.2.2:80")
	g.tellWho(t, "[fd02::2]:80")
	lab.Serve(t, lab.At{Host: g.server, Address: "10.0.2.2:90"}, func(v *lab.Visit) {
		fmt.Fprintln(v.Conn, v.Conn.RemoteAddr())
		<-v.Closing
	})
	v := spec{host: g.here}.up(t, `
two:   forward 10.0.1.1:80 to 10.0.2.2:80 source 10.0.2.1, 10.0.2.3
hold:  forward 10.0.1.1:90 to 10.0.2.2:90 source 10.0.2.1, 10.0.2.3
six:   forward 10.0.1.1:81 to [fd02::2]:80 source fd02::1
none:  forward 10.0.1.1:82 to [fd02::2]:80 source 10.0.2.1
datagrams: forward 10.0.1.1:80/udp to 10.0.2.2:80 source 10.0.2.3
`)
	count := map[string]int{}
	for range 6 {
		seen, _, err := g.who("tcp", "10.0.1.1:80")
		if err != nil {
			t.Fatal(err)
		}
		count[seen.Addr().String()]++
	}
	if count["10.0.2.1"] != 3 || count["10.0.2.3"] != 3 {
		t.Errorf("sources took turns: %v", count)
	}
	if seen, _, err := g.who("tcp", "10.0.1.1:81"); err != nil || seen.Addr().String() != "fd02::1" {
		t.Errorf("IPv6 source: %v, %v", seen, err)
	}
	if seen, _, err := g.who("udp", "10.0.1.1:80"); err != nil || seen.Addr().String() != "10.0.2.3" {
		t.Errorf("source of datagrams: %v, %v", seen, err)
	}
	if _, _, err := g.who("tcp", "10.0.1.1:82"); err == nil {
		t.Error("a source of the other family was passed over")
	}
	v.await("none", func(f control.Forward) bool { return f.Error != nil && f.Error.Code == "FL-207" })

	held := map[netip.AddrPort]bool{}
	for range 8 { // four ports of each address
		c, err := g.client.DialContext(t.Context(), "tcp", "10.0.1.1:90")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(patience))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			t.Fatalf("after %d connections: %v", len(held), err)
		}
		held[netip.MustParseAddrPort(strings.TrimSpace(line))] = true
	}
	if len(held) != 8 {
		t.Errorf("%d connections have different ends: %v", len(held), held)
	}
	c, err := g.client.DialContext(t.Context(), "tcp", "10.0.1.1:90")
	if err == nil {
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err = c.Read(make([]byte, 1)); err == nil {
			t.Error("a ninth connection found a port")
		}
	}
	v.await("hold", func(f control.Forward) bool { return f.Error != nil && f.Error.Code == "FL-206" && f.State != "broken" })
}

func TestSourcesThatAreNotThereAreTold(t *testing.T) {
	g := newGateway(t)
	g.tellWho(t, "10.0.2.2:80")
	v := spec{host: g.here}.up(t, `
none:  forward 10.0.1.1:80 to 10.0.2.2:80 source 10.9.9.9
some:  forward 10.0.1.1:81 to 10.0.2.2:80 source 10.9.9.9, 10.0.2.3
link:  forward 10.0.1.1:82 to 10.0.2.2:80 source nosuch0
wrong: forward 10.0.1.1:83 to 10.0.2.2:80 source lan0 connect 1s
right: forward 10.0.1.1:84 to 10.0.2.2:80 source wan0
`)
	for name, want := range map[string]string{"none": "FL-105", "some": "FL-105", "link": "FL-106"} {
		f := v.forward(name)
		if f.Error == nil || f.Error.Code != want || (name == "some") != (f.Error.Severity == "warning") || (name == "some") == (f.State == "broken") {
			t.Errorf("%s stands %s with %+v", name, f.State, f.Error)
		}
	}
	for range 2 {
		if seen, _, err := g.who("tcp", "10.0.1.1:81"); err != nil || seen.Addr().String() != "10.0.2.3" {
			t.Errorf("one of two sources is there, and the server sees %v, %v", seen, err)
		}
	}
	if _, _, err := g.who("tcp", "10.0.1.1:83"); err == nil {
		t.Error("the target was reached through the other interface")
	}
	if seen, _, err := g.who("tcp", "10.0.1.1:84"); err != nil || seen.Addr().String() != "10.0.2.1" {
		t.Errorf("through the interface the server sees %v, %v", seen, err)
	}
	// When the address comes, so does the forward.
	g.here.Addr("wan0", "10.9.9.9/32")
	g.server.Route("10.9.9.9/32", "10.0.2.1", "")
	v.await("none", func(f control.Forward) bool { return f.Error == nil && len(f.Bound) > 0 })
	if seen, _, err := g.who("tcp", "10.0.1.1:80"); err != nil || seen.Addr().String() != "10.9.9.9" {
		t.Errorf("with the address there the server sees %v, %v", seen, err)
	}
	v.await("some", func(f control.Forward) bool { return f.Error == nil })
}

// packets is how many packets each named counter of a host's nftables has seen.
func packets(t *testing.T, h *lab.Host) map[string]int {
	t.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name    string
				Packets int
			}
		}
	}
	if err := json.Unmarshal([]byte(shell(t, h, "nft -j list counters")), &list); err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, x := range list.Nftables {
		if x.Counter != nil {
			n[x.Counter.Name] = x.Counter.Packets
		}
	}
	return n
}

func TestMarkAndClassAreOnThePackets(t *testing.T) {
	lab.NeedTool(t, "nft")
	g := newGateway(t)
	g.tellWho(t, "10.0.2.2:80")
	g.tellWho(t, "[fd02::2]:80")
	rules := func(hook string, matches map[string]string) string {
		text := "nft -f - <<END\ntable inet t {\n"
		for name := range matches {
			text += "counter " + name + " {}\n"
		}
		text += "chain c {\ntype filter hook " + hook + " priority 0;\n"
		for name, match := range matches {
			text += match + " counter name " + name + "\n"
		}
		return text + "}\n}\nEND\n"
	}
	classes := map[string]string{}
	for _, proto := range []string{"tcp", "udp"} {
		classes[proto+"4"] = "meta l4proto " + proto + " ip dscp ef"
		classes[proto+"6"] = "meta l4proto " + proto + " ip6 dscp ef"
		classes[proto+"4other"] = "meta l4proto " + proto + " ip dscp != ef"
		classes[proto+"6other"] = "meta l4proto " + proto + " ip6 dscp != ef"
	}
	shell(t, g.client, rules("input", classes))
	shell(t, g.server, rules("input", classes))
	shell(t, g.here, rules("output", map[string]string{
		"marked": "oifname wan0 meta l4proto { tcp, udp } meta mark 0x2a", "bare": "oifname wan0 meta l4proto { tcp, udp } meta mark 0",
	}))
	v := spec{host: g.here}.up(t, `
four: forward 10.0.1.1:80/tcp+udp to 10.0.2.2:80 mark 42 dscp ef
six:  forward [fd01::1]:80/tcp+udp to [fd02::2]:80 mark 0x2a dscp 46
`)
	for _, network := range []string{"tcp", "udp"} {
		for _, at := range []string{"10.0.1.1:80", "[fd01::1]:80"} {
			if _, _, err := g.who(network, at); err != nil {
				t.Fatalf("%s %s: %v", network, at, err)
			}
		}
	}
	for _, h := range []*lab.Host{g.client, g.server} {
		n := packets(t, h)
		for _, name := range []string{"tcp4", "udp4", "tcp6", "udp6"} {
			if n[name] == 0 || n[name+"other"] != 0 {
				t.Errorf("%s: %d packets of %s have the class, %d have not", h.Name, n[name], name, n[name+"other"])
			}
		}
	}
	if n := packets(t, g.here); n["marked"] == 0 || n["bare"] != 0 {
		t.Errorf("packets with the mark and without: %v", n)
	}
	// Without the words a reload takes the class away again.
	write(t, v.conf, "four: forward 10.0.1.1:80/tcp+udp to 10.0.2.2:80\n")
	if _, err := v.client.Reload(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	before := packets(t, g.client)
	if _, _, err := g.who("udp", "10.0.1.1:80"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.who("tcp", "10.0.1.1:80"); err != nil {
		t.Fatal(err)
	}
	after := packets(t, g.client)
	if after["tcp4other"] == 0 || after["udp4other"] == 0 || after["tcp4"] != before["tcp4"] {
		t.Errorf("after a reload without dscp: before %v, after %v", before, after)
	}
}

// controls are the congestion controls of the connections at a host, by the
// peer's address.
func controls(t *testing.T, h *lab.Host) map[string]string {
	t.Helper()
	found := map[string]string{}
	var peer netip.AddrPort
	for line := range strings.Lines(shell(t, h, "ss -Hnti state established")) {
		words := strings.Fields(line)
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, " ") {
			found[peer.Addr().Unmap().String()] = words[0]
			continue
		}
		peer, _ = netip.ParseAddrPort(words[3])
	}
	return found
}

func TestLocalLegsDoWithoutPacing(t *testing.T) {
	lab.NeedTool(t, "ss")
	available, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil || !strings.Contains(string(available), "bbr") || !strings.Contains(string(available), "reno") {
		t.Skipf("needs the congestion controls bbr and reno, and the kernel has %s, %v", available, err)
	}
	g := newGateway(t)
	g.here.Sysctl("net.ipv4.tcp_congestion_control", "bbr")
	g.server.Addr("lo", "10.7.7.7/32", "fd07::7/128")
	g.here.Route("10.7.7.7/32", "10.0.2.2", "")
	g.here.Route("fd07::7/128", "fd02::2", "")
	g.tellWho(t, "10.0.2.2:80")
	g.tellWho(t, "10.0.2.2:90")
	g.tellWho(t, "10.7.7.7:80")
	g.tellWho(t, "[fd07::7]:80")
	cheap := "reno"
	if strings.Contains(string(available), "cubic") {
		cheap = "cubic"
	}
	text := func(words string) string {
		return "near: forward 10.0.1.1:80 to 10.0.2.2:80" + words + // a port of ours: goroutines dial
			"\nbeside: forward 10.0.1.1:82 to 10.0.2.2:90" + words + "\nfar: forward 10.0.1.1:81 to 10.7.7.7:80" + words +
			"\nsix: forward [fd01::1]:81 to [fd07::7]:80" + words + "\n"
	}
	v := spec{host: g.here}.up(t, text(""))
	for _, c := range []struct{ words, client, near, far, said string }{
		{"", cheap, cheap, "bbr", cheap + " on local legs (host default bbr)"},
		{" congestion off", "bbr", "bbr", "bbr", "bbr on all legs"},
		{" congestion reno", "reno", "reno", "reno", "reno on all legs"},
		{" max-conns-per-source 5 congestion auto", cheap, cheap, "bbr", cheap + " on local legs (host default bbr)"},
		{" bandwidth 1GB/s", cheap, cheap, "bbr", cheap + " on local legs (host default bbr)"}, // goroutines carry it
	} {
		write(t, v.conf, text(c.words))
		if _, err := v.client.Reload(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if said := v.forward("near").Congestion; said != c.said {
			t.Errorf("%q: status says %q, want %q", c.words, said, c.said)
		}
		for at, want := range map[string]map[string]string{
			"10.0.1.1:80":  {"10.0.1.2": c.client, "10.0.2.2": c.near},
			"10.0.1.1:82":  {"10.0.1.2": c.client, "10.0.2.2": c.near},
			"10.0.1.1:81":  {"10.0.1.2": c.client, "10.7.7.7": c.far},
			"[fd01::1]:81": {"fd01::2": c.client, "fd07::7": c.far},
		} {
			conn, err := g.client.DialContext(t.Context(), "tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := ask(conn); err != nil {
				t.Fatal(err)
			}
			got := controls(t, g.here)
			for peer, name := range want {
				if got[peer] != name {
					t.Errorf("%q at %s: the leg to %s has %q, want %q", c.words, at, peer, got[peer], name)
				}
			}
			conn.Close()
		}
	}
	// What becomes a link of ours is near from then on.
	g.here.Addr("wan0", "10.7.7.1/24")
	write(t, v.conf, text(""))
	if _, err := v.client.Reload(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		conn, err := g.client.DialContext(t.Context(), "tcp", "10.0.1.1:81")
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = ask(conn)
		got := controls(t, g.here)["10.7.7.7"]
		conn.Close()
		if err == nil && got == cheap {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a target that became near has %q, %v", got, err)
		}
	}
	// A host that does not pace is left alone.
	g.here.Sysctl("net.ipv4.tcp_congestion_control", "reno")
	write(t, v.conf, text(" connect 9s"))
	if _, err := v.client.Reload(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	v.await("near", func(f control.Forward) bool { return f.Congestion == "" })
}
