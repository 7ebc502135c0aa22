package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"

	"fairlead"
	"fairlead/internal/place"
	"fairlead/internal/sys/sock"
)

// A departure is how a rule's connections set out toward their targets: from
// which address or interface, and how their packets are marked.
type departure struct {
	sources []source // taken in turn; empty: the system chooses
	keep    bool     // the client's own address
	mark    uint32   // 0: none
	dscp    int      // negative: unsaid
	turns   atomic.Uint32
}

// A source is an address of this host, or an interface.
type source struct {
	addr   netip.Addr
	device string
}

func (s source) String() string {
	if s.device != "" {
		return s.device
	}
	return s.addr.String()
}

// fits reports whether a connection to that address can set out from s.
func (s source) fits(to netip.Addr) bool {
	return s.device != "" || s.addr.Is4() == to.Is4()
}

func newDeparture(p *fairlead.Policy) *departure {
	d := &departure{keep: p.Source == "keep", mark: p.Mark, dscp: -1}
	if n, ok := p.DSCP.Value(); ok {
		d.dscp = n
	}
	if p.Source == "" || d.keep {
		return d
	}
	for word := range strings.SplitSeq(p.Source, ",") {
		if a, err := netip.ParseAddr(word); err == nil {
			d.sources = append(d.sources, source{addr: a.Unmap()})
		} else {
			d.sources = append(d.sources, source{device: word})
		}
	}
	return d
}

// A start is one client's way out to a target. It readies each socket that is to
// connect, and says what to do when one cannot. It is a value for one dial, of
// one goroutine or several that race.
type start struct {
	r      *Relay
	ru     *rule
	client netip.AddrPort // zero for a unix socket's client and for the relay itself
	turn   uint32
}

// start begins a way out for a client of ru.
func (r *Relay) start(ru *rule, client netip.AddrPort) start {
	s := start{r: r, ru: ru, client: client}
	if len(ru.departure.sources) > 1 {
		s.turn = ru.departure.turns.Add(1)
	}
	return s
}

// plain reports whether sockets need no preparing at all.
func (s start) plain() bool {
	d := s.ru.departure
	return len(d.sources) == 0 && !d.keep && d.mark == 0 && d.dscp < 0 && s.ru.congestion == "" && s.r.legs.Load().usual()
}

// prepare readies a socket of network (tcp, udp) that is about to connect to
// to. It is the try-th socket for that address, counted from 0. An error is a
// *fairlead.Problem, or the system's, which failed understands; the socket must
// then not be connected.
func (s start) prepare(fd int, network string, to netip.AddrPort, try int) error {
	d := s.ru.departure
	addr := to.Addr().Unmap()
	if d.mark != 0 {
		if err := sock.SetMark(fd, d.mark); err != nil {
			return optionProblem("mark", err)
		}
	}
	if d.dscp >= 0 {
		if err := sock.SetDSCP(fd, addr.Is6(), d.dscp); err != nil {
			return optionProblem("dscp", err)
		}
	}
	stream := network[0] == 't'
	if stream {
		if name := s.r.congestionFor(addr, s.ru); name != "" {
			if err := sock.SetCongestion(fd, name); err != nil && s.ru.forcesCongestion() {
				return optionProblem("congestion "+name, err)
			}
		}
	}
	switch {
	case d.keep:
		return s.keepClient(fd, addr, stream, try)
	case len(d.sources) > 0:
		return s.leaveBy(fd, addr, stream, try)
	}
	return nil
}

// leaveBy binds the socket to one of the sources that fit the target.
func (s start) leaveBy(fd int, to netip.Addr, stream bool, try int) error {
	n := s.fitting(to)
	if n == 0 {
		return noSource(to, s.ru.f.Policy.Source)
	}
	skip := (int(s.turn) + try) % n
	for _, src := range s.ru.departure.sources {
		if !src.fits(to) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if src.device != "" {
			return sock.BindDevice(fd, src.device)
		}
		return sock.BindSource(fd, netip.AddrPortFrom(src.addr, 0), false, stream)
	}
	return nil
}

// fitting is how many sources a connection to that address can set out from.
func (s start) fitting(to netip.Addr) (n int) {
	for _, src := range s.ru.departure.sources {
		if src.fits(to) {
			n++
		}
	}
	return n
}

// failed is told of a socket that could not be prepared or connected. again says
// that another one, with the next number, may be tried at the same address;
// otherwise told is the error in better words, or err.
func (s start) failed(err error, to netip.AddrPort, try int) (again bool, told error) {
	addr := to.Addr().Unmap()
	tries := s.fitting(addr)
	if s.ru.departure.keep {
		tries = keepTries
	}
	spent := errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EAGAIN)
	gone := len(s.ru.departure.sources) > 0 && errors.Is(err, syscall.ENODEV)
	switch {
	case (spent || gone) && try+1 < tries:
		return true, nil
	case gone:
		return false, noInterface(s.ru.f.Policy.Source, err)
	case spent && len(s.ru.departure.sources) > 0:
		return false, spentProblem(s.ru.f.Policy.Source, to, err)
	}
	return false, err
}

// A departer is a place whose sockets can be readied before they connect.
type departer interface {
	DialFrom(ctx context.Context, network, address string, s place.Start) (net.Conn, error)
}

// connect dials through the rule's place on behalf of a client, the zero
// AddrPort where there is none with an address.
func (r *Relay) connect(ctx context.Context, ru *rule, client netip.AddrPort, network, address string) (net.Conn, error) {
	s := r.start(ru, client)
	p, ok := ru.place.(departer)
	if !ok || network == "unix" || s.plain() {
		return ru.place.DialContext(ctx, network, address)
	}
	return p.DialFrom(ctx, network, address, place.Start{
		Prepare: func(network string, to netip.AddrPort, try int, c syscall.RawConn) error {
			var perr error
			if err := c.Control(func(fd uintptr) { perr = s.prepare(int(fd), network, to, try) }); err != nil {
				return err
			}
			return perr
		},
		Failed: s.failed,
	})
}

// answering sets on a listening socket what holds for what is sent to clients.
func (e *entry) answering(ru *rule) {
	// The code point is that of the whole conversation: an answer is as urgent
	// as its question. Accepted connections inherit it, so that even the
	// handshake has it.
	if d := max(ru.departure.dscp, 0); d != e.dscp && e.key.network != "unix" {
		if e.control(func(fd int) error { return sock.SetDSCP(fd, e.key.at.Addr().Is6(), d) }) == nil {
			e.dscp = d
		}
	}
}

// control runs f with the descriptor of the listening socket.
func (e *entry) control(f func(fd int) error) error {
	if e.ear != nil {
		return e.ear.control(f)
	}
	if e.udp != nil {
		return e.udp.server.control(f)
	}
	ln, ok := e.ln.(*net.TCPListener)
	if !ok {
		return errors.ErrUnsupported
	}
	return controlOf(ln, f)
}

func controlOf(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
