package kernel

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead/internal/lab"
	"fairlead/internal/sys/nft"
)

// probed is the translation under which packets are sent: 8080 and 4000 to
// 4003 lead inside, the rest is for the gateway.
const probed = `
table inet fairlead {
	chain pre {
		type nat hook prerouting priority dstnat;
		meta nfproto ipv4 udp dport 8080 dnat ip to 192.168.1.10:80
		meta nfproto ipv4 udp dport { 4000-4003, 9999 } dnat ip to 192.168.1.10
		meta nfproto ipv6 udp dport 8080 dnat ip6 to [2001:db8:2::10]:80
		meta nfproto ipv6 udp dport { 4000-4003, 9999 } dnat ip6 to 2001:db8:2::10
	}
}
`

// A trial is a packet of outside's and what the filters see of it.
type trial struct {
	to     string // what outside asks
	at     string // the socket where it should arrive
	packet imagined
}

func trials() []trial {
	var list []trial
	for _, v6 := range []bool{false, true} {
		src, wan, inside := lab.Outside4, lab.WAN4, lab.Inside4
		if v6 {
			src, wan, inside = lab.Outside6, lab.WAN6, lab.Inside6
		}
		in := imagined{hook: "forward", v6: v6, proto: 17, iif: "wan0", oif: "lan0", src: netip.MustParseAddr(src),
			dst: netip.MustParseAddr(inside), dport: 80, translated: true, asked: netip.MustParseAddr(wan), askedPort: 8080}
		ranged := in
		ranged.dport, ranged.askedPort = 4001, 4001
		here := imagined{hook: "input", v6: v6, proto: 17, iif: "wan0", src: in.src, dst: in.asked, dport: 7000}
		list = append(list,
			trial{net.JoinHostPort(wan, "8080"), "inside:80", in},
			trial{net.JoinHostPort(wan, "4001"), "inside:4001", ranged},
			trial{net.JoinHostPort(wan, "7000"), "gateway:7000", here})
	}
	return list
}

// A range of fire: real packets, and where they arrive.
type ground struct {
	*lab.Gateway
	t     *testing.T
	sinks map[string]*net.UDPConn
}

func newGround(t *testing.T) *ground {
	t.Helper()
	lab.NeedTool(t, "nft")
	g := &ground{Gateway: lab.NewGateway(t), t: t, sinks: map[string]*net.UDPConn{}}
	for name, host := range map[string]*lab.Host{"inside": g.Inside, "gateway": g.Gateway.Gateway} {
		for _, port := range []string{"80", "4001", "7000", "9999"} {
			pc, err := host.ListenPacket(t.Context(), "udp", ":"+port)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { pc.Close() })
			g.sinks[name+":"+port] = pc
		}
	}
	g.nft(probed)
	return g
}

func (g *ground) nft(script string) {
	g.t.Helper()
	if out, err := g.feed(script, "nft", "-f", "-"); err != nil {
		g.t.Fatalf("%v: %s\n%s", err, out, script)
	}
}

func (g *ground) feed(input string, command ...string) (string, error) {
	var out []byte
	err := g.Gateway.Gateway.Do(func() (err error) {
		c := exec.Command(command[0], command[1:]...)
		c.Stdin = strings.NewReader(input)
		out, err = c.CombinedOutput()
		return err
	})
	return string(out), err
}

// others are the rules on the gateway that are not ours.
func (g *ground) others() *others {
	g.t.Helper()
	var tables []*nft.Table
	if err := g.Gateway.Gateway.Do(func() error {
		c, err := nft.Open()
		if err != nil {
			return err
		}
		defer c.Close()
		tables, err = c.ReadAll(0)
		return err
	}); err != nil {
		g.t.Fatal(err)
	}
	return othersOf(tables, "fairlead")
}

// fires sends a trial's packet from a port and reports whether it arrived. One
// that is said to pass is waited for; for others a second packet, which every
// rule set lets through, comes behind it by the same way: when that is there,
// the first is, too, or never will be.
func (g *ground) fires(tr trial, c net.Conn, said fate) (arrived bool) {
	g.t.Helper()
	text := fmt.Sprintf("%d", rand.Uint64())
	c.Write([]byte(text))
	if said == passes {
		return await(nil, g.sinks[tr.at], text, 2*time.Second)
	}
	host, _, _ := net.SplitHostPort(tr.to)
	d, err := g.Outside.DialContext(g.t.Context(), "udp", net.JoinHostPort(host, "9999"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer d.Close()
	d.Write([]byte(text))
	await(g.t, g.sinks["inside:9999"], text, 2*time.Second)
	return await(nil, g.sinks[tr.at], text, 5*time.Millisecond)
}

// await reads until text comes. With a t it has to.
func await(t *testing.T, pc *net.UDPConn, text string, patience time.Duration) bool {
	b := make([]byte, 100)
	pc.SetReadDeadline(time.Now().Add(patience))
	for {
		n, _, err := pc.ReadFromUDPAddrPort(b)
		if err != nil {
			if t != nil {
				t.Helper()
				t.Fatalf("the packet that always comes through did not: %v", err)
			}
			return false
		}
		if string(b[:n]) == text {
			return true
		}
	}
}

// compareFates holds what is said of packets against what becomes of them, and
// returns how often it was known.
func (g *ground) compareFates(rules string) (known, all int) {
	g.t.Helper()
	o := g.others()
	for _, tr := range trials() {
		p := tr.packet
		c, err := g.Outside.DialContext(g.t.Context(), "udp", tr.to)
		if err != nil {
			g.t.Fatal(err)
		}
		p.sport = uint16(c.LocalAddr().(*net.UDPAddr).Port)
		arrived := g.fires(tr, c, o.ask(p).fate)
		if !arrived && o.ask(p).fate == passes {
			// On a busy machine a packet may be lost without a rule.
			time.Sleep(10 * time.Millisecond)
			arrived = g.fires(tr, c, passes)
		}
		c.Close()
		is := map[bool]fate{true: passes, false: drops}[arrived]
		blurred := p
		blurred.src, blurred.sport = netip.Addr{}, 0
		narrow := p
		narrow.dst, narrow.dport, narrow.askedPort, narrow.oif = netip.Addr{}, 0, 0, ""
		for i, q := range []imagined{p, blurred, narrow} {
			v := o.ask(q)
			if v.fate != perhaps && v.fate != is {
				g.t.Errorf("%+v: said to be %v by %v, and it %v\n%s", q, v.fate, v.culprits, is, rules)
			}
			if i == 0 {
				all++
				if v.fate != perhaps {
					known++
				}
			}
		}
	}
	return known, all
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// nativeRules are a random table in nft's words.
func nativeRules(r *rand.Rand) string {
	var b strings.Builder
	family := pick(r, "inet", "inet", "ip", "ip6")
	addr := func() string {
		switch family {
		case "ip":
			return pick(r, "ip saddr 203.0.113.0/24", "ip saddr != 203.0.113.9", "ip daddr 192.168.1.10", "ip daddr { 192.168.1.0/25, 10.0.0.0/8 }",
				"ip saddr 203.0.113.0-203.0.113.8", "ip daddr @lans", "ip saddr @them", "ip ttl > 3", "ip protocol udp", "ip frag-off & 0x1fff != 0",
				"ip saddr . udp dport { 203.0.113.9 . 80, 203.0.113.9 . 4000-4001 }", "ct original ip daddr 203.0.113.1", "ct reply ip saddr 192.168.1.10", "ip version 4", "ip length < 1000")
		case "ip6":
			return pick(r, "ip6 saddr 2001:db8:1::/64", "ip6 daddr 2001:db8:2::10", "ip6 nexthdr udp", "ip6 hoplimit 64", "ct original ip6 daddr 2001:db8:1::1",
				"ip6 daddr . udp dport { 2001:db8:2::/64 . 80 }", "exthdr frag exists", "ip6 saddr != 2001:db8:1::9")
		}
		return pick(r, "meta nfproto ipv4", "meta nfproto ipv6", "ip saddr 203.0.113.9", "ip6 saddr 2001:db8:1::9", "meta protocol ip", "ip daddr 192.168.1.10", "ip6 daddr 2001:db8:2::/64",
			"fib saddr type local", "fib daddr type local", "fib daddr type unicast")
	}
	match := func() string {
		if r.IntN(3) == 0 {
			return addr()
		}
		return pick(r, `iifname "wan0"`, `iifname "wan*"`, `iifname != "lan0"`, `oifname "lan0"`, `oifname { "lan0", "x" }`, `iifname . oifname { "wan0" . "lan0" }`,
			"udp dport 80", "udp dport != 80", "udp dport { 80, 4001 }", "udp dport 4000-4002", "udp dport > 1024", "udp dport <= 80", "th dport @ports", "udp sport > 1023", "udp sport < 1024",
			"tcp dport 80", "meta l4proto udp", "meta l4proto { tcp, udp }", "meta l4proto != tcp",
			"ct state new", "ct state established,related", "ct state invalid", "ct state != new", "ct state { new, established }", "ct status dnat", "ct status snat", "ct status & dnat == 0", "ct status seen-reply",
			"ct direction original", "ct direction reply", "ct protocol udp", "meta l4proto udp ct original proto-dst 8080", "meta l4proto udp ct reply proto-src 80", "meta l4proto udp ct original proto-dst 4000-4002",
			"meta mark 0", "meta mark 5", "meta mark & 0x4 == 0x4", "ct mark 0", "meta pkttype host", "meta pkttype broadcast", "meta length < 2000", "limit rate 1000/second", "limit rate over 1000/second",
			"meta skuid 0", "meta day \"Monday\"", "ct zone 0", "numgen random mod 2 0")
	}
	verdict := func(deep int) string {
		v := pick(r, "accept", "accept", "drop", "drop", "reject", "return", "continue", "counter", "meta mark set 5", "meta mark set meta mark | 0x4", "ct mark set 7", "log prefix \"x\"",
			"udp dport vmap { 80 : drop, 4000-4002 : accept }", "iifname vmap { \"wan0\" : jump b, \"lan0\" : drop }", "ct state vmap { new : accept, established : drop }")
		if deep > 0 && strings.Contains(v, "jump b") {
			v = "drop"
		}
		if deep == 0 && r.IntN(3) == 0 {
			v = pick(r, "jump a", "goto a", "jump b", "goto b")
		}
		if deep == 1 && r.IntN(4) == 0 {
			v = pick(r, "jump c", "goto c")
		}
		return v
	}
	rules := func(n, deep int) {
		for range n {
			var m []string
			for range r.IntN(3) {
				m = append(m, match())
			}
			fmt.Fprintf(&b, "\t\t%s %s\n", strings.Join(m, " "), verdict(deep))
		}
	}
	fmt.Fprintf(&b, "table %s they%d {\n", family, r.IntN(1000))
	b.WriteString("\tset ports { type inet_service; elements = { 80, 9000 } }\n")
	if family == "ip" {
		b.WriteString("\tset lans { type ipv4_addr; flags interval; elements = { 192.168.0.0/16, 10.0.0.0/8 } }\n\tset them { type ipv4_addr; elements = { 203.0.113.9, 1.2.3.4 } }\n")
	}
	b.WriteString("\tchain c {\n")
	rules(r.IntN(3), 2)
	b.WriteString("\t}\n\tchain a {\n")
	rules(r.IntN(4), 1)
	b.WriteString("\t}\n\tchain b {\n")
	rules(r.IntN(3), 1)
	b.WriteString("\t}\n")
	for _, hook := range []string{"forward", "input"} {
		fmt.Fprintf(&b, "\tchain base%s {\n\t\ttype filter hook %s priority %d; policy %s;\n\t\tudp dport 9999 accept\n\t\tmeta l4proto icmpv6 accept\n", hook, hook, r.IntN(3)*10-10, pick(r, "accept", "drop"))
		rules(1+r.IntN(5), 0)
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// iptablesRules are random rules of iptables, for iptables-restore.
func iptablesRules(r *rand.Rand, v6 bool) string {
	var b strings.Builder
	match := func() string {
		addr := pick(r, "-s 203.0.113.0/24", "! -s 203.0.113.9", "-d 192.168.1.10", "-m iprange --dst-range 192.168.1.5-192.168.1.15", "-m iprange ! --src-range 203.0.113.5-203.0.113.15",
			"-m conntrack --ctorigdst 203.0.113.1", "-m conntrack --ctreplsrc 192.168.1.0/24", "-m conntrack ! --ctorigsrc 203.0.113.9", "-f")
		if v6 {
			addr = pick(r, "-s 2001:db8:1::/64", "-d 2001:db8:2::10", "-m conntrack --ctreplsrc 2001:db8:2::/64", "-m iprange --dst-range 2001:db8:2::1-2001:db8:2::20")
		}
		return pick(r, addr, addr, "-i wan0", "-i wan+", "! -i lan0", "-o lan0", "-p udp", "-p tcp", "-p udp --dport 80", "-p udp ! --dport 80:90", "-p udp --sport 1024:65535", "-p tcp --syn",
			"-p udp -m multiport --dports 80,4000:4002", "-p udp -m multiport ! --dports 81,4001", "-p udp -m multiport --sports 1,2", "-p udp -m multiport --ports 80",
			"-m conntrack --ctstate NEW", "-m conntrack --ctstate RELATED,ESTABLISHED", "-m conntrack --ctstate DNAT", "-m conntrack ! --ctstate DNAT", "-m conntrack --ctstate INVALID", "-m conntrack --ctstatus CONFIRMED",
			"-m conntrack --ctproto udp", "-m conntrack --ctorigdstport 8080", "-m conntrack --ctorigdstport 4000:4002", "-m conntrack --ctreplsrcport 80", "-m conntrack --ctdir ORIGINAL", "-m conntrack --ctdir REPLY",
			"-m conntrack --ctstate DNAT --ctproto udp --ctorigdstport 8080 --ctreplsrcport 80", "-m state --state NEW", "-m state --state ESTABLISHED",
			"-m mark --mark 0x5", "-m mark ! --mark 0x4/0x4", "-m connmark --mark 0", "-m limit --limit 1000/sec", "-m hashlimit --hashlimit-upto 1000/sec --hashlimit-name a", "-m hashlimit --hashlimit-above 1000/sec --hashlimit-name b",
			"-m addrtype --dst-type LOCAL", "-m addrtype ! --dst-type LOCAL", "-m addrtype --src-type UNICAST", "-m pkttype --pkt-type unicast", "-m pkttype --pkt-type broadcast", "-m comment --comment hello", "-m length --length 0:2000",
			"-m connlimit --connlimit-above 1000", "-m connlimit --connlimit-upto 1000", "-m statistic --mode random --probability 0.5", "-m recent --name x --rcheck")
	}
	target := func(deep bool) string {
		t := pick(r, "ACCEPT", "ACCEPT", "DROP", "DROP", "REJECT", "RETURN", "MARK --set-mark 5", "MARK --set-xmark 0x4/0x4", "LOG", "NFLOG", "CONNMARK --save-mark")
		if deep && r.IntN(3) == 0 {
			return "-j A"
		}
		if deep && r.IntN(4) == 0 {
			return "-g A"
		}
		return "-j " + t
	}
	fmt.Fprintf(&b, "*filter\n:INPUT %s\n:FORWARD %s\n:A -\n", pick(r, "ACCEPT", "DROP"), pick(r, "ACCEPT", "DROP"))
	rules := func(chain string, n int) {
		for range n {
			fmt.Fprintf(&b, "-A %s", chain)
			seen := []string{}
			for range r.IntN(3) {
				m := match()
				if chain != "FORWARD" && strings.HasPrefix(m, "-o") {
					continue
				}
				first := strings.Fields(strings.TrimPrefix(m, "! "))[0]
				if first == "-m" {
					first = strings.Fields(m)[1]
				}
				if slices.Contains(seen, first) || slices.Contains(seen, "-p") && strings.HasPrefix(m, "-p") {
					continue
				}
				seen = append(seen, first)
				b.WriteString(" " + m)
			}
			fmt.Fprintf(&b, " %s\n", target(chain != "A"))
		}
	}
	for _, c := range []string{"FORWARD", "INPUT"} {
		fmt.Fprintf(&b, "-A %s -p udp --dport 9999 -j ACCEPT\n", c)
		if v6 {
			fmt.Fprintf(&b, "-A %s -p icmpv6 -j ACCEPT\n", c)
		}
	}
	rules("A", r.IntN(4))
	rules("FORWARD", 1+r.IntN(5))
	rules("INPUT", 1+r.IntN(4))
	b.WriteString("COMMIT\n")
	return b.String()
}

func TestWhatIsSaidOfForeignRulesIsWhatTheyDo(t *testing.T) {
	lab.NeedTool(t, "iptables-nft")
	g := newGround(t)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	known, all, refused := 0, 0, 0
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for range rounds {
		g.nft("flush ruleset\n" + probed)
		var rules string
		if r.IntN(2) == 0 {
			for range 1 + r.IntN(2) {
				text := nativeRules(r)
				if out, err := g.feed(text, "nft", "-f", "-"); err != nil {
					refused++
					t.Logf("nft refuses: %s", strings.SplitN(out, "\n", 2)[0])
					continue
				}
				rules += text
			}
		} else {
			for program, v6 := range map[string]bool{"iptables-nft-restore": false, "ip6tables-nft-restore": true} {
				text := iptablesRules(r, v6)
				if out, err := g.feed(text, program); err != nil {
					refused++
					t.Logf("%s refuses: %s", program, strings.SplitN(out, "\n", 2)[0])
					continue
				}
				rules += text
			}
		}
		k, n := g.compareFates(rules)
		known, all = known+k, all+n
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d fates were known; %d rule sets were refused", known, all, refused)
	if known*2 < all {
		t.Errorf("only %d of %d fates were known", known, all)
	}
}
