// Package dhcp reads and changes the messages of DHCP as a relay agent does: for
// IPv4 the header of BOOTP (RFC 951, RFC 1542), the options' list (RFC 2132) and
// the relay agent's option 82 (RFC 3046); for IPv6 the envelope in which relay
// agents pass messages on (RFC 8415 section 9). It is no client and no server:
// what a lease is, it does not know.
package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// The ports of RFC 2131 and RFC 8415.
const (
	ServerPort  = 67
	ClientPort  = 68
	ServerPort6 = 547
	ClientPort6 = 546
)

// What Op says.
const (
	Request = 1 // from a client to servers
	Reply   = 2 // from a server to a client
)

// Options of IPv4, and what of option 82 is used here.
const (
	optPad       = 0
	optOverload  = 52
	optType      = 53
	optRelayInfo = 82
	optEnd       = 255

	subCircuit = 1
)

// The fields' places in a message (RFC 2131 section 2).
const (
	atHops    = 3
	atXID     = 4
	atFlags   = 10
	atCIAddr  = 12
	atYIAddr  = 16
	atGIAddr  = 24
	atCHAddr  = 28
	atSName   = 44
	atFile    = 108
	atCookie  = 236
	atOptions = 240

	broadcastFlag = 1 << 15

	// leastLen is the length of a message of BOOTP (RFC 951 section 3); some
	// clients take no shorter one.
	leastLen = 300
)

// MaxLen is the longest message that leaves with one more option: it fits a
// packet of Ethernet (1500 bytes less the headers of IP and UDP).
const MaxLen = 1500 - 28

var cookie = [4]byte{99, 130, 83, 99}

// ErrNoRoom says that an option does not fit.
var ErrNoRoom = errors.New("no room for another option")

// A Message is one of DHCP or BOOTP for IPv4. It is a view of the bytes it was
// read from: setting a field writes there.
type Message struct {
	b       []byte
	options []byte // what stands behind the cookie; nil for BOOTP without it
}

// Parse reads a message, and checks that the lists of options can be walked
// through to their ends.
func Parse(b []byte) (Message, error) {
	if len(b) < atCookie {
		return Message{}, fmt.Errorf("a message of %d bytes, the header alone has %d", len(b), atCookie)
	}
	m := Message{b: b}
	if op := m.Op(); op != Request && op != Reply {
		return Message{}, fmt.Errorf("neither a request nor a reply: op %d", op)
	}
	if b[2] > 16 {
		return Message{}, fmt.Errorf("a hardware address of %d bytes, 16 are there", b[2])
	}
	if len(b) < atOptions || [4]byte(b[atCookie:]) != cookie {
		return m, nil
	}
	m.options = b[atOptions:]
	if _, err := walk(m.options, nil); err != nil {
		return Message{}, err
	}
	return m, nil
}

// Bytes is the message as it stands, without a copy.
func (m Message) Bytes() []byte { return m.b }

// Op is Request or Reply.
func (m Message) Op() byte { return m.b[0] }

// Hops is how many relay agents have passed the message on.
func (m Message) Hops() byte { return m.b[atHops] }

// SetHops sets Hops.
func (m Message) SetHops(n byte) { m.b[atHops] = n }

// XID is the number by which a client knows the answers to its request.
func (m Message) XID() uint32 { return binary.BigEndian.Uint32(m.b[atXID:]) }

// Broadcast reports whether the client cannot take a unicast before it has its
// address (RFC 2131 section 4.1).
func (m Message) Broadcast() bool {
	return binary.BigEndian.Uint16(m.b[atFlags:])&broadcastFlag != 0
}

// Client is the address that a client has already, 0.0.0.0 without one.
func (m Message) Client() netip.Addr { return m.addr(atCIAddr) }

// Your is the address that the server gives, 0.0.0.0 for none.
func (m Message) Your() netip.Addr { return m.addr(atYIAddr) }

// Gateway is the address of the first relay agent, 0.0.0.0 before it.
func (m Message) Gateway() netip.Addr { return m.addr(atGIAddr) }

// SetGateway sets Gateway to an IPv4 address.
func (m Message) SetGateway(a netip.Addr) { copy(m.b[atGIAddr:], a.AsSlice()) }

func (m Message) addr(at int) netip.Addr { return netip.AddrFrom4([4]byte(m.b[at : at+4])) }

// Hardware is the client's hardware type (1 is Ethernet) and address.
func (m Message) Hardware() (kind byte, addr []byte) {
	return m.b[1], m.b[atCHAddr : atCHAddr+int(m.b[2])]
}

// Type is the type of a DHCP message, 0 for BOOTP (RFC 2132 section 9.6).
func (m Message) Type() byte {
	var typ byte
	walk(m.options, func(code byte, value []byte, _, _ int) {
		if code == optType && len(value) == 1 {
			typ = value[0]
		}
	})
	return typ
}

// HasRelayInfo reports whether option 82 is there, also in the fields that
// options may overflow into (RFC 2132 section 9.3).
func (m Message) HasRelayInfo() bool {
	found, over := false, byte(0)
	see := func(code byte, value []byte, _, _ int) {
		switch {
		case code == optRelayInfo:
			found = true
		case code == optOverload && len(value) == 1:
			over = value[0]
		}
	}
	walk(m.options, see)
	more := over
	if more&1 != 0 {
		walk(m.b[atFile:atCookie], see)
	}
	if more&2 != 0 {
		walk(m.b[atSName:atFile], see)
	}
	return found
}

// AddRelayInfo appends the message to b with an option 82 that names the circuit
// by which the client came (RFC 3046 section 2.1: the last option). The circuit
// has 1 to 253 bytes. Where there are no options, or where the message would
// have more than [MaxLen] bytes, the error is [ErrNoRoom].
func (m Message) AddRelayInfo(b, circuit []byte) ([]byte, error) {
	if m.options == nil || len(circuit) == 0 || len(circuit) > 253 {
		return b, ErrNoRoom
	}
	end, _ := walk(m.options, nil)
	if atOptions+end+2+2+len(circuit)+1 > MaxLen {
		return b, ErrNoRoom
	}
	start := len(b)
	b = append(append(b, m.b[:atOptions]...), m.options[:end]...)
	b = append(b, optRelayInfo, byte(2+len(circuit)), subCircuit, byte(len(circuit)))
	b = append(append(b, circuit...), optEnd)
	return pad(b, start), nil
}

// StripRelayInfo appends the message to b without any option 82.
func (m Message) StripRelayInfo(b []byte) []byte {
	if m.options == nil {
		return append(b, m.b...)
	}
	start := len(b)
	b = append(b, m.b[:atOptions]...)
	walk(m.options, func(code byte, _ []byte, from, to int) {
		if code != optRelayInfo {
			b = append(b, m.options[from:to]...)
		}
	})
	return pad(append(b, optEnd), start)
}

// pad fills a message that begins at start up to the least length.
func pad(b []byte, start int) []byte {
	if short := leastLen - (len(b) - start); short > 0 {
		b = append(b, make([]byte, short)...)
	}
	return b
}

// walk calls see, if any, for each option but padding, with the place where it
// stands, and returns where the list ends.
func walk(options []byte, see func(code byte, value []byte, from, to int)) (end int, err error) {
	last := 0
	for i := 0; i < len(options); {
		switch code := options[i]; code {
		case optPad:
			i++
		case optEnd:
			return i, nil
		default:
			if i+2 > len(options) || i+2+int(options[i+1]) > len(options) {
				return i, fmt.Errorf("option %d goes beyond the message", code)
			}
			to := i + 2 + int(options[i+1])
			if see != nil {
				see(code, options[i+2:to], i, to)
			}
			i, last = to, to
		}
	}
	return last, nil // who leaves the end out, has it where the last option ends
}
