package nft

import (
	"encoding/binary"
	"strings"
)

// attrs are the netlink attributes of one message or nest by their number
// (netlink(7), libnl's attribute encoding): the last of each, nil for one that
// is not there. Numbers beyond are newer than what is read here.
type attrs [32][]byte

// attributes parses b. What is cut off or malformed is left out; nothing of b
// is copied.
func attributes(b []byte) (a attrs) {
	each(b, func(kind int, value []byte) {
		if kind < len(a) {
			a[kind] = value
		}
	})
	return a
}

// each calls f for each attribute of b, and ends where b is not sound.
func each(b []byte, f func(kind int, value []byte)) {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return
		}
		kind := int(binary.NativeEndian.Uint16(b[2:]) &^ (3 << 14)) // NLA_F_NESTED, NLA_F_NET_BYTEORDER
		f(kind, b[4:size:size])
		b = b[min(len(b), (size+3)&^3):]
	}
}

func (a *attrs) has(n int) bool { return a[n] != nil }

// nest is the attributes within an attribute.
func (a *attrs) nest(n int) attrs { return attributes(a[n]) }

// Numbers are in network order in nf_tables, and 0 where there is none.

func (a *attrs) u8(n int) uint8 {
	if len(a[n]) < 1 {
		return 0
	}
	return a[n][0]
}

func (a *attrs) u16(n int) uint16 {
	if len(a[n]) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(a[n])
}

func (a *attrs) u32(n int) uint32 {
	if len(a[n]) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a[n])
}

func (a *attrs) u64(n int) uint64 {
	if len(a[n]) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(a[n])
}

// str is a string up to its zero byte.
func (a *attrs) str(n int) string { return cString(a[n]) }

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// count is a number that is to be a length, bounded by what a register file can
// hold and more.
func (a *attrs) count(n int) int { return int(min(a.u32(n), 1<<16)) }
