package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fairlead"
)

// A diary notes the addresses that are dialed, in their order.
type diary struct {
	mu     sync.Mutex
	dialed []string
}

func (d *diary) control(_, address string, _ syscall.RawConn) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dialed = append(d.dialed, address)
	return nil
}

// read returns what was noted since the last time.
func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.dialed
	d.dialed = nil
	return was
}

func newHere(t *testing.T, s *nameServer) (*Here, *diary) {
	t.Helper()
	d := &diary{}
	c := Config{Control: d.control}
	if s != nil {
		c.Servers = []netip.AddrPort{s.at}
	}
	h := New(c)
	t.Cleanup(h.Close)
	return h, d
}

// listen accepts at address and closes what it accepts, until the test ends.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	t.Cleanup(func() { ln.Close(); done.Wait() })
	return ln
}

func portOf(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// closedPort is a port of 127.0.0.1 and ::1 at which nothing listens.
func closedPort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return portOf(ln)
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("open descriptors cannot be counted here:", err)
	}
	return len(all)
}

func wantProblem(t *testing.T, err error, code fairlead.Code, what string, cause error, reason fairlead.Reason) *fairlead.Problem {
	t.Helper()
	var p *fairlead.Problem
	if !errors.As(err, &p) {
		t.Fatalf("no problem: %v", err)
	}
	if p.Code != code || p.What != what {
		t.Errorf("got  %s %s\nwant %s %s", p.Code, p.What, code, what)
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("%v is not the cause of %v (%v)", cause, err, p.Err)
	}
	if len(p.Fixes) == 0 || len(p.Fixes) > 3 || len(p.Notes) > maxNotes {
		t.Errorf("%d ways out, %d notes", len(p.Fixes), len(p.Notes))
	}
	if got := ReasonOf(err); got != reason {
		t.Errorf("reason %s, want %s", got, reason)
	}
	return p
}

func TestDialReturnsTheConnectionItself(t *testing.T) {
	s := newNameServer(t)
	s.set("web.test", records{addrs: []string{"127.0.0.1"}, ttl: 60})
	h, _ := newHere(t, s)
	port := portOf(listen(t, "127.0.0.1:0"))
	for _, host := range []string{"127.0.0.1", "web.test", "[::ffff:127.0.0.1]"} {
		c, err := h.DialContext(t.Context(), "tcp", fmt.Sprintf("%s:%d", host, port))
		if err != nil {
			t.Fatal(err)
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			t.Fatalf("%s: a %T", host, c)
		}
		if mptcp, _ := tcp.MultipathTCP(); mptcp {
			t.Error("it uses MPTCP")
		}
		c.Close()
	}
	c, err := h.DialContext(t.Context(), "udp", "web.test:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*net.UDPConn); !ok {
		t.Errorf("udp: a %T", c)
	}
}

func TestListenAndDialByPathAndAddress(t *testing.T) {
	h, _ := newHere(t, nil)
	for network, at := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		ln, err := h.Listen(t.Context(), network, at)
		if err != nil {
			t.Fatal(err)
		}
		c, err := h.DialContext(t.Context(), network, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		far.Write([]byte("ahoy"))
		far.Close()
		if got, _ := io.ReadAll(c); string(got) != "ahoy" {
			t.Errorf("%s: got %q", network, got)
		}
		c.Close()
		ln.Close()
	}
	if _, err := h.Listen(t.Context(), "udp", "127.0.0.1:0"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("udp: %v", err)
	}
	if _, err := h.DialContext(t.Context(), "ip", "127.0.0.1"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("ip: %v", err)
	}
	ln, err := h.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := h.Listen(t.Context(), "tcp", ln.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("twice: %v", err)
	}
}

func TestAnAddressThatConnectsTooLateIsClosed(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	// The first attempt stops before it connects until there is a second one,
	// so that both connect at the same moment.
	second := make(chan struct{})
	var mu sync.Mutex
	seen := 0
	d := &net.Dialer{KeepAlive: -1, Control: func(string, string, syscall.RawConn) error {
		mu.Lock()
		gate := second
		if seen++; seen%2 == 0 {
			close(second)
			second = make(chan struct{})
		}
		mu.Unlock()
		<-gate
		return nil
	}}
	to := ln.Addr().(*net.TCPAddr).AddrPort()
	before := descriptors(t)
	var won []net.Conn
	for range 8 {
		c, failed := race(t.Context(), &dialer{Dialer: *d}, "tcp", []netip.AddrPort{to, to})
		if c == nil {
			t.Fatal(failed)
		}
		won = append(won, c)
	}
	for _, c := range won {
		c.Close()
	}
	// The listener's side of a connection ends a moment after ours.
	for limit := time.After(2 * time.Second); descriptors(t) > before; {
		select {
		case <-limit:
			t.Fatalf("%d descriptors before, %d after", before, descriptors(t))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestARefusedTargetIsToldWithAllItsAddresses(t *testing.T) {
	s := newNameServer(t)
	s.set("web.test", records{addrs: []string{"127.0.0.1", "::1"}, ttl: 60})
	s.set("many.test", records{addrs: []string{"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"}, ttl: 60})
	h, _ := newHere(t, s)
	port := closedPort(t)

	address := fmt.Sprintf("127.0.0.1:%d", port)
	_, err := h.DialContext(t.Context(), "tcp", address)
	p := wantProblem(t, err, fairlead.CodeTargetRefuses, address+" refuses connections", errRefused, fairlead.Refused)
	if len(p.Notes) > 0 {
		t.Errorf("a literal needs no evidence: %v", p.Notes)
	}

	began := time.Now()
	address = fmt.Sprintf("web.test:%d", port)
	_, err = h.DialContext(t.Context(), "tcp", address)
	p = wantProblem(t, err, fairlead.CodeTargetRefuses, address+" refuses connections", errRefused, fairlead.Refused)
	if took := time.Since(began); took >= stagger {
		t.Errorf("after a failure the next address waited: %v", took)
	}
	var texts []string
	for _, n := range p.Notes {
		texts = append(texts, n.Text)
	}
	all := strings.Join(texts, "\n")
	if len(texts) != 2 || !strings.Contains(all, fmt.Sprintf("127.0.0.1:%d: connection refused", port)) ||
		!strings.Contains(all, fmt.Sprintf("[::1]:%d: ", port)) {
		t.Errorf("evidence:\n%s", all)
	}

	address = fmt.Sprintf("many.test:%d", port)
	_, err = h.DialContext(t.Context(), "tcp", address)
	p = wantProblem(t, err, fairlead.CodeTargetRefuses, address+" refuses connections", errRefused, fairlead.Refused)
	if want := "3 more addresses failed as well"; len(p.Notes) != 4 || p.Notes[3].Text != want {
		t.Errorf("notes: %v", p.Notes)
	}
}

func TestADialThatMakesNoSenseSaysWhy(t *testing.T) {
	s := newNameServer(t)
	s.set("six.test", records{addrs: []string{"2001:db8::4"}, ttl: 60})
	h, d := newHere(t, s)
	for _, c := range []struct{ network, address, want string }{
		{"tcp", "10.0.0.4", `FL-205 cannot connect to "10.0.0.4": it is not HOST:PORT, nor [IPv6]:PORT`},
		{"tcp", "2001:db8::10:443", `FL-205 cannot connect to "2001:db8::10:443": it is not HOST:PORT, nor [IPv6]:PORT`},
		{"tcp", ":80", `FL-205 cannot connect to ":80": it names no host`},
		{"tcp", "10.0.0.4:0", `FL-205 cannot connect to "10.0.0.4:0": "0" is not a port`},
		{"tcp", "10.0.0.4:65536", `FL-205 cannot connect to "10.0.0.4:65536": "65536" is not a port`},
		{"tcp", "10.0.0.4:no-such", `FL-205 cannot connect to "10.0.0.4:no-such": "no-such" is not a port`},
		{"tcp4", "[::1]:80", `FL-211 ::1 is an IPv6 address, but IPv4 is needed`},
		{"tcp6", "127.0.0.1:80", `FL-211 127.0.0.1 is an IPv4 address, but IPv6 is needed`},
		{"udp4", "six.test:80", `FL-211 "six.test" has only IPv6 addresses, but IPv4 is needed`},
		{"tcp", "[fe80::1%no-such0]:80", `FL-203 fe80::1%no-such0 cannot be reached: this host has no interface "no-such0"`},
	} {
		_, err := h.DialContext(t.Context(), c.network, c.address)
		p := fairlead.AsProblem(err)
		if p == nil {
			t.Errorf("%s %s: connected", c.network, c.address)
			continue
		}
		if diff := cmp.Diff(c.want, string(p.Code)+" "+p.What); diff != "" {
			t.Error(diff)
		}
		if len(p.Fixes) == 0 {
			t.Errorf("%s: no way out", p.What)
		}
	}
	if dialed := d.read(); len(dialed) > 0 {
		t.Errorf("and yet dialed %v", dialed)
	}
}

func TestUnixSocketsThatCannotBeReachedSayWhy(t *testing.T) {
	h, _ := newHere(t, nil)
	dir := t.TempDir()
	missing, file, left, datagram := dir+"/missing", dir+"/file", dir+"/left", dir+"/datagram"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	pc, err := net.ListenPacket("unixgram", datagram)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()

	dial := func(path string) error {
		_, err := h.DialContext(t.Context(), "unix", path)
		return err
	}
	wantProblem(t, dial(missing), fairlead.CodeNoSocket, "there is no unix socket at "+missing, os.ErrNotExist, fairlead.Unreachable)
	wantProblem(t, dial(file+"/s"), fairlead.CodeNoSocket, "there is no unix socket at "+file+"/s", syscall.ENOTDIR, fairlead.Unreachable)
	wantProblem(t, dial(file), fairlead.CodeNoSocket, file+" is a file, but no unix socket", errRefused, fairlead.Unreachable)
	wantProblem(t, dial(left), fairlead.CodeTargetRefuses, "unix:"+left+" refuses connections", errRefused, fairlead.Refused)
	wantProblem(t, dial(datagram), fairlead.CodeNoSocket, "the unix socket at "+datagram+" is of another type (protocol wrong type for socket)", errProtoType, fairlead.Unreachable)
}

func TestACancelledDialSaysSo(t *testing.T) {
	h, _ := newHere(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for network, address := range map[string]string{"tcp": "127.0.0.1:9", "unix": t.TempDir() + "/s"} {
		if _, err := h.DialContext(ctx, network, address); !errors.Is(err, context.Canceled) || ReasonOf(err) != fairlead.Failed {
			t.Errorf("%s: %v", network, err)
		}
	}
}

func TestFamiliesAlternateAndTheWinnerLeads(t *testing.T) {
	addrs := func(text string) (all []netip.Addr) {
		for word := range strings.FieldsSeq(text) {
			all = append(all, netip.MustParseAddr(word))
		}
		return all
	}
	for _, c := range []struct{ in, winner, out string }{
		{"", "", ""},
		{"1.1.1.1", "", "1.1.1.1"},
		{"::1 ::2 ::3 1.1.1.1", "", "::1 1.1.1.1 ::2 ::3"},
		{"1.1.1.1 1.1.1.2 ::1 ::2", "", "1.1.1.1 ::1 1.1.1.2 ::2"},
		{"::1 ::2 1.1.1.1 1.1.1.2", "1.1.1.2", "1.1.1.2 ::1 1.1.1.1 ::2"},
		{"::1 ::2 1.1.1.1", "::2", "::2 1.1.1.1 ::1"},
		{"::1 1.1.1.1", "9.9.9.9", "::1 1.1.1.1"},
	} {
		var winner netip.Addr
		if c.winner != "" {
			winner = netip.MustParseAddr(c.winner)
		}
		if diff := cmp.Diff(fmt.Sprint(addrs(c.out)), fmt.Sprint(interleave(addrs(c.in), winner))); diff != "" {
			t.Errorf("%s, winner %q: %s", c.in, c.winner, diff)
		}
	}
}

func TestSpansAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 300 * time.Millisecond: "300 ms", 5*time.Second + 3*time.Millisecond: "5 s",
		1540 * time.Millisecond: "1.5 s", 2 * time.Minute: "120 s",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

func TestErrorsOfOtherPlacesHaveReasonsAsWell(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fairlead.Reason
	}{
		{errRefused, fairlead.Refused},
		{errHostUnreach, fairlead.Unreachable},
		{errTimedOut, fairlead.DialTimeout},
		{context.DeadlineExceeded, fairlead.DialTimeout},
		{errAgain, fairlead.Failed}, // no port left; it says of itself that it is a timeout
		{errNoAddress, fairlead.Failed},
		{errTooManyAll, fairlead.NoDescriptors},
		{fairlead.Problemf(fairlead.CodeLoop, "a loop"), fairlead.Loop},
		{io.ErrUnexpectedEOF, fairlead.Failed},
	} {
		if got := ReasonOf(fmt.Errorf("by way of a jump host: %w", c.err)); got != c.want {
			t.Errorf("%v: %s, want %s", c.err, got, c.want)
		}
	}
}
