package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Types of DHCPv6's messages that a relay agent has to know (RFC 8415 section
// 7.3). Others that clients send are passed on by whatever type.
const (
	Advertise6    = 2
	Reply6        = 7
	Reconfigure6  = 10
	RelayForward6 = 12
	RelayReply6   = 13
)

const (
	opt6RelayMessage = 9
	opt6InterfaceID  = 18

	relay6Head = 34
)

// A Relay6 is the envelope in which relay agents pass DHCPv6's messages on.
type Relay6 struct {
	Type      byte // RelayForward6 or RelayReply6
	Hops      byte
	Link      netip.Addr // tells the server which network the client is on
	Peer      netip.Addr // from whom the message came, or to whom it goes
	Interface []byte     // by which of the relay agent's interfaces, nil for none
	Message   []byte
}

// ParseRelay6 reads an envelope. What it returns shares memory with b.
func ParseRelay6(b []byte) (Relay6, error) {
	if len(b) < relay6Head {
		return Relay6{}, fmt.Errorf("a relayed message of %d bytes, its header alone has %d", len(b), relay6Head)
	}
	r := Relay6{Type: b[0], Hops: b[1], Link: netip.AddrFrom16([16]byte(b[2:18])), Peer: netip.AddrFrom16([16]byte(b[18:34]))}
	if r.Type != RelayForward6 && r.Type != RelayReply6 {
		return Relay6{}, fmt.Errorf("not a relayed message: type %d", r.Type)
	}
	for o := b[relay6Head:]; len(o) > 0; {
		if len(o) < 4 || len(o) < 4+int(binary.BigEndian.Uint16(o[2:])) {
			return Relay6{}, errors.New("an option goes beyond the message")
		}
		code, value := binary.BigEndian.Uint16(o), o[4:4+int(binary.BigEndian.Uint16(o[2:]))]
		o = o[4+len(value):]
		switch {
		case code == opt6RelayMessage && r.Message == nil:
			r.Message = value
		case code == opt6InterfaceID && r.Interface == nil:
			r.Interface = value
		case code == opt6RelayMessage || code == opt6InterfaceID:
			return Relay6{}, fmt.Errorf("option %d stands twice", code)
		}
	}
	if len(r.Message) == 0 {
		return Relay6{}, errors.New("an envelope without a message")
	}
	return r, nil
}

// Append appends the envelope to b. The message and the interface's name have
// at most 65535 bytes.
func (r *Relay6) Append(b []byte) ([]byte, error) {
	if len(r.Message) > 0xffff || len(r.Interface) > 0xffff || !r.Link.Is6() || !r.Peer.Is6() {
		return b, errors.New("it does not fit an envelope of DHCPv6")
	}
	link, peer := r.Link.As16(), r.Peer.As16()
	b = append(append(append(b, r.Type, r.Hops), link[:]...), peer[:]...)
	if r.Interface != nil {
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, opt6InterfaceID), uint16(len(r.Interface)))
		b = append(b, r.Interface...)
	}
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, opt6RelayMessage), uint16(len(r.Message)))
	return append(b, r.Message...), nil
}
