package nft

import "encoding/binary"

// Lookup finds the element that a key in registers matches: key is its bytes
// from the first register on, each component filled up to four bytes with
// zeros, as RawLookup sees them; it may be longer. The result is nil where
// there is none. An element for all other keys has no Key itself.
func (s *Set) Lookup(key []byte) *Element {
	var other *Element
	for i := range s.Elements {
		e := &s.Elements[i]
		if len(e.Key) == 0 {
			other = e
		} else if s.matches(e, key) {
			return e
		}
	}
	return other
}

func (s *Set) matches(e *Element, key []byte) bool {
	for i, r := range e.Key {
		n := len(r.First)
		if n > len(key) {
			return false
		}
		at := key[:n]
		// A set of intervals is sorted by memcmp, so its numbers are in
		// network order; others are compared as the registers have them.
		if !s.Interval && i < len(s.Key) {
			at = turned(s.Key[i], at)
		}
		v := Value(at)
		if r.Last == "" && v != r.First || r.Last != "" && (v < r.First || v > r.Last) {
			return false
		}
		key = key[min(len(key), (n+3)&^3):]
	}
	return true
}

// turned is what a register holds for a value of type t, and the other way
// round: marks are this machine's numbers.
func turned(t Type, b []byte) []byte {
	if t != MarkType || len(b) != 4 {
		return b
	}
	return binary.NativeEndian.AppendUint32(nil, binary.BigEndian.Uint32(b))
}

// size is how many bytes a value of the type has; 0: any number.
func (t Type) size() int {
	switch t {
	case IPv4Addr, MarkType:
		return 4
	case IPv6Addr, IfName:
		return 16
	case InetProto, NFProtoType:
		return 1
	case InetService:
		return 2
	}
	return 0
}
