package packetfilter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"fairlead"
)

// A saying puts one condition into a forward. kept are the dialects and kinds
// that keep it, as the manual pages allow; all others must refuse the forward.
type saying struct {
	word string
	say  func(f *fairlead.Forward, rnd *rand.Rand)
	kept func(d Dialect, f *fairlead.Forward) bool
}

func never(Dialect, *fairlead.Forward) bool { return false }

func translates(f *fairlead.Forward) bool {
	return f.Kind == fairlead.KindNAT || f.Kind == fairlead.KindForward
}

func pol(word string, say func(p *fairlead.Policy)) saying {
	return saying{word, func(f *fairlead.Forward, _ *rand.Rand) { say(&f.Policy) }, never}
}

var sayings = []saying{
	pol("max-conns", func(p *fairlead.Policy) { p.MaxConns = 5 }),
	pol("max-conns-per-source", func(p *fairlead.Policy) { p.MaxConnsPerSource = 5 }),
	pol("rate", func(p *fairlead.Policy) { p.Rate = 5 }),
	pol("rate-per-source", func(p *fairlead.Policy) { p.RatePerSource = 5 }),
	pol("queue", func(p *fairlead.Policy) { p.Queue = time.Second }),
	pol("max-queue", func(p *fairlead.Policy) { p.MaxQueue = 5 }),
	pol("schedule", func(p *fairlead.Policy) {
		p.Schedule = []fairlead.Window{{Days: fairlead.EveryDay, From: 60, To: 90}}
	}),
	pol("by relay", func(p *fairlead.Policy) { p.By = "relay" }),
	pol("engine", func(p *fairlead.Policy) { p.Engine = "loops" }),
	pol("front", func(p *fairlead.Policy) { p.Front = "socks" }),
	pol("accept-proxy", func(p *fairlead.Policy) { p.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }),
	pol("proxy-protocol", func(p *fairlead.Policy) { p.ProxyProtocol = 2 }),
	pol("mark", func(p *fairlead.Policy) { p.Mark = 7 }),
	pol("dscp", func(p *fairlead.Policy) { p.DSCP = "ef" }),
	pol("congestion", func(p *fairlead.Policy) { p.Congestion = "cubic" }),
	pol("claim", func(p *fairlead.Policy) { p.Claim = true }),
	pol("alg", func(p *fairlead.Policy) { p.ALG = "ftp" }),
	pol("allow-in", func(p *fairlead.Policy) { p.AllowIn = "docker" }),
	pol("publish", func(p *fairlead.Policy) { p.Publish = true }),
	pol("log", func(p *fairlead.Policy) { p.Log = true }),
	pol("mode", func(p *fairlead.Policy) { p.SocketMode = 0o600 }),
	pol("tls-cert", func(p *fairlead.Policy) { p.TLS.Certs = append(p.TLS.Certs, p.TLS.Certs...); p.TLS.ClientCA = "/ca" }),
	pol("target-tls", func(p *fairlead.Policy) { p.TLS.Target = "on" }),
	pol("policy random", func(p *fairlead.Policy) { p.Choose = "least-conn" }),
	pol("check", func(p *fairlead.Policy) { p.Check.How = "tcp" }),
	pol("slow-start", func(p *fairlead.Policy) { p.SlowStart = time.Second }),
	pol("greet", func(p *fairlead.Policy) { p.Greet = time.Second }),
	pol("connect", func(p *fairlead.Policy) { p.Connect = time.Second }),
	pol("idle", func(p *fairlead.Policy) { p.Idle = time.Second }),
	pol("linger", func(p *fairlead.Policy) { p.Linger = time.Second }),
	pol("max-lifetime", func(p *fairlead.Policy) { p.MaxLifetime = time.Minute }),
	pol("keepalive", func(p *fairlead.Policy) { p.Keepalive = time.Second }),
	pol("for", func(p *fairlead.Policy) { p.For = time.Hour }),
	pol("requests", func(p *fairlead.Policy) { p.Requests = 1 }),
	pol("replies", func(p *fairlead.Policy) { p.Replies = fairlead.NoReplies }),
	pol("bandwidth", func(p *fairlead.Policy) { p.Bandwidth.Up = 1000 }),
	pol("bandwidth-per-conn", func(p *fairlead.Policy) { p.BandwidthPerConn.Down = 1000 }),
	pol("bandwidth-per-source", func(p *fairlead.Policy) { p.BandwidthPerSource.Down = 1000 }),
	pol("pac", func(p *fairlead.Policy) { p.PAC = "on" }),
	pol("key-file", func(p *fairlead.Policy) { p.KeyFile = "/key" }),
	pol("user", func(p *fairlead.Policy) { p.Users = []fairlead.User{{Name: "a"}} }),
	{"expires", func(f *fairlead.Forward, _ *rand.Rand) { f.Expires = time.Unix(2e9, 0) }, never},
	{"via", func(f *fairlead.Forward, _ *rand.Rand) { f.Via = "jump" }, never},
	{"unix", func(f *fairlead.Forward, _ *rand.Rand) { f.To = []fairlead.Target{{Unix: "/run/x"}} }, never},
	{"sni", func(f *fairlead.Forward, _ *rand.Rand) { toOne(f).SNI = []string{"a.test"} }, never},
	{"backup", func(f *fairlead.Forward, _ *rand.Rand) { toOne(f).Backup = true }, never},
	{"weight", func(f *fairlead.Forward, _ *rand.Rand) { toOne(f).Weight = 3 }, never},
	{"resolve", func(f *fairlead.Forward, _ *rand.Rand) { toOne(f).Resolve = "all" }, never},

	{"deny", func(f *fairlead.Forward, rnd *rand.Rand) {
		f.Policy.Deny = []netip.Prefix{somePrefix(rnd)}
	}, func(_ Dialect, f *fairlead.Forward) bool { return translates(f) }},
	{"masquerade", func(f *fairlead.Forward, _ *rand.Rand) { f.Policy.Masquerade = true },
		func(d Dialect, f *fairlead.Forward) bool { return translates(f) && d != IPFW }},
	{"source", func(f *fairlead.Forward, _ *rand.Rand) { f.Policy.Source = "192.168.1.1" },
		func(d Dialect, f *fairlead.Forward) bool { return translates(f) && d != IPFW }},
	{"source keep", func(f *fairlead.Forward, _ *rand.Rand) { f.Policy.Source = "keep" },
		func(_ Dialect, f *fairlead.Forward) bool { return translates(f) }},
	{"from", func(f *fairlead.Forward, rnd *rand.Rand) {
		toOne(f).From = []netip.Prefix{somePrefix(rnd), somePrefix(rnd)}
	}, func(_ Dialect, f *fairlead.Forward) bool { return f.Kind != fairlead.KindShare }},
	{"round-robin", func(f *fairlead.Forward, _ *rand.Rand) {
		f.To = []fairlead.Target{{Host: "192.168.1.31"}, {Host: "192.168.1.32"}}
		f.Policy.Choose = "round-robin"
	}, func(_ Dialect, f *fairlead.Forward) bool { return translates(f) }},
	{"random", func(f *fairlead.Forward, _ *rand.Rand) {
		f.To = []fairlead.Target{{Host: "192.168.1.31"}, {Host: "192.168.1.32"}}
		f.Policy.Choose = "random"
	}, never},
	{"source-hash", func(f *fairlead.Forward, _ *rand.Rand) {
		f.To = []fairlead.Target{{Host: "192.168.1.31"}, {Host: "192.168.1.32"}}
		f.Policy.Choose = "source-hash"
	}, never},
	{"unguarded", func(f *fairlead.Forward, _ *rand.Rand) { f.Policy.Unguarded = true },
		func(_ Dialect, f *fairlead.Forward) bool { return f.Kind == fairlead.KindShare }},
	{"self", func(f *fairlead.Forward, _ *rand.Rand) { toOne(f).Host = "self" },
		func(_ Dialect, f *fairlead.Forward) bool { return f.Kind != fairlead.KindShare }},
	{"by kernel", func(f *fairlead.Forward, _ *rand.Rand) { f.Policy.By = "kernel" },
		func(_ Dialect, f *fairlead.Forward) bool { return true }},
}

func toOne(f *fairlead.Forward) *fairlead.Target {
	if len(f.To) != 1 {
		f.To = []fairlead.Target{{Host: "192.168.1.30"}}
	}
	return &f.To[0]
}

func somePrefix(rnd *rand.Rand) netip.Prefix {
	a := netip.AddrFrom4([4]byte{198, 51, 100, byte(rnd.IntN(256))})
	if rnd.IntN(4) == 0 {
		a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(rnd.IntN(256))})
	}
	return netip.PrefixFrom(a, a.BitLen()-rnd.IntN(20))
}

// someForward is a forward that means something to begin with.
func someForward(rnd *rand.Rand) *fairlead.Forward {
	f := &fairlead.Forward{Name: "f"}
	f.Kind = []fairlead.Kind{fairlead.KindNAT, fairlead.KindNAT, fairlead.KindNAT, fairlead.KindForward, fairlead.KindOpen, fairlead.KindShare}[rnd.IntN(6)]
	if f.Kind == fairlead.KindShare {
		f.At.Where = "lan"
		f.To = []fairlead.Target{{Host: "wan"}}
		return f
	}
	if f.Kind == fairlead.KindForward {
		f.Policy.By = "kernel"
	}
	first := uint16(1 + rnd.IntN(60000))
	f.At = fairlead.Spot{Net: fairlead.Network(1 + rnd.IntN(3)), Ports: fairlead.PortList{{First: first, Last: first + uint16(rnd.IntN(3)*rnd.IntN(9))}}}
	switch rnd.IntN(6) {
	case 0:
		f.At.Any = true
	case 1:
		f.At.Addr = netip.MustParseAddr("203.0.113.1")
	case 2:
		f.At.Where = "lan"
	case 3:
		f.At.Where = "em0"
	default:
		f.At.Where = "wan"
	}
	f.To = []fairlead.Target{{Host: []string{"192.168.1.10", "2001:db8:2::10", "both.test", "nobody.test"}[rnd.IntN(4)]}}
	if rnd.IntN(2) == 0 && f.Kind != fairlead.KindOpen {
		f.To[0].Ports = fairlead.PortList{{First: 7000, Last: 7000}}
	}
	return f
}

// TestWhatCannotBeExpressedNeverYieldsARule says anything of forwards of every
// kind: where a condition is none that the filter keeps, the forward is
// refused, there is no rule, and those of its neighbours are the same without it.
func TestWhatCannotBeExpressedNeverYieldsARule(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 2))
	refused, carried := map[string]int{}, map[string]int{}
	other := &fairlead.Forward{Name: "other", Kind: fairlead.KindNAT, To: []fairlead.Target{{Host: "192.168.1.77"}},
		At: fairlead.Spot{Where: "wan", Net: fairlead.TCP, Ports: fairlead.PortList{{First: 65535, Last: 65535}}}}
	for range 6000 {
		f := someForward(rnd)
		var said []saying
		for range rnd.IntN(3) {
			s := sayings[rnd.IntN(len(sayings))]
			s.say(f, rnd)
			said = append(said, s)
		}
		d := Dialects[rnd.IntN(len(Dialects))]
		plan := Compile(d, []*fairlead.Forward{other, f}, testWorld())
		part := &plan.Parts[1]
		for _, s := range said {
			if part.Carried() && !s.kept(d, f) && stillSaid(s, f) {
				t.Fatalf("%s: %s with %q is carried:\n%+v\n%s", d, f.Kind, s.word, f, plan.Text())
			}
		}
		if err := accepts(d, plan.Text()); err != nil {
			t.Fatalf("%v\n%+v", err, f)
		}
		if alone := Compile(d, []*fairlead.Forward{f}, testWorld()); alone.Parts[0].Carried() != part.Carried() || alone.Parts[0].Carried() == (alone.Text() == "") {
			t.Fatalf("%s: %+v: %v and %v:\n%s", d, f, part.Problem, alone.Parts[0].Problem, alone.Text())
		}
		if part.Carried() {
			carried[string(d)+" "+string(f.Kind)]++
			continue
		}
		if part.Problem.What == "" || part.Problem.Code == "" {
			t.Fatalf("%+v is refused without a word", f)
		}
		if without := Compile(d, []*fairlead.Forward{other}, testWorld()); without.Text() != plan.Text() || strings.Contains(plan.Text(), "fl2") {
			t.Fatalf("%+v is refused and leaves rules:\n%s", f, plan.Text())
		}
		for _, s := range said {
			refused[s.word]++
		}
	}
	for _, s := range sayings {
		if refused[s.word] == 0 && s.word != "by kernel" && s.word != "unguarded" {
			t.Errorf("%q was never refused", s.word)
		}
	}
	for _, d := range Dialects {
		for _, kind := range []fairlead.Kind{fairlead.KindNAT, fairlead.KindForward, fairlead.KindOpen, fairlead.KindShare} {
			if carried[string(d)+" "+string(kind)] == 0 {
				t.Errorf("%s carried no %s: the property means little", d, kind)
			}
		}
	}
}

// TestOtherKindsYieldNoRule refuses all kinds that are none of a packet filter.
func TestOtherKindsYieldNoRule(t *testing.T) {
	for _, d := range Dialects {
		for _, kind := range fairlead.Kinds {
			f := &fairlead.Forward{Name: "f", Kind: kind, To: []fairlead.Target{{Host: "192.168.1.10"}},
				At: fairlead.Spot{Where: "wan", Net: fairlead.TCP, Ports: fairlead.PortList{{First: 80, Last: 80}}}}
			plan := Compile(d, []*fairlead.Forward{f}, testWorld())
			rules := kind == fairlead.KindNAT || kind == fairlead.KindOpen
			if (plan.Text() != "") != rules || plan.Parts[0].Carried() != rules {
				t.Errorf("%s %s: %v\n%s", d, kind, plan.Parts[0].Problem, plan.Text())
			}
		}
	}
}

// stillSaid reports whether what s said was not said otherwise by a later one.
func stillSaid(s saying, f *fairlead.Forward) bool {
	switch s.word {
	case "unix":
		return len(f.To) == 1 && f.To[0].Unix != ""
	case "sni", "backup", "weight", "resolve", "from", "self":
		t := f.To[0]
		return len(f.To) == 1 && (len(t.SNI) > 0 || t.Backup || t.Weight != 0 || t.Resolve != "" || len(t.From) > 0 || t.Host == "self")
	case "policy random":
		return f.Policy.Choose == "least-conn"
	case "random", "source-hash":
		return f.Policy.Choose == s.word && len(f.To) == 2
	case "round-robin":
		return f.Policy.Choose == s.word
	case "by relay":
		return f.Policy.By == "relay"
	case "source", "source keep":
		return f.Policy.Source != "" && (f.Policy.Source == "keep") == (s.word == "source keep")
	}
	return true
}

// TestProgramsTakeTheRules has the filter's own program read the thirty
// forwards' rules, on systems that have one. It changes nothing.
func TestProgramsTakeTheRules(t *testing.T) {
	commands := map[Dialect][]string{
		PF:        {"pfctl", "-n", "-a", "fairlead/test", "-f", "-"},
		OpenBSDPF: {"pfctl", "-n", "-a", "fairlead/test", "-f", "-"},
		IPFW:      {"ipfw", "-n", "/dev/stdin"},
	}
	for _, d := range Dialects {
		t.Run(string(d), func(t *testing.T) {
			if !slices.Contains(systems[d], runtime.GOOS) {
				t.Skipf("%s is a program of %s alone", commands[d][0], strings.Join(systems[d], ", "))
			}
			if _, err := exec.LookPath(commands[d][0]); err != nil {
				t.Skip(fmt.Sprint("not here: ", err))
			}
			c := exec.Command(commands[d][0], commands[d][1:]...)
			c.Stdin = strings.NewReader(Compile(d, testForwards(t), testWorld()).Text())
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// systems are those on which the program speaks the dialect.
var systems = map[Dialect][]string{PF: {"freebsd", "darwin"}, OpenBSDPF: {"openbsd"}, IPFW: {"freebsd"}}
