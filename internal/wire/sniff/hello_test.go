package sniff

import (
	"crypto/tls"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// settled holds a sniffer to its word for every beginning of in: ErrShort at
// first, and then one answer for good.
func settled[T any](t *testing.T, what string, sniff func([]byte) (T, error), in []byte) {
	t.Helper()
	last, lastErr := sniff(in)
	step := 1 + len(in)/600
	for k := 0; k < len(in); k += step {
		v, err := sniff(in[:k])
		if err == ErrShort {
			continue
		}
		if err != lastErr && fmt.Sprint(err) != fmt.Sprint(lastErr) {
			t.Fatalf("%s: %v with %d bytes, %v with %d", what, err, k, lastErr, len(in))
		}
		if !reflect.DeepEqual(last, v) {
			t.Fatalf("%s: with %d bytes and with %d: %s", what, k, len(in), cmp.Diff(v, last))
		}
	}
	if lastErr == ErrShort && len(in) >= Limit {
		t.Fatalf("%s: wants more than %d bytes", what, len(in))
	}
}

var (
	upTo13 = []uint16{tls.VersionTLS13, tls.VersionTLS12}
	upTo10 = []uint16{tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS11, tls.VersionTLS10}
)

func TestHellosOfClientsAreRead(t *testing.T) {
	want := map[string]Hello{
		"openssl-tls13":       {Name: "www.example.com", ALPN: []string{"h2", "http/1.1"}, Versions: upTo10},
		"openssl-tls12":       {Name: "www.example.com", Versions: []uint16{tls.VersionTLS12}},
		"openssl-no-name":     {Versions: upTo10},
		"openssl-many-groups": {Name: "www.example.com", Versions: upTo10},
		"curl-https":          {Name: "www.example.com", ALPN: []string{"h2", "http/1.1"}, Versions: upTo10},
		"wget-https":          {Name: "localhost", Versions: upTo10},
	}
	all := captured(t)
	for name, want := range want {
		testHello(t, name, all[name], want)
	}
}

func TestHellosOfGoAreRead(t *testing.T) {
	many := make([]string, 400)
	for i := range many {
		many[i] = fmt.Sprintf("protocol/%d", i)
	}
	for name, c := range map[string]struct {
		config *tls.Config
		want   Hello
		least  int
	}{
		"default": {&tls.Config{ServerName: "www.example.com"},
			Hello{Name: "www.example.com", Versions: upTo13}, 1400},
		"post-quantum": {&tls.Config{ServerName: "www.example.com", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}},
			Hello{Name: "www.example.com", Versions: upTo13}, 1400},
		"larger post-quantum": {&tls.Config{ServerName: "www.example.com", CurvePreferences: []tls.CurveID{tls.SecP384r1MLKEM1024}},
			Hello{Name: "www.example.com", Versions: upTo13}, 1600},
		"many protocols": {&tls.Config{ServerName: "www.example.com", NextProtos: many},
			Hello{Name: "www.example.com", Versions: upTo13, ALPN: many}, 5000},
		"no name": {&tls.Config{NextProtos: []string{"dot"}},
			Hello{Versions: upTo13, ALPN: []string{"dot"}}, 100},
		"TLS 1.0 and up": {&tls.Config{ServerName: "www.example.com", MinVersion: tls.VersionTLS10},
			Hello{Name: "www.example.com", Versions: upTo10}, 100},
		"encrypted": {&tls.Config{ServerName: "secret.example.com", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfigs(t, "public.example.net")},
			Hello{Name: "public.example.net", Versions: []uint16{tls.VersionTLS13}, ECH: true}, 1400},
	} {
		b := goHello(t, c.config)
		if len(b) < c.least {
			t.Errorf("%s: the hello has %d bytes, too few for this test", name, len(b))
		}
		testHello(t, name, b, c.want)
	}
}

// testHello reads b as it is and in records of several sizes.
func testHello(t *testing.T, name string, b []byte, want Hello) {
	t.Helper()
	for _, in := range [][]byte{b, records(b, 1), records(b, 3), records(b, 500), records(b, len(b)-6)} {
		if len(in) > Limit {
			continue
		}
		in = append(slices.Clone(in), "and the rest"...)
		got, err := ClientHello(in)
		if err != nil {
			t.Errorf("%s in %d bytes: %v", name, len(in), err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s in %d bytes: %s", name, len(in), diff)
		}
		settled(t, name, ClientHello, in)
		if p, err := Protocol(in[:2]); p != TLS || err != nil {
			t.Errorf("%s: protocol %q, %v", name, p, err)
		}
	}
}

func TestHellosThatAreUnusualAreRead(t *testing.T) {
	grease := []extension{{0x5a5a, nil}, {0x3a3a, []byte{0}}}
	tls12 := []uint16{tls.VersionTLS12}
	for name, c := range map[string]struct {
		in   []byte
		want Hello
	}{
		"no extensions at all":    {helloOf(helloStart()), Hello{Versions: tls12}},
		"an empty list of them":   {hello(), Hello{Versions: tls12}},
		"upper case and a dot":    {hello(sni("WWW.Example.COM.")), Hello{Name: "www.example.com", Versions: tls12}},
		"underscores and hyphens": {hello(sni("_a-b.r3---sn.xn--bcher-kva.example")), Hello{Name: "_a-b.r3---sn.xn--bcher-kva.example", Versions: tls12}},
		"longest name": {hello(sni(strings.Repeat(strings.Repeat("a", 62)+".", 4) + "b")),
			Hello{Name: strings.Repeat(strings.Repeat("a", 62)+".", 4) + "b", Versions: tls12}},
		"GREASE": {hello(grease[0], alpn("\x0a\x0a", "h2"), extension{43, []byte("\x06\x7a\x7a\x03\x04\x03\x03")}, sni("a.example"), grease[1]),
			Hello{Name: "a.example", ALPN: []string{"\x0a\x0a", "h2"}, Versions: upTo13}},
		"GREASE for ECH": {hello(sni("a.example"), extension{0xfe0d, []byte("\x00\x00\x01\x00\x01\x42\x00\x20" + strings.Repeat("k", 32) + "\x00\x90" + strings.Repeat("p", 0x90))}),
			Hello{Name: "a.example", Versions: tls12, ECH: true}},
		"the inner hello, decrypted by the provider": {hello(sni("secret.example"), extension{0xfe0d, []byte{1}}), Hello{Name: "secret.example", Versions: tls12}},
		"a key share of 15 kB":                       {hello(extension{51, make([]byte, 15000)}, sni("a.example")), Hello{Name: "a.example", Versions: tls12}},
	} {
		testHello(t, name, c.in, c.want)
	}
}

func TestWhatIsNotTLSIsNotAHello(t *testing.T) {
	for _, in := range []string{
		"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", // SSLv2
		"GET / HTTP/1.1\r\n", "SSH-2.0-x\r\n", "\x00", "\x17\x03\x03\x00\x10", "\x15\x03\x01\x00\x02\x02\x28", "\x16\x02\x00\x00\x10\x01", "\x16G",
	} {
		if h, err := ClientHello([]byte(in)); err != ErrNot {
			t.Errorf("%q: %+v, %v", in, h, err)
		}
		settled(t, in, ClientHello, []byte(in))
	}
	for _, in := range []string{"", "\x16", "\x16\x03", "\x16\x03\x01\x02\x00\x01"} {
		if _, err := ClientHello([]byte(in)); err != ErrShort {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestMalformedHellosAreRefused(t *testing.T) {
	named := hello(sni("www.example.com"))
	at := func(i int, with ...byte) []byte {
		b := slices.Clone(named)
		copy(b[i:], with)
		return b
	}
	ext := func(kind uint16, data string) []byte { return hello(extension{kind, []byte(data)}) }
	twoRecords := func(second string) []byte { return append(records(named, 40)[:45], second...) }
	const lead = 5 + 4 // record and message header
	for name, c := range map[string]struct {
		in   []byte
		says string
	}{
		"two server names":                 {hello(sni("a.example", "b.example")), "one host name"},
		"the same server name twice":       {hello(sni("a.example", "a.example")), "one host name"},
		"server name extension twice":      {hello(sni("a.example"), sni("a.example")), "extension 0 twice"},
		"GREASE twice":                     {hello(extension{0x5a5a, nil}, extension{0x5a5a, nil}), "extension 23130 twice"},
		"no server name in the list":       {ext(0, "\x00\x00"), "one host name"},
		"an empty server name extension":   {ext(0, ""), "one host name"},
		"a server name of another type":    {ext(0, "\x00\x04\x01\x00\x01a"), "one host name"},
		"a server name beyond the list":    {ext(0, "\x00\x04\x00\x00\x05a"), "one host name"},
		"a list beyond the extension":      {ext(0, "\x00\x05\x00\x00\x01a"), "one host name"},
		"bytes after the list":             {ext(0, "\x00\x04\x00\x00\x01a!"), "one host name"},
		"an empty name":                    {hello(sni("")), "1 to 253"},
		"a name that is a dot":             {hello(sni(".")), "1 to 253"},
		"a name with two dots at its end":  {hello(sni("a.example..")), "label"},
		"a name with an empty label":       {hello(sni("a..example")), "label"},
		"a long label":                     {hello(sni(strings.Repeat("a", 64) + ".example")), "label"},
		"a name of 254 bytes":              {hello(sni(strings.Repeat("abcdefghijkl.", 19) + "abcdefg")), "1 to 253"},
		"a name with NUL":                  {hello(sni("a.example\x00.net")), "letters"},
		"a name in UTF-8":                  {hello(sni("bücher.example")), "letters"},
		"a name with a port":               {hello(sni("a.example:443")), "letters"},
		"a pattern":                        {hello(sni("*.example")), "letters"},
		"a label that begins with -":       {hello(sni("-a.example")), "letters"},
		"an IPv4 address":                  {hello(sni("127.0.0.1")), "number"},
		"an IPv4 address with a dot":       {hello(sni("127.0.0.1.")), "number"},
		"an IPv4 address in short":         {hello(sni("127.1")), "number"},
		"an IPv4 address as one number":    {hello(sni("2130706433")), "number"},
		"an IPv4 address in hexadecimal":   {hello(sni("0X7f.0x1")), "number"},
		"an IPv6 address":                  {hello(sni("::1")), "letters"},
		"an IPv6 address in brackets":      {hello(sni("[::1]")), "letters"},
		"no ALPN protocols":                {hello(alpn()), "empty list"},
		"an ALPN protocol without name":    {hello(alpn("h2", "")), "without a name"},
		"an ALPN protocol beyond the list": {ext(16, "\x00\x03\x05h2"), "beyond"},
		"ALPN with bytes after":            {ext(16, "\x00\x03\x02h2!"), "ALPN"},
		"odd versions":                     {ext(43, "\x03\x03\x04\x03"), "versions"},
		"no versions":                      {ext(43, "\x00"), "versions"},
		"bytes after the versions":         {ext(43, "\x02\x03\x04!"), "versions"},
		"ECH without a kind":               {ext(0xfe0d, ""), "encrypted hello"},
		"ECH of kind 2":                    {ext(0xfe0d, "\x02"), "encrypted hello"},
		"ECH cut":                          {ext(0xfe0d, "\x00\x00\x01\x00\x01\x42\x00\x00\x00\x02p"), "encrypted hello"},
		"ECH inner with more":              {ext(0xfe0d, "\x01\x00"), "encrypted hello"},

		"a record of no bytes":                {at(3, 0, 0), "record of 0"},
		"a record of 16385 bytes":             {at(3, 0x40, 1), "record of 16385"},
		"another handshake message":           {at(5, 2), "type 2"},
		"a message larger than the limit":     {at(6, 0, 0x40, 0), "are looked at"},
		"a message of 16 MB":                  {at(6, 0xff, 0xff, 0xff), "are looked at"},
		"a message shorter than its record":   {at(8, named[8]-1), "same record"},
		"an empty message":                    {[]byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"), "lengths"},
		"an alert within":                     {twoRecords("\x15\x03\x03\x00\x02"), "another kind"},
		"a record of another version within":  {twoRecords("\x16\x02"), "another kind"},
		"an empty record within":              {twoRecords("\x16\x03\x03\x00\x00"), "record of 0"},
		"a last record that is too long":      {twoRecords("\x16\x03\x03\x3f\xff"), "same record"},
		"a session ID of 33 bytes":            {at(lead+34, 33), "lengths"},
		"cipher suites of odd length":         {at(lead+67, 0, 5), "lengths"},
		"no cipher suites":                    {at(lead+67, 0, 0), "lengths"},
		"cipher suites beyond the end":        {at(lead+67, 0xff, 0xfe), "lengths"},
		"no compression":                      {at(lead+75, 0), "lengths"},
		"extensions beyond the end":           {at(lead+77, 0xff, 0xff), "extensions does not fit"},
		"extensions that end early":           {at(lead+77, 0, 1), "extensions does not fit"},
		"an extension beyond the end":         {at(lead+81, 0xff, 0xff), "an extension does not fit"},
		"a random cut":                        {helloOf(helloStart()[:20]), "lengths"},
		"a hello that never ends in 16 KiB":   {records(hello(extension{51, make([]byte, 6000)}), 2), "within 16384"},
		"a hello of 16 KiB in small records ": {records(hello(extension{51, make([]byte, 16000)}), 100), "within 16384"},
	} {
		h, err := ClientHello(c.in)
		if err == nil || err == ErrShort || err == ErrNot || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v; want an error about %q", name, h, err, c.says)
		}
		settled(t, name, ClientHello, append(slices.Clone(c.in), "more"...))
	}
}

func TestErrorsQuoteWhatAClientSent(t *testing.T) {
	_, err := ClientHello(hello(sni("10.0.0.1\x1b[2J")))
	if err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%v: what a client sends is repeated without quotes", err)
	}
}
