package relay_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
	"fairlead/internal/wire/proxyproto"
)

// to is a target at a peer's address, under conditions.
func to(address string, conditions ...func(*fairlead.Target)) fairlead.Target {
	at := netip.MustParseAddrPort(address)
	t := fairlead.Target{Host: at.Addr().String(), Ports: fairlead.PortList{{First: at.Port(), Last: at.Port()}}}
	for _, c := range conditions {
		c(&t)
	}
	return t
}

type condition = func(*fairlead.Target)

func sni(names ...string) condition      { return func(t *fairlead.Target) { t.SNI = names } }
func httpHost(names ...string) condition { return func(t *fairlead.Target) { t.HTTPHost = names } }
func alpn(names ...string) condition     { return func(t *fairlead.Target) { t.ALPN = names } }
func protocol(words ...string) condition { return func(t *fairlead.Target) { t.Protocol = words } }
func from(cidr string) condition {
	return func(t *fairlead.Target) { t.From = append(t.From, netip.MustParsePrefix(cidr)) }
}

// mixed is a forward of TCP to those targets, with probes off.
func mixed(t testing.TB, greet time.Duration, targets ...fairlead.Target) *fairlead.Forward {
	return wish(t, "mixed", fairlead.TCP, "127.0.0.1:1", func(f *fairlead.Forward) {
		f.To = targets
		f.Policy.Greet = greet
		f.Policy.Check.How = "off"
	})
}

// never is a time to greet that no test waits for.
const never = time.Hour

// certificate is one that a server of these tests shows to everybody.
var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// tlsPeer is a TLS server that answers with its name, the name and the
// protocol that the client asked for, and all that the client then says.
func tlsPeer(t testing.TB, name string) *lab.Peer {
	return lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		c := tls.Server(v.Conn, &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2", "http/1.1"}})
		b, err := io.ReadAll(c)
		if err != nil {
			return // a probe
		}
		s := c.ConnectionState()
		fmt.Fprintf(c, "%s %s %s %s", name, s.ServerName, s.NegotiatedProtocol, b)
		c.Close()
	})
}

// plainPeer answers with its name and all that the client said.
func plainPeer(t testing.TB, name string) *lab.Peer {
	return lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		b, _ := io.ReadAll(v.Conn)
		fmt.Fprintf(v.Conn, "%s %s", name, b)
	})
}

// bannerPeer speaks first.
func bannerPeer(t testing.TB, text string) *lab.Peer {
	return lab.Serve(t, lab.At{}, lab.Banner(text))
}

// saysOver is what comes back for text, sent in pieces of that size.
func saysOver(t testing.TB, address, text string, piece int) (string, error) {
	c := dial(t, address)
	defer c.Close()
	for b := range slices.Chunk([]byte(text), piece) {
		if _, err := c.Write(b); err != nil {
			return "", err
		}
	}
	c.CloseWrite()
	b, err := io.ReadAll(c)
	return string(b), err
}

// A pieces is a client's connection whose bytes set out in small segments. A
// TLS hello sets out in records of that size as well.
type pieces struct {
	*net.TCPConn
	size    int
	records bool
}

func (p pieces) Write(b []byte) (int, error) {
	out := b
	if p.records && b[0] == 22 && b[5] == 1 { // a handshake record with a hello
		out = nil
		for part := range slices.Chunk(b[5:], p.size) {
			out = append(append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part))), part...)
		}
	}
	for part := range slices.Chunk(out, p.size) {
		if _, err := p.TCPConn.Write(part); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func overTLS(c net.Conn, name string, protocols ...string) (string, error) {
	s := tls.Client(c, &tls.Config{ServerName: name, NextProtos: protocols, InsecureSkipVerify: true})
	if _, err := s.Write([]byte("hello")); err != nil {
		return "", err
	}
	s.CloseWrite()
	b, err := io.ReadAll(s)
	c.Close()
	return string(b), err
}

func TestOnePortServesManyServices(t *testing.T) {
	for engine, goroutines := range map[string]bool{"loops": false, "goroutines": true} {
		t.Run(engine, func(t *testing.T) {
			lab.CheckLeaks(t)
			www, app, any := tlsPeer(t, "www"), tlsPeer(t, "app"), tlsPeer(t, "any")
			ssh, shop, rest := plainPeer(t, "ssh"), plainPeer(t, "shop"), plainPeer(t, "rest")
			r := newRelay(t, relay.Config{Goroutines: goroutines})
			f := mixed(t, never, to(ssh.Address, protocol("ssh")), to(www.Address, sni("www.example.net")),
				to(app.Address, sni("*.example.net"), alpn("h2")), to(any.Address, sni("*.example.net")),
				to(shop.Address, httpHost("shop.example.net")), to(rest.Address))
			r.Apply(t.Context(), []*fairlead.Forward{f})

			for _, c := range []struct {
				name      string
				protocols []string
				want      string
			}{
				{"www.example.net", []string{"h2"}, "www www.example.net h2 hello"},
				{"WWW.Example.NET", nil, "www WWW.Example.NET  hello"},
				{"a.example.net", []string{"http/1.1", "h2"}, "app a.example.net h2 hello"},
				{"a.b.example.net", nil, "any a.b.example.net  hello"},
			} {
				for _, piece := range []pieces{{size: 1}, {size: 700}, {size: 1 << 20}, {size: 100, records: true}} {
					piece.TCPConn = dial(t, entryOf(f))
					got, err := overTLS(piece, c.name, c.protocols...)
					if err != nil || got != c.want {
						t.Errorf("%s in pieces of %d: got %q (%v), want %q", c.name, piece.size, got, err, c.want)
					}
				}
			}
			for _, c := range []struct{ text, want string }{
				{"SSH-2.0-OpenSSH_9.2\r\n", "ssh"},
				{"GET / HTTP/1.1\r\nhost: Shop.example.net.:8080\r\n\r\nbody", "shop"},
				{"GET http://shop.example.net/ HTTP/1.1\r\nHost: other\r\n\r\n", "shop"},
				{"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n", "rest"},
				{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "rest"},
				{"EHLO mail.example.net\r\n", "rest"},
				{"\x00\x01\x02garbage\xff", "rest"},
				{"S", "rest"}, // and the end
				{"", "rest"},
			} {
				for _, piece := range []int{1, 1 << 20} {
					got, err := saysOver(t, entryOf(f), c.text, piece)
					if want := c.want + " " + c.text; err != nil || got != want {
						t.Errorf("%q in pieces of %d: got %q (%v), want %q", c.text, piece, got, err, want)
					}
				}
			}
			// A hello that two readers could understand differently names nothing.
			hello := "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
			if got, err := saysOver(t, entryOf(f), hello, 1); err != nil || got != "rest "+hello {
				t.Errorf("a bad hello: got %q (%v)", got, err)
			}
			eventually(t, "nothing is left", func() bool { return r.Left() == "" })
		})
	}
}

func TestWhatWasReadReachesTheTargetFirstAndIsCounted(t *testing.T) {
	for engine, goroutines := range map[string]bool{"loops": false, "goroutines": true} {
		t.Run(engine, func(t *testing.T) {
			lab.CheckLeaks(t)
			type got struct {
				head proxyproto.Header
				rest []byte
			}
			arrived := make(chan got, 1)
			peer := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
				b, _ := io.ReadAll(v.Conn)
				h, n, _ := proxyproto.Parse(b)
				arrived <- got{h, b[n:]}
				v.Conn.Write([]byte("ok"))
			})
			r := newRelay(t, relay.Config{Goroutines: goroutines})
			down := lab.Refused(t, lab.At{}) // is tried first, and gets none of it
			f := mixed(t, never, to(down, httpHost("big.net")), to(peer.Address, httpHost("big.net")), to(down))
			f.Policy.ProxyProtocol = 2
			r.Apply(t.Context(), []*fairlead.Forward{f})

			text := make([]byte, 3<<20)
			rand.Read(text)
			copy(text, "POST / HTTP/1.1\r\nHost: big.net\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n")
			c := dial(t, entryOf(f))
			c.Write(text[:9100])
			eventually(t, "it is carried, and tells what was asked for", func() bool {
				conns := r.Conns()
				return len(conns) == 1 && conns[0].Asked == "big.net" && conns[0].In == 9100
			})
			c.Write(text[9100:])
			c.CloseWrite()
			if b, err := io.ReadAll(c); string(b) != "ok" || err != nil {
				t.Fatalf("%q %v", b, err)
			}
			g := <-arrived
			if sha256.Sum256(g.rest) != sha256.Sum256(text) {
				t.Errorf("%d bytes arrived, other than the %d sent", len(g.rest), len(text))
			}
			if g.head.Source.String() != c.LocalAddr().String() {
				t.Errorf("the header says %v", g.head)
			}
			m := r.Report()[0].Meter
			if in, out := m.In.Load(), m.Out.Load(); in != int64(len(text)) || out != 2 {
				t.Errorf("%d bytes in, %d out, want %d and 2", in, out, len(text))
			}
		})
	}
}

func TestWhoWaitsForTheServerIsServedOnAMixedPort(t *testing.T) {
	lab.CheckLeaks(t)
	mail, rest := bannerPeer(t, "220 mail"), bannerPeer(t, "rest")
	web := plainPeer(t, "web")
	r := newRelay(t, relay.Config{})
	hear := func(f *fairlead.Forward, say string) string {
		c := dial(t, entryOf(f))
		defer c.Close()
		c.Write([]byte(say))
		b, _ := io.ReadAll(c)
		return string(b)
	}
	other := mixed(t, 30*time.Millisecond, to(web.Address, protocol("http")), to(mail.Address, protocol("other")), to(rest.Address))
	unconditional := mixed(t, 30*time.Millisecond, to(web.Address, sni("a.net")), to(rest.Address))
	r.Apply(t.Context(), []*fairlead.Forward{other})
	if got := hear(other, ""); got != "220 mail" {
		t.Errorf("silent, with a target for other protocols: %q", got)
	}
	if got := hear(other, "S"); got != "220 mail" {
		t.Errorf("the beginning of a word and no more: %q", got)
	}
	r.Apply(t.Context(), []*fairlead.Forward{unconditional})
	if got := hear(unconditional, ""); got != "rest" {
		t.Errorf("silent, with a target for the rest: %q", got)
	}
}

func TestNobodyIsWaitedForWhereItMakesNoDifference(t *testing.T) {
	lab.CheckLeaks(t)
	mail, web := bannerPeer(t, "220 mail"), plainPeer(t, "web")
	r := newRelay(t, relay.Config{})
	// Those of 127/8 belong to the mail server, whatever they ask for; the
	// condition is for others.
	f := mixed(t, never, to(web.Address, sni("a.net")), to(mail.Address, from("127.0.0.0/8")))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dial(t, entryOf(f))
	if b, err := io.ReadAll(c); string(b) != "220 mail" {
		t.Errorf("%q %v", b, err)
	}
}

func TestWhoMatchesNothingIsResetAndTold(t *testing.T) {
	lab.CheckLeaks(t)
	peer := plainPeer(t, "web")
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := mixed(t, 50*time.Millisecond, to(peer.Address, sni("a.net")), to(peer.Address, httpHost("a.net")),
		to(peer.Address, protocol("ssh"), from("192.0.2.0/24")))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	problem := func(text string) (why fairlead.Reason) {
		ev.count(func(e fairlead.Event) bool {
			if e.Problem != nil && strings.Contains(e.Problem.What, text) {
				why = e.Reason
			}
			return false
		})
		return why
	}
	// No more than ten: those are told one by one.
	cases := []struct {
		say  string
		end  bool
		why  fairlead.Reason
		told string
	}{
		{"SSH-2.0-x\r\n", false, fairlead.NoMatch, "who speaks ssh"},
		{"GET / HTTP/1.1\r\nHost: b.net\r\n\r\n", false, fairlead.NoMatch, "who asks for b.net"},
		{"nonsense", false, fairlead.NoMatch, "who speaks other"},
		{"", true, fairlead.NoMatch, "who says nothing"},
		{"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", false, fairlead.NoMatch, "no hello that can be read: TLS ClientHello: "},
		{"\x16\x03\x01\x00\xc8\x01", false, fairlead.NoGreeting, "has not sent enough to tell"},
		{"\x16\x03\x01\x00\xc8\x01", true, fairlead.NoGreeting, "has not sent enough to tell"},
		{"GET / HTTP/1.1\r\nHost: a.net\r\nHost: b.net\r\n\r\n", false, fairlead.NoGreeting, "two Host fields"},
		{"GET / HTTP/1.1\r\nHost: a.net\r\n" + strings.Repeat("X: y\r\n", 4000), false, fairlead.NoGreeting, "not complete within 16384 bytes"},
		{"GET / HTTP/1.1\r\nHost: a.net\r\nX: " + strings.Repeat("x", 20000), false, fairlead.NoGreeting, "not complete within 16384 bytes"},
	}
	for _, c := range cases {
		ev.mu.Lock()
		ev.all = nil
		ev.mu.Unlock()
		conn := dial(t, entryOf(f))
		conn.Write([]byte(c.say))
		if c.end {
			conn.CloseWrite()
		}
		b, err := io.ReadAll(conn)
		if len(b) > 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%.40q: got %q (%v), want a reset", c.say, b, err)
		}
		eventually(t, fmt.Sprintf("told of %.40q", c.say), func() bool { return problem(c.told) == c.why })
		conn.Close()
	}
	if n := r.Report()[0].Meter.Refused.Load(); n != int64(len(cases)) {
		t.Errorf("%d refused", n)
	}
	eventually(t, "nothing is left", func() bool { return r.Left() == "" })
}

func TestClientsThatAreHeardCountAndCanBeEnded(t *testing.T) {
	lab.CheckLeaks(t)
	peer := plainPeer(t, "web")
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := mixed(t, never, to(peer.Address, sni("a.net")), to(peer.Address))
	f.Policy.MaxConns = 2
	r.Apply(t.Context(), []*fairlead.Forward{f})
	one, two := dial(t, entryOf(f)), dial(t, entryOf(f))
	one.Write([]byte("\x16"))
	eventually(t, "both are heard", func() bool { return len(r.Conns()) == 2 })
	if c, err := net.Dial("tcp", entryOf(f)); err == nil { // or it is reset already
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.Copy(io.Discard, c)
		c.Close()
	}
	eventually(t, "a third is turned away", func() bool { return ev.ended(fairlead.Limited) })
	var id string
	conns := r.Conns()
	for _, c := range conns {
		if c.Client == one.LocalAddr().String() && c.Target == "" && c.Forward == "mixed" {
			id = c.ID
		}
	}
	if n := r.Kill(fairlead.Match{ID: id}); n != 1 || len(conns) != 2 {
		t.Errorf("%d killed of %+v", n, conns)
	}
	if b, err := io.ReadAll(one); len(b) > 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %q (%v), want a reset", b, err)
	}
	eventually(t, "its end is told", func() bool { return ev.ended(fairlead.Killed) && len(r.Conns()) == 1 })
	three := dial(t, entryOf(f))
	eventually(t, "another takes its place", func() bool { return len(r.Conns()) == 2 })

	// Who has come before a reload is served by what was then.
	next := *f
	next.To = []fairlead.Target{to(lab.Refused(t, lab.At{}))}
	next.Expr += " next"
	r.Apply(t.Context(), []*fairlead.Forward{&next})
	two.Write([]byte("hello"))
	two.CloseWrite()
	if b, err := io.ReadAll(two); string(b) != "web hello" {
		t.Errorf("got %q (%v)", b, err)
	}
	r.Close()
	if b, err := io.ReadAll(three); len(b) > 0 || !errors.Is(err, syscall.ECONNRESET) || !ev.ended(fairlead.Shutdown) {
		t.Errorf("got %q (%v), want a reset", b, err)
	}
}

func TestTargetsOfOneNameShareItsClients(t *testing.T) {
	lab.CheckLeaks(t)
	a, b, rest := plainPeer(t, "a"), plainPeer(t, "b"), plainPeer(t, "rest")
	r := newRelay(t, relay.Config{})
	f := mixed(t, never, to(a.Address, httpHost("x.net")), to(b.Address, httpHost("y.net", "x.net")), to(rest.Address))
	f.Policy.Choose = "round-robin"
	r.Apply(t.Context(), []*fairlead.Forward{f})
	got := map[string]int{}
	for range 10 {
		text, err := saysOver(t, entryOf(f), "GET / HTTP/1.1\r\nHost: x.net\r\n\r\n", 100)
		if err != nil {
			t.Fatal(err)
		}
		got[text[:1]]++
	}
	if got["a"] != 5 || got["b"] != 5 {
		t.Errorf("%v", got)
	}
}

// The first bytes come behind the header of a sender that is believed, and the
// client is the one that the header names.
func TestConditionsHoldBehindAProxyHeader(t *testing.T) {
	lab.CheckLeaks(t)
	ours, all, rest := plainPeer(t, "ours"), plainPeer(t, "all"), plainPeer(t, "rest")
	r := newRelay(t, relay.Config{})
	f := mixed(t, never, to(ours.Address, protocol("ssh"), from("192.0.2.0/24")), to(all.Address, protocol("ssh")), to(rest.Address))
	f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for client, want := range map[string]string{"192.0.2.1": "ours", "198.51.100.1": "all"} {
		const banner = "SSH-2.0-x\r\n"
		got, err := saysOver(t, entryOf(f), "PROXY TCP4 "+client+" 198.51.100.2 4711 22\r\n"+banner, 1)
		if err != nil || got != want+" "+banner {
			t.Errorf("%s: got %q (%v), want %s", client, got, err, want)
		}
	}
}

func TestConditionsNeedAStream(t *testing.T) {
	r := newRelay(t, relay.Config{})
	for _, c := range []struct {
		net   fairlead.Network
		front string
		says  string
	}{
		{fairlead.TCP, "", ""},
		{fairlead.TCP, "sni", ""},
		{fairlead.TCP | fairlead.UDP, "", "on UDP"},
		{fairlead.TCP, "alpn", `none has "alpn" behind it`},
		{fairlead.TCP, "socks", "front socks"},
	} {
		f := mixed(t, 0, to("127.0.0.1:1", sni("a.net")))
		f.At.Net, f.Policy.Front = c.net, c.front
		err := r.Fits(f)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, front %q: %v", c.net, c.front, err)
		}
	}
}

// Requests after the first go where the first went: the connection is carried,
// not taken part in.
func TestLaterRequestsFollowTheFirst(t *testing.T) {
	lab.CheckLeaks(t)
	serve := func(name string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name, " ", r.Host) })}
		done := make(chan struct{})
		go func() { s.Serve(ln); close(done) }()
		t.Cleanup(func() { s.Close(); <-done })
		return ln.Addr().String()
	}
	r := newRelay(t, relay.Config{})
	f := mixed(t, never, to(serve("one"), httpHost("one.net")), to(serve("two"), httpHost("two.net")))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	transport := &http.Transport{MaxConnsPerHost: 1}
	defer transport.CloseIdleConnections()
	var got bytes.Buffer
	for _, host := range []string{"one.net", "two.net"} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+entryOf(f)+"/", nil)
		req.Host = host
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(&got, resp.Body)
		resp.Body.Close()
		got.WriteString("; ")
	}
	if got.String() != "one one.net; one two.net; " {
		t.Error(got.String())
	}
}
