// Package proxyproto reads and writes the headers of the PROXY protocol,
// versions 1 and 2, with which a proxy tells the next hop who its client is
// (doc/proxy-protocol.txt of HAProxy; sections are cited as "spec").
//
// It is bytes in, values out. It never decides whether a header is there:
// section 2 of the spec forbids guessing, because a client could then choose
// the address it appears to come from. A caller that expects a header, from
// peers it trusts and within a time of at least 3 s, calls [Parse], and closes
// the connection on every error but [ErrShort].
package proxyproto

import (
	"errors"
	"net/netip"
)

// A Header is what a proxy says about one connection or datagram.
type Header struct {
	Version int // 1 or 2, the one that was read; the writers do not look at it

	// Local says that the proxy speaks for itself, as in a health check. The
	// endpoints are then those of the connection itself, and Network is "".
	Local bool

	// Network is "tcp", "udp", "unix" or "unixgram" for the conversation
	// between the client and the proxy, whatever carries the header. "" means
	// that the endpoints are not told (version 1 UNKNOWN, version 2 LOCAL and
	// UNSPEC): those of the connection itself hold.
	Network string

	// Source is the client, Destination what it asked for: for tcp and udp.
	// An IPv4 address mapped into IPv6 is given as IPv4, so that address lists
	// cannot be walked around. A port may be 0.
	Source, Destination netip.AddrPort

	// SourcePath and DestPath are the same for unix and unixgram: at most 108
	// bytes. A path that begins with NUL is a name in Linux's abstract space;
	// "" is a socket without a name.
	SourcePath, DestPath string

	// Checksum says that the header carried a CRC32C, which was right; a
	// writer adds one.
	Checksum bool

	// TLVs are the additions of version 2 in the order sent, without the
	// checksum. They hold their own copy of the bytes.
	TLVs []TLV
}

// A TLV is one addition to a header of version 2: at most 65,535 bytes, and no
// more than that together with the addresses and the other TLVs.
type TLV struct {
	Type  byte
	Value []byte
}

// TLV is the value of the first addition of that type, and whether there is
// one.
func (h *Header) TLV(kind byte) ([]byte, bool) {
	for _, t := range h.TLVs {
		if t.Type == kind {
			return t.Value, true
		}
	}
	return nil, false
}

// Types of TLVs (spec section 2.2). 0xE0 to 0xEF are for applications.
const (
	TypeALPN      = 0x01 // protocol chosen by TLS, as in RFC 7301
	TypeAuthority = 0x02 // host name that the client gave, such as the SNI
	TypeCRC32C    = 0x03 // see [Header.Checksum]
	TypeNoop      = 0x04 // padding
	TypeUniqueID  = 0x05 // opaque, at most 128 bytes
	TypeSSL       = 0x20 // one byte of Client flags, uint32 verify result, TLVs of SSL types
	TypeNetNS     = 0x30 // name of a network namespace

	TypeMinCustom = 0xE0
	TypeMaxCustom = 0xEF
)

// Types of the TLVs inside the value of TypeSSL, from its sixth byte on. All
// are text but the last, which is a certificate in DER.
const (
	TypeSSLVersion    = 0x21
	TypeSSLCommonName = 0x22
	TypeSSLCipher     = 0x23
	TypeSSLSigAlg     = 0x24
	TypeSSLKeyAlg     = 0x25
	TypeSSLGroup      = 0x26
	TypeSSLSigScheme  = 0x27
	TypeSSLClientCert = 0x28
)

// Flags in the first byte of the value of TypeSSL.
const (
	ClientSSL            = 0x01
	ClientCertConnection = 0x02
	ClientCertSession    = 0x04
)

// MaxV1 and MaxHeader are the longest headers, in bytes: the line of version
// 1 with its CRLF, and any.
const (
	MaxV1     = 107
	MaxHeader = fixed + 1<<16 - 1
)

var (
	// ErrShort says that b is the beginning of a header and more of it is
	// needed.
	ErrShort = errors.New("PROXY protocol: the header is not complete")
	// ErrAbsent says that the bytes do not begin like a header at all: the
	// peer does not speak the protocol.
	ErrAbsent = errors.New("PROXY protocol: the peer began without a header")
)

// Parse reads the header at the beginning of a stream. It returns the header
// and its length n; what follows b[:n] belongs to the conversation.
//
// With [ErrShort], n is a length that the header has at the least, greater
// than len(b): who reads until that many bytes are there, and then asks again,
// never takes a byte of what follows. Every other error is final, and comes as
// soon as the bytes show it; what was decided for b holds for every longer b,
// however the bytes arrived.
func Parse(b []byte) (h Header, n int, err error) {
	if len(b) == 0 {
		return Header{}, shortest, ErrShort
	}
	if b[0] == signature[0] {
		return parseV2(b)
	}
	return parseV1(b)
}

// ParseDatagram reads the header of a datagram and returns what follows it,
// which may be empty. Each datagram has a header of its own, and all of it: a
// part of one is an error and never [ErrShort]. The header's Network may be
// "tcp": a proxy may ask by UDP on behalf of a client that came by TCP.
func ParseDatagram(b []byte) (h Header, payload []byte, err error) {
	h, n, err := Parse(b)
	if err == ErrShort {
		return Header{}, nil, errors.New("PROXY protocol: the datagram ends within the header")
	}
	if err != nil {
		return Header{}, nil, err
	}
	return h, b[n:], nil
}
