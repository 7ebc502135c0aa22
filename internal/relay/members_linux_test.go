package relay_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/place"
	"fairlead/internal/relay"
)

// asking is a relay whose names are looked up at s.
func asking(t *testing.T, s *lab.NameServer) *relay.Relay {
	here := place.New(place.Config{Servers: []netip.AddrPort{s.At}})
	t.Cleanup(here.Close)
	return newRelay(t, relay.Config{Place: func(string) (fairlead.Place, error) { return here, nil }})
}

// members are the hosts of a report's only target, with a mark where they are
// gone from DNS.
func members(r *relay.Relay) string {
	var list []string
	for _, m := range r.Report()[0].Targets[0].Members {
		host, _, _ := strings.Cut(m.Target, ":")
		if m.Gone {
			host += fmt.Sprintf(" gone, %d", m.Active)
		}
		list = append(list, host)
	}
	return strings.Join(list, "; ")
}

func TestEveryAddressOfANameIsATargetAndFollowed(t *testing.T) {
	lab.CheckLeaks(t)
	s := lab.ServeNames(t)
	port := lab.FreePorts(t, nil, parseAddr("127.0.0.2"), 1).Port()
	for i := 2; i <= 4; i++ {
		lab.Serve(t, lab.At{Address: fmt.Sprintf("127.0.0.%d:%d", i, port)}, func(v *lab.Visit) {
			v.Conn.Write([]byte{byte('0' + i)})
			io.Copy(v.Conn, v.Conn)
		})
	}
	s.Addrs("pool.test", 1, "127.0.0.3", "127.0.0.2")
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1")
	f.To = []fairlead.Target{{Host: "pool.test", Ports: fairlead.PortList{{First: port, Last: port}}, Resolve: "all"}}
	f.Policy.Choose = "round-robin"
	r := asking(t, s)
	if err := r.Fits(f); err != nil {
		t.Fatal(err)
	}
	r.Apply(t.Context(), []*fairlead.Forward{f})
	said(t, f, "127.0.0.1") // at once, before anything is known
	eventually(t, "both are members", func() bool { return members(r) == "127.0.0.2; 127.0.0.3" })
	got := map[string]int{}
	for range 10 {
		got[said(t, f, "127.0.0.1")]++
	}
	if got["2"] != 5 || got["3"] != 5 {
		t.Errorf("got %v, want five each", got)
	}
	c := dial(t, entryOf(f))
	who := make([]byte, 1)
	io.ReadFull(c, who)
	for who[0] != '3' {
		c = dial(t, entryOf(f))
		io.ReadFull(c, who)
	}

	s.Addrs("pool.test", 1, "127.0.0.4", "127.0.0.2")
	eventually(t, "127.0.0.3 left and 127.0.0.4 joined", func() bool {
		return strings.HasPrefix(members(r), "127.0.0.2; 127.0.0.4; 127.0.0.3 gone, ")
	})
	clear(got)
	for range 10 {
		got[said(t, f, "127.0.0.1")]++
	}
	if got["2"] != 5 || got["4"] != 5 {
		t.Errorf("got %v, want five each of 2 and 4", got)
	}
	if _, err := io.WriteString(c, "still"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "still" {
		t.Errorf("the connection to the one that left: %q, %v", b, err)
	}
	// A reload changes nothing of it.
	again := *f
	again.Expr += " again"
	again.Policy.MaxConns = 1000
	r.Apply(t.Context(), []*fairlead.Forward{&again})
	if m := members(r); !strings.HasPrefix(m, "127.0.0.2; 127.0.0.4; 127.0.0.3 gone, ") {
		t.Errorf("after a reload: %s", m)
	}
	c.Close()
	s.Fail(true)
	eventually(t, "127.0.0.3 has nobody left", func() bool { return members(r) == "127.0.0.2; 127.0.0.4" })
	for range 4 {
		said(t, f, "127.0.0.1")
	}
}

func TestServiceRecordsSayHostsPortsAndOrder(t *testing.T) {
	lab.CheckLeaks(t)
	s := lab.ServeNames(t)
	record := func(name, host string, priority, weight uint16) (lab.ServiceRecord, *lab.Peer) {
		p := lab.Serve(t, lab.At{}, lab.Banner(name))
		s.Addrs(host, 60, "127.0.0.1")
		return lab.ServiceRecord{Host: host, Port: p.Port.Port(), Priority: priority, Weight: weight}, p
	}
	a, pa := record("a", "a.test", 10, 3)
	b, pb := record("b", "b.test", 10, 1)
	c, _ := record("c", "c.test", 20, 0)
	s.Services("_db._tcp.pool.test", 1, c, b, a)
	f := wish(t, "db", fairlead.TCP, "127.0.0.1:1")
	f.To = []fairlead.Target{{Host: "_db._tcp.pool.test"}}
	f.Policy.Choose = "round-robin"
	r := asking(t, s)
	if err := r.Fits(f); err != nil {
		t.Fatal(err)
	}
	r.Apply(t.Context(), []*fairlead.Forward{f})
	if got := said(t, f, "127.0.0.1"); got != "a" && got != "b" {
		t.Errorf("the first client was led to %q", got)
	}
	eventually(t, "the members are known", func() bool { return len(r.Report()[0].Targets[0].Members) == 3 })
	got := map[string]int{}
	for range 40 {
		got[said(t, f, "127.0.0.1")]++
	}
	if got["a"] != 30 || got["b"] != 10 {
		t.Errorf("got %v, want 30 and 10", got)
	}
	pa.Stop()
	pb.Stop()
	for range 10 {
		if got := said(t, f, "127.0.0.1"); got != "c" {
			t.Errorf("a and b are gone, and a client was led to %q", got)
		}
	}
	s.Services("_db._tcp.pool.test", 1)
	eventually(t, "the service is told to be gone", func() bool {
		p := r.Report()[0].Problem
		return p != nil && p.Code == fairlead.CodeNameUnknown && r.Report()[0].State == fairlead.Broken
	})
}

func TestAServiceRecordThatNobodyTellsIsToldAsSuch(t *testing.T) {
	lab.CheckLeaks(t)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	here := place.New(place.Config{Servers: []netip.AddrPort{netip.MustParseAddrPort(silent.LocalAddr().String())}})
	t.Cleanup(here.Close)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch, Place: func(string) (fairlead.Place, error) { return here, nil }})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1")
	f.To = []fairlead.Target{{Host: "_db._tcp.pool.test"}}
	f.Policy.Connect = 100 * time.Millisecond
	r.Apply(t.Context(), []*fairlead.Forward{f})
	if got := said(t, f, "127.0.0.1"); got != "" {
		t.Errorf("got %q, want a reset", got)
	}
	eventually(t, "it is told", func() bool {
		return ev.count(func(e fairlead.Event) bool {
			return e.Kind == fairlead.EventClose && e.Reason == fairlead.NameUnknown &&
				e.Problem != nil && e.Problem.Code == fairlead.CodeNameServer
		}) == 1
	})
}
