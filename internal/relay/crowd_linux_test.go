package relay_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// knock connects and expects to be turned away.
func knock(t testing.TB, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err == nil { // it may be reset before it knows that it is connected
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want a reset", err)
	}
}

func TestAFloodOfDeniedClientsIsToldInAFewLines(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	var ev events
	g := newGate(t)
	cfg := g.config()
	cfg.Watch = ev.watch
	r := newRelay(t, cfg)
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, func(f *fairlead.Forward) {
		f.Policy.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	const n = 1000
	began := time.Now()
	for range n {
		knock(t, entryOf(f))
	}
	if len(g.waiting) > 0 {
		t.Errorf("%d targets were dialed for clients that may not enter", len(g.waiting))
	}
	told := func(e fairlead.Event) bool { return e.Kind == fairlead.EventClose && e.Reason == fairlead.Denied }
	rest := func(e fairlead.Event) bool {
		return e.Kind == fairlead.EventTrouble && strings.Contains(e.Text, "denied")
	}
	eventually(t, "the rest is told as a number", func() bool { return ev.count(rest) > 0 })
	if lines, most := ev.count(told)+ev.count(rest), 22*(2+int(time.Since(began)/time.Second)); lines > most {
		t.Errorf("%d clients made %d lines", n, lines)
	}
	if got := r.Report()[0].Meter.Refused.Load(); got != n {
		t.Errorf("%d are counted, want %d", got, n)
	}
}

func TestClientsOfABlackHoleHoldUpNobodyAndGoInTime(t *testing.T) {
	lab.CheckLeaks(t)
	g := newGate(t) // never opens: the target does not answer
	var ev events
	cfg := g.config()
	cfg.Watch = ev.watch
	r := newRelay(t, cfg)
	f := wish(t, "hole", fairlead.TCP, "127.0.0.1:9", unchecked, func(f *fairlead.Forward) {
		f.Policy.Connect, f.Policy.MaxConnsPerSource = time.Second, 30
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	conns := make([]*net.TCPConn, 30)
	for i := range conns {
		conns[i] = dial(t, entryOf(f))
	}
	for range conns { // all at the same time
		select {
		case <-g.waiting:
		case <-time.After(10 * time.Second):
			t.Fatal("a slow dial holds up the others")
		}
	}
	knock(t, entryOf(f)) // one too many
	for _, c := range conns {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v, want a reset", err)
		}
	}
	eventually(t, "nothing is left", func() bool { return r.Left() == "" })
	if !ev.ended(fairlead.Limited) {
		t.Error("the limit was not told")
	}
}

func TestAnIPv4ClientIsTheSameSourceAtADualSocket(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.HoldOpen)
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, func(f *fairlead.Forward) {
		f.Policy.MaxConnsPerSource = 1
		f.Policy.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
		f.At.Addr, f.At.Any = netip.Addr{}, true
	})
	r := newRelay(t, relay.Config{Passed: []*os.File{dualSocket(t, fairlead.TCP, f.At.Ports[0].First)}})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	address := fmt.Sprintf("127.0.0.1:%d", f.At.Ports[0].First)
	dial(t, address)
	eventually(t, "the first is let in", func() bool { return len(r.Conns()) == 1 })
	knock(t, address)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	c, err := d.Dial("tcp", address)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the denied client got %v, want a reset", err)
	}
}

// childShort makes the test binary a forwarder that runs out of descriptors:
// the relay reckons with more than the process may have.
const childShort = "FAIRLEAD_TEST_RELAY_SHORT"

func TestOutOfDescriptorsTheListenerLivesIdlesAndResumes(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childTarget+"="+peer.Address, childShort+"=1")
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	entry := "127.0.0.1:" + strings.TrimSpace(line)
	conns := make([]*net.TCPConn, 60)
	for i := range conns { // 20 descriptors or so are left: 60 do not fit
		conns[i] = dial(t, entry)
		conns[i].Write([]byte("x"))
	}
	served, had := 0, make([]bool, len(conns))
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			served++
			had[i] = true
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a client was cut rather than asked to wait: %v", err)
		}
	}
	if served == 0 || served > 30 {
		t.Fatalf("%d of 60 connections are served by a process that may have some 20", served)
	}
	before := cpuTime(t, cmd.Process.Pid)
	<-time.After(2 * time.Second) // what is measured: how much it runs meanwhile
	if used := cpuTime(t, cmd.Process.Pid) - before; used > time.Second/2 {
		t.Errorf("it ran %v of 2s while it waited", used)
	}
	var turns sync.WaitGroup
	for i, c := range conns { // as they end, the others have their turn
		turns.Go(func() {
			defer c.Close()
			if had[i] {
				return
			}
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Errorf("connection %d never had its turn: %v", i, err)
			}
		})
	}
	turns.Wait()
	in.Close()
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the forwarder ended with %v", err)
	}
	if n := strings.Count(string(rest), "trouble"); n != 1 {
		t.Errorf("the trouble was told %d times within ten seconds, want once:\n%s", n, rest)
	}
}

// shorten leaves this process few descriptors, and its relay unaware of that.
func shorten(cfg *relay.Config) {
	if os.Getenv(childShort) == "" {
		return
	}
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	n := uint64(len(d) + 24)
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
		panic(err)
	}
	cfg.Descriptors = 1000
	cfg.Watch = func(e fairlead.Event) {
		if e.Kind == fairlead.EventTrouble {
			fmt.Println("trouble:", e.Text)
		}
	}
}

// cpuTime is how long a process has run; proc_pid_stat(5).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	var user, system int64
	fields := strings.Fields(rest)
	fmt.Sscan(fields[11], &user)
	fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}
