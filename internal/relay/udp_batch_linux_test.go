package relay_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/place"
	"fairlead/internal/relay"
	"fairlead/internal/wire/proxyproto"
)

// sendTrain sends datagrams of one size, the last one not larger, with one
// system call (UDP_SEGMENT, udp(7)).
func sendTrain(t testing.TB, c *net.UDPConn, train []byte, size int) {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(2))
	h, data := header(oob)
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	*data = uint16(size)
	if _, _, err := c.WriteMsgUDP(train, oob, nil); err != nil {
		t.Fatalf("train of %d bytes in datagrams of %d: %v", len(train), size, err)
	}
}

// collect takes all datagrams that come until none has for a while.
func collect(c *net.UDPConn, n int) (all [][]byte) {
	b := make([]byte, 1<<16)
	for len(all) < n {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		k, err := c.Read(b)
		if err != nil {
			return all
		}
		all = append(all, bytes.Clone(b[:k]))
	}
	return all
}

// cut is a train as the datagrams that it is.
func cut(train []byte, size int) (all [][]byte) {
	for len(train) > size {
		all = append(all, train[:size])
		train = train[size:]
	}
	return append(all, train)
}

func TestTrainsOfDatagramsArriveAsTheyWereSent(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	for _, kind := range []string{"batches", "goroutines", "headers", "bandwidth"} {
		t.Run(kind, func(t *testing.T) {
			r := newRelay(t, relay.Config{Goroutines: kind == "goroutines"})
			f := wish(t, "quic", fairlead.UDP, echo.Address, func(f *fairlead.Forward) {
				switch kind {
				case "headers":
					f.Policy.ProxyProtocol = 2
				case "bandwidth":
					f.Policy.Bandwidth = each(1 << 30)
				}
			})
			r.Apply(t.Context(), []*fairlead.Forward{f})
			c := dialUDP(t, entryOf(f))
			c.SetReadBuffer(4 << 20)
			mustBe := func(got, want [][]byte) {
				t.Helper()
				if len(got) != len(want) {
					t.Fatalf("%d datagrams came back of %d", len(got), len(want))
				}
				for i := range got {
					if kind == "headers" {
						_, rest, err := proxyproto.ParseDatagram(got[i])
						if err != nil {
							t.Fatalf("datagram %d: %v", i, err)
						}
						got[i] = rest
					}
					if !bytes.Equal(got[i], want[i]) {
						t.Fatalf("datagram %d of %d bytes came back as one of %d bytes, or others", i, len(want[i]), len(got[i]))
					}
				}
			}
			c.Write([]byte("first")) // nothing of a train is kept beyond a bound during the dial
			mustBe(collect(c, 1), [][]byte{[]byte("first")})
			for _, shape := range []struct{ size, bytes int }{
				{1200, 50 * 1200}, {1200, 10*1200 + 1}, {1, 64}, {1400, 1400 + 7}, {100, 6400},
			} {
				train := lab.Stream(shape.size).Bytes(shape.bytes)
				sendTrain(t, c, train, shape.size)
				want := cut(train, shape.size)
				mustBe(collect(c, len(want)), want)
			}
			// Datagrams of many sizes at once keep their bounds and their order.
			var want [][]byte
			for i := range 60 {
				d := lab.Stream(i).Bytes([]int{64, 64, 64, 10, 200, 0, 200, 200, 1400, 9000}[i%10])
				want = append(want, d)
				c.Write(d)
			}
			mustBe(collect(c, len(want)), want)
		})
	}
}

// A train whose datagrams need fragments is refused by the kernel; a train
// that was sent as such is a datagram after the other all the same.
func TestATrainThatTheWayRefusesGoesInPieces(t *testing.T) {
	lab.CheckLeaks(t)
	lab.NeedRoot(t)
	n := lab.NewNet(t)
	client, gateway, server := n.Host("client"), n.Host("gateway"), n.Host("server")
	n.Wire(client, "eth0", gateway, "lan0")
	n.Wire(gateway, "wan0", server, "eth0")
	client.Addr("eth0", "10.9.0.2/24")
	gateway.Addr("lan0", "10.9.0.1/24")
	gateway.Addr("wan0", "10.8.0.1/24")
	server.Addr("eth0", "10.8.0.2/24")
	for _, h := range []struct {
		h    *lab.Host
		link string
	}{{gateway, "wan0"}, {server, "eth0"}} {
		if err := h.h.Command(t, "ip", "link", "set", h.link, "mtu", "1000").Run(); err != nil {
			t.Fatal(err)
		}
	}
	echo := lab.ServeUDP(t, lab.At{Network: "udp", Host: server, Address: "10.8.0.2:0"}, lab.UDPEcho)
	r := newRelay(t, relay.Config{Place: func(string) (fairlead.Place, error) { return gateway, nil }})
	f := wish(t, "quic", fairlead.UDP, echo.Address, func(f *fairlead.Forward) { f.At.Addr = parseAddr("10.9.0.1") })
	if err := gateway.Do(func() error { r.Apply(t.Context(), []*fairlead.Forward{f}); return nil }); err != nil {
		t.Fatal(err)
	}
	pc, err := client.DialContext(t.Context(), "udp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	c := pc.(*net.UDPConn)
	c.SetDeadline(time.Now().Add(10 * time.Second))
	mustAsk(t, c, "hello")
	for round := range 3 {
		train := lab.Stream(round).Bytes(20 * 1200)
		sendTrain(t, c, train, 1200)
		got := collect(c, 20)
		if !bytes.Equal(bytes.Join(got, nil), train) {
			t.Fatalf("round %d: %d datagrams came back of 20, or others", round, len(got))
		}
	}
	if n := r.Report()[0].Meter.Dropped.Load(); n != 0 {
		t.Errorf("%d datagrams were dropped", n)
	}
}

// introduced is a datagram with a header that tells of a client.
func introduced(t testing.TB, client, asked, text string) []byte {
	t.Helper()
	b, err := proxyproto.AppendV2(nil, &proxyproto.Header{
		Network: "udp", Source: netip.MustParseAddrPort(client), Destination: netip.MustParseAddrPort(asked),
		TLVs: []proxyproto.TLV{{Type: proxyproto.TypeMinCustom, Value: []byte(text)}}, Checksum: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(b, text...)
}

func TestDeclaredSendersIntroduceTheClientOfEachDatagram(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.ServeUDP(t, lab.At{}, func(d []byte, from netip.AddrPort) [][]byte {
		h, rest, err := proxyproto.ParseDatagram(d)
		tlv, _ := h.TLV(proxyproto.TypeMinCustom)
		return [][]byte{fmt.Appendf(nil, "%s %s %q %q %v %d", h.Source, h.Destination, tlv, rest, err, from.Port())}
	})
	for _, goroutines := range []bool{false, true} {
		t.Run(fmt.Sprint("goroutines ", goroutines), func(t *testing.T) {
			var ev events
			r := newRelay(t, relay.Config{Goroutines: goroutines, Watch: ev.watch})
			f := wish(t, "dns", fairlead.UDP, peer.Address, func(f *fairlead.Forward) {
				f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
				f.Policy.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.66/32")}
				f.Policy.ProxyProtocol = 2
			})
			if err := r.Fits(f); err != nil {
				t.Fatal(err)
			}
			r.Apply(t.Context(), []*fairlead.Forward{f})
			c := dialUDP(t, entryOf(f))
			ports := map[string]string{}
			for _, x := range []struct{ client, text string }{
				{"192.0.2.1:1000", "one"}, {"[2001:db8::1]:2000", "two"}, {"192.0.2.1:1000", "three"}, {"192.0.2.1:1001", ""}, {"[2001:db8::1]:2000", "two"},
			} {
				asked := "198.51.100.1:53"
				if x.client[0] == '[' {
					asked = "[2001:db8::53]:53"
				}
				c.Write(introduced(t, x.client, asked, x.text))
				b := make([]byte, 500)
				n, err := c.Read(b)
				want := fmt.Sprintf("%s %s %q %q <nil> ", x.client, asked, x.text, x.text)
				port, ok := bytes.CutPrefix(b[:n], []byte(want))
				if err != nil || !ok {
					t.Fatalf("got  %s (%v)\nwant %s", b[:n], err, want)
				}
				if was := ports[x.client]; was != "" && was != string(port) {
					t.Errorf("%s moved from the session %s to %s", x.client, was, port)
				}
				ports[x.client] = string(port)
			}
			if len(ports) != 3 || len(r.Conns()) != 3 || r.Conns()[0].Client != "192.0.2.1:1000" {
				t.Errorf("three clients were introduced, and there are %+v", r.Conns())
			}
			m := r.Report()[0].Meter
			c.Write([]byte("no header"))
			c.Write([]byte{})
			c.Write(introduced(t, "192.0.2.1:1000", "198.51.100.1:53", "")[:20])
			eventually(t, "they are dropped and counted", func() bool { return m.Dropped.Load() == 3 })
			c.Write(introduced(t, "192.0.2.66:1", "198.51.100.1:53", "denied"))
			eventually(t, "who may not is refused by the client's address", func() bool { return m.Refused.Load() == 1 })
			if ev.count(func(e fairlead.Event) bool { return e.Problem != nil && e.Problem.Code == fairlead.CodeProxyHeader }) == 0 {
				t.Error("a sender without headers is not told")
			}
			// Another sender's datagrams are its own.
			other, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, c.RemoteAddr().(*net.UDPAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			other.SetDeadline(time.Now().Add(5 * time.Second))
			other.Write([]byte("plain"))
			b := make([]byte, 500)
			if n, err := other.Read(b); err != nil || !bytes.HasPrefix(b[:n], fmt.Appendf(nil, "%s %s \"\" \"plain\"", other.LocalAddr(), entryOf(f))) {
				t.Errorf("got %s (%v)", b[:n], err)
			}
		})
	}
}

func TestASessionEndsWithTheRepliesThatItExpects(t *testing.T) {
	lab.CheckLeaks(t)
	who := lab.ServeUDP(t, lab.At{}, lab.UDPWhoAmI)
	twice := lab.ServeUDP(t, lab.At{}, lab.UDPRepeat(2))
	silent := lab.ServeUDP(t, lab.At{}, lab.UDPSilent)
	for _, goroutines := range []bool{false, true} {
		t.Run(fmt.Sprint("goroutines ", goroutines), func(t *testing.T) {
			var ev events
			r := newRelay(t, relay.Config{Goroutines: goroutines, Watch: ev.watch})
			policy := func(requests, replies int) func(*fairlead.Forward) {
				return func(f *fairlead.Forward) { f.Policy.Requests, f.Policy.Replies = requests, replies }
			}
			dns := wish(t, "dns", fairlead.UDP, who.Address, policy(0, 1))
			pairs := wish(t, "pairs", fairlead.UDP, twice.Address, policy(2, 2))
			log := wish(t, "log", fairlead.UDP, silent.Address, policy(0, fairlead.NoReplies))
			spread := wish(t, "spread", fairlead.UDP, who.Address, policy(1, 0))
			for _, st := range r.Apply(t.Context(), []*fairlead.Forward{dns, pairs, log, spread}) {
				if st.Problem != nil {
					t.Fatal(st.Problem)
				}
			}
			nothingLeft := func() bool { return r.Left() == "" }
			c := dialUDP(t, entryOf(dns))
			for i := range 3 {
				c.Write([]byte("who?"))
				if got := collect(c, 1); len(got) != 1 {
					t.Fatalf("no answer to question %d", i)
				}
				eventually(t, "the session is over", nothingLeft)
			}
			c = dialUDP(t, entryOf(pairs))
			c.Write([]byte("a"))
			collect(c, 2)
			if n := len(r.Conns()); n != 1 {
				t.Errorf("%d sessions after one of two requests", n)
			}
			c.Write([]byte("b"))
			if got := collect(c, 2); len(got) != 2 {
				t.Errorf("%d answers to the second request", len(got))
			}
			eventually(t, "the session is over", nothingLeft)
			c = dialUDP(t, entryOf(log))
			before := silent.Count.Load()
			for range 12 {
				c.Write([]byte("a line"))
			}
			eventually(t, "all lines have come, and no session is left", func() bool {
				return silent.Count.Load()-before == 12 && nothingLeft()
			})
			c = dialUDP(t, entryOf(spread))
			seen := map[string]bool{}
			for range 4 {
				c.Write([]byte("who?"))
				for _, d := range collect(c, 1) {
					seen[string(d)] = true
				}
			}
			if len(seen) != 4 || len(r.Conns()) != 4 {
				t.Errorf("four requests had %d sessions, and %d are live", len(seen), len(r.Conns()))
			}
			if ev.count(func(e fairlead.Event) bool { return e.Reason == fairlead.Completed }) < 5 {
				t.Error("the ends are not told as such")
			}
			for _, st := range r.Report() {
				if n := st.Meter.Dropped.Load(); n != 0 {
					t.Errorf("%s: %d datagrams dropped", st.Forward.Name, n)
				}
			}
		})
	}
}

// A session that takes no more requests waits for answers, which need the
// socket.
func TestSessionsThatWaitForAnswersEndWithTheirForward(t *testing.T) {
	lab.CheckLeaks(t)
	silent := lab.ServeUDP(t, lab.At{}, lab.UDPSilent)
	here := place.New(place.Config{})
	defer here.Close()
	for name, cfg := range map[string]relay.Config{
		"loops":      {},
		"goroutines": {Goroutines: true},
		"no sockets": {Place: func(string) (fairlead.Place, error) { return wrapping{here}, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, cfg)
			f := wish(t, "dns", fairlead.UDP, silent.Address, func(f *fairlead.Forward) { f.Policy.Requests = 1 })
			r.Apply(t.Context(), []*fairlead.Forward{f})
			before := silent.Count.Load()
			dialUDP(t, entryOf(f)).Write([]byte("who?"))
			eventually(t, "it is asked", func() bool { return silent.Count.Load() > before && len(r.Conns()) == 1 })
			r.Apply(t.Context(), nil)
			eventually(t, "nothing is left", func() bool { return r.Left() == "" })
		})
	}
}

func TestRepliesWithoutDatagramsAreRefused(t *testing.T) {
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1", func(f *fairlead.Forward) { f.Policy.Replies = 1 })
	if err := r.Fits(f); fairlead.AsProblem(err).Code != fairlead.CodeCannotHonour {
		t.Errorf("replies of streams: %v", err)
	}
}

// A place whose connections are no sockets must not hold up the others.
func TestSessionsOverConnectionsThatAreNoSockets(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	here := place.New(place.Config{})
	defer here.Close()
	r := newRelay(t, relay.Config{Place: func(string) (fairlead.Place, error) { return wrapping{here}, nil }})
	f := wish(t, "dns", fairlead.UDP, echo.Address)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for range 5 {
		c := dialUDP(t, entryOf(f))
		for _, text := range []string{"one", "two", "three"} {
			mustAsk(t, c, text)
		}
	}
	if n := len(r.Conns()); n != 5 {
		t.Errorf("%d sessions", n)
	}
	if n := r.Kill(fairlead.Match{Forward: "dns"}); n != 5 {
		t.Errorf("%d killed", n)
	}
	eventually(t, "nothing is left", func() bool { return r.Left() == "" })
}

type wrapping struct{ fairlead.Place }

func (w wrapping) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := w.Place.DialContext(ctx, network, address)
	return struct{ net.Conn }{c}, err
}

// What the kernel had no room for is counted as what was dropped.
func TestDatagramsWithoutRoomAreCounted(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.ServeUDP(t, lab.At{}, lab.UDPSilent)
	r := newRelay(t, relay.Config{})
	f := wish(t, "log", fairlead.UDP, peer.Address)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dialUDP(t, entryOf(f))
	c.Write([]byte("first"))
	eventually(t, "the session is there", func() bool { return peer.Count.Load() == 1 })
	resume := r.Pause()
	const n = 20_000
	d := make([]byte, 1000)
	for range n {
		c.Write(d)
	}
	resume()
	m := r.Report()[0].Meter
	eventually(t, "each is through or counted", func() bool {
		c.Write([]byte("later")) // carries the count
		return m.Dropped.Load() > 0 && (m.In.Load()-5)/1000 >= n-m.Dropped.Load()
	})
}
