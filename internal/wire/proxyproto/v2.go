package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
)

const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	fixed     = len(signature) + 4 // bytes before the addresses

	maxUniqueID = 128
	maxUnixPath = 108
	lenInet     = 2*4 + 2*2
	lenInet6    = 2*16 + 2*2
	lenUnix     = 2 * maxUnixPath
)

// The 13th byte: version 2 and a command.
const (
	cmdLocal = 0x20
	cmdProxy = 0x21
)

// Families are the high half of the 14th byte, transports the low one.
const (
	familyInet  = 0x10
	familyInet6 = 0x20
	familyUnix  = 0x30

	transportStream = 0x01
	transportDgram  = 0x02
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseV2 reads a binary header (spec section 2.2).
func parseV2(b []byte) (Header, int, error) {
	if k := min(len(b), len(signature)); string(b[:k]) != signature[:k] {
		return Header{}, 0, ErrAbsent
	}
	if len(b) > 12 && b[12] != cmdLocal && b[12] != cmdProxy {
		if b[12]>>4 != 2 {
			return Header{}, 0, fmt.Errorf("PROXY protocol: binary header of version %d, not 2", b[12]>>4)
		}
		return Header{}, 0, fmt.Errorf("PROXY protocol: unknown command %d", b[12]&15)
	}
	if len(b) < 14 {
		return Header{}, fixed, ErrShort
	}
	h := Header{Version: 2, Local: b[12] == cmdLocal}
	network, addrs, known := familyOf(b[13])
	if !known && !h.Local {
		return Header{}, 0, fmt.Errorf("PROXY protocol: unknown family and transport %#02x", b[13])
	}
	if len(b) < fixed {
		return Header{}, fixed, ErrShort
	}
	n := fixed + int(binary.BigEndian.Uint16(b[14:]))
	told := !h.Local && network != ""
	if told && n < fixed+addrs {
		return Header{}, 0, fmt.Errorf("PROXY protocol: %d bytes are too few for the addresses of %s", n-fixed, network)
	}
	if len(b) < n {
		return Header{}, n, ErrShort
	}
	if told {
		h.Network = network
		h.readAddrs(b[fixed:n], b[13])
	}
	if err := h.readTLVs(b[:n], fixed+addrs, told); err != nil {
		return Header{}, 0, fmt.Errorf("PROXY protocol: %w", err)
	}
	return h, n, nil
}

// familyOf explains the 14th byte: the network, the length of the addresses,
// and whether it is one of the seven that the spec expects. A family without
// its transport, or the reverse, is not: there is no telling what follows.
func familyOf(fam byte) (network string, addrs int, known bool) {
	switch fam {
	case 0:
		return "", 0, true
	case familyInet | transportStream:
		return "tcp", lenInet, true
	case familyInet | transportDgram:
		return "udp", lenInet, true
	case familyInet6 | transportStream:
		return "tcp", lenInet6, true
	case familyInet6 | transportDgram:
		return "udp", lenInet6, true
	case familyUnix | transportStream:
		return "unix", lenUnix, true
	case familyUnix | transportDgram:
		return "unixgram", lenUnix, true
	}
	return "", 0, false
}

// readAddrs reads the addresses at the beginning of the block.
func (h *Header) readAddrs(b []byte, fam byte) {
	port := binary.BigEndian.Uint16
	switch fam &^ 15 {
	case familyInet:
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), port(b[8:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port(b[10:]))
	case familyInet6:
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), port(b[32:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[16:])).Unmap(), port(b[34:]))
	case familyUnix:
		h.SourcePath = unixPath(b[:maxUnixPath])
		h.DestPath = unixPath(b[maxUnixPath:lenUnix])
	}
}

// unixPath is a path up to its NUL; an abstract name, which begins with one,
// loses the NULs that fill its field, for its length is not told.
func unixPath(b []byte) string {
	if b[0] == 0 {
		return string(bytes.TrimRight(b, "\x00"))
	}
	path, _, _ := bytes.Cut(b, []byte{0})
	return string(path)
}

// readTLVs reads the TLVs of the whole header b from offset at on, and checks
// the checksum. Where the endpoints are not told, the spec lets a sender put
// anything into the block: what is not a list of TLVs is then ignored, but a
// checksum still has to be right.
func (h *Header) readTLVs(b []byte, at int, strict bool) error {
	if at >= len(b) {
		return nil
	}
	count, sum := 0, -1
	for i := at; i < len(b); count++ {
		end := i + 3
		if end <= len(b) {
			end += int(binary.BigEndian.Uint16(b[i+1:]))
		}
		var err error
		switch {
		case end > len(b):
			err = errors.New("a TLV goes beyond the header")
		case b[i] == TypeUniqueID && end-i-3 > maxUniqueID:
			err = fmt.Errorf("the unique ID has %d bytes, more than %d", end-i-3, maxUniqueID)
		case b[i] == TypeCRC32C && end-i-3 != 4:
			err = fmt.Errorf("the CRC32C checksum has %d bytes, not 4", end-i-3)
		case b[i] == TypeCRC32C && sum >= 0:
			err = errors.New("there are two CRC32C checksums")
		}
		if err != nil {
			if !strict {
				return nil
			}
			return err
		}
		if b[i] == TypeCRC32C {
			sum = i + 3
		}
		i = end
	}
	if sum >= 0 {
		if checksum(b, sum) != binary.BigEndian.Uint32(b[sum:]) {
			return errors.New("the CRC32C checksum is wrong")
		}
		h.Checksum = true
		count--
	}
	if count == 0 {
		return nil
	}
	own := bytes.Clone(b[at:])
	h.TLVs = make([]TLV, 0, count)
	for len(own) > 0 {
		end := 3 + int(binary.BigEndian.Uint16(own[1:]))
		if own[0] != TypeCRC32C {
			h.TLVs = append(h.TLVs, TLV{own[0], own[3:end:end]})
		}
		own = own[end:]
	}
	return nil
}

// checksum is the CRC32C of a header whose checksum at b[at:at+4] counts as
// zero (spec section 2.2.3).
func checksum(b []byte, at int) uint32 {
	sum := crc32.Update(0, castagnoli, b[:at])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, b[at+4:])
}

// AppendV2 appends h as a header of version 2 to b. Where the endpoints are
// not told it is LOCAL or, without h.Local, PROXY for an unspecified family;
// TLVs and checksum are written with either. An IPv4 address beside an IPv6
// one is mapped into IPv6; zones are left out. The header should leave in one
// segment ahead of all data, or in one datagram with its payload; above 536
// bytes that may not be possible on every path.
//
// It fails, and returns b as it was, when h does not fit into a header: an
// address is missing or too long, a TLV is, or all are together.
func AppendV2(b []byte, h *Header) ([]byte, error) {
	start := len(b)
	out := append(b, signature...)
	out = append(out, cmdProxy, 0, 0, 0)
	if h.Local {
		out[start+12] = cmdLocal
	} else {
		var err error
		if out, err = appendAddrs(out, start+13, h); err != nil {
			return b, fmt.Errorf("PROXY protocol: %w", err)
		}
	}
	sum := 0
	if h.Checksum {
		out = append(out, TypeCRC32C, 0, 4, 0, 0, 0, 0)
		sum = len(out) - 4
	}
	for _, t := range h.TLVs {
		switch {
		case t.Type == TypeCRC32C:
			return b, errors.New("PROXY protocol: the checksum is no TLV of the caller's")
		case t.Type == TypeUniqueID && len(t.Value) > maxUniqueID:
			return b, fmt.Errorf("PROXY protocol: the unique ID has %d bytes, more than %d", len(t.Value), maxUniqueID)
		case len(out)-start+3+len(t.Value) > MaxHeader:
			return b, fmt.Errorf("PROXY protocol: the TLVs make the header longer than %d bytes", MaxHeader)
		}
		out = append(out, t.Type, byte(len(t.Value)>>8), byte(len(t.Value)))
		out = append(out, t.Value...)
	}
	header := out[start:]
	binary.BigEndian.PutUint16(header[14:], uint16(len(header)-fixed))
	if h.Checksum {
		binary.BigEndian.PutUint32(out[sum:], checksum(header, sum-start))
	}
	return out, nil
}

// appendAddrs appends the addresses and writes the family into b[fam].
func appendAddrs(b []byte, fam int, h *Header) ([]byte, error) {
	transport := byte(transportStream)
	switch h.Network {
	case "":
		return b, nil
	case "tcp":
	case "udp":
		transport = transportDgram
	case "unixgram", "unix":
		if h.Network == "unixgram" {
			transport = transportDgram
		}
		b[fam] = familyUnix | transport
		for _, path := range []string{h.SourcePath, h.DestPath} {
			if len(path) > maxUnixPath || strings.IndexByte(path, 0) > 0 {
				return b, fmt.Errorf("%q is no path of a unix socket of at most %d bytes", path, maxUnixPath)
			}
			b = append(b, path...)
			b = append(b, make([]byte, maxUnixPath-len(path))...)
		}
		return b, nil
	default:
		return b, fmt.Errorf("the network %q has no name in the protocol", h.Network)
	}
	src, dst := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	switch {
	case !src.IsValid() || !dst.IsValid():
		return b, errors.New("an address is missing")
	case src.Is4() && dst.Is4():
		b[fam] = familyInet | transport
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
	default:
		b[fam] = familyInet6 | transport
		s16, d16 := src.As16(), dst.As16()
		b = append(b, s16[:]...)
		b = append(b, d16[:]...)
	}
	b = binary.BigEndian.AppendUint16(b, h.Source.Port())
	return binary.BigEndian.AppendUint16(b, h.Destination.Port()), nil
}
