package relay_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// checkedBy is a relay with a forward to one target under a check, and how the
// target stands.
func checkedBy(t *testing.T, network fairlead.Network, address string, c fairlead.Check) func() *fairlead.Problem {
	t.Helper()
	if c.Every == 0 {
		c.Every = 50 * time.Millisecond
	}
	f := wish(t, "web", network, address)
	f.Policy.Check = c
	r := newRelay(t, relay.Config{})
	if err := r.Fits(f); err != nil {
		t.Fatal(err)
	}
	r.Apply(t.Context(), []*fairlead.Forward{f})
	return func() *fairlead.Problem {
		var s fairlead.TargetStatus
		eventually(t, "the target was asked", func() bool {
			s = r.Report()[0].Targets[0]
			return s.Up || s.Problem != nil
		})
		return s.Problem
	}
}

func TestAConversationTellsWhetherATargetServes(t *testing.T) {
	lab.CheckLeaks(t)
	redis := func(answer string) lab.Behaviour {
		return func(v *lab.Visit) {
			if line, err := bufio.NewReader(v.Conn).ReadString('\n'); err == nil && line == "PING\r\n" {
				for _, part := range strings.SplitAfter(answer, "O") { // in pieces
					io.WriteString(v.Conn, part)
				}
			}
		}
	}
	endless := func(v *lab.Visit) {
		b := make([]byte, 4096)
		for {
			if _, err := v.Conn.Write(b); err != nil {
				return
			}
		}
	}
	ping := fairlead.Check{How: "expect", Send: "PING\r\n", Expect: "+PONG"}
	for _, c := range []struct {
		name  string
		do    lab.Behaviour
		check fairlead.Check
		want  string // behind the target's address; "" for up
	}{
		{"the answer", redis("+PONG\r\n"), ping, ""},
		{"another answer", redis("-LOADING\r\n"), ping, ` answers the check with "-LOADING\r\n", and not "+PONG"`},
		{"no answer", redis(""), ping, ` ends the connection without an answer to the check`},
		{"silence", lab.HoldOpen, ping, ` does not answer the check`},
		{"a greeting", lab.ServerFirst([]byte("220 mail.test ESMTP\r\n")), fairlead.Check{How: "expect", Expect: "220 "}, ""},
		{"no end of an answer", endless, fairlead.Check{How: "expect", Expect: "220 "},
			` answers the check with "\x00\x00`},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer := lab.Serve(t, lab.At{}, c.do)
			p := checkedBy(t, fairlead.TCP, peer.Address, c.check)()
			switch {
			case c.want == "" && p != nil:
				t.Errorf("told: %s", p.What)
			case c.want != "" && (p == nil || !strings.HasPrefix(p.What, peer.Address+c.want)):
				t.Errorf("told: %v, want %s%s", p, peer.Address, c.want)
			}
		})
	}
}

func TestAPathTellsWhetherATargetServes(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		line, _ := bufio.NewReader(v.Conn).ReadString('\n')
		status := "404 Not Found"
		if line == "GET /health?full HTTP/1.1\r\n" {
			status = "204 No Content"
		}
		fmt.Fprintf(v.Conn, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", status)
	})
	if p := checkedBy(t, fairlead.TCP, peer.Address, fairlead.Check{How: "http", Path: "/health?full"})(); p != nil {
		t.Errorf("told: %s", p.What)
	}
	p := checkedBy(t, fairlead.TCP, peer.Address, fairlead.Check{How: "http", Path: "/other"})()
	if want := peer.Address + ` answers "404 Not Found" to GET /other`; p == nil || p.What != want {
		t.Errorf("told: %v, want %s", p, want)
	}
}

func TestADatagramTellsWhetherATargetServes(t *testing.T) {
	lab.CheckLeaks(t)
	answer := func(d []byte, _ netip.AddrPort) [][]byte {
		if string(d) == "\x00ask" {
			return [][]byte{[]byte("noise"), []byte("\x01answer")}
		}
		return nil
	}
	peer := lab.ServeUDP(t, lab.At{}, answer)
	check := fairlead.Check{How: "expect", Send: "\x00ask", Expect: "\x01ans"}
	if p := checkedBy(t, fairlead.UDP, peer.Address, check)(); p != nil {
		t.Errorf("told: %s", p.What)
	}
	other := check
	other.Send = "x"
	if p := checkedBy(t, fairlead.UDP, peer.Address, other)(); p == nil || p.Code != fairlead.CodeTargetSilent {
		t.Errorf("told: %v, want %s", p, fairlead.CodeTargetSilent)
	}
	nobody := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 1).String()
	if p := checkedBy(t, fairlead.UDP, nobody, check)(); p == nil || p.Code != fairlead.CodeTargetRefuses {
		t.Errorf("told: %v, want %s", p, fairlead.CodeTargetRefuses)
	}
	r := newRelay(t, relay.Config{})
	if err := r.Fits(wish(t, "web", fairlead.UDP, nobody, func(f *fairlead.Forward) { f.Policy.Check.How = "tcp" })); err == nil {
		t.Error("check tcp of datagrams is said to fit")
	}
}

func TestACheckedTargetThatOnlyLetsConnectGetsNobody(t *testing.T) {
	lab.CheckLeaks(t)
	var serves atomic.Bool
	a := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		if serves.Load() {
			io.WriteString(v.Conn, "a")
		}
	})
	f := between(t, "failover", a.Address, banners(t, "b")[0])
	f.Policy.Check = fairlead.Check{How: "expect", Expect: "a", Every: 50 * time.Millisecond, Rise: 3}
	f.To[1].Backup = true
	// b says "b", which is no answer to the check either: it is tried when
	// nothing else is left, and then serves.
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	eventually(t, "both are told to be down", func() bool { return r.Report()[0].State == fairlead.Broken })
	for range 5 {
		said(t, f, "127.0.0.1") // tried all the same, and it lets connect
	}
	if s := r.Report()[0]; s.State != fairlead.Broken {
		t.Errorf("a connection that came about overruled the check: %s", s.State)
	}
	serves.Store(true)
	eventually(t, "a is up", func() bool { return r.Report()[0].Targets[0].Up })
	if got := said(t, f, "127.0.0.1"); got != "a" {
		t.Errorf("got %q", got)
	}
}

// askUDP is what a datagram is answered to a fresh client.
func askUDP(t *testing.T, f *fairlead.Forward) string {
	t.Helper()
	c, err := net.Dial("udp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 64)
	for range 40 { // as programs do that speak UDP
		c.Write([]byte("?"))
		c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if n, err := c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	t.Fatal("no answer")
	return ""
}

func TestDatagramsChooseAmongTargets(t *testing.T) {
	lab.CheckLeaks(t)
	is := func(name string) lab.Answer {
		return func([]byte, netip.AddrPort) [][]byte { return [][]byte{[]byte(name)} }
	}
	a, b := lab.ServeUDP(t, lab.At{}, is("a")), lab.ServeUDP(t, lab.At{}, is("b"))
	f := between(t, "round-robin", a.Address, b.Address)
	f.At.Net = fairlead.UDP
	f.To[0].Weight = 3
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	got := map[string]int{}
	for range 40 {
		got[askUDP(t, f)]++
	}
	if got["a"] != 30 || got["b"] != 10 {
		t.Errorf("got %v, want 30 and 10", got)
	}
	a.Stop()
	for range 20 {
		if got := askUDP(t, f); got != "b" {
			t.Errorf("a is gone, and a client was answered by %s", got)
		}
	}
	if s := r.Report()[0]; s.State != fairlead.Partial {
		t.Errorf("a is gone, and the forward is %s", s.State)
	}
	lab.ServeUDP(t, lab.At{Address: a.Address}, is("a"))
	eventually(t, "a is used again", func() bool { return askUDP(t, f) == "a" })
}
