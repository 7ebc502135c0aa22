package helper

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/wire/dhcp"
)

// An ear is a socket of a post.
type ear struct {
	*socket
	at   place
	link atomic.Pointer[netmon.Interface] // as it was last seen
}

// send sends a datagram of our own.
func (e *ear) send(b []byte, to netip.AddrPort) error { return e.socket.send(b, to, 0) }

// An arrival is a datagram that came in.
type arrival struct {
	data  []byte // belongs to whom it is handed to until that returns
	from  netip.AddrPort
	to    netip.Addr // what the sender asked, invalid where that is not told
	index int        // of the interface, 0 where that is not told
	hops  uint8      // the hop limit that was left
}

// listen opens the socket of a place and has it heard.
func (p *post) listen(at place, link *netmon.Interface) (*ear, error) {
	e := &ear{at: at}
	e.link.Store(link)
	o := opening{at: at.at}
	switch at.role {
	case hears:
		o.link, o.shared = at.link, true
	case joins:
		o.link, o.shared, o.group = at.link, true, at.index
	}
	err := p.h.inside(func() (err error) { e.socket, err = openSocket(o); return err })
	if err != nil {
		return nil, err
	}
	p.h.wg.Go(func() { e.receive(func(a *arrival) { p.heard(e, a) }) })
	return e, nil
}

// heard takes a datagram to whom it concerns.
func (p *post) heard(e *ear, a *arrival) {
	link, port := e.link.Load(), e.at.at.Port()
	bound := e.at.role == hears || e.at.role == joins
	if bound && a.index != 0 && a.index != e.at.index {
		return
	}
	switch {
	case e.at.role == relays4:
		p.answer4(a, e.at.link, e.at.index, e.at.at.Addr())
	case e.at.role == relays6:
		p.answer6(a, e.at.link, e.at.at.Addr())
	case port == dhcp.ServerPort:
		if gateway, ok := address(link, netip.Addr.Is4); ok {
			p.request4(a, e.at.link, gateway)
		}
	case port == dhcp.ServerPort6:
		if network, ok := address(link, netip.Addr.Is6); ok {
			p.request6(a, e.at.link, network)
		}
	default:
		p.pass(a, link, port, e.at.role == joins)
	}
}

// hopLimit is what packets of our own set out with.
const hopLimit = 64

// pass passes a datagram on that is of no relay's concern.
func (p *post) pass(a *arrival, link *netmon.Interface, port uint16, group bool) {
	f := p.f.Load()
	from := netip.AddrPortFrom(a.from.Addr().Unmap(), a.from.Port())
	if p.h.own.has(from.Addr()) {
		return // this host's own, which hears itself
	}
	hops := a.hops - 1
	switch {
	case from.Addr().IsUnspecified() || from.Addr().IsMulticast() || from.Addr() == toAll:
		p.meter.Dropped.Add(1) // nobody that could be answered
		return
	case a.hops <= 1 && group:
		hops = hopLimit // what a group's senders mean for their network is to go farther: the sentence says so
	case a.hops <= 1:
		p.meter.Dropped.Add(1)
		return
	case slices.ContainsFunc(f.Policy.Deny, func(n netip.Prefix) bool { return n.Contains(from.Addr()) }):
		p.meter.Refused.Add(1)
		return
	}
	now := time.Now()
	if p.guard.rate(now, from.Addr()) != pass {
		p.trouble(fairlead.CodeFlood, "%s on %s sends to port %d more than is passed on", from.Addr(), link.Name, port)
		return
	}
	if p.h.loops.loops(now, from, p.keeps(), port, a.hops, a.data) != pass {
		p.trouble(fairlead.CodeGoesRound, "a datagram of %s to port %d came in by %s again and again", from, port, link.Name)
		return
	}
	targets := p.sendTo(from.Addr())
	if len(targets) == 0 {
		p.meter.Refused.Add(1)
		return
	}
	for _, t := range targets {
		to := netip.AddrPortFrom(t.addr, p.port(&t, port))
		if t.addr == a.to {
			p.trouble(fairlead.CodeGoesRound, "target %s is what %s asked already", to, from)
			continue
		}
		var err error
		if p.keeps() {
			p.mu.Lock()
			raw := p.raw
			p.mu.Unlock()
			if err = raw.send(appendUDP(nil, from, to, hops, a.data), to.Addr()); err == nil {
				p.meter.Flows.Add(1)
				p.meter.In.Add(int64(len(a.data)))
			}
		} else {
			err = p.h.table.send(p, link, port, from, to, hops, a.data)
		}
		if err != nil {
			p.trouble(fairlead.CodeTargetUnreachable, "a datagram of %s could not be sent to %s: %v", from, to, err)
		}
	}
}
