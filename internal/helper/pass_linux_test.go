package helper

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fairlead"
)

func TestBroadcastsArriveAndAnswersComeBack(t *testing.T) {
	g := newTown(t)
	g.addressed()
	d := newDesk(t, g.server, server4+":5000", true)
	st := g.carry(g.h, "helper lan:5000/udp to "+server4)[0]
	want := []string{"lan0:192.168.1.255:5000/udp", "lan0:255.255.255.255:5000/udp", "lan1:192.168.2.255:5000/udp", "lan1:255.255.255.255:5000/udp"}
	if !slices.Equal(st.Bound, want) || st.State != fairlead.Listening {
		t.Errorf("%s, bound %q, want %q", st.State, st.Bound, want)
	}
	for _, to := range []string{"255.255.255.255:5000", "192.168.1.255:5000"} {
		c := shout(t, g.left, left4+":0", to, "hello "+to)
		got, from := hear(t, c)
		if got != strings.ToUpper("hello "+to) || from.String() != lan0+":5000" {
			t.Errorf("%q from %s", got, from)
		}
		// It goes on with whom answered.
		c.WriteToUDPAddrPort([]byte("more"), from)
		if got, _ := hear(t, c); got != "MORE" {
			t.Errorf("then %q", got)
		}
	}
	for _, s := range d.list() {
		if !strings.Contains(s, " from "+up0+":") {
			t.Errorf("the server heard %q, want this host's address", s)
		}
	}
	if st := g.h.Report()[0]; st.State != fairlead.Passing || !st.Targets[0].Up || st.Meter.Flows.Load() != 2 || len(g.h.Conns()) != 2 {
		t.Errorf("%s, %+v, %d sessions, conns %+v", st.State, st.Targets, st.Meter.Flows.Load(), g.h.Conns())
	}
	if n := g.h.Kill(fairlead.Match{Client: netip.MustParseAddr(left4)}); n != 2 || len(g.h.Conns()) != 0 {
		t.Errorf("%d killed, %+v left", n, g.h.Conns())
	}
}

func TestSourceKeepKeepsTheSendersAddress(t *testing.T) {
	g := newTown(t)
	g.addressed()
	d := newDesk(t, g.server, server4+":5001", true)
	g.carry(g.h, "helper lan:5000/udp to "+server4+":5001 source keep")
	c := shout(t, g.right, right4+":4000", "255.255.255.255:5000", "hello")
	if got, from := hear(t, c); got != "HELLO" || from.String() != server4+":5001" {
		t.Errorf("%q from %s", got, from)
	}
	if got := d.list(); !slices.Equal(got, []string{"hello from " + right4 + ":4000"}) {
		t.Errorf("the server heard %q", got)
	}
}

func TestAGroupIsPassedOn(t *testing.T) {
	g := newTown(t)
	g.addressed()
	newDesk(t, g.server, server4+":5000", true)
	g.carry(g.h, "helper lan0:239.1.2.3:5000/udp to "+server4)
	c := shout(t, g.left, left4+":0", "239.1.2.3:5000", "hello") // with a hop limit of 1
	if got, _ := hear(t, c); got != "HELLO" {
		t.Errorf("%q", got)
	}
}

func TestClientsAreLedByTheirAddressOrDenied(t *testing.T) {
	g := newTown(t)
	g.addressed()
	d, other := newDesk(t, g.server, server4+":5000", true), newDesk(t, g.server, server4+":5001", true)
	g.carry(g.h, "helper lan:5000/udp to "+server4+" from 192.168.1.0/24, "+server4+":5001 deny 192.168.2.10")
	hear(t, shout(t, g.left, left4+":0", "255.255.255.255:5000", "left"))
	shout(t, g.right, right4+":0", "255.255.255.255:5000", "right")
	eventually(t, "the denied one is counted", func() bool { return g.h.Report()[0].Meter.Refused.Load() == 1 })
	if len(d.list()) != 1 || len(other.list()) != 0 {
		t.Errorf("%q, %q", d.list(), other.list())
	}
}

// Two helpers have each other's networks as their targets. What comes round is
// dropped by its hop limit where the sender's address is kept, and as our own
// where it is not.
func TestHelpersThatFaceEachOtherDoNotLoop(t *testing.T) {
	for _, mode := range []string{"source keep", ""} {
		t.Run(mode, func(t *testing.T) {
			g := newTown(t)
			g.addressed()
			// Another helper joins the same two networks.
			other := g.net.Host("other")
			g.net.Wire(g.left, "eth1", other, "lan0")
			g.net.Wire(g.right, "eth1", other, "lan1")
			g.left.DropAddr("eth0", left4+"/24")
			g.right.DropAddr("eth0", right4+"/24")
			g.left.Bridge("br0", "eth0", "eth1")
			g.right.Bridge("br0", "eth0", "eth1")
			g.left.Addr("br0", left4+"/24")
			g.right.Addr("br0", right4+"/24")
			other.Addr("lan0", "192.168.1.2/24")
			other.Addr("lan1", "192.168.2.2/24")
			heard := newDesk(t, g.right, ":5000", false)
			h := g.helper(other)
			g.carry(g.h, "helper lan0:5000/udp to 192.168.2.255 "+mode, "helper lan1:5000/udp to 192.168.1.255 "+mode)
			g.carry(h, "helper lan0:5000/udp to 192.168.2.255 "+mode, "helper lan1:5000/udp to 192.168.1.255 "+mode)
			shout(t, g.left, left4+":4000", "192.168.1.255:5000", "round and round")
			eventually(t, "both pass it on", func() bool { return len(heard.list()) >= 2 })
			passed := func() (n int64) {
				for _, h := range []*Helper{g.h, h} {
					for _, st := range h.Report() {
						n += st.Meter.In.Load()
					}
				}
				return n
			}
			// It is over when a later one has passed, and nothing of the first
			// follows.
			eventually(t, "the loop is told", func() bool { return g.told(fairlead.CodeGoesRound) })
			shout(t, g.left, left4+":4001", "192.168.1.255:5000", "last")
			eventually(t, "the last arrives", func() bool {
				return slices.ContainsFunc(heard.list(), func(s string) bool { return strings.HasPrefix(s, "last") })
			})
			if n := passed(); n > 20*int64(len("round and round")) {
				t.Errorf("%d bytes were passed on", n)
			}
			t.Logf("the others heard %d, %d bytes were passed on", len(heard.list()), passed())
		})
	}
}

func TestAFloodIsBounded(t *testing.T) {
	g := newTown(t)
	g.addressed()
	d := newDesk(t, g.server, server4+":5000", false)
	g.carry(g.h, "helper lan0:5000/udp to "+server4)
	c, err := g.left.ListenPacket(t.Context(), "udp4", left4+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 2000 {
		c.WriteToUDPAddrPort([]byte{byte(i), byte(i >> 8)}, netip.MustParseAddrPort("255.255.255.255:5000"))
	}
	eventually(t, "it is told", func() bool { return g.told(fairlead.CodeFlood) })
	eventually(t, "the rest arrives", func() bool { return len(d.list()) >= perSenderBurst/2 })
	if n := g.h.Report()[0].Meter.Dropped.Load(); n == 0 {
		t.Error("nothing was dropped")
	}
}

func TestSessionsAreBoundedAndEndWhenSilent(t *testing.T) {
	g := newTown(t)
	g.addressed()
	d := newDesk(t, g.server, server4+":5000", false)
	g.carry(g.h, "helper lan0:5000/udp to "+server4+" idle 1s")
	for i := range maxSessionsPerClient + 5 {
		shout(t, g.left, left4+":0", "255.255.255.255:5000", strconv.Itoa(i))
	}
	eventually(t, "what is too much is refused", func() bool { return g.h.Report()[0].Meter.Refused.Load() == 5 })
	eventually(t, "the others arrive", func() bool { return len(d.list()) == maxSessionsPerClient })
	eventually(t, "they end", func() bool { return len(g.h.Conns()) == 0 && g.h.Report()[0].Meter.Active.Load() == 0 })
	g.mu.Lock()
	defer g.mu.Unlock()
	ended := 0
	for _, e := range g.events {
		if e.Kind == fairlead.EventClose && e.Reason == fairlead.IdleTimeout {
			ended++
		}
	}
	if ended != maxSessionsPerClient {
		t.Errorf("%d ends were told", ended)
	}
}
