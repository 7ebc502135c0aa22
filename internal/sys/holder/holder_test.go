package holder

import (
	"net/netip"
	"testing"
	"time"
)

func TestHolderInWords(t *testing.T) {
	for _, tt := range []struct {
		h    Holder
		want string
	}{
		{Holder{PID: 812, Name: "nginx", UID: 33, User: "www-data", Unit: "nginx.service", Age: 76*time.Hour + 5*time.Minute},
			"nginx, pid 812, user www-data, unit nginx.service, for 3 d 4 h"},
		{Holder{PID: 30473, Name: "python3", UID: 1000, User: "ann", Unit: "web.service", UserUnit: true, Age: 61 * time.Second},
			"python3, pid 30473, user ann, user unit web.service, for 1 min"},
		{Holder{PID: 7, Name: "x", UID: 4711}, "x, pid 7, uid 4711, for 0 s"},
		{Holder{PID: 7, Name: "curl", UID: 0, User: "root", Connected: true, Age: time.Second},
			"curl, pid 7, user root, for 1 s, with a connection from that port"},
		{Holder{PID: 2210, Name: "docker-proxy", User: "root", Unit: "docker.service", Container: Container{Runtime: "docker", ID: "3f2a9c01b7de"}},
			"container 3f2a9c01b7de (docker-proxy, pid 2210)"},
		{Holder{PID: 2210, Name: "docker-proxy", Container: Container{Runtime: "docker", Target: netip.MustParseAddrPort("172.17.0.2:80")}},
			"container at 172.17.0.2:80 (docker-proxy, pid 2210)"},
		{Holder{PID: 9, Name: "conmon", Container: Container{ID: "3f2a9c01b7de", Name: "web"}},
			"container web 3f2a9c01b7de (conmon, pid 9)"},
		{Holder{PID: 9, Name: "nginx", Container: Container{Runtime: "lxc", Name: "web"}}, "container web (nginx, pid 9)"},
		{Holder{UID: 26, User: "postgres"}, "a program of user postgres"},
		{Holder{UID: 4711}, "a program of uid 4711"},
		{Holder{UID: -1}, "a program of another user"},
		{Holder{Nobody: true}, "the kernel itself, or a process in another PID namespace"},
	} {
		if got := tt.h.String(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestSpansAsPeopleSayThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                 "0 s",
		59 * time.Second:             "59 s",
		90 * time.Second:             "1 min",
		59*time.Minute + time.Second: "59 min",
		time.Hour:                    "1 h",
		time.Hour + 20*time.Minute:   "1 h 20 min",
		24 * time.Hour:               "1 d",
		800*time.Hour + time.Minute:  "33 d 8 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func local(addr string, v6only bool) bound {
	return bound{netip.MustParseAddr(addr).Unmap(), v6only}
}

func TestWhichAddressesConflict(t *testing.T) {
	for _, tt := range []struct {
		a, b bound
		want bool
	}{
		{local("127.0.0.1", false), local("127.0.0.1", false), true},
		{local("127.0.0.1", false), local("127.0.0.2", false), false},
		{local("0.0.0.0", false), local("127.0.0.1", false), true},
		{local("0.0.0.0", false), local("::1", false), false},
		{local("::", false), local("127.0.0.1", false), true},
		{local("::", false), local("0.0.0.0", false), true},
		{local("::", true), local("127.0.0.1", false), false},
		{local("::", true), local("0.0.0.0", false), false},
		{local("::", true), local("::1", false), true},
		{local("::", true), local("::", false), true},
		{local("::1", false), local("::1", false), true},
		{local("::1", false), local("::2", false), false},
		{local("::ffff:10.0.0.1", false), local("10.0.0.1", false), true},
		{local("fe80::1", false), local("fe80::1%eth0", false), true},
	} {
		if tt.a.conflicts(tt.b) != tt.want || tt.b.conflicts(tt.a) != tt.want {
			t.Errorf("%v and %v: want %v", tt.a, tt.b, tt.want)
		}
	}
}

func TestWhichSocketsCover(t *testing.T) {
	for _, tt := range []struct {
		socket bound
		at     string
		want   bool
	}{
		{local("0.0.0.0", false), "10.0.0.1", true},
		{local("0.0.0.0", false), "::1", false},
		{local("::", false), "10.0.0.1", true},
		{local("::", true), "10.0.0.1", false},
		{local("::", true), "::1", true},
		{local("10.0.0.1", false), "10.0.0.1", true},
		{local("10.0.0.1", false), "127.0.0.1", false},
		{local("::1", false), "::1", true},
		{local("::1", false), "127.0.0.1", false},
	} {
		if got := tt.socket.covers(netip.MustParseAddr(tt.at)); got != tt.want {
			t.Errorf("%v covers %s: %v", tt.socket, tt.at, got)
		}
	}
}

func TestUnknownNetworkIsRefused(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:80")
	for _, network := range []string{"", "tc", "tcp5", "tcp44", "unix", "sctp"} {
		if _, err := Find(network, at); err == nil {
			t.Errorf("Find took %q", network)
		}
		if _, err := Listening(network); err == nil {
			t.Errorf("Listening took %q", network)
		}
	}
}
