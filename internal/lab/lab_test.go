package lab

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"fairlead"
)

func TestHostsReachEachOtherThroughARouter(t *testing.T) {
	CheckLeaks(t)
	n := NewNet(t)
	client, gw, server := n.Host("client"), n.Host("gw"), n.Host("server")
	n.Wire(client, "eth0", gw, "wan")
	n.Wire(server, "eth0", gw, "lan")
	client.Addr("eth0", "203.0.113.2/24", "2001:db8:1::2/64")
	gw.Addr("wan", "203.0.113.1/24", "2001:db8:1::1/64")
	gw.Addr("lan", "192.168.1.1/24", "2001:db8:2::1/64")
	server.Addr("eth0", "192.168.1.10/24", "2001:db8:2::10/64")
	client.Route("0.0.0.0/0", "203.0.113.1", "")
	client.Route("::/0", "2001:db8:1::1", "")
	server.Route("0.0.0.0/0", "192.168.1.1", "")
	server.Route("::/0", "2001:db8:2::1", "")
	gw.Sysctl("net.ipv4.ip_forward", "1")
	gw.Sysctl("net.ipv6.conf.all.forwarding", "1")

	for _, addr := range []string{"192.168.1.10:80", "[2001:db8:2::10]:80"} {
		peer := Serve(t, At{Host: server, Address: addr}, Echo)
		x := Transfer{From: client, Network: "tcp", Address: addr, Seed: 1, Size: 1 << 20}
		if err := x.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		if v := peer.Visit(t); v.Err != nil || v.Bytes != x.Size {
			t.Errorf("%s: the server saw %d bytes and %v", addr, v.Bytes, v.Err)
		}
	}

	gw.Down("lan")
	if err := gw.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/route")
		if bytes.Contains(text, []byte("lan")) {
			return errors.New("there is still a route through an interface that is down")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func TestBridgeJoinsHosts(t *testing.T) {
	CheckLeaks(t)
	n := NewNet(t)
	hub := n.Host("switch")
	var hosts []*Host
	for i, addr := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		h := n.Host(addr)
		n.Wire(h, "eth0", hub, "port"+string(rune('1'+i)))
		h.Addr("eth0", addr+"/24")
		hosts = append(hosts, h)
	}
	hub.Bridge("br0", "port1", "port2", "port3")
	Serve(t, At{Host: hosts[2], Address: "10.0.0.3:7"}, Echo)
	for _, from := range hosts[:2] {
		x := Transfer{From: from, Network: "tcp", Address: "10.0.0.3:7", Seed: 2, Size: 100_000}
		if err := x.Run(t.Context()); err != nil {
			t.Error(err)
		}
	}
	hosts[0].RemoveLink("eth0") // and its route with it
	err := Transfer{From: hosts[0], Network: "tcp", Address: "10.0.0.3:7"}.Run(t.Context())
	if !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("without a wire: %v, want no route", err)
	}
}

func TestProgramsRunInsideTheirHost(t *testing.T) {
	CheckLeaks(t)
	NeedTool(t, "cat")
	h := NewNet(t).Host("inside")
	CheckRules(t, h)
	in, err := h.Command(t, "cat", "/proc/self/net/dev").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	h.Do(func() error { out, err = os.ReadFile("/proc/thread-self/net/dev"); return err })
	if err != nil || !slices.Equal(interfaces(in), []string{"lo"}) || !slices.Equal(interfaces(out), []string{"lo"}) {
		t.Errorf("the program sees %v, the thread %v, want lo alone (%v)", interfaces(in), interfaces(out), err)
	}
	left := h.Command(t, "cat") // waits for input that never comes; killed at the end
	if _, err := left.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
}

// interfaces are the names in /proc/net/dev.
func interfaces(dev []byte) (names []string) {
	for line := range strings.Lines(string(dev)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names
}

func TestThreadsComeBackFromAHost(t *testing.T) {
	h := NewNet(t).Host("away")
	where := func() string {
		link, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	home := where()
	var away string
	want := errors.New("as returned")
	if err := h.Do(func() error { away = where(); return want }); err != want {
		t.Errorf("Do returned %v", err)
	}
	func() {
		defer func() { recover() }()
		h.Do(func() error { panic("inside") })
	}()
	if away == home || where() != home {
		t.Errorf("home is %s, inside was %s, and now we are in %s", home, away, where())
	}
}

func TestRulesOfAHostAreItsOwn(t *testing.T) {
	NeedTool(t, "nft")
	h := NewNet(t).Host("ruled")
	before := Rules(t, h)
	if out, err := h.Command(t, "nft", "add", "table", "inet", "lab").CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	if after := Rules(t, h); before != "" || !strings.Contains(after, "table inet lab") {
		t.Errorf("before %q, after %q", before, after)
	}
}

func TestHostIsAPlace(t *testing.T) {
	ground := Ground{
		Start:   func(*testing.T) fairlead.Place { return (*Host)(nil) },
		Dials:   []string{"tcp", "udp", "unix"},
		Listens: []string{"tcp", "unix"},
	}
	TestPlace(t, ground)
}

func TestHostInANamespaceIsAPlace(t *testing.T) {
	n := NewNet(t)
	here, there := n.Host("here"), n.Host("there")
	n.Wire(here, "eth0", there, "eth0")
	here.Addr("eth0", "192.0.2.1/24")
	there.Addr("eth0", "192.0.2.2/24")
	TestPlace(t, Ground{
		Start:   func(*testing.T) fairlead.Place { return here },
		Dials:   []string{"tcp", "udp", "unix"},
		Listens: []string{"tcp", "unix"},
		Target:  there, At: netip.MustParseAddr("192.0.2.2"),
		Client: there, Entry: netip.MustParseAddr("192.0.2.1"),
	})
}

// The suite's stage can be a network instead of loopback.
func TestReferencePassesBetweenNamespaces(t *testing.T) {
	n := NewNet(t)
	client, here, target := n.Host("client"), n.Host("here"), n.Host("target")
	n.Wire(client, "eth0", here, "wan")
	n.Wire(target, "eth0", here, "lan")
	client.Addr("eth0", "203.0.113.11/24", "203.0.113.12/24", "203.0.113.13/24")
	here.Addr("wan", "203.0.113.1/24", "203.0.113.2/24", "203.0.113.3/24")
	here.Addr("lan", "192.168.1.1/24")
	target.Addr("eth0", "192.168.1.10/24")
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	s := Carrier(func(*testing.T) fairlead.Carrier {
		r := newReference(sound)
		r.host = here
		return r
	})
	s.Stage = Stage{
		Client: client, Clients: addrs("203.0.113.11", "203.0.113.12", "203.0.113.13"),
		Entry: here, Entries: addrs("203.0.113.1", "203.0.113.2", "203.0.113.3"),
		Target: target, At: netip.MustParseAddr("192.168.1.10"),
	}
	s.Lacks = map[string]string{"transfers": "the same on loopback"}
	TestCarrier(t, s)
}

func TestStreamsDifferByPositionAndSeed(t *testing.T) {
	const n = 3 << 20
	data := Stream(1).Bytes(n)
	scratch := make([]byte, n)
	for _, off := range []int64{0, 1, 15, 1023, 1024, 1025, 70_001} {
		if err := Stream(1).Check(data[off:off+5000], off, scratch); err != nil {
			t.Errorf("at %d: %v", off, err)
		}
		for _, shift := range []int64{1, -1, 1024, 4096, 65536, 1 << 20} {
			if off+shift >= 0 && Stream(1).Check(data[off:off+64], off+shift, scratch) == nil {
				t.Errorf("the bytes at %d are also those at %d", off, off+shift)
			}
		}
		if Stream(2).Check(data[off:off+64], off, scratch) == nil {
			t.Errorf("two streams agree at %d", off)
		}
	}
	data[2_000_000] ^= 0x10
	if err := Stream(1).Check(data, 0, scratch); err == nil || !strings.Contains(err.Error(), "byte 2000000 differs") {
		t.Errorf("a flipped byte is found as: %v", err)
	}
}

func TestTransferWantsACleanEnd(t *testing.T) {
	for name, do := range map[string]Behaviour{
		"closes early":  func(v *Visit) { io.CopyN(v.Conn, readerOnly{v.Conn}, 1000) },
		"adds a byte":   func(v *Visit) { Echo(v); v.Conn.Write([]byte{0}) },
		"resets":        Reset(1, 0, 100_000),
		"sends nothing": Sink,
	} {
		peer := Serve(t, At{}, do)
		x := Transfer{Network: "tcp", Address: peer.Address, Seed: 1, Size: 300_000}
		if err := x.Run(t.Context()); err == nil {
			t.Errorf("a peer that %s passes", name)
		}
	}
}

func TestCasesHaveNamesOfTheirOwn(t *testing.T) {
	var names []string
	for _, c := range carrierCases {
		if slices.Contains(names, c.name) {
			t.Errorf("two cases are called %s", c.name)
		}
		names = append(names, c.name)
	}
	for _, f := range faults {
		if !slices.Contains(names, f.asked) {
			t.Errorf("no case is called %s", f.asked)
		}
	}
}
