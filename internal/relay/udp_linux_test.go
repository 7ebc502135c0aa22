package relay_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/place"
	"fairlead/internal/relay"
)

func dialUDP(t testing.TB, address string) *net.UDPConn {
	t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.UDPConn)
}

// mustAsk sends text and expects it back.
func mustAsk(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != text {
		t.Fatalf("asked %q, heard %q, %v", text, b[:n], err)
	}
}

func TestDatagramsThatCameDuringTheDialKeepTheirOrder(t *testing.T) {
	lab.CheckLeaks(t)
	got := make(chan uint32, 1<<16)
	peer := lab.ServeUDP(t, lab.At{}, func(d []byte, _ netip.AddrPort) [][]byte {
		got <- binary.BigEndian.Uint32(d)
		return nil
	})
	for round := range 30 {
		g := newGate(t)
		r := relay.New(g.config())
		f := wish(t, "game", fairlead.UDP, peer.Address)
		r.Apply(t.Context(), []*fairlead.Forward{f})
		c := dialUDP(t, entryOf(f))
		const n = 40
		d := make([]byte, 1000)
		for i := range uint32(n) {
			if i == 15 {
				<-g.waiting
				close(g.open)
			}
			binary.BigEndian.PutUint32(d, i)
			c.Write(d)
		}
		eventually(t, "all are through or dropped", func() bool {
			return int64(len(got))+r.Report()[0].Meter.Dropped.Load() == n
		})
		r.Close()
		for last := int64(-1); len(got) > 0; {
			i := int64(<-got)
			if i < last {
				t.Fatalf("round %d: datagram %d arrived after %d", round, i, last)
			}
			last = i
		}
	}
}

// A client that cannot be reached fills the socket's queue with answers.
func TestAClientThatCannotBeReachedHoldsUpNobodyElse(t *testing.T) {
	lab.CheckLeaks(t)
	lab.NeedRoot(t)
	n := lab.NewNet(t)
	client, gateway := n.Host("client"), n.Host("gateway")
	n.Wire(client, "eth0", gateway, "lan0")
	client.Addr("eth0", "10.9.0.2/24")
	gateway.Addr("lan0", "10.9.0.1/24")
	here := func(at netip.Addr) lab.At { return lab.At{Network: "udp", Host: gateway, Address: at.String() + ":0"} }
	flood := lab.ServeUDP(t, here(parseAddr("10.9.0.1")), func(d []byte, _ netip.AddrPort) [][]byte {
		answers := make([][]byte, 300)
		for i := range answers {
			answers[i] = make([]byte, 1400)
		}
		return answers
	})
	echo := lab.ServeUDP(t, here(parseAddr("10.9.0.1")), lab.UDPEcho)
	r := newRelay(t, relay.Config{Place: func(string) (fairlead.Place, error) { return gateway, nil }})
	there := func(f *fairlead.Forward) { f.At.Addr = parseAddr("10.9.0.1") }
	big, small := wish(t, "big", fairlead.UDP, flood.Address, there), wish(t, "small", fairlead.UDP, echo.Address, there)
	if err := gateway.Do(func() error {
		for _, st := range r.Apply(t.Context(), []*fairlead.Forward{big, small}) {
			if st.Problem != nil {
				return st.Problem
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c, err := client.DialContext(t.Context(), "udp", entryOf(small))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	mustAsk(t, c, "hello")
	for i := range 8 { // nobody has these addresses, so nobody answers for them
		if err := client.Do(func() error {
			forge(t, fmt.Sprintf("10.9.0.%d:1000", 100+i), entryOf(big), "flood me")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the target answers", func() bool { return flood.Count.Load() == 8 })
	c.SetDeadline(time.Now().Add(time.Second)) // the queue of an unknown neighbour lives three times as long
	mustAsk(t, c, "still there?")
}

func TestAForwardOfDatagramsToItselfIsRefused(t *testing.T) {
	lab.CheckLeaks(t)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	one, two, self := wish(t, "one", fairlead.UDP, "127.0.0.1:1"), wish(t, "two", fairlead.UDP, "127.0.0.1:1"), wish(t, "self", fairlead.UDP, "127.0.0.1:1")
	one.To[0].Ports, two.To[0].Ports, self.To[0].Ports = two.At.Ports, one.At.Ports, nil
	r.Apply(t.Context(), []*fairlead.Forward{one, two, self})
	for _, f := range []*fairlead.Forward{one, self} {
		dialUDP(t, entryOf(f)).Write([]byte("round and round"))
	}
	eventually(t, "the loops are told", func() bool {
		return ev.count(func(e fairlead.Event) bool { return e.Reason == fairlead.Loop }) >= 2
	})
	for _, st := range r.Report() {
		if n := st.Meter.Flows.Load(); n > 1 {
			t.Errorf("%s: one datagram made %d sessions", st.Forward.Name, n)
		}
	}
}

func TestTwoForwardsInACircleAreRefused(t *testing.T) {
	lab.CheckLeaks(t)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	one, two := wish(t, "one", fairlead.TCP, "127.0.0.1:1", unchecked), wish(t, "two", fairlead.TCP, "127.0.0.1:1", unchecked)
	one.To[0].Ports, two.To[0].Ports = two.At.Ports, one.At.Ports
	r.Apply(t.Context(), []*fairlead.Forward{one, two})
	knock(t, entryOf(one))
	eventually(t, "the loop is told", func() bool { return ev.ended(fairlead.Loop) })
	if n := ev.count(func(e fairlead.Event) bool { return e.Kind == fairlead.EventClose }); n > 2 {
		t.Errorf("%d connections ended, want the client's alone", n)
	}
}

// A failover that leads through another forward of ours is no circle.
func TestAForwardThroughAnotherIsNoCircle(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("hello"))
	r := newRelay(t, relay.Config{})
	inner := wish(t, "inner", fairlead.TCP, peer.Address, unchecked)
	outer := wish(t, "outer", fairlead.TCP, entryOf(inner), unchecked)
	inner.To = append(inner.To, fairlead.Target{Host: "127.0.0.1", Ports: outer.At.Ports})
	r.Apply(t.Context(), []*fairlead.Forward{inner, outer})
	if got := says(t, "tcp", entryOf(outer)); got != "hello" {
		t.Errorf("got %q", got)
	}
}

// A source that claims to be a listener of ours would never stop talking.
func TestADatagramThatClaimsToComeFromAListenerIsDropped(t *testing.T) {
	lab.CheckLeaks(t)
	lab.NeedRoot(t) // to forge it
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	r := newRelay(t, relay.Config{})
	one, two := wish(t, "one", fairlead.UDP, echo.Address), wish(t, "two", fairlead.UDP, echo.Address)
	r.Apply(t.Context(), []*fairlead.Forward{one, two})
	forge(t, entryOf(one), entryOf(two), "ping")
	eventually(t, "it is counted", func() bool { return r.Report()[1].Meter.Refused.Load() == 1 })
	for _, st := range r.Report() {
		if n := st.Meter.Flows.Load(); n > 0 {
			t.Errorf("%s: %d sessions", st.Forward.Name, n)
		}
	}
}

// forge sends a datagram over loopback with a source of its own choice.
func forge(t *testing.T, from, to, text string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, datagram(from, to, text), 0, &unix.SockaddrInet4{Addr: netip.MustParseAddrPort(to).Addr().As4()}); err != nil {
		t.Fatal(err)
	}
}

// datagram is an IPv4 packet (RFC 791, 768) without checksums, of which the
// kernel fills in the one that matters.
func datagram(from, to, text string) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	p := make([]byte, 28, 28+len(text))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(text)))
	copy(p[12:], src.Addr().AsSlice())
	copy(p[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[20:], src.Port())
	binary.BigEndian.PutUint16(p[22:], dst.Port())
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(text)))
	return append(p, text...)
}

func TestAFloodOfForgedSourcesIsBounded(t *testing.T) {
	lab.CheckLeaks(t)
	lab.NeedRoot(t) // to forge them
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPSilent)
	r := newRelay(t, relay.Config{Descriptors: 600})
	f := wish(t, "dns", fairlead.UDP, echo.Address)
	web := wish(t, "web", fairlead.TCP, lab.Serve(t, lab.At{}, lab.Echo).Address)
	r.Apply(t.Context(), []*fairlead.Forward{f, web})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n := 100_000
	if testing.Short() || raceEnabled {
		n = 20_000
	}
	most, goroutines := 0, runtime.NumGoroutine()
	p := datagram("127.0.0.1:1", entryOf(f), "hello")
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	for i := range n {
		p[13], p[14], p[15] = byte(1+i>>16), byte(i>>8), byte(i)
		binary.BigEndian.PutUint16(p[20:], uint16(1024+i%60000))
		unix.Sendto(fd, p, 0, to)
		if i%500 == 0 {
			most = max(most, runtime.NumGoroutine()-goroutines)
		}
	}
	if got := len(r.Conns()); got > 600 {
		t.Errorf("%d sessions live", got)
	}
	if most > 1100 {
		t.Errorf("up to %d goroutines ran", most)
	}
	c := dialUDP(t, entryOf(f))
	eventually(t, "a new client has its session", func() bool {
		c.Write([]byte("hello"))
		for _, x := range r.Conns() {
			if x.Client == c.LocalAddr().String() {
				return true
			}
		}
		return false
	})
	stream := dial(t, entryOf(web))
	stream.SetDeadline(time.Now().Add(20 * time.Second))
	if err := echoes(stream); err != nil {
		t.Errorf("a connection found no descriptors: %v", err)
	}
	stream.Close()
	t.Logf("%d sessions begun, %d goroutines more at most", r.Report()[0].Meter.Flows.Load(), most)
	r.Apply(t.Context(), nil)
	eventually(t, "nothing is left", func() bool { return r.Left() == "" })
}

// While names cannot be looked up, what strangers send is held within bounds.
func TestAFloodDuringASlowDialIsBounded(t *testing.T) {
	lab.CheckLeaks(t)
	g := newGate(t)
	r := newRelay(t, g.config())
	f := wish(t, "dns", fairlead.UDP, "127.0.0.1:9", func(f *fairlead.Forward) { f.Policy.MaxConnsPerSource = 1 << 20 })
	r.Apply(t.Context(), []*fairlead.Forward{f})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	d := make([]byte, 60_000)
	for range 1500 {
		c, err := net.Dial("udp", entryOf(f))
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			c.Write(d)
		}
		c.Close()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if more := int64(after.HeapAlloc) - int64(before.HeapAlloc); more > 24<<20 {
		t.Errorf("%d KiB are held for clients whose target is being dialed", more>>10)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 1100 {
		t.Errorf("%d dials are under way", more)
	}
	r.Apply(t.Context(), nil) // the forward goes while its sessions dial
	eventually(t, "nothing is left, though no dial was answered", func() bool {
		return r.Left() == "" && runtime.NumGoroutine() <= goroutines+1
	})
}

func TestDenyAndFromHoldForClientsWithAZone(t *testing.T) {
	lab.CheckLeaks(t)
	n := lab.NewNet(t)
	client, gateway := n.Host("client"), n.Host("gateway")
	n.Wire(client, "eth0", gateway, "lan0")
	for _, h := range []*lab.Host{client, gateway} { // no waiting for duplicates
		h.Sysctl("net.ipv6.conf.all.accept_dad", "0")
	}
	client.Addr("eth0", "fe80::2/64")
	gateway.Addr("lan0", "fe80::1/64")
	zone := zoneOf(t, client, "eth0")
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	peer := lab.Serve(t, lab.At{Network: "tcp"}, lab.Banner("hello"))
	r := newRelay(t, relay.Config{})
	for _, denied := range []bool{false, true} {
		policy := func(f *fairlead.Forward) {
			f.At.Addr, f.At.Any = netip.Addr{}, true
			f.To[0].From = []netip.Prefix{netip.MustParsePrefix("fe80::/10")}
			if denied {
				f.Policy.Deny = f.To[0].From
			}
		}
		tcp, udp := wish(t, "web", fairlead.TCP, peer.Address, policy), wish(t, "dns", fairlead.UDP, echo.Address, policy)
		if err := gateway.Do(func() error { r.Apply(t.Context(), []*fairlead.Forward{tcp, udp}); return nil }); err != nil {
			t.Fatal(err)
		}
		entry := func(f *fairlead.Forward) string {
			return fmt.Sprintf("[fe80::1%%%s]:%d", zone, f.At.Ports[0].First)
		}
		var err error
		var heard string
		eventually(t, "the link is up", func() bool {
			heard, err = hear(client, "tcp", entry(tcp))
			return err == nil || !strings.Contains(err.Error(), "assign")
		})
		if denied != (err != nil) || !denied && heard != "hello" {
			t.Errorf("tcp, denied %v: heard %q, %v", denied, heard, err)
		}
		if !denied {
			if heard, err = hear(client, "udp", entry(udp)); err != nil || heard != "?" {
				t.Errorf("udp: heard %q, %v", heard, err)
			}
			continue
		}
		c, err := client.DialContext(t.Context(), "udp", entry(udp))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("?"))
		c.Close()
		eventually(t, "the datagram is counted", func() bool { return r.Report()[1].Meter.Refused.Load() == 1 })
	}
}

// zoneOf is the number of an interface of h: package net remembers names, of
// whichever namespace it saw them in.
func zoneOf(t *testing.T, h *lab.Host, name string) string {
	t.Helper()
	var i *net.Interface
	err := h.Do(func() (err error) {
		i, err = net.InterfaceByName(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(i.Index)
}

// hear is what is said at address to a client that asks "?".
func hear(h *lab.Host, network, address string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := h.DialContext(ctx, network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write([]byte("?"))
	b := make([]byte, 100)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// What is sent to a group or to everybody is answered from an address of ours.
func TestDatagramsToAGroupAreAnswered(t *testing.T) {
	lab.CheckLeaks(t)
	n := lab.NewNet(t)
	client, gateway := n.Host("client"), n.Host("gateway")
	n.Wire(client, "eth0", gateway, "lan0")
	for _, h := range []*lab.Host{client, gateway} {
		h.Sysctl("net.ipv6.conf.all.accept_dad", "0")
	}
	client.Addr("eth0", "10.9.0.2/24", "fd09::2/64", "fe80::2/64")
	gateway.Addr("lan0", "10.9.0.1/24", "fd09::1/64", "fe80::1/64")
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	r := newRelay(t, relay.Config{})
	zone := zoneOf(t, client, "eth0")
	f := wish(t, "dns", fairlead.UDP, echo.Address, func(f *fairlead.Forward) { f.At.Addr, f.At.Any = netip.Addr{}, true })
	if err := gateway.Do(func() error { r.Apply(t.Context(), []*fairlead.Forward{f}); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ local, to string }{
		{"10.9.0.2:0", "10.9.0.255"}, // broadcast
		{"[fd09::2]:0", "ff02::1%" + zone},
		{"[fe80::2%" + zone + "]:0", "ff02::1%" + zone},
	} {
		t.Run(c.to+" from "+c.local, func(t *testing.T) {
			var pc *net.UDPConn
			eventually(t, "the address may be used", func() bool {
				var err error
				pc, err = client.ListenPacket(t.Context(), "udp", c.local)
				return err == nil
			})
			defer pc.Close()
			to := netip.AddrPortFrom(parseAddr(c.to), f.At.Ports[0].First)
			if err := client.Do(func() error { // the zone's number is the namespace's
				a := net.UDPAddrFromAddrPort(to)
				_, err := pc.WriteToUDP([]byte("hello"), a)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			pc.SetDeadline(time.Now().Add(5 * time.Second))
			b := make([]byte, 100)
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil || string(b[:n]) != "hello" || from.Addr().IsMulticast() {
				t.Errorf("heard %q from %v, %v", b[:n], from, err)
			}
		})
	}
}

func TestATargetThatMovesIsFoundByTheNextSession(t *testing.T) {
	lab.CheckLeaks(t)
	one := lab.ServeUDP(t, lab.At{}, lab.UDPName("one"))
	two := lab.ServeUDP(t, lab.At{}, lab.UDPName("two"))
	here := place.New(place.Config{})
	defer here.Close()
	m := &moving{Place: here}
	m.to.Store(&one.Address)
	r := newRelay(t, relay.Config{Place: func(string) (fairlead.Place, error) { return m, nil }})
	f := wish(t, "dns", fairlead.UDP, "127.0.0.1:9")
	r.Apply(t.Context(), []*fairlead.Forward{f})
	old := dialUDP(t, entryOf(f))
	ask := func(c *net.UDPConn, want string) {
		t.Helper()
		c.Write([]byte("who?"))
		b := make([]byte, 9)
		if n, err := c.Read(b); err != nil || string(b[:n]) != want {
			t.Errorf("%q answered, %v, want %q", b[:n], err, want)
		}
	}
	ask(old, "one")
	m.to.Store(&two.Address)
	ask(dialUDP(t, entryOf(f)), "two")
	ask(old, "one")
}

// moving is a place where every address leads to one that changes.
type moving struct {
	fairlead.Place
	to atomic.Pointer[string]
}

func (m *moving) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	return m.Place.DialContext(ctx, network, *m.to.Load())
}

// A client that keeps sending would otherwise keep its session, and so its
// target, for ever.
func TestASessionLeavesATargetThatHasGone(t *testing.T) {
	lab.CheckLeaks(t)
	for _, goroutines := range []bool{false, true} {
		t.Run(fmt.Sprintf("goroutines %v", goroutines), func(t *testing.T) {
			named := func(name string) lab.Answer {
				return func([]byte, netip.AddrPort) [][]byte { return [][]byte{[]byte(name)} }
			}
			one, two := lab.ServeUDP(t, lab.At{}, named("one")), lab.ServeUDP(t, lab.At{}, named("two"))
			r := newRelay(t, relay.Config{Goroutines: goroutines})
			f := wish(t, "dns", fairlead.UDP, one.Address, func(f *fairlead.Forward) {
				f.Policy.Choose = "failover"
				f.To = append(f.To, fairlead.Target{Host: "127.0.0.1", Ports: fairlead.PortList{{First: two.Port.Port(), Last: two.Port.Port()}}})
			})
			r.Apply(t.Context(), []*fairlead.Forward{f})
			c := dialUDP(t, entryOf(f))
			ask := func() string {
				c.SetDeadline(time.Now().Add(300 * time.Millisecond))
				c.Write([]byte("who?"))
				b := make([]byte, 100)
				n, _ := c.Read(b)
				return string(b[:n])
			}
			if got := ask(); got != "one" {
				t.Fatalf("%q answers, want the first target", got)
			}
			one.Stop()
			lost := 0
			for ; lost < 10 && ask() != "two"; lost++ {
			}
			if lost > 4 { // three of which each is forgiven as one of a kind, and one on its way
				t.Errorf("%d datagrams were lost at a target that refuses them", lost)
			}
			if st := r.Report()[0]; st.Targets[0].Up || !st.Targets[1].Up {
				t.Errorf("the targets are up: %v and %v, want the second alone", st.Targets[0].Up, st.Targets[1].Up)
			}
		})
	}
}

// The ports of a forward share its limit, and who was longest silent goes first,
// whatever the port.
func TestTheCapOfSessionsIsTheForwards(t *testing.T) {
	const limit = 4
	for _, goroutines := range []bool{false, true} {
		t.Run(fmt.Sprintf("goroutines=%v", goroutines), func(t *testing.T) {
			lab.CheckLeaks(t)
			echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
			r := newRelay(t, relay.Config{Goroutines: goroutines})
			f := wish(t, "range", fairlead.UDP, echo.Address)
			for range 2 {
				p := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 1).Port()
				f.At.Ports = append(f.At.Ports, fairlead.Ports{First: p, Last: p})
			}
			f.Policy.MaxConns = limit
			if st := r.Apply(t.Context(), []*fairlead.Forward{f})[0]; st.Problem != nil {
				t.Fatal(st.Problem)
			}
			for i := range 5 * limit {
				c := dialUDP(t, fmt.Sprintf("127.0.0.1:%d", f.At.Ports[i%3].First))
				mustAsk(t, c, "hello")
				if n := len(r.Conns()); n > limit {
					t.Fatalf("%d sessions, and the forward has max-conns %d", n, limit)
				}
			}
			if n := len(r.Conns()); n != limit {
				t.Errorf("%d sessions of %d", n, limit)
			}
		})
	}
}
