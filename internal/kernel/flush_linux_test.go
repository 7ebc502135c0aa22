package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/conntrack"
)

// udpIDs are the entries of UDP whose clients asked that port.
func (tn *legTown) udpIDs(port uint16) (ids []uint32) {
	for _, e := range tn.tracked(protoUDP) {
		if e.Original.Dst.Port() == port {
			ids = append(ids, e.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// hears fails the test unless the very next datagram is answered by who.
func hears(t *testing.T, c *net.UDPConn, who string) {
	t.Helper()
	if got := askUDP(c); got != who {
		t.Errorf("%s asked %s and heard %q, want %q", c.LocalAddr(), c.RemoteAddr(), got, who)
	}
}

func TestUDPIsLedOnAsItsForwardSaysNow(t *testing.T) {
	for _, v := range []struct{ name, wan, inside, beside string }{
		{"IPv4", lab.WAN4, lab.Inside4, lab.Beside4},
		{"IPv6", lab.WAN6, lab.Inside6, lab.Beside6},
	} {
		t.Run(v.name, func(t *testing.T) {
			tn := newLegTown(t)
			for _, h := range []struct {
				host *lab.Host
				addr string
			}{{tn.Inside, v.inside}, {tn.Beside, v.beside}} {
				for _, port := range []int{5000, 5001, 5002} {
					tn.answering(h.host, h.addr, port, h.host.Name)
				}
			}
			to := func(addr string) string { return " to " + bracketed(addr) }
			at := func(port string) string { return "nat " + bracketed(v.wan) + ":" + port + "/udp" }
			client := tn.asking(tn.Outside, net.JoinHostPort(v.wan, "5000"))
			neighbour := tn.asking(tn.Outside, net.JoinHostPort(v.wan, "5001"))
			other := []string{"other", at("5001") + to(v.inside)}

			tn.apply(other...)
			hears(t, neighbour, "inside")
			hears(t, client, "") // there is no forward, and the kernel remembers that
			ids := tn.udpIDs(5001)

			tn.apply(append(other, "web", at("5000")+to(v.inside))...)
			hears(t, client, "inside")
			tn.apply(append(other, "web", at("5000")+to(v.beside))...)
			hears(t, client, "beside")
			tn.apply(append(other, "web", at("5000")+to(v.beside)+":5002")...)
			hears(t, client, "beside")
			if list := tn.k.Conns(); len(list) != 2 || !slices.ContainsFunc(list, func(c fairlead.Conn) bool {
				return c.Forward == "web" && strings.HasSuffix(c.Target, ":5002")
			}) {
				t.Errorf("listed are %+v", list)
			}
			tn.apply(append(other, "renamed", at("5000")+to(v.inside))...)
			hears(t, client, "inside")
			tn.apply(append(other, "renamed", at("5000-5000")+to(v.inside))...)
			was := tn.udpIDs(5000)
			tn.apply(append(other, "renamed", at("5000-5000")+to(v.inside))...)
			if now := tn.udpIDs(5000); !slices.Equal(now, was) {
				t.Errorf("an Apply that changed nothing forgot connections: %v became %v", was, now)
			}
			tn.apply(other...)
			if now := tn.udpIDs(5000); len(now) != 0 {
				t.Errorf("of a forward that was removed %v are remembered", now)
			}
			hears(t, client, "")
			hears(t, neighbour, "inside")
			if now := tn.udpIDs(5001); !slices.Equal(now, ids) {
				t.Errorf("the other forward's connection was forgotten: %v became %v", ids, now)
			}
		})
	}
}

// A target that sends on its own accord, as games and VPNs do, must not pin its
// client to it after the forward has moved; nor may what it has under way when
// the connection is forgotten become one of its own.
func TestUDPOfATargetThatKeepsSendingIsLedOn(t *testing.T) {
	tn := newLegTown(t)
	old := tn.answering(tn.Inside, lab.Inside4, 5000, "inside")
	tn.answering(tn.Beside, lab.Beside4, 5000, "beside")
	sentence := "nat wan:5000/udp to "
	tn.apply("game", sentence+lab.Inside4)
	client := tn.asking(tn.Outside, lab.WAN4+":5000")
	hears(t, client, "inside")

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	to := netip.MustParseAddrPort(client.LocalAddr().String())
	wg.Go(func() { send(ctx, old, to) })

	for range 5 {
		// The target stays, and something else of the forward changes.
		tn.apply("game", sentence+lab.Inside4+" masquerade")
		tn.apply("game", sentence+lab.Inside4)
		drain(client)
		hears(t, client, "inside")
		checkNoOther(t, tn, "192.168.1.10")

		tn.apply("game", sentence+lab.Beside4)
		drain(client)
		hears(t, client, "beside")
		checkNoOther(t, tn, "192.168.1.20")
		tn.apply("game", sentence+lab.Inside4)
		drain(client)
		hears(t, client, "inside")
	}
}

// send sends datagrams as fast as a game does.
func send(ctx context.Context, c *net.UDPConn, to netip.AddrPort) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.WriteToUDPAddrPort([]byte("inside"), to)
		<-tick.C
	}
}

// drain reads what has come already.
func drain(c *net.UDPConn) {
	b := make([]byte, 100)
	for {
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// checkNoOther fails the test when a connection of the client's port leads
// elsewhere than to the target, or was begun by a target.
func checkNoOther(t *testing.T, tn *legTown, target string) {
	t.Helper()
	for _, e := range tn.tracked(protoUDP) {
		if e.Original.Src.Addr().String() != lab.Outside4 || e.Reply.Src.Addr().String() != target || e.Status&conntrack.DNAT == 0 {
			t.Errorf("tracked is %v to %v, answered by %v to %v", e.Original.Src, e.Original.Dst, e.Reply.Src, e.Reply.Dst)
		}
	}
}

func TestUDPThatPassedWhileTheTableWasGoneIsLedOn(t *testing.T) {
	tn := newLegTown(t)
	tn.k.cfg.Watch = nil
	tn.answering(tn.Inside, lab.Inside4, 5000, "inside")
	tn.apply("game", "nat wan:5000/udp to "+lab.Inside4)
	client := tn.asking(tn.Outside, lab.WAN4+":5000")
	hears(t, client, "inside")
	// Connection tracking stays, as it does where there are other firewalls.
	nftLoad(t, tn.Gateway.Gateway, "table inet others { chain c { type filter hook prerouting priority 0; ct state new; }; chain n { type nat hook prerouting priority 0; }; }")
	repairs := tn.k.Repairs()
	late := tn.asking(tn.Outside, lab.WAN4+":5000")
	tn.k.mu.Lock() // nothing is repaired for now
	nftLoad(t, tn.Gateway.Gateway, "delete table inet fairlead")
	hears(t, late, "")
	ids := tn.udpIDs(5000)
	tn.k.mu.Unlock()
	until(t, "the table is repaired", func() bool { return tn.k.Repairs() > repairs })
	hears(t, late, "inside")
	hears(t, client, "inside")
	if now := tn.udpIDs(5000); len(ids) != 2 || len(now) != 2 || !slices.ContainsFunc(now, func(id uint32) bool { return slices.Contains(ids, id) }) {
		t.Errorf("connections %v became %v; the one that was led on all the time is to stay", ids, now)
	}
}

func TestARestartForgetsNoConnections(t *testing.T) {
	tn := newLegTown(t)
	tn.answering(tn.Inside, lab.Inside4, 5000, "inside")
	tn.answering(tn.Beside, lab.Beside4, 5000, "beside")
	sentence := "nat wan:5000/udp to "
	tn.apply("game", sentence+lab.Inside4)
	client := tn.asking(tn.Outside, lab.WAN4+":5000")
	hears(t, client, "inside")
	ids := tn.udpIDs(5000)
	for _, end := range []func(){func() {}, func() {
		if err := tn.k.Leave(); err != nil {
			t.Fatal(err)
		}
	}} {
		end()
		tn.again()
		tn.apply("game", sentence+lab.Inside4)
		if now := tn.udpIDs(5000); !slices.Equal(now, ids) {
			t.Errorf("connections %v became %v", ids, now)
		}
		hears(t, client, "inside")
	}
	tn.again()
	tn.apply("game", sentence+lab.Beside4)
	hears(t, client, "beside")
}

// again makes another carrier of the same table, as a service does that was
// started anew.
func (tn *legTown) again() {
	cfg := tn.k.cfg
	tn.k.Close()
	tn.k = New(cfg)
	tn.t.Cleanup(tn.k.Close)
}

func TestOnlyWhatChangedOfUDPIsForgotten(t *testing.T) {
	addr := netip.MustParseAddr
	forward := func(name string, change func(*fairlead.Forward)) *fairlead.Forward {
		f := &fairlead.Forward{Name: name, Kind: fairlead.KindNAT}
		if change != nil {
			change(f)
		}
		return f
	}
	at := func(proto uint8, a string, first, last uint16) entry {
		e := entry{proto: proto, ports: fairlead.Ports{First: first, Last: last}}
		if a != "" {
			e.at = addr(a)
		}
		return e
	}
	to := []netip.AddrPort{netip.MustParseAddrPort("192.168.1.10:53")}
	elsewhere := []netip.AddrPort{netip.MustParseAddrPort("192.168.1.11:53")}
	dns := part{f: forward("dns", nil), targets: to, entries: []entry{at(protoUDP, "203.0.113.1", 53, 53), at(protoTCP, "203.0.113.1", 53, 53)}}
	moved := dns
	moved.targets = elsewhere
	said := dns
	said.f = forward("dns", func(f *fairlead.Forward) { f.Policy.Masquerade = true })
	written := dns
	written.f = forward("dns", func(f *fairlead.Forward) { f.Expr, f.Expires = "another way to say it", time.Now() })
	readdressed := dns
	readdressed.entries = []entry{at(protoUDP, "203.0.113.2", 53, 53), at(protoUDP, "203.0.113.1", 53, 53)}
	tcp := part{f: forward("web", nil), targets: to, entries: []entry{at(protoTCP, "", 80, 80)}}
	everywhere := part{f: forward("game", nil), targets: to, entries: []entry{at(protoUDP, "", 1000, 1999)}}
	for _, c := range []struct {
		name     string
		old, now []part
		want     []string
	}{
		{"nothing", []part{dns, tcp}, []part{dns, tcp}, nil},
		{"the order", []part{dns, tcp}, []part{tcp, dns}, nil},
		{"how it is written", []part{dns}, []part{written}, nil},
		{"TCP added", []part{dns}, []part{dns, tcp}, nil},
		{"added", []part{tcp}, []part{tcp, dns}, []string{"203.0.113.1 53-53"}},
		{"removed", []part{tcp, dns}, []part{tcp}, []string{"203.0.113.1 53-53"}},
		{"the target", []part{dns, everywhere}, []part{moved, everywhere}, []string{"203.0.113.1 53-53", "203.0.113.1 53-53"}},
		{"a word", []part{dns}, []part{said}, []string{"203.0.113.1 53-53", "203.0.113.1 53-53"}},
		{"an address", []part{dns}, []part{readdressed}, []string{"203.0.113.2 53-53"}},
		{"every address", nil, []part{everywhere}, []string{"invalid IP 1000-1999"}},
	} {
		var got []string
		for _, s := range changedUDP(&plan{parts: c.old}, &plan{parts: c.now}) {
			got = append(got, fmt.Sprintf("%v %d-%d", s.gate.at, s.ports.First, s.ports.Last))
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: forgotten is %q, want %q", c.name, got, c.want)
		}
	}
}
