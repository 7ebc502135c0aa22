package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/lab"
	"fairlead/internal/sys/nft"
)

// A town is a gateway's network with a carrier at work on the gateway. Outside
// knows the way to the LAN, as a neighbour of the WAN may: only the guard keeps
// it out.
type town struct {
	*lab.Gateway
	t        *testing.T
	k        *Kernel
	mu       sync.Mutex // guards the next two
	wan, lan []string
	listens  []Listener
}

func newTown(t *testing.T, sentences ...string) *town {
	t.Helper()
	lab.NeedTool(t, "nft")
	g := &town{Gateway: lab.NewGateway(t), t: t, wan: []string{"wan0"}, lan: []string{"lan0"}}
	g.Outside.Route("192.168.1.0/24", lab.WAN4, "eth0")
	g.Outside.Route("2001:db8:2::/64", lab.WAN6, "eth0")
	g.k = New(Config{
		Table: "fairlead", In: g.Gateway.Gateway.Do,
		Sides: func() (wan, lan []string, err error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			return slices.Clone(g.wan), slices.Clone(g.lan), nil
		},
		Listeners: func() []Listener {
			g.mu.Lock()
			defer g.mu.Unlock()
			return slices.Clone(g.listens)
		},
	})
	t.Cleanup(g.k.Close)
	if len(sentences) > 0 {
		g.carry(sentences...)
	}
	return g
}

// carry has exactly the sentences carried, and returns their statuses; broken
// ones fail the test.
func (g *town) carry(sentences ...string) []fairlead.Status {
	g.t.Helper()
	want := make([]*fairlead.Forward, len(sentences))
	for i, s := range sentences {
		want[i] = wish(g.t, fmt.Sprintf("f%d", i), s)
	}
	list := g.k.Apply(g.t.Context(), want)
	for _, st := range list {
		if st.State == fairlead.Broken {
			g.t.Fatalf("%s is broken: %v", st.Forward.Expr, st.Problem)
		}
	}
	return list
}

// wish is the forward of a sentence, as the engine hands it to a carrier.
func wish(t *testing.T, name, sentence string) *fairlead.Forward {
	t.Helper()
	f, problems := config.ParseSentence(sentence)
	if len(problems) > 0 {
		t.Fatalf("%s: %v", sentence, problems[0])
	}
	f.Name = name
	if f.Life() > 0 {
		f.Expires = time.Now().Add(f.Life())
	}
	return f
}

// patience bounds whatever has to come about.
const patience = 10 * time.Second

// until polls for what has to come about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come about: %s", what)
		}
	}
}

// A desk serves TCP and UDP at one address of a host, and tells every client who
// it is, and who is asked.
type desk struct {
	at  netip.AddrPort
	udp *net.UDPConn
}

func newDesk(t *testing.T, h *lab.Host, at string) *desk {
	t.Helper()
	ln, err := h.Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := h.ListenPacket(t.Context(), "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s at %s", c.RemoteAddr(), h.Name)
			c.Close()
		}
	})
	wg.Go(func() {
		b := make([]byte, 100)
		for {
			_, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort(fmt.Appendf(nil, "%s at %s", netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), h.Name), from)
		}
	})
	t.Cleanup(func() {
		ln.Close()
		pc.Close()
		wg.Wait()
	})
	return &desk{at: netip.MustParseAddrPort(ln.Addr().String()), udp: pc}
}

// ask is what a desk answers; an error after the time that ctx has.
func ask(ctx context.Context, from *lab.Host, network string, source netip.AddrPort, at string) (string, error) {
	d := net.Dialer{}
	d.SetMultipathTCP(false)
	if source.IsValid() {
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(source)
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(source)
		}
	}
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = d.DialContext(ctx, network, at)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 100)
	for {
		if network == "udp" {
			if _, err := c.Write([]byte("who am I?")); err != nil {
				return "", err
			}
		}
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := c.Read(b)
		var late net.Error
		switch {
		case n > 0:
			return string(b[:n]), nil
		case ctx.Err() != nil:
			return "", ctx.Err()
		case !errors.As(err, &late) || !late.Timeout():
			return "", err
		}
	}
}

// answers fails the test unless a desk answers, and returns what it says.
func (g *town) answers(from *lab.Host, network, at string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	defer cancel()
	s, err := ask(ctx, from, network, netip.AddrPort{}, at)
	if err != nil {
		g.t.Errorf("%s from %s to %s: no answer: %v", network, from.Name, at, err)
	}
	return s
}

// silent fails the test when a desk answers within the time in which an open way
// answers many times over.
func (g *town) silent(from *lab.Host, network, at string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 300*time.Millisecond)
	defer cancel()
	if s, err := ask(ctx, from, network, netip.AddrPort{}, at); err == nil {
		g.t.Errorf("%s from %s to %s was answered: %s", network, from.Name, at, s)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		var late net.Error
		if !errors.As(err, &late) || !late.Timeout() {
			g.t.Errorf("%s from %s to %s: %v; a guard says nothing", network, from.Name, at, err)
		}
	}
}

// A witness is a table of somebody else behind ours: it notes what got past.
type witness struct{ g *town }

// The witness's notes: of hosts behind the gateway, and of the gateway itself.
const (
	seenThrough = "f"
	seenAtSelf  = "i"
)

func (g *town) witness() witness {
	g.t.Helper()
	var b strings.Builder
	b.WriteString("table inet witness {\n")
	for _, hook := range []string{"forward", "input"} {
		p := hook[:1]
		for _, v := range []struct{ n, addr, ip, icmp string }{{"4", "ipv4_addr", "ip", "icmp"}, {"6", "ipv6_addr", "ip6", "icmpv6"}} {
			fmt.Fprintf(&b, "set %s_port%s { type %s . inet_proto . inet_service; flags dynamic; size 65535; }\n", p, v.n, v.addr)
			fmt.Fprintf(&b, "set %s_icmp%s { type %s . %s_type; flags dynamic; size 65535; }\n", p, v.n, v.addr, v.icmp)
			fmt.Fprintf(&b, "set %s_proto%s { type %s . inet_proto; flags dynamic; size 65535; }\n", p, v.n, v.addr)
		}
		fmt.Fprintf(&b, "chain %s_seen { type filter hook %s priority 50;\n", p, hook)
		for _, v := range []struct{ n, ip, icmp, l4 string }{{"4", "ip", "icmp", "icmp"}, {"6", "ip6", "icmpv6", "ipv6-icmp"}} {
			fmt.Fprintf(&b, "iifname \"wan*\" meta l4proto { tcp, udp } add @%s_port%s { %s daddr . meta l4proto . th dport }\n", p, v.n, v.ip)
			fmt.Fprintf(&b, "iifname \"wan*\" meta l4proto %s add @%s_icmp%s { %s daddr . %s type }\n", v.l4, p, v.n, v.ip, v.icmp)
			fmt.Fprintf(&b, "iifname \"wan*\" meta l4proto != { tcp, udp, icmp, ipv6-icmp } add @%s_proto%s { %s daddr . meta l4proto }\n", p, v.n, v.ip)
		}
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	cmd := g.Gateway.Gateway.Command(g.t, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("witness: %v\n%s", err, out)
	}
	return witness{g}
}

// saw are the notes of a kind ("port", "icmp", "proto"), as "ADDRESS VALUES".
func (w witness) saw(where, what string) map[string]bool {
	w.g.t.Helper()
	seen := map[string]bool{}
	err := w.g.Gateway.Gateway.Do(func() error {
		conn, err := nft.Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		for _, v := range []string{"4", "6"} {
			set, err := conn.ReadSet(nft.Inet, "witness", where+"_"+what+v)
			if err != nil {
				return err
			}
			for _, e := range set.Elements {
				a, _ := netip.AddrFromSlice([]byte(e.Key[0].First))
				words := []string{a.String()}
				for _, r := range e.Key[1:] {
					v := []byte(r.First)
					if len(v) == 4 {
						v = v[:1] // a type that package nft does not know, padded
					}
					n := 0
					for _, c := range v {
						n = n<<8 | int(c)
					}
					words = append(words, fmt.Sprint(n))
				}
				seen[strings.Join(words, " ")] = true
			}
		}
		return nil
	})
	if err != nil {
		w.g.t.Fatalf("witness: %v", err)
	}
	return seen
}

// ipPacket is a packet of any protocol around a payload.
func ipPacket(proto uint8, src, dst netip.Addr, payload []byte) []byte {
	var b []byte
	if src.Is4() {
		b = make([]byte, 20)
		b[0], b[8], b[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], inetSum(b))
	} else {
		b = make([]byte, 40)
		b[0], b[6], b[7] = 0x60, proto, 255
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	}
	return append(b, payload...)
}

// icmpPacket is an ICMP message of its family; rest follows the checksum.
func icmpPacket(src, dst netip.Addr, kind, code uint8, rest []byte) []byte {
	m := append([]byte{kind, code, 0, 0}, rest...)
	proto := uint8(unix.IPPROTO_ICMP)
	under := m
	if src.Is6() {
		proto = unix.IPPROTO_ICMPV6
		pseudo := append(slices.Clone(src.AsSlice()), dst.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(m)))
		under = append(append(pseudo, 0, 0, 0, proto), m...)
	}
	binary.BigEndian.PutUint16(m[2:], inetSum(under))
	return ipPacket(proto, src, dst, m)
}

// inetSum is the Internet checksum (RFC 1071).
func inetSum(b []byte) uint16 {
	var s uint32
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// flush forgets every connection that a host tracks.
func flush(t *testing.T, h *lab.Host) {
	t.Helper()
	lab.NeedTool(t, "conntrack")
	if out, err := h.Command(t, "conntrack", "-F").CombinedOutput(); err != nil {
		t.Fatalf("conntrack -F: %v\n%s", err, out)
	}
}
