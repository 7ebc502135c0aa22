package relay_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// between is a forward to several targets under a policy.
func between(t *testing.T, policy string, targets ...string) *fairlead.Forward {
	t.Helper()
	f := wish(t, "web", fairlead.TCP, targets[0])
	f.To = nil
	for _, target := range targets {
		to := netip.MustParseAddrPort(target)
		f.To = append(f.To, fairlead.Target{Host: to.Addr().String(), Ports: fairlead.PortList{{First: to.Port(), Last: to.Port()}}})
	}
	f.Policy.Choose = policy
	f.Expr += " " + policy
	return f
}

// said is what a connection is told, from a certain client address.
func said(t *testing.T, f *fairlead.Forward, client string) string {
	t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(parseAddr(client), 0))}
	c, err := d.DialContext(t.Context(), "tcp", entryOf(f))
	if errors.Is(err, syscall.ECONNRESET) {
		return "" // the reset was faster than the dial's own look at the socket
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return string(b)
}

func banners(t *testing.T, names ...string) (addresses []string) {
	for _, name := range names {
		addresses = append(addresses, lab.Serve(t, lab.At{}, lab.Banner(name)).Address)
	}
	return addresses
}

func TestTargetsTakeTurns(t *testing.T) {
	lab.CheckLeaks(t)
	f := between(t, "round-robin", banners(t, "a", "b", "c")...)
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	got := map[string]int{}
	for range 9 {
		got[said(t, f, "127.0.0.1")]++
	}
	if got["a"] != 3 || got["b"] != 3 || got["c"] != 3 {
		t.Errorf("got %v, want three each", got)
	}
}

func TestAClientKeepsItsTarget(t *testing.T) {
	lab.CheckLeaks(t)
	addresses := banners(t, "a", "b", "c")
	f := between(t, "source-hash", addresses...)
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	first := map[string]string{}
	spread := map[string]bool{}
	for i := range 30 {
		client := netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}).String()
		first[client] = said(t, f, client)
		spread[first[client]] = true
	}
	if len(spread) != 3 {
		t.Errorf("thirty clients went to %v only", spread)
	}
	for client, was := range first {
		if now := said(t, f, client); now != was {
			t.Errorf("%s was sent to %s and then to %s", client, was, now)
		}
	}
	// Without c, only its clients have to move.
	less := between(t, "source-hash", addresses[:2]...)
	less.At, less.Name = f.At, f.Name
	r.Apply(t.Context(), []*fairlead.Forward{less})
	for client, was := range first {
		if now := said(t, less, client); was != "c" && now != was {
			t.Errorf("%s moved from %s to %s though its target is there", client, was, now)
		}
	}
}

func TestTheTargetWithTheFewestConnectionsIsNext(t *testing.T) {
	lab.CheckLeaks(t)
	var visits [2]atomic.Int64
	var addresses []string
	for i := range visits {
		addresses = append(addresses, lab.Serve(t, lab.At{}, func(v *lab.Visit) {
			visits[i].Add(1)
			v.Conn.Write([]byte{byte('a' + i)})
			lab.HoldOpen(v)
		}).Address)
	}
	f := between(t, "least-conn", addresses...)
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	hold := func() (*net.TCPConn, byte) {
		c := dial(t, entryOf(f))
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return c, b[0]
	}
	held := map[byte][]*net.TCPConn{}
	for range 6 {
		c, who := hold()
		held[who] = append(held[who], c)
	}
	if len(held['a']) != 3 || len(held['b']) != 3 {
		t.Fatalf("%d and %d connections, want three each", len(held['a']), len(held['b']))
	}
	for _, c := range held['b'] {
		lab.ResetConn(c)
	}
	eventually(t, "b is free", func() bool { return len(r.Conns()) == 3 })
	for range 3 {
		if _, who := hold(); who != 'b' {
			t.Errorf("the next went to %c, which has more", who)
		}
	}
}

func TestATargetThatIsDownIsPassedOverAndComesBack(t *testing.T) {
	lab.CheckLeaks(t)
	down := lab.Refused(t, lab.At{})
	f := between(t, "failover", down, banners(t, "b")[0])
	f.Policy.Check = fairlead.Check{How: "tcp", Every: 100 * time.Millisecond}
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for range 3 {
		if got := said(t, f, "127.0.0.1"); got != "b" {
			t.Fatalf("got %q, want b", got)
		}
	}
	eventually(t, "half of the targets are known to be down", func() bool { return r.Report()[0].State == fairlead.Partial })
	back := lab.Serve(t, lab.At{Address: down}, lab.Banner("a"))
	eventually(t, "it is used again", func() bool { return said(t, f, "127.0.0.1") == "a" })
	back.Stop()
	eventually(t, "it is known to be down again, though no client came", func() bool { return r.Report()[0].State == fairlead.Partial })
}

func TestAServiceThatAnswersWithAnErrorIsDown(t *testing.T) {
	lab.CheckLeaks(t)
	var broken atomic.Bool
	peer := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		v.Conn.Read(make([]byte, 4096))
		if broken.Load() {
			io.WriteString(v.Conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(v.Conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	f := between(t, "failover", peer.Address)
	f.Policy.Check = fairlead.Check{How: "http", Every: 100 * time.Millisecond}
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	eventually(t, "up", func() bool { return r.Report()[0].Targets[0].Up })
	broken.Store(true)
	eventually(t, "down", func() bool {
		p := r.Report()[0].Problem
		return p != nil && p.What == f.To[0].Dest()+` answers "503 Service Unavailable" to GET /`
	})
	broken.Store(false)
	eventually(t, "up again", func() bool { return r.Report()[0].Targets[0].Up })
}

func TestASilentTargetLeavesTimeForTheNext(t *testing.T) {
	lab.CheckLeaks(t)
	f := between(t, "failover", lab.BlackHole(t, lab.At{}), banners(t, "b")[0])
	f.Policy.Connect = 2 * time.Second
	f.Policy.Check.How = "off"
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	if got := said(t, f, "127.0.0.1"); got != "b" {
		t.Errorf("got %q, want b", got)
	}
}

func TestAClientWhomNoTargetTookIsToldOfAll(t *testing.T) {
	lab.CheckLeaks(t)
	a, b := lab.Refused(t, lab.At{}), lab.Refused(t, lab.At{})
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := between(t, "failover", a, b)
	f.Policy.Check.How = "off"
	r.Apply(t.Context(), []*fairlead.Forward{f})
	if got := said(t, f, "127.0.0.1"); got != "" {
		t.Errorf("got %q, want a reset", got)
	}
	want := "none of 2 targets could be reached: " + a + " refuses connections; " + b + " refuses connections"
	eventually(t, "it is told", func() bool {
		return ev.count(func(e fairlead.Event) bool {
			return e.Kind == fairlead.EventClose && e.Reason == fairlead.Refused && e.Problem != nil && e.Problem.What == want
		}) == 1
	})
}
