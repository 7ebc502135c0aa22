package helper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/wire/dhcp"
)

// A post is one forward that is carried.
type post struct {
	h     *Helper
	guard *guard // how much a sender may send
	meter fairlead.Meter

	f       atomic.Pointer[fairlead.Forward]
	targets atomic.Pointer[[]target]
	passed  atomic.Bool // an answer came back

	mu      sync.Mutex // guards the rest
	ears    map[place]*ear
	raw     *rawSocket   // sends packets with the sender's address
	frames  *frameSocket // sends to clients that have no address yet
	problem *fairlead.Problem
	told    map[fairlead.Code]time.Time // when trouble was told last
	closed  bool
}

// A target is where to send, and what is known of it.
type target struct {
	t       *fairlead.Target
	addr    netip.Addr // invalid: its name is not known
	problem *fairlead.Problem
	since   time.Time
	up      *atomic.Bool // it answered
}

// A place is where one socket hears.
type place struct {
	link  string
	index int
	at    netip.AddrPort
	role  role
}

// A role is what is heard at a place.
type role uint8

const (
	hears   role = iota // what was sent to all
	joins               // a group
	relays4             // answers of DHCP servers, at the address that stands for the network
	relays6             // the same of DHCPv6
)

// String is the place as a status names it.
func (p place) String() string { return p.link + ":" + p.at.String() + "/udp" }

func newPost(h *Helper, f *fairlead.Forward) *post {
	p := &post{h: h, guard: newGuard(), ears: map[place]*ear{}, told: map[fairlead.Code]time.Time{}}
	p.f.Store(f)
	return p
}

// is reports whether the post is that of f, unchanged.
func (p *post) is(f *fairlead.Forward) bool {
	g := p.f.Load()
	return g.Owner == f.Owner && g.Name == f.Name && g.Expr == f.Expr
}

// renew takes f, which says the same.
func (p *post) renew(f *fairlead.Forward) {
	p.f.Store(f)
	if list := p.targets.Load(); list != nil {
		next := slices.Clone(*list)
		for i := range next {
			next[i].t = &f.To[i]
		}
		p.targets.Store(&next)
	}
}

// keeps reports whether targets see the sender's address.
func (p *post) keeps() bool { return p.f.Load().Policy.Source == "keep" }

// resolveTime bounds a lookup of one name.
const resolveTime = 3 * time.Second

// resolve looks the names of targets up. One that cannot be looked up stays
// where it was.
func (p *post) resolve(ctx context.Context) {
	f := p.f.Load()
	var next []target
	if was := p.targets.Load(); was != nil {
		next = slices.Clone(*was)
	} else {
		next = make([]target, len(f.To))
		for i := range f.To {
			next[i] = target{t: &f.To[i], since: time.Now(), up: new(atomic.Bool)}
		}
	}
	for i := range next {
		t := &next[i]
		if a, err := netip.ParseAddr(t.t.Host); err == nil {
			t.addr = a
			continue
		}
		a, err := p.lookUp(ctx, t.t.Host)
		switch {
		case err == nil:
			t.addr, t.problem = a, nil
		case !t.addr.IsValid():
			t.problem = fairlead.AsProblem(err)
		}
	}
	p.targets.Store(&next)
}

func (p *post) lookUp(ctx context.Context, host string) (netip.Addr, error) {
	if p.h.cfg.Resolve == nil {
		return netip.Addr{}, fairlead.Problemf(fairlead.CodeNameUnknown, "%s is no address, and names are not looked up", host)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	list, err := p.h.cfg.Resolve(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	six := wants6(p.f.Load())
	for _, a := range list {
		if a = a.Unmap(); a.Is6() == six {
			return a, nil
		}
	}
	family := map[bool]string{false: "IPv4", true: "IPv6"}[six]
	return netip.Addr{}, fairlead.Problemf(fairlead.CodeNameFamily, "%s has no address of %s", host, family)
}

// links are the interfaces that f names, as they are now.
func (p *post) links(list []netmon.Interface) ([]netmon.Interface, *fairlead.Problem) {
	where := p.f.Load().At.Where
	names := []string{where}
	if where == "wan" || where == "lan" {
		var wan, lan []string
		err := p.h.inside(func() (err error) {
			wan, lan, err = p.h.cfg.Sides()
			return err
		})
		if err != nil {
			return nil, fairlead.AsProblem(err)
		}
		if names = wan; where == "lan" {
			names = lan
		}
		if len(names) == 0 {
			return nil, fairlead.Problemf(fairlead.CodeNoInterface, "this machine has no %s interface", where).
				Fix("name it", "fairlead … --"+where+" eth0")
		}
	}
	var found []netmon.Interface
	var missing *fairlead.Problem
	for _, name := range names {
		at := slices.IndexFunc(list, func(i netmon.Interface) bool { return i.Name == name })
		if at < 0 {
			missing = fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q on this machine", name)
			continue
		}
		found = append(found, list[at])
	}
	return found, missing
}

// places are where f is to be heard on an interface.
func (p *post) places(i *netmon.Interface) (list []place, problem *fairlead.Problem) {
	f := p.f.Load()
	add := func(a netip.Addr, port uint16, r role) {
		list = append(list, place{link: i.Name, index: i.Index, at: netip.AddrPortFrom(a, port), role: r})
	}
	for n := range f.At.Ports.Len() {
		switch port := f.At.Ports.At(n); {
		case port == dhcp.ClientPort: // answers of servers, which a relay brings
		case port == dhcp.ServerPort6:
			link, ok := address(i, netip.Addr.Is6)
			if !ok {
				problem = noAddress(i.Name, "IPv6")
				continue
			}
			add(allAgents6, port, joins)
			add(link, port, relays6)
		case f.At.Group.IsValid():
			add(f.At.Group, port, joins)
		default:
			if port == dhcp.ServerPort {
				gateway, ok := address(i, netip.Addr.Is4)
				if !ok {
					problem = noAddress(i.Name, "IPv4")
					continue
				}
				add(gateway, port, relays4)
			}
			add(toAll, port, hears)
			for _, net := range i.Nets {
				if a, ok := directed(net); ok {
					add(a, port, hears)
				}
			}
		}
	}
	return list, problem
}

var (
	toAll      = netip.AddrFrom4([4]byte{255, 255, 255, 255})
	allAgents6 = netip.MustParseAddr("ff02::1:2") // RFC 8415 section 7.1
)

func noAddress(link, family string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeNoRelayAddress, "%s has no address of %s, by which DHCP servers tell the networks of their clients apart", link, family).
		Fix("give it one", "ip address add ADDRESS/LENGTH dev "+link)
}

// address is the one that stands for an interface's network.
func address(i *netmon.Interface, family func(netip.Addr) bool) (netip.Addr, bool) {
	for _, a := range i.Addrs {
		if family(a) && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// directed is the address of all hosts of a network (RFC 919).
func directed(net netip.Prefix) (netip.Addr, bool) {
	if !net.Addr().Is4() || net.Bits() > 30 {
		return netip.Addr{}, false
	}
	a := net.Masked().Addr().As4()
	for i := net.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a), true
}

// open opens the sockets that are missing and closes those of interfaces and
// addresses that are gone.
func (p *post) open(list []netmon.Interface, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.problem = nil
	if err != nil {
		p.problem = fairlead.AsProblem(err)
		return
	}
	links, problem := p.links(list)
	want := map[place]*netmon.Interface{}
	var order []place
	for i := range links {
		places, lacks := p.places(&links[i])
		if lacks != nil {
			problem = lacks
		}
		for _, at := range places {
			if want[at] == nil {
				want[at] = &links[i]
				order = append(order, at)
			}
		}
	}
	for at, e := range p.ears {
		if want[at] == nil {
			e.close()
			delete(p.ears, at)
		}
	}
	if err := p.openSenders(); err != nil {
		p.problem = lacksRight(p.f.Load(), err)
		return
	}
	for _, at := range order {
		if e := p.ears[at]; e != nil {
			e.link.Store(want[at])
			continue
		}
		e, err := p.listen(at, want[at])
		switch {
		case err == nil:
			p.ears[at] = e
		case at.role == hears && at.at.Addr() != toAll && errors.Is(err, syscall.EADDRNOTAVAIL):
			// The kernel takes this for the address of no network: the link is
			// down, or its broadcast address is another one.
		case problem == nil:
			problem = p.notHeard(at, err)
		}
	}
	p.problem = problem
}

// openSenders opens the sockets that f needs beside its ears.
func (p *post) openSenders() (err error) {
	f := p.f.Load()
	plain := slices.ContainsFunc(f.At.Ports, func(r fairlead.Ports) bool { return r != fairlead.Ports{First: dhcp.ServerPort, Last: dhcp.ServerPort} })
	if p.keeps() && plain && p.raw == nil {
		if err := p.h.inside(func() (err error) { p.raw, err = openRaw(); return err }); err != nil {
			return err
		}
	}
	if hasPort(f, dhcp.ServerPort) && p.frames == nil {
		return p.h.inside(func() (err error) { p.frames, err = openFrames(); return err })
	}
	return nil
}

func lacksRight(f *fairlead.Forward, err error) *fairlead.Problem {
	if !errors.Is(err, fs.ErrPermission) {
		return fairlead.Problemf(fairlead.CodeListenFailed, "%s cannot be carried: %v", f.Expr, err)
	}
	what := "a relay of DHCP sends to clients that have no address yet"
	if !hasPort(f, dhcp.ServerPort) {
		what = "\"source keep\" sends with others' addresses"
	}
	p := fairlead.Problemf(fairlead.CodePrivilege, "%s, which needs CAP_NET_RAW, and this process does not have it", what)
	p.Err = err
	return p.Fix("run it with the right", "sudo fairlead "+f.Expr)
}

// notHeard says why there is no socket.
func (p *post) notHeard(at place, err error) *fairlead.Problem {
	var problem *fairlead.Problem
	switch {
	case errors.Is(err, fs.ErrPermission):
		problem = fairlead.Problemf(fairlead.CodeLowPort, "port %d on %s needs a privilege: ports below 1024 are reserved", at.at.Port(), at.link).
			Fix("run it with the right", "sudo fairlead "+p.f.Load().Expr)
	case errors.Is(err, syscall.EADDRINUSE):
		problem = fairlead.Problemf(fairlead.CodeInUse, "port %d/udp is in use by a program on this host, so that nothing else hears at %s on %s", at.at.Port(), at.at.Addr(), at.link)
		if at.role == relays4 {
			problem.Note("why", "a host is a DHCP server or a relay to others, not both at one address")
		}
		problem.Fix("see which", fmt.Sprintf("ss -lunp sport = :%d", at.at.Port()))
	default:
		problem = fairlead.Problemf(fairlead.CodeListenFailed, "cannot hear at %s: %v", at, err)
	}
	problem.Err = err
	return problem
}

// status is how the post stands.
func (p *post) status() fairlead.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.f.Load()
	st := fairlead.Status{Forward: f, State: fairlead.Listening, By: Name, Problem: p.problem, Meter: &p.meter}
	if p.passed.Load() {
		st.State = fairlead.Passing
	}
	order := slices.SortedFunc(maps.Keys(p.ears), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.link, b.link), cmp.Compare(a.at.Port(), b.at.Port()), a.at.Addr().Compare(b.at.Addr()))
	})
	for _, at := range order {
		st.Bound = append(st.Bound, at.String())
	}
	known := 0
	if list := p.targets.Load(); list != nil {
		for _, t := range *list {
			st.Targets = append(st.Targets, fairlead.TargetStatus{Target: t.t.Dest(), Up: t.up.Load(), Problem: t.problem, Since: t.since})
			if t.addr.IsValid() {
				known++
			} else if st.Problem == nil {
				st.Problem = t.problem
			}
		}
	}
	switch {
	case len(p.ears) == 0 || known == 0:
		st.State = fairlead.Broken
	case st.Problem != nil:
		st.State = fairlead.Partial
	}
	return st
}

// close closes all sockets. Sessions go on.
func (p *post) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for at, e := range p.ears {
		e.close()
		delete(p.ears, at)
	}
	if p.raw != nil {
		p.raw.close()
	}
	if p.frames != nil {
		p.frames.close()
	}
}

// tellAgain is how often the same trouble of a forward is told.
const tellAgain = time.Minute

// trouble tells of what was dropped, not too often.
func (p *post) trouble(code fairlead.Code, format string, args ...any) {
	p.meter.Dropped.Add(1)
	now := time.Now()
	p.mu.Lock()
	if was, ok := p.told[code]; ok && now.Sub(was) < tellAgain {
		p.mu.Unlock()
		return
	}
	p.told[code] = now
	p.mu.Unlock()
	name := p.f.Load().Name
	problem := fairlead.Problemf(code, "%s: %s", name, fmt.Sprintf(format, args...))
	problem.Warning = true
	p.h.cfg.Watch(fairlead.Event{Time: now, Kind: fairlead.EventTrouble, Forward: name, Text: problem.What, Problem: problem})
}

// answered notes that an address answered; it is false where nobody asked it.
func (p *post) answered(a netip.Addr) bool {
	found := false
	for _, t := range *p.targets.Load() {
		if t.addr == a {
			found = true
			t.up.Store(true)
		}
	}
	if found {
		p.passed.Store(true)
	}
	return found
}

// sendTo are the targets that a client's datagrams go to: those meant for its
// address, or else those meant for nobody in particular.
func (p *post) sendTo(client netip.Addr) (list []target) {
	var rest []target
	for _, t := range *p.targets.Load() {
		switch {
		case !t.addr.IsValid():
		case len(t.t.From) == 0:
			rest = append(rest, t)
		case slices.ContainsFunc(t.t.From, func(n netip.Prefix) bool { return n.Contains(client) }):
			list = append(list, t)
		}
	}
	if len(list) > 0 {
		return list
	}
	return rest
}

// port is where t takes what came to port.
func (p *post) port(t *target, port uint16) uint16 {
	ports := p.f.Load().At.Ports
	for i := range ports.Len() {
		if ports.At(i) == port {
			return t.t.Port(ports, i)
		}
	}
	return port
}
