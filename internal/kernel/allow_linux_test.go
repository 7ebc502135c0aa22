package kernel

import (
	"context"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
)

// docker is what Docker 28 has in the way of packets that are not for its
// containers.
const docker = `
for p in iptables-nft ip6tables-nft; do
	$p -P FORWARD DROP
	for c in DOCKER DOCKER-BRIDGE DOCKER-CT DOCKER-FORWARD DOCKER-USER; do $p -N $c; done
	$p -A FORWARD -j DOCKER-USER
	$p -A FORWARD -j DOCKER-FORWARD
	$p -A DOCKER-FORWARD -j DOCKER-CT
	$p -A DOCKER-FORWARD -j DOCKER-BRIDGE
	$p -A DOCKER-FORWARD -i docker0 -j ACCEPT
	$p -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$p -A DOCKER-BRIDGE -o docker0 -j DOCKER
	$p -A DOCKER ! -i docker0 -o docker0 -j DROP
done`

// walls are firewalls that drop what a forward leads in, with what a status
// has to say of each.
var walls = map[string]struct {
	rules string
	by    string // table, chain and what in it
	fix   string // what the printed fix begins with
}{
	"a policy of nft": {"nft add table inet wall; nft 'add chain inet wall forward { type filter hook forward priority 5; policy drop; }'; nft add rule inet wall forward meta l4proto icmpv6 accept",
		"table inet wall, chain forward, policy drop", "sudo nft insert rule inet wall forward "},
	"a rule of nft in a chain that is called": {`nft -f - <<'X'
table ip wall {
	set closed { type inet_service; flags interval; elements = { 80-90 } }
	chain closed {
		tcp dport @closed reject
		udp dport @closed drop
	}
	chain every {
		type filter hook forward priority -5; policy accept;
		iifname "wan0" jump closed
	}
}
X`, "table ip wall, chain closed, rule ", "sudo nft insert rule ip wall every "},
	"a policy of iptables": {"iptables-nft -P FORWARD DROP; iptables-nft -A FORWARD -i lan0 -j ACCEPT",
		"table ip filter, chain FORWARD, policy drop", "sudo iptables-nft -I FORWARD "},
	"a rule of iptables": {"iptables-nft -N mine; iptables-nft -A FORWARD -i wan0 -m comment --comment 'keep out' -j mine; iptables-nft -A mine -m conntrack --ctstate NEW -j REJECT",
		"table ip filter, chain mine, rule ", "sudo iptables-nft -I FORWARD "},
	"docker": {docker, "table ip filter, chain FORWARD, policy drop", "fairlead edit f0 allow-in docker"},
	"legacy": {"iptables-legacy -P FORWARD DROP", "iptables-legacy, table filter, chain FORWARD, policy drop", "sudo iptables-legacy -I FORWARD "},
	"two": {"iptables-nft -P FORWARD DROP; nft add table inet wall; nft 'add chain inet wall forward { type filter hook forward priority 5; policy drop; }'",
		"table ip filter, chain FORWARD, policy drop", "sudo iptables-nft -I FORWARD "},
}

// sh runs a script on the gateway.
func (g *town) sh(script string) string {
	g.t.Helper()
	var out []byte
	err := g.Gateway.Gateway.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(g.t.Context(), 30*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, "sh", "-eu")
		c.Stdin = strings.NewReader(script)
		out, err = c.CombinedOutput()
		return err
	})
	if err != nil {
		g.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// comesThrough reports whether outside has an answer, by both protocols; it must
// be the same for both.
func (g *town) comesThrough(host, port string) bool {
	g.t.Helper()
	var answers []bool
	for _, network := range []string{"tcp", "udp"} {
		ctx, cancel := context.WithTimeout(g.t.Context(), 400*time.Millisecond)
		c, err := g.Outside.DialContext(ctx, network, net.JoinHostPort(host, port))
		cancel()
		if err != nil {
			answers = append(answers, false)
			continue
		}
		c.SetDeadline(time.Now().Add(400 * time.Millisecond))
		c.Write([]byte("hello"))
		n, _ := c.Read(make([]byte, 100))
		c.Close()
		answers = append(answers, n > 0)
	}
	if answers[0] != answers[1] {
		g.t.Errorf("%s port %s: tcp %v, udp %v", host, port, answers[0], answers[1])
	}
	return answers[0]
}

// applied are the statuses of sentences of the file.
func (g *town) applied(sentences ...string) []fairlead.Status {
	g.t.Helper()
	var want []*fairlead.Forward
	for i, s := range sentences {
		f := wish(g.t, "f"+string(rune('0'+i)), s)
		f.Owner.Kind = fairlead.OwnerFile
		want = append(want, f)
	}
	return g.k.Apply(g.t.Context(), want)
}

const led = "nat 203.0.113.1:8080/tcp+udp to 192.168.1.10:80"

func TestForeignDropsAreNamedAndThePrintedFixWorks(t *testing.T) {
	lab.NeedTool(t, "iptables-nft")
	for name, wall := range walls {
		t.Run(name, func(t *testing.T) {
			if name == "legacy" {
				lab.NeedTool(t, "iptables-legacy")
			}
			g := newTown(t)
			newDesk(t, g.Inside, ":80")
			if st := g.applied(led)[0]; st.Problem != nil {
				t.Fatalf("before: %v", st.Problem)
			}
			if !g.comesThrough(lab.WAN4, "8080") {
				t.Fatal("nothing comes through without a wall")
			}
			g.sh(wall.rules)
			if g.comesThrough(lab.WAN4, "8080") {
				t.Fatal("the wall lets it through")
			}
			var p *fairlead.Problem
			until(t, "the status tells of the wall", func() bool {
				st := g.applied(led)[0]
				p = st.Problem
				return p != nil && p.Code == fairlead.CodeForeignDrop && (st.State == fairlead.Broken || st.State == fairlead.Partial)
			})
			if !strings.Contains(p.What, wall.by) {
				t.Errorf("it says %q, want %q in it", p.What, wall.by)
			}
			if len(p.Fixes) != 1 || !strings.HasPrefix(p.Fixes[0].Command, wall.fix) {
				t.Fatalf("fixes %q, want one that begins with %q", p.Fixes, wall.fix)
			}
			fix, sentence := p.Fixes[0].Command, led
			if words, ok := strings.CutPrefix(fix, "fairlead edit f0 "); ok {
				sentence += " " + words
			} else {
				g.sh(strings.ReplaceAll(fix, "sudo ", ""))
			}
			until(t, "the status is well again", func() bool { return g.applied(sentence)[0].Problem == nil })
			if !g.comesThrough(lab.WAN4, "8080") {
				t.Errorf("nothing comes through after %s\n%s", fix, g.sh("nft list ruleset"))
			}
			g.sh("nft list ruleset >/dev/null; iptables-nft -S >/dev/null")
		})
	}
}

func TestFirewallsThatAcceptTranslatedPacketsAreNoTrouble(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Inside, ":80")
	g.sh(`nft -f - <<'X'
table inet firewalld {
	set bad { type ipv4_addr; flags interval; elements = { 198.51.100.0/24 } }
	chain filter_FORWARD {
		type filter hook forward priority filter + 10; policy accept;
		ip saddr @bad drop
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		meta l4proto icmpv6 accept
		reject with icmpx admin-prohibited
	}
}
X`)
	for _, st := range g.applied(led, "nat wan:9000 to self:9001") {
		if st.Problem != nil {
			t.Errorf("%s: %v", st.Forward.Expr, st.Problem)
		}
	}
	if !g.comesThrough(lab.WAN4, "8080") {
		t.Error("nothing comes through")
	}
	// A pinhole is not translated, and so is dropped; the fix is to ask firewalld.
	st := g.applied("open wan:80/tcp+udp to [2001:db8:2::10]", "share lan to wan")[0]
	if st.Problem == nil || st.Problem.Code != fairlead.CodeForeignDrop || st.Problem.Fixes[0].Command != "fairlead edit f0 allow-in firewalld" {
		t.Errorf("a pinhole: %v", st.Problem)
	}
}

// Where no guard of ours stands, another firewall is all that a pinhole opens.
func TestAllowInOpensAPinholeWithoutAGuard(t *testing.T) {
	lab.NeedTool(t, "iptables-nft")
	g := newTown(t)
	g.sh(docker)
	rules := func() string { return g.sh("iptables-nft -S DOCKER-USER") }
	if st := g.applied("open wan:80 to " + lab.Inside4 + " allow-in docker")[0]; st.Problem != nil {
		t.Errorf("%v", st.Problem)
	}
	if got := rules(); strings.Count(got, "fairlead:f0 ") != 1 {
		t.Errorf("docker was not asked:\n%s", got)
	}
}

func TestAllowInIsTakenBackWithItsForward(t *testing.T) {
	lab.NeedTool(t, "iptables-nft")
	g := newTown(t)
	newDesk(t, g.Inside, ":80")
	g.sh(docker)
	rules := func() string { return g.sh("iptables-nft -S; ip6tables-nft -S") }
	before := rules()
	const asked = led + " allow-in docker"
	if st := g.applied(asked)[0]; st.Problem != nil {
		t.Fatal(st.Problem)
	}
	if !g.comesThrough(lab.WAN4, "8080") {
		t.Error("nothing comes through")
	}
	with := rules()
	if strings.Count(with, "fairlead:f0 ") != 2 {
		t.Errorf("the rules are not marked with the name:\n%s", with)
	}

	// The other program empties its chain; the next Apply puts ours back, and a
	// carrier that comes after a crash finds them.
	g.sh("iptables-nft -F DOCKER-USER")
	until(t, "the rules are back", func() bool { g.applied(asked); return strings.Count(rules(), "fairlead:f0 ") == 2 })
	g.k.Close()
	g.k = New(g.k.cfg)
	t.Cleanup(g.k.Close)
	g.applied(asked)
	if got := strings.Count(rules(), "fairlead:f0 "); got != 2 {
		t.Errorf("%d rules after another start, want 2", got)
	}

	// Another forward stays when one goes.
	g.applied(asked, "nat wan:8081 to 192.168.1.20:81 allow-in docker")
	g.applied("nat wan:8081 to 192.168.1.20:81 allow-in docker")
	if now := rules(); strings.Count(now, "fairlead:") != 1 || strings.Contains(now, "192.168.1.10") {
		t.Errorf("of two forwards one stays:\n%s", now)
	}
	g.applied(led)
	if now := rules(); now != before {
		t.Errorf("the rules are not what they were:\n%s", now)
	}
	if g.comesThrough(lab.WAN4, "8080") {
		t.Error("it still comes through")
	}
	if left := g.k.undos.all(); len(left) != 0 {
		t.Errorf("there is still something to be put back: %v", left)
	}
}

func TestAllowInWithoutItsFirewallIsAWarning(t *testing.T) {
	g := newTown(t)
	newDesk(t, g.Inside, ":80")
	st := g.applied(led + " allow-in docker")[0]
	if st.Problem == nil || st.Problem.Code != fairlead.CodeNoFirewall || !st.Problem.Warning || st.State == fairlead.Broken {
		t.Errorf("%v %v, want a warning with %s", st.State, st.Problem, fairlead.CodeNoFirewall)
	}
	if !g.comesThrough(lab.WAN4, "8080") {
		t.Error("nothing comes through")
	}
}

func TestAllowInThatMeansNothingIsRefused(t *testing.T) {
	for _, s := range []string{"nat wan:80 to self:8080 allow-in docker", "open wan:80 allow-in docker"} {
		if p := fits(wish(t, "x", s)); p == nil || p.Code != fairlead.CodeCannotHonour {
			t.Errorf("%s: %v", s, p)
		}
	}
}

func TestManyForwardsAreJudgedAtOnce(t *testing.T) {
	lab.NeedTool(t, "iptables-nft")
	g := newTown(t)
	g.sh(docker)
	sentences := []string{"nat wan:10000-19999 to 192.168.1.10"}
	for range 8 {
		sentences = append(sentences, strings.Replace(led, "8080", "808"+string(rune('0'+len(sentences))), 1))
	}
	list := g.applied(sentences...)
	if slices.ContainsFunc(list, func(s fairlead.Status) bool {
		return s.Problem == nil || s.Problem.Code != fairlead.CodeForeignDrop || s.State != fairlead.Broken
	}) {
		t.Errorf("not all are told of: %v", list[0].Problem)
	}
	// Docker's rules do not tell ports apart, so that one answer serves all.
	if n := len(g.k.beyond.answers); n > 4 {
		t.Errorf("%d packets were thought up for forwards that rules do not tell apart", n)
	}
}
