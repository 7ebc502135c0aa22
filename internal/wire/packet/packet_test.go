package packet

import (
	"encoding/hex"
	"net/netip"
	"testing"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestAppendedIsRead(t *testing.T) {
	for _, want := range []Packet{
		{Proto: TCP, Src: ap("198.51.100.2:40000"), Dst: ap("203.0.113.1:80"), Flags: SYN, Seq: 0xfffffff0},
		{Proto: TCP, Src: ap("[2001:db8::2]:40000"), Dst: ap("[2001:db8::1]:80"), Flags: RST | ACK, Seq: 1, Ack: 2},
		{Proto: UDP, Src: ap("198.51.100.2:40000"), Dst: ap("203.0.113.1:53")},
		{Proto: UDP, Src: ap("[2001:db8::2]:40000"), Dst: ap("[2001:db8::1]:53")},
	} {
		b, err := want.Append(nil, []byte("odd"))
		if err != nil {
			t.Fatal(err)
		}
		n := 20
		if want.Src.Addr().Is6() {
			n = 40
		}
		if got, ok := Read(b[:n], b[n:]); !ok || got != want {
			t.Errorf("read %+v, %v; appended %+v", got, ok, want)
		}
		// With its checksum the sum over a header is all ones.
		if n == 20 && fold(checksum(0, b[:20])) != 0 {
			t.Errorf("the checksum of %x is wrong", b[:20])
		}
		sum := checksum(0, want.Src.Addr().AsSlice())
		sum = checksum(sum, want.Dst.Addr().AsSlice())
		sum = checksum(sum, []byte{0, want.Proto, 0, byte(len(b) - n)})
		if fold(checksum(sum, b[n:])) != 0 {
			t.Errorf("the checksum of %x is wrong", b[n:])
		}
	}
}

// The header is the worked example that many texts about RFC 1071 share.
func TestChecksumOfAKnownHeader(t *testing.T) {
	b, _ := hex.DecodeString("45000073000040004011" + "0000" + "c0a80001c0a800c7")
	if got := fold(checksum(0, b)); got != 0xb861 {
		t.Errorf("%#x, want 0xb861", got)
	}
}

func TestWhatCannotBeBuiltIsAnError(t *testing.T) {
	for _, p := range []Packet{
		{Proto: TCP, Src: ap("198.51.100.2:1"), Dst: ap("[2001:db8::1]:80")},
		{Proto: ICMP, Src: ap("198.51.100.2:1"), Dst: ap("198.51.100.3:80")},
		{Proto: TCP},
	} {
		if _, err := p.Append(nil, nil); err == nil {
			t.Errorf("%+v was built", p)
		}
	}
	p := Packet{Proto: UDP, Src: ap("198.51.100.2:1"), Dst: ap("198.51.100.3:80")}
	if _, err := p.Append(nil, make([]byte, 65536)); err == nil {
		t.Error("64 KiB were built")
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{0x45}, []byte{})
	p := Packet{Proto: TCP, Src: ap("198.51.100.2:1"), Dst: ap("198.51.100.3:80"), Flags: SYN}
	b, _ := p.Append(nil, nil)
	f.Add(b[:20], b[20:])
	f.Fuzz(func(t *testing.T, network, transport []byte) {
		p, ok := Read(network, transport)
		if ok && (p.Src.Addr().Is4() != p.Dst.Addr().Is4()) {
			t.Errorf("%+v", p)
		}
	})
}
