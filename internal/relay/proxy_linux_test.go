package relay_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
	"fairlead/internal/wire/proxyproto"
)

// tells is a peer that answers a connection with the header it got, and what
// came after it.
func tells(v *lab.Visit) {
	b, _ := io.ReadAll(v.Conn)
	h, n, err := proxyproto.Parse(b)
	if err != nil {
		n = 0 // a probe says nothing
	}
	fmt.Fprintf(v.Conn, "v%d %s %s %q %v", h.Version, h.Source, h.Destination, b[n:], err)
}

func TestTargetIsToldWhoTheClientIs(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, tells)
	r := newRelay(t, relay.Config{})
	for version := 1; version <= 2; version++ {
		f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { f.Policy.ProxyProtocol = version })
		f.Expr += fmt.Sprint(" ", version)
		r.Apply(t.Context(), []*fairlead.Forward{f})
		c := dial(t, entryOf(f))
		c.Write([]byte("hello"))
		c.CloseWrite()
		got, err := io.ReadAll(c)
		want := fmt.Sprintf("v%d %s %s %q <nil>", version, c.LocalAddr(), entryOf(f), "hello")
		if err != nil || string(got) != want {
			t.Errorf("got  %s (%v)\nwant %s", got, err, want)
		}
	}
}

func TestEachDatagramSaysWhoItsClientIs(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.ServeUDP(t, lab.At{}, func(d []byte, _ netip.AddrPort) [][]byte {
		h, rest, err := proxyproto.ParseDatagram(d)
		return [][]byte{fmt.Appendf(nil, "%s %s %s %q %v", h.Network, h.Source, h.Destination, rest, err)}
	})
	r := newRelay(t, relay.Config{})
	f := wish(t, "dns", fairlead.UDP, peer.Address, func(f *fairlead.Forward) { f.Policy.ProxyProtocol = 2 })
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c, err := net.Dial("udp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 1500)
	for _, text := range []string{"one", "", "two"} {
		c.Write([]byte(text))
		n, err := c.Read(b)
		want := fmt.Sprintf("udp %s %s %q <nil>", c.LocalAddr(), entryOf(f), text)
		if err != nil || string(b[:n]) != want {
			t.Errorf("got  %s (%v)\nwant %s", b[:n], err, want)
		}
	}
}

func TestHeadersAreBelievedFromDeclaredSendersOnly(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, tells)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) {
		f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
		f.Policy.ProxyProtocol = 2
		f.Policy.Deny = []netip.Prefix{netip.MustParsePrefix("192.0.2.66/32")}
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	say := func(from, text string) (string, net.Addr, error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(parseAddr(from), 0))}
		c, err := d.DialContext(t.Context(), "tcp", entryOf(f))
		if err != nil {
			return "", nil, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		for i := range len(text) { // a byte at a time: the header may come in pieces
			if _, err := c.Write([]byte{text[i]}); err != nil {
				return "", nil, err // each error is told once
			}
		}
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		return string(b), c.LocalAddr(), err
	}
	const header = "PROXY TCP4 192.0.2.1 198.51.100.2 4711 80\r\n"

	got, _, err := say("127.0.0.2", header+"hello")
	if want := `v2 192.0.2.1:4711 198.51.100.2:80 "hello" <nil>`; got != want || err != nil {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
	got, from, err := say("127.0.0.3", header+"hello")
	if want := fmt.Sprintf("v2 %s %s %q <nil>", from, entryOf(f), header+"hello"); got != want || err != nil {
		t.Errorf("a stranger's header was taken for one: got %s (%v)\nwant %s", got, err, want)
	}
	for name, text := range map[string]string{
		"no header":          "GET / HTTP/1.1\r\n\r\n",
		"half a header":      header[:20],
		"a malformed one":    "PROXY TCP4 192.0.2.1 198.51.100.2 04711 80\r\n",
		"a denied client in": strings.Replace(header, "192.0.2.1 ", "192.0.2.66 ", 1),
	} {
		if got, _, err := say("127.0.0.2", text); got != "" || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("%s: got %q (%v), want a reset", name, got, err)
		}
	}
	eventually(t, "it is told why", func() bool { return ev.ended(fairlead.NoHeader) && ev.ended(fairlead.Denied) })
}

// The first bytes show that a header is none. The sender, who waits for an
// answer, is not kept waiting for what would come with the rest of one.
func TestAHeaderThatIsNoneIsRefusedAtItsFirstBytes(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, tells)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) {
		f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for _, text := range []string{"GET /", "P\r", "\r\n\r\n\r"} {
		c, err := net.Dial("tcp", entryOf(f))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: %v, want a reset", text, err)
		}
	}
	eventually(t, "it is told why", func() bool {
		return ev.count(func(e fairlead.Event) bool {
			return e.Reason == fairlead.NoHeader && strings.HasSuffix(e.Problem.What, "header: the peer began without a header")
		}) == 3
	})
}

// Who comes through a unix socket has no address, so that no network holds it:
// its header would be taken for what the client says.
func TestAcceptProxyNeedsSendersWithAddresses(t *testing.T) {
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1", func(f *fairlead.Forward) {
		f.At = fairlead.Spot{Unix: filepath.Join(t.TempDir(), "in"), Net: fairlead.TCP}
		f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	})
	if err := r.Fits(f); fairlead.AsProblem(err) == nil || fairlead.AsProblem(err).Code != fairlead.CodeCannotHonour {
		t.Errorf("got %v, want a refusal", err)
	}
}

// HAProxy on both sides: it sends headers to us, and reads ours.
func TestHAProxyAndWeUnderstandEachOther(t *testing.T) {
	haproxy := lab.NeedTool(t, "haproxy")
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, tells)
	ports := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 2)
	in, out := ports, netip.AddrPortFrom(ports.Addr(), ports.Port()+1)
	r := newRelay(t, relay.Config{})
	// client → HAProxy (send-proxy-v2) → us → HAProxy (accept-proxy, send-proxy) → peer
	f := wish(t, "web", fairlead.TCP, out.String(), func(f *fairlead.Forward) {
		f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		f.Policy.ProxyProtocol = 2
		f.Policy.Check.How = "off"
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 100
defaults
  mode tcp
  timeout connect 10s
  timeout client 30s
  timeout server 30s
listen in
  bind %s
  server us %s send-proxy-v2 proxy-v2-options crc32c
listen out
  bind %s accept-proxy
  server peer %s send-proxy
`, in, entryOf(f), out, peer.Address)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(haproxy, "-db", "-q", "-f", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var c *net.TCPConn
	eventually(t, "HAProxy listens", func() bool {
		conn, err := net.Dial("tcp", in.String())
		if err == nil {
			c = conn.(*net.TCPConn)
		}
		return err == nil
	})
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write([]byte("hello"))
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if want := fmt.Sprintf("v1 %s %s %q <nil>", c.LocalAddr(), in, "hello"); string(got) != want || err != nil {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
}
