package sniff

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequestsOfClientsAreRead(t *testing.T) {
	want := map[string]Head{
		"curl-http":    {Protocol: "http/1.1", Method: "GET", Target: "/a?b", Host: "www.example.com"},
		"curl-http10":  {Protocol: "http/1.0", Method: "GET", Target: "/", Host: "127.0.0.1"},
		"curl-h2":      {Protocol: "h2"},
		"curl-upgrade": {Protocol: "http/1.1", Method: "GET", Target: "/", Host: "localhost"},
		"curl-proxy":   {Protocol: "http/1.1", Method: "GET", Target: "http://WWW.Example.com./x", Host: "www.example.com"},
		"curl-connect": {Protocol: "http/1.1", Method: "CONNECT", Target: "[2001:db8::1]:8080", Host: "2001:db8::1", Port: 8080},
	}
	all := captured(t)
	for name, want := range want {
		in := all[name]
		got, err := HTTPHead(in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if want.Port == 0 {
			got.Port = 0 // the listener's, another each time
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		settled(t, name, HTTPHead, in)
		if p, err := Protocol(in); p != HTTP || err != nil {
			t.Errorf("%s: protocol %q, %v", name, p, err)
		}
	}
}

func TestHeadsAreRead(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Head
	}{
		{"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", Head{"http/1.1", "GET", "/", "a.example", 0}},
		{"GET /p?q#f HTTP/1.1\r\nAccept: */*\r\nhOST:\t A.Example.:8080 \t\r\nX:\r\n\r\nbody", Head{"http/1.1", "GET", "/p?q#f", "a.example", 8080}},
		{"GET / HTTP/1.0\r\n\r\n", Head{"http/1.0", "GET", "/", "", 0}},
		{"GET / HTTP/1.1\r\nHost:\r\n\r\n", Head{"http/1.1", "GET", "/", "", 0}},
		{"GET / HTTP/1.1\r\nHost: a.example:\r\n\r\n", Head{"http/1.1", "GET", "/", "a.example", 0}},
		{"GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n", Head{"http/1.1", "GET", "/", "10.0.0.1", 80}},
		{"GET / HTTP/1.1\r\nHost: [2001:DB8::0:1]\r\n\r\n", Head{"http/1.1", "GET", "/", "2001:db8::1", 0}},
		{"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Head{"http/1.1", "GET", "/", "::1", 8080}},
		{"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", Head{"http/1.1", "OPTIONS", "*", "a.example", 0}},
		{"CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", Head{"http/1.1", "CONNECT", "b.example:443", "b.example", 443}},
		{"GET http://B.example?q HTTP/1.1\r\nHost: a.example:1\r\n\r\n", Head{"http/1.1", "GET", "http://B.example?q", "b.example", 0}},
		{"GET HTTPS://b.example:8443/ HTTP/1.0\r\n\r\n", Head{"http/1.0", "GET", "HTTPS://b.example:8443/", "b.example", 8443}},
		{"GET /\xc3\xbc HTTP/1.1\r\nHost: a.example\r\nX: \xfc\r\n\r\n", Head{"http/1.1", "GET", "/\xc3\xbc", "a.example", 0}},
		{"FROBNICATE / HTTP/1.1\r\nHost: a.example\r\n\r\n", Head{"http/1.1", "FROBNICATE", "/", "a.example", 0}},
		{preface + "\x00\x00\x12", Head{Protocol: "h2"}},
	} {
		got, err := HTTPHead([]byte(c.in))
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: %s", c.in, diff)
		}
		settled(t, c.in, HTTPHead, []byte(c.in+"more"))
	}
}

func TestWhatIsNotHTTPIsNotARequest(t *testing.T) {
	for _, in := range []string{
		"\x16\x03\x01", "\r\n\r\n\x00\r\nQUIT\n", "\r\nGET / HTTP/1.1\r\n", " GET / HTTP/1.1\r\n", "\x00",
		"SSH-2.0-OpenSSH_9.2p1\r\n", "EHLO a.example\r\n", "NICK me\n", "USER me 0 * :x\r\n", "CONNECT\naccept-version:1.2\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "HTTP/1.1 200 OK\r\n", "GET  / HTTP/1.1\r\n", "GET\t/ HTTP/1.1\r\n", "GET \r\n",
		"INVITE sip:a@a.example SIP/2.0\r\n", "OPTIONS rtsp://a.example RTSP/1.0\r\n", "OPTIONS * RTSP/1.0\r\n",
		strings.Repeat("A", maxMethod+1),
	} {
		if h, err := HTTPHead([]byte(in)); err != ErrNot {
			t.Errorf("%q: %+v, %v", in, h, err)
		}
		settled(t, in, HTTPHead, []byte(in+"more"))
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	const line, host = "GET / HTTP/1.1\r\n", "Host: a.example\r\n"
	for _, c := range []struct{ in, says string }{
		{line + "\r\n", "no Host"},
		{line + host + host + "\r\n", "two Host"},
		{line + host + "host: b.example\r\n\r\n", "two Host"},
		{"GET / HTTP/1.0\r\n" + host + host + "\r\n", "two Host"},
		{"GET http://b.example/ HTTP/1.1\r\n\r\n", "no Host"},
		{"GET http://b.example/ HTTP/1.1\r\n" + host + host + "\r\n", "two Host"},
		{"GET http://b.example/ HTTP/1.1\r\nHost: a b\r\n\r\n", "letters"},
		{line + "Host: a.example, b.example\r\n\r\n", "letters"},
		{line + "Host: a.example b.example\r\n\r\n", "letters"},
		{line + "Host: me@a.example\r\n\r\n", "letters"},
		{line + "Host: a.example/\r\n\r\n", "letters"},
		{line + "Host: b%C3%BCcher.example\r\n\r\n", "letters"},
		{line + "Host: a.example:0\r\n\r\n", "port"},
		{line + "Host: a.example:65536\r\n\r\n", "port"},
		{line + "Host: a.example:080\r\n\r\n", "port"},
		{line + "Host: a.example:+80\r\n\r\n", "port"},
		{line + "Host: :80\r\n\r\n", "1 to 253"},
		{line + "Host: ::1\r\n\r\n", "letters"},
		{line + "Host: [::1\r\n\r\n", "brackets"},
		{line + "Host: [::1]x\r\n\r\n", "brackets"},
		{line + "Host: [fe80::1%25eth0]\r\n\r\n", "brackets"},
		{line + "Host: [10.0.0.1]\r\n\r\n", "brackets"},
		{line + "Host: 127.1\r\n\r\n", "number"},
		{line + "Host: 0x7f000001\r\n\r\n", "number"},
		{line + "Host : a.example\r\n\r\n", "name of a field"},
		{line + "Host\r\n\r\n", "no field"},
		{line + ": a.example\r\n\r\n", "no field"},
		{line + " Host: a.example\r\n\r\n", "folded"},
		{line + host + "X: 1\r\n\t2\r\n\r\n", "folded"},
		{line + "Host: a.example\n\r\n", "single CR or LF"},
		{line + "Host: a.example\r\r\n\r\n", "single CR or LF"},
		{line + host + "\n", "single CR or LF"},
		{"GET / HTTP/1.1\n" + host + "\r\n", "single CR or LF"},
		{"GET / HTTP/1.1\rHost: b.example\r\n" + host + "\r\n", "single CR or LF"},
		{line + host + "X: a\x00b\r\n\r\n", `'\x00' in the value`},
		{line + host + "X: \x1b[2J\r\n\r\n", `'\x1b' in the value`},
		{"GET /a b HTTP/1.1\r\n" + host + "\r\n", "' ' in its target"},
		{"GET /\x7f HTTP/1.1\r\n" + host + "\r\n", "in its target"},
		{"GET HTTP/1.1\r\n" + host + "\r\n", "no target"},
		{"GET /\r\n", "no version"},
		{"GET / HTTP/1.1 \r\n" + host + "\r\n", "no version"},
		{"GET / http/1.1\r\n" + host + "\r\n", "no version"},
		{"GET / HTTP/1.2\r\n" + host + "\r\n", "version 1.2"},
		{"GET / HTTP/2.0\r\n" + host + "\r\n", "version 2.0"},
		{"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "version 2.0"},
		{"GET * HTTP/1.1\r\n" + host + "\r\n", "no path and no URL"},
		{"GET ftp://b.example/ HTTP/1.1\r\n" + host + "\r\n", "no path and no URL"},
		{"GET b.example HTTP/1.1\r\n" + host + "\r\n", "no path and no URL"},
		{"GET http:/// HTTP/1.1\r\n" + host + "\r\n", "1 to 253"},
		{"GET http://me@b.example/ HTTP/1.1\r\n" + host + "\r\n", "letters"},
		{"GET http://b.example\\@c.example/ HTTP/1.1\r\n" + host + "\r\n", "letters"},
		{"GET http://b.example#@c.example/ HTTP/1.1\r\n" + host + "\r\n", "letters"},
		{"CONNECT b.example HTTP/1.1\r\n" + host + "\r\n", "no port"},
		{"CONNECT / HTTP/1.1\r\n" + host + "\r\n", "letters"},
		{line + host + "X: " + strings.Repeat("x", Limit), "within 16384"},
		{line + host + strings.Repeat("X: y\r\n", Limit/6), "within 16384"},
		{"GET /" + strings.Repeat("x", Limit), "within 16384"},
	} {
		h, err := HTTPHead([]byte(c.in))
		if err == nil || err == ErrShort || err == ErrNot || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80q: %+v, %v; want an error about %q", c.in, h, err, c.says)
		}
		settled(t, c.in[:min(len(c.in), 80)], HTTPHead, []byte(c.in+"more"))
	}
}

func TestProtocolsAreToldApart(t *testing.T) {
	for _, c := range []struct {
		in, want string
		bytes    int // how many it takes
	}{
		{"SSH-2.0-OpenSSH_9.2p1\r\n", SSH, 4},
		{"SSH?", Other, 4},
		{"\x16\x03\x01\x02\x00", TLS, 2},
		{"\x16\x02", Other, 2},
		{"\x80\x2e\x01", Other, 1},
		{"GET / HTTP/1.1", HTTP, 5},
		{"GET http://a/", HTTP, 11},
		{"GET HTTPS://a/", HTTP, 12},
		{"GET x", Other, 5},
		{"GETTER /", Other, 4},
		{"get /", Other, 1},
		{"PUT /", HTTP, 5},
		{"UPDATEREDIRECTREF /", HTTP, 19},
		{"UPDATEREDIRECTREF https://", HTTP, 26},
		{"CONNECT a:1", HTTP, 9},
		{"CONNECT\n", Other, 8},
		{"OPTIONS * HTTP/1.1", HTTP, 17},
		{"OPTIONS * RTSP/1.0", Other, 11},
		{"OPTIONS sip:a@b SIP/2.0", Other, 9},
		{"OPTIONS /", HTTP, 9},
		{preface, HTTP, 24},
		{"PRI * HTTP/2.0\r\n\r\nXX", Other, 19},
		{"PROXY TCP4 ", Other, 4},
		{"\r\n\r\n\x00\r\nQUIT\n", Other, 1},
		{"EHLO a", Other, 1},
		{"USER a", Other, 2},
		{"\x00\x00", Other, 1},
		{"\x13BitTorrent protocol", Other, 1},
	} {
		for k := range len(c.in) + 1 {
			p, err := Protocol([]byte(c.in[:k]))
			if k < c.bytes && (p != "" || err != ErrShort) || k >= c.bytes && (p != c.want || err != nil) {
				t.Errorf("%q: %q, %v; want %q from %d bytes on", c.in[:k], p, err, c.want, c.bytes)
			}
		}
	}
	if p, err := Protocol(captured(t)["ssh"]); p != SSH || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	for _, m := range methods {
		if slices.ContainsFunc([]byte(m), func(c byte) bool { return !isToken(c) }) || len(m) > maxMethod {
			t.Errorf("%q is no method", m)
		}
	}
}
