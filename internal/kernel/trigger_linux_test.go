package kernel

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/sys/nft"
)

// A line is how a trigger's town is seen from outside: by two hosts out there,
// of which the second is behind the first.
type line struct {
	*town
	second *lab.Host

	mu   sync.Mutex // guards told
	told []string
}

const second4, second6 = "192.0.2.9", "2001:db8:7::9"

// newLine is a town with a second host outside, and desks at the ports that the
// tests trigger by and open.
func newLine(t *testing.T) *line {
	l := &line{town: newTown(t)}
	l.second = l.Net.Host("second")
	l.Net.Wire(l.Outside, "eth1", l.second, "eth0")
	l.Outside.Addr("eth1", "192.0.2.1/24", "2001:db8:7::1/64")
	l.Outside.Sysctl("net.ipv4.ip_forward", "1")
	l.Outside.Sysctl("net.ipv6.conf.all.forwarding", "1")
	l.Outside.Route("::/0", lab.WAN6, "eth0")
	l.second.Addr("eth0", second4+"/24", second6+"/64")
	l.second.Route("0.0.0.0/0", "192.0.2.1", "eth0")
	l.second.Route("::/0", "2001:db8:7::1", "eth0")
	l.k.cfg.Watch = func(e fairlead.Event) {
		if e.Kind == fairlead.EventTrigger {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.told = append(l.told, e.Text)
		}
	}
	for _, h := range []*lab.Host{l.Outside, l.second} {
		newDesk(t, h, ":6667")
	}
	for _, h := range []*lab.Host{l.Inside, l.Beside} {
		newDesk(t, h, ":113")
		newDesk(t, h, ":5002")
	}
	return l
}

// says waits for a line of the log with these words.
func (l *line) says(words string) {
	l.t.Helper()
	until(l.t, "the log says "+words, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.ContainsFunc(l.told, func(s string) bool { return strings.Contains(s, words) })
	})
}

// who says which host of the LAN is asked at an opened port.
func (l *line) who(from *lab.Host, network, at string) string {
	l.t.Helper()
	_, name, _ := strings.Cut(l.answers(from, network, at), " at ")
	return name
}

// comes waits until a host of the LAN gets what it asks for by triggering, that
// is until it is led to.
func (l *line) comes(host *lab.Host, network, trigger, at string) {
	l.t.Helper()
	until(l.t, host.Name+" has the ports", func() bool {
		l.answers(host, network, trigger)
		ctx, cancel := context.WithTimeout(l.t.Context(), 200*time.Millisecond)
		defer cancel()
		s, err := ask(ctx, l.Outside, "tcp", netip.AddrPort{}, at)
		return err == nil && strings.HasSuffix(s, " at "+host.Name)
	})
}

// closed waits until nobody has the ports of the trigger, which is the second
// sentence, and sees that nobody answers there. To ask before would keep them
// open.
func (l *line) closed(network, at string) {
	l.t.Helper()
	until(l.t, at+" closes", func() bool { return l.holders() == 0 })
	l.silent(l.Outside, network, at)
}

// holders is how many hosts the kernel remembers to have the ports of the
// trigger that is the second sentence.
func (l *line) holders() int {
	m := (*l.k.carried.Load())[1].part.memory
	return l.elements(m.owner4) + l.elements(m.lead4) + l.elements(m.owner6)
}

const triggers = "trigger 6667/tcp+udp opens 113/tcp, 5000-5003/tcp+udp for 2s"

func TestATriggerOpensForTheHostThatTriggered(t *testing.T) {
	for _, guard := range []string{"share lan to wan", "share lan to wan unguarded"} {
		for _, by := range []string{"tcp", "udp"} {
			l := newLine(t)
			l.carry(guard, triggers)
			if guard == "share lan to wan" {
				l.silent(l.Outside, "tcp", lab.WAN4+":113")
				l.silent(l.second, "udp", lab.WAN4+":5002")
			}
			l.answers(l.Inside, by, lab.Outside4+":6667")
			for _, from := range []*lab.Host{l.Outside, l.second} {
				for _, at := range []struct{ network, port string }{{"tcp", "113"}, {"tcp", "5002"}, {"udp", "5002"}} {
					if who := l.who(from, at.network, lab.WAN4+":"+at.port); who != "inside" {
						t.Errorf("%s %s from %s was led to %q", at.network, at.port, from.Name, who)
					}
				}
			}
			l.says(lab.Inside4 + " opened 113/tcp, 5000-5003/tcp+udp")
		}
	}
}

// A port is never opened for a name that was made up: what comes from the LAN
// with a source of elsewhere triggers nothing.
func TestATriggerIsNotForMadeUpSources(t *testing.T) {
	l := newLine(t)
	l.carry("share lan to wan", triggers)
	l.Inside.Addr("eth0", "198.51.100.77/32")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	ask(ctx, l.Inside, "udp", netip.MustParseAddrPort("198.51.100.77:4000"), lab.Outside4+":6667")
	if n := l.holders(); n != 0 {
		t.Errorf("%d hosts have the ports", n)
	}
}

func TestTheFirstHostKeepsATriggerUntilItIsSilent(t *testing.T) {
	l := newLine(t)
	l.carry("share lan to wan", triggers)
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	l.answers(l.Beside, "tcp", lab.Outside4+":6667") // goes out, and opens nothing
	if who := l.who(l.Outside, "tcp", lab.WAN4+":113"); who != "inside" {
		t.Errorf("a second host got the ports: %s", who)
	}
	l.says(lab.Beside4 + " was refused 113/tcp, 5000-5003/tcp+udp: " + lab.Inside4 + " has it")
	until(t, "the refusal is counted", func() bool { return l.k.Report()[1].Meter.Refused.Load() > 0 })
	st := l.k.Report()[1]
	if len(st.Targets) != 1 || st.Targets[0].Target != lab.Inside4 || !st.Targets[0].Until.After(time.Now()) {
		t.Errorf("the status says %+v", st.Targets)
	}

	// It goes on asking, which holds nothing open for the first.
	until(t, "the ports close", func() bool {
		l.answers(l.Beside, "udp", lab.Outside4+":6667")
		list := l.k.Report()[1].Targets
		return len(list) == 0 || list[0].Target == lab.Beside4
	})
	l.comes(l.Beside, "tcp", lab.Outside4+":6667", lab.WAN4+":113")
	l.says("closed for " + lab.Inside4)
	l.says(lab.Beside4 + " opened")
}

func TestWhatComesInKeepsATriggerOpen(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		l := newLine(t)
		l.carry("share lan to wan", triggers)
		l.answers(l.Inside, "tcp", lab.Outside4+":6667")
		// Three times as long as it would be open by itself.
		for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
			if who := l.who(l.second, network, lab.WAN4+":5002"); who != "inside" {
				t.Fatalf("%s was led to %q", network, who)
			}
		}
		l.closed("tcp", lab.WAN4+":113")
	}
}

func TestConnectionsOutliveTheClosingOfATrigger(t *testing.T) {
	l := newLine(t)
	l.echo(lab.Inside4 + ":5000")
	l.carry("share lan to wan", triggers)
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	c := l.served(lab.WAN4 + ":5000")
	echoed(t, c)
	until(t, "the ports close", func() bool { return l.holders() == 0 })
	echoed(t, c)
	// That opens nothing again.
	l.closed("tcp", lab.WAN4+":113")
	l.comes(l.Beside, "tcp", lab.Outside4+":6667", lab.WAN4+":113")
	echoed(t, c)
}

func TestTheLastHostWinsWhereThatIsSaid(t *testing.T) {
	l := newLine(t)
	l.carry("share lan to wan", triggers+" last-wins")
	for _, host := range []*lab.Host{l.Inside, l.Beside, l.Inside} {
		l.answers(host, "tcp", lab.Outside4+":6667")
		if who := l.who(l.Outside, "udp", lab.WAN4+":5002"); who != host.Name {
			t.Errorf("%s asked last, and %q has the ports", host.Name, who)
		}
		flush(t, l.Gateway.Gateway)
	}
	l.closed("tcp", lab.WAN4+":113")
}

// By IPv6 every host has a pinhole of its own, in the guard.
func TestATriggerIsAPinholeByIPv6(t *testing.T) {
	l := newLine(t)
	l.carry("share lan to wan", triggers)
	inside, beside := "["+lab.Inside6+"]", "["+lab.Beside6+"]"
	l.silent(l.Outside, "tcp", inside+":113")
	l.answers(l.Inside, "udp", "["+lab.Outside6+"]:6667")
	for _, from := range []*lab.Host{l.Outside, l.second} {
		l.answers(from, "tcp", inside+":113")
		l.answers(from, "udp", inside+":5002")
		l.silent(from, "tcp", beside+":113")
		l.silent(from, "udp", inside+":6667")
	}
	l.answers(l.Beside, "udp", "["+lab.Outside6+"]:6667")
	l.answers(l.second, "tcp", beside+":113")
	until(t, "it is counted", func() bool {
		m := l.k.Report()[1].Meter
		return m.Flows.Load() > 0 && m.In.Load() > 0 && m.Out.Load() > 0
	})
	l.closed("tcp", inside+":113")
}

// What opened before a change, a replacement of the whole table or another life
// of the program is open after it, and no longer than it was.
func TestATriggerOutlivesChangesAndTheProgram(t *testing.T) {
	l := newLine(t)
	long := strings.Replace(triggers, "for 2s", "for 20s", 1)
	l.carry("share lan to wan", long)
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	check := func(when string) {
		t.Helper()
		if who := l.who(l.second, "tcp", lab.WAN4+":113"); who != "inside" {
			t.Errorf("%s: led to %q", when, who)
		}
		l.answers(l.Beside, "tcp", lab.Outside4+":6667")
		if who := l.who(l.second, "udp", lab.WAN4+":5002"); who != "inside" {
			t.Errorf("%s: another host took the ports: %q", when, who)
		}
	}
	check("at first")
	l.carry("share lan to wan", long, "nat wan:80 to "+lab.Inside4)
	check("after a change")
	if err := l.k.replace(l.k.conn, l.k.plan.table); err != nil {
		t.Fatal(err)
	}
	check("after a replacement")
	l.carry("share lan to wan unguarded", long) // other base chains: a replacement
	check("after another form of the table")
	l.carry("share lan to wan", long)

	// A crash, and an end that is meant.
	for _, leave := range []bool{false, true} {
		old := l.k
		if leave {
			if err := old.Leave(); err != nil {
				t.Fatal(err)
			}
		}
		old.Close()
		check("while nobody is there")
		l.k = l.carrier(nil)
		l.carry("share lan to wan", long)
		check("after another start")
	}
	// A sentence that says something else has opened nothing yet.
	l.carry("share lan to wan", "trigger 6667/tcp opens 113/tcp for 20s")
	l.silent(l.Outside, "tcp", lab.WAN4+":113")
}

// Once the service has ended for good, nothing is opened any more.
func TestATriggerEndsWithTheService(t *testing.T) {
	l := newLine(t)
	l.k.cfg.Life = time.Second
	l.carry("share lan to wan", triggers)
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	l.answers(l.second, "tcp", lab.WAN4+":113")
	if err := l.k.Leave(); err != nil {
		t.Fatal(err)
	}
	until(t, "the ports close", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := ask(ctx, l.Outside, "tcp", netip.AddrPort{}, lab.WAN4+":113")
		return err != nil
	})
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	l.silent(l.Outside, "tcp", lab.WAN4+":113")
}

// Ports at which something else is reached stay with that.
func TestATriggerTakesNoPortOfAForward(t *testing.T) {
	l := newLine(t)
	l.listens = []Listener{{Net: fairlead.TCP, At: netip.MustParseAddrPort("0.0.0.0:5000")}}
	st := l.carry("share lan to wan", "trigger 6667 opens 113, 5000-5002", "nat wan:113 to "+lab.Beside4)
	if p := st[1].Problem; p == nil || p.Code != fairlead.CodeTriggerTaken {
		t.Errorf("the status says %v", p)
	}
	if !slices.Equal(st[1].Bound, []string{"wan0:5001-5002/tcp"}) {
		t.Errorf("bound: %q", st[1].Bound)
	}
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	if who := l.who(l.second, "tcp", lab.WAN4+":113"); who != "beside" {
		t.Errorf("the forward's port was led to %q", who)
	}
	if who := l.who(l.second, "tcp", lab.WAN4+":5002"); who != "inside" {
		t.Errorf("the trigger's port was led to %q", who)
	}
}

// Several triggers may name the same ports.
func TestTriggersMayShareTheirPorts(t *testing.T) {
	l := newLine(t)
	l.carry("share lan to wan", "trigger 6667 opens 5000-5002 for 2s on lan0", "trigger 6660-6670 opens 113, 5000 for 2s", "trigger 7000 opens 113 for 2s")
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	l.answers(l.second, "tcp", lab.WAN4+":113")
	l.answers(l.second, "tcp", lab.WAN4+":5002")
	l.closed("tcp", lab.WAN4+":5002")
}

// The table with a trigger can be listed by nft, and what nft lists it loads.
func TestATriggersTableIsListedAndLoads(t *testing.T) {
	l := newLine(t)
	l.carry("share lan to wan", triggers, "trigger 7000 opens 113 last-wins")
	l.answers(l.Inside, "tcp", lab.Outside4+":6667")
	text, err := l.Gateway.Gateway.Command(t, "nft", "list", "table", "inet", "fairlead").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range []string{string(text), l.k.plan.table.Text()} {
		cmd := l.Outside.Command(t, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader("flush ruleset\n" + script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	var got *nft.Table
	if err := l.k.inside(func() (err error) {
		got, err = l.k.conn.Read(nft.Inet, "fairlead")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if ch, ok := nft.Diff(got, l.k.plan.table); !ok || !ch.Empty() {
		t.Errorf("what is read differs from what was loaded: %v %+v", ok, ch)
	}
}

func TestAKeepaliveHoldsATriggerOpen(t *testing.T) {
	l := newLine(t)
	peer, err := l.second.ListenPacket(t.Context(), "udp", second4+":5060")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	l.carry("share lan to wan", "trigger 5060/udp opens 5002/udp for 2s keepalive 1s")
	var c net.Conn
	if err := l.Inside.Do(func() (err error) {
		c, err = net.Dial("udp", second4+":5060")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("REGISTER")); err != nil {
		t.Fatal(err)
	}
	// The peer hears the host, and then the gateway for it, by the same way.
	var first string
	b := make([]byte, 100)
	for n := 0; n < 5; n++ {
		peer.SetReadDeadline(time.Now().Add(patience))
		m, from, err := peer.ReadFrom(b)
		if err != nil {
			t.Fatalf("after %d datagrams: %v", n, err)
		}
		switch {
		case n == 0:
			first = from.String()
		case string(b[:m]) != keepData || from.String() != first:
			t.Errorf("%q from %s, which was %s", b[:m], from, first)
		}
	}
	if who := l.who(l.Outside, "udp", lab.WAN4+":5002"); who != "inside" {
		t.Errorf("led to %q", who)
	}
	// Without it the ports close.
	l.carry("share lan to wan", "trigger 5060/udp opens 5002/udp for 2s")
	until(t, "the ports close", func() bool { return len(l.k.Report()[1].Targets) == 0 })
}

func TestWhatATriggerCannotKeepIsRefused(t *testing.T) {
	for _, s := range []string{
		"trigger 6667 opens 113 from 203.0.113.0/24", "trigger 6667 opens 113 deny 203.0.113.0/24",
		"trigger 6667 opens 113 idle 3s", "trigger 6667 opens 113 allow-in docker", "trigger 6667 opens 113 on wan",
		"trigger 6667 opens 113 on 192.168.1.1", "trigger 6667 opens 113 for 10ms", "trigger 6667 opens 113 for 30s keepalive 30s",
	} {
		if p := fits(wish(t, "f", s)); p == nil {
			t.Errorf("%s: is carried", s)
		}
	}
}
