package helper

import (
	"net/netip"
	"time"

	"fairlead"
	"fairlead/internal/wire/dhcp"
)

// maxHops is how many relay agents a request may have passed (RFC 1542 section
// 4.1.1: the default).
const maxHops = 4

// request4 takes what a client or another relay agent sent. Gateway is the
// address that stands for the client's network.
func (p *post) request4(a *arrival, link string, gateway netip.Addr) {
	m, err := dhcp.Parse(a.data)
	if err != nil {
		p.trouble(fairlead.CodeBadMessage, "%s on %s sent what is no message of DHCP: %v", a.from.Addr(), link, err)
		return
	}
	if m.Op() != dhcp.Request {
		return // an answer to clients, who hear it themselves
	}
	_, hardware := m.Hardware()
	if p.guard.rate(time.Now(), sender(a.from.Addr(), hardware)) != pass {
		p.trouble(fairlead.CodeFlood, "%x on %s asks more often than any DHCP client would", hardware, link)
		return
	}
	out, why := p.forward4(m, link, gateway)
	if why != "" {
		p.trouble(fairlead.CodeBadMessage, "a request of %x on %s is not passed on: %s", hardware, link, why)
		return
	}
	p.meter.Flows.Add(1)
	p.mu.Lock()
	e := p.ears[p.gate(link, gateway, dhcp.ServerPort, relays4)]
	p.mu.Unlock()
	if e == nil {
		p.meter.Dropped.Add(1)
		return
	}
	for _, t := range p.sendTo(netip.Addr{}) {
		to := netip.AddrPortFrom(t.addr, p.port(&t, dhcp.ServerPort))
		if err := e.send(out, to); err != nil {
			p.trouble(fairlead.CodeTargetUnreachable, "a request of DHCP could not be sent to %s: %v", to, err)
			continue
		}
		p.meter.In.Add(int64(len(out)))
	}
}

// forward4 makes of a request what servers get (RFC 1542 section 4.1.1, RFC 3046
// section 2.1), or says why they get nothing.
func (p *post) forward4(m dhcp.Message, link string, gateway netip.Addr) (out []byte, why string) {
	if m.Hops() > maxHops {
		return nil, "it has passed too many relays"
	}
	first := m.Gateway().IsUnspecified()
	switch {
	case !first && p.h.own.has(m.Gateway()):
		return nil, "it claims to come from this very relay"
	case first && m.HasRelayInfo():
		return nil, "it has an option 82, which only relays may write"
	}
	m.SetHops(m.Hops() + 1)
	if !first {
		return m.Bytes(), "" // as the first relay wrote it
	}
	m.SetGateway(gateway)
	if p.f.Load().Policy.Circuit {
		// What has no room for it goes without (section 2.1).
		if out, err := m.AddRelayInfo(nil, []byte(link)); err == nil {
			return out, ""
		}
	}
	return m.Bytes(), ""
}

// answer4 takes what came to a relay's own address.
func (p *post) answer4(a *arrival, link string, index int, gateway netip.Addr) {
	m, err := dhcp.Parse(a.data)
	if err != nil {
		p.trouble(fairlead.CodeBadMessage, "%s sent %s what is no message of DHCP: %v", a.from.Addr(), gateway, err)
		return
	}
	if m.Op() == dhcp.Request {
		if !m.Gateway().IsUnspecified() || a.index == index {
			p.request4(a, link, gateway) // another relay agent, or a client that knows us
		}
		return
	}
	switch {
	case !p.answered(a.from.Addr()):
		p.trouble(fairlead.CodeNotAsked, "%s answers as a DHCP server, and was not asked", a.from.Addr())
		return
	case m.Gateway() != gateway:
		p.trouble(fairlead.CodeBadMessage, "%s answers clients of %s at %s", a.from.Addr(), m.Gateway(), gateway)
		return
	}
	out := m.Bytes()
	if p.f.Load().Policy.Circuit {
		out = m.StripRelayInfo(nil)
	}
	to, hardware := deliver4(m)
	p.mu.Lock()
	frames := p.frames
	p.mu.Unlock()
	packet := appendUDP(nil, netip.AddrPortFrom(gateway, dhcp.ServerPort), netip.AddrPortFrom(to, dhcp.ClientPort), hopLimit, out)
	if err := frames.send(packet, index, hardware); err != nil {
		p.trouble(fairlead.CodeTargetUnreachable, "an answer of DHCP could not be sent to %x on %s: %v", hardware, link, err)
		return
	}
	p.meter.Out.Add(int64(len(out)))
}

// deliver4 is where a server's answer goes (RFC 1542 section 4.1.2, RFC 2131
// section 4.1): a nil hardware address means all.
func deliver4(m dhcp.Message) (netip.Addr, []byte) {
	kind, hardware := m.Hardware()
	to := m.Your()
	if to.IsUnspecified() {
		to = m.Client()
	}
	if m.Broadcast() || kind != 1 || len(hardware) != 6 || to.IsUnspecified() || to.IsMulticast() || to == toAll {
		return toAll, nil
	}
	return to, hardware
}

// gate is the place where an interface's address is heard at.
func (p *post) gate(link string, a netip.Addr, port uint16, r role) place {
	for at := range p.ears {
		if at.link == link && at.role == r && at.at == netip.AddrPortFrom(a, port) {
			return at
		}
	}
	return place{}
}

// sender tells clients apart that have no address yet.
func sender(a netip.Addr, hardware []byte) netip.Addr {
	if !a.IsUnspecified() {
		return a
	}
	var b [16]byte
	copy(b[:], hardware)
	return netip.AddrFrom16(b)
}
