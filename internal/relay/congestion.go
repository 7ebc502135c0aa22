package relay

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/sock"
)

// cheapControls are what local legs use instead of a control that paces, the
// better one first: on a link without a queue of its own pacing costs timers
// and gains nothing.
var cheapControls = []string{"cubic", "reno"}

// A leg's congestion control is chosen where this host's own paces (BBR): what
// passes on this host or on a link of it uses a cheap one, what goes farther
// keeps the host's. legs is what that takes, made anew when addresses change
// and never changed.
type legs struct {
	standard string // what new sockets have, "" where that cannot be told
	cheap    string // what local legs use instead; "" for nothing
	links    map[netip.Prefix]bool
	lengths  []int // of the prefixes of IPv4, and of IPv6 with 1000 added
	own      map[netip.Addr]bool
}

// usual reports whether a forward that says nothing of congestion needs
// nothing done.
func (l *legs) usual() bool { return l == nil || l.cheap == "" }

// paces reports whether a congestion control sends by timers.
func paces(name string) bool { return strings.HasPrefix(name, "bbr") }

// controls reads which congestion controls this host has.
func controls() (standard, cheap string) {
	standard, err := sock.Congestion()
	if err != nil || !paces(standard) {
		return standard, ""
	}
	for _, name := range cheapControls {
		if sock.Try(false, func(fd int) error { return sock.SetCongestion(fd, name) }) == nil {
			return standard, name
		}
	}
	return standard, ""
}

// learnLegs finds out how this host's legs stand.
func (r *Relay) learnLegs() {
	l := new(legs)
	defer r.legs.Store(l)
	l.standard, l.cheap = controls()
	links, err := netmon.Interfaces()
	if err != nil {
		return // isOwn asks the system each time
	}
	l.links, l.own = map[netip.Prefix]bool{}, map[netip.Addr]bool{}
	for _, link := range links {
		for _, a := range link.Addrs {
			l.own[a.WithZone("")] = true
		}
		if link.Up {
			for _, p := range link.Nets {
				l.add(p)
			}
		}
	}
}

func (l *legs) add(p netip.Prefix) {
	l.links[p] = true
	n := p.Bits()
	if p.Addr().Is6() {
		n += 1000
	}
	if !slices.Contains(l.lengths, n) {
		l.lengths = append(l.lengths, n)
	}
}

// local reports whether an address is this host's or on a link of it.
func (l *legs) local(a netip.Addr) bool {
	if a.IsLoopback() || a.IsLinkLocalUnicast() {
		return true
	}
	a = a.WithZone("")
	for _, n := range l.lengths {
		if (n >= 1000) != a.Is6() {
			continue
		}
		if p, err := a.Prefix(n % 1000); err == nil && l.links[p] {
			return true
		}
	}
	return false
}

// isOwn reports whether an address is this host's.
func (l *legs) isOwn(a netip.Addr) bool {
	if l == nil || l.own == nil {
		return isLocal(a)
	}
	return a.IsLoopback() || a.IsUnspecified() || l.own[a.WithZone("")]
}

// congestionFor is the congestion control that a rule wants on the leg to a
// peer, the client or the target; "" for the one that the socket has.
func (r *Relay) congestionFor(peer netip.Addr, ru *rule) string {
	switch ru.congestion {
	case "":
		if l := r.legs.Load(); !l.usual() && l.local(peer.Unmap()) {
			return l.cheap
		}
		return ""
	case congestionOff:
		return ""
	}
	return ru.congestion
}

const congestionOff = "off"

// forcesCongestion reports whether the sentence names the control.
func (ru *rule) forcesCongestion() bool { return ru.congestion != "" && ru.congestion != congestionOff }

// congestionText is how the forward's legs stand, for people; "" where nothing
// is done that the host would not do by itself.
func (r *Relay) congestionText(ru *rule) string {
	l := r.legs.Load()
	switch {
	case ru.f.At.Net&fairlead.TCP == 0 || l == nil:
		return ""
	case ru.forcesCongestion():
		return ru.congestion + " on all legs"
	case l.usual():
		return ""
	case ru.congestion == congestionOff:
		return l.standard + " on all legs"
	}
	return l.cheap + " on local legs (host default " + l.standard + ")"
}

// tuneClient sets what the leg to a client wants.
func (r *Relay) tuneClient(c net.Conn, ru *rule) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	name := r.congestionFor(sock.AddrPort(t.RemoteAddr()).Addr(), ru)
	if name == "" {
		return
	}
	if raw, err := t.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { sock.SetCongestion(int(fd), name) })
	}
}

// statusOf is how a forward stands, with what only the relay knows of it.
func (r *Relay) statusOf(ru *rule) fairlead.Status {
	s := ru.status()
	s.Congestion = r.congestionText(ru)
	s.Engine = r.engineText(ru)
	return s
}
