package relay_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/place"
	"fairlead/internal/relay"
)

// gate is a place whose dials wait until it opens.
type gate struct {
	fairlead.Place
	waiting chan struct{} // one value for each dial that waits
	open    chan struct{}
}

func newGate(t testing.TB) *gate {
	here := place.New(place.Config{})
	t.Cleanup(here.Close)
	return &gate{Place: here, waiting: make(chan struct{}, 1<<20), open: make(chan struct{})}
}

func (g *gate) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	g.waiting <- struct{}{}
	select {
	case <-g.open:
		return g.Place.DialContext(ctx, network, address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gate) config() relay.Config {
	return relay.Config{Place: func(string) (fairlead.Place, error) { return g, nil }}
}

// unchecked leaves targets in peace, so that only clients dial.
func unchecked(f *fairlead.Forward) { f.Policy.Check.How = "off" }

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// What happens to connections all day long, in any order: whatever it was,
// nothing of it is counted or held afterwards.
func TestNothingIsLeftOfAnyMixtureOfTrouble(t *testing.T) {
	lab.CheckLeaks(t)
	dir := t.TempDir()
	echo := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	stuck := lab.Serve(t, lab.At{Network: "tcp"}, lab.NeverRead)
	resets := lab.Serve(t, lab.At{Network: "tcp"}, lab.Reset(lab.Stream(1), 64<<10, 10))
	refused := lab.Refused(t, lab.At{Network: "tcp"})
	udp := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	r := newRelay(t, relay.Config{Descriptors: 400})

	limits := func(f *fairlead.Forward) { f.Policy.MaxConns, f.Policy.MaxConnsPerSource = 60, 40 }
	quick := func(f *fairlead.Forward) {
		f.Policy.Linger, f.Policy.Idle, f.Policy.MaxLifetime = 300*time.Millisecond, time.Second, 3*time.Second
	}
	kept := wish(t, "echo", fairlead.TCP, echo.Address, limits)
	forwards := []*fairlead.Forward{
		kept,
		wish(t, "stuck", fairlead.TCP, stuck.Address, quick),
		wish(t, "resets", fairlead.TCP, resets.Address),
		wish(t, "refused", fairlead.TCP, refused, limits),
		wish(t, "udp", fairlead.UDP, udp.Address, limits),
		wish(t, "denied", fairlead.TCP, echo.Address, func(f *fairlead.Forward) {
			f.Policy.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}),
		wish(t, "unix", fairlead.TCP, echo.Address, func(f *fairlead.Forward) {
			f.At = fairlead.Spot{Unix: filepath.Join(dir, "s"), Net: fairlead.TCP}
		}),
	}
	r.Apply(t.Context(), forwards)

	length := 8 * time.Second
	if testing.Short() {
		length = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() { misbehave(ctx, rand.New(rand.NewPCG(1, uint64(i))), forwards) })
	}
	rnd := rand.New(rand.NewPCG(2, 2))
	for round := 0; ctx.Err() == nil; round++ { // the operator, who is not calm either
		some := append([]*fairlead.Forward{kept}, forwards[1:1+rnd.IntN(len(forwards))]...)
		r.Apply(t.Context(), some)
		switch round % 4 {
		case 0:
			r.Kill(fairlead.Match{Forward: forwards[rnd.IntN(len(forwards))].Name})
		case 1:
			r.Kill(fairlead.Match{Client: parseAddr("127.0.0.1")})
		case 2:
			for _, c := range r.Conns() {
				r.Kill(fairlead.Match{ID: c.ID})
				break
			}
		}
		r.Report()
		<-time.After(time.Duration(rnd.IntN(40)) * time.Millisecond)
	}
	clients.Wait()
	r.Apply(t.Context(), forwards)
	defer func() {
		if left := r.Left(); left != "" {
			t.Error(left)
		}
	}()
	eventually(t, "nothing is left", func() bool {
		r.Kill(fairlead.Match{Forward: "udp"}) // which would stay for their minute
		return r.Left() == ""
	})
}

// misbehave does to the forwards what clients do, until ctx ends.
func misbehave(ctx context.Context, rnd *rand.Rand, forwards []*fairlead.Forward) {
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		f := forwards[rnd.IntN(len(forwards))]
		network, address := "tcp", ""
		switch {
		case f.At.Unix != "":
			network, address = "unix", f.At.Unix
		case f.At.Net == fairlead.UDP:
			network, address = "udp", entryOf(f)
		default:
			address = entryOf(f)
		}
		c, err := net.Dial(network, address)
		if err != nil {
			<-time.After(time.Millisecond) // it is not there at the moment
			continue
		}
		c.SetDeadline(time.Now().Add(time.Duration(1+rnd.IntN(300)) * time.Millisecond))
		n := 1 + rnd.IntN(1<<uint(rnd.IntN(18)))
		if network == "udp" {
			n = rnd.IntN(2000)
		}
		c.Write(buf[:n])
		switch rnd.IntN(6) {
		case 0:
			reset(c)
		case 1:
			if h, ok := c.(interface{ CloseWrite() error }); ok {
				h.CloseWrite()
			}
			io.ReadAll(c)
		case 2:
			io.ReadAtLeast(c, buf, n/2)
			reset(c)
		case 3:
			if h, ok := c.(interface{ CloseWrite() error }); ok {
				h.CloseWrite()
			}
			c.Read(buf)
			reset(c)
		case 4:
			io.ReadAtLeast(c, buf, n)
		}
		c.Close()
	}
}

func TestKillCutsAConnectionThatWaitsToFlush(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, func(v *lab.Visit) {
		v.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		v.Conn.Write(make([]byte, 16<<20)) // more than all buffers on the way
		lab.ResetConn(v.Conn)
	})
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	dial(t, entryOf(f)) // which reads nothing
	eventually(t, "the reset was noticed", func() bool { return r.Over() > 0 })
	if n := len(r.Conns()); n != 1 {
		t.Fatalf("%d connections are there, want the one that waits for its client", n)
	}
	if n := r.Kill(fairlead.Match{Forward: "web"}); n != 1 {
		t.Errorf("Kill ended %d connections, want 1", n)
	}
	within(t, time.Second, "the killed connection is gone", func() bool { return len(r.Conns()) == 0 })

}

// within is for what may not wait for another bound, which is several times d.
func within(t testing.TB, d time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for !done() {
		if time.Now().After(deadline) {
			t.Errorf("after %v still not: %s", d, what)
			return
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestDrainWaitsForAClientWhoseTargetIsBeingDialed(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	g := newGate(t)
	r := newRelay(t, g.config())
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dial(t, entryOf(f))
	<-g.waiting
	drained := make(chan int)
	go func() { drained <- r.Drain(t.Context()) }()
	select {
	case <-drained:
		t.Fatal("Drain went without a client that was let in already")
	case <-time.After(200 * time.Millisecond):
	}
	close(g.open)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := <-drained; n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestLingerIsOneLingerLong(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.HoldOpen)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { f.Policy.Linger = 3 * time.Second })
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dial(t, entryOf(f))
	c.Write([]byte("x"))
	c.CloseWrite()
	began := time.Now()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the target holds its side open, and the client got %v", err)
	}
	if d := time.Since(began); d < 2900*time.Millisecond || d > 5*time.Second {
		t.Errorf("linger 3s took %v", d)
	}
}

func TestConnectionsAreToldOpenBeforeClosed(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Echo)
	udp := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	tcp, dns := wish(t, "web", fairlead.TCP, peer.Address), wish(t, "dns", fairlead.UDP, udp.Address)
	r.Apply(t.Context(), []*fairlead.Forward{tcp, dns})
	stop := make(chan struct{})
	var killers sync.WaitGroup
	killers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.Kill(fairlead.Match{Client: parseAddr("127.0.0.1")})
			}
		}
	})
	for range 300 {
		if c, err := net.Dial("tcp", entryOf(tcp)); err == nil {
			c.Close()
		}
		c, err := net.Dial("udp", entryOf(dns))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("x"))
		c.Close()
	}
	eventually(t, "everything ended", func() bool { return r.Left() == "" })
	close(stop)
	killers.Wait()
	ev.mu.Lock()
	defer ev.mu.Unlock()
	closed := map[string]bool{}
	wrong := 0
	for _, e := range ev.all {
		if e.Conn == nil || e.Conn.ID == "" {
			continue
		}
		switch e.Kind {
		case fairlead.EventOpen:
			if closed[e.Conn.ID] {
				wrong++
			}
		case fairlead.EventClose:
			closed[e.Conn.ID] = true
		}
	}
	if wrong > 0 {
		t.Errorf("%d connections were told open after they were told closed", wrong)
	}
}

func TestAfterCloseNothingIsOpened(t *testing.T) {
	lab.CheckLeaks(t)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1")
	r.Close()
	st := r.Apply(t.Context(), []*fairlead.Forward{f})
	if len(st) != 1 || st[0].State != fairlead.Broken || st[0].Problem == nil {
		t.Errorf("a closed relay says %+v", st)
	}
	if c, err := net.Dial("tcp", entryOf(f)); err == nil {
		c.Close()
		t.Error("a closed relay listens")
	}
	r.Close()
}

func TestAnEarlyResetEndsBothSidesInEachState(t *testing.T) {
	lab.CheckLeaks(t)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	for _, c := range []struct {
		name string
		does lab.Behaviour
		do   func(c *net.TCPConn)
		want fairlead.Reason
	}{
		{"reset after half-close", lab.HoldOpen, func(c *net.TCPConn) { c.CloseWrite(); c.SetLinger(0); c.Close() }, fairlead.ClientReset},
		{"reset in the middle", lab.HoldOpen, func(c *net.TCPConn) { c.Write(make([]byte, 100)); reset(c) }, fairlead.ClientReset},
		{"the target closes, then the client", lab.Banner("bye"), func(c *net.TCPConn) { io.ReadAll(c); c.Close() }, fairlead.TargetClosed},
		{"the target closes, then the client resets", lab.Banner("bye"), func(c *net.TCPConn) { io.ReadAll(c); reset(c) }, fairlead.ClientReset},
		{"the client closes, then the target", lab.EchoAfterEOF, func(c *net.TCPConn) { c.Write([]byte("x")); c.CloseWrite(); io.ReadAll(c); c.Close() }, fairlead.ClientClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			peer := lab.Serve(t, lab.At{Network: "tcp"}, c.does)
			f := wish(t, fmt.Sprintf("f%p", c.do), fairlead.TCP, peer.Address, unchecked)
			r.Apply(t.Context(), []*fairlead.Forward{f})
			conn := dial(t, entryOf(f))
			eventually(t, "it is connected", func() bool { return len(r.Conns()) == 1 })
			c.do(conn)
			var got fairlead.Reason
			eventually(t, "it ended", func() bool {
				return ev.count(func(e fairlead.Event) bool {
					if e.Kind == fairlead.EventClose && e.Forward == f.Name {
						got = e.Reason
						return true
					}
					return false
				}) > 0
			})
			if got != c.want {
				t.Errorf("the reason is %q, want %q", got, c.want)
			}
		})
	}
}

// Ten thousand beginnings a second are not described for nobody.
func TestBeginningsAreToldToWhoWantsToKnow(t *testing.T) {
	lab.CheckLeaks(t)
	tcp, udp := lab.Serve(t, lab.At{}, lab.Echo), lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	for _, goroutines := range []bool{false, true} {
		for _, wanted := range []bool{false, true} {
			var ev events
			r := newRelay(t, relay.Config{Watch: ev.watch, Goroutines: goroutines, Wanted: func(k fairlead.EventKind) bool {
				return k != fairlead.EventOpen || wanted
			}})
			web, dns := wish(t, "web", fairlead.TCP, tcp.Address), wish(t, "dns", fairlead.UDP, udp.Address)
			r.Apply(t.Context(), []*fairlead.Forward{web, dns})
			c := dial(t, entryOf(web))
			c.Write([]byte("x"))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			mustAsk(t, dialUDP(t, entryOf(dns)), "x")
			r.Kill(fairlead.Match{Forward: "web"})
			r.Kill(fairlead.Match{Forward: "dns"})
			eventually(t, "both ends are told", func() bool {
				return ev.count(func(e fairlead.Event) bool { return e.Kind == fairlead.EventClose }) == 2
			})
			opened := ev.count(func(e fairlead.Event) bool { return e.Kind == fairlead.EventOpen })
			if want := map[bool]int{false: 0, true: 2}[wanted]; opened != want {
				t.Errorf("goroutines %v: %d beginnings were told, want %d", goroutines, opened, want)
			}
		}
	}
}
