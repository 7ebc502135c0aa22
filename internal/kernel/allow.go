package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"fairlead"
	"fairlead/internal/sys/firewalls"
)

// mostRestricted bounds the clients' networks of a target that are told to
// another firewall one by one; with more it lets everybody through, and our own
// rules keep the others out.
const mostRestricted = 16

// fitsAllow refuses an allow-in that would mean nothing.
func fitsAllow(f *fairlead.Forward) *fairlead.Problem {
	if f.Policy.AllowIn == "" {
		return nil
	}
	return fitsAllowIn(f, f.Policy.AllowIn)
}

func fitsAllowIn(f *fairlead.Forward, firewall string) *fairlead.Problem {
	switch {
	case firewall != firewalls.Docker:
		return nil
	case f.Kind == fairlead.KindOpen && toSelf(f), f.Kind != fairlead.KindOpen && f.Kind != fairlead.KindShare && len(f.To) > 0 &&
		!slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Host != "self" }):
		return cannot("allow-in docker", "means nothing here: Docker does not filter what is for this host itself")
	}
	return nil
}

// allow asks the firewalls that forwards name in "allow-in" to let them
// through, and takes back what nobody asks for any more. The lock is held.
func (k *Kernel) allow(list []*carried, w *world) {
	want := map[string][]firewalls.Hole{}
	asked := map[string][]*carried{}
	for _, c := range list {
		if fw := c.part.f.Policy.AllowIn; fw != "" && (c.part.problem == nil || c.part.problem.Warning) {
			want[fw] = append(want[fw], holesFor(c, w)...)
			asked[fw] = append(asked[fw], c)
		}
	}
	for _, r := range k.undos.all() {
		if r.Firewall != "" && want[r.Firewall] == nil {
			if err := k.inside(func() error { return k.undos.putBack(func(u Undo) bool { return u.Firewall == r.Firewall }) }); err != nil {
				k.trouble(fairlead.Problemf(fairlead.CodeNotPutBack, "%s still lets through what it was asked to: %v", r.Firewall, err).
					Fix("try again", "fairlead clean"))
			}
			delete(k.allowed, r.Firewall)
		}
	}
	for fw, holes := range want {
		key := fmt.Sprint(holes)
		if k.allowed[fw] == key && k.watching && k.unchanged.Load() {
			continue
		}
		err := k.inside(func() error { return k.undos.note(Undo{Firewall: fw, Mark: k.cfg.Table}) })
		if err == nil {
			err = k.setHoles(k.ctx, fw, holes)
			k.unchanged.Store(false)
		}
		if k.allowed == nil {
			k.allowed = map[string]string{}
		}
		k.allowed[fw] = key
		if err != nil {
			delete(k.allowed, fw)
			for _, c := range asked[fw] {
				c.denied = notAllowed(fw, err)
			}
		}
	}
}

// notAllowed is why a firewall was not asked, or did not do it. Whether packets
// are dropped for that is another question.
func notAllowed(firewall string, err error) *fairlead.Problem {
	var p *fairlead.Problem
	switch {
	case errors.Is(err, firewalls.ErrAbsent):
		p = fairlead.Problemf(fairlead.CodeNoFirewall, "allow-in %s: %v", firewall, err).
			Note("note", "it is asked again when its rules appear")
	case errors.Is(err, firewalls.ErrReload):
		p = fairlead.Problemf(fairlead.CodeNoReload, "allow-in firewalld needs a reload of firewalld: %v", err).
			Fix("save what was changed in it", "sudo firewall-cmd --runtime-to-permanent").
			Fix("or throw that away", "sudo firewall-cmd --reload")
	default:
		p = fairlead.Problemf(fairlead.CodeNotAllowedIn, "allow-in %s did not succeed: %v", firewall, err)
	}
	p.Warning, p.Err = true, err
	return p
}

// holesFor are what has to be let through for a forward.
func holesFor(c *carried, w *world) (holes []firewalls.Hole) {
	f := c.part.f
	add := func(h firewalls.Hole, from []netip.Prefix) {
		h.For, h.Related = f.Name, f.Policy.ALG != ""
		if len(from) == 0 || len(from) > mostRestricted {
			holes = append(holes, h)
			return
		}
		for _, p := range from {
			if h.Here || p.Addr().Is6() == h.Target.Is6() {
				h.From = p
				holes = append(holes, h)
			}
		}
	}
	switch f.Kind {
	case fairlead.KindShare:
		for _, to := range f.To {
			for _, lan := range w.side(f.At.Where) {
				for _, wan := range w.side(to.Host) {
					for _, n := range w.addrs[lan] {
						if !n.Addr().IsLinkLocalUnicast() {
							holes = append(holes, firewalls.Hole{For: f.Name, In: lan, Out: wan, Net: n.Masked()})
						}
					}
				}
			}
		}
		return holes
	case fairlead.KindOpen:
		from := f.Policy.Allow
		if len(f.To) == 1 {
			from = append(slices.Clone(from), f.To[0].From...)
		}
		addrs := append(addressesOf(c, false), addressesOf(c, true)...)
		if len(addrs) == 0 && f.At.Addr.IsValid() {
			addrs = append(addrs, f.At.Addr.Unmap())
		}
		for _, proto := range protosOf(f) {
			for _, ports := range f.At.Ports {
				h := firewalls.Hole{Proto: proto, Ports: firewalls.Ports(ports)}
				if toSelf(f) {
					h.Here = true
					add(h, from)
					continue
				}
				for _, a := range addrs {
					h.Target = a
					add(h, from)
				}
			}
		}
		return holes
	}
	for i := range f.To {
		t := &f.To[i]
		var addrs []netip.Addr
		here := t.Host == "self"
		if a, err := netip.ParseAddr(t.Host); err == nil {
			addrs = []netip.Addr{a.Unmap()}
			here = w.has(a.Unmap())
		} else if !here {
			addrs = firstOfEach(w.resolved[t.Host])
		}
		for _, proto := range protosOf(f) {
			for _, pair := range portPairs(f.At.Ports, t) {
				h := firewalls.Hole{Proto: proto, Ports: pair[1], Asked: pair[0]}
				if here {
					h.Here, h.Asked = true, firewalls.Ports{}
					add(h, t.From)
					continue
				}
				for _, a := range addrs {
					h.Target = a
					add(h, t.From)
				}
			}
		}
	}
	return holes
}

// firstOfEach is the first address of each family.
func firstOfEach(all []netip.Addr) (list []netip.Addr) {
	for _, a := range all {
		if a = a.Unmap(); !slices.ContainsFunc(list, func(b netip.Addr) bool { return a.Is6() == b.Is6() }) {
			list = append(list, a)
		}
	}
	return list
}

// portPairs are the ranges that are listened at with the target's for each.
func portPairs(at fairlead.PortList, t *fairlead.Target) (list [][2]firewalls.Ports) {
	i := 0
	for _, r := range at {
		first, last := t.Port(at, i), t.Port(at, i+r.Len()-1)
		to := firewalls.Ports{First: first, Last: last}
		if int(last)-int(first) == r.Len()-1 || first == last {
			list = append(list, [2]firewalls.Ports{firewalls.Ports(r), to})
		} else {
			for n := range r.Len() { // several ranges on the target's side
				p, q := r.First+uint16(n), t.Port(at, i+n)
				list = append(list, [2]firewalls.Ports{{First: p, Last: p}, {First: q, Last: q}})
			}
		}
		i += r.Len()
	}
	return list
}
