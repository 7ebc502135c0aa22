package proxyproto

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const (
	prefixV1 = "PROXY "
	shortest = len("PROXY UNKNOWN\r\n")
)

// parseV1 reads a line (spec section 2.1). The end of the line is found before
// anything in it is looked at, as the section demands.
func parseV1(b []byte) (Header, int, error) {
	if k := min(len(b), len(prefixV1)); string(b[:k]) != prefixV1[:k] {
		return Header{}, 0, ErrAbsent
	}
	end := bytes.IndexAny(b[:min(len(b), MaxV1-1)], "\r\n")
	switch {
	case end < 0 && len(b) >= MaxV1-1:
		return Header{}, 0, fmt.Errorf("PROXY protocol: no end of line within %d bytes", MaxV1)
	case end < 0:
		return Header{}, max(shortest, len(b)+len("\r\n")), ErrShort
	case b[end] == '\r' && end+1 == len(b):
		return Header{}, max(shortest, len(b)+1), ErrShort
	case b[end] == '\n' || b[end+1] != '\n':
		// It never ends the line, and is no part of it either: who took it
		// for the end would see other bytes behind it.
		return Header{}, 0, errors.New("PROXY protocol: a single CR or LF in the line")
	}
	h, err := decodeV1(string(b[len(prefixV1):end]))
	if err != nil {
		return Header{}, 0, fmt.Errorf("PROXY protocol: line %q: %w", b[:end], err)
	}
	return h, end + 2, nil
}

// decodeV1 reads what stands between "PROXY " and CRLF.
func decodeV1(s string) (Header, error) {
	h := Header{Version: 1}
	word, rest, more := strings.Cut(s, " ")
	switch word {
	case "UNKNOWN":
		return h, nil // and whatever follows is ignored
	case "TCP4", "TCP6":
	default:
		return h, errors.New("the protocol is not TCP4, TCP6 or UNKNOWN")
	}
	f := strings.Split(rest, " ")
	if !more || len(f) != 4 {
		return h, errors.New("not two addresses and two ports with single spaces between them")
	}
	var err error
	if h.Source, err = addrPortV1(f[0], f[2], word == "TCP6"); err != nil {
		return h, fmt.Errorf("source %w", err)
	}
	if h.Destination, err = addrPortV1(f[1], f[3], word == "TCP6"); err != nil {
		return h, fmt.Errorf("destination %w", err)
	}
	h.Network = "tcp"
	return h, nil
}

// addrPortV1 takes IPv4 in canonical form, as netip does, and any form of IPv6,
// the one with an IPv4 address at the end included: HAProxy writes it so.
func addrPortV1(addr, port string, six bool) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" || a.Is6() != six {
		return netip.AddrPort{}, errors.New("address is not one of the family")
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(p, 10) != port {
		return netip.AddrPort{}, errors.New("port is not a decimal number from 0 to 65535")
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// AppendV1 appends h as a header of version 1 to b. That version knows TCP
// only, between addresses of one family, so an IPv4 address beside an IPv6
// one is mapped into IPv6. Whatever it cannot say, UDP and unix sockets among
// them, becomes UNKNOWN (spec section 2.1); TLVs are left out. The header
// should leave in one segment, ahead of all data.
func AppendV1(b []byte, h *Header) []byte {
	src, dst := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	if h.Local || h.Network != "tcp" || !src.IsValid() || !dst.IsValid() {
		return append(b, "PROXY UNKNOWN\r\n"...)
	}
	if src.Is4() && dst.Is4() {
		b = append(b, "PROXY TCP4 "...)
		b = src.AppendTo(b)
		b = append(b, ' ')
		b = dst.AppendTo(b)
	} else {
		b = append(b, "PROXY TCP6 "...)
		b = appendAddr6(b, src)
		b = append(b, ' ')
		b = appendAddr6(b, dst)
	}
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(h.Source.Port()), 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(h.Destination.Port()), 10)
	return append(b, "\r\n"...)
}

// appendAddr6 writes an address as groups of hexadecimal digits, the only form
// of IPv6 that the spec describes, without a zone.
func appendAddr6(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v4 := a.As4()
		return fmt.Appendf(b, "::ffff:%x:%x", uint16(v4[0])<<8|uint16(v4[1]), uint16(v4[2])<<8|uint16(v4[3]))
	}
	return a.WithZone("").AppendTo(b)
}
