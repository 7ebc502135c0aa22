package relay

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/sock"
)

// A leaving is whether a rule's connections can set out as its sentence says.
type leaving struct {
	problem *fairlead.Problem // a warning where connections can set out all the same
	stuck   bool              // none can
}

// add tells of it in a status.
func (l leaving) add(s *fairlead.Status) {
	switch {
	case l.problem == nil:
	case l.stuck:
		s.Problem, s.State = l.problem, fairlead.Broken
	case s.Problem == nil:
		s.Problem = l.problem
	}
}

// cannotLeave is why the rule should not begin to listen. One that listens
// already goes on: its source may come back, as an address does from a lease.
func (ru *rule) cannotLeave() *fairlead.Problem {
	ru.mu.Lock()
	defer ru.mu.Unlock()
	if !ru.leaving.stuck || len(ru.bound) > 0 {
		return nil
	}
	return ru.leaving.problem
}

// checkLeaving finds out anew how the rule can leave.
func (ru *rule) checkLeaving() {
	l := ru.tryLeaving()
	ru.mu.Lock()
	defer ru.mu.Unlock()
	ru.leaving = l
}

// tryLeaving tries on sockets that connect nowhere what those to targets will
// be told. What cannot be known before a target is dialed is left for then.
func (ru *rule) tryLeaving() leaving {
	d := ru.departure
	if ru.place == nil || ru.f.Via != "" {
		return leaving{}
	}
	if d.mark != 0 {
		if err := sock.Try(false, func(fd int) error { return sock.SetMark(fd, d.mark) }); refused(err) {
			return leaving{optionProblem("mark", err), true}
		}
	}
	if ru.forcesCongestion() && ru.f.At.Net&fairlead.TCP != 0 {
		if err := sock.Try(false, func(fd int) error { return sock.SetCongestion(fd, ru.congestion) }); refused(err) {
			return leaving{optionProblem("congestion "+ru.congestion, err), true}
		}
	}
	if d.keep {
		return checkKeeping(ru)
	}
	return checkSources(d.sources)
}

// refused reports whether an error of an option is more than a passing lack.
func refused(err error) bool { return err != nil && !sock.NoDescriptors(err) }

// checkSources tells which sources are no addresses or interfaces of this host.
func checkSources(sources []source) leaving {
	var gone, missing []string
	for _, s := range sources {
		switch {
		case s.device != "":
			if _, err := net.InterfaceByName(s.device); err != nil {
				missing = append(missing, s.device)
			}
		default:
			err := sock.Try(s.addr.Is6(), func(fd int) error {
				return sock.BindSource(fd, netip.AddrPortFrom(s.addr, 0), false, true)
			})
			if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EAFNOSUPPORT) {
				gone = append(gone, s.addr.String())
			}
		}
	}
	var p *fairlead.Problem
	switch {
	case len(gone) > 0:
		p = notOurs(gone)
	case len(missing) > 0:
		p = noSuchInterface(missing)
	default:
		return leaving{}
	}
	if len(gone)+len(missing) == len(sources) {
		return leaving{p, true}
	}
	p.Warning = true
	p.Note("note", "the other sources are used")
	return leaving{p, false}
}

// checkKeeping tells whether this host can keep clients' addresses: whether the
// process may, and whether answers would be taken in.
func checkKeeping(ru *rule) leaving {
	err := sock.Try(false, func(fd int) error {
		return sock.BindSource(fd, netip.AddrPortFrom(documentation, 0), true, true)
	})
	if errors.Is(err, os.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
		return leaving{optionProblem("source keep", err), true}
	}
	for _, t := range ru.targets {
		to, ok := t.literal()
		if !ok {
			continue
		}
		if isLocal(to) {
			p := beside(to, "the addresses of clients from elsewhere")
			p.Warning = true
			return leaving{p, false}
		}
		if _, diverted, err := netmon.Diverted(to.Is6()); err == nil && !diverted {
			p := lostProblem(t, to, netip.Addr{}, routeSource(to))
			p.Warning = true
			return leaving{p, false}
		}
	}
	return leaving{}
}

// documentation is an address that nobody has (RFC 5737).
var documentation = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// literal is the address of a target that is not named by a name.
func (t *target) literal() (netip.Addr, bool) {
	switch {
	case t.t.Unix != "":
		return netip.Addr{}, false
	case t.t.Host == "self" || t.t.Host == "localhost":
		return netip.IPv6Loopback(), true
	}
	a, err := netip.ParseAddr(t.t.Host)
	return a.Unmap(), err == nil
}

// routeSource is the address of this host that a packet to to would have. Nothing
// is sent for it.
func routeSource(to netip.Addr) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return sock.AddrPort(c.LocalAddr()).Addr()
}

func noSuchInterface(names []string) *fairlead.Problem {
	what := "there is no interface " + names[0]
	if len(names) > 1 {
		what = "there are no interfaces " + strings.Join(names, ", ")
	}
	return fairlead.Problemf(fairlead.CodeNoInterface, "%s on this machine to set out from", what).
		Fix("see which there are", "ip -brief link")
}
