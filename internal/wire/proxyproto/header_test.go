package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(bytes.Equal), // a value of 64 KiB is compared as one
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// v2 is a header of version 2 with these bytes 13 and 14, the length of the
// block, and the block.
func v2(cmd, fam byte, block string) string {
	return signature + string([]byte{cmd, fam, byte(len(block) >> 8), byte(len(block))}) + block
}

const (
	inet  = "\x0a\x00\x00\x01\x0a\x00\x00\x02\x30\x39\x01\xbb" // 10.0.0.1:12345, 10.0.0.2:443
	inet6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x30\x39\x01\xbb"
	mapped = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0a\x00\x00\x02\x30\x39\x01\xbb"
)

func sockets(src, dst string) string {
	pad := func(s string) string { return s + strings.Repeat("\x00", maxUnixPath-len(s)) }
	return pad(src) + pad(dst)
}

// withSum puts the right checksum in place of the zeros at b[at:].
func withSum(b string, at int) string {
	out := []byte(b)
	binary.BigEndian.PutUint32(out[at:], checksum(out, at))
	return string(out)
}

var good = []struct {
	name string
	in   string
	want Header
}{
	// The spec's own example, and the longest lines that it names.
	{"v1 of the spec", "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
		Header{Version: 1, Network: "tcp", Source: addr("192.168.0.1:56324"), Destination: addr("192.168.0.11:443")}},
	{"v1 longest TCP4", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
		Header{Version: 1, Network: "tcp", Source: addr("255.255.255.255:65535"), Destination: addr("255.255.255.255:65535")}},
	{"v1 longest TCP6", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		Header{Version: 1, Network: "tcp", Source: addr("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"), Destination: addr("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")}},
	{"v1 unknown, short", "PROXY UNKNOWN\r\n", Header{Version: 1}},
	{"v1 unknown, longest", "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", Header{Version: 1}},
	{"v1 unknown, with anything", "PROXY UNKNOWN \x00 TCP4 10.0.0.1\r\n", Header{Version: 1}},
	{"v1 ports of zero", "PROXY TCP4 10.0.0.1 10.0.0.2 0 0\r\n",
		Header{Version: 1, Network: "tcp", Source: addr("10.0.0.1:0"), Destination: addr("10.0.0.2:0")}},
	{"v1 upper case", "PROXY TCP6 2001:DB8::1 ::1 1 2\r\n",
		Header{Version: 1, Network: "tcp", Source: addr("[2001:db8::1]:1"), Destination: addr("[::1]:2")}},
	{"v1 mapped IPv4 is IPv4", "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n",
		Header{Version: 1, Network: "tcp", Source: addr("10.0.0.1:1"), Destination: addr("10.0.0.2:2")}},

	{"v2 tcp4", v2(0x21, 0x11, inet), Header{Version: 2, Network: "tcp", Source: addr("10.0.0.1:12345"), Destination: addr("10.0.0.2:443")}},
	{"v2 udp4", v2(0x21, 0x12, inet), Header{Version: 2, Network: "udp", Source: addr("10.0.0.1:12345"), Destination: addr("10.0.0.2:443")}},
	{"v2 tcp6", v2(0x21, 0x21, inet6), Header{Version: 2, Network: "tcp", Source: addr("[2001:db8::1]:12345"), Destination: addr("[2001:db8::2]:443")}},
	{"v2 udp6", v2(0x21, 0x22, inet6), Header{Version: 2, Network: "udp", Source: addr("[2001:db8::1]:12345"), Destination: addr("[2001:db8::2]:443")}},
	{"v2 mapped IPv4 is IPv4", v2(0x21, 0x21, mapped), Header{Version: 2, Network: "tcp", Source: addr("10.0.0.1:12345"), Destination: addr("10.0.0.2:443")}},
	{"v2 unix", v2(0x21, 0x31, sockets("/run/a\x00rest of an old buffer", "/run/b")),
		Header{Version: 2, Network: "unix", SourcePath: "/run/a", DestPath: "/run/b"}},
	{"v2 unix datagrams, one without name, one of full length", v2(0x21, 0x32, sockets("", strings.Repeat("x", 108))),
		Header{Version: 2, Network: "unixgram", DestPath: strings.Repeat("x", 108)}},
	{"v2 abstract unix", v2(0x21, 0x31, sockets("\x00me", "\x00you")),
		Header{Version: 2, Network: "unix", SourcePath: "\x00me", DestPath: "\x00you"}},

	{"v2 local", v2(0x20, 0x00, ""), Header{Version: 2, Local: true}},
	{"v2 local with addresses to skip", v2(0x20, 0x11, inet), Header{Version: 2, Local: true}},
	{"v2 local with addresses and TLVs", v2(0x20, 0x11, inet+"\x04\x00\x01z"), Header{Version: 2, Local: true, TLVs: []TLV{{TypeNoop, []byte("z")}}}},
	{"v2 local with too few bytes of addresses", v2(0x20, 0x21, inet), Header{Version: 2, Local: true}},
	{"v2 local of an unknown family", v2(0x20, 0xff, "whatever"), Header{Version: 2, Local: true}},
	{"v2 unspecified", v2(0x21, 0x00, ""), Header{Version: 2}},
	{"v2 unspecified with bytes to skip", v2(0x21, 0x00, "whatever"), Header{Version: 2}},

	{"v2 TLVs in order, twice the same, empty, unknown", v2(0x21, 0x11, inet+"\xea\x00\x02ab\x04\x00\x00\x02\x00\x01h\x04\x00\x03\x00\x00\x00\x99\x00\x01!"),
		Header{Version: 2, Network: "tcp", Source: addr("10.0.0.1:12345"), Destination: addr("10.0.0.2:443"), TLVs: []TLV{
			{0xea, []byte("ab")}, {TypeNoop, []byte{}}, {TypeAuthority, []byte("h")}, {TypeNoop, []byte{0, 0, 0}}, {0x99, []byte("!")}}}},
	{"v2 checksum", withSum(v2(0x21, 0x11, inet+"\x03\x00\x04\x00\x00\x00\x00\x01\x00\x02h2"), 31),
		Header{Version: 2, Network: "tcp", Source: addr("10.0.0.1:12345"), Destination: addr("10.0.0.2:443"), Checksum: true, TLVs: []TLV{{TypeALPN, []byte("h2")}}}},
	{"v2 longest", v2(0x21, 0x11, inet+"\x04\xff\xf0"+strings.Repeat("p", 0xfff0)),
		Header{Version: 2, Network: "tcp", Source: addr("10.0.0.1:12345"), Destination: addr("10.0.0.2:443"), TLVs: []TLV{{TypeNoop, []byte(strings.Repeat("p", 0xfff0))}}}},
}

func TestHeadersAreRead(t *testing.T) {
	for _, c := range good {
		t.Run(c.name, func(t *testing.T) {
			h, n, err := Parse([]byte(c.in + "hello"))
			if err != nil || n != len(c.in) {
				t.Fatalf("n = %d of %d, %v", n, len(c.in), err)
			}
			if diff := cmp.Diff(c.want, h, compare); diff != "" {
				t.Error(diff)
			}
		})
	}
}

var bad = []struct {
	name, in string
	says     string
}{
	{"nothing of the kind", "GET / HTTP/1.1\r\n", "without a header"},
	{"v1 in lower case", "proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "without a header"},
	{"v1 other word", "PROXZ", "without a header"},
	{"v1 of another protocol", "PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n", "not TCP4"},
	{"v1 without protocol", "PROXY \r\n", "not TCP4"},
	{"v1 UNKNOWN with a tail", "PROXY UNKNOWNS\r\n", "not TCP4"},
	{"v1 two spaces", "PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n", "single spaces"},
	{"v1 space at the end", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n", "single spaces"},
	{"v1 tab", "PROXY TCP4 10.0.0.1 10.0.0.2 1\t2\r\n", "single spaces"},
	{"v1 too little", "PROXY TCP4\r\n", "single spaces"},
	{"v1 only one port", "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n", "single spaces"},
	{"v1 leading zero in address", "PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n", "source address"},
	{"v1 short address", "PROXY TCP4 10.1 10.0.0.2 1 2\r\n", "source address"},
	{"v1 octet of 256", "PROXY TCP4 10.0.0.1 10.0.0.256 1 2\r\n", "destination address"},
	{"v1 IPv6 in TCP4", "PROXY TCP4 ::1 ::1 1 2\r\n", "source address"},
	{"v1 IPv4 in TCP6", "PROXY TCP6 ::1 10.0.0.2 1 2\r\n", "destination address"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "source address"},
	{"v1 brackets", "PROXY TCP6 [::1] ::1 1 2\r\n", "source address"},
	{"v1 leading zero in port", "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n", "source port"},
	{"v1 signed port", "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n", "source port"},
	{"v1 port of 65536", "PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n", "destination port"},
	{"v1 port in other digits", "PROXY TCP4 10.0.0.1 10.0.0.2 1 ٣\r\n", "destination port"},
	{"v1 ends with LF", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\nhello", "single CR or LF"},
	{"v1 ends with CR", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\rhello", "single CR or LF"},
	{"v1 unknown that hides a line", "PROXY UNKNOWN\nGET / HTTP/1.1\r\n", "single CR or LF"},
	{"v1 CR CR LF", "PROXY UNKNOWN\r\r\n", "single CR or LF"},
	{"v1 of 108 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", "no end of line"},
	{"v1 without end", "PROXY UNKNOWN " + strings.Repeat("x", 200), "no end of line"},

	{"v2 signature cut", "\r\n\r\n\x00\r\nQUIT\r", "without a header"},
	{"v2 empty lines", "\r\n\r\n\r\n", "without a header"},
	{"v2 of version 1", v2(0x11, 0x11, inet), "version 1"},
	{"v2 of version 3", v2(0x31, 0x11, inet), "version 3"},
	{"v2 unknown command", v2(0x22, 0x11, inet), "command 2"},
	{"v2 unknown family", v2(0x21, 0x41, inet), "family"},
	{"v2 unknown transport", v2(0x21, 0x13, inet), "family"},
	{"v2 family without transport", v2(0x21, 0x10, inet), "family"},
	{"v2 transport without family", v2(0x21, 0x01, ""), "family"},
	{"v2 tcp4 too short", v2(0x21, 0x11, inet[:11]), "too few"},
	{"v2 udp6 too short", v2(0x21, 0x22, inet6[:35]), "too few"},
	{"v2 unix too short", v2(0x21, 0x31, sockets("/a", "/b")[:215]), "too few"},
	{"v2 one byte of a TLV", v2(0x21, 0x11, inet+"\x04"), "beyond"},
	{"v2 TLV too long", v2(0x21, 0x11, inet+"\x04\x00\x05abcd"), "beyond"},
	{"v2 TLV of all that a length can say", v2(0x21, 0x11, inet+"\x04\xff\xff"), "beyond"},
	{"v2 checksum of three bytes", v2(0x21, 0x11, inet+"\x03\x00\x03abc"), "not 4"},
	{"v2 checksum wrong", v2(0x21, 0x11, inet+"\x03\x00\x04abcd"), "checksum is wrong"},
	{"v2 checksum wrong in local", v2(0x20, 0x00, "\x03\x00\x04abcd"), "checksum is wrong"},
	{"v2 checksum twice", v2(0x21, 0x11, inet+"\x03\x00\x04abcd\x03\x00\x04abcd"), "two CRC32C"},
	{"v2 long unique ID", v2(0x21, 0x11, inet+"\x05\x00\x81"+strings.Repeat("u", 129)), "unique ID"},
}

func TestMalformedHeadersAreRefused(t *testing.T) {
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			h, n, err := Parse([]byte(c.in))
			if err == nil || err == ErrShort || n != 0 || !strings.Contains(err.Error(), c.says) {
				t.Errorf("n = %d, %v; want an error about %q", n, err, c.says)
			}
			if diff := cmp.Diff(Header{}, h, compare); diff != "" {
				t.Errorf("a refused header says something: %s", diff)
			}
			if (err == ErrAbsent) != (c.says == "without a header") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAnyOtherBitFailsTheChecksum(t *testing.T) {
	in := []byte(withSum(v2(0x21, 0x11, inet+"\x03\x00\x04\x00\x00\x00\x00\x01\x00\x02h2"), 31))
	for i := fixed; i < len(in); i++ {
		if i >= 28 && i < 31 || i >= 35 && i < 38 {
			continue // the types and lengths of TLVs: other errors, or another list
		}
		for bit := range 8 {
			in[i] ^= 1 << bit
			if _, _, err := Parse(in); err == nil {
				t.Errorf("byte %d, bit %d: accepted", i, bit)
			}
			in[i] ^= 1 << bit
		}
	}
}

// decisions holds Parse to its word for every beginning of in: first ErrShort
// with a length that is honest, then one answer for good.
func decisions(t *testing.T, in []byte) {
	t.Helper()
	h, n, err := Parse(in)
	step := 1 + len(in)/512
	for k := 0; k < len(in); k += step {
		hk, nk, ek := Parse(in[:k])
		if ek == ErrShort {
			switch {
			case nk <= k:
				t.Fatalf("with %d bytes, %d are enough", k, nk)
			case err == nil && nk > n || nk > MaxHeader:
				t.Fatalf("with %d bytes, at least %d are asked for, and %d are all", k, nk, n)
			}
			continue
		}
		if nk != n || (ek == nil) != (err == nil) || ek != nil && ek.Error() != err.Error() {
			t.Fatalf("with %d bytes: %d, %v; with %d: %d, %v", k, nk, ek, len(in), n, err)
		}
		if diff := cmp.Diff(h, hk, compare); diff != "" {
			t.Fatalf("with %d bytes: %s", k, diff)
		}
	}
}

func TestSplitsDoNotMatter(t *testing.T) {
	for _, c := range good {
		decisions(t, []byte(c.in+"hello"))
	}
	for _, c := range bad {
		decisions(t, []byte(c.in+"hello"))
	}
}

// A reader that asks for no more than it is told to never takes a byte of the
// conversation, and gets the header.
func TestAReaderNeedNotReadAhead(t *testing.T) {
	for _, c := range good {
		in := c.in + "hello"
		got, reads := 0, 0
		for {
			_, n, err := Parse([]byte(in[:got]))
			if err == nil {
				break
			}
			if err != ErrShort || n > len(c.in) {
				t.Fatalf("%s: after %d bytes: %d, %v", c.name, got, n, err)
			}
			got = n
			reads++
		}
		if got != len(c.in) || reads > MaxV1 {
			t.Errorf("%s: %d bytes read in %d steps, the header has %d", c.name, got, reads, len(c.in))
		}
	}
}

func TestParsedTLVsOutliveTheBuffer(t *testing.T) {
	b := []byte(v2(0x21, 0x11, inet+"\x02\x00\x04host"))
	h, _, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if v, ok := h.TLV(TypeAuthority); !ok || string(v) != "host" {
		t.Errorf("%q, %v", v, ok)
	}
	if _, ok := h.TLV(TypeALPN); ok {
		t.Error("a TLV that is not there")
	}
}

func TestDatagramsHaveHeaderAndPayload(t *testing.T) {
	whole := v2(0x21, 0x12, inet)
	for _, payload := range []string{"", "x", whole} {
		h, rest, err := ParseDatagram([]byte(whole + payload))
		if err != nil || h.Network != "udp" || string(rest) != payload {
			t.Errorf("%q: %+v, %q, %v", payload, h, rest, err)
		}
	}
	for k := range len(whole) {
		if _, _, err := ParseDatagram([]byte(whole[:k])); err == nil || err == ErrShort {
			t.Errorf("a datagram of %d bytes: %v", k, err)
		}
	}
}

// captured are the bytes that HAProxy sent; see the file for how.
func captured(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open("testdata/haproxy.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, code, ok := strings.Cut(s.Text(), " "); ok && name != "#" {
			if all[name], err = hex.DecodeString(code); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func TestHeadersOfHAProxyAreRead(t *testing.T) {
	at := func(source, dest string, h Header) Header {
		h.Network, h.Source, h.Destination = "tcp", addr(source), addr(dest)
		return h
	}
	want := map[string]Header{
		"v1-tcp4": at("127.0.0.1:57092", "127.0.0.1:7101", Header{Version: 1}),
		"v1-tcp6": at("[::1]:46338", "[::1]:7101", Header{Version: 1}),
		"v1-unix": {Version: 1},
		"v2-tcp4": at("127.0.0.1:39900", "127.0.0.1:7102", Header{Version: 2}),
		"v2-tcp6": at("[::1]:55742", "[::1]:7102", Header{Version: 2}),
		"v2-tcp4-crc32c-unique-id": at("127.0.0.1:47050", "127.0.0.1:7103", Header{Version: 2, Checksum: true, TLVs: []TLV{
			{TypeUniqueID, []byte("7F000001:B7CA_7F000001:1BBF_0004")}}}),
		"v2-tcp6-crc32c-unique-id": at("[::1]:46394", "[::1]:7103", Header{Version: 2, Checksum: true, TLVs: []TLV{
			{TypeUniqueID, []byte("00000000000000000000000000000001:B53A_00000000000000000000000000000001:1BBF_0005")}}}),
		"v2-tcp4-ssl-authority": at("127.0.0.1:40506", "127.0.0.1:7104", Header{Version: 2, Checksum: true, TLVs: []TLV{
			{TypeALPN, []byte("h2")},
			{TypeAuthority, []byte("www.example.com")},
			{TypeUniqueID, []byte("127.0.0.1:40506")},
			{TypeSSL, []byte("\x07\x00\x00\x00\x00\x21\x00\x07TLSv1.3\x22\x00\x0eclient.example\x25\x00\x07RSA2048" +
				"\x24\x00\x0aRSA-SHA256\x23\x00\x16TLS_AES_256_GCM_SHA384")}}}),
		"v2-unix-crc32c":  {Version: 2, Local: true, Checksum: true},
		"v2-local-crc32c": {Version: 2, Local: true, Checksum: true},
	}
	all := captured(t)
	for name, want := range want {
		rest := []byte("hello\n")
		if name == "v2-local-crc32c" {
			rest = nil
		}
		h, n, err := Parse(all[name])
		if err != nil || !bytes.Equal(all[name][n:], rest) {
			t.Errorf("%s: %v, followed by %q", name, err, all[name][n:])
			continue
		}
		if diff := cmp.Diff(want, h, compare); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		// HAProxy puts the checksum first, as AppendV2 does.
		var back []byte
		if h.Version == 1 {
			back = AppendV1(nil, &h)
		} else if back, err = AppendV2(nil, &h); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(back, all[name][:n]) {
			t.Errorf("%s: HAProxy wrote\n%q, we write\n%q", name, all[name][:n], back)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d captured headers, %d expected", len(all), len(want))
	}
}
