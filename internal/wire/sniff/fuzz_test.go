package sniff

import (
	"bytes"
	"runtime"
	"testing"
)

// seeds are the clients that were captured or made, and cuts of them.
func seeds(f *testing.F) {
	for _, b := range captured(f) {
		f.Add(b)
	}
	named := hello(sni("www.example.com"), alpn("h2", "http/1.1"), extension{43, []byte("\x04\x0a\x0a\x03\x04")})
	f.Add(named)
	f.Add(records(named, 1))
	f.Add(records(named, 50))
	f.Add(hello(sni("a.example", "b.example")))
	f.Add([]byte("GET http://b.example/ HTTP/1.1\r\nHost: a.example:80\r\n\r\n"))
	f.Add([]byte("CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nX: y\r\n\r\n"))
	f.Add([]byte(preface))
	f.Add([]byte("OPTIONS * RTSP/1.0\r\n"))
}

// spent is how many bytes do allocates, with what others in the process do
// meanwhile.
func spent(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// maxMemory bounds what one answer may cost: some multiple of what it looks
// at, and room for what else runs.
func maxMemory(in []byte) uint64 { return 64*uint64(min(len(in), Limit)) + 1<<20 }

// FuzzClientHello: no panic, bounded memory, one answer however the bytes were
// split, into segments or into records, and no name that is not one.
func FuzzClientHello(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		var h Hello
		var err error
		if n := spent(func() { h, err = ClientHello(in) }); n > maxMemory(in) {
			t.Fatalf("%d bytes of memory for %d", n, len(in))
		}
		settled(t, "hello", ClientHello, in)
		if p, perr := Protocol(in); perr == nil && (err == ErrNot) != (p != TLS) {
			t.Fatalf("%v, and the protocol is %q, %v", err, p, perr)
		}
		if err != nil {
			return
		}
		if h.Name != "" {
			if same, err := hostName(h.Name); err != nil || same != h.Name {
				t.Fatalf("name %q: %v", h.Name, err)
			}
		}
		msg, err := clientHello(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{2, 100, maxRecord} {
			if in := records(helloOf(msg), size); len(in) <= Limit {
				again, err := ClientHello(in)
				if err != nil || again.Name != h.Name || len(again.ALPN) != len(h.ALPN) || again.ECH != h.ECH {
					t.Fatalf("in records of %d bytes: %+v, %v; before %+v", size, again, err, h)
				}
			}
		}
	})
}

// FuzzHelloBody does not let the fuzzer fail at the lengths of record and
// message.
func FuzzHelloBody(f *testing.F) {
	for _, b := range captured(f) {
		if msg, err := clientHello(b); err == nil {
			f.Add(msg)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > maxRecord-messageHeader {
			return
		}
		settled(t, "hello", ClientHello, helloOf(msg))
	})
}

// FuzzHTTPHead: no panic, bounded memory, one answer however the bytes were
// split, and a host that means the same when it is read again.
func FuzzHTTPHead(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		var h Head
		var err error
		if n := spent(func() { h, err = HTTPHead(in) }); n > maxMemory(in) {
			t.Fatalf("%d bytes of memory for %d", n, len(in))
		}
		settled(t, "head", HTTPHead, in)
		if p, perr := Protocol(in); err == ErrNot && (p == HTTP || perr != nil) {
			t.Fatalf("not HTTP, and the protocol is %q, %v", p, perr)
		}
		if err != nil || h.Protocol == "h2" {
			return
		}
		if h.Host != "" {
			host := h.Host
			if bytes.ContainsRune([]byte(host), ':') {
				host = "[" + host + "]"
			}
			if same, err := hostOrAddr(host); err != nil || same != h.Host {
				t.Fatalf("host %q: %q, %v", h.Host, same, err)
			}
		}
	})
}

// FuzzProtocol: no panic, and an answer after few bytes that stays.
func FuzzProtocol(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		settled(t, "protocol", Protocol, in)
		if p, err := Protocol(in); err != nil && len(in) >= 26 || (p == "") != (err == ErrShort) {
			t.Fatalf("%q, %v with %d bytes", p, err, len(in))
		}
	})
}
