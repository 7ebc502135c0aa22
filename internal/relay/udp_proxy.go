package relay

import (
	"bytes"
	"net/netip"

	"fairlead"
	"fairlead/internal/wire/proxyproto"
)

// A herald reads the PROXY protocol headers with which declared senders
// introduce their clients, one in each datagram. Each is understood by itself;
// what was read last is only remembered because it mostly comes again. One
// goroutine at a time uses it.
type herald struct {
	header []byte
	told   *origin
}

// longestHeader is how much of a header is remembered.
const longestHeader = 1 << 10

// read is who the client of the datagram d is, by its sender's word, and what
// follows the header. local is the address and port that the sender asked.
func (h *herald) read(d []byte, sender, local netip.AddrPort) (*origin, []byte, error) {
	// A header says how long it is: a datagram that begins with one has no other.
	if len(h.header) > 0 && bytes.HasPrefix(d, h.header) {
		return h.told, d[len(h.header):], nil
	}
	head, body, err := proxyproto.ParseDatagram(d)
	if err != nil {
		return nil, nil, err
	}
	told := &origin{client: head.Source, local: head.Destination, tlvs: head.TLVs}
	if head.Network != "udp" && head.Network != "tcp" {
		// The sender speaks for itself, or of ends that have no address here.
		told.client, told.local = sender, local
		return told, body, nil
	}
	if n := len(d) - len(body); n <= longestHeader {
		h.header, h.told = append(h.header[:0], d[:n]...), told
	}
	return told, body, nil
}

// introduced notes in a whom the datagram d is from, where its sender has to
// say that, and returns what follows. ok is false for one that is dropped.
func (u *udpEntry) introduced(h *herald, ru *rule, a *arrived, d []byte) (body []byte, ok bool) {
	if !ru.believed(a.sender.Addr()) {
		return d, true
	}
	told, body, err := h.read(d, a.sender, netip.AddrPortFrom(a.local, u.e.key.at.Port()))
	if err != nil {
		ru.meter.Dropped.Add(1)
		u.e.r.trouble(fairlead.CodeProxyHeader, badHeader(origin{client: a.sender}, err).What)
		return nil, false
	}
	a.told = told
	return body, true
}
