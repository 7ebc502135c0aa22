package kernel

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
)

// An arm is the textbook's network: a client, this host and the service are
// neighbours, and the client asks for an address that is none of theirs.
type arm struct {
	client, middle, service *lab.Host
	k                       *Kernel
	kicked                  chan struct{}
}

const (
	armClient, armMiddle, armAsked, armService     = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"
	armClient6, armMiddle6, armAsked6, armService6 = "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"
)

func newArm(t *testing.T) *arm {
	t.Helper()
	n := lab.NewNet(t)
	hub := n.Host("switch")
	a := &arm{client: n.Host("client"), middle: n.Host("middle"), service: n.Host("service"), kicked: make(chan struct{}, 1)}
	for i, h := range []*lab.Host{a.client, a.middle, a.service} {
		n.Wire(h, "eth0", hub, fmt.Sprint("port", i))
	}
	hub.Bridge("br0", "port0", "port1", "port2")
	a.client.Addr("eth0", armClient+"/24", armClient6+"/64")
	a.middle.Addr("eth0", armMiddle+"/24", armMiddle6+"/64")
	a.service.Addr("eth0", armService+"/24", armService6+"/64")
	a.middle.Sysctl("net.ipv4.ip_forward", "1")
	a.middle.Sysctl("net.ipv6.conf.all.forwarding", "1")
	a.middle.Sysctl("net.ipv6.conf.eth0.accept_dad", "1")
	a.k = New(Config{Table: "fairlead", In: a.middle.Do, Kick: func() {
		select {
		case a.kicked <- struct{}{}:
		default:
		}
	}})
	t.Cleanup(a.k.Close)
	return a
}

// carry applies the sentences until none of them is being set up any more.
func (a *arm) carry(t *testing.T, sentences ...string) []fairlead.Status {
	t.Helper()
	want := make([]*fairlead.Forward, len(sentences))
	for i, s := range sentences {
		want[i] = wish(t, fmt.Sprint("f", i), s)
	}
	for {
		list := a.k.Apply(t.Context(), want)
		waits := false
		for _, st := range list {
			waits = waits || st.Problem != nil && st.Problem.Code == fairlead.CodeBeingSetUp
		}
		if !waits {
			return list
		}
		select {
		case <-a.kicked:
		case <-time.After(20 * time.Second):
			t.Fatal("it is being set up for ever")
		}
	}
}

// answers has the service say who asked it, by TCP.
func (a *arm) answers(t *testing.T, h *lab.Host, at, says string) {
	t.Helper()
	ln, err := h.Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s\n", says, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// ask returns what is answered there.
func (a *arm) ask(t *testing.T, at string) string {
	t.Helper()
	c, err := a.client.DialContext(t.Context(), "tcp", at)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if got := c.RemoteAddr().String(); got != at {
		t.Errorf("the client believes that it talks with %s", got)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil && err != io.EOF {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

func TestAnAddressIsClaimedAndLedToAnotherNeighbour(t *testing.T) {
	a := newArm(t)
	a.answers(t, a.service, armService+":8080", "the service to")
	a.answers(t, a.service, "["+armService6+"]:8080", "the service to")
	list := a.carry(t, "nat "+armAsked+":80 to "+armService+":8080 claim", "nat ["+armAsked6+"]:80 to ["+armService6+"]:8080 claim")
	for _, st := range list {
		if st.Problem != nil {
			t.Fatalf("%s: %v", st.Forward.Expr, st.Problem)
		}
	}
	if got := a.ask(t, armAsked+":80"); got != "the service to "+armMiddle {
		t.Errorf("by IPv4 the client got %q", got)
	}
	if got := a.ask(t, "["+armAsked6+"]:80"); got != "the service to "+armMiddle6 {
		t.Errorf("by IPv6 the client got %q", got)
	}
	if got := a.ask(t, armAsked+":81"); !strings.Contains(got, "refused") {
		t.Errorf("at another port of the address the client got %q", got)
	}
	a.carry(t)
	out, err := a.middle.Command(t, "ip", "address").Output()
	if err != nil || strings.Contains(string(out), armAsked+"/") || strings.Contains(string(out), armAsked6+"/") {
		t.Errorf("the addresses were not given back: %v\n%s", err, out)
	}
}

// The rule that holds back redirects depends on whose the address is, and so
// does what a status says of it.
func TestARepairKnowsWhichAddressesAreClaimed(t *testing.T) {
	a := newArm(t)
	a.carry(t, "nat "+armAsked+":80 to "+armService+":8080 claim")
	table := func() string {
		out, err := a.middle.Command(t, "nft", "list", "table", "inet", "fairlead").Output()
		if err != nil {
			t.Fatalf("nft list: %v", err)
		}
		return stripped(string(out))
	}
	before := table()
	if out, err := a.middle.Command(t, "nft", "delete table inet fairlead").CombinedOutput(); err != nil {
		t.Fatalf("nft delete: %v\n%s", err, out)
	}
	until(t, "the table is repaired", func() bool { return a.k.Repairs() == 1 })
	if after := table(); after != before {
		t.Errorf("the table is another one:\n%s\nbefore:\n%s", after, before)
	}
	if p := a.k.Report()[0].Problem; p != nil {
		t.Errorf("after the repair: %v", p)
	}
}

func TestAnAddressThatANeighbourHasIsNotClaimed(t *testing.T) {
	a := newArm(t)
	a.client.Addr("eth0", armAsked+"/24")
	list := a.carry(t, "nat "+armAsked+":80 to "+armService+":8080 claim")
	if p := list[0].Problem; p == nil || p.Code != fairlead.CodeClaim || !strings.Contains(p.What, "has the address "+armAsked) {
		t.Errorf("got %v", p)
	}
}

// The address belongs to another host, the client has a route to it by way of
// us, and asks that host for another port as well: the kernel would tell the
// client to go there directly, for our port, too.
func TestAClientThatIsRoutedHereStaysHere(t *testing.T) {
	for _, v := range []struct{ asked, middle, service string }{{armAsked, armMiddle, armService}, {armAsked6, armMiddle6, armService6}} {
		t.Run(v.asked, func(t *testing.T) {
			a := newArm(t)
			at := func(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
			bits := "/24"
			if strings.Contains(v.asked, ":") {
				bits = "/64"
			}
			a.service.Addr("eth0", v.asked+bits) // the owner of the address, on the same machine
			own := netip.MustParseAddr(v.asked)
			a.client.Route(netip.PrefixFrom(own, own.BitLen()).String(), v.middle, "eth0")
			a.middle.Sysctl("net.ipv4.conf.all.send_redirects", "1")
			a.middle.Sysctl("net.ipv4.conf.eth0.send_redirects", "1")
			a.client.Sysctl("net.ipv4.conf.all.accept_redirects", "1")
			a.client.Sysctl("net.ipv4.conf.eth0.accept_redirects", "1")
			a.answers(t, a.service, at(v.service, 8080), "the service to")
			a.answers(t, a.service, at(v.asked, 80), "the owner to")
			a.answers(t, a.service, at(v.asked, 8080), "the owner to")

			list := a.carry(t, "nat "+at(v.asked, 80)+" to "+at(v.service, 8080))
			if list[0].Problem != nil {
				t.Fatal(list[0].Problem)
			}
			for range 3 {
				if got := a.ask(t, at(v.asked, 8080)); !strings.HasPrefix(got, "the owner to ") {
					t.Fatalf("at the owner's other port the client got %q", got)
				}
				if got := a.ask(t, at(v.asked, 80)); got != "the service to "+v.middle {
					t.Fatalf("the client got %q", got)
				}
			}
		})
	}
}
