package helper

import (
	"net/netip"
	"time"

	"fairlead"
	"fairlead/internal/wire/dhcp"
)

// maxHops6 is how many relay agents a message may have passed (RFC 8415 section
// 7.6, HOP_COUNT_LIMIT).
const maxHops6 = 8

// request6 takes what a client or another relay agent sent. Network is the
// address that stands for the client's network.
func (p *post) request6(a *arrival, link string, network netip.Addr) {
	if len(a.data) < 4 {
		p.trouble(fairlead.CodeBadMessage, "%s on %s sent what is no message of DHCPv6", a.from.Addr(), link)
		return
	}
	if p.guard.rate(time.Now(), a.from.Addr().WithZone("")) != pass {
		p.trouble(fairlead.CodeFlood, "%s on %s asks more often than any DHCP client would", a.from.Addr(), link)
		return
	}
	out, why := forward6(a, link, network)
	if why != "" {
		p.trouble(fairlead.CodeBadMessage, "a message of %s on %s is not passed on: %s", a.from.Addr(), link, why)
		return
	}
	p.meter.Flows.Add(1)
	p.mu.Lock()
	e := p.ears[p.gate(link, network, dhcp.ServerPort6, relays6)]
	p.mu.Unlock()
	if e == nil {
		p.meter.Dropped.Add(1)
		return
	}
	for _, t := range p.sendTo(netip.Addr{}) {
		to := netip.AddrPortFrom(t.addr, p.port(&t, dhcp.ServerPort6))
		if err := e.send(out, to); err != nil {
			p.trouble(fairlead.CodeTargetUnreachable, "a message of DHCPv6 could not be sent to %s: %v", to, err)
			continue
		}
		p.meter.In.Add(int64(len(out)))
	}
}

// forward6 puts a message into an envelope (RFC 8415 section 19.1), or says why
// it is not passed on.
func forward6(a *arrival, link string, network netip.Addr) (out []byte, why string) {
	r := dhcp.Relay6{Type: dhcp.RelayForward6, Link: network, Peer: a.from.Addr().WithZone(""), Interface: []byte(link), Message: a.data}
	switch a.data[0] {
	case dhcp.Advertise6, dhcp.Reply6, dhcp.Reconfigure6, dhcp.RelayReply6:
		return nil, "only servers send such"
	case dhcp.RelayForward6:
		inner, err := dhcp.ParseRelay6(a.data)
		switch {
		case err != nil:
			return nil, err.Error()
		case inner.Hops >= maxHops6:
			return nil, "it has passed too many relays"
		}
		r.Hops = inner.Hops + 1
		if !r.Peer.IsLinkLocalUnicast() {
			r.Link = netip.IPv6Unspecified() // section 19.1.2: the inner one says it
		}
	}
	out, err := r.Append(nil)
	if err != nil {
		return nil, err.Error()
	}
	return out, ""
}

// answer6 takes what came to a relay's own address (RFC 8415 section 19.2).
func (p *post) answer6(a *arrival, link string, network netip.Addr) {
	if len(a.data) > 0 && a.data[0] == dhcp.RelayForward6 {
		p.request6(a, link, network) // another relay agent that knows us
		return
	}
	r, err := dhcp.ParseRelay6(a.data)
	switch {
	case err != nil:
		p.trouble(fairlead.CodeBadMessage, "%s sent %s what is no answer of DHCPv6: %v", a.from.Addr(), network, err)
		return
	case !p.answered(a.from.Addr().WithZone("")):
		p.trouble(fairlead.CodeNotAsked, "%s answers as a DHCPv6 server, and was not asked", a.from.Addr())
		return
	case r.Interface != nil && string(r.Interface) != link, r.Interface == nil && r.Link != network:
		p.trouble(fairlead.CodeBadMessage, "%s answers clients of another network than that of %s", a.from.Addr(), network)
		return
	}
	port := uint16(dhcp.ClientPort6)
	if r.Message[0] == dhcp.RelayReply6 {
		port = dhcp.ServerPort6
	}
	to := r.Peer
	if to.IsLinkLocalUnicast() {
		to = to.WithZone(link)
	}
	p.mu.Lock()
	e := p.ears[p.gate(link, allAgents6, dhcp.ServerPort6, joins)]
	p.mu.Unlock()
	if e == nil {
		p.meter.Dropped.Add(1)
		return
	}
	if err := e.send(r.Message, netip.AddrPortFrom(to, port)); err != nil {
		p.trouble(fairlead.CodeTargetUnreachable, "an answer of DHCPv6 could not be sent to %s: %v", to, err)
		return
	}
	p.meter.Out.Add(int64(len(r.Message)))
}
