package config

import (
	"reflect"
	"strings"
	"testing"

	"fairlead"
)

// parseOne reads a sentence that has to be right.
func parseOne(t *testing.T, text string) *fairlead.Forward {
	t.Helper()
	f, problems := ParseSentence(text)
	if len(problems) > 0 {
		t.Fatalf("%s: %s %s", text, problems[0].Code, problems[0].What)
	}
	return f
}

func TestSentencesAreReadAndPrinted(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		// Spots.
		{"forward 8080 to a:80", "forward 8080 to a:80"},
		{"forward localhost:8080 to a:80", "forward 8080 to a:80"},
		{"forward :8080 to a:80", "forward :8080 to a:80"},
		{"forward *:8080 to a:80", "forward :8080 to a:80"},
		{"forward 0.0.0.0:53/udp to a", "forward 0.0.0.0:53/udp to a"},
		{"forward [::]:53/tcp+udp to a", "forward [::]:53/tcp+udp to a"},
		{"forward [fe80::1%eth0]:53 to a", "forward [fe80::1%eth0]:53 to a"},
		{"forward eth0.100:53/udp+tcp to a", "forward eth0.100:53/tcp+udp to a"},
		{"nat wan:https,8000-8010 to a", "nat wan:443,8000-8010 to a"},
		{"nat wan:80, 443 to a", "nat wan:80,443 to a"},
		{"forward unix:/run/a.sock to unix:/run/b.sock", "forward unix:/run/a.sock to unix:/run/b.sock"},
		{`forward "unix:/run/a b.sock" to unix:"/run/c,d"`, `forward "unix:/run/a b.sock" to "unix:/run/c,d"`},
		// Targets.
		{"forward 1 to [2001:db8::10]:443", "forward 1 to [2001:db8::10]:443"},
		{"forward 1 to a:80,b:81", "forward 1 to a:80, b:81"},
		{"forward 1 to a,b", "forward 1 to a, b"},
		{"forward 1-2 to a:80,443", "forward 1-2 to a:80,443"},
		{"nat wan:1 to self", "nat wan:1 to self"},
		{"nat wan:80 to a from 198.51.100.7/24 from 2001:db8::1, b", "nat wan:80 to a from 198.51.100.0/24 from 2001:db8::1, b"},
		{"forward 443 to a sni WWW.example.net sni *.b.net, c front sni", "forward 443 to a sni www.example.net sni *.b.net, c front sni"},
		{"forward :443 to s:22 protocol ssh protocol other, b alpn h2 sni *.A.net. from 10.0.0.0/8, c:1 http-host [2001:DB8::1] http-host 10.0.0.1 http-host W.a.net, d greet 5s front alpn",
			"forward :443 to s:22 protocol ssh protocol other, b from 10.0.0.0/8 sni *.a.net alpn h2, c:1 http-host 2001:db8::1 http-host 10.0.0.1 http-host w.a.net, d front alpn greet 5s"},
		{"forward 1 to protocol protocol tls", "forward 1 to protocol protocol tls"},
		{"forward 1080 front socks", "forward 1080 front socks"},
		// Kinds.
		{"open wan:443 to [2001:db8::10]", "open wan:443 to [2001:db8::10]"},
		{"open wan:443 from 10.0.0.0/8", "open wan:443 from 10.0.0.0/8"},
		{"local 15432 to db:5432 via ops@jump", "local 15432 to db:5432 via ops@jump"},
		{"remote ops@jump:8443 to localhost:3000", "remote ops@jump:8443 to localhost:3000"},
		{"dynamic 1080 pac kill-switch from 10.0.0.0/8", "dynamic 1080 from 10.0.0.0/8 pac kill-switch"},
		{"dynamic 1080 pac idle 5m", "dynamic 1080 idle 5m pac"},
		{"map 51820/udp", "map 51820/udp"},
		{"map 192.168.1.1:51820/udp to self:51821 for 2h", "map 192.168.1.1:51820/udp to self:51821 for 2h"},
		{"router on lan", "router on lan"},
		{"router on [fd00::1]", "router on [fd00::1]"},
		{"trigger 6667 opens 113, 5000-5003/udp for 120s on lan", "trigger 6667 opens 113/tcp, 5000-5003/udp for 2m on lan"},
		{"trigger lan:6667 opens 113,114/tcp,115/udp", "trigger 6667 opens 113,114/tcp, 115/udp on lan"},
		{"helper lan:67/udp to 10.9.0.2, 10.9.0.3", "helper lan:67/udp to 10.9.0.2, 10.9.0.3"},
		{"helper lan:default-set/udp to 10.9.0.2 option-82", "helper lan:37,49,53,67-69,137-138/udp to 10.9.0.2 option-82"},
		{"helper br0:239.1.2.3:5000/udp to a source keep", "helper br0:239.1.2.3:5000/udp to a source keep"},
		{"helper lan:[ff05::1:3]:547/udp to [2001:db8::9]", "helper lan:[ff05::1:3]:547/udp to [2001:db8::9]"},
		{"share lan to wan unguarded", "share lan to wan unguarded"},
		{"sshd on :2222 { user alice keys /a.pub may listen 8000-8100 may dial unix:/x NAS:22 }",
			"sshd on :2222 { user alice keys /a.pub may listen 8000-8100 may dial unix:/x NAS:22 }"},
		{"sshd on unix:/run/s", "sshd on unix:/run/s"},
		{"tunnel on :7443 key /k { agent nas key ed25519:… may listen 2222, 51820/udp may listen *:80 may dial [2001:db8::1]/32:22 10.0.0.1/8:22 agent b key c }",
			"tunnel on :7443 key /k { agent nas key ed25519:… may listen 2222 51820/udp *:80 may dial [2001:db8::]/32:22 10.0.0.0/8:22 agent b key c }"},
		{"dynamic 1080 user bob password /p", "dynamic 1080 { user bob password /p }"},
		// Modifiers.
		{"forward 1 to a deny 10.0.0.1/32, 10.1.0.0/16 deny ::/0", "forward 1 to a deny 10.0.0.1 deny 10.1.0.0/16 deny ::/0"},
		{"forward 1 to a max-conns 5 max-conns-per-source 2 rate 10/s", "forward 1 to a max-conns 5 max-conns-per-source 2 rate 10/s"},
		{"forward 1 to a rate-per-source 5/s queue 5s max-queue 100", "forward 1 to a rate-per-source 5/s queue 5s max-queue 100"},
		{"forward 1 to a bandwidth 10MB/s up, 1000KB/s down idle 5s", "forward 1 to a idle 5s bandwidth 10MB/s up, 1MB/s down"},
		{"forward 1 to a bandwidth 1MB/s down bandwidth-per-conn 1MB/s up, 1MB/s down bandwidth-per-source 3KB/s", "forward 1 to a bandwidth 1MB/s down bandwidth-per-conn 1MB/s bandwidth-per-source 3KB/s"},
		{"forward 1 to a schedule Mon-fri 8:00-18:00, sat 10:00-14:00", "forward 1 to a schedule mon-fri 08:00-18:00, sat 10:00-14:00"},
		{"forward 1 to a schedule 22:00-06:00", "forward 1 to a schedule mon-sun 22:00-06:00"},
		{"forward 1 to a schedule fri-mon,wed 08:00-12:00,13:00-00:00", "forward 1 to a schedule mon,wed,fri-sun 08:00-12:00, mon,wed,fri-sun 13:00-24:00"},
		{"forward 1 to a schedule tue, thu 00:00-24:00", "forward 1 to a schedule tue,thu 00:00-24:00"},
		{"forward 1 to a by auto proxy-protocol v2 accept-proxy 10.0.0.1", "forward 1 to a by auto accept-proxy 10.0.0.1 proxy-protocol v2"},
		{"forward 1 to a source 10.0.0.1, [2001:db8::1],eth0 mark 0x10", "forward 1 to a source 10.0.0.1,2001:db8::1,eth0 mark 16"},
		{"forward 1 to a source keep", "forward 1 to a source keep"},
		{"nat wan:21 to a alg ftp allow-in docker masquerade claim publish", "nat wan:21 to a masquerade claim alg ftp allow-in docker publish"},
		{"forward 1 to a policy failover check tcp every 1500ms", "forward 1 to a policy failover check tcp every 1500ms"},
		{"forward 1 to a weight 3 from 10.0.0.0/8, b backup, c drain weight 1, d resolve all policy random slow-start 30s",
			"forward 1 to a from 10.0.0.0/8 weight 3, b backup, c weight 1 drain, d resolve all policy random slow-start 30s"},
		{`forward 1 to a check http /health every 5s`, `forward 1 to a check http /health every 5s`},
		{`forward 1 to a check http "/health?a={b}" fall 3 rise 2`, `forward 1 to a check http "/health?a={b}" rise 2 fall 3`},
		{`forward 1 to a check send "PING\r\n" expect "+PONG" every 2s`, `forward 1 to a check send "PING\r\n" expect "+PONG" every 2s`},
		{`forward 1 to a check expect 220`, `forward 1 to a check expect "220"`},
		{`forward 1 to a check send \x00\xfFa\t expect "a \"b\" \\\\ \\\\r every"`, `forward 1 to a check send "\x00\xFFa\t" expect "a \"b\" \\\\ \\\\r every"`},
		{`forward 1 to a check send é expect x`, `forward 1 to a check send "\xC3\xA9" expect "x"`},
		{"forward unix:/s to _db._tcp.example.net", "forward unix:/s to _db._tcp.example.net"},
		{"forward 1 to a check off idle off linger off keepalive off", "forward 1 to a check off idle off linger off keepalive off"},
		{"forward 1 to a connect 90s max-lifetime 48h for 1h30m", "forward 1 to a connect 90s max-lifetime 2d for 90m"},
		{"forward 1 to a bandwidth 10MB/s", "forward 1 to a bandwidth 10MB/s"},
		{"forward 1 to a bandwidth 10MiB", "forward 1 to a bandwidth 10MiB/s"},
		{"forward 1 to a bandwidth 1500B", "forward 1 to a bandwidth 1500B/s"},
		{"forward 1 to a tls-cert /a tls-key /k tls-cert /b tls-client-ca /ca tls-alpn h2, http/1.1 tls-acme a.net,b.net acme-email o@a.net",
			"forward 1 to a tls-cert /a tls-key /k tls-cert /b tls-client-ca /ca tls-alpn h2,http/1.1 tls-acme a.net tls-acme b.net acme-email o@a.net"},
		{"forward 1 to a target-tls target-name b target-ca /ca target-cert /c target-key /k",
			"forward 1 to a target-tls target-name b target-ca /ca target-cert /c target-key /k"},
		{"forward 1 to a target-tls verify idle 2s", "forward 1 to a target-tls idle 2s"},
		{"forward 1 to a target-tls insecure", "forward 1 to a target-tls insecure"},
		{"forward 1 to a source [2001:db8::1], 10.0.0.1,eth1 mark 0x10 dscp 46 congestion BBR", "forward 1 to a source 2001:db8::1,10.0.0.1,eth1 mark 16 dscp ef congestion bbr"},
		{"forward 1 to a source keep dscp CS0", "forward 1 to a source keep dscp cs0"},
		{"forward 1 to a dscp 7 congestion off", "forward 1 to a dscp 7 congestion off"},
		{"forward 1 idle 2s to a disabled", "forward 1 to a idle 2s disabled"},
		{"forward 1 to a { idle 2s }", "forward 1 to a idle 2s"},
		{"web: forward 1 to a # comment", "forward 1 to a"},
	} {
		f := parseOne(t, c.text)
		if f.Expr != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.text, f.Expr, c.want)
			continue
		}
		again := parseOne(t, c.want)
		again.Name = f.Name
		if !reflect.DeepEqual(f, again) {
			t.Errorf("%s: printed and parsed again it is another forward\n%+v\n%+v", c.text, f, again)
		}
	}
}

func TestEveryModifierIsReadByAKindThatKnowsIt(t *testing.T) {
	value := map[string]string{
		"opens": "113", "via": "jump", "from": "10.0.0.0/8", "sni": "a.net", "http-host": "a.net", "alpn": "h2", "greet": "1s", "deny": "10.0.0.0/8", "max-conns": "1",
		"max-conns-per-source": "1", "rate": "1/s", "rate-per-source": "1/s", "queue": "1s", "max-queue": "1", "schedule": "mon 01:00-02:00",
		"bandwidth-per-conn": "1KB/s", "bandwidth-per-source": "1KB/s down", "accept-proxy": "10.0.0.0/8", "source": "keep", "mark": "1", "dscp": "ef", "congestion": "cubic", "mode": "660",
		"connect": "1s", "idle": "1s", "linger": "1s", "max-lifetime": "1s", "keepalive": "1s", "for": "1s",
		"bandwidth": "1KB/s", "check": "tcp", "key": "/k", "on": "lan",
		"tls-cert": "/c", "tls-client-ca": "/ca tls-cert /c", "tls-alpn": "h2,http/1.1 tls-cert /c", "tls-acme": "a.net",
		"acme-directory": "https://a.net/dir tls-acme a.net", "acme-email": "ops@a.net tls-acme a.net", "acme-ca": "/ca tls-acme a.net",
		"target-name": "a.net target-tls", "target-ca": "/ca target-tls", "target-cert": "/c target-tls", "target-key": "/k target-tls target-cert /c",
		"weight": "3", "slow-start": "30s", "requests": "1", "replies": "none",
	}
	for _, m := range Modifiers() {
		if m.Help == "" || strings.HasSuffix(m.Help, ".") || len(m.Kinds) == 0 {
			t.Errorf("%s: a modifier has a help without a full stop, and kinds", m.Word)
		}
		if m.Word == "may" || m.Word == "tls-key" {
			continue // they stand behind another one
		}
		v := value[m.Word]
		if v == "" && len(m.Choices) > 0 {
			v = m.Choices[0]
		}
		for _, k := range m.Kinds {
			base := map[fairlead.Kind]string{
				fairlead.KindLocal: "1 to a via p", fairlead.KindRemote: "p:1 to a", fairlead.KindDynamic: "1", fairlead.KindMap: "1",
				fairlead.KindRouter: "on lan", fairlead.KindTrigger: "1 opens 2", fairlead.KindHelper: "lan:1/udp to a",
				fairlead.KindShare: "lan to wan", fairlead.KindSSHD: "on :1", fairlead.KindTunnel: "on :1", fairlead.KindOpen: "1",
			}[k]
			if base == "" {
				base = "1 to a"
			}
			secret, _ := secretWord(k)
			if m.Word == "user" || m.Word == "agent" {
				v = "x " + secret + " y"
			}
			text := string(k) + " " + base
			if !strings.Contains(text, " "+m.Word+" ") {
				text += " " + strings.TrimSpace(m.Word+" "+v)
			}
			f := parseOne(t, text)
			if !strings.Contains(f.Expr, m.Word) {
				t.Errorf("%s: printed without the modifier: %s", text, f.Expr)
			}
		}
	}
}

func TestArgumentsAreWordsAndFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"forward", ":8080", "to", "10.0.0.4:80", "--idle", "2s", "--from=10.0.0.0/8"}, "forward :8080 to 10.0.0.4:80 from 10.0.0.0/8 idle 2s"},
		{[]string{"forward", "8080", "to", "a:1,", "b:2", "--check", "tcp", "every", "5s"}, "forward 8080 to a:1, b:2 check tcp every 5s"},
		{[]string{"forward", "unix:/my path", "to", "a:1"}, `forward "unix:/my path" to a:1`},
		{[]string{"forward 8080 to a:1 idle 2s"}, "forward 8080 to a:1 idle 2s"},
		{[]string{"dynamic", "1080", "--pac=kill-switch", "{", "user", "bob", "password", "/p", "}"}, "dynamic 1080 pac kill-switch { user bob password /p }"},
		{[]string{"sshd", "on", ":22", "{user", "to", "keys", "/a b}"}, ""},
		{[]string{"nat", "wan:1", "to", "a", "--publish"}, "nat wan:1 to a publish"},
	} {
		f, problems := ParseArgs(c.args)
		switch {
		case c.want == "" && len(problems) == 0:
			t.Errorf("%q: parsed as %s", c.args, f.Expr)
		case c.want != "" && len(problems) > 0:
			t.Errorf("%q: %s", c.args, problems[0].What)
		case c.want != "" && f.Expr != c.want:
			t.Errorf("%q\n got %s\nwant %s", c.args, f.Expr, c.want)
		}
	}
}

// TestMistakesAreExplained is the table of what people write and what they
// are told: the code, where, how wide, what, and what was probably meant.
func TestMistakesAreExplained(t *testing.T) {
	for _, c := range []struct {
		text   string
		code   fairlead.Code
		mark   string // what the excerpt points at; "" where something is missing
		col    int
		what   string
		hint   string
		inFile bool
	}{
		{"forward 80 to x idel 5s", "FL-301", "idel", 17, `unknown modifier "idel"`, `did you mean "idle"?`, false},
		{"forward 80 to x --idel=5s", "FL-301", "--idel=5s", 17, `unknown modifier "--idel=5s"`, `did you mean "--idle"?`, false},
		{"forward 80 to x hairpin", "FL-301", "hairpin", 17, `unknown modifier "hairpin"`, "nat does that by itself, leave it out", false},
		{"forward 80 ot x", "FL-301", "ot", 12, `unknown modifier "ot"`, `did you mean "to"?`, false},
		{"natt wan:80 to x", "FL-302", "natt", 1, `unknown kind "natt"; kinds are forward, nat, open, local, remote, dynamic, map, router, trigger, helper, share, sshd, tunnel`, `did you mean "nat"?`, false},
		{"forward :8080 -> x", "FL-304", "->", 15, `"->" is written "to" here`, `write "to"`, false},
		{"forward :8080 => x", "FL-304", "=>", 15, `"=>" is written "to" here`, `write "to"`, false},
		{"forward 1 to 2001:db8::10:443", "FL-305", "2001:db8::10:443", 14, "2001:db8::10:443 is ambiguous; write [2001:db8::10]:443", "or [2001:db8::10:443] for all of it", false},
		{"forward 1 to ::1", "FL-305", "::1", 14, "::1 is ambiguous; write [::]:1", "or [::1] for all of it", false},
		{"forward 1 to fe80::a", "FL-305", "fe80::a", 14, "an IPv6 address needs brackets; write [fe80::a]", "", false},
		{"forward 2001:db8::1:80 to x", "FL-305", "2001:db8::1:80", 9, "2001:db8::1:80 is ambiguous; write [2001:db8::1]:80", "or [2001:db8::1:80] for all of it", false},
		{"forward 1 to x tls-key /k", "FL-307", "tls-key", 16, `"tls-key" stands behind its tls-cert`, "tls-cert FILE tls-key /k", false},
		{"forward 1 to x target-ca /ca", "FL-320", "", 29, `target-ca says nothing without "target-tls"`, "target-tls", false},
		{"forward 1 to x tls-acme *.a.net", "FL-308", "*.a.net", 25, `"*.a.net" is not a name to get a certificate for`, "a name for all others needs a challenge over DNS, which is not supported", false},
		{"forward 1 to x front sni", "FL-320", "", 25, `front sni chooses among targets, and none has "sni" behind it`, "to x sni NAME", false},
		{"forward 1 to x sni a.net front protocol", "FL-320", "", 40, `front protocol chooses among targets, and none has "protocol" behind it`, "to x protocol ssh|tls|http|other", false},
		{"forward 1 front alpn", "FL-320", "", 21, "front alpn chooses among targets, and there is none", "to HOST:PORT alpn NAME", false},
		{"forward 1 protocol ssh to x", "FL-307", "protocol", 11, `"protocol" stands behind its target`, "to TARGET protocol ssh", false},
		{"forward 1 to x protocol shh", "FL-308", "shh", 25, `"shh" is nothing for protocol, which knows ssh, tls, http, other`, `did you mean "ssh"?`, false},
		{"forward 1 to x sni www.*.net", "FL-308", "www.*.net", 20, `"www.*.net" is not a name that a client can ask for`, "*.example.net is every name below example.net", false},
		{"forward 1 to x sni bücher.net", "FL-308", "bücher.net", 20, `"bücher.net" is not a name in the form in which clients ask for it`, "its ASCII form, which begins with xn--", false},
		{"forward 1 to x sni a.net:443", "FL-308", "a.net:443", 20, `"a.net:443" is not a name that a client can ask for`, `did you mean "a.net"? The port makes no difference`, false},
		{"forward 1 to x sni 10.0.0.1", "FL-308", "10.0.0.1", 20, `"10.0.0.1" is not a name that a client can ask for`, "www.example.net, or *.example.net", false},
		{"forward 1 to x greet 3", "FL-308", "3", 22, `"3" is not a duration`, "did you mean 3s?", false},
		{"forward 65536 to x", "FL-306", "65536", 9, `"65536" is not a port; ports are 1 to 65535`, "", false},
		{"forward 0 to x", "FL-306", "0", 9, `"0" is not a port; ports are 1 to 65535`, "", false},
		{"forward -1 to x", "FL-306", "-1", 9, `"-1" is not a port; ports are 1 to 65535`, "", false},
		{"forward 0x50 to x", "FL-306", "0x50", 9, `"0x50" is not a port; ports are 1 to 65535`, "did you mean 80?", false},
		{"forward 080 to x", "FL-306", "080", 9, `"080" is not a port; ports are 1 to 65535`, "did you mean 80?", false},
		{"forward ٣ to x", "FL-306", "٣", 9, `"٣" is not a port; ports are 1 to 65535`, "", false},
		{"forward htps to x", "FL-306", "htps", 9, `"htps" is not a port; ports are 1 to 65535`, `did you mean "https"?`, false},
		{"forward 10-5 to x", "FL-306", "10-5", 9, `"10-5" runs backwards`, "did you mean 5-10?", false},
		{"forward 80,x9 to x", "FL-306", "x9", 12, `"x9" is not a port; ports are 1 to 65535`, "", false},
		{"forward a: to x", "FL-306", "", 11, "a port is missing", "a:PORT", false},
		{"forward 8080:80", "FL-307", "8080:80", 9, `"8080:80" has two ports and no target`, "8080 to HOST:80", false},
		{"forward 127.0.0.1:8080:80", "FL-307", "127.0.0.1:8080:80", 9, `"127.0.0.1:8080:80" has two ports and no target`, "127.0.0.1:8080 to HOST:80", false},
		{"forward 1 to a:b:c", "FL-307", "a:b:c", 14, `"a:b:c" has too many colons`, "HOST:PORT, or [ADDRESS]:PORT for IPv6", false},
		{"forward 1 to [::1", "FL-307", "[::1", 14, "a bracket is not closed", "[ADDRESS]:PORT", false},
		{"forward 1 to x idle 5s,", "FL-307", ",", 23, "this comma separates nothing", "a comma stands between targets, and within lists of ports", false},
		{`forward 1 to "x`, "FL-307", `"x`, 14, "a quote is not closed", `a quoted word ends with " on the same line`, false},
		{"nat 1 from 10.0.0.0/8 to x", "FL-307", "from", 7, `"from" stands behind its target`, "to TARGET from 10.0.0.0/8", false},
		{"nat 1 to x from 10.0.0.0/8, 10.1.0.0/16", "FL-307", "10.1.0.0/16", 29, `a comma begins another target, and "10.1.0.0/16" is none`, "from 10.1.0.0/16", false},
		{"forward 1 to x weight 0", "FL-308", "0", 23, `"0" is not a weight`, "a number from 1 to 1000", false},
		{"forward 1 to x weight 2 weight 3", "FL-309", "weight", 25, `"weight" is said twice for x`, "", false},
		{"forward 1 to x drain drain", "FL-309", "drain", 22, `"drain" is said twice for x`, "", false},
		{"forward 1 backup to x", "FL-307", "backup", 11, `"backup" stands behind its target`, "to TARGET backup", false},
		{"forward 1 to x resolve some", "FL-308", "some", 24, `"some" is nothing for resolve, which knows all`, "", false},
		{"forward 1 to x check send a", "FL-320", "", 28, "a check that sends has to say what it expects", "check send TEXT expect TEXT", false},
		{`forward 1 to x check expect a\q`, "FL-308", `a\q`, 29, `"\\q" is no escape`, `\r, \n, \t, \xNN, or \\ for a backslash`, false},
		{"forward 1 to x check off rise 2", "FL-308", "rise", 26, "a check that is off counts nothing", "", false},
		{"forward 1 to x check tcp every 5s every 5s", "FL-309", "every", 35, `"every" is said twice`, "", false},
		{"sshd :22", "FL-307", ":22", 6, "sshd serves on something", `sshd on ":22"`, false},
		{"map 1 to a, b", "FL-307", "to", 7, "map has one target, not 2", "", false},
		{"forward 1 to x idle 5", "FL-308", "5", 21, `"5" is not a duration`, "did you mean 5s?", false},
		{"forward 1 to x idle never", "FL-308", "never", 21, `"never" is not a duration`, `did you mean "off"?`, false},
		{"forward 1 to x connect 5x", "FL-308", "5x", 24, `"5x" is not a duration`, "write it as 500ms, 2s, 5m, 1h or 2d", false},
		{"forward 1 to x bandwidth 10mb", "FL-308", "10mb", 26, `"10mb" is not a bandwidth`, "did you mean 10MB/s?", false},
		{"forward 1 to x bandwidth 1MB/s up, 2MB/s up", "FL-309", "2MB/s", 36, "bandwidth is said twice for one direction", "", false},
		{"forward 1 to x bandwidth 1MB/s up, 2MB/s", "FL-308", "2MB/s", 36, `bandwidth is said for one direction, and "2MB/s" for both`, "2MB/s up or 2MB/s down", false},
		{"forward 1 to x schedule monday 08:00-09:00", "FL-308", "monday", 25, `"monday" is not a day`, "mon, tue, wed, thu, fri, sat or sun, or from one to another as in mon-fri", false},
		{"forward 1 to x schedule mon 08:00-25:00", "FL-308", "08:00-25:00", 29, `"08:00-25:00" is not a time of the day`, "write it as 08:00-18:00, or 22:00-06:00 into the next day; 00:00-24:00 is all of it", false},
		{"forward 1 to x schedule 08:00-08:00", "FL-308", "08:00-08:00", 25, `"08:00-08:00" is not a time of the day`, "write it as 08:00-18:00, or 22:00-06:00 into the next day; 00:00-24:00 is all of it", false},
		{"forward 1 to x schedule mon", "FL-320", "", 24, `"schedule" needs a value`, "schedule [DAYS] HH:MM-HH:MM", false},
		{"forward 1 to x rate 10", "FL-308", "10", 21, `"10" is not a rate`, `did you mean "10/s"?`, false},
		{"forward 1 to x max-conns -5", "FL-308", "-5", 26, `"-5" is not a count`, "a whole number from 1 on", false},
		{"forward 1 to x deny 10.0.0.0/33", "FL-308", "10.0.0.0/33", 21, `"10.0.0.0/33" is not a network`, "10.0.0.0/8, 2001:db8::/32, or one address", false},
		{"forward 1 to x policy failovr", "FL-308", "failovr", 23, `"failovr" is nothing for policy, which knows failover, round-robin, least-conn, random, source-hash`, `did you mean "failover"?`, false},
		{"forward 1/udb to x", "FL-308", "udb", 11, `"udb" is not a network; networks are tcp, udp and tcp+udp`, `did you mean "udp"?`, false},
		{"forward 1 to 10.0.0.256", "FL-308", "10.0.0.256", 14, `"10.0.0.256" is not an address`, "", false},
		{"forward 300.0.0.1:1 to x", "FL-308", "300.0.0.1", 9, `"300.0.0.1" is not an address`, "", false},
		{"forward 1 to ex_ample-.n!et", "FL-308", "ex_ample-.n!et", 14, `"ex_ample-.n!et" is not the name of a host`, "", false},
		{"helper lan:10.0.0.3:5000/udp to x", "FL-308", "10.0.0.3", 12, "10.0.0.3 is no multicast group", "239.0.0.0 to 239.255.255.255; broadcasts of an interface: lan:5000", false},
		{"helper lan:239.0.0.3:0/udp to x", "FL-306", "0", 22, `"0" is not a port; ports are 1 to 65535`, "", false},
		{"helper lan:67 to x", "FL-308", "lan:67", 8, "helper passes on UDP only", `did you mean "lan:67/udp"?`, false},
		{"forward 1 to x idle 5s idle 6s", "FL-309", "idle", 24, `"idle" is said twice`, "", false},
		{"forward 80,79-81 to x", "FL-309", "80,79-81", 9, "port 80 stands twice in the list", "", false},
		{"forward 1 to x to y", "FL-309", "to", 16, `"to" is said twice`, "several targets are separated by commas", false},
		{"forward 1 to x { idle 5s", "FL-313", "{", 16, "the block is not closed", "} is missing", false},
		{"forward 1 to x }", "FL-313", "}", 16, "this brace closes nothing", "", false},
		{"forward 1 to x { { idle 5s } }", "FL-313", "{", 18, "a block cannot stand in a block", "", false},
		{"forward 1 to x { idle 5s } linger 5s", "FL-313", "linger", 28, "nothing may follow the end of a block", "write it before the {, or within", false},
		{"forward 90-93 to q:1-3", "FL-318", "q:1-3", 18, "4 ports cannot lead to 3 ports", "as many ports, or a single one", false},
		{"forward 90 to q:1-3", "FL-318", "q:1-3", 15, "one port cannot lead to 3 ports", "as many ports, or a single one", false},
		{"nat 1 to x pac", "FL-319", "pac", 12, `"pac" does not go with nat`, "", false},
		{"dynamic 1 to x", "FL-319", "to", 11, "dynamic has no target", "dynamic LISTEN [via PLACE]", false},
		{"forward 80", "FL-320", "", 11, "forward needs a target", "to HOST:PORT", false},
		{"forward 80 to", "FL-320", "", 14, "a target is missing", "to HOST:PORT", false},
		{"forward 80 to a,", "FL-320", "", 17, "a target is missing", "to HOST:PORT", false},
		{"forward 80 to :80", "FL-320", "", 15, "a target needs a host", "localhost:80", false},
		{"forward 80 to 9000", "FL-320", "9000", 15, "a target needs a host", "localhost:9000", false},
		{"forward", "FL-320", "", 8, "forward does not say where to listen", "forward LISTEN to TARGET{, TARGET}", false},
		{"forward to x", "FL-320", "", 8, "forward does not say where to listen", "forward LISTEN to TARGET{, TARGET}", false},
		{"", "FL-320", "", 1, "a sentence begins with its kind", "KIND LISTEN to TARGET", false},
		{"forward 1 to x idle", "FL-320", "", 20, `"idle" needs a value`, "idle DURATION|off", false},
		{"local 1 to x", "FL-320", "", 13, "local does not say from where to dial", "via PLACE; without a place it is a forward", false},
		{"remote 8443 to x:1", "FL-320", "8443", 8, "remote does not say at which place to listen", "PLACE:8443", false},
		{"trigger 1", "FL-320", "", 10, "trigger does not say what it opens", "opens PORTS", false},
		{"router", "FL-320", "", 7, "router does not say where it serves", "router on INTERFACE", false},
		{"sshd on :1 { user a password b }", "FL-320", "password", 21, `user "a" needs a keys`, "user a keys FILE", false},
		{"dynamic 1 may listen 80", "FL-307", "may", 11, `"may" stands behind its user`, "user NAME ... may listen", false},
		{"forward 8080 to localhost:8080", "FL-220", "8080", 9, "the forward leads to itself: localhost:8080 is where it listens", "", false},
		{"forward :8080 to 127.0.0.1", "FL-220", ":8080", 9, "the forward leads to itself: 127.0.0.1:8080 is where it listens", "", false},
		{"forward unix:/a to unix:/a", "FL-220", "unix:/a", 9, "the forward leads to itself: unix:/a is where it listens", "", false},
		{"forward 80 to a\u00a0b", "FL-315", "\u00a0", 16, "byte 16 is a no-break space (U+00A0)", "", false},
		{"forward 80 to a\x00", "FL-315", "?", 16, "byte 16 is a NUL byte", "", false},
		{"forward 80 to a\x1b[31m", "FL-315", "?", 16, "byte 16 is a control character (0x1B)", "", false},
		{"forward 80 to a\xff", "FL-315", "?", 16, "byte 16 is a byte that is not UTF-8 (0xFF)", "", false},
		{"forward 80 to \u202ea", "FL-315", "???", 15, "byte 15 is a character that turns the direction of writing (U+202E)", "", false},
		{"x: forward 80 to a via user@host", "FL-312", "user@host", 24, `"user@host" is not the name of a place`, "", true},
		{"x: forward 80 to a via jmp", "FL-312", "jmp", 24, `unknown place "jmp"`, `did you mean "jump"?`, true},
		{"x: remote jmp:80 to a:1", "FL-312", "jmp", 11, `unknown place "jmp"`, `did you mean "jump"?`, true},
		{"forward 80 to a", "FL-320", "forward", 1, "a forward in a file begins with its name", "NAME: forward ...", true},
		{"web:forward 80 to a", "FL-307", "web:forward", 1, "a blank is missing behind the colon", "web: forward", true},
		{"web : forward 80 to a", "FL-307", ":", 5, "the colon stands right behind the name", "web:", true},
		{"web forward 80 to a", "FL-307", "web", 1, "a colon is missing behind the name", "web:", true},
		{"plac x ssh y", "FL-301", "plac", 1, `unknown directive "plac"`, `did you mean "place"?`, true},
		{"upstream x ssh y", "FL-301", "upstream", 1, `unknown directive "upstream"`, `did you mean "place"?`, true},
		{"idle 5s", "FL-301", "idle", 1, `"idle" is a modifier; a line begins with NAME: or with a directive`, "it belongs behind a forward, or into defaults { }", true},
		{"forward: forward 80 to a", "FL-317", "forward", 1, `"forward" is a word of the grammar, not a name`, "", true},
		{"1a: forward 80 to a", "FL-317", "1a", 1, `"1a" is not a name`, `a letter, then letters, digits, "-", "_" and "."`, true},
		{"place x shh y", "FL-308", "shh", 9, `"shh" is no type of place, which are ssh, fairlead, router, socks5, socks4, http, https`, `did you mean "ssh"?`, true},
		{"place x ssh y keey z", "FL-301", "keey", 15, `unknown option "keey" of a place of type ssh`, `did you mean "key"?`, true},
		{"place x ssh", "FL-320", "", 12, `"ssh" needs a value`, "ssh [USER@]HOST[:PORT]", true},
		{"version 2", "FL-308", "2", 9, `version "2" is not known; this program reads version 1`, "", true},
		{"wan", "FL-320", "", 4, `"wan" needs a value`, "wan INTERFACE", true},
		{"defaults idle 5s", "FL-313", "idle", 10, "defaults stand in a block", "defaults { idle 5m }", true},
		{"defaults { via jump }", "FL-319", "via", 12, `"via" cannot be a default`, "", true},
	} {
		var problems []*fairlead.Problem
		if c.inFile {
			_, problems = Parse("f.conf", []byte(c.text+"\nplace jump ssh a@b\n"))
		} else {
			_, problems = ParseSentence(c.text)
		}
		if len(problems) != 1 {
			t.Errorf("%q: %d problems, want 1", c.text, len(problems))
			for _, p := range problems {
				t.Logf("   %s %s", p.Code, p.What)
			}
			continue
		}
		p := problems[0]
		if p.Code != c.code || p.What != c.what {
			t.Errorf("%q\n got %s %s\nwant %s %s", c.text, p.Code, p.What, c.code, c.what)
		}
		if p.At == nil {
			t.Errorf("%q: shows nothing", c.text)
			continue
		}
		if p.At.Pos.Col != c.col || p.At.Hint != c.hint || p.At.Pos.Line != 1 {
			t.Errorf("%q: at %d:%d hint %q, want column %d hint %q", c.text, p.At.Pos.Line, p.At.Pos.Col, p.At.Hint, c.col, c.hint)
		}
		if c.mark == "" {
			if p.At.Width != 1 {
				t.Errorf("%q: width %d, want 1", c.text, p.At.Width)
			}
		} else if from := p.At.Pos.Col - 1; from+p.At.Width > len(p.At.Text) || p.At.Text[from:from+p.At.Width] != c.mark && !strings.Contains(c.mark, "\u00a0") {
			t.Errorf("%q: points at %d bytes from %d of %q, want %q", c.text, p.At.Width, p.At.Pos.Col, p.At.Text, c.mark)
		}
	}
}

func TestShellThatTookTheArrowIsTold(t *testing.T) {
	_, problems := ParseArgs([]string{"forward", ":8080", "-"})
	if len(problems) != 1 || problems[0].Code != fairlead.CodeShellArrow {
		t.Fatalf("got %v", problems)
	}
	p := problems[0]
	if want := `"->" was not received: your shell took it and what follows it`; p.What != want {
		t.Errorf("got %s, want %s", p.What, want)
	}
	if len(p.Fixes) != 1 || p.Fixes[0].Command != "fairlead forward :8080 to HOST:PORT" {
		t.Errorf("got %v", p.Fixes)
	}
}

func TestSuggestedCommandsParse(t *testing.T) {
	for _, text := range []string{"forward 8080:80", "forward 127.0.0.1:8080:80"} {
		_, problems := ParseSentence(text)
		for _, fix := range problems[0].Fixes {
			parseOne(t, strings.TrimPrefix(fix.Command, "fairlead "))
		}
	}
}
