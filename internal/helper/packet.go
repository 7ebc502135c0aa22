package helper

import (
	"encoding/binary"
	"net/netip"
)

// appendUDP appends an IPv4 packet with a UDP datagram to b (RFC 791, RFC 768).
// The payload has at most 65507 bytes.
func appendUDP(b []byte, from, to netip.AddrPort, hops uint8, payload []byte) []byte {
	start := len(b)
	src, dst := from.Addr().As4(), to.Addr().As4()
	b = append(b, 4<<4|5, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(20+8+len(payload)))
	b = append(b, 0, 0, 0, 0, hops, 17, 0, 0)
	b = append(append(b, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(b[start+10:], ^sum(0, b[start:]))
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	pseudo := sum(sum(0, b[start+12:start+20]), []byte{0, 17, b[at+4], b[at+5]})
	check := ^sum(pseudo, b[at:])
	if check == 0 { // which would say that there is none
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[at+6:], check)
	return b
}

// sum adds the 16-bit words of b to s, carries around (RFC 1071).
func sum(s uint16, b []byte) uint16 {
	n := uint32(s)
	for ; len(b) > 1; b = b[2:] {
		n += uint32(b[0])<<8 | uint32(b[1])
		n = n>>16 + n&0xffff
	}
	if len(b) == 1 {
		n += uint32(b[0]) << 8
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}
