package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
	"fairlead/internal/sys/conntrack"
)

// A faulty is a gateway that leads a port to a host inside, for a test to break.
type faulty struct {
	*lab.Gateway
	t    *testing.T
	v    *unit
	v6   bool
	port string // that clients ask for
}

// the is one of two, by the family.
func (f *faulty) the(v4, v6 string) string {
	if f.v6 {
		return v6
	}
	return v4
}

func (f *faulty) target() string { return f.the(lab.Inside4, "["+lab.Inside6+"]") }

// sh runs a command on a host.
func (f *faulty) sh(h *lab.Host, command string) {
	f.t.Helper()
	if out, err := h.Command(f.t, "sh", "-c", command).CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %s: %v\n%s", h.Name, command, err, out)
	}
}

// serve answers at a port of a host.
func (f *faulty) serve(h *lab.Host, at string) {
	f.t.Helper()
	lab.Serve(f.t, lab.At{Host: h, Address: at}, func(v *lab.Visit) { io.WriteString(v.Conn, "here") })
}

// reach connects as a client would, and reads.
func (f *faulty) reach(h *lab.Host, from string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(f.t.Context(), within)
	defer cancel()
	c, err := h.DialFrom(ctx, "tcp", netip.MustParseAddr(from), net.JoinHostPort(f.the(lab.WAN4, lab.WAN6), f.port))
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(within))
	b, err := io.ReadAll(c)
	if err == nil && string(b) != "here" {
		err = fmt.Errorf("read %q", b)
	}
	return err
}

// An explained is what "fairlead explain --json" prints.
type explained struct {
	Outcome string
	Client  string
	Target  string
	Steps   []struct{ Name, State, Text, Evidence string }
	Error   *control.Problem
	Notes   []string
}

func (f *faulty) explain(code int, words ...string) explained {
	f.t.Helper()
	args := append([]string{"-c", f.v.conf, "--socket", f.v.socket, "explain", "--json"}, words...)
	p := spec{host: f.Gateway.Gateway}.start(f.t, args...)
	<-p.done
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		f.t.Fatalf("explain %s ended with %d, want %d\n%s", strings.Join(words, " "), got, code, p.stdout)
	}
	var e explained
	if err := json.Unmarshal([]byte(p.stdout.String()), &e); err != nil {
		f.t.Fatalf("%v\n%s", err, p.stdout)
	}
	if e.Error != nil && len(e.Error.Fixes) > 1 {
		f.t.Errorf("more than one way out: %+v", e.Error.Fixes)
	}
	return e
}

// bad are the steps that went wrong.
func (e *explained) bad() (list []string) {
	for _, s := range e.Steps {
		if s.State == "bad" {
			list = append(list, s.Name)
		}
	}
	return list
}

// A fault is something that is planted, what has to be said of it, and where
// the printed way out is to be taken.
type fault struct {
	name   string
	v4only bool
	words  string // behind the sentence
	to     string // the target instead
	plant  func(f *faulty)
	client func(f *faulty) (h *lab.Host, from string) // nil: from far outside
	code   string
	step   string
	says   string // somewhere in the problem
	where  func(f *faulty) *lab.Host
	mend   func(f *faulty, command string) string // nil: the command as it is
}

var faults = []fault{
	{
		name: "a table of somebody else drops what it does not know",
		plant: func(f *faulty) {
			f.sh(f.Gateway.Gateway, "nft 'table inet mine { chain through { type filter hook forward priority 10; policy drop; ct state established accept; }; }'")
		},
		code: "FL-601", step: "other rules", says: "table inet mine, chain through, policy drop",
	},
	{
		name: "a rule of somebody else rejects in a chain behind a jump",
		plant: func(f *faulty) {
			f.sh(f.Gateway.Gateway, "nft 'table inet mine { chain sub { meta l4proto tcp reject; }; chain through { type filter hook forward priority -5; jump sub; }; }'")
		},
		code: "FL-601", step: "other rules", says: "table inet mine, chain sub",
	},
	{
		name: "iptables drops what is forwarded, as Docker has it",
		plant: func(f *faulty) {
			f.sh(f.Gateway.Gateway, f.the("iptables", "ip6tables")+"-nft -P FORWARD DROP")
		},
		code: "FL-601", step: "other rules", says: "chain FORWARD, policy drop",
		mend: func(f *faulty, c string) string {
			return strings.NewReplacer("ip6tables ", "ip6tables-nft ", "iptables ", "iptables-nft ").Replace(c)
		},
	},
	{
		name: "Docker's own chains drop, and Docker has a place for others", v4only: true,
		plant: func(f *faulty) {
			f.sh(f.Gateway.Gateway, "iptables-nft -N DOCKER-USER && iptables-nft -A FORWARD -j DOCKER-USER && iptables-nft -P FORWARD DROP")
		},
		code: "FL-601", step: "other rules", says: "docker",
	},
	{
		name: "tables that no trace shows drop",
		plant: func(f *faulty) {
			lab.NeedTool(f.t, "iptables-legacy")
			f.sh(f.Gateway.Gateway, f.the("iptables", "ip6tables")+"-legacy -P FORWARD DROP")
		},
		code: "FL-601", step: "other rules", says: "iptables-legacy",
	},
	{
		name: "forwarding is off",
		plant: func(f *faulty) {
			f.Gateway.Gateway.Sysctl(f.the("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"), "0")
			// Being a host again, it forgets nothing but its role.
		},
		code: "FL-602", step: "route", says: "is off",
	},
	{
		name: "the reverse path is checked, and leads elsewhere", v4only: true,
		plant: func(f *faulty) {
			// The answers go by another machine, which knows the way.
			f.Net.Wire(f.Beside, "out0", f.Outside, "eth1")
			f.Beside.Sysctl("net.ipv4.ip_forward", "1")
			f.Beside.Route("198.51.100.0/24", "", "out0")
			f.Outside.Sysctl("net.ipv4.conf.all.rp_filter", "0")
			f.Gateway.Gateway.Route("198.51.100.0/24", lab.Beside4, "lan0")
			f.Gateway.Gateway.Sysctl("net.ipv4.conf.wan0.rp_filter", "1")
		},
		code: "FL-605", step: "route", says: "lan0",
	},
	{
		name: "the target knows no way back",
		plant: func(f *faulty) {
			f.sh(f.Inside, "ip "+f.the("-4", "-6")+" route del default")
		},
		code: "FL-604", step: "way back", says: "never answers",
	},
	{
		name:  "clients on the target's own network, and the source is kept",
		words: " source keep",
		plant: func(f *faulty) { f.pureBridge() },
		client: func(f *faulty) (*lab.Host, string) {
			return f.Beside, f.the(lab.Beside4, lab.Beside6)
		},
		code: "FL-603", step: "way back", says: "directly",
	},
	{
		name: "nothing listens at the target's port", to: ":8000",
		plant: func(f *faulty) {},
		code:  "FL-201", step: "target", says: "port 8080",
	},
	{
		name: "the target's own firewall drops",
		plant: func(f *faulty) {
			f.sh(f.Inside, f.the("iptables", "ip6tables")+"-nft -A INPUT -p tcp --dport 8080 -j DROP")
		},
		code: "FL-202", step: "target", says: "its own firewall",
		where: func(f *faulty) *lab.Host { return f.Inside },
		mend: func(f *faulty, c string) string {
			return strings.NewReplacer("ip6tables ", "ip6tables-nft ", "iptables ", "iptables-nft ").Replace(c)
		},
	},
	{
		name:  "the target is switched off",
		plant: func(f *faulty) { f.Inside.Down("eth0") },
		code:  "FL-203", step: "target", says: "no machine answers",
		mend: func(f *faulty, c string) string { // the other way out of the two: its present address
			f.serve(f.Beside, net.JoinHostPort(f.the(lab.Beside4, lab.Beside6), "8080"))
			return strings.Replace(c, "HOST", f.the(lab.Beside4, "["+lab.Beside6+"]"), 1)
		},
	},
	{
		name: "the target is switched off a moment after it answered",
		plant: func(f *faulty) {
			f.eventuallyReach(f.Outside, f.the(lab.Outside4Far, lab.Outside6Far))
			f.Inside.Down("eth0")
		},
		code: "FL-203", step: "target", says: "no machine answers",
		mend: func(f *faulty, c string) string {
			f.serve(f.Beside, net.JoinHostPort(f.the(lab.Beside4, lab.Beside6), "8080"))
			return strings.Replace(c, "HOST", f.the(lab.Beside4, "["+lab.Beside6+"]"), 1)
		},
	},
	{
		name: "somebody else drops before connections are known",
		plant: func(f *faulty) {
			f.sh(f.Gateway.Gateway, "nft 'table inet mine { chain early { type filter hook prerouting priority -310; "+f.the("ip", "ip6")+" saddr "+f.the(lab.Outside4Far, lab.Outside6Far)+" meta l4proto tcp drop; }; }'")
		},
		code: "FL-601", step: "other rules", says: "chain early",
	},
	{
		name: "iptables drops in the table raw",
		plant: func(f *faulty) {
			f.sh(f.Gateway.Gateway, f.the("iptables", "ip6tables")+"-nft -t raw -A PREROUTING -p tcp --dport 25565 -j DROP")
		},
		code: "FL-601", step: "other rules", says: "chain PREROUTING",
		mend: func(f *faulty, c string) string {
			return strings.NewReplacer("ip6tables ", "ip6tables-nft ", "iptables ", "iptables-nft ").Replace(c)
		},
	},
	{
		name: "the sentence denies the client", words: " deny 198.51.100.0/24 deny 2001:db8:9::/64",
		plant: func(f *faulty) {},
		code:  "FL-121", step: "own rules", says: "deny",
	},
}

func TestExplainNamesThePlantedFaultAndItsFixWorks(t *testing.T) {
	for _, family := range []string{"v4", "v6"} {
		for _, c := range faults {
			if c.v4only && family == "v6" {
				continue
			}
			t.Run(family+"/"+c.name, func(t *testing.T) {
				f := newFaulty(t, family == "v6", c.to, c.words)
				h, from := f.Outside, f.the(lab.Outside4Far, lab.Outside6Far)
				if c.client != nil {
					h, from = c.client(f)
				}
				c.plant(f)
				if err := f.reach(h, from, 1500*time.Millisecond); err == nil {
					t.Fatal("the fault is none: the client gets through")
				}
				e := f.explain(exitFailed, "web", "from", from)
				if e.Error == nil || e.Error.Code != c.code || e.Outcome != "broken" {
					t.Fatalf("%s, %+v; want %s\n%+v", e.Outcome, e.Error, c.code, e.Steps)
				}
				if bad := e.bad(); len(bad) != 1 || bad[0] != c.step {
					t.Errorf("wrong at %q, want only %q\n%+v", bad, c.step, e.Steps)
				}
				if text := fmt.Sprint(e.Error.Text, e.Error.Notes); !strings.Contains(text, c.says) {
					t.Errorf("%s\ndoes not say %q", text, c.says)
				}
				if len(e.Error.Fixes) != 1 || e.Error.Fixes[0].Command == "" {
					t.Fatalf("ways out: %+v", e.Error.Fixes)
				}
				command := e.Error.Fixes[0].Command
				if c.mend != nil {
					command = c.mend(f, command)
				}
				on := f.Gateway.Gateway
				if c.where != nil {
					on = c.where(f)
				}
				f.apply(on, command)
				f.eventuallyReach(h, from)
				if e := f.explain(exitOK, "web", "from", from); e.Outcome != "works" {
					t.Errorf("mended, and explained as %s: %+v", e.Outcome, e.Error)
				}
			})
		}
	}
}

// newFaulty is a gateway with nothing wrong yet: web leads a port of the WAN to
// port 8080 inside, where something answers, or at another port.
func newFaulty(t *testing.T, v6 bool, serve, words string) *faulty {
	t.Helper()
	needTools(t)
	f := &faulty{Gateway: lab.NewGateway(t), t: t, v6: v6, port: "25565"}
	if serve == "" {
		serve = ":8080"
	}
	f.serve(f.Inside, f.target()+serve)
	f.v = spec{host: f.Gateway.Gateway}.up(t, "wan wan0\nlan lan0\nweb: nat wan:25565 to "+f.target()+":8080"+words+"\n")
	return f
}

// pureBridge has frames that only cross the bridge not go through the rules for
// packets, which would translate the target's direct answers.
func (f *faulty) pureBridge() {
	f.Gateway.Gateway.Do(func() error {
		for _, name := range []string{"iptables", "ip6tables"} {
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				f.t.Error(err)
			}
		}
		return nil
	})
}

func needTools(t *testing.T) {
	t.Helper()
	lab.NeedTool(t, "nft")
	lab.NeedTool(t, "ip")
	lab.NeedTool(t, "tc")
	lab.NeedTool(t, "iptables-nft")
}

// apply runs the printed command as an operator would.
func (f *faulty) apply(on *lab.Host, command string) {
	f.t.Helper()
	cmd := on.Command(f.t, "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func (f *faulty) eventuallyReach(h *lab.Host, from string) {
	f.t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = f.reach(h, from, 2*time.Second); err == nil {
			return
		}
	}
	f.t.Fatalf("the way out was taken, and the client does not get through: %v", err)
}

func TestExplainOfAHealthyForwardChangesNothing(t *testing.T) {
	for _, family := range []string{"v4", "v6"} {
		t.Run(family, func(t *testing.T) {
			f := newFaulty(t, family == "v6", "", "")
			if err := f.reach(f.Outside, f.the(lab.Outside4Far, lab.Outside6Far), patience); err != nil {
				t.Fatal(err)
			}
			before := f.state()
			e := f.explain(exitOK, "web")
			if e.Outcome != "works" || e.Error != nil || len(e.bad()) > 0 || !strings.HasSuffix(e.Target, ":8080") {
				t.Errorf("%+v", e)
			}
			f.explain(exitOK, "web", "from", f.the(lab.Beside4, lab.Beside6)) // around the corner
			f.sh(f.Gateway.Gateway, "nft 'table inet mine { chain through { type filter hook forward priority 10; policy drop; }; }'")
			f.explain(exitFailed, "web")
			f.sh(f.Gateway.Gateway, "nft delete table inet mine")
			f.same(before)
		})
	}
}

// Killed at any moment, it leaves neither a table nor an interface.
func TestExplainThatIsKilledLeavesNothing(t *testing.T) {
	f := newFaulty(t, false, "", "")
	f.sh(f.Inside, "ip route del default") // so that it waits
	before := f.state()
	for i := range 20 {
		p := spec{host: f.Gateway.Gateway}.start(t, "-c", f.v.conf, "--socket", f.v.socket, "explain", "web")
		select {
		case <-time.After(time.Duration(i*20) * time.Millisecond): // the moment is what is varied
		case <-p.done:
		}
		p.kill()
	}
	delete(before, "connections") // what was tracked of a packet times out by itself
	f.same(before)
}

// state is what explain must leave as it is: rules, links, traffic control,
// routes, parameters, and which connections are tracked.
func (f *faulty) state() map[string]string {
	f.t.Helper()
	s := map[string]string{}
	for _, command := range []string{
		"nft list ruleset", "ip -o link", "tc qdisc", "ip route show table all", "ip -6 route show table all", "ip rule",
	} {
		out, err := f.Gateway.Gateway.Command(f.t, "sh", "-c", command).Output()
		if err != nil {
			f.t.Fatalf("%s: %v", command, err)
		}
		s[command] = counts(string(out))
	}
	var parameters, flows []string
	f.Gateway.Gateway.Do(func() error {
		filepath.WalkDir("/proc/sys/net", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "nf_conntrack_count") || strings.HasSuffix(path, "_key") || strings.HasSuffix(path, "stable_secret") {
				return nil
			}
			if b, err := os.ReadFile(path); err == nil {
				parameters = append(parameters, path+" = "+string(bytes.TrimSpace(b)))
			}
			return nil
		})
		return conntrack.Each(f.t.Context(), func(e *conntrack.Entry) bool {
			if e.Original.Proto == 6 || e.Original.Proto == 17 {
				flows = append(flows, fmt.Sprint(e.Original))
			}
			return true
		})
	})
	sort.Strings(flows)
	s["parameters"], s["connections"] = strings.Join(parameters, "\n"), strings.Join(flows, "\n")
	return s
}

// counts is text without what only counts or runs.
func counts(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for i, w := range words {
			if i > 0 && (words[i-1] == "packets" || words[i-1] == "bytes" || words[i-1] == "expires" || words[i-1] == "age") {
				w = "N"
			}
			b.WriteString(w + " ")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// same waits until the state is as it was.
func (f *faulty) same(before map[string]string) {
	f.t.Helper()
	var differ string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		now := f.state()
		differ = ""
		for what, was := range before {
			if what == "connections" && extra(was, now[what]) == "" {
				continue // what was there before may have timed out
			}
			if now[what] != was {
				differ = what + " was\n" + was + "\nand is\n" + now[what]
			}
		}
		if differ == "" {
			return
		}
	}
	f.t.Errorf("explain changed something: %s", differ)
}

// extra are the lines of now that were not there before, but for those of
// connections that this host itself began.
func extra(was, now string) string {
	var list []string
	for line := range strings.Lines(now) {
		if !strings.Contains("\n"+was+"\n", "\n"+strings.TrimSpace(line)+"\n") {
			list = append(list, line)
		}
	}
	return strings.Join(list, "")
}

func TestExplainOfDatagramsSaysOnlyWhatIsProven(t *testing.T) {
	needTools(t)
	g := lab.NewGateway(t)
	answers := lab.ServeUDP(t, lab.At{Host: g.Inside, Address: lab.Inside4 + ":53"}, func(b []byte, _ netip.AddrPort) [][]byte { return [][]byte{b} })
	_ = answers
	lab.ServeUDP(t, lab.At{Host: g.Inside, Address: lab.Inside4 + ":54"}, func([]byte, netip.AddrPort) [][]byte { return nil })
	f := &faulty{Gateway: g, t: t}
	f.v = spec{host: g.Gateway}.up(t, "wan wan0\nlan lan0\n"+
		"answers: nat wan:53/udp to "+lab.Inside4+"\nsilent: nat wan:54/udp to "+lab.Inside4+"\nclosed: nat wan:55/udp to "+lab.Inside4+"\n")
	if e := f.explain(exitOK, "answers"); e.Outcome != "works" {
		t.Errorf("%+v", e)
	}
	if e := f.explain(exitTimeout, "silent"); e.Outcome != "untested" || e.Error.Code != "FL-631" || !strings.Contains(e.Error.Text, "UDP does not say") {
		t.Errorf("%+v", e)
	}
	if e := f.explain(exitFailed, "closed"); e.Error.Code != "FL-201" {
		t.Errorf("%+v", e)
	}
}

// The same walk for what a process carries, with its own stations.
func TestExplainOfAProxy(t *testing.T) {
	needTools(t)
	g := lab.NewGateway(t)
	f := &faulty{Gateway: g, t: t, port: "7000"}
	f.serve(g.Inside, lab.Inside4+":8080")
	busy, err := g.Gateway.Listen(t.Context(), "tcp", lab.WAN4+":7003")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	f.v = spec{host: g.Gateway}.up(t, "wan wan0\nlan lan0\n"+
		"web: forward wan:7000 to "+lab.Inside4+":8080\n"+
		"closed: forward wan:7001 to "+lab.Inside4+":81\n"+
		"picky: forward wan:7002 to "+lab.Inside4+":8080 deny 198.51.100.0/24\n"+
		"taken: forward "+lab.WAN4+":7003 to "+lab.Inside4+":8080\n"+
		"off: forward "+lab.WAN4+":7004 to "+lab.Inside4+":8080 disabled\n"+
		"near: forward 7005 to "+lab.Inside4+":8080\n"+
		"away: forward wan:7006 to 192.168.1.77:80\n")
	before := f.state()
	for _, c := range []struct {
		words string
		exit  int
		code  string
		step  string
	}{
		{"web", exitOK, "", ""},
		{"near", exitOK, "", ""},
		{":7000", exitOK, "", ""},
		{"closed", exitFailed, "FL-201", "target"},
		{"away", exitFailed, "FL-203", "target"},
		{"picky from 198.51.100.9", exitFailed, "FL-121", "admission"},
		{"picky", exitOK, "", ""}, // by a stranger who is let in
		{"taken", exitFailed, "FL-101", "listener"},
		{"off", exitFailed, "FL-630", "listener"},
		{"forward wan:7099 to " + lab.Inside4, exitFailed, "FL-630", "listener"},
	} {
		t.Run(c.words, func(t *testing.T) {
			f.t = t
			e := f.explain(c.exit, strings.Fields(c.words)...)
			code := ""
			if e.Error != nil {
				code = e.Error.Code
			}
			if code != c.code {
				t.Fatalf("%s, want %q: %+v\n%+v", code, c.code, e.Error, e.Steps)
			}
			if bad := strings.Join(e.bad(), ", "); bad != c.step {
				t.Errorf("wrong at %q, want %q\n%+v", bad, c.step, e.Steps)
			}
		})
	}
	f.t = t
	f.same(before)

	// A firewall in front of a listener, which is the commonest of all.
	f.sh(g.Gateway, "nft 'table inet mine { chain mind { type filter hook input priority 0; policy drop; ct state established accept; iifname lo accept; }; }'")
	if err := f.reach(g.Outside, lab.Outside4Far, time.Second); err == nil {
		t.Fatal("it should not get through")
	}
	e := f.explain(exitFailed, "web")
	if e.Error.Code != "FL-601" || !strings.Contains(fmt.Sprint(e.Error.Notes), "chain mind") {
		t.Fatalf("%+v", e.Error)
	}
	f.apply(g.Gateway, e.Error.Fixes[0].Command)
	f.eventuallyReach(g.Outside, lab.Outside4Far)
}

func TestExplainNamesALostAddress(t *testing.T) {
	needTools(t)
	g := lab.NewGateway(t)
	f := &faulty{Gateway: g, t: t, port: "25565"}
	f.serve(g.Inside, lab.Inside4+":8080")
	f.v = spec{host: g.Gateway}.up(t, "wan wan0\nlan lan0\nweb: nat 203.0.113.77:25565 to "+lab.Inside4+":8080\n")
	e := f.explain(exitFailed, "web")
	if e.Error.Code != "FL-609" {
		t.Fatalf("%+v", e.Error)
	}
	f.apply(g.Gateway, e.Error.Fixes[0].Command)
	f.eventuallyReach(g.Outside, lab.Outside4Far)
}

// What no client can ask for is not tested; that is no failure of it.
func TestExplainOfAShareIsUntested(t *testing.T) {
	needTools(t)
	f := &faulty{Gateway: lab.NewGateway(t), t: t}
	f.v = spec{host: f.Gateway.Gateway}.up(t, "wan wan0\nlan lan0\nhome: share lan to wan\n")
	if e := f.explain(exitTimeout, "home"); e.Outcome != "untested" || e.Error.Code != "FL-631" {
		t.Errorf("%s: %+v", e.Outcome, e.Error)
	}
}

// A pinhole whose time is over is explained by that, and the way out opens it.
func TestExplainNamesTheTimeThatIsOver(t *testing.T) {
	needTools(t)
	f := &faulty{Gateway: lab.NewGateway(t), t: t, v6: true}
	f.v = spec{host: f.Gateway.Gateway}.up(t, "wan wan0\nlan lan0\nhome: share lan to wan\nhole: open wan:8080 to ["+lab.Inside6+"] for 1s\n")
	eventually(t, "hole is over", func() bool { return f.v.forward("hole").State == "disabled" })
	e := f.explain(exitFailed, "hole")
	if text := fmt.Sprint(e.Error.Text, e.Error.Notes); !strings.Contains(text, "was over") {
		t.Errorf("%s\ndoes not say that its time is over", text)
	}
	if len(e.Error.Fixes) != 1 {
		t.Fatalf("ways out: %+v", e.Error.Fixes)
	}
}

// Who may not look is told so, and what can be said without is said.
func TestExplainWithoutRights(t *testing.T) {
	needTools(t)
	g := lab.NewGateway(t)
	f := &faulty{Gateway: g, t: t}
	f.serve(g.Inside, lab.Inside4+":8080")
	spec := spec{host: g.Gateway, before: []string{"nobody"}}
	p := spec.start(t, "--json", "explain", "nat", "wan:80", "to", lab.Inside4)
	p.ends(exitTimeout)
	if !strings.Contains(p.stdout.String(), `"FL-631"`) || !strings.Contains(p.stdout.String(), "sudo fairlead explain nat wan:80 to "+lab.Inside4+"\"") {
		t.Errorf("%s", p.stdout)
	}
}
