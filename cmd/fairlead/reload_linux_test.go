package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
)

// TestReloadsOfOtherForwardsDisturbNothing reloads the service a thousand
// times, each time with other forwards beside the three that carry load:
// requests and fresh connections, transfers that last all the while, and a
// flow of datagrams. Broken files come between.
func TestReloadsOfOtherForwardsDisturbNothing(t *testing.T) {
	wrk := lab.NeedTool(t, "wrk")
	lab.CheckLeaks(t)

	web := serveHTTP(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	sources := &sourceSet{seen: map[netip.AddrPort]bool{}}
	udp := lab.ServeUDP(t, lab.At{}, sources.echo)
	webAt, echoAt, udpAt := freePort(t), freePort(t), freePort(t)
	kept := fmt.Sprintf("web: forward %s to %s\necho: forward %s to %s\nudp: forward %s/udp to %s\n",
		webAt, web, echoAt, echo.Address, udpAt, udp.Address)

	s := spec{}
	if raceDetector {
		s.path = raced(t)
	}
	v := s.up(t, kept)
	o := &others{kept: kept, ports: lab.FreePorts(t, nil, loopback, otherPorts), dir: v.dir}
	for range 20 {
		o.shuffle()
	}
	reload(t, v, o.text(), 0) // all loops run from now on
	reload(t, v, kept, 0)
	o.have = nil
	carries(t, echoAt)
	if c, err := net.Dial("udp", udpAt); err != nil {
		t.Fatal(err)
	} else if err := errors.Join(exchange(c), c.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first connection is gone", func() bool { return len(v.sockets()) == 0 })
	before, pipesBefore := v.descriptors()

	// The load runs until the reloads are done.
	stop := make(chan struct{})
	var load sync.WaitGroup
	var requests, fresh, rounds int64
	load.Go(func() { requests = wrkUntil(t, stop, wrk, "http://"+webAt+"/") })
	load.Go(func() { fresh = connectUntil(t, stop, echoAt) })
	for i := range 20 {
		load.Go(func() { longTransfer(t, stop, echoAt, lab.Stream(i)) })
	}
	load.Go(func() { rounds = datagramsUntil(t, stop, udpAt) })

	n := 1000
	if *soak {
		n = 10000
	}
	for i := range n {
		if t.Failed() {
			break
		}
		o.shuffle()
		if i%25 == 24 {
			brokenReload(t, v, o, i)
		}
		reload(t, v, o.text(), i)
		if i%20 == 0 {
			o.check(t, v.status())
		}
	}
	close(stop)
	load.Wait()
	t.Logf("%d requests, %d fresh connections and %d datagrams through %d reloads", requests, fresh, rounds, n)

	if n := sources.len() - 1; n != 1 {
		t.Errorf("the flow of datagrams had %d sessions, want 1", n)
	}
	reload(t, v, kept, 0)
	held := 0
	defer func() { t.Logf("%d descriptors at last, %d at first", held, before-pipesBefore) }()
	eventually(t, "the service holds what it held before, and the session of the datagrams", func() bool {
		all, pipes := v.descriptors()
		held = all - pipes
		return len(v.sockets()) == 0 && held <= before-pipesBefore+1
	})
	v.signal(syscall.SIGTERM)
	v.ends(exitOK)
	if strings.Contains(v.stderr.String(), "DATA RACE") {
		t.Errorf("the service has a data race:\n%s", v.stderr)
	}
}

// reload writes the file and has it read, in one of three ways.
func reload(t *testing.T, v *unit, text string, i int) {
	t.Helper()
	write(t, v.conf, text)
	mark := v.stderr.mark()
	switch {
	case i%50 == 1:
		out, err := exec.Command(filepath.Join(bin, "fairlead"), "reload", "--socket", v.socket).CombinedOutput()
		if err != nil {
			t.Errorf("fairlead reload: %v\n%s", err, out)
		}
	case i%2 == 0:
		v.signal(syscall.SIGHUP)
	default:
		if _, err := v.client.Reload(t.Context(), false); err != nil {
			t.Errorf("reload: %v", err)
		}
	}
	v.saysAfter(mark, `msg="the file was read again"`)
}

// brokenReload has a file read that has an error in it: nothing changes, and
// status says so until the next good one.
func brokenReload(t *testing.T, v *unit, o *others, i int) {
	t.Helper()
	before := names(v.status())
	write(t, v.conf, o.text()+"broken: forward nowhere\n")
	if i%2 == 0 {
		v.signal(syscall.SIGHUP)
		eventually(t, "status shows file_error", func() bool { return v.status().FileError != nil })
	} else {
		var refusal *control.Refusal
		if _, err := v.client.Reload(t.Context(), false); !errors.As(err, &refusal) || len(refusal.Causes) != 1 {
			t.Errorf("reload of a broken file: %v, want one cause", err)
		}
	}
	st := v.status()
	if st.FileError == nil || st.FileError.Code != "FL-807" {
		t.Errorf("status has file_error %v, want FL-807", st.FileError)
	}
	if now := names(st); !slices.Equal(now, before) {
		t.Errorf("a broken file changed the forwards from\n%q to\n%q", before, now)
	}
}

func names(st *control.Status) []string {
	var list []string
	for _, f := range st.Forwards {
		list = append(list, f.Name+": "+f.Expr)
	}
	slices.Sort(list)
	return list
}

// others are the forwards that come, change and go.
type others struct {
	kept  string
	dir   string
	ports netip.AddrPort // the first of otherPorts
	have  map[int]string // by slot
}

const otherPorts = 16

// shuffle adds, changes and removes.
func (o *others) shuffle() {
	if o.have == nil {
		o.have = map[int]string{}
	}
	for range 1 + rand.IntN(6) {
		slot := rand.IntN(otherPorts + 2)
		if rand.IntN(3) == 0 {
			delete(o.have, slot)
			continue
		}
		listen := fmt.Sprintf("127.0.0.1:%d", int(o.ports.Port())+slot)
		switch {
		case slot >= otherPorts:
			listen = fmt.Sprintf("unix:%s/%d.sock", o.dir, slot)
		case slot%3 == 0:
			listen += "/udp"
		case slot%3 == 1:
			listen += "/tcp+udp"
		}
		target := "127.0.0.1:9"
		if slot >= otherPorts {
			target = "unix:" + o.dir + "/nobody"
		}
		idle := ""
		if rand.IntN(2) == 0 {
			idle = fmt.Sprintf("idle %ds", 1+rand.IntN(50))
		}
		o.have[slot] = fmt.Sprintf("other-%d: forward %s to %s %s\n", slot, listen, target, idle)
	}
}

// text is the file, with the others around those that stay.
func (o *others) text() string {
	var b strings.Builder
	for slot := range otherPorts + 2 {
		if slot == rand.IntN(otherPorts) || slot == otherPorts+1 {
			if !strings.Contains(b.String(), o.kept) {
				b.WriteString(o.kept)
			}
		}
		b.WriteString(o.have[slot])
	}
	return b.String()
}

// check asserts that the service carries exactly what the file says, and that
// it listens there and nowhere else.
func (o *others) check(t *testing.T, st *control.Status) {
	t.Helper()
	got := map[string]bool{}
	for _, f := range st.Forwards {
		got[f.Name] = true
		if len(f.Bound) == 0 {
			t.Errorf("%s is bound nowhere: %v", f.Name, f.Error)
		}
	}
	if len(got) != len(o.have)+3 || st.FileError != nil {
		t.Errorf("%d forwards, want %d; file_error %v", len(got), len(o.have)+3, st.FileError)
	}
	for slot := range otherPorts {
		if slot%3 == 0 {
			continue
		}
		_, want := o.have[slot]
		c, err := net.Dial("tcp", netip.AddrPortFrom(o.ports.Addr(), o.ports.Port()+uint16(slot)).String())
		if err == nil {
			c.Close()
		}
		if !isRefused(err) != want { // reset is the dead target's answer

			t.Errorf("slot %d: dial gives %v, in the file: %v", slot, err, want)
		}
	}
}

// serveHTTP is a web server at the address it returns.
func serveHTTP(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("ok ", 100))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Serve(ln)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return ln.Addr().String()
}

// wrkUntil has wrk make requests, and returns how many; one that failed is a
// failure of the test. wrk counts what fails only in words.
func wrkUntil(t *testing.T, stop <-chan struct{}, wrk, url string) int64 {
	cmd := exec.Command(wrk, "-t1", "-c8", "-d10m", "--timeout", "10s", url)
	out := newTranscript()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return 0
	}
	<-stop
	cmd.Process.Signal(syscall.SIGINT) // it prints what it has
	if err := cmd.Wait(); err != nil {
		t.Errorf("wrk: %v", err)
	}
	m := regexp.MustCompile(`(\d+) requests in`).FindStringSubmatch(out.String())
	if m == nil || strings.Contains(out.String(), "Socket errors") || strings.Contains(out.String(), "Non-2xx") {
		t.Errorf("wrk says:\n%s", out)
		return 0
	}
	var n int64
	fmt.Sscan(m[1], &n)
	return n
}

// connectUntil makes one connection after the other, each with a small
// transfer.
func connectUntil(t *testing.T, stop <-chan struct{}, address string) (n int64) {
	for ; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		x := lab.Transfer{
			Network: "tcp", Address: address, Seed: uint64(n), Size: n % 3000,
			// Several addresses, so that ports do not run out (TIME-WAIT).
			Local: netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + n%64)}),
		}
		if err := x.Run(context.Background()); err != nil {
			t.Error(err)
			return n
		}
	}
}

// longTransfer sends without end until it is told to stop, and verifies every
// byte of the echo.
func longTransfer(t *testing.T, stop <-chan struct{}, address string, s lab.Stream) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	total := make(chan int64, 1)
	go func() {
		pause := time.NewTicker(20 * time.Millisecond) // load, not synchronisation
		defer pause.Stop()
		buf := make([]byte, 32<<10)
		for off := int64(0); ; {
			select {
			case <-stop:
				c.(*net.TCPConn).CloseWrite()
				total <- off
				return
			case <-pause.C:
			}
			p := buf[:1+rand.IntN(len(buf))]
			s.ReadAt(p, off)
			if _, err := c.Write(p); err != nil {
				total <- off
				return // the reader will say why
			}
			off += int64(len(p))
		}
	}()
	buf := make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := c.Read(buf[:32<<10])
		if bad := s.Check(buf[:n], off, buf[32<<10:]); bad != nil {
			t.Errorf("long transfer %d: %v", s, bad)
		}
		off += int64(n)
		if err != nil {
			c.Close()
			if sent := <-total; err != io.EOF || off != sent {
				t.Errorf("long transfer %d ended after %d bytes of %d: %v", s, off, sent, err)
			}
			return
		}
	}
}

// datagramsUntil sends datagrams with sequence numbers to an echo, up to 64
// ahead, and asserts that each comes back once and in order.
func datagramsUntil(t *testing.T, stop <-chan struct{}, address string) (sent int64) {
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer c.Close()
	tick := time.NewTicker(2 * time.Millisecond) // load, not synchronisation
	defer tick.Stop()
	window := make(chan struct{}, 64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 64)
		for want := int64(0); ; want++ {
			n, err := c.Read(buf)
			if err != nil || n != 8 {
				return
			}
			if got := int64(binary.BigEndian.Uint64(buf)); got != want {
				t.Errorf("datagram %d came back where %d was due", got, want)
				return
			}
			<-window
		}
	}()
	defer func() {
		c.Close()
		<-ended
	}()
	for {
		select {
		case <-stop:
			// All are back when the window can be filled.
			for range cap(window) {
				select {
				case window <- struct{}{}:
				case <-time.After(patience):
					t.Errorf("of %d datagrams, some are lost", sent)
					return sent
				}
			}
			return sent
		case <-ended:
			return sent
		case <-tick.C:
		}
		select {
		case window <- struct{}{}:
		case <-ended:
			return sent
		case <-time.After(patience):
			t.Errorf("of %d datagrams, 64 are lost", sent)
			return sent
		}
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, uint64(sent))); err != nil {
			t.Errorf("datagram %d: %v", sent, err)
			return sent
		}
		sent++
	}
}

// A sourceSet notes where datagrams came from.
type sourceSet struct {
	mu   sync.Mutex // guards the rest
	seen map[netip.AddrPort]bool
}

func (s *sourceSet) echo(datagram []byte, from netip.AddrPort) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[from] = true
	return [][]byte{datagram}
}

func (s *sourceSet) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}
