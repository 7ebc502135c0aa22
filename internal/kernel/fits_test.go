package kernel

import (
	"strings"
	"testing"

	"fairlead"
	"fairlead/internal/config"
)

// TestFitsNamesWhatIsNotKept refuses sentences that rules cannot keep, and says
// which word it is.
func TestFitsNamesWhatIsNotKept(t *testing.T) {
	k := New(Config{})
	for _, c := range []struct{ text, says string }{
		{"nat wan:80 to 10.0.0.4", ""},
		{"nat wan:80 to web.lan:8080 by kernel", ""},
		{"nat wan:80 to 10.0.0.4 from 10.0.0.0/8, 10.0.0.5 deny 10.1.0.0/16 max-conns 5 rate 5/s log masquerade", ""},
		{"nat wan:80 to 10.0.0.4 weight 3, 10.0.0.5 policy random", ""},
		{"nat wan:80 to 10.0.0.4, 10.0.0.5", "FL-311 policy failover"},
		{"nat wan:80 to 10.0.0.4, 10.0.0.5 policy failover", "FL-311 policy failover"},
		{"nat wan:80 to 10.0.0.4, 10.0.0.5 policy least-conn", "FL-311 least-conn"},
		{"nat wan:80 to 10.0.0.4 weight 2, 10.0.0.5", "FL-311 weight"},
		{"nat wan:80 to 10.0.0.4 from 10.0.0.0/8 weight 2, 10.0.0.5", "FL-311 weight"},
		{"nat wan:80 to 10.0.0.4, 10.0.0.5 backup policy random", "FL-311 backup"},
		{"nat wan:80 to 10.0.0.4, self:81 policy random", "FL-311 self"},
		{"nat wan:80 to 10.0.0.4 drain", "FL-221 drained"},
		{"nat wan:80 to 10.0.0.4 check tcp", "FL-311 check"},
		{"nat wan:80 to 10.0.0.4 idle 5s", "FL-311 idle"},
		{"nat wan:80 to 10.0.0.4 bandwidth 1MB/s", "FL-311 bandwidth"},
		{"nat wan:80 to 10.0.0.4 mark 5", "FL-311 mark"},
		{"nat wan:80 to 10.0.0.4 publish", "FL-311 publish"},
		{"nat wan:80 to 10.0.0.4 slow-start 5s", "FL-311 slow-start"},
		{"nat wan:80 to 10.0.0.4 by relay", "FL-311 relay"},
		{"nat wan:80 to self:8080", ""},
		{"nat wan:80 to self:8080 masquerade", "FL-311 masquerade"},
		{"nat wan:80 to self", "FL-220 itself"},
		{"nat wan:80 to 127.0.0.1:8080", "FL-607 127.0.0.1"},
		{"nat wan:80 to [::1]:8080", "FL-607 ::1"},
		{"nat wan:80 to localhost:8080", "FL-607 localhost"},
		{"nat 80 to 10.0.0.4:8080", "FL-607 loopback"},
		{"nat 80 to web.lan:8080", "FL-607 loopback"},
		{"nat 80 to self:8080", ""},
		{"nat 80 to 127.0.0.1:8080", ""},
		{"nat wan:80 to [fe80::1]:80", "FL-311 link"},
		{"nat wan:80 to 224.0.0.1", "FL-311 no host"},
		{"nat wan:80 to 10.0.0.4 source keep", ""},
		{"nat wan:80 to 10.0.0.4 source 10.0.0.1", ""},
		{"nat wan:80 to 10.0.0.4 source 10.0.0.1, 10.0.0.2", "FL-311 several"},
		{"nat wan:80 to 10.0.0.4 source eth0", "FL-311 interface"},
		{"nat wan:80 to 10.0.0.4 source keep masquerade", "FL-311 different"},
		{"nat lo:80 to self:81", "FL-311 itself"},
		{"forward :80 to 10.0.0.4", "FL-310 by auto"},
		{"forward :80 to 10.0.0.4 by auto", ""},
		{"forward :80 to 10.0.0.4 by kernel rate 5/s", ""},
		{"forward 80 to 10.0.0.4 by auto", "FL-607 loopback"},
		{"forward :80 to unix:/run/x by auto", "FL-311 unix"},
		{"forward unix:/run/x to 10.0.0.4:80 by auto", "FL-311 unix"},
		{"forward :80 to 10.0.0.4 via jump by auto", "FL-311 via"},
		{"forward :80 to 10.0.0.4 proxy-protocol v2 by auto", "FL-311 proxy-protocol"},
		{"forward :80 to 10.0.0.4 tls-cert /x.pem by auto", "FL-311 tls-cert"},
		{"forward :80 to 10.0.0.4 target-tls by auto", "FL-311 target-tls"},
		{"forward :80 to 10.0.0.4 sni a.net, 10.0.0.5 by auto", "FL-311 sni"},
		{"forward :80 to _http._tcp.a.net by auto", "FL-311 service record"},
		{"forward :80 to a.net resolve all by auto", "FL-311 resolve"},
		{"forward :80 to 10.0.0.4 connect 5s by auto", "FL-311 connect"},
		{"forward :80 to 10.0.0.4 linger 5s by auto", "FL-311 linger"},
		{"forward :80 to 10.0.0.4 max-lifetime 5m by auto", "FL-311 max-lifetime"},
		{"forward :80 to 10.0.0.4 keepalive 5s by auto", "FL-311 keepalive"},
		{"forward :80 to 10.0.0.4 max-conns 5 queue 5s by auto", "FL-311 queue"},
		{"forward :80 to 10.0.0.4 schedule 08:00-18:00 by auto", "FL-311 schedule"},
		{"forward :80 to 10.0.0.4 dscp ef by auto", "FL-311 dscp"},
		{"forward :80 to 10.0.0.4 congestion cubic by auto", "FL-311 congestion"},
		{"forward :80 to 10.0.0.4 engine loops by auto", "FL-311 engine"},
		{"forward :80/udp to 10.0.0.4 replies 1 by auto", "FL-311 replies"},
		{"forward :80/udp to 10.0.0.4 requests 1 by auto", "FL-311 requests"},
		{"forward :80 to 10.0.0.4 bandwidth-per-conn 1MB/s by auto", "FL-311 bandwidth"},
		{"forward :80 to 10.0.0.4 accept-proxy 10.0.0.0/8 by auto", "FL-311 accept-proxy"},
		{"dynamic 1080", "FL-310 dynamic"},
	} {
		f, problems := config.ParseSentence(c.text)
		if len(problems) > 0 {
			t.Errorf("%s: %v", c.text, problems[0])
			continue
		}
		err := k.Fits(f)
		code, word, _ := strings.Cut(c.says, " ")
		switch p := fairlead.AsProblem(err); {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.says != "" && (err == nil || string(p.Code) != code || !strings.Contains(p.What, word)):
			t.Errorf("%s: %v, want %s", c.text, err, c.says)
		}
	}
}
