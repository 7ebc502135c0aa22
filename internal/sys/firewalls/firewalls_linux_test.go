package firewalls

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// table is the translation whose packets the firewalls are to let through:
// outside asks the gateway's 8080, inside answers at 80. 4000 to 4003 go to the
// same ports.
const table = `
table inet fairlead {
	chain pre {
		type nat hook prerouting priority dstnat;
		meta nfproto ipv4 meta l4proto { tcp, udp } th dport 8080 dnat ip to 192.168.1.10:80
		meta nfproto ipv6 meta l4proto { tcp, udp } th dport 8080 dnat ip6 to [2001:db8:2::10]:80
		meta nfproto ipv4 meta l4proto { tcp, udp } th dport 4000-4003 dnat ip to 192.168.1.10
	}
}`

func web(name string) []Hole {
	var holes []Hole
	for _, proto := range []uint8{6, 17} {
		for _, to := range []string{lab.Inside4, lab.Inside6} {
			holes = append(holes, Hole{For: name, Target: netip.MustParseAddr(to), Proto: proto, Ports: Ports{80, 80}, Asked: Ports{8080, 8080}})
		}
	}
	return holes
}

// sh runs a script on the gateway, in the mounts of the town.
func (w *town) sh(script string) string {
	w.t.Helper()
	out, err := w.try(script)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (w *town) try(script string) (string, error) {
	var out []byte
	err := w.do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		text, err := run(ctx, script, "sh", "-eu")
		out = []byte(text)
		return err
	})
	return string(out), err
}

// A town is a gateway whose configuration files are copies.
type town struct {
	*lab.Gateway
	t    *testing.T
	work chan func()
}

// newTown makes a gateway on which the directories of etc are copies of the
// machine's, so that a firewall may write there, and /run is empty.
func newTown(t *testing.T, etc ...string) *town {
	t.Helper()
	w := &town{Gateway: lab.NewGateway(t), t: t, work: make(chan func())}
	dir := t.TempDir()
	ready := make(chan error)
	done := make(chan struct{})
	go w.live(dir, etc, ready, done)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(w.work); <-done })
	w.serve()
	return w
}

// live runs what do is given on a thread with mounts of its own. The thread
// ends with it.
func (w *town) live(dir string, etc []string, ready chan<- error, done chan<- struct{}) {
	defer close(done)
	runtime.LockOSThread()
	ready <- func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		for i, path := range etc {
			to := filepath.Join(dir, filepath.Base(path)+string(rune('a'+i)))
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if info.IsDir() {
				err = os.CopyFS(to, os.DirFS(path))
			} else {
				var text []byte
				if text, err = os.ReadFile(path); err == nil {
					err = os.WriteFile(to, text, 0o644)
				}
			}
			if err != nil {
				return err
			}
			if err := unix.Mount(to, path, "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
		return unix.Mount("tmpfs", "/run", "tmpfs", 0, "")
	}()
	for f := range w.work {
		f()
	}
}

// do runs f on the gateway.
func (w *town) do(f func() error) error {
	done := make(chan error)
	w.work <- func() { done <- w.Gateway.Gateway.Do(f) }
	return <-done
}

func (w *town) set(firewall string, holes ...Hole) int {
	w.t.Helper()
	n, err := w.trySet(firewall, holes...)
	if err != nil {
		w.t.Fatalf("%s: %v", firewall, err)
	}
	return n
}

func (w *town) trySet(firewall string, holes ...Hole) (n int, err error) {
	err = w.do(func() (err error) {
		n, err = Set(context.Background(), firewall, "fairlead", holes)
		return err
	})
	return n, err
}

// serve has inside answer at its ports 80 and 4001, and the gateway at 9000.
func (w *town) serve() {
	for host, ports := range map[*lab.Host][]string{w.Inside: {":80", ":4001"}, w.Gateway.Gateway: {":9000"}} {
		for _, port := range ports {
			ln, err := host.Listen(w.t.Context(), "tcp", port)
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { ln.Close() })
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					io.WriteString(c, "hello")
					c.Close()
				}
			}()
			pc, err := host.ListenPacket(w.t.Context(), "udp", port)
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { pc.Close() })
			go func() {
				b := make([]byte, 100)
				for {
					_, from, err := pc.ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					pc.WriteToUDPAddrPort([]byte("hello"), from)
				}
			}()
		}
	}
}

// reaches reports whether outside has an answer.
func (w *town) reaches(network, address string) bool {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 250*time.Millisecond)
	defer cancel()
	c, err := w.Outside.DialContext(ctx, network, address)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(250 * time.Millisecond))
	if network == "udp" {
		io.WriteString(c, "hello?")
	}
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == "hello"
}

// expect checks the translated port in both families and protocols.
func (w *town) expect(want bool, when string) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		for _, at := range []string{lab.WAN4, lab.WAN6} {
			if got := w.reaches(network, net.JoinHostPort(at, "8080")); got != want {
				w.t.Errorf("%s: %s %s passes: %v, want %v", when, network, at, got, want)
			}
		}
	}
}

// dockers are the chains as Docker makes them: what the versions 20 and 28 have
// in the way of a packet that is not for a container.
var dockers = map[string]string{
	"20": `
for p in iptables ip6tables; do
	$p -P FORWARD DROP
	$p -N DOCKER; $p -N DOCKER-ISOLATION-STAGE-1; $p -N DOCKER-ISOLATION-STAGE-2; $p -N DOCKER-USER
	$p -A DOCKER-USER -j RETURN
	$p -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
	$p -A DOCKER-ISOLATION-STAGE-1 -j RETURN
	$p -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
	$p -A DOCKER-ISOLATION-STAGE-2 -j RETURN
	$p -A FORWARD -j DOCKER-USER
	$p -A FORWARD -j DOCKER-ISOLATION-STAGE-1
	$p -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$p -A FORWARD -o docker0 -j DOCKER
	$p -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
	$p -A FORWARD -i docker0 -o docker0 -j ACCEPT
done`,
	"28": `
for p in iptables ip6tables; do
	$p -P FORWARD DROP
	for c in DOCKER DOCKER-BRIDGE DOCKER-CT DOCKER-FORWARD DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-USER; do $p -N $c; done
	$p -A FORWARD -j DOCKER-USER
	$p -A FORWARD -j DOCKER-FORWARD
	$p -A DOCKER-FORWARD -j DOCKER-CT
	$p -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
	$p -A DOCKER-FORWARD -j DOCKER-BRIDGE
	$p -A DOCKER-FORWARD -i docker0 -j ACCEPT
	$p -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$p -A DOCKER-BRIDGE -o docker0 -j DOCKER
	$p -A DOCKER ! -i docker0 -o docker0 -j DROP
	$p -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
	$p -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
done`,
}

const rulesOfAll = "iptables -S; ip6tables -S"

func TestDockerLetsThroughWhatItIsAskedTo(t *testing.T) {
	lab.NeedTool(t, "iptables")
	lab.NeedTool(t, "nft")
	for version, chains := range dockers {
		t.Run(version, func(t *testing.T) {
			w := newTown(t)
			w.sh("nft -f - <<'E'\n" + table + "\nE\n" + chains)
			before := w.sh(rulesOfAll)
			w.expect(false, "before")
			if n := w.set(Docker, web("web")...); n != 4 {
				t.Errorf("%d rules were changed, want 4", n)
			}
			w.expect(true, "after")
			if w.reaches("tcp", lab.WAN4+":4001") {
				t.Error("another forward's port passes as well")
			}
			if n := w.set(Docker, web("web")...); n != 0 {
				t.Errorf("a second time changed %d rules", n)
			}

			// Another forward, with a range; then Docker makes its chain anew.
			games := Hole{For: "games", Target: netip.MustParseAddr(lab.Inside4), Proto: 6, Ports: Ports{4000, 4003}, Asked: Ports{4000, 4003},
				From: netip.MustParsePrefix("203.0.113.0/24")}
			if n := w.set(Docker, append(web("web"), games)...); n != 1 {
				t.Errorf("%d rules were changed for one more, want 1", n)
			}
			if !w.reaches("tcp", lab.WAN4+":4001") {
				t.Error("a range does not pass")
			}
			w.sh("iptables -F DOCKER-USER")
			if n := w.set(Docker, append(web("web"), games)...); n != 3 {
				t.Errorf("%d rules came back, want 3", n)
			}
			w.expect(true, "after the chain was emptied")

			// Rules twice, as two programs at once may leave them.
			w.sh("iptables -S DOCKER-USER | grep fairlead | sed 's/^-A/iptables -I/' | sh")
			if n := w.set(Docker, append(web("web"), games)...); n != 3 {
				t.Errorf("%d rules were changed, want 3 duplicates gone", n)
			}
			if version == "20" {
				w.sh("iptables -A DOCKER-USER -j RETURN")
			}
			if err := w.do(func() error { return Clear(context.Background(), Docker, "fairlead") }); err != nil {
				t.Fatal(err)
			}
			w.expect(false, "gone")
			if after := w.sh(rulesOfAll); after != before {
				t.Errorf("the rules are not what they were:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

func TestDockerThatIsNotThere(t *testing.T) {
	lab.NeedTool(t, "iptables")
	w := newTown(t)
	if _, err := w.trySet(Docker, web("web")...); !errors.Is(err, ErrAbsent) {
		t.Errorf("%v, want %v", err, ErrAbsent)
	}
	if err := w.do(func() error { return Clear(context.Background(), Docker, "fairlead") }); err != nil {
		t.Error(err)
	}
	if _, err := w.trySet(Docker, Hole{For: "x", Here: true, Proto: 6, Ports: Ports{80, 80}}); !errors.Is(err, ErrMeaningless) {
		t.Errorf("%v, want %v", err, ErrMeaningless)
	}
}

func TestDockerLetsALANOut(t *testing.T) {
	lab.NeedTool(t, "iptables")
	w := newTown(t)
	w.sh(dockers["28"])
	ln, err := w.Outside.Listen(t.Context(), "tcp", ":7000")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	asks := func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		c, err := w.Inside.DialContext(ctx, "tcp", lab.Outside4+":7000")
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	w.Outside.Route("192.168.1.0/24", lab.WAN4, "eth0")
	if asks() {
		t.Fatal("it passes before")
	}
	w.set(Docker, Hole{For: "masq", In: "lan0", Out: "wan0", Net: netip.MustParsePrefix("192.168.1.0/24")})
	if !asks() {
		t.Error("the LAN is not let out")
	}
	w.set(Docker)
	if asks() {
		t.Error("the LAN is still let out")
	}
}

func TestUFWLetsThroughWhatItIsAskedTo(t *testing.T) {
	lab.NeedTool(t, "ufw")
	lab.NeedTool(t, "nft")
	w := newTown(t, "/etc/ufw", "/etc/default/ufw")
	w.sh("mkdir -p /run/lock; nft -f - <<'E'\n" + table + "\nE\n")
	if _, err := w.trySet(UFW, web("web")...); !errors.Is(err, ErrAbsent) {
		t.Errorf("switched off: %v, want %v", err, ErrAbsent)
	}
	w.sh("ufw --force enable; ufw route allow proto tcp from 192.0.2.9 to 192.168.1.99 port 99; ufw allow 22/tcp comment \"the way in\"; ufw reload")
	before := w.sh("ufw show added; " + rulesOfAll)
	w.expect(false, "before")
	if w.reaches("tcp", lab.WAN4+":9000") {
		t.Error("this host's port passes before")
	}
	own := []Hole{
		{For: "here", Here: true, Proto: 6, Ports: Ports{9000, 9000}},
		{For: "here", Here: true, Proto: 17, Ports: Ports{9000, 9001}, From: netip.MustParsePrefix("203.0.113.0/24")},
		{For: "games", Target: netip.MustParseAddr(lab.Inside4), Proto: 6, Ports: Ports{4000, 4003}, Asked: Ports{4000, 4003}},
	}
	all := append(web("web"), own...)
	if n := w.set(UFW, all...); n != 7 {
		t.Errorf("%d rules were changed, want 7", n)
	}
	w.expect(true, "after")
	for _, to := range []string{"tcp " + lab.WAN4 + ":9000", "udp " + lab.WAN4 + ":9000", "tcp " + lab.WAN4 + ":4001", "tcp [" + lab.WAN6 + "]:9000"} {
		if network, at, _ := strings.Cut(to, " "); !w.reaches(network, at) {
			t.Errorf("%s does not pass", to)
		}
	}
	if n := w.set(UFW, all...); n != 0 {
		t.Errorf("a second time changed %d rules", n)
	}
	if n := w.set(UFW, append(all, web("same")...)...); n != 0 {
		t.Errorf("another forward to the same port changed %d rules", n)
	}
	w.sh("ufw reload")
	if n := w.set(UFW, web("web")...); n != 3 {
		t.Errorf("%d rules were changed, want 3", n)
	}
	w.expect(true, "after a reload")
	if err := w.do(func() error { return Clear(context.Background(), UFW, "fairlead") }); err != nil {
		t.Fatal(err)
	}
	w.expect(false, "gone")
	if after := w.sh("ufw show added; " + rulesOfAll); after != before {
		t.Errorf("the rules are not what they were:\n%s\nbefore:\n%s", after, before)
	}
}

func TestUFWRulesOfTheAdministratorStay(t *testing.T) {
	lab.NeedTool(t, "ufw")
	w := newTown(t, "/etc/ufw", "/etc/default/ufw")
	w.sh("mkdir -p /run/lock; ufw --force enable; ufw route allow proto tcp to 192.168.1.10 port 80 comment 'mine'")
	before := w.sh("ufw show added")
	hole := Hole{For: "web", Target: netip.MustParseAddr(lab.Inside4), Proto: 6, Ports: Ports{80, 80}}
	if n := w.set(UFW, hole); n != 0 {
		t.Errorf("%d rules were changed, want none", n)
	}
	w.set(UFW)
	if after := w.sh("ufw show added"); after != before {
		t.Errorf("the administrator's rule is gone:\n%s", after)
	}
}

func TestParseUFW(t *testing.T) {
	for line, want := range map[string]ufwRule{
		"ufw route allow to 192.168.1.10 port 80 proto tcp comment 'fairlead:web'":                      {route: true, to: "192.168.1.10", port: "80", via: "tcp"},
		"ufw allow 8080/tcp comment 'fairlead:x'":                                                       {port: "8080", via: "tcp"},
		"ufw route allow in on lan0 out on wan0":                                                        {route: true, in: "lan0", out: "wan0"},
		"ufw allow from 203.0.113.0/24 to any port 9000:9001 proto udp":                                 {from: "203.0.113.0/24", port: "9000:9001", via: "udp"},
		"ufw route allow from 203.0.113.0/24 to 2001:db8::1 port 80 proto tcp comment 'it is 'quoted''": {route: true, from: "203.0.113.0/24", to: "2001:db8::1", port: "80", via: "tcp"},
	} {
		if got, _, ok := parseUFW(line); !ok || got != want {
			t.Errorf("%s: %+v %v, want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "ufw deny 80/tcp", "ufw allow OpenSSH", "(None)", "ufw route allow from 10.0.0.1 port 5 to any port 80 proto tcp", "ufw allow log 22/tcp"} {
		if got, _, ok := parseUFW(line); ok {
			t.Errorf("%q: taken for %+v", line, got)
		}
	}
}

func FuzzParseUFW(f *testing.F) {
	f.Add("ufw route allow in on lan0 out on wan0 to 192.168.1.10 port 80 proto tcp comment 'fairlead:web'")
	f.Fuzz(func(t *testing.T, line string) {
		r, _, ok := parseUFW(line)
		if !ok {
			return
		}
		again := "ufw "
		if r.route {
			again += "route "
		}
		if back, _, ok := parseUFW(again + "allow " + strings.Join(r.args(), " ")); ok && back != r {
			t.Errorf("%q: %+v became %+v", line, r, back)
		}
	})
}

// firewalld starts the real daemon on the gateway, with a bus of its own.
func (w *town) firewalld() {
	w.t.Helper()
	w.sh("mkdir -p /run/dbus /run/lock")
	for _, command := range [][]string{{"dbus-daemon", "--system", "--nofork", "--nopidfile"}, {"firewalld", "--nofork", "--nopid"}} {
		var c *lab.Command
		if err := w.do(func() error {
			c = w.Gateway.Gateway.Command(w.t, command[0], command[1:]...)
			return c.Cmd.Start()
		}); err != nil {
			w.t.Fatal(err)
		}
		w.until("firewall-cmd --state", command[0] == "firewalld", "test -S /run/dbus/system_bus_socket")
	}
}

// until waits until a script succeeds.
func (w *town) until(script string, really bool, other string) {
	w.t.Helper()
	if !really {
		script = other
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		out, err := w.try(script)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: %v %s", script, err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestFirewalldLetsThroughWhatItIsAskedTo(t *testing.T) {
	lab.NeedTool(t, "nft")
	lab.NeedTool(t, "firewalld")
	for name, strict := range map[string]bool{"dnat accepted": false, "strict": true} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, "/etc/firewalld")
			w.firewalld()
			w.sh("nft -f - <<'E'\n" + table + "\nE\n" + `
firewall-cmd --permanent --zone=internal --add-interface=lan0
firewall-cmd --permanent --zone=public --add-interface=wan0
firewall-cmd --reload`)
			forget := func() {
				if strict {
					// What StrictForwardPorts=yes leaves out, in versions that have it.
					w.sh(`for c in filter_FORWARD filter_INPUT; do
	h=$(nft -a list chain inet firewalld $c | sed -n 's/.*ct status dnat accept # handle //p')
	nft delete rule inet firewalld $c handle $h
done`)
				}
			}
			forget()
			before := w.sh("firewall-cmd --list-all-zones; firewall-cmd --list-all-policies; firewall-cmd --permanent --list-all-policies")
			w.expect(!strict, "before")
			if w.reaches("tcp", lab.WAN4+":9000") {
				t.Error("this host's port passes before")
			}
			all := append(web("web"), Hole{For: "here", Here: true, Proto: 6, Ports: Ports{9000, 9000}},
				Hole{For: "games", Target: netip.MustParseAddr(lab.Inside4), Proto: 6, Ports: Ports{4000, 4003}, From: netip.MustParsePrefix("203.0.113.0/24")})
			if n := w.set(Firewalld, all...); n != 6 {
				t.Errorf("%d rules were changed, want 6", n)
			}
			forget()
			w.expect(true, "after")
			for _, at := range []string{lab.WAN4 + ":9000", "[" + lab.WAN6 + "]:9000", lab.WAN4 + ":4001"} {
				if !w.reaches("tcp", at) {
					t.Errorf("%s does not pass", at)
				}
			}
			if n := w.set(Firewalld, all...); n != 0 {
				t.Errorf("a second time changed %d rules", n)
			}
			if !strict {
				return
			}
			w.sh("firewall-cmd --reload")
			forget()
			if n := w.set(Firewalld, all...); n != 6 {
				t.Errorf("%d rules came back after a reload, want 6", n)
			}
			w.expect(true, "after a reload")
			if n := w.set(Firewalld, web("web")...); n != 2 {
				t.Errorf("%d rules were changed, want 2 gone", n)
			}
			if w.reaches("tcp", lab.WAN4+":9000") {
				t.Error("this host's port still passes")
			}
			if err := w.do(func() error { return Clear(context.Background(), Firewalld, "fairlead") }); err != nil {
				t.Fatal(err)
			}
			forget()
			w.expect(!strict, "gone")
			if after := w.sh("firewall-cmd --list-all-zones; firewall-cmd --list-all-policies; firewall-cmd --permanent --list-all-policies"); after != before {
				t.Errorf("firewalld is not as it was:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

func TestFirewalldIsNotReloadedOverUnsavedChanges(t *testing.T) {
	lab.NeedTool(t, "firewalld")
	w := newTown(t, "/etc/firewalld")
	w.firewalld()
	w.sh("firewall-cmd --zone=public --add-port=1234/tcp")
	if _, err := w.trySet(Firewalld, web("web")...); !errors.Is(err, ErrReload) {
		t.Errorf("%v, want %v", err, ErrReload)
	}
	if out := w.sh("firewall-cmd --permanent --get-policies"); strings.Contains(out, "fairlead") {
		t.Errorf("policies were made: %s", out)
	}
	w.sh("firewall-cmd --runtime-to-permanent")
	w.set(Firewalld, web("web")...)
	if out := w.sh("firewall-cmd --zone=public --list-ports"); !strings.Contains(out, "1234/tcp") {
		t.Errorf("the other's port is gone: %s", out)
	}
}
