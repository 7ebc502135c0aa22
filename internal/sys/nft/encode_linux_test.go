package nft

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// walk checks that a batch is messages, their attributes, and the attributes
// within, of which each fills exactly the one it is in.
func walk(t *testing.T, b []byte) (n int) {
	t.Helper()
	for len(b) > 0 {
		size := int(binary.NativeEndian.Uint32(b))
		if size < 20 || size > len(b) || size%4 != 0 {
			t.Fatalf("a message of %d bytes, with %d left", size, len(b))
		}
		walkAttrs(t, b[20:size])
		b = b[size:]
		n++
	}
	return n
}

func walkAttrs(t *testing.T, b []byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 4 {
			t.Fatalf("%d bytes are left", len(b))
		}
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || padded(size) > len(b) {
			t.Fatalf("attribute %d of %d bytes, with %d left", kind, size, len(b))
		}
		if kind&unix.NLA_F_NESTED != 0 {
			walkAttrs(t, b[4:size])
		}
		b = b[padded(size):]
	}
}

func encoded(t *testing.T, table *Table) []byte {
	t.Helper()
	if err := table.check(); err != nil {
		t.Fatal(err)
	}
	b := newBatch(table.Family, table.Name)
	b.freshTable(table.Owned)
	if err := b.contents(table); err != nil {
		t.Fatal(err)
	}
	msgs, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	b.number(7)
	if n := walk(t, msgs); n != len(b.steps) {
		t.Errorf("%d messages, and %d steps", n, len(b.steps))
	}
	return msgs
}

func TestMessagesAreWellFormed(t *testing.T) {
	encoded(t, everyForm())
	encoded(t, manyForwards(20_000)) // more than an attribute holds
}

// The bytes are those of nft 1.0.6 (nft --debug=mnl) for the same element, but
// for the order of attributes, which means nothing.
func TestElementsAreTheBytesOfNft(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes were taken down on a machine of the other byte order")
	}
	msgs := encoded(t, everyForm())
	for name, want := range map[string]string{
		"a range of a concatenation, with a timeout and a comment": `
			5c00 0180
			 2000 0180 1c00 0100 20010db8000000000000000000000005 06000000 00500000
			 2000 0a80 1c00 0100 20010db8000000000000000000000005 06000000 005a0000
			 0c00 0400 000000000000ea60
			 0c00 0600 000669643d313700`,
		"the end of a range": `
			1800 0180
			 0800 0300 00000001
			 0c00 0180 0800 0100 0b000000`,
		"a count": `
			4c00 0180
			 1000 0180 0c00 0100 0a00000100050000
			 0a00 0600 000477656200 0000
			 2c00 0780 0c00 0100 636f756e74657200
			  1c00 0280 0c00 0100 0000000000000384 0c00 0200 0000000000000007`,
	} {
		b, err := hex.DecodeString(strings.Join(strings.Fields(want), ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(msgs, b) {
			t.Errorf("%s: the bytes are not there", name)
		}
	}
}

func FuzzElements(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1, 10, 0, 0, 9, 6, 6, 0, 80, 0, 90}, "web", true)
	f.Add([]byte("\xff\xff\xff\xff"), "", true)
	f.Add([]byte{}, `"`, false)
	f.Fuzz(func(t *testing.T, raw []byte, comment string, interval bool) {
		take := func(n int) Value {
			v := Value(raw[:min(n, len(raw))])
			raw = raw[len(v):]
			return v
		}
		for _, key := range [][]Type{{IPv4Addr}, {MarkType}, {IPv4Addr, InetProto, InetService}, {IfName, MarkType}} {
			s := Set{Name: "s", Key: key, Data: []Type{InetService}, Interval: interval, Timed: true}
			for len(raw) > 0 && len(s.Elements) < 1000 {
				e := Element{Data: []Value{take(2)}, Comment: comment}
				for _, typ := range key {
					e.Key = append(e.Key, Range{take(typ.size()), take(typ.size())})
				}
				s.Elements = append(s.Elements, e)
			}
			table := &Table{Family: Inet, Name: "t", Sets: []Set{s}}
			text := table.Text()
			if strings.Count(text, `"`)%2 != 0 {
				t.Fatalf("marks do not come in pairs:\n%s", text)
			}
			if table.check() == nil {
				encoded(t, table)
			}
			diff(table, &Table{Family: Inet, Name: "t"})
		}
	})
}

func FuzzAnswers(f *testing.F) {
	b := newBatch(Inet, "t")
	s := small("t", 1, 2, 3).Sets[0]
	b.set(&s)
	answer := binary.NativeEndian.AppendUint32(nil, 0)
	answer = binary.NativeEndian.AppendUint16(answer, unix.NLMSG_ERROR)
	answer = binary.NativeEndian.AppendUint16(answer, unix.NLM_F_CAPPED|unix.NLM_F_ACK_TLVS)
	answer = append(answer, make([]byte, 8)...)
	answer = binary.NativeEndian.AppendUint32(answer, ^uint32(16)) // EEXIST
	answer = append(answer, make([]byte, 16)...)
	answer = binary.NativeEndian.AppendUint16(answer, 8)
	answer = binary.NativeEndian.AppendUint16(answer, unix.NLMSGERR_ATTR_OFFS)
	answer = binary.NativeEndian.AppendUint32(answer, 64)
	binary.NativeEndian.PutUint32(answer, uint32(len(answer)))
	f.Add(answer)
	f.Fuzz(func(t *testing.T, datagram []byte) {
		messages(datagram, func(h *unix.NlMsghdr, body []byte) bool {
			x := extended(h, body)
			for i := range b.steps {
				if b.failure(i, syscall.EEXIST, x).Error() == "" {
					t.Error("an error without words")
				}
			}
			parseReply(h, body)
			return false
		})
	})
}
