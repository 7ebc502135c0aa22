package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
)

// A site is a gateway's network with an echo of streams and of datagrams behind
// the gateway, at port 80.
type site struct {
	*lab.Gateway
	t     *testing.T
	state string
}

func newSite(t *testing.T) *site {
	t.Helper()
	lab.NeedTool(t, "nft")
	s := &site{Gateway: lab.NewGateway(t), t: t, state: newDir(t)}
	at := lab.At{Host: s.Inside, Address: lab.Inside4 + ":80"}
	lab.Serve(t, at, func(v *lab.Visit) {
		b := make([]byte, 1000)
		for {
			n, err := v.Conn.Read(b)
			if err != nil {
				return
			}
			v.Conn.Write(b[:n])
		}
	})
	pc, err := s.Inside.ListenPacket(t.Context(), "udp", at.Address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1000)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
	return s
}

// here is how programs are run on the gateway.
func (s *site) here() spec {
	return spec{host: s.Gateway.Gateway, env: []string{"STATE_DIRECTORY=" + s.state}}
}

func (s *site) run(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	p := s.here().start(s.t, args...)
	<-p.done
	return p.stdout.String(), p.stderr.String(), p.cmd.ProcessState.ExitCode()
}

// tables are the names of all tables of the gateway.
func (s *site) tables() string { return shell(s.t, s.Gateway.Gateway, "nft list tables") }

const front = lab.WAN4 + ":8080"

// call connects from outside.
func (s *site) call() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	return s.Outside.DialContext(ctx, "tcp", front)
}

func (s *site) mustCall() net.Conn {
	s.t.Helper()
	c, err := s.call()
	if err == nil {
		s.t.Cleanup(func() { c.Close() })
		err = exchange(c)
	}
	if err != nil {
		s.t.Fatalf("%s: %v", front, err)
	}
	return c
}

// A pulse sends a datagram every few milliseconds and counts the answers.
type pulse struct {
	c          net.Conn
	stop, done chan struct{}
	sent, came int
}

func (s *site) pulse() *pulse {
	s.t.Helper()
	c, err := s.Outside.DialContext(s.t.Context(), "udp", front)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &pulse{c: c, stop: make(chan struct{}), done: make(chan struct{})}
	go p.beat()
	s.t.Cleanup(func() { c.Close() })
	return p
}

func (p *pulse) beat() {
	defer close(p.done)
	b := make([]byte, 100)
	for {
		select {
		case <-p.stop:
			return
		default:
		}
		p.sent++
		fmt.Fprintf(p.c, "%d", p.sent)
		p.c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := p.c.Read(b); err == nil && string(b[:n]) == fmt.Sprint(p.sent) {
			p.came++
		}
	}
}

// end asserts that no datagram was lost.
func (p *pulse) end(t *testing.T) {
	t.Helper()
	close(p.stop)
	<-p.done
	if p.came != p.sent || p.sent < 100 {
		t.Errorf("of %d datagrams %d were answered", p.sent, p.came)
	}
}

func TestNATInTheForegroundLeavesNothingWhenItIsKilled(t *testing.T) {
	s := newSite(t)
	before := s.tables()
	p := s.here().start(t, "nat", "wan:8080/tcp+udp", "to", lab.Inside4+":80")
	p.says(`forwarding .*:8080 .* to 192\.168\.1\.10:80`)
	s.mustCall()
	if !strings.Contains(s.tables(), fmt.Sprintf("fairlead-pid-%d", p.pid())) {
		t.Errorf("tables are %s", s.tables())
	}
	p.kill()
	eventually(t, "the table goes with the process", func() bool { return s.tables() == before })
	if c, err := s.call(); err == nil {
		c.Close()
		t.Error("somebody is let in yet")
	}
}

func TestNATInTheForegroundDrainsAndASecondSignalEndsIt(t *testing.T) {
	s := newSite(t)
	before := s.tables()
	p := s.here().start(t, "nat", "wan:8080", "to", lab.Inside4+":80")
	p.says(`forwarding `)
	c := s.mustCall()
	p.signal(syscall.SIGINT)
	p.says(`1 connection still open: waiting up to 10 s, Ctrl-C ends now`)
	eventually(t, "nobody new is let in", func() bool {
		c, err := s.call()
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if err := exchange(c); err != nil {
		t.Errorf("the connection that is waited for broke: %v", err)
	}
	p.signal(syscall.SIGINT)
	p.says(`1 connection cut`)
	p.ends(exitInterrupted)
	if now := s.tables(); now != before {
		t.Errorf("tables are %s", now)
	}
	if err := exchange(c); err == nil {
		t.Error("a connection that was cut goes on")
	}

	p = s.here().start(t, "nat", "wan:8080", "to", lab.Inside4+":80")
	p.says(`forwarding `)
	c = s.mustCall()
	p.signal(syscall.SIGTERM)
	p.says(`1 connection still open`)
	c.Close()
	p.ends(exitOK)
}

func TestAServiceThatIsKilledForwardsOnAndItsTableIsAdopted(t *testing.T) {
	s := newSite(t)
	v := s.here().up(t, "web: nat wan:8080/tcp+udp to "+lab.Inside4+":80\n")
	c := s.mustCall()
	beat := s.pulse()
	eventually(t, "it is counted", func() bool { return v.forward("web").Counters.BytesIn > 0 })
	was := v.forward("web").Counters
	v.kill()
	if err := exchange(c); err != nil {
		t.Errorf("without a service an established connection broke: %v", err)
	}
	s.mustCall()
	v = s.here().upIn(t, v.dir)
	eventually(t, "counters go on", func() bool {
		now := v.forward("web").Counters
		return now.Flows > was.Flows && now.BytesIn > was.BytesIn && now.BytesOut > was.BytesOut
	})
	if f := v.forward("web"); f.State != "passing" || f.Carrier != "kernel" {
		t.Errorf("it is %s by %s", f.State, f.Carrier)
	}
	if err := exchange(c); err != nil {
		t.Errorf("an established connection broke: %v", err)
	}
	beat.end(t)
}

func TestAServiceThatIsRestartedRefusesNobody(t *testing.T) {
	s := newSite(t)
	v := s.here().up(t, "web: nat wan:8080/tcp+udp to "+lab.Inside4+":80\n")
	c := s.mustCall()
	beat := s.pulse()
	v.signal(syscall.SIGTERM)
	v.ends(exitOK)
	if listing := shell(t, s.Gateway.Gateway, "nft list ruleset"); !strings.Contains(listing, "timeout 30s expires") {
		t.Errorf("after an end on request nothing ends:\n%s", listing)
	}
	s.mustCall()
	v = s.here().upIn(t, v.dir)
	if listing := shell(t, s.Gateway.Gateway, "nft list ruleset"); strings.Contains(listing, "timeout 30s expires") {
		t.Errorf("after the restart something still ends:\n%s", listing)
	}
	s.mustCall()
	if err := exchange(c); err != nil {
		t.Errorf("an established connection broke: %v", err)
	}
	beat.end(t)
}

// found is all that a forward could have changed on a machine.
func (s *site) found() string { return everything(s.t, s.Gateway.Gateway) }

// everything is what a host's network has but for traffic.
func everything(t *testing.T, host *lab.Host) string {
	t.Helper()
	return shell(t, host, `nft list ruleset
ip rule; ip -6 rule
{ ip route show table all; ip -6 route show table all; } | sed 's/ expires [^ ]*//' | sort -u
ip -o address | sed 's/valid_lft.*//' | sort
find /proc/sys/net -type f -readable ! -name '*_count' ! -name 'tcp_fastopen_key' ! -name 'flush' ! -name 'stable_secret' | sort | xargs grep . /dev/null 2>/dev/null || true`)
}

func TestCleanLeavesTheMachineAsItWasFound(t *testing.T) {
	s := newSite(t)
	shell(t, s.Gateway.Gateway, `nft 'table inet mine { chain c { type filter hook forward priority 10; counter; }; }'`)
	counterless := func(text string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.Contains(l, "counter packets") }), "\n")
	}
	before := counterless(s.found())
	v := s.here().up(t, "web: nat wan:8080/tcp+udp to "+lab.Inside4+":80\nrange: nat wan:9000-9100 to "+lab.Inside4+"\nmasq: share lan to wan\n"+
		"lone: nat 192.168.1.77:80 to "+lab.Beside4+":8080 claim\n")
	c := s.mustCall()

	_, stderr, code := s.run("clean", "--socket", v.socket)
	if code == exitOK || !strings.Contains(stderr, "FL-805") {
		t.Errorf("clean while the service runs: exit code %d\n%s", code, stderr)
	}
	s.mustCall()
	v.signal(syscall.SIGTERM)
	v.ends(exitOK)
	if now := counterless(s.found()); now == before {
		t.Error("right after its end nothing of the service was left to clean")
	}
	stdout, stderr, code := s.run("clean", "--socket", v.socket, "--json")
	if code != exitOK {
		t.Fatalf("clean: exit code %d\n%s", code, stderr)
	}
	var doc cleanDoc
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || len(doc.Tables) != 1 || doc.Cut != 2 || len(doc.Left) > 0 {
		t.Errorf("clean says %s (%v)", stdout, err)
	}
	if now := counterless(s.found()); now != before {
		t.Errorf("the machine is another one:\n%s", difference(before, now))
	}
	if err := exchange(c); err == nil {
		t.Error("a connection goes on through what was cleaned away")
	}
	if _, stderr, code = s.run("clean", "--socket", v.socket); code != exitOK || !strings.Contains(stderr, "nothing of fairlead") {
		t.Errorf("a second time: exit code %d, %s", code, stderr)
	}
}

func difference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for _, l := range x {
		if !slices.Contains(y, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range y {
		if !slices.Contains(x, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

func TestAFirewallThatIsReloadedDoesNotStopAService(t *testing.T) {
	s := newSite(t)
	v := s.here().up(t, "web: nat wan:8080/tcp+udp to "+lab.Inside4+":80\n")
	c := s.mustCall()
	shell(t, s.Gateway.Gateway, "nft flush ruleset")
	v.says(`repaired: the table fairlead-[0-9a-f]+ was removed by process nft \([0-9]+\)`)
	if n := v.status().Repairs; n != 1 {
		t.Errorf("status counts %d repairs", n)
	}
	s.mustCall()
	if err := exchange(c); err != nil {
		t.Errorf("an established connection broke: %v", err)
	}
}

func TestWithoutTheRightThereIsOneClearError(t *testing.T) {
	s := newSite(t)
	nobody := s.here()
	nobody.before = []string{"nobody"}
	p := nobody.start(t, "nat", "wan:8080", "to", lab.Inside4+":80")
	p.ends(exitPermission)
	if n := p.stderr.count(`error\[FL-111\]: changing nftables needs CAP_NET_ADMIN`); n != 1 || p.stderr.count(`error\[`) != 1 {
		t.Errorf("it says\n%s", p.stderr)
	}
	p = nobody.start(t, "plan", "nat", "wan:8080", "to", lab.Inside4+":80", "--wan", "wan0")
	p.ends(exitOK)
	if !strings.Contains(p.stdout.String(), "192.168.1.10 . 80") {
		t.Errorf("plan needs a right:\n%s\n%s", p.stdout, p.stderr)
	}
	p = nobody.start(t, "clean")
	p.ends(exitPermission)
	if p.stderr.count(`FL-111`) == 0 {
		t.Errorf("clean says\n%s", p.stderr)
	}

	// Left to the program, a process carries it, and it is told why.
	dir := newDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/fairlead.conf", "web: forward :8080 to "+lab.Inside4+":80 by auto\n")
	v := nobody.upIn(t, dir)
	s.mustCall()
	if f := v.forward("web"); f.Carrier != "relay" || !strings.Contains(f.Because, "CAP_NET_ADMIN") {
		t.Errorf("by auto it is carried by %s: %q", f.Carrier, f.Because)
	}
}

func TestByAutoTheKernelCarriesWhatNeedsNoProcess(t *testing.T) {
	s := newSite(t)
	v := s.here().up(t, "web: forward :8080 to "+lab.Inside4+":80 by auto\n"+
		"told: forward :8081 to "+lab.Inside4+":80 by auto proxy-protocol v2\n"+
		"plain: forward :8082 to "+lab.Inside4+":80\n")
	s.mustCall()
	if f := v.forward("web"); f.Carrier != "kernel" || !strings.Contains(f.Because, "nothing in it needs this process") {
		t.Errorf("web is carried by %s: %q", f.Carrier, f.Because)
	}
	if f := v.forward("told"); f.Carrier != "relay" || !strings.Contains(f.Because, "proxy-protocol") {
		t.Errorf("told is carried by %s: %q", f.Carrier, f.Because)
	}
	if f := v.forward("plain"); f.Carrier != "relay" || f.Because != "" {
		t.Errorf("plain is carried by %s: %q", f.Carrier, f.Because)
	}
	out, _, _ := s.run("status", "web", "--socket", v.socket)
	if !strings.Contains(out, "by the kernel, because nothing in it needs this process") {
		t.Errorf("status says\n%s", out)
	}
}

// TestPlanPrintsWhatIsLoaded loads what is printed by nft and compares that with
// what the service loads.
func TestPlanPrintsWhatIsLoaded(t *testing.T) {
	s := newSite(t)
	text := "web: nat wan:80,443/tcp+udp to " + lab.Inside4 + "\nsplit: nat wan:8080 to " + lab.Inside4 + " from 198.51.100.0/24, " + lab.Beside4 + " max-conns 10 rate 5/s\nmasq: share lan to wan\n"
	v := s.here().up(t, text)
	// What nft says before a type of ICMP is the same with and without it.
	const list = "nft -s list ruleset | sed 's/meta nfproto ipv[46] icmp/icmp/'"
	loaded := shell(t, s.Gateway.Gateway, list)
	out, stderr, code := s.run("plan", "-c", v.conf, "--socket", v.socket)
	if code != exitOK {
		t.Fatalf("plan: exit code %d\n%s", code, stderr)
	}
	v.kill()
	cmd := s.Gateway.Gateway.Command(t, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("flush ruleset\n" + out)
	if got, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft does not take what plan prints: %v\n%s\n%s", err, got, out)
	}
	if again := shell(t, s.Gateway.Gateway, list); again != loaded {
		t.Errorf("plan printed another table:\n%s", difference(loaded, again))
	}
	out, _, _ = s.run("plan", "-c", v.conf, "--socket", v.socket, "--json")
	var doc struct {
		Schema, Table, Text string
		Forwards            []control.Forward
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Schema != "fairlead/plan/1" || len(doc.Forwards) != 3 || doc.Text == "" {
		t.Errorf("as JSON it is %s (%v)", out, err)
	}
}
