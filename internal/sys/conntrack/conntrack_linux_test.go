package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// town is a client, a gateway that tracks connections and leads some ports on,
// and a server that answers.
type town struct {
	client, gateway, server *lab.Host
}

// rules lead 203.0.113.1 and 2001:db8:1::1, ports 8000 to 8999, to the server.
const rules = `
table inet lead {
	chain pre {
		type nat hook prerouting priority -100
		ip daddr 203.0.113.1 th dport 8000-8999 meta l4proto { tcp, udp } dnat ip to 192.168.1.10
		ip6 daddr 2001:db8:1::1 th dport 8000-8999 meta l4proto { tcp, udp } dnat ip6 to [2001:db8:2::10]
	}
	chain post { type nat hook postrouting priority 100; ct state new; }
}`

func newTown(t *testing.T) *town {
	n := lab.NewNet(t)
	tn := &town{n.Host("client"), n.Host("gateway"), n.Host("server")}
	n.Wire(tn.client, "eth0", tn.gateway, "wan")
	n.Wire(tn.gateway, "lan", tn.server, "eth0")
	tn.client.Addr("eth0", "203.0.113.9/24", "2001:db8:1::9/64")
	tn.gateway.Addr("wan", "203.0.113.1/24", "2001:db8:1::1/64")
	tn.gateway.Addr("lan", "192.168.1.1/24", "2001:db8:2::1/64")
	tn.server.Addr("eth0", "192.168.1.10/24", "2001:db8:2::10/64")
	tn.client.Route("192.168.1.0/24", "203.0.113.1", "")
	tn.server.Route("0.0.0.0/0", "192.168.1.1", "")
	tn.server.Route("::/0", "2001:db8:2::1", "")
	tn.gateway.Sysctl("net.ipv4.ip_forward", "1")
	tn.gateway.Sysctl("net.ipv6.conf.all.forwarding", "1")
	lab.NeedTool(t, "nft")
	load := tn.gateway.Command(t, "nft", "-f", "-")
	load.Stdin = strings.NewReader(rules)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return tn
}

// udp answers datagrams at that port of the server, v4 and v6, and tcp takes
// connections.
func (tn *town) serve(t *testing.T, port int) {
	t.Helper()
	for _, addr := range []string{"192.168.1.10", "2001:db8:2::10"} {
		at := net.JoinHostPort(addr, strconv.Itoa(port))
		pc, err := tn.server.ListenPacket(t.Context(), "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := tn.server.Listen(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { echoDatagrams(pc) })
		wg.Go(func() { keepConnections(ln) })
		t.Cleanup(func() { pc.Close(); ln.Close(); wg.Wait() })
	}
}

func echoDatagrams(pc *net.UDPConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		pc.WriteToUDPAddrPort(buf[:n], from)
	}
}

func keepConnections(ln net.Listener) {
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		held = append(held, c)
	}
}

// dial connects from the client, and for UDP exchanges a datagram.
func (tn *town) dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := tn.client.DialContext(ctx, network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if network == "udp" {
		exchange(t, c)
	}
	return c
}

func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
}

func (tn *town) list(t *testing.T, f Filter) (all []Entry) {
	t.Helper()
	err := tn.gateway.Do(func() error {
		return EachOf(t.Context(), f, func(e *Entry) bool { all = append(all, *e); return true })
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// line is an entry as conntrack(8) prints it with "-o id", as far as both know
// it: timeouts differ by the second in which they are asked.
func line(e *Entry) string {
	proto := map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[e.Original.Proto]
	tuple := func(t Tuple) string {
		return fmt.Sprintf("src=%s dst=%s sport=%d dport=%d", t.Src.Addr(), t.Dst.Addr(), t.Src.Port(), t.Dst.Port())
	}
	return fmt.Sprintf("%s %s packets=%d bytes=%d %s packets=%d bytes=%d mark=%d id=%d", proto,
		tuple(e.Original), e.OrigPackets, e.OrigBytes, tuple(e.Reply), e.ReplyPackets, e.ReplyBytes, e.Mark, e.ID)
}

var said = regexp.MustCompile(`(?m)^(?:ipv[46] +\d+ )?(tcp|udp) +\d+ .*?(src=.*)$`)

// oracle is the list as conntrack(8) has it.
func (tn *town) oracle(t *testing.T) (lines []string) {
	t.Helper()
	lab.NeedTool(t, "conntrack")
	for _, family := range []string{"ipv4", "ipv6"} {
		out, err := tn.gateway.Command(t, "conntrack", "-L", "-f", family, "-o", "id").Output()
		if err != nil {
			t.Fatalf("conntrack -L: %v", err)
		}
		for _, m := range said.FindAllStringSubmatch(string(out), -1) {
			words := slices.DeleteFunc(strings.Fields(m[2]), func(w string) bool {
				return strings.HasPrefix(w, "[") || strings.HasPrefix(w, "use=") || strings.HasPrefix(w, "delta-time=")
			})
			lines = append(lines, m[1]+" "+strings.Join(words, " "))
		}
	}
	slices.Sort(lines)
	return lines
}

func TestEachTellsWhatConntrackTells(t *testing.T) {
	tn := newTown(t)
	tn.gateway.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	tn.gateway.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
	tn.serve(t, 8080)
	before := time.Now().Add(-time.Minute)
	for _, network := range []string{"tcp", "udp"} {
		tn.dial(t, network, "203.0.113.1:8080")
		tn.dial(t, network, "[2001:db8:1::1]:8080")
	}
	all := tn.list(t, Filter{})
	var mine []string
	for _, e := range all {
		if e.Original.Proto != unix.IPPROTO_TCP && e.Original.Proto != unix.IPPROTO_UDP {
			continue
		}
		mine = append(mine, line(&e))
		if e.Status&DNAT == 0 || e.Status&SNAT != 0 || e.Timeout <= 0 || e.Timeout > 432000*time.Second {
			t.Errorf("%s: status %#x, timeout %v", line(&e), e.Status, e.Timeout)
		}
		if e.Original.Proto == unix.IPPROTO_TCP && e.TCPState != Established {
			t.Errorf("%s: state %d, want %d", line(&e), e.TCPState, Established)
		}
		if e.Started.Before(before) || e.Started.After(time.Now()) {
			t.Errorf("%s: started %v", line(&e), e.Started)
		}
	}
	slices.Sort(mine)
	if want := tn.oracle(t); !slices.Equal(mine, want) || len(mine) != 4 {
		t.Errorf("we list\n%s\nconntrack lists\n%s", strings.Join(mine, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheKernelLeavesOutWhatIsNotAskedFor(t *testing.T) {
	tn := newTown(t)
	tn.serve(t, 8080)
	tn.dial(t, "tcp", "203.0.113.1:8080")
	tn.dial(t, "udp", "[2001:db8:1::1]:8080")
	tn.dial(t, "udp", "192.168.1.10:8080").Close() // not translated
	for _, c := range []struct {
		name string
		f    Filter
		want int
	}{
		{"all", Filter{}, 3},
		{"UDP", Filter{Proto: unix.IPPROTO_UDP}, 2},
		{"translated", Filter{Status: DNAT}, 2},
		{"translated TCP", Filter{Status: DNAT, Proto: unix.IPPROTO_TCP}, 1},
		{"SCTP", Filter{Proto: unix.IPPROTO_SCTP}, 0},
	} {
		var told int
		err := tn.gateway.Do(func() error { // below EachOf, which looks once more
			var errs []error
			for _, family := range c.f.families() {
				_, err := list(t.Context(), c.f, family, func(e *Entry) bool {
					if e.Original.Proto != unix.IPPROTO_ICMPV6 {
						told++
					}
					return true
				})
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		})
		if err != nil || told != c.want {
			t.Errorf("%s: the kernel told of %d entries, want %d (%v)", c.name, told, c.want, err)
		}
		n := 0
		for _, e := range tn.list(t, c.f) {
			if e.Original.Proto != unix.IPPROTO_ICMPV6 {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%s: %d entries, want %d", c.name, n, c.want)
		}
	}
}

func TestDeleteForgetsOneEntryAndNoOther(t *testing.T) {
	tn := newTown(t)
	tn.serve(t, 8080)
	for _, network := range []string{"tcp", "udp"} {
		tn.dial(t, network, "203.0.113.1:8080")
		tn.dial(t, network, "203.0.113.1:8080")
		tn.dial(t, network, "[2001:db8:1::1]:8080")
	}
	left := tn.list(t, Filter{Status: DNAT})
	if len(left) != 6 {
		t.Fatalf("there are %d entries, want 6", len(left))
	}
	forget := func(e *Entry) {
		t.Helper()
		if err := tn.gateway.Do(func() error { return Delete(e) }); err != nil {
			t.Error(err)
		}
	}
	other := left[0]
	other.ID++
	forget(&other)
	if n := len(tn.list(t, Filter{Status: DNAT})); n != 6 {
		t.Fatalf("an entry went although the ID was another's: %d are left, want 6", n)
	}
	for len(left) > 0 {
		gone := left[0]
		forget(&gone)
		forget(&gone) // it is not there, which is no error
		left = left[1:]
		now := tn.list(t, Filter{Status: DNAT})
		if len(now) != len(left) || slices.ContainsFunc(now, func(e Entry) bool { return e.ID == gone.ID }) {
			t.Fatalf("after %s was forgotten %d are left, want %d", line(&gone), len(now), len(left))
		}
	}
}

func TestDeleteOfNothingForgetsNothing(t *testing.T) {
	tn := newTown(t)
	tn.serve(t, 8080)
	tn.dial(t, "tcp", "203.0.113.1:8080")
	for _, e := range []*Entry{
		{},
		{ID: 1, Original: Tuple{Proto: unix.IPPROTO_TCP}},
		{Original: Tuple{Proto: unix.IPPROTO_TCP, Src: netip.MustParseAddrPort("1.2.3.4:5")}},
	} {
		if err := tn.gateway.Do(func() error { return Delete(e) }); err == nil {
			t.Errorf("Delete(%+v) is no error", e)
		}
	}
	icmp := &Entry{Original: Tuple{Proto: unix.IPPROTO_ICMP, Src: netip.MustParseAddrPort("1.2.3.4:0"), Dst: netip.MustParseAddrPort("1.2.3.5:0")}}
	if err := tn.gateway.Do(func() error { return Delete(icmp) }); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Delete of ICMP: %v, want that it is unsupported", err)
	}
	if n := len(tn.list(t, Filter{Status: DNAT})); n != 1 {
		t.Errorf("%d entries are left, want 1", n)
	}
}

func TestEntriesOfAZoneAreForgotten(t *testing.T) {
	tn := newTown(t)
	tn.serve(t, 8080)
	load := tn.gateway.Command(t, "nft", "-f", "-")
	load.Stdin = strings.NewReader(`table inet zones {
		chain raw { type filter hook prerouting priority -300; ct zone set 7; }
	}`)
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	tn.dial(t, "udp", "203.0.113.1:8080")
	all := tn.list(t, Filter{Status: DNAT})
	if len(all) != 1 || all[0].Zone != 7 {
		t.Fatalf("entries: %+v, want one in zone 7", all)
	}
	if err := tn.gateway.Do(func() error { return Delete(&all[0]) }); err != nil {
		t.Fatal(err)
	}
	if n := len(tn.list(t, Filter{Status: DNAT})); n != 0 {
		t.Errorf("%d entries are left, want none", n)
	}
}

func TestEachOfThousandsIsWhole(t *testing.T) {
	tn := newTown(t)
	pc, err := tn.client.ListenPacket(t.Context(), "udp", "203.0.113.9:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	const many = 20000
	for i := range many { // nobody answers; each makes an entry
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 1, 10}), uint16(10000+i))
		if _, err := pc.WriteToUDPAddrPort(nil, to); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint32]bool{}
	for _, e := range tn.list(t, Filter{Proto: unix.IPPROTO_UDP}) {
		seen[e.ID] = true
	}
	if len(seen) != many {
		t.Errorf("%d entries were told, want %d", len(seen), many)
	}
	n := 0
	err = tn.gateway.Do(func() error { return Each(t.Context(), func(*Entry) bool { n++; return n < 3 }) })
	if err != nil || n != 3 {
		t.Errorf("Each went on to %d entries after false (%v)", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	err = tn.gateway.Do(func() error { return Each(ctx, func(*Entry) bool { n++; cancel(); return true }) })
	if !errors.Is(err, context.Canceled) || n == many {
		t.Errorf("Each went on to %d entries after its context ended: %v", n, err)
	}
}

// notices gathers what Watch tells.
type notices struct {
	mu   sync.Mutex
	told []string
}

func (n *notices) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = append(n.told, s)
}

func (n *notices) has(s string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(n.told, s)
}

// until polls for what is to become true.
func until(t *testing.T, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within ten seconds: %s", what)
		}
	}
}

func TestWatchTellsOfBeginAndEnd(t *testing.T) {
	tn := newTown(t)
	tn.serve(t, 8080)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var seen notices
	ready := make(chan struct{})
	words := map[What]string{New: "new", Updated: "updated", Destroyed: "destroyed"}
	wg.Go(func() {
		err := tn.gateway.Do(func() error {
			return Watch(ctx, []What{New, Updated, Destroyed}, func() { close(ready) }, func(w What, e *Entry) {
				seen.add(fmt.Sprint(words[w], " ", e.Original.Proto, " ", e.Original.Dst, " from ", e.Reply.Src))
			}, nil)
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-ready
	tn.dial(t, "udp", "203.0.113.1:8080")
	tn.dial(t, "tcp", "[2001:db8:1::1]:8080")
	for _, e := range tn.list(t, Filter{Status: DNAT}) {
		if err := tn.gateway.Do(func() error { return Delete(&e) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		"new 17 203.0.113.1:8080 from 192.168.1.10:8080",
		"destroyed 17 203.0.113.1:8080 from 192.168.1.10:8080",
		"new 6 [2001:db8:1::1]:8080 from [2001:db8:2::10]:8080",
		"updated 6 [2001:db8:1::1]:8080 from [2001:db8:2::10]:8080",
		"destroyed 6 [2001:db8:1::1]:8080 from [2001:db8:2::10]:8080",
	} {
		until(t, "notice "+want, func() bool { return seen.has(want) })
	}
}

func TestWatchSaysThatNoticesWereLost(t *testing.T) {
	tn := newTown(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	ready, lost := make(chan struct{}), make(chan struct{}, 1)
	block := make(chan struct{})
	wg.Go(func() {
		err := tn.gateway.Do(func() error {
			return Watch(ctx, []What{New}, func() { close(ready) },
				func(What, *Entry) { <-block },
				func() {
					select {
					case lost <- struct{}{}:
					default:
					}
				})
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-ready
	pc, err := tn.client.ListenPacket(t.Context(), "udp", "203.0.113.9:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	for i := range 40000 {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 1, 10}), uint16(10000+i))
		pc.WriteToUDPAddrPort(nil, to)
	}
	close(block)
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Error("nothing was said of lost notices")
	}
}

func TestWithoutTheRightTheErrorSaysSo(t *testing.T) {
	lab.NewNet(t) // or skip
	told := make(chan error)
	go func() {
		// Rights are a thread's; it is not given back, and ends with them.
		runtime.LockOSThread()
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			told <- err
			return
		}
		told <- Each(t.Context(), func(*Entry) bool { return true })
	}()
	if err := <-told; !errors.Is(err, os.ErrPermission) {
		t.Errorf("Each without CAP_NET_ADMIN: %v", err)
	}
}

// FuzzDecode reads what is no message of the kernel's.
func FuzzDecode(f *testing.F) {
	e := &Entry{ID: 7, Original: Tuple{Proto: 6, Src: netip.MustParseAddrPort("[2001:db8::1]:1"), Dst: netip.MustParseAddrPort("[2001:db8::2]:2")}}
	f.Add(remove(e, 1))
	f.Add(dump(Filter{Proto: unix.IPPROTO_UDP, Status: DNAT}, unix.AF_INET, 1))
	e.Original.Src, e.Original.Dst = netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")
	two := append(remove(e, 1), remove(e, 2)...)
	f.Add(two)
	binary.NativeEndian.PutUint16(two[headerLen+nfgenLen:], 0xffff)
	f.Add(two)
	f.Fuzz(func(t *testing.T, b []byte) {
		var e Entry
		for m, rest, ok := next(b); ok; m, rest, ok = next(rest) {
			if len(rest) >= len(b) {
				t.Fatal("a message of no length")
			}
			b = rest
			status(m.body)
			if decode(m.body, &e) && (!e.Original.Src.Addr().IsValid() || !e.Original.Dst.Addr().IsValid()) {
				t.Fatalf("an entry without addresses: %+v", e)
			}
		}
	})
}

func TestDecodeReadsWhatIsAskedFor(t *testing.T) {
	for _, addr := range []string{"192.0.2.1", "2001:db8::1"} {
		want := Entry{ID: 0xdeadbeef, Zone: 9, Original: Tuple{
			Proto: unix.IPPROTO_UDP,
			Src:   netip.AddrPortFrom(netip.MustParseAddr(addr), 1),
			Dst:   netip.AddrPortFrom(netip.MustParseAddr(addr).Next(), 65535),
		}}
		m, rest, ok := next(remove(&want, 5))
		var got Entry
		if !ok || len(rest) != 0 || m.seq != 5 || !decode(m.body, &got) || got != want {
			t.Errorf("read back %+v, want %+v", got, want)
		}
	}
}
