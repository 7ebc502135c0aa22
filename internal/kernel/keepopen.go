package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"fairlead"
	"fairlead/internal/sys/conntrack"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/nft"
)

// keepData is what is sent to hold a port open: the empty lines that VoIP devices
// send for it. SIP passes over them (RFC 5626 section 3.5.1 has them for TCP).
const keepData = "\r\n\r\n"

// keepMost bounds to how many peers of one host that is sent.
const keepMost = 16

// A keepalive is a datagram to be sent in the name of a host.
type keepalive struct{ from, to netip.AddrPort }

// keepOpen speaks for the hosts that have the ports of triggers with a
// keepalive: it renews the kernel's memory of them, and sends a few bytes along
// the UDP connections by which they triggered, so that routers further out keep
// their translation, too. A host that does not answer in its network is not
// spoken for: it is gone, and another may want the ports.
func (k *Kernel) keepOpen() {
	for _, c := range *k.carried.Load() {
		every := c.part.f.Policy.Keepalive
		if c.part.memory == nil || every <= 0 {
			continue
		}
		list := k.dueHolders(c, every)
		if len(list) == 0 {
			continue
		}
		err := k.renew(c, list)
		if err == nil {
			err = k.inside(func() error { return k.speakFor(c, list) })
		}
		if err != nil {
			p := fairlead.Problemf(fairlead.CodeKeepalive, "the ports that %s opens are not held open by its keepalive: %v", c.part.f.Name, err)
			p.Err = err
			k.trouble(p)
		}
	}
}

// dueHolders are the hosts that are to be spoken for now.
func (k *Kernel) dueHolders(c *carried, every time.Duration) (list []netip.Addr) {
	k.openings.mu.Lock()
	o := k.openings.of[keyOf(c.part.f)]
	if o != nil && time.Since(o.kept) >= every-lookEach {
		o.kept = time.Now()
		for addr := range o.holders {
			list = append(list, addr)
		}
	}
	k.openings.mu.Unlock()
	if len(list) == 0 {
		return nil
	}
	k.inside(func() error {
		around, err := netmon.LookAround()
		if err != nil {
			return err
		}
		defer around.Close()
		ways := routes{known: map[netip.Addr]netmon.Route{}}
		list = slices.DeleteFunc(list, func(a netip.Addr) bool { return ways.wayTo(around, a).problem != nil })
		return nil
	})
	return list
}

// keepBefore is how long an element has to live at least that is renewed: it
// must not end, and another host come in its place, before that is done.
const keepBefore = 100 * time.Millisecond

// renew gives the elements of these hosts their whole time again.
func (k *Kernel) renew(c *carried, list []netip.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left || k.conn == nil {
		return nil
	}
	m := c.part.memory
	ch := nft.Change{Family: nft.Inet, Table: k.cfg.Table}
	return k.inside(func() error {
		for _, name := range []string{m.owner4, m.lead4, m.owner6, m.busy4} {
			if name == "" || name == m.busy4 && len(ch.Add) == 0 {
				continue
			}
			s, err := k.conn.ReadSet(nft.Inet, k.cfg.Table, name)
			if err != nil || s == nil {
				return err
			}
			var old, fresh []nft.Element
			for _, e := range s.Elements {
				who := keepersOf(&nft.Set{Elements: []nft.Element{e}})
				if left(e, 0) < keepBefore || name != m.busy4 && (len(who) != 1 || !slices.Contains(list, who[0].addr)) {
					continue
				}
				old = append(old, e)
				e.Timeout, e.Expires = lifeOf(c.part.f), 0
				if name == m.owner4 || name == m.busy4 {
					e.Timeout += ownerSlack
				}
				fresh = append(fresh, e)
			}
			if len(old) > 0 {
				ch.Drop = append(ch.Drop, nft.Elements{Set: name, Elements: old})
				ch.Add = append(ch.Add, nft.Elements{Set: name, Elements: fresh})
			}
		}
		return k.conn.Change(ch)
	})
}

// speakFor sends the datagrams that hold ports open, for each host along the UDP
// connections that it began at the trigger's ports.
func (k *Kernel) speakFor(c *carried, list []netip.Addr) error {
	at := &c.part.f.At
	if at.Net&fairlead.UDP == 0 {
		return nil
	}
	var send []keepalive
	n := map[netip.Addr]int{}
	err := conntrack.EachOf(k.ctx, conntrack.Filter{Proto: protoUDP}, func(e *conntrack.Entry) bool {
		from, to := e.Original.Src, e.Original.Dst
		if slices.Contains(list, from.Addr()) && n[from.Addr()] < keepMost &&
			slices.ContainsFunc(at.Ports, func(r fairlead.Ports) bool { return r.First <= to.Port() && to.Port() <= r.Last }) {
			n[from.Addr()]++
			send = append(send, keepalive{from, to})
		}
		return true
	})
	if err != nil {
		return err
	}
	var failed error
	for _, d := range send {
		failed = errors.Join(failed, d.send())
	}
	return failed
}
