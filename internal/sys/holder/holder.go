// Package holder says who holds a port or a unix socket of this host: which
// process, of which user, unit or container, and since when. It is evidence
// for "address already in use", and it tells whether a local target has
// somebody listening without connecting to it.
//
// It looks and asks nobody: no container engine, no service manager. It
// changes nothing, and says only what it saw; what other users' processes
// hide from an unprivileged one stays unsaid. It sees the sockets of the
// calling thread's network namespace. All functions may be called
// concurrently.
package holder

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A Holder is who holds a socket, as far as it could be seen.
type Holder struct {
	PID  int    // 0 when the process could not be seen
	Name string // the process's short name, at most 15 bytes
	UID  int    // effective user of the process, or who made the socket; -1 when unknown
	User string // the name of UID; "" when it has none

	Unit      string // systemd unit it runs in; "" when in none
	UserUnit  bool   // Unit is one of the user's own manager
	Container Container

	Age time.Duration // how long the process has been running

	// Connected says that the port is the near end of a connection, not a
	// listener: a program that dialed was given it. Not every one keeps the
	// port from being bound (SO_REUSEADDR on both sides lets it).
	Connected bool

	// Nobody says that every process was looked at and none has the socket:
	// the kernel itself does, or a process in another PID namespace.
	Nobody bool
}

// A Container is what a process's control group and command line tell of the
// container that it is, or works for. The zero value is none.
type Container struct {
	Runtime string // docker, podman, cri-o, containerd, kubernetes, lxc; may be ""
	ID      string // 12 hexadecimal digits; may be ""
	Name    string // may be ""

	// Target is the address inside that a proxy process leads to; the zero
	// value when it does not say.
	Target netip.AddrPort
}

// Find says who holds sockets that keep at from being bound in network: tcp,
// udp, or one of them with 4 or 6 behind. A wildcard conflicts with every
// address of its family, [::] with v4 as well unless its owner restricted it
// to v6; an at of [::] or without an address means both families unless
// network ends in 6. (Only sock_diag(7) tells of that restriction; where the
// kernel lacks it, [::] is taken to hold v4.) Zones are not compared.
//
// There is one Holder per process, the first that has the socket: a parent
// before its workers, but a service before the init that opened the socket
// for it. None and no error means that nothing conflicts (any more). Looking
// through processes is bounded to about two seconds.
func Find(network string, at netip.AddrPort) ([]Holder, error) {
	proto, only, err := protocol(network)
	if err != nil {
		return nil, err
	}
	return find(proto, bound{at.Addr().Unmap(), only == "6"}.or(only), at.Port())
}

// FindPath says who listens at the unix socket of that path, or of that
// abstract name when path begins with "@". No Holder and no error means that
// nobody does: a file that is there is left over. Only sockets of this
// network namespace are known, and those bound by a relative path only under
// that same path.
func FindPath(path string) ([]Holder, error) { return findPath(path) }

// dialed is where a connection to a goes: loopback for an unspecified one.
func dialed(a netip.Addr) netip.Addr {
	switch a = a.Unmap().WithZone(""); a {
	case netip.IPv4Unspecified():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		return netip.IPv6Loopback()
	}
	return a
}

// Listeners is who listened on this host at one moment. The kernel looks at all
// sockets for one question as it does for all of them. It does not change.
type Listeners struct {
	at map[uint16][]bound
}

// Listening lists who listens now. It is quick: it looks at no process.
func Listening(network string) (*Listeners, error) {
	proto, _, err := protocol(network)
	if err != nil {
		return nil, err
	}
	return listening(proto)
}

// At reports whether a connection to at, an address of this host, would have
// found a socket: for tcp one that listens there or at a wildcard that covers
// it, for udp one bound there and not connected. An unspecified at means
// loopback, as in dialing.
func (l *Listeners) At(at netip.AddrPort) bool {
	a := dialed(at.Addr())
	return slices.ContainsFunc(l.at[at.Port()], func(b bound) bool { return b.covers(a) })
}

// A Service is a port of this host at which somebody listens.
type Service struct {
	At     netip.AddrPort // an unspecified address is every one of its family, [::] of both
	V6Only bool           // [::] is IPv6 alone
	Holder Holder
}

// Services lists who listens at which port, ordered by port. Like Find it looks
// through processes, once for all of them, bounded to about two seconds.
func Services(network string) ([]Service, error) {
	proto, _, err := protocol(network)
	if err != nil {
		return nil, err
	}
	list, err := services(proto)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b Service) int { return cmp.Compare(a.At.Port(), b.At.Port()) })
	return list, nil
}

// String is the holder in words for a note "by": who, and since when.
func (h Holder) String() string {
	var s string
	switch {
	case h.PID == 0 && h.Nobody:
		return "the kernel itself, or a process in another PID namespace"
	case h.PID == 0 && h.UID < 0:
		return "a program of another user"
	case h.PID == 0:
		return "a program of " + h.user()
	case h.Container != Container{}:
		s = fmt.Sprintf("%s (%s, pid %d)", h.Container, h.Name, h.PID)
	default:
		s = fmt.Sprintf("%s, pid %d", h.Name, h.PID)
		if h.UID >= 0 {
			s += ", " + h.user()
		}
		if h.UserUnit {
			s += ", user unit " + h.Unit
		} else if h.Unit != "" {
			s += ", unit " + h.Unit
		}
		s += ", for " + span(h.Age)
	}
	if h.Connected {
		s += ", with a connection from that port"
	}
	return s
}

func (h Holder) user() string {
	if h.User == "" {
		return fmt.Sprintf("uid %d", h.UID)
	}
	return "user " + h.User
}

// String is "container" and what is known of it.
func (c Container) String() string {
	words := []string{"container"}
	switch {
	case c.Name != "" && c.ID != "":
		words = append(words, c.Name, c.ID)
	case c.Name != "" || c.ID != "":
		words = append(words, c.Name+c.ID)
	}
	if c.Target.IsValid() {
		words = append(words, "at", c.Target.String())
	}
	return strings.Join(words, " ")
}

// span is d in its two largest units, as people say it.
func span(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	units := []struct {
		name string
		size int64
	}{{"d", 24 * 60 * 60}, {"h", 60 * 60}, {"min", 60}, {"s", 1}}
	for i, u := range units[:3] {
		if s < u.size {
			continue
		}
		large, small := s/u.size, s%u.size/units[i+1].size
		if small == 0 || u.name == "min" {
			return fmt.Sprintf("%d %s", large, u.name)
		}
		return fmt.Sprintf("%d %s %d %s", large, u.name, small, units[i+1].name)
	}
	return fmt.Sprintf("%d s", s)
}

// protocol splits network into tcp or udp and the family, "", 4 or 6.
func protocol(network string) (proto, only string, err error) {
	if len(network) >= 3 {
		proto, only = network[:3], network[3:]
	}
	if (proto != "tcp" && proto != "udp") || (only != "" && only != "4" && only != "6") {
		return "", "", fmt.Errorf("who holds a port of network %q: no such network", network)
	}
	return proto, only, nil
}

// bound is the local address that a socket has or is to have.
type bound struct {
	addr   netip.Addr // never v4 in v6; zones do not count
	v6only bool
}

// or is b, or the wildcard of the families of only when it has no address.
func (b bound) or(only string) bound {
	switch {
	case b.addr.IsValid():
	case only == "4":
		b.addr = netip.IPv4Unspecified()
	default:
		b.addr = netip.IPv6Unspecified()
	}
	return b
}

// families is what b takes of v4 and of v6; an address that is not valid
// stands for nothing.
func (b bound) families() [2]netip.Addr {
	switch a := b.addr.WithZone(""); {
	case a.Is4():
		return [2]netip.Addr{a, {}}
	case a.IsUnspecified() && !b.v6only:
		return [2]netip.Addr{netip.IPv4Unspecified(), a}
	default:
		return [2]netip.Addr{{}, a}
	}
}

// conflicts says whether b and c cannot both have the same port.
func (b bound) conflicts(c bound) bool {
	other := c.families()
	for i, a := range b.families() {
		if a.IsValid() && other[i].IsValid() &&
			(a == other[i] || a.IsUnspecified() || other[i].IsUnspecified()) {
			return true
		}
	}
	return false
}

// covers says whether what is sent to a comes to a socket at b.
func (b bound) covers(a netip.Addr) bool {
	for _, own := range b.families() {
		if own == a || own.IsValid() && own.IsUnspecified() && own.BitLen() == a.BitLen() {
			return true
		}
	}
	return false
}
