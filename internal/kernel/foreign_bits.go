package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"fairlead/internal/sys/nft"
)

// bits are bytes of which some bits are not known: those that known has not
// set. Unknown bits of value are 0.
type bits struct {
	value, known []byte
}

// sure are bytes that are known.
func sure(b []byte) bits {
	return bits{b, bytes.Repeat([]byte{0xff}, len(b))}
}

// mostBytes is more than any register, header or struct has that is looked at.
const mostBytes = 1024

// unsure are n bytes of which nothing is known.
func unsure(n int) bits {
	n = min(max(n, 0), mostBytes)
	return bits{make([]byte, n), make([]byte, n)}
}

func (b bits) len() int { return len(b.value) }

// slice are n bytes from the one at; those beyond the end are not known.
func (b bits) slice(at, n int) bits {
	s := unsure(n)
	if at >= 0 && at < b.len() {
		copy(s.value, b.value[at:])
		copy(s.known, b.known[at:])
	}
	return s
}

func (b bits) with(more ...bits) bits {
	out := bits{slices.Clone(b.value), slices.Clone(b.known)}
	for _, m := range more {
		out.value = append(out.value, m.value...)
		out.known = append(out.known, m.known...)
	}
	return out
}

func (b bits) whole() bool {
	for _, k := range b.known {
		if k != 0xff {
			return false
		}
	}
	return true
}

// maybe is the answer of a test: yes, no, or not known.
type maybe uint8

const (
	no maybe = iota
	yes
	unknown
)

func of(b bool) maybe {
	if b {
		return yes
	}
	return no
}

func (m maybe) not() maybe {
	switch m {
	case yes:
		return no
	case no:
		return yes
	}
	return unknown
}

// and is no where either is.
func (m maybe) and(o maybe) maybe {
	switch {
	case m == no || o == no:
		return no
	case m == yes && o == yes:
		return yes
	}
	return unknown
}

// equal compares with bytes of the same length.
func (b bits) equal(d []byte) maybe {
	if len(d) != b.len() {
		return unknown
	}
	for i := range d {
		if (b.value[i]^d[i])&b.known[i] != 0 {
			return no
		}
	}
	if b.whole() {
		return yes
	}
	return unknown
}

// low and high are the least and the greatest that b may be, as memcmp orders.
func (b bits) low() []byte { return b.value }

func (b bits) high() []byte {
	h := slices.Clone(b.value)
	for i := range h {
		h[i] |= ^b.known[i]
	}
	return h
}

// less reports whether b is before d, or with orEqual not behind it.
func (b bits) less(d []byte, orEqual bool) maybe {
	if len(d) != b.len() {
		return unknown
	}
	most, least := bytes.Compare(b.high(), d), bytes.Compare(b.low(), d)
	if orEqual {
		most, least = most-1, least-1
	}
	switch {
	case most < 0:
		return yes
	case least >= 0:
		return no
	}
	return unknown
}

// within reports whether b is from first to last, inclusive.
func (b bits) within(first, last []byte) maybe {
	return b.less(first, false).not().and(b.less(last, true))
}

// addrBits are an address's bytes, n unknown ones for the zero Addr.
func addrBits(a netip.Addr, n int) bits {
	if a = a.Unmap(); a.IsValid() && a.BitLen() == n*8 {
		return sure(a.AsSlice())
	}
	return unsure(n)
}

// portBits are a port in network order, unknown for 0.
func portBits(p uint16) bits {
	if p == 0 {
		return unsure(2)
	}
	return sure([]byte{byte(p >> 8), byte(p)})
}

func native32(v uint32) bits { return sure(binary.NativeEndian.AppendUint32(nil, v)) }

// nameBits are an interface's name as the kernel has it; "" is not known.
func nameBits(name string) bits {
	if name == "" {
		return unsure(16)
	}
	return sure([]byte(nft.Name(name)))
}

// find looks for a key in a set. Of the elements that may be meant, hits are
// the ones; found says whether one of them is.
func find(s *nft.Set, key bits) (found maybe, hits []*nft.Element) {
	if s.Partial {
		return unknown, nil
	}
	key = key.slice(0, keyLen(s))
	if key.whole() {
		if e := s.Lookup(key.value); e != nil {
			return yes, []*nft.Element{e}
		}
		return no, nil
	}
	var other *nft.Element
	for i := range s.Elements {
		e := &s.Elements[i]
		if len(e.Key) == 0 {
			other = e
			continue
		}
		switch meets(s, e, key) {
		case yes:
			return yes, []*nft.Element{e}
		case unknown:
			found, hits = unknown, append(hits, e)
		}
	}
	if other != nil {
		return yes, append(hits, other)
	}
	return found, hits
}

// keyLen is how many bytes of registers the keys of a set have.
func keyLen(s *nft.Set) int {
	n := 0
	for i := range s.Elements {
		for k, r := range s.Elements[i].Key {
			if k > 0 {
				n = (n + 3) &^ 3
			}
			n += len(r.First)
		}
		if n > 0 {
			break
		}
	}
	return n
}

// meets reports whether a key is an element's.
func meets(s *nft.Set, e *nft.Element, key bits) maybe {
	all, at := yes, 0
	for i, r := range e.Key {
		n := len(r.First)
		part := key.slice(at, n)
		if !s.Interval && i < len(s.Key) && s.Key[i] == nft.MarkType {
			slices.Reverse(part.value) // the element is in network order
			slices.Reverse(part.known)
			if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
				slices.Reverse(part.value)
				slices.Reverse(part.known)
			}
		}
		if r.Last == "" {
			all = all.and(part.equal([]byte(r.First)))
		} else {
			all = all.and(part.within([]byte(r.First), []byte(r.Last)))
		}
		at += (n + 3) &^ 3
	}
	return all
}
