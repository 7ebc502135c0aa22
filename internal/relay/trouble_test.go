package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// events collects what a relay tells.
type events struct {
	mu  sync.Mutex
	all []fairlead.Event
}

func (e *events) watch(ev fairlead.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) count(match func(fairlead.Event) bool) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if match(ev) {
			n++
		}
	}
	return n
}

func (e *events) ended(why fairlead.Reason) bool {
	return e.count(func(ev fairlead.Event) bool { return ev.Kind == fairlead.EventClose && ev.Reason == why }) > 0
}

// eventually waits, without a fixed sleep, until done, or fails after a time
// that only a broken program needs.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*net.TCPConn)
}

func TestTargetsAreTestedWithoutUsingThemUp(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	r := newRelay(t, relay.Config{
		Listens: func(network string, at netip.AddrPort) (bool, bool) { return at == peer.Port, true },
	})
	r.Apply(t.Context(), []*fairlead.Forward{wish(t, "web", fairlead.TCP, peer.Address)})
	eventually(t, "the target is known to be up", func() bool { return r.Report()[0].Targets[0].Up })
	if peer.Visited() {
		t.Error("a target on this host was connected to: one that serves a single connection is used up now")
	}
}

func TestNobodyIsConnectedToBeforeTheFirstClient(t *testing.T) {
	lab.CheckLeaks(t)
	// Where the system's table tells nothing, a target may be one that serves
	// a single connection.
	var visits atomic.Int64
	remote := lab.Serve(t, lab.At{}, func(v *lab.Visit) { visits.Add(1) })
	local := lab.Serve(t, lab.At{Network: "unix", Address: filepath.Join(t.TempDir(), "s")}, func(v *lab.Visit) { visits.Add(1) })
	looked := make(chan bool, 100)
	r := newRelay(t, relay.Config{Listens: func(string, netip.AddrPort) (bool, bool) {
		select {
		case looked <- true:
		default:
		}
		return false, false
	}})
	r.Apply(t.Context(), []*fairlead.Forward{
		wish(t, "remote", fairlead.TCP, remote.Address),
		wish(t, "local", fairlead.TCP, local.Address),
	})
	<-looked
	<-looked // the second round: the first is done
	if n := visits.Load(); n != 0 {
		t.Errorf("%d connections that no client asked for", n)
	}
}

func TestTargetThatIsDownIsAStateAndHeals(t *testing.T) {
	lab.CheckLeaks(t)
	address := lab.Refused(t, lab.At{Network: "tcp"})
	r := newRelay(t, relay.Config{
		Listens: func(network string, at netip.AddrPort) (bool, bool) { return false, true },
	})
	r.Apply(t.Context(), []*fairlead.Forward{wish(t, "web", fairlead.TCP, address)})
	eventually(t, "broken, though no client came", func() bool { return r.Report()[0].State == fairlead.Broken })
	if p := r.Report()[0].Problem; p.Code != fairlead.CodeTargetRefuses || !p.Warning {
		t.Errorf("the problem is %+v, want a warning %s", p, fairlead.CodeTargetRefuses)
	}
	lab.Serve(t, lab.At{Network: "tcp", Address: address}, lab.Echo)
	eventually(t, "healed, though no client came", func() bool { return r.Report()[0].State == fairlead.Listening })
}

func TestAForwardToItselfIsRefusedAndOpensNoSecondConnection(t *testing.T) {
	lab.CheckLeaks(t)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "loop", fairlead.TCP, "127.0.0.1:1")
	f.At = fairlead.Spot{Any: true, Ports: f.At.Ports, Net: fairlead.TCP}
	f.To[0].Ports = f.At.Ports
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c, err := net.Dial("tcp", netip.AddrPortFrom(parseAddr("127.0.0.1"), f.At.Ports[0].First).String())
	if err == nil { // it may be reset before it knows that it is connected
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want a reset", err)
	}
	eventually(t, "the loop is told", func() bool { return ev.ended(fairlead.Loop) })
	if n := ev.count(func(e fairlead.Event) bool { return e.Kind == fairlead.EventClose }); n != 1 {
		t.Errorf("%d connections ended, want the client's alone", n)
	}
}

func TestPortInUseNamesTheHolderAndAFreePort(t *testing.T) {
	lab.CheckLeaks(t)
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1")
	ln, err := net.Listen("tcp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := newRelay(t, relay.Config{
		Holders: func(network string, at netip.AddrPort) []relay.Holder {
			return []relay.Holder{{Text: "nginx, pid 812", Unit: "nginx.service"}}
		},
		Listens: func(network string, at netip.AddrPort) (bool, bool) { return false, true },
	})
	st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
	if st.State != fairlead.Broken || st.Problem == nil || st.Problem.Code != fairlead.CodeInUse {
		t.Fatalf("state %s, problem %+v", st.State, st.Problem)
	}
	if len(st.Problem.Notes) != 1 || st.Problem.Notes[0].Text != "nginx, pid 812" {
		t.Errorf("notes %v do not name the holder", st.Problem.Notes)
	}
	if len(st.Problem.Fixes) != 2 || !strings.Contains(st.Problem.Fixes[0].Command, "fairlead forward 127.0.0.1:") ||
		st.Problem.Fixes[1].Command != "sudo systemctl stop nginx.service" {
		t.Errorf("fixes %v name no other port, or not how to stop the other program", st.Problem.Fixes)
	}
	ln.Close()
	if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; st.Problem != nil && st.Problem.Code == fairlead.CodeInUse {
		t.Errorf("the port is free, and the next Apply says %v", st.Problem)
	}
}

func TestOneFamilyTakenIsHalfASuccess(t *testing.T) {
	lab.CheckLeaks(t)
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1")
	ln, err := net.Listen("tcp4", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f.At.Addr = netip.Addr{} // loopback of both families
	f.Expr = "forward " + f.At.String() + " to 127.0.0.1:1"
	r := newRelay(t, relay.Config{})
	st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
	if st.State != fairlead.Partial || st.Problem == nil || st.Problem.Code != fairlead.CodeHalfBound || len(st.Bound) != 1 {
		t.Fatalf("state %s, bound %v, problem %+v", st.State, st.Bound, st.Problem)
	}
}

func TestWhatIsThereAgainIsNotCalledUpBeforeItAnswered(t *testing.T) {
	lab.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	refused := lab.Refused(t, lab.At{})
	r := newRelay(t, relay.Config{})
	udp := wish(t, "dns", fairlead.UDP, refused)
	r.Apply(t.Context(), []*fairlead.Forward{wish(t, "app", fairlead.TCP, path), udp})
	of := func(name string) fairlead.Status {
		for _, st := range r.Report() {
			if st.Forward.Name == name {
				return st
			}
		}
		return fairlead.Status{}
	}
	c, err := net.Dial("udp", entryOf(udp))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the datagram's target refuses", func() bool {
		c.Write([]byte("x"))
		return of("dns").State == fairlead.Broken
	})
	eventually(t, "the path is missing", func() bool { return of("app").State == fairlead.Broken })
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	eventually(t, "the path is there", func() bool { return of("app").State == fairlead.Listening })
	if of("app").Targets[0].Up {
		t.Error("a path that is there is called a target that answers")
	}
	// More than one round of probes has passed.
	if st := of("dns"); st.State != fairlead.Broken {
		t.Errorf("a target that refused and was not heard of since is %s", st.State)
	}
}

// The other program may be another user's, of which less is known.
func TestOneFamilyTakenByAnotherUserIsHalfASuccess(t *testing.T) {
	lab.CheckLeaks(t)
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1")
	ln, err := net.Listen("tcp4", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f.At.Addr = netip.Addr{} // loopback of both families
	f.Expr = "forward " + f.At.String() + " to 127.0.0.1:1"
	r := newRelay(t, relay.Config{Holders: func(string, netip.AddrPort) []relay.Holder {
		return []relay.Holder{{Text: "a program of user root", Hidden: true}}
	}})
	st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
	if st.State != fairlead.Partial || st.Problem == nil || st.Problem.Code != fairlead.CodeHalfBound {
		t.Fatalf("state %s, problem %+v", st.State, st.Problem)
	}
}

func TestResetReachesATargetThatReadsNothing(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.NeverRead)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dial(t, entryOf(f))
	c.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := c.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("64 MiB went to a target that reads nothing: %v", err)
	}
	lab.ResetConn(c)
	eventually(t, "the reset was noticed", func() bool { return ev.ended(fairlead.ClientReset) })
}

func TestWhatATargetSaidBeforeItsResetArrives(t *testing.T) {
	lab.CheckLeaks(t)
	const size = 4 << 20
	peer := lab.Serve(t, lab.At{Network: "tcp"}, func(v *lab.Visit) {
		v.Conn.Write(make([]byte, size))
		// A close with unread data is a reset, as of a server that answers
		// before it has read the whole request.
	})
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dial(t, entryOf(f))
	c.SetReadBuffer(16 << 10)
	c.Write([]byte("request that nobody reads"))
	got, buf := 0, make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		got += n
		if err != nil {
			if err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			break
		}
	}
	// The kernel may drop what it had not yet handed to us; what we were
	// handed must arrive, and that is all but the last of its buffers.
	if got < size/4 {
		t.Errorf("%d of %d bytes arrived before the reset", got, size)
	}
}

func TestKeepaliveFindsAClientThatVanished(t *testing.T) {
	for _, goroutines := range []bool{false, true} {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("goroutines=%v,half-closed=%v", goroutines, half), func(t *testing.T) { vanish(t, goroutines, half) })
		}
	}
}

// vanish has a client go without a word, perhaps after it has ended its
// direction, and wants that to be told as what it is.
func vanish(t *testing.T, goroutines, half bool) {
	lab.CheckLeaks(t)
	n := lab.NewNet(t)
	client, gateway := n.Host("client"), n.Host("gateway")
	n.Wire(client, "eth0", gateway, "lan0")
	client.Addr("eth0", "10.9.0.2/24")
	gateway.Addr("lan0", "10.9.0.1/24")
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.HoldOpen)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch, Goroutines: goroutines})
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) {
		f.At.Addr = parseAddr("10.9.0.1")
		f.Policy.Keepalive = time.Second
	})
	if err := gateway.Do(func() error {
		if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; len(st.Bound) == 0 {
			return st.Problem
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c, err := client.DialContext(t.Context(), "tcp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if half {
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it is live", func() bool {
		conns := r.Conns()
		return len(conns) == 1 && (conns[0].Half == "client") == half
	})
	client.Down("eth0")
	eventually(t, "it ended", func() bool { return len(r.Conns()) == 0 && ev.count(isEnd) == 1 })
	if !ev.ended(fairlead.ClientVanished) {
		t.Errorf("the end is told as %v, want %s", ev.all, fairlead.ClientVanished)
	}
}

func isEnd(e fairlead.Event) bool { return e.Kind == fairlead.EventClose }

func TestWithoutDescriptorsTheListenerWaitsAndSaysSoOnce(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch, Descriptors: 24 + 9}) // a listener and four connections
	f := wish(t, "web", fairlead.TCP, peer.Address)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	conns := make([]*net.TCPConn, 12)
	for i := range conns {
		conns[i] = dial(t, entryOf(f))
		if _, err := conns[i].Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	served, had := 0, make([]bool, len(conns))
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			served++
			had[i] = true
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a client was cut rather than asked to wait: %v", err)
		}
	}
	if served != 4 {
		t.Errorf("%d connections were served at a time, want 4", served)
	}
	if n := ev.count(func(e fairlead.Event) bool { return e.Kind == fairlead.EventTrouble }); n != 1 {
		t.Errorf("the trouble was told %d times, want once", n)
	}
	var turns sync.WaitGroup
	for i, c := range conns { // as they end, the others have their turn
		turns.Go(func() {
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if had[i] {
				return
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("connection %d never had its turn: %v", i, err)
			}
		})
	}
	turns.Wait()
}

func TestOneSourceOfDatagramsPushesOutOnlyItself(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	r := newRelay(t, relay.Config{})
	f := wish(t, "dns", fairlead.UDP, echo.Address, func(f *fairlead.Forward) {
		f.Policy.MaxConns, f.Policy.MaxConnsPerSource = 10, 4
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	ask := func(from string) *net.UDPConn {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(parseAddr(from), 0)), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(entryOf(f))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte("hello"))
		if _, err := c.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	quiet := ask("127.0.0.2").LocalAddr().String()
	for range 40 {
		ask("127.0.0.3")
	}
	own, others := 0, 0
	for _, c := range r.Conns() {
		switch {
		case c.Client == quiet:
			others++
		case strings.HasPrefix(c.Client, "127.0.0.3:"):
			own++
		}
	}
	if own != 4 || others != 1 {
		t.Errorf("%d sessions of the flood and %d of the quiet client, want 4 and 1", own, others)
	}
}

func TestSocketsOfAServiceManagerAreUsed(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	f := wish(t, "web", fairlead.TCP, peer.Address)
	ln, err := net.Listen("tcp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // file holds the port now
	r := newRelay(t, relay.Config{Passed: []*os.File{file}})
	for round := range 2 { // also again after it was given up
		if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; len(st.Bound) != 1 || st.Problem != nil {
			t.Fatalf("round %d: bound %v, problem %v", round, st.Bound, st.Problem)
		}
		c := dial(t, entryOf(f))
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		c.Close()
		r.Apply(t.Context(), nil)
	}
}
