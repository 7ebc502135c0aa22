package claim

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// arpSize is a request or answer for IPv4 over Ethernet (RFC 826).
const arpSize = 28

// An arp is such a message.
type arp struct {
	request              bool
	senderMAC, targetMAC net.HardwareAddr
	sender, target       netip.Addr // 0.0.0.0 as the sender of a probe
}

// bytes is the message as it is sent.
func (m *arp) bytes() []byte {
	b := make([]byte, 0, arpSize)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 2)
	if m.request {
		b[7] = 1
	}
	put := func(mac net.HardwareAddr, a netip.Addr) {
		var six [6]byte
		copy(six[:], mac)
		four := a.As4()
		b = append(append(b, six[:]...), four[:]...)
	}
	put(m.senderMAC, m.sender)
	put(m.targetMAC, m.target)
	return b
}

// parseARP reads a message; ok is false for what is no such message.
func parseARP(b []byte) (m arp, ok bool) {
	if len(b) < arpSize || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != 0x0800 || b[4] != 6 || b[5] != 4 {
		return m, false
	}
	switch binary.BigEndian.Uint16(b[6:]) {
	case 1:
		m.request = true
	case 2:
	default:
		return m, false
	}
	mac := func(at int) net.HardwareAddr { return append(net.HardwareAddr(nil), b[at:at+6]...) }
	addr := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at : at+4])) }
	m.senderMAC, m.sender, m.targetMAC, m.target = mac(8), addr(14), mac(18), addr(24)
	return m, true
}
