package proxyproto

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersion1IsWritten(t *testing.T) {
	for _, c := range []struct {
		h    Header
		want string
	}{
		{Header{Network: "tcp", Source: addr("192.168.0.1:56324"), Destination: addr("192.168.0.11:443")},
			"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"},
		{Header{Network: "tcp", Source: addr("[::ffff:192.168.0.1]:56324"), Destination: addr("192.168.0.11:443")},
			"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"},
		{Header{Network: "tcp", Source: addr("[fe80::1%eth0]:1"), Destination: addr("[::1]:2")},
			"PROXY TCP6 fe80::1 ::1 1 2\r\n"},
		{Header{Network: "tcp", Source: addr("192.168.0.1:1"), Destination: addr("[::1]:2")},
			"PROXY TCP6 ::ffff:c0a8:1 ::1 1 2\r\n"},
		{Header{}, "PROXY UNKNOWN\r\n"},
		{Header{Local: true, Network: "tcp", Source: addr("10.0.0.1:1"), Destination: addr("10.0.0.2:2")}, "PROXY UNKNOWN\r\n"},
		{Header{Network: "tcp", Source: addr("10.0.0.1:1")}, "PROXY UNKNOWN\r\n"},
		{Header{Network: "udp", Source: addr("10.0.0.1:1"), Destination: addr("10.0.0.2:2")}, "PROXY UNKNOWN\r\n"},
		{Header{Network: "unix", SourcePath: "/a"}, "PROXY UNKNOWN\r\n"},
	} {
		if got := AppendV1([]byte("before "), &c.h); string(got) != "before "+c.want {
			t.Errorf("%+v: %q, want %q", c.h, got, c.want)
		}
	}
}

func TestVersion2IsWritten(t *testing.T) {
	for _, c := range good {
		if c.want.Version != 2 {
			continue
		}
		b, err := AppendV2([]byte("before"), &c.want)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		h, n, err := Parse(b[6:])
		if err != nil || n != len(b)-6 {
			t.Errorf("%s: what was written is refused: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, h, compare); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	mixed := Header{Network: "udp", Source: addr("10.0.0.1:1"), Destination: addr("[fe80::1%eth0]:2")}
	b, err := AppendV2(nil, &mixed)
	if err != nil || b[13] != 0x22 {
		t.Fatalf("mixed families: %q, %v", b, err)
	}
	if h, _, err := Parse(b); err != nil || h.Source != mixed.Source || h.Destination != addr("[fe80::1]:2") {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestWhatDoesNotFitIsNotWritten(t *testing.T) {
	tcp := Header{Network: "tcp", Source: addr("10.0.0.1:1"), Destination: addr("10.0.0.2:2")}
	with := func(tlvs ...TLV) Header { h := tcp; h.TLVs = tlvs; return h }
	for says, h := range map[string]Header{
		"address is missing": {Network: "tcp", Source: addr("10.0.0.1:1")},
		"no name":            {Network: "sctp"},
		"no path":            {Network: "unix", SourcePath: strings.Repeat("p", 109)},
		"no path of a unix":  {Network: "unix", DestPath: "/a\x00b"},
		"unique ID":          with(TLV{TypeUniqueID, make([]byte, 129)}),
		"checksum":           with(TLV{TypeCRC32C, make([]byte, 4)}),
		"longer than 65551":  with(TLV{TypeNoop, make([]byte, 0xfff1)}),
		"longer than":        with(TLV{TypeNoop, make([]byte, 0x8000)}, TLV{TypeNoop, make([]byte, 0x8000)}),
	} {
		b, err := AppendV2([]byte("before"), &h)
		if err == nil || !strings.Contains(err.Error(), says) || string(b) != "before" {
			t.Errorf("%q, %v; want an error about %q", b, err, says)
		}
	}
}
