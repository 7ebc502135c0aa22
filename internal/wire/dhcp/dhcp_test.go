package dhcp

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
)

// discover is a DHCPDISCOVER with some options, padded by hand.
func discover(options ...byte) []byte {
	b := make([]byte, atCookie, 400)
	b[0], b[1], b[2] = Request, 1, 6
	copy(b[atXID:], []byte{1, 2, 3, 4})
	copy(b[atCHAddr:], []byte{2, 0, 0, 0, 0, 9})
	b = append(b, cookie[:]...)
	b = append(b, optType, 1, 1)
	return append(b, options...)
}

func mustParse(t *testing.T, b []byte) Message {
	t.Helper()
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheFieldsAreWhereTheRFCSays(t *testing.T) {
	b := discover(optEnd)
	b[atFlags] = 0x80
	copy(b[atCIAddr:], []byte{10, 0, 0, 1})
	copy(b[atYIAddr:], []byte{10, 0, 0, 2})
	m := mustParse(t, b)
	m.SetHops(3)
	m.SetGateway(netip.MustParseAddr("10.0.0.3"))
	kind, hw := m.Hardware()
	if m.XID() != 0x01020304 || !m.Broadcast() || m.Client().String() != "10.0.0.1" || m.Your().String() != "10.0.0.2" ||
		m.Gateway().String() != "10.0.0.3" || m.Hops() != 3 || b[3] != 3 || !bytes.Equal(b[24:28], []byte{10, 0, 0, 3}) ||
		kind != 1 || !bytes.Equal(hw, []byte{2, 0, 0, 0, 0, 9}) || m.Type() != 1 {
		t.Errorf("%x", b)
	}
}

func TestOption82IsTheLastOptionAndIsTakenOut(t *testing.T) {
	plain := discover(0, 0, 12, 2, 'p', 'c', optEnd, 0, 0)
	m := mustParse(t, plain)
	with, err := m.AddRelayInfo(nil, []byte("lan0"))
	if err != nil {
		t.Fatal(err)
	}
	want := append(discover(0, 0, 12, 2, 'p', 'c'), 82, 6, 1, 4, 'l', 'a', 'n', '0', 255)
	if !bytes.HasPrefix(with, want) || len(with) != leastLen {
		t.Errorf("%d bytes: %x\nwant %x", len(with), with[atOptions:], want[atOptions:])
	}
	w := mustParse(t, with)
	if !w.HasRelayInfo() || m.HasRelayInfo() {
		t.Error("it is not seen, or seen where it is not")
	}
	without := mustParse(t, w.StripRelayInfo(nil))
	if without.HasRelayInfo() || without.Type() != 1 || len(without.b) < leastLen {
		t.Errorf("%x", without.b)
	}
}

func TestOption82WithoutRoomIsLeftOut(t *testing.T) {
	long := discover()
	for range 4 {
		long = append(append(long, 43, 255), make([]byte, 255)...)
	}
	long = append(append(long, 43, 150), make([]byte, 150)...)
	m := mustParse(t, append(long, optEnd))
	if _, err := m.AddRelayInfo(nil, bytes.Repeat([]byte("x"), 100)); !errors.Is(err, ErrNoRoom) {
		t.Errorf("%d bytes and more: %v", len(long), err)
	}
	bootp := mustParse(t, make300())
	if _, err := bootp.AddRelayInfo(nil, []byte("lan0")); !errors.Is(err, ErrNoRoom) {
		t.Errorf("BOOTP has no options: %v", err)
	}
}

func make300() []byte {
	b := make([]byte, 300)
	b[0] = Request
	return b
}

func TestOption82IsFoundWhereOptionsOverflow(t *testing.T) {
	for _, where := range []struct {
		at   int
		over byte
	}{{atFile, 1}, {atSName, 2}, {atFile, 3}, {atSName, 3}} {
		b := discover(optOverload, 1, where.over, optEnd)
		copy(b[where.at:], []byte{82, 3, 1, 1, 'x', 255})
		if !mustParse(t, b).HasRelayInfo() {
			t.Errorf("overload %d, at %d: not found", where.over, where.at)
		}
	}
}

func TestBrokenMessagesAreRefused(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 235), make([]byte, 300), discover(12), discover(12, 9, 1),
		func() []byte { b := discover(optEnd); b[2] = 17; return b }()} {
		if _, err := Parse(b); err == nil {
			t.Errorf("%x was taken", b)
		}
	}
}

func TestAnEnvelopeIsReadAsItWasWritten(t *testing.T) {
	in := Relay6{Type: RelayForward6, Hops: 2, Link: netip.MustParseAddr("2001:db8::1"), Peer: netip.MustParseAddr("fe80::9"),
		Interface: []byte("lan0"), Message: []byte{1, 0xaa, 0xbb, 0xcc}}
	b, err := in.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "\x0c\x02" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\xfe\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09" +
		"\x00\x12\x00\x04lan0" + "\x00\x09\x00\x04\x01\xaa\xbb\xcc"
	if string(b) != want {
		t.Errorf("%x\nwant %x", b, want)
	}
	out, err := ParseRelay6(b)
	if err != nil || out.Hops != 2 || out.Link != in.Link || out.Peer != in.Peer || string(out.Interface) != "lan0" || !bytes.Equal(out.Message, in.Message) {
		t.Errorf("%+v, %v", out, err)
	}
	for _, bad := range [][]byte{nil, b[:33], b[:len(b)-1], b[:34], append([]byte{1}, b[1:]...), append(bytes.Clone(b), 0, 9, 0, 1, 1)} {
		if _, err := ParseRelay6(bad); err == nil {
			t.Errorf("%x was taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(discover(optEnd))
	f.Add(discover(optOverload, 1, 3, 82, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		m.HasRelayInfo()
		stripped, err := Parse(m.StripRelayInfo(nil))
		if err != nil {
			t.Fatalf("what was stripped is refused: %v", err)
		}
		if with, err := stripped.AddRelayInfo(nil, []byte("lan0")); err == nil {
			w, err := Parse(with)
			if err != nil || !w.HasRelayInfo() || w.Type() != m.Type() || len(with) > MaxLen {
				t.Fatalf("%x: %v", with, err)
			}
		}
	})
}

func FuzzParseRelay6(f *testing.F) {
	r := Relay6{Type: RelayReply6, Link: netip.IPv6Unspecified(), Peer: netip.MustParseAddr("fe80::1"), Interface: []byte("a"), Message: []byte{7}}
	b, _ := r.Append(nil)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRelay6(b)
		if err != nil {
			return
		}
		again, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := ParseRelay6(again); err != nil || !bytes.Equal(s.Message, r.Message) || s.Peer != r.Peer {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}
