package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/nft"
)

// carrier makes another carrier at the town's gateway, as another life of the
// program would.
func (g *town) carrier(change func(*Config)) *Kernel {
	c := g.k.cfg
	if change != nil {
		change(&c)
	}
	k := New(c)
	g.t.Cleanup(k.Close)
	return k
}

// notices counts the transactions that touch our table, from now on.
func (g *town) notices() *atomic.Int64 {
	g.t.Helper()
	var n atomic.Int64
	ctx, cancel := context.WithCancel(g.t.Context())
	ready := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		g.Gateway.Gateway.Do(func() error {
			return nft.Watch(ctx, func() { close(ready) }, func(e nft.Notice) {
				if e.Table == "fairlead" {
					n.Add(1)
				}
			})
		})
	})
	g.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	select {
	case <-ready:
	case <-time.After(patience):
		g.t.Fatal("nobody listens")
	}
	return &n
}

// A stream is one flow of datagrams there and back; each has a number.
type stream struct {
	c    net.Conn
	sent int
}

func (g *town) stream(at string) *stream {
	g.t.Helper()
	c, err := g.Outside.DialContext(g.t.Context(), "udp", at)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return &stream{c: c}
}

// next sends one datagram and takes its answer.
func (s *stream) next(t *testing.T) {
	t.Helper()
	s.sent++
	if _, err := fmt.Fprintf(s.c, "%d", s.sent); err != nil {
		t.Fatalf("datagram %d: %v", s.sent, err)
	}
	b := make([]byte, 100)
	s.c.SetReadDeadline(time.Now().Add(patience))
	if _, err := s.c.Read(b); err != nil {
		t.Fatalf("datagram %d was lost: %v", s.sent, err)
	}
}

// served is a TCP connection through the gateway to an echo.
func (g *town) served(at string) net.Conn {
	g.t.Helper()
	c, err := g.Outside.DialContext(g.t.Context(), "tcp", at)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

func echoed(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatalf("an established connection broke: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatalf("an established connection broke: %v", err)
	}
}

func (g *town) echo(at string) {
	g.t.Helper()
	lab.Serve(g.t, lab.At{Host: g.Inside, Address: at}, func(v *lab.Visit) {
		b := make([]byte, 100)
		for {
			n, err := v.Conn.Read(b)
			if err != nil {
				return
			}
			v.Conn.Write(b[:n])
		}
	})
}

const wanWeb = lab.WAN4 + ":8080"

func TestWhatIsAppliedAgainChangesNothing(t *testing.T) {
	g := newTown(t, "nat wan:8080/tcp+udp to 192.168.1.10:80", "nat wan:9000-9010 to 192.168.1.20 max-conns-per-source 3")
	want := g.k.want
	n := g.notices()
	for range 3 {
		g.k.Apply(t.Context(), want)
	}
	// A change that is seen is the sign that none before it was.
	other := g.carrier(func(c *Config) { c.Table = "fairlead-other" })
	other.Apply(t.Context(), []*fairlead.Forward{wish(t, "x", "nat wan:81 to 192.168.1.10")})
	if got := n.Load(); got != 0 {
		t.Errorf("%d transactions for what was there", got)
	}
}

func TestACrashIsSurvivedAndTheTableAdopted(t *testing.T) {
	g := newTown(t, "nat wan:8080/tcp+udp to 192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	g.answers(g.Outside, "tcp", wanWeb)
	s := g.stream(wanWeb)
	for range 20 {
		s.next(t)
	}
	var before [4]int64
	until(t, "counters of the first life", func() bool {
		before = figures(g.k.Report()[0].Meter)
		return before[0] >= 2 && before[1] > 0 && before[2] > 0
	})

	n := g.notices()
	g.k.Close() // without Leave: what is in the kernel is what a crash leaves
	s.next(t)
	g.answers(g.Outside, "tcp", wanWeb)

	k := g.carrier(nil)
	if st := k.Apply(t.Context(), g.k.want)[0]; st.State == fairlead.Broken {
		t.Fatalf("%v", st.Problem)
	}
	for range 20 {
		s.next(t)
	}
	if n.Load() != 0 {
		t.Errorf("adopting what was as it should be took %d transactions", n.Load())
	}
	until(t, "counters that go on", func() bool {
		now := figures(k.Report()[0].Meter)
		return now[0] >= before[0]+1 && now[1] > before[1] && now[2] > before[2]
	})
}

func figures(m *fairlead.Meter) [4]int64 {
	return [4]int64{m.Flows.Load(), m.In.Load(), m.Out.Load(), m.Refused.Load()}
}

func TestCountersSurviveAReplacement(t *testing.T) {
	g := newTown(t, "nat wan:8080/tcp+udp to 192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	s := g.stream(wanWeb)
	for range 10 {
		s.next(t)
	}
	var before [4]int64
	until(t, "counters", func() bool { before = figures(g.k.Report()[0].Meter); return before[1] > 0 })
	// share needs other base chains: all of the table is replaced.
	g.carry("nat wan:8080/tcp+udp to 192.168.1.10:80", "share lan to wan")
	for range 3 {
		s.next(t)
	}
	k := g.carrier(nil) // without a memory of its own
	g.k.Close()
	k.Apply(t.Context(), g.k.want)
	until(t, "counters that went on", func() bool {
		now := figures(k.Report()[0].Meter)
		return now[1] > before[1] && now[2] > before[2]
	})
}

func TestAnEndIsTakenBackByARestart(t *testing.T) {
	g := newTown(t, "nat wan:8080/tcp+udp to 192.168.1.10:80", "nat wan:9000-9010 to 192.168.1.10", "nat wan:8081 to 192.168.1.10:80 max-conns-per-source 3")
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:9005")
	s := g.stream(wanWeb)
	s.next(t)
	if err := g.k.Leave(); err != nil {
		t.Fatal(err)
	}
	s.next(t)
	for _, at := range []string{wanWeb, lab.WAN4 + ":9005", lab.WAN4 + ":8081"} {
		g.answers(g.Outside, "tcp", at)
	}
	g.k.Close()
	table := g.table()
	if ends := strings.Count(table, "timeout 30s expires"); ends < 4 {
		t.Fatalf("%d elements have an end:\n%s", ends, table)
	}

	k := g.carrier(nil)
	k.Apply(t.Context(), g.k.want)
	s.next(t)
	if table := g.table(); strings.Contains(table, "timeout 30s expires") {
		t.Fatalf("after a restart elements still have an end:\n%s", table)
	}
	for _, at := range []string{wanWeb, lab.WAN4 + ":9005", lab.WAN4 + ":8081"} {
		g.answers(g.Outside, "tcp", at)
	}
}

func (g *town) table() string {
	g.t.Helper()
	out, err := g.Gateway.Gateway.Command(g.t, "nft", "list", "table", "inet", "fairlead").CombinedOutput()
	if err != nil {
		g.t.Fatalf("nft list: %v\n%s", err, out)
	}
	return string(out)
}

func TestAnEndIsKeptByTheKernel(t *testing.T) {
	g := newTown(t)
	g.k = g.carrier(func(c *Config) { c.Life = time.Second })
	g.carry("nat wan:8080/tcp+udp to 192.168.1.10:80", "nat wan:9000-9010 to 192.168.1.10")
	g.echo("192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:9005")
	c := g.served(wanWeb)
	echoed(t, c)
	if err := g.k.Leave(); err != nil {
		t.Fatal(err)
	}
	g.k.Close()
	for _, at := range []string{wanWeb, lab.WAN4 + ":9005"} {
		until(t, "nobody new is let in at "+at, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			c, err := g.Outside.DialContext(ctx, "tcp", at)
			if err == nil {
				c.Close()
			}
			return err != nil
		})
	}
	echoed(t, c) // lives on with nobody there
}

// A told is what a carrier's watch was told.
type told struct {
	mu   sync.Mutex // guards the rest
	list []fairlead.Event
}

func (l *told) watch(e fairlead.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *told) texts() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.list {
		list = append(list, e.Text)
	}
	return list
}

func TestAForeignFlushIsRepairedAndReported(t *testing.T) {
	for _, c := range []struct{ name, script, what string }{
		{"rule set", "flush ruleset", "removed by process nft"},
		{"table", "delete table inet fairlead", "removed by process nft"},
		{"rules", "flush table inet fairlead", "changed by process nft"},
		{"elements", "flush map inet fairlead iface_dnat4", "changed by process nft"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newTown(t)
			var heard told
			g.k = g.carrier(func(c *Config) { c.Watch = heard.watch })
			g.carry("nat wan:8080/tcp+udp to 192.168.1.10:80")
			g.echo("192.168.1.10:80")
			conn := g.served(wanWeb)
			echoed(t, conn)
			script := c.script
			if strings.HasPrefix(script, "flush map") {
				script = "flush map inet fairlead " + g.mapWith("8080")
			}
			before := g.table()
			if out, err := g.Gateway.Gateway.Command(t, "nft", script).CombinedOutput(); err != nil {
				t.Fatalf("nft %s: %v\n%s", script, err, out)
			}
			until(t, "the repair is told", func() bool {
				return slices.ContainsFunc(heard.texts(), func(s string) bool {
					return strings.HasPrefix(s, "repaired: ") && strings.Contains(s, c.what+" (")
				})
			})
			if after := g.table(); stripped(after) != stripped(before) {
				t.Errorf("the table is another one:\n%s\nbefore:\n%s", after, before)
			}
			echoed(t, conn)
			echoed(t, g.served(wanWeb))
			if n := g.k.Repairs(); n != 1 {
				t.Errorf("%d repairs of one change", n)
			}
		})
	}
}

// mapWith is the name of the map that has a port among its keys.
func (g *town) mapWith(port string) string {
	g.t.Helper()
	name := ""
	for line := range strings.Lines(g.table()) {
		words := strings.Fields(line)
		if len(words) > 1 && words[0] == "map" {
			name = words[1]
		}
		if name != "" && strings.Contains(line, "elements") && (strings.Contains(line, port) || strings.Contains(line, "http-alt")) {
			return name
		}
	}
	g.t.Fatal("no map has the port")
	return ""
}

// stripped is a listing without what passes, and without handles.
func stripped(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		words := strings.Fields(line)
		for i := 0; i < len(words); i++ {
			if words[i] == "counter" && i+4 < len(words) && words[i+1] == "packets" {
				i += 4
				continue
			}
			b.WriteString(words[i] + " ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestCleanCutsWhateverWasTranslated(t *testing.T) {
	g := newTown(t,
		"nat wan:80 to 192.168.1.10, 192.168.1.20 policy round-robin",
		"nat wan:81 to [2001:db8:2::10]:80 deny 2001:db8:ffff::/48",
		"nat wan:82 to self:8080",
	)
	for _, at := range []lab.At{{Host: g.Inside, Address: "192.168.1.10:80"}, {Host: g.Beside, Address: "192.168.1.20:80"},
		{Host: g.Inside, Address: "[2001:db8:2::10]:80"}, {Host: g.Gateway.Gateway, Address: lab.WAN4 + ":8080"}} {
		lab.Serve(t, at, lab.Echo)
	}
	ways := []string{lab.WAN4 + ":80", lab.WAN4 + ":80", "[" + lab.WAN6 + "]:81", lab.WAN4 + ":82"}
	for _, at := range ways {
		g.hold(g.Outside, "", at)
	}
	g.k.Close()
	err := g.Gateway.Gateway.Do(func() error {
		c, err := Clean(t.Context(), "", false)
		if c.Cut != len(ways) {
			t.Errorf("%d connections were cut, want %d", c.Cut, len(ways))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAStormOfFlushesCostsAFewRepairs(t *testing.T) {
	g := newTown(t)
	var heard told
	g.k = g.carrier(func(c *Config) { c.Watch = heard.watch })
	g.carry("nat wan:8080 to 192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	began := time.Now()
	for range 60 {
		if out, err := g.Gateway.Gateway.Command(t, "nft", "flush ruleset").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	most := int64(time.Since(began)/calm) + 2
	until(t, "it is in order again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := ask(ctx, g.Outside, "tcp", netip.AddrPort{}, wanWeb)
		return err == nil
	})
	if n := g.k.Repairs(); n > most {
		t.Errorf("%d repairs, at most %d are due", n, most)
	}
	if n := len(heard.texts()); n > 3 {
		t.Errorf("%d lines: %q", n, heard.texts())
	}
}

func TestATableOfSomebodyElseIsNotTouched(t *testing.T) {
	g := newTown(t)
	if out, err := g.Gateway.Gateway.Command(t, "nft", "table inet fairlead { chain mine { counter accept; }; }").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	st := g.k.Apply(t.Context(), []*fairlead.Forward{wish(t, "web", "nat wan:8080 to 192.168.1.10:80")})[0]
	if st.State != fairlead.Broken || st.Problem == nil || st.Problem.Code != fairlead.CodeForeignTable {
		t.Errorf("%s %v", st.State, st.Problem)
	}
	if !strings.Contains(g.table(), "chain mine") {
		t.Error("it is gone")
	}
	g.Gateway.Gateway.Do(func() error {
		c, err := Clean(t.Context(), "", false)
		if err != nil || len(c.Tables) > 0 || len(c.Left) != 1 {
			t.Errorf("clean: %+v, %v", c, err)
		}
		return nil
	})
	if !strings.Contains(g.table(), "chain mine") {
		t.Error("clean took it away")
	}
}

func TestForwardingThatIsOffIsNamedAndItsFixWorks(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Inside, "192.168.1.10:80")
	newDesk(t, g.Inside, "[2001:db8:2::10]:80")
	g.Gateway.Gateway.Sysctl("net.ipv4.ip_forward", "0")
	g.Gateway.Gateway.Sysctl("net.ipv6.conf.all.forwarding", "0")
	for _, c := range []struct{ sentence, key, at string }{
		{"nat wan:8080 to 192.168.1.10:80", "net.ipv4.ip_forward", wanWeb},
		{"nat wan:8080 to [2001:db8:2::10]:80", "net.ipv6.conf.all.forwarding", "[" + lab.WAN6 + "]:8080"},
	} {
		st := g.carry(c.sentence)[0]
		if st.Problem == nil || st.Problem.Code != fairlead.CodeForwardingOff || !st.Problem.Warning {
			t.Fatalf("%s: %v", c.sentence, st.Problem)
		}
		g.silent(g.Outside, "tcp", c.at)
		// The first way out is for good: the test of uninstall takes that one.
		command := strings.TrimPrefix(st.Problem.Fixes[1].Command, "sudo ")
		if out, err := g.Gateway.Gateway.Command(t, "sh", "-c", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		if v6 := strings.Contains(c.key, "ipv6"); v6 {
			g.Gateway.Gateway.Route("2001:db8:9::/64", lab.Outside6, "wan0")
		}
		if st := g.carry(c.sentence)[0]; st.Problem != nil && st.Problem.Code == fairlead.CodeForwardingOff {
			t.Errorf("%s after the fix: %v", c.sentence, st.Problem)
		}
		g.answers(g.Outside, "tcp", c.at)
	}
}

func TestATargetWithoutARouteIsNamed(t *testing.T) {
	g := newTown(t)
	if out, err := g.Gateway.Gateway.Command(t, "ip", "route", "del", "default").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	list := g.k.Apply(t.Context(), []*fairlead.Forward{
		wish(t, "far", "nat wan:8080 to 10.99.0.1:80"), wish(t, "near", "nat wan:8081 to 192.168.1.10:80")})
	if st := list[0]; st.State != fairlead.Broken || st.Problem == nil || st.Problem.Code != fairlead.CodeTargetUnreachable {
		t.Errorf("%s %v", st.State, st.Problem)
	}
	if st := list[1]; st.State != fairlead.Listening || st.Problem != nil && !st.Problem.Warning {
		t.Errorf("the other one: %s %v", st.State, st.Problem)
	}
}

func TestAForwardStandsAsItWasSeen(t *testing.T) {
	g := newTown(t, "nat wan:8080 to 192.168.1.10:80")
	if st := g.k.Report()[0]; st.State != fairlead.Listening {
		t.Errorf("before anything passed: %s", st.State)
	}
	newDesk(t, g.Inside, "192.168.1.10:80")
	g.answers(g.Outside, "tcp", wanWeb)
	until(t, "it is passing", func() bool { st := g.k.Report()[0]; return st.State == fairlead.Passing && st.Targets[0].Up })
}

func TestANameThatIsLearntLaterIsCarriedThen(t *testing.T) {
	g := newTown(t)
	kicked := make(chan struct{}, 10)
	var known atomic.Bool
	g.k = g.carrier(func(c *Config) {
		c.Kick = func() {
			select {
			case kicked <- struct{}{}:
			default:
			}
		}
		c.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if !known.Load() {
				return nil, fairlead.Problemf(fairlead.CodeNameUnknown, "%s: no such host", host)
			}
			return []netip.Addr{netip.MustParseAddr(lab.Inside4)}, nil
		}
	})
	want := []*fairlead.Forward{wish(t, "web", "nat wan:8080 to web.lan:80"), wish(t, "other", "nat wan:8081 to 192.168.1.10:80")}
	list := g.k.Apply(t.Context(), want)
	if st := list[0]; st.State != fairlead.Broken || st.Problem == nil || st.Problem.Code != fairlead.CodeNameUnknown {
		t.Fatalf("%s %v", st.State, st.Problem)
	}
	if list[1].State != fairlead.Listening {
		t.Fatalf("the other one is %s: %v", list[1].State, list[1].Problem)
	}
	newDesk(t, g.Inside, "192.168.1.10:80")
	for len(kicked) > 0 {
		<-kicked
	}
	known.Store(true)
	select {
	case <-kicked:
	case <-time.After(patience):
		t.Fatal("nobody asked for another Apply")
	}
	if st := g.k.Apply(t.Context(), want)[0]; st.State != fairlead.Listening {
		t.Fatalf("%s %v", st.State, st.Problem)
	}
	g.answers(g.Outside, "tcp", wanWeb)
}

func TestCountersFollowAnAddressThatChanges(t *testing.T) {
	g := newTown(t, "nat wan:8080/udp to 192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	s := g.stream(wanWeb)
	for range 10 {
		s.next(t)
	}
	var before [4]int64
	until(t, "counters", func() bool { before = figures(g.k.Report()[0].Meter); return before[2] > 0 })
	g.Gateway.Gateway.DropAddr("wan0", lab.WAN4+"/24")
	g.Gateway.Gateway.Addr("wan0", "203.0.113.77/24")
	g.k.Apply(t.Context(), g.k.want)
	s = g.stream("203.0.113.77:8080")
	s.next(t)
	until(t, "the meter goes on", func() bool { return figures(g.k.Report()[0].Meter)[2] > before[2] })
	g.k.Close()
	k := g.carrier(nil)
	k.Apply(t.Context(), g.k.want)
	until(t, "so does the kernel's count", func() bool { return figures(k.Report()[0].Meter)[2] > before[2] })
}

func TestAnotherTargetIsNotPassingBecauseTheOldOneWas(t *testing.T) {
	g := newTown(t, "nat wan:8080 to 192.168.1.10:80")
	newDesk(t, g.Inside, "192.168.1.10:80")
	g.answers(g.Outside, "tcp", wanWeb)
	until(t, "it is passing", func() bool { return g.k.Report()[0].State == fairlead.Passing })
	before := figures(g.k.Report()[0].Meter)
	if st := g.carry("nat wan:8080 to 192.168.1.20:80")[0]; st.State != fairlead.Listening {
		t.Errorf("nothing reached the new target, and it is %s", st.State)
	}
	newDesk(t, g.Beside, "192.168.1.20:80")
	g.answers(g.Outside, "tcp", wanWeb)
	until(t, "it is passing", func() bool { return g.k.Report()[0].State == fairlead.Passing })
	if now := figures(g.k.Report()[0].Meter); now[0] <= before[0] || now[2] <= before[2] {
		t.Errorf("counters began anew: %v after %v", now, before)
	}
}
