package proxyproto

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: no panic, the same answer for every way in which the bytes
// arrive, and what is read can be written and read again.
func FuzzParse(f *testing.F) {
	for _, c := range good {
		f.Add([]byte(c.in + "hello"))
	}
	for _, c := range bad {
		f.Add([]byte(c.in))
	}
	for _, b := range captured(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		decisions(t, in)
		h, n, err := Parse(in)
		if d, rest, derr := ParseDatagram(in); (derr == nil) != (err == nil) ||
			err == nil && (!bytes.Equal(rest, in[n:]) || !cmp.Equal(h, d, compare)) {
			t.Fatalf("as a stream %v, as a datagram %v", err, derr)
		}
		if err != nil {
			if n != 0 && err != ErrShort || !cmp.Equal(h, Header{}, compare) {
				t.Fatalf("%v, and yet %d bytes of %+v", err, n, h)
			}
			return
		}
		if h.Source.Addr().Is4In6() || h.Source.Addr().Zone() != "" {
			t.Fatalf("source %v", h.Source)
		}
		again(t, &h)
	})
}

// FuzzAppend: whatever a caller says is refused, or can be read again.
func FuzzAppend(f *testing.F) {
	f.Add(uint8(0), false, true, []byte("\x0a\x00\x00\x01"), []byte("\x0a\x00\x00\x02"), uint16(1), uint16(2), byte(TypeALPN), []byte("h2"))
	f.Add(uint8(1), false, false, make([]byte, 16), []byte("\x0a\x00\x00\x02"), uint16(1), uint16(2), byte(TypeUniqueID), []byte("id"))
	f.Add(uint8(2), false, true, []byte("/run/a"), []byte("\x00b"), uint16(1), uint16(2), byte(TypeNoop), []byte(""))
	f.Add(uint8(4), true, true, []byte(""), []byte(""), uint16(1), uint16(2), byte(TypeSSL), []byte("?"))
	f.Fuzz(func(t *testing.T, network uint8, local, sum bool, src, dst []byte, sport, dport uint16, kind byte, value []byte) {
		h := Header{
			Local: local, Checksum: sum,
			Network:    []string{"tcp", "udp", "unix", "unixgram", ""}[network%5],
			SourcePath: string(src), DestPath: string(dst),
			TLVs: []TLV{{kind, value}, {TypeNoop, nil}},
		}
		s, _ := netip.AddrFromSlice(src)
		d, _ := netip.AddrFromSlice(dst)
		h.Source, h.Destination = netip.AddrPortFrom(s, sport), netip.AddrPortFrom(d, dport)
		line := AppendV1(nil, &h)
		if _, n, err := Parse(line); err != nil || n != len(line) || n > MaxV1 {
			t.Fatalf("%q: %v", line, err)
		}
		again(t, &h)
	})
}

// again writes h and reads it back; what h says must have survived.
func again(t *testing.T, h *Header) {
	t.Helper()
	b, err := AppendV2(nil, h)
	if err != nil {
		if len(b) != 0 {
			t.Fatalf("%v, and yet %q", err, b)
		}
		return
	}
	back, n, err := Parse(b)
	if err != nil || n != len(b) {
		t.Fatalf("%q was written and is refused: %v", b, err)
	}
	// What is written and what is read differ in nothing but this.
	want := *h
	want.Version = 2
	if want.Local {
		want.Network = ""
	}
	if want.Network != "tcp" && want.Network != "udp" {
		want.Source, want.Destination = netip.AddrPort{}, netip.AddrPort{}
	}
	if want.Network != "unix" && want.Network != "unixgram" {
		want.SourcePath, want.DestPath = "", ""
	}
	want.SourcePath, want.DestPath = strings.TrimRight(want.SourcePath, "\x00"), strings.TrimRight(want.DestPath, "\x00")
	unmap := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
	if want.Network != "" {
		want.Source, want.Destination = unmap(want.Source), unmap(want.Destination)
	}
	if diff := cmp.Diff(want, back, compare); diff != "" {
		t.Fatalf("%q: %s", b, diff)
	}
}
