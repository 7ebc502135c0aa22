package helper

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/wire/dhcp"
)

// dnsmasq serves leases on a host, and returns its log.
func dnsmasq(t *testing.T, on *lab.Host, args ...string) func() string {
	t.Helper()
	log := &output{}
	dir := t.TempDir()
	cmd := on.Command(t, lab.NeedTool(t, "dnsmasq"), append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--log-facility=-",
		"--log-dhcp", "--no-ping", "--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file="}, args...)...)
	cmd.Stderr, cmd.Stdout = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "dnsmasq serves", func() bool { return strings.Contains(log.String(), "started") })
	return log.String
}

// An output is what a program says, to be read while it runs.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// udhcpc asks for a lease on a host, and returns the address once it has one.
func udhcpc(t *testing.T, on *lab.Host, args ...string) func() (string, error) {
	t.Helper()
	program := lab.NeedTool(t, "udhcpc")
	script := filepath.Join(t.TempDir(), "script")
	// The words of udhcpc's own interface to scripts.
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && echo \"got $ip router $router server $serverid\"\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := on.Command(t, program, append([]string{"-i", "eth0", "-f", "-q", "-n", "-t", "10", "-T", "1", "-s", script}, args...)...)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (string, error) {
		err := cmd.Wait()
		for line := range strings.Lines(out.String()) {
			if s, ok := strings.CutPrefix(line, "got "); ok {
				return strings.TrimSpace(s), nil
			}
		}
		return "", fmt.Errorf("no lease: %v\n%s", err, out)
	}
}

// Two clients on two interfaces get leases of a server in a third network, by
// broadcast and by unicast, and the server hears on which interface each is.
func TestUdhcpcGetsItsLeaseFromAnotherSubnet(t *testing.T) {
	g := newTown(t)
	log := dnsmasq(t, g.server, "--dhcp-range=set:l,192.168.1.100,192.168.1.150,255.255.255.0", "--dhcp-range=set:r,192.168.2.100,192.168.2.150,255.255.255.0",
		"--dhcp-circuitid=set:left,lan0", "--dhcp-circuitid=set:right,lan1",
		"--dhcp-option=tag:l,3,"+lan0, "--dhcp-option=tag:r,3,"+lan1)
	g.carry(g.h, "helper lan:67/udp to "+server4+", 10.9.0.99 option-82")
	left, right := udhcpc(t, g.left), udhcpc(t, g.right, "-B")
	for _, c := range []struct {
		lease func() (string, error)
		want  string
	}{{left, `^192\.168\.1\.1\d\d router 192\.168\.1\.1 `}, {right, `^192\.168\.2\.1\d\d router 192\.168\.2\.1 `}} {
		if got, err := c.lease(); err != nil || !regexp.MustCompile(c.want).MatchString(got) {
			t.Errorf("%q, want %s, %v", got, c.want, err)
		}
	}
	// dnsmasq gives these tags to whose option 82 names the circuit.
	for _, tags := range []string{"tags: l, left", "tags: r, right"} {
		if !strings.Contains(log(), tags) {
			t.Errorf("the server did not see %q:\n%s", tags, log())
		}
	}
	st := g.h.Report()[0]
	if st.State != fairlead.Passing || !st.Targets[0].Up || st.Targets[1].Up || st.Meter.Flows.Load() < 4 || st.Meter.Out.Load() == 0 {
		t.Errorf("%s, %+v", st.State, st.Targets)
	}
}

func TestWithoutOption82NoneIsSent(t *testing.T) {
	g := newTown(t)
	log := dnsmasq(t, g.server, "--dhcp-range=192.168.1.100,192.168.1.150,255.255.255.0", "--dhcp-circuitid=set:left,lan0")
	g.carry(g.h, "helper lan0:67/udp to "+server4)
	if got, err := udhcpc(t, g.left)(); err != nil || !strings.HasPrefix(got, "192.168.1.1") {
		t.Errorf("%q, %v", got, err)
	}
	if strings.Contains(log(), ", left") {
		t.Errorf("the server saw an option 82:\n%s", log())
	}
}

func TestARelayForgetsNothingWhenItsInterfaceComesBack(t *testing.T) {
	g := newTown(t)
	dnsmasq(t, g.server, "--dhcp-range=192.168.1.100,192.168.1.150,255.255.255.0")
	f := []*fairlead.Forward{wish(t, "d", "helper lan0:67/udp to "+server4)}
	if st := g.h.Apply(t.Context(), f)[0]; st.Problem != nil {
		t.Fatal(st.Problem)
	}
	g.between.RemoveLink("lan0")
	if st := g.h.Apply(t.Context(), f)[0]; st.State != fairlead.Broken || st.Problem.Code != fairlead.CodeNoInterface {
		t.Errorf("without the interface: %s, %v", st.State, st.Problem)
	}
	g.net.Wire(g.between, "lan0", g.left, "eth0")
	if st := g.h.Apply(t.Context(), f)[0]; st.State != fairlead.Broken || st.Problem.Code != fairlead.CodeNoRelayAddress {
		t.Errorf("without an address: %s, %v", st.State, st.Problem)
	}
	g.between.Addr("lan0", lan0+"/24")
	if st := g.h.Apply(t.Context(), f)[0]; st.Problem != nil {
		t.Errorf("with both: %s, %v", st.State, st.Problem)
	}
	if got, err := udhcpc(t, g.left)(); err != nil || !strings.HasPrefix(got, "192.168.1.1") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAServerThatWasNotAskedIsNotBelieved(t *testing.T) {
	g := newTown(t)
	g.addressed()
	g.carry(g.h, "helper lan0:67/udp to "+server4)
	reply := make([]byte, 300)
	reply[0], reply[1], reply[2] = dhcp.Reply, 1, 6
	copy(reply[24:], []byte{192, 168, 1, 1})
	shout(t, g.right, right4+":67", lan0+":67", string(reply))
	eventually(t, "it is told", func() bool { return g.told(fairlead.CodeNotAsked) })
	if st := g.h.Report()[0]; st.Meter.Out.Load() != 0 || st.State != fairlead.Listening {
		t.Errorf("%d bytes were believed", st.Meter.Out.Load())
	}
}

// A client that writes relays' words is not passed on (RFC 3046 section 2.1).
func TestRequestsAreChecked(t *testing.T) {
	p := newPost(New(Config{}), wish(t, "d", "helper lan0:67/udp to "+server4+" option-82"))
	t.Cleanup(p.h.Close)
	p.h.own.set([]netmon.Interface{{Name: "lan0", Addrs: []netip.Addr{netip.MustParseAddr(lan0)}}})
	request := func(change func(b []byte), options ...byte) dhcp.Message {
		b := make([]byte, 236, 400)
		b[0], b[1], b[2] = dhcp.Request, 1, 6
		b = append(append(b, 99, 130, 83, 99, 53, 1, 1), options...)
		b = append(b, 255)
		if change != nil {
			change(b)
		}
		m, err := dhcp.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	secs := func(b []byte) { b[8], b[9] = 1, 2 }
	gateway := netip.MustParseAddr(lan0)
	out, why := p.forward4(request(secs), "lan0", gateway)
	m, err := dhcp.Parse(out)
	if why != "" || err != nil || m.Hops() != 1 || m.Gateway() != gateway || !m.HasRelayInfo() || out[8] != 1 || out[9] != 2 {
		t.Errorf("%q, %v, %x", why, err, out)
	}
	// Of another relay: as it is, one hop further.
	other := func(b []byte) { copy(b[24:], []byte{10, 1, 1, 1}); b[3] = 4 }
	out, why = p.forward4(request(other, 82, 3, 1, 1, 'x'), "lan0", gateway)
	if m, err = dhcp.Parse(out); why != "" || err != nil || m.Hops() != 5 || m.Gateway().String() != "10.1.1.1" || !bytes.Contains(out, []byte{82, 3, 1, 1, 'x'}) {
		t.Errorf("%q, %v, %x", why, err, out)
	}
	for what, m := range map[string]dhcp.Message{
		"too many hops":      request(func(b []byte) { b[3] = 5 }),
		"a forged option 82": request(nil, 82, 3, 1, 1, 'x'),
		"a forged giaddr":    request(func(b []byte) { copy(b[24:], []byte{192, 168, 1, 1}) }),
	} {
		if _, why := p.forward4(m, "lan0", gateway); why == "" {
			t.Errorf("%s was passed on", what)
		}
	}
}

func TestDHCPv6IsRelayed(t *testing.T) {
	g := newTown(t)
	program := lab.NeedTool(t, "dhclient")
	log := dnsmasq(t, g.server, "--dhcp-range=2001:db8:1::100,2001:db8:1::1ff,64,600")
	g.carry(g.h, "helper lan:547/udp to ["+server6+"]")
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ -n \"$new_ip6_address\" ] && echo \"$reason $new_ip6_address\" >>"+dir+"/got\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the client has a link-local address", func() bool {
		var addrs []netip.Addr
		err := g.left.Do(func() (err error) { addrs, err = netmon.Addresses("eth0"); return err })
		return err == nil && slices.ContainsFunc(addrs, netip.Addr.IsLinkLocalUnicast)
	})
	cmd := g.left.Command(t, program, "-6", "-d", "-1", "-cf", "/dev/null", "-lf", dir+"/leases", "-pf", dir+"/pid", "-sf", script, "eth0")
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := func() string { b, _ := os.ReadFile(dir + "/got"); return string(b) }
	if err := poll(func() bool { return strings.Contains(got(), "BOUND6 2001:db8:1::1") }); err != nil {
		t.Fatalf("%v: %q\n%s\n%s", err, got(), out, log())
	}
	if st := g.h.Report()[0]; st.State != fairlead.Passing {
		t.Errorf("%s", st.State)
	}
}

func TestDHCPv6EnvelopesAreChecked(t *testing.T) {
	network, client := netip.MustParseAddr(lan06), netip.MustParseAddr("fe80::9")
	in := &arrival{from: netip.AddrPortFrom(client, 546), data: []byte{1, 1, 2, 3}}
	out, why := forward6(in, "lan0", network)
	r, err := dhcp.ParseRelay6(out)
	if why != "" || err != nil || r.Hops != 0 || r.Link != network || r.Peer != client || string(r.Interface) != "lan0" || !bytes.Equal(r.Message, in.data) {
		t.Errorf("%q, %v, %+v", why, err, r)
	}
	for hops, ok := range map[byte]bool{0: true, 7: true, 8: false} {
		out[1] = hops
		again, why := forward6(&arrival{from: netip.AddrPortFrom(netip.MustParseAddr("2001:db8:5::1"), 547), data: out}, "lan0", network)
		if (why == "") != ok {
			t.Errorf("%d hops: %q", hops, why)
		}
		if ok {
			if r, err := dhcp.ParseRelay6(again); err != nil || r.Hops != hops+1 || !r.Link.IsUnspecified() {
				t.Errorf("%+v, %v", r, err)
			}
		}
	}
	for _, kind := range []byte{dhcp.Advertise6, dhcp.Reply6, dhcp.Reconfigure6, dhcp.RelayReply6} {
		if _, why := forward6(&arrival{from: in.from, data: []byte{kind, 0, 0, 0}}, "lan0", network); why == "" {
			t.Errorf("type %d was passed on", kind)
		}
	}
}

func TestAPortThatBecomesFreeIsTaken(t *testing.T) {
	g := newTown(t)
	c, err := g.between.ListenPacket(t.Context(), "udp4", ":67")
	if err != nil {
		t.Fatal(err)
	}
	f := []*fairlead.Forward{wish(t, "d", "helper lan0:67/udp to "+server4)}
	if st := g.h.Apply(t.Context(), f)[0]; st.State != fairlead.Broken || st.Problem.Code != fairlead.CodeInUse {
		t.Errorf("%s, %v", st.State, st.Problem)
	}
	c.Close()
	eventually(t, "it is taken", func() bool { st := g.h.Report()[0]; return st.State == fairlead.Listening && st.Problem == nil })
}
