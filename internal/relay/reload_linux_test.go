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
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// says is what a server that greets tells a client of network at address.
func says(t testing.TB, network, address string) string {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	return string(b)
}

func at(f *fairlead.Forward, spot fairlead.Spot) *fairlead.Forward {
	g := *f
	g.At = spot
	g.Expr = "forward " + g.At.String() + " to " + g.To[0].Dest()
	return &g
}

func TestTwoForwardsSwapTheirPortsWithoutRefusingAnybody(t *testing.T) {
	lab.CheckLeaks(t)
	one := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("one"))
	two := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("two"))
	r := newRelay(t, relay.Config{})
	a, b := wish(t, "a", fairlead.TCP, one.Address, unchecked), wish(t, "b", fairlead.TCP, two.Address, unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{a, b})
	var failed, asked atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for _, address := range []string{entryOf(a), entryOf(b)} {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				c, err := net.Dial("tcp", address)
				if err == nil {
					_, err = io.ReadAll(c)
					c.Close()
				}
				if err != nil {
					failed.Add(1)
				}
			}
		})
	}
	swapped := []*fairlead.Forward{at(a, b.At), at(b, a.At)}
	for range 50 {
		r.Apply(t.Context(), swapped)
		if got := says(t, "tcp", entryOf(a)); got != "two" {
			t.Fatalf("after the swap %q answers at a's old port", got)
		}
		r.Apply(t.Context(), []*fairlead.Forward{a, b})
	}
	close(stop)
	clients.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d clients failed", failed.Load(), asked.Load())
	}
}

func TestAWildcardListenerBecomesOneAddressAndBack(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("hello"))
	r := newRelay(t, relay.Config{})
	one := wish(t, "web", fairlead.TCP, peer.Address)
	spot := one.At
	spot.Addr, spot.Any, spot.Net = netip.Addr{}, true, fairlead.TCP|fairlead.UDP
	every := at(one, spot)
	for range 3 {
		for _, f := range []*fairlead.Forward{every, one} {
			if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; st.Problem != nil && !st.Problem.Warning {
				t.Fatalf("%s: %v", f.Expr, st.Problem)
			}
			if got := says(t, "tcp", entryOf(one)); got != "hello" {
				t.Errorf("%s: got %q", f.Expr, got)
			}
		}
	}
}

func TestAPortThatAnotherForwardOfOursHasNamesIt(t *testing.T) {
	lab.CheckLeaks(t)
	r := newRelay(t, relay.Config{
		Holders: func(string, netip.AddrPort) []relay.Holder { return []relay.Holder{{Text: "fairlead, pid 1"}} },
	})
	one := wish(t, "one", fairlead.TCP, "127.0.0.1:1", unchecked)
	spot := one.At
	spot.Addr, spot.Any = netip.Addr{}, true
	all := at(wish(t, "all", fairlead.TCP, "127.0.0.1:1", unchecked), spot)
	st := r.Apply(t.Context(), []*fairlead.Forward{one, all})[1]
	if st.Problem == nil || len(st.Problem.Notes) == 0 || !strings.Contains(st.Problem.Notes[0].Text, "one") {
		t.Errorf("the problem is %+v and does not name the forward", st.Problem)
	}
}

func TestKeepaliveOfAKeptListenerFollowsTheSentence(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.HoldOpen)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked)
	for _, want := range []time.Duration{7 * time.Second, fairlead.Off, 0, 9 * time.Second} {
		g := *f
		g.Policy.Keepalive = want
		g.Expr = fmt.Sprintf("%s keepalive %v", f.Expr, want)
		r.Apply(t.Context(), []*fairlead.Forward{&g})
		c := dial(t, entryOf(f))
		eventually(t, "it is connected", func() bool { return len(r.Conns()) == 1 })
		if got := r.KeepaliveOf(); want == 0 && got != 60*time.Second || want == fairlead.Off && got != 0 || want > 0 && got != want {
			t.Errorf("keepalive %v: the client's connection has %v", want, got)
		}
		c.Close()
		r.Kill(fairlead.Match{Forward: "web"})
		eventually(t, "it ended", func() bool { return len(r.Conns()) == 0 })
	}
}

func TestASocketFileThatWasReplacedIsMadeAgainAndNotTakenFromOthers(t *testing.T) {
	lab.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("hello"))
	r := newRelay(t, relay.Config{})
	f := at(wish(t, "web", fairlead.TCP, peer.Address), fairlead.Spot{Unix: path, Net: fairlead.TCP})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; st.Problem != nil {
		t.Fatal(st.Problem)
	}
	if got := says(t, "unix", path); got != "hello" {
		t.Errorf("got %q", got)
	}

	os.Remove(path)
	ln, err := net.Listen("unix", path) // somebody else's now
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; st.Problem == nil || st.Problem.Code != fairlead.CodePathInUse {
		t.Errorf("problem %v, want %s", st.Problem, fairlead.CodePathInUse)
	}
	r.Apply(t.Context(), nil)
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file of another program is gone: %v", err)
	}
}

func TestAClosedForwardLeavesNoSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	r := newRelay(t, relay.Config{})
	f := at(wish(t, "web", fairlead.TCP, "127.0.0.1:1", unchecked), fairlead.Spot{Unix: path, Net: fairlead.TCP})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	r.Apply(t.Context(), nil)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

// A service manager binds "80" for both families with one socket.
func TestAPassedSocketForBothFamiliesServesBoth(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("hello"))
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	for _, network := range []fairlead.Network{fairlead.TCP, fairlead.UDP} {
		t.Run(network.String(), func(t *testing.T) {
			f := wish(t, "web", network, peer.Address, unchecked)
			if network == fairlead.UDP {
				f = wish(t, "dns", network, echo.Address)
			}
			spot := f.At
			spot.Addr, spot.Any = netip.Addr{}, true
			f = at(f, spot)
			port := f.At.Ports[0].First
			r := newRelay(t, relay.Config{Passed: []*os.File{dualSocket(t, network, port)}})
			for round := range 2 {
				st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
				if st.Problem != nil || len(st.Bound) != 2 {
					t.Fatalf("bound %v, problem %v", st.Bound, st.Problem)
				}
				for _, host := range []string{"127.0.0.1", "127.0.0.7", "::1"} {
					address := net.JoinHostPort(host, fmt.Sprint(port))
					if network == fairlead.TCP {
						if got := says(t, "tcp", address); got != "hello" {
							t.Errorf("%s said %q", address, got)
						}
						continue
					}
					c, err := net.Dial("udp", address) // connected: another address's answer is not heard
					if err != nil {
						t.Fatal(err)
					}
					c.SetDeadline(time.Now().Add(5 * time.Second))
					c.Write([]byte("hello"))
					if n, err := c.Read(make([]byte, 9)); err != nil || n != 5 {
						t.Errorf("round %d: %s answered %d bytes, %v", round, address, n, err)
					}
					c.Close()
				}
				r.Apply(t.Context(), nil)
			}
		})
	}
}

func dualSocket(t *testing.T, network fairlead.Network, port uint16) (f *os.File) {
	t.Helper()
	var err error
	address := fmt.Sprintf(":%d", port)
	if network == fairlead.UDP {
		var c net.PacketConn
		if c, err = net.ListenPacket("udp", address); err == nil {
			f, err = c.(*net.UDPConn).File()
			c.Close()
		}
	} else {
		var ln net.Listener
		if ln, err = net.Listen("tcp", address); err == nil {
			f, err = ln.(*net.TCPListener).File()
			ln.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAReportDuringAReloadSeesNoHalfOfIt(t *testing.T) {
	lab.CheckLeaks(t)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1", unchecked)
	var wrong atomic.Int64
	r.Apply(t.Context(), []*fairlead.Forward{f})
	stop := make(chan struct{})
	var asker sync.WaitGroup
	asker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				for _, st := range r.Report() {
					if len(st.Bound) != 1 || st.Problem != nil {
						wrong.Add(1)
					}
				}
			}
		}
	})
	for i := range 2000 {
		g := *f
		if i%2 == 0 {
			g.Expr += " linger 9s"
		}
		r.Apply(t.Context(), []*fairlead.Forward{&g})
	}
	close(stop)
	asker.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d reports said that a forward that was never touched does not listen", n)
	}
}

func TestARangeThatWouldTakeAllDescriptorsIsRefusedWhole(t *testing.T) {
	lab.CheckLeaks(t)
	r := newRelay(t, relay.Config{Descriptors: 124}) // 100 without the reserve
	first := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 120).Port()
	span := func(name string, from, n uint16) *fairlead.Forward {
		f := wish(t, name, fairlead.TCP, "127.0.0.1:1", unchecked)
		spot := f.At
		spot.Ports = fairlead.PortList{{First: first + from, Last: first + from + n - 1}}
		f.To[0].Ports = nil
		return at(f, spot)
	}
	st := r.Apply(t.Context(), []*fairlead.Forward{span("a", 0, 60), span("b", 60, 30), span("c", 90, 5)})
	for i, want := range []int{60, 0, 5} {
		if len(st[i].Bound) != want {
			t.Errorf("forward %d listens at %d ports, want %d: %v", i, len(st[i].Bound), want, st[i].Problem)
		}
	}
	if p := st[1].Problem; p == nil || p.Code != fairlead.CodeTooManyPorts {
		t.Errorf("the problem is %v, want %s", p, fairlead.CodeTooManyPorts)
	}
}

func TestWhoHoldsAWholeRangeIsAskedOnce(t *testing.T) {
	lab.CheckLeaks(t)
	asked := 0
	r := newRelay(t, relay.Config{
		Holders: func(string, netip.AddrPort) []relay.Holder { asked++; return nil },
	})
	first := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 20)
	for i := range 20 {
		ln, err := net.Listen("tcp", netip.AddrPortFrom(first.Addr(), first.Port()+uint16(i)).String())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
	}
	f := wish(t, "range", fairlead.TCP, "127.0.0.1:1", unchecked)
	spot := f.At
	spot.Ports = fairlead.PortList{{First: first.Port(), Last: first.Port() + 19}}
	st := r.Apply(t.Context(), []*fairlead.Forward{at(f, spot)})[0]
	if st.Problem == nil || st.Problem.Code != fairlead.CodeInUse || asked != 1 {
		t.Errorf("asked %d times, problem %v", asked, st.Problem)
	}
}

func TestInterfacesThatComeAndGo(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("hello"))
	var addrs []netip.Addr
	var trouble error
	r := newRelay(t, relay.Config{Interfaces: func(string) ([]netip.Addr, error) { return addrs, trouble }})
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked)
	entry := entryOf(f)
	spot := f.At
	spot.Addr, spot.Where = netip.Addr{}, "lan"
	f = at(f, spot)
	for _, c := range []struct {
		addrs   []netip.Addr
		trouble error
		bound   int
	}{
		{nil, nil, 0},
		{[]netip.Addr{parseAddr("127.0.0.1"), parseAddr("127.0.0.1"), parseAddr("fe80::1")}, nil, 1},
		{nil, errors.New("no interface \"lan\""), 0},
		{[]netip.Addr{parseAddr("127.0.0.1"), parseAddr("127.0.0.2")}, nil, 2},
		{[]netip.Addr{parseAddr("127.0.0.1"), parseAddr("192.0.2.77")}, nil, 1},
	} {
		addrs, trouble = c.addrs, c.trouble
		st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
		if len(st.Bound) != c.bound || c.bound < len(c.addrs) && c.bound != 1 && st.Problem == nil {
			t.Errorf("%v: bound %v, problem %v", c.addrs, st.Bound, st.Problem)
		}
		if c.bound == 0 {
			if st.State != fairlead.Broken || st.Problem == nil {
				t.Errorf("%v: state %s, problem %v", c.addrs, st.State, st.Problem)
			}
			continue
		}
		if got := says(t, "tcp", entry); got != "hello" {
			t.Errorf("got %q", got)
		}
	}
}

func TestAHostWithoutIPv6ListensInIPv4Alone(t *testing.T) {
	lab.CheckLeaks(t)
	n := lab.NewNet(t)
	h := n.Host("old")
	h.Sysctl("net.ipv6.conf.all.disable_ipv6", "1")
	h.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1")
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1", unchecked)
	for _, any := range []bool{false, true} {
		spot := f.At
		spot.Addr, spot.Any, spot.Net = netip.Addr{}, any, fairlead.TCP|fairlead.UDP
		if err := h.Do(func() error {
			st := r.Apply(t.Context(), []*fairlead.Forward{at(f, spot)})[0]
			if st.Problem != nil || len(st.Bound) < 2 {
				t.Errorf("any %v: bound %v, problem %v", any, st.Bound, st.Problem)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		r.Apply(t.Context(), nil)
	}
}

func BenchmarkApplyUnchanged(b *testing.B) {
	r := newRelay(b, relay.Config{Descriptors: 20000})
	fs := make([]*fairlead.Forward, 10000)
	for i := range fs {
		host := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		f := &fairlead.Forward{Name: fmt.Sprint("f", i), Kind: fairlead.KindForward,
			At: fairlead.Spot{Addr: host, Ports: fairlead.PortList{{First: 7999, Last: 7999}}, Net: fairlead.TCP},
			To: []fairlead.Target{{Host: "127.0.0.1", Ports: fairlead.PortList{{First: 1, Last: 1}}}}}
		unchecked(f)
		f.Expr = "forward " + f.At.String() + " to " + f.To[0].Dest()
		fs[i] = f
	}
	began := time.Now()
	for _, st := range r.Apply(b.Context(), fs) {
		if len(st.Bound) != 1 {
			b.Fatal(st.Problem)
		}
	}
	b.ReportMetric(time.Since(began).Seconds()*1000, "ms-first")
	for b.Loop() {
		r.Apply(b.Context(), fs)
	}
}
