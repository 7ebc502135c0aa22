package sniff

import (
	"errors"
	"fmt"
)

// A Hello is what a TLS client asks for.
type Hello struct {
	// Name is the server name in lower case without a trailing dot; "" when
	// the client gives none. With ECH it is the name of the provider and not
	// of the service.
	Name string

	// ALPN are the protocols offered, as in "h2", in the client's order. They
	// are arbitrary bytes.
	ALPN []string

	// Versions are those offered, as in 0x0304 for TLS 1.3, in the client's
	// order and without GREASE (RFC 8701). A client from before TLS 1.3 offers
	// all up to the only one here.
	Versions []uint16

	// ECH says that the client encrypts another hello inside this one, or
	// pretends to (RFC 9849).
	ECH bool
}

const (
	recordHandshake = 22
	recordHeader    = 5
	maxRecord       = 1 << 14

	typeClientHello = 1
	messageHeader   = 4

	extServerName      = 0
	extALPN            = 16
	extVersions        = 43
	extECH             = 0xfe0d
	nameHost           = 0
	echOuter, echInner = 0, 1
)

// ClientHello reads the first message of a TLS client (RFC 8446 section 4.1.2
// and its forerunners), in as many records as it comes. See the package for
// its errors; [ErrNot] takes two bytes at most.
func ClientHello(b []byte) (Hello, error) {
	msg, err := clientHello(b[:min(len(b), Limit)])
	if err == ErrShort && len(b) >= Limit {
		err = fmt.Errorf("not complete within %d bytes", Limit)
	}
	if err == ErrShort || err == ErrNot {
		return Hello{}, err
	}
	var h Hello
	if err == nil {
		h, err = parseHello(msg)
	}
	if err != nil {
		return Hello{}, fmt.Errorf("TLS ClientHello: %w", err)
	}
	return h, nil
}

// clientHello finds the body of the message in its records. Nothing is put
// together before all of it is there, so that a client that sends it byte by
// byte, in records of one byte, does not cost more than another.
func clientHello(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] != recordHandshake || len(b) > 1 && b[1] != 3 {
		return nil, ErrNot
	}
	var head [messageHeader]byte
	have, need := 0, 0 // bytes of the message with its header; need is 0 before that is there
	for at := 0; ; {
		rest := b[at:]
		switch {
		case len(rest) > 0 && rest[0] != recordHandshake, len(rest) > 1 && rest[1] != 3:
			return nil, errors.New("a record of another kind within it")
		case len(rest) < recordHeader:
			return nil, ErrShort
		}
		size := int(rest[3])<<8 | int(rest[4])
		if size == 0 || size > maxRecord {
			return nil, fmt.Errorf("a record of %d bytes", size)
		}
		data := rest[recordHeader:min(len(rest), recordHeader+size)]
		if have < messageHeader {
			got := have + copy(head[have:], data)
			if got > 0 && head[0] != typeClientHello {
				return nil, fmt.Errorf("a message of type %d in its place", head[0])
			}
			if got == messageHeader {
				need = messageHeader + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
				if need > Limit-recordHeader {
					return nil, fmt.Errorf("it has %d bytes, and %d are looked at", need, Limit)
				}
			}
		}
		// A client has nothing more to say in the clear before the server
		// answers, and what follows is encrypted under another key, which
		// needs a record of its own (RFC 8446 section 5.1).
		if need > 0 && have+size > need {
			return nil, errors.New("another message in the same record")
		}
		if len(data) < size {
			return nil, ErrShort
		}
		have += size
		at += recordHeader + size
		if have == need {
			return body(b[:at], need), nil
		}
	}
}

// body is the message of so many bytes in the records b, without its header.
func body(b []byte, size int) []byte {
	if len(b) == recordHeader+size {
		return b[recordHeader+messageHeader:]
	}
	all := make([]byte, 0, size)
	for len(b) > 0 {
		end := recordHeader + int(b[3])<<8 + int(b[4])
		all = append(all, b[recordHeader:end]...)
		b = b[end:]
	}
	return all[messageHeader:]
}

func parseHello(msg []byte) (Hello, error) {
	c := cursor{b: msg}
	legacy := c.uint16()
	c.take(32) // random
	session := c.vector8()
	ciphers := c.vector16()
	compression := c.vector8()
	if c.bad || len(session) > 32 || len(ciphers) == 0 || len(ciphers)%2 != 0 || len(compression) == 0 {
		return Hello{}, errors.New("lengths that do not fit")
	}
	h := Hello{Versions: []uint16{legacy}}
	if len(c.b) == 0 {
		return h, nil // it had none before RFC 3546
	}
	list := cursor{b: c.vector16()}
	if c.bad || len(c.b) > 0 {
		return Hello{}, errors.New("the length of its extensions does not fit")
	}
	var seen [1 << 16 / 8]byte
	for len(list.b) > 0 {
		kind := list.uint16()
		ext := cursor{b: list.vector16()}
		if list.bad {
			return Hello{}, errors.New("the length of an extension does not fit")
		}
		if seen[kind/8]&(1<<(kind%8)) != 0 {
			return Hello{}, fmt.Errorf("extension %d twice", kind)
		}
		seen[kind/8] |= 1 << (kind % 8)
		if err := h.extension(kind, &ext); err != nil {
			return Hello{}, err
		}
	}
	return h, nil
}

func (h *Hello) extension(kind uint16, ext *cursor) error {
	switch kind {
	case extServerName: // RFC 6066 section 3
		list := cursor{b: ext.vector16()}
		nameType, name := list.uint8(), list.vector16()
		if ext.bad || len(ext.b) > 0 || list.bad || nameType != nameHost || len(list.b) > 0 {
			return errors.New("the server name extension does not have one host name")
		}
		var err error
		if h.Name, err = hostName(string(name)); err != nil {
			return fmt.Errorf("server name %q: %w", quotable(name), err)
		}
	case extALPN: // RFC 7301 section 3.1
		list := cursor{b: ext.vector16()}
		if len(list.b) == 0 {
			return errors.New("an empty list of ALPN protocols")
		}
		for len(list.b) > 0 {
			name := list.vector8()
			if len(name) == 0 {
				return errors.New("an ALPN protocol without a name, or beyond the list")
			}
			h.ALPN = append(h.ALPN, string(name))
		}
		if ext.bad || len(ext.b) > 0 {
			return errors.New("the length of the ALPN protocols does not fit")
		}
	case extVersions: // RFC 8446 section 4.2.1
		list := cursor{b: ext.vector8()}
		if ext.bad || len(ext.b) > 0 || len(list.b) == 0 || len(list.b)%2 != 0 {
			return errors.New("the length of the supported versions does not fit")
		}
		h.Versions = nil
		for len(list.b) > 0 {
			if v := list.uint16(); !isGREASE(v) {
				h.Versions = append(h.Versions, v)
			}
		}
	case extECH: // RFC 9849 section 5
		switch kind := ext.uint8(); {
		case !ext.bad && kind == echOuter:
			ext.take(2 + 2 + 1) // cipher suite and key
			ext.vector16()      // encapsulated key, empty in a second hello
			if payload := ext.vector16(); ext.bad || len(payload) == 0 || len(ext.b) > 0 {
				return errors.New("the length of the encrypted hello does not fit")
			}
			h.ECH = true
		case !ext.bad && kind == echInner && len(ext.b) == 0:
			// The provider has decrypted it for us: its name is the service's.
		default:
			return errors.New("an encrypted hello of an unknown kind")
		}
	}
	return nil
}

// isGREASE reports whether v is one of the sixteen values 0x0A0A to 0xFAFA that
// stand for nothing (RFC 8701 section 2).
func isGREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff }

// quotable is as much of a client's bytes as an error repeats.
func quotable(b []byte) []byte { return b[:min(len(b), 253)] }

// A cursor takes bytes from the front of b. Past the end it gives zeros and
// empty slices and is bad from then on.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) uint8() int {
	b := c.take(1)
	if b == nil {
		return 0
	}
	return int(b[0])
}

func (c *cursor) uint16() uint16 {
	b := c.take(2)
	if b == nil {
		return 0
	}
	return uint16(b[0])<<8 | uint16(b[1])
}

func (c *cursor) vector8() []byte  { return c.take(c.uint8()) }
func (c *cursor) vector16() []byte { return c.take(int(c.uint16())) }
