// Package packet builds and reads the headers of single packets: IPv4 (RFC 791)
// and IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768), and which packet an ICMP
// error is about (RFC 792, RFC 4443). It is for probes, and for what a trace
// shows of a packet; it is no protocol stack: no options, no fragments, no
// extension headers.
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// The protocols, by their numbers.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Flags of TCP.
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	ACK = 0x10
)

// A Packet is what the headers of one say. Its addresses are both of one family.
type Packet struct {
	Proto    uint8
	Src, Dst netip.AddrPort // the ports are 0 for ICMP
	Flags    uint8          // of TCP
	Seq, Ack uint32         // of TCP

	// Of an ICMP error: its type and code.
	Type, Code uint8
}

const (
	hopLimit = 64
	window   = 64240
)

// Append appends the packet with the payload to b: TCP or UDP, with checksums.
func (p *Packet) Append(b, payload []byte) ([]byte, error) {
	src, dst := p.Src.Addr().Unmap(), p.Dst.Addr().Unmap()
	if src.Is4() != dst.Is4() || !src.IsValid() || !dst.IsValid() {
		return nil, errors.New("packet: the addresses are of different families")
	}
	var head []byte
	switch p.Proto {
	case TCP:
		head = make([]byte, 20)
		binary.BigEndian.PutUint32(head[4:], p.Seq)
		binary.BigEndian.PutUint32(head[8:], p.Ack)
		head[12] = 5 << 4
		head[13] = p.Flags
		binary.BigEndian.PutUint16(head[14:], window)
	case UDP:
		head = make([]byte, 8)
		binary.BigEndian.PutUint16(head[4:], uint16(8+len(payload)))
	default:
		return nil, errors.New("packet: neither TCP nor UDP")
	}
	binary.BigEndian.PutUint16(head, p.Src.Port())
	binary.BigEndian.PutUint16(head[2:], p.Dst.Port())
	body := append(head, payload...)
	if len(body) > 1200 {
		return nil, errors.New("packet: more than 1200 bytes")
	}
	sum := checksum(0, src.AsSlice())
	sum = checksum(sum, dst.AsSlice())
	sum = checksum(sum, []byte{0, p.Proto, byte(len(body) >> 8), byte(len(body))})
	at := 16
	if p.Proto == UDP {
		at = 6
	}
	check := fold(checksum(sum, body))
	if check == 0 && p.Proto == UDP { // 0 says that there is none
		check = 0xffff
	}
	binary.BigEndian.PutUint16(body[at:], check)
	if src.Is4() {
		ip := make([]byte, 20)
		ip[0] = 4<<4 | 5
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(body)))
		ip[6] = 0x40 // do not fragment
		ip[8], ip[9] = hopLimit, p.Proto
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], fold(checksum(0, ip)))
		b = append(b, ip...)
	} else {
		ip := make([]byte, 40)
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
		ip[6], ip[7] = p.Proto, hopLimit
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
		b = append(b, ip...)
	}
	return append(b, body...), nil
}

// checksum adds the 16-bit words of b to sum (RFC 1071).
func checksum(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Read is what the two headers say, which may be cut short: what is not there
// is 0. ok is false where not even the addresses are there.
func Read(network, transport []byte) (p Packet, ok bool) {
	if len(network) == 0 {
		return p, false
	}
	var src, dst netip.Addr
	switch v := network[0] >> 4; {
	case v == 4 && len(network) >= 20:
		p.Proto = network[9]
		src, _ = netip.AddrFromSlice(network[12:16])
		dst, _ = netip.AddrFromSlice(network[16:20])
	case v == 6 && len(network) >= 40:
		p.Proto = network[6]
		src, _ = netip.AddrFromSlice(network[8:24])
		dst, _ = netip.AddrFromSlice(network[24:40])
	default:
		return p, false
	}
	var sport, dport uint16
	switch p.Proto {
	case TCP, UDP:
		if len(transport) >= 4 {
			sport, dport = binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
		}
		if p.Proto == TCP && len(transport) >= 14 {
			p.Seq, p.Ack = binary.BigEndian.Uint32(transport[4:]), binary.BigEndian.Uint32(transport[8:])
			p.Flags = transport[13]
		}
	case ICMP, ICMPv6:
		if len(transport) >= 2 {
			p.Type, p.Code = transport[0], transport[1]
		}
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return p, true
}
