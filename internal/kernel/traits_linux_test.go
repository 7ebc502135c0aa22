package kernel

import (
	"strings"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
)

// Forwards that lead the same ports to the same place through different doors.
func TestForwardsToTheSamePortsAreCarriedTogether(t *testing.T) {
	g := newTown(t)
	for _, pair := range [][2]string{
		{"nat wan:80-90 to 192.168.1.10 masquerade", "nat lan:85-95 to 192.168.1.10 masquerade"},
		{"nat wan:80-90 to 192.168.1.10 masquerade", "nat lan:1-65535 to 192.168.1.10 masquerade"},
		{"nat wan:80-90 to 192.168.1.10:8080 source keep", "nat lan:85-95 to 192.168.1.10:8080 source keep"},
		{"nat wan:8050-8090 to 192.168.1.10 masquerade", "nat lan:8000-8100 to 192.168.1.10:8080 masquerade"},
		{"nat wan:8000-8100 to 192.168.1.10:8080 masquerade", "nat lan:8050-8090 to 192.168.1.10 masquerade"},
		{"nat wan:8050-8060 to 192.168.1.10:8085 masquerade", "nat lan:8050-8090 to 192.168.1.10 masquerade"},
		{"nat wan:85 to 192.168.1.10 masquerade", "nat lan:80-90 to 192.168.1.10 masquerade"},
		{"nat wan:6000-6010/udp to 192.168.1.10 alg sip", "nat lan:6005-6015/udp to 192.168.1.10 alg sip"},
		{"nat wan:6000-6010/udp to 192.168.1.10:5060 alg sip", "nat lan:5050-6005/udp to 192.168.1.10 alg sip"},
		{"nat wan:6000-6010/udp to self:5060-5070 alg sip", "nat lan:6000-6010/udp to self:5060-5070 alg sip"},
		{"nat wan:2121 to [2001:db8:2::10]:21 alg ftp", "nat lan:2121 to [2001:db8:2::10]:21 alg ftp masquerade"},
	} {
		for _, st := range g.carry(pair[0], pair[1], "nat wan:7777 to 192.168.1.20") {
			if st.State != fairlead.Listening || st.Problem != nil && !strings.Contains(st.Problem.What, "holds for both") {
				t.Errorf("%s; %s: %s: %v %v", pair[0], pair[1], st.Forward.Expr, st.State, st.Problem)
			}
		}
	}
}

func TestForwardsThatDisagreeOfTheSameConnectionsAreRefused(t *testing.T) {
	for _, c := range []struct{ first, second, problem string }{
		{"nat wan:80 to 192.168.1.10 masquerade", "nat lan:80 to 192.168.1.10 source keep", `"first" leads port 80 to 192.168.1.10:80, too, and says "masquerade" where this one says "source keep"`},
		{"nat wan:80-90 to 192.168.1.10 masquerade", "nat lan:85 to 192.168.1.10 source keep", `says "masquerade" where this one says "source keep"`},
		{"nat wan:80-90 to 192.168.1.10 masquerade", "nat lan:85-95 to 192.168.1.10 source 192.168.1.1", `says "masquerade" where this one says "source 192.168.1.1"`},
		{"nat wan:85/tcp+udp to [2001:db8:2::10] masquerade", "nat lan:80-90/udp to [2001:db8:2::10] source keep", `to [2001:db8:2::10]:80-90, too`},
		{"nat wan:21 to 192.168.1.10 alg ftp", "nat lan:21 to 192.168.1.10 alg sip", `says "alg ftp" where this one says "alg sip"`},
		{"nat wan:6000-6010 to self:21 alg ftp", "nat lan:6000 to self:21 alg sip", `leads port 6000 to self:21, too`},
		// Who says nothing is told.
		{"nat lan:80 to 192.168.1.10", "nat wan:80 to 192.168.1.10 source keep", `"second" leads port 80 to 192.168.1.10:80, too, and its "source keep" holds for both`},
		{"nat wan:21 to 192.168.1.10 alg ftp", "nat lan:21 to 192.168.1.10", `its "alg ftp" holds for both`},
	} {
		first, second := sentence(t, "first", c.first), sentence(t, "second", c.second)
		p := compile([]*fairlead.Forward{first, second}, testWorld())
		told, other := &p.parts[1], &p.parts[0]
		if strings.Contains(c.problem, "second") {
			told, other = other, told
		}
		if other.problem != nil || told.problem == nil || !strings.Contains(told.problem.What, c.problem) {
			t.Errorf("%s; %s: %v, %v", c.first, c.second, other.problem, told.problem)
			continue
		}
		text := p.table.Text()
		if warned := strings.Contains(c.problem, "holds for both"); warned != told.problem.Warning || !warned && strings.Contains(text, told.f.Name) ||
			!warned && (len(told.bound) > 0 || strings.Contains(text, "lan0 . ")) {
			t.Errorf("%s; %s: warning %t, bound %v\n%s", c.first, c.second, told.problem.Warning, told.bound, text)
		}
	}
}

// Ports that are not the forward's own have none of its words, whatever the
// kernel's intervals hold.
func TestARangeSpeaksForItsOwnPortsAlone(t *testing.T) {
	g := newTown(t, "nat wan:8050-8060/tcp+udp to 192.168.1.10:8055 masquerade", "nat wan:8061/tcp+udp to 192.168.1.10:8055")
	newDesk(t, g.Inside, "192.168.1.10:8055")
	for _, network := range []string{"tcp", "udp"} {
		g.said(g.Outside, network, "203.0.113.1:8056", lab.LAN4, "inside")
		g.said(g.Outside, network, "203.0.113.1:8061", lab.Outside4, "inside")
	}
}
