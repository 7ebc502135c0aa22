package place

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"fairlead"
)

const (
	// exchangeTime is what one question to one server may take, so that
	// three servers can be asked within lookupTime. Go's resolver would wait
	// for each as resolv.conf says, by default 5 s.
	exchangeTime = 1600 * time.Millisecond

	// restTime is what the question about the other family may still take
	// when one has been answered with addresses. RFC 8305 §3 begins to
	// connect after 50 ms; our answer is kept, so a little more is well spent.
	restTime = 500 * time.Millisecond
)

// An answer is what one lookup came to.
type answer struct {
	found    *finding
	ttl      time.Duration // of found, or of the "no"
	err      *fairlead.Problem
	negative bool // err is an answer: there is no such name, or it has no such records
}

// ask looks name up once, within ctx.
func (n *Names) ask(ctx context.Context, name string) answer {
	s, r := n.resolver(ctx)
	found, err := r.LookupNetIP(ctx, "ip", name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return s.failure(name, err)
	}
	addrs := make([]netip.Addr, 0, len(found))
	for _, a := range found {
		if a = a.Unmap(); !a.IsUnspecified() {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		p := fairlead.Problemf(fairlead.CodeNameUnknown, "no address for %q%s", name, s.said("blocked by", "blocked")).
			Note("note", "the answer was %s, as filtering resolvers say it", listed(found)).
			Fix("take the name off the resolver's block list", "")
		return answer{err: p, negative: true, ttl: s.ttl}
	}
	addrs = unique(interleave(addrs, netip.Addr{}))
	if len(addrs) > maxAddrs {
		addrs = slices.Clone(addrs[:maxAddrs])
	}
	return answer{found: &finding{addrs: addrs}, ttl: s.held()}
}

// held is how long what was found holds. s.mu is held.
func (s *sight) held() time.Duration {
	if s.ttl == 0 {
		return unseenTTL
	}
	return s.ttl
}

// resolver is the resolver for one lookup, and what is seen of it. Sharing of
// lookups is ours, and so its Dial knows which lookup it serves.
func (n *Names) resolver(ctx context.Context) (*sight, *net.Resolver) {
	s := &sight{asked: map[dnsmessage.Question]bool{}, open: map[*exchange]struct{}{}}
	return s, &net.Resolver{
		PreferGo: ownResolver || len(n.servers) > 0,
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			return n.dialServer(ctx, s, network, address)
		},
	}
}

// unique drops what is in addrs before, in place.
func unique(addrs []netip.Addr) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(addrs))
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		again := seen[a]
		seen[a] = true
		return again
	})
}

// A sight is what was seen of the DNS traffic of one lookup. Its questions are
// asked in parallel, one exchange each at a time.
type sight struct {
	// mu guards all fields, and the deadlines of open.
	mu       sync.Mutex
	ttl      time.Duration                // the least of all good replies; 0: none seen
	negative time.Duration                // the least of all "no"s that say one
	nxdomain bool                         // a "no" was: there is no such name
	trouble  dnsmessage.RCode             // of the last reply that was neither yes nor no
	server   string                       // that replied last, or was asked last
	dialErr  error                        // of the last server that could not even be asked
	asked    map[dnsmessage.Question]bool // whether they were settled
	found    bool                         // some reply had addresses
	service  bool                         // it is for service records
	open     map[*exchange]struct{}
}

// settled says whether every name that was asked for had an answer for both
// families. Otherwise a "no" may be for want of an answer. s.mu is held.
func (s *sight) settled() bool {
	for q, done := range s.asked {
		if q.Type == dnsmessage.TypeSRV {
			if !done {
				return false
			}
			continue
		}
		other := q
		other.Type = dnsmessage.TypeA
		if q.Type == dnsmessage.TypeA {
			other.Type = dnsmessage.TypeAAAA
		}
		if !done || !s.asked[other] {
			return false
		}
	}
	return true
}

// patience is the time an exchange has that begins now. s.mu is held.
func (s *sight) patience() time.Duration {
	if s.found {
		return restTime
	}
	return exchangeTime
}

// failure tells err, the resolver's, in our words. s.mu is held.
func (s *sight) failure(name string, err error) answer {
	var d *net.DNSError
	if errors.As(err, &d) && d.IsNotFound && s.settled() {
		why := ""
		switch {
		case s.nxdomain:
			why = s.said("NXDOMAIN from", "NXDOMAIN")
		case s.service:
			why = s.said("no SRV records at", "no SRV records")
		case len(s.asked) > 0:
			why = s.said("no A or AAAA records at", "no A or AAAA records")
		}
		p := fairlead.Problemf(fairlead.CodeNameUnknown, "no address for %q%s", name, why).
			Fix("correct the name, or give it an address in DNS or in the hosts file", "")
		if s.service {
			p = noService(name, why)
		}
		p.Err = err
		return answer{err: p, negative: true, ttl: s.negative}
	}
	var p *fairlead.Problem
	switch {
	case kindOf(s.dialErr) == fairlead.CodeNoDescriptors:
		p = noDescriptors("look up " + name)
		err = s.dialErr
	case s.trouble != 0 && s.server != "":
		p = fairlead.Problemf(fairlead.CodeNameServer, "the name server %s cannot answer for %q (%s)", s.server, name, rcodeName(s.trouble))
	case s.server != "":
		p = fairlead.Problemf(fairlead.CodeNameServer, "the name server %s does not answer for %q", s.server, name)
	default:
		p = fairlead.Problemf(fairlead.CodeNameServer, "the lookup of %q failed", name)
	}
	p.Err = err
	if p.Code == fairlead.CodeNameServer {
		cause := err
		if s.dialErr != nil {
			cause = s.dialErr
		}
		p.Note("why", "%s", words(cause)).
			Fix("see whether the name server is up and can be reached", "")
	}
	return answer{err: p}
}

// said is the bracket behind "no address": by with the server, or alone when
// none was seen. s.mu is held.
func (s *sight) said(by, alone string) string {
	if s.server == "" {
		return " (" + alone + ")"
	}
	return " (" + by + " " + s.server + ")"
}

func rcodeName(c dnsmessage.RCode) string {
	switch c {
	case dnsmessage.RCodeFormatError:
		return "FORMERR"
	case dnsmessage.RCodeServerFailure:
		return "SERVFAIL"
	case dnsmessage.RCodeNotImplemented:
		return "NOTIMP"
	case dnsmessage.RCodeRefused:
		return "REFUSED"
	}
	return c.String()
}

// dialServer connects to a name server: address, or ours in place of it.
func (n *Names) dialServer(ctx context.Context, s *sight, network, address string) (net.Conn, error) {
	turn := n.server.Load()
	if len(n.servers) > 0 {
		address = n.servers[int(turn%uint32(len(n.servers)))].String()
	}
	server := address
	if at, err := netip.ParseAddrPort(address); err == nil && at.Port() == 53 {
		server = at.Addr().String()
	}
	s.mu.Lock()
	dialer := net.Dialer{Timeout: s.patience(), KeepAlive: -1}
	s.mu.Unlock()
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, network, address)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.dialErr, s.server = err, server
		n.server.CompareAndSwap(turn, turn+1)
		return nil, err
	}
	x := &exchange{names: n, sight: s, turn: turn, server: server, conn: conn}
	// Go's resolver reads until its deadline even when nobody waits any more.
	x.unwatch = context.AfterFunc(ctx, func() { conn.Close() })
	s.open[x] = struct{}{}
	if udp, ok := conn.(*net.UDPConn); ok {
		return &datagrams{udp, x}, nil
	}
	return &stream{Conn: conn, x: x}, nil
}

// An exchange is one question to one server and its reply, as it passes
// through a connection of Go's resolver. That hides the records' time to
// live, so we look on. It is the resolver's goroutine that calls, but for the
// deadline, which sight.mu guards.
type exchange struct {
	names   *Names
	sight   *sight
	turn    uint32
	server  string
	conn    net.Conn
	unwatch func() bool

	id       uint16
	question dnsmessage.Question
	sent     bool
	settled  bool
}

// datagrams is an exchange over UDP. It is a net.PacketConn, by which Go's
// resolver tells the two apart.
type datagrams struct {
	*net.UDPConn
	x *exchange
}

func (d *datagrams) Write(b []byte) (int, error) {
	d.x.query(b)
	return d.UDPConn.Write(b)
}

func (d *datagrams) Read(b []byte) (int, error) {
	n, err := d.UDPConn.Read(b)
	if err == nil {
		d.x.reply(b[:n])
	}
	return n, err
}

func (d *datagrams) SetDeadline(t time.Time) error { return d.x.setDeadline(t) }
func (d *datagrams) Close() error                  { return d.x.close() }

// stream is an exchange over TCP, where two bytes of length precede each
// message (RFC 1035 §4.2.2).
type stream struct {
	net.Conn
	x   *exchange
	got []byte // of the reply, with its length: 64 KiB + 2 at most
}

func (s *stream) Write(b []byte) (int, error) {
	if len(b) > 2 {
		s.x.query(b[2:])
	}
	return s.Conn.Write(b)
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if whole := s.whole(); whole < 0 || len(s.got) < whole {
		s.got = append(s.got, b[:n]...)
		if whole = s.whole(); whole >= 0 && len(s.got) >= whole {
			s.x.reply(s.got[2:whole])
		}
	}
	return n, err
}

// whole is the length of the reply with its length, -1 while that is unknown.
func (s *stream) whole() int {
	if len(s.got) < 2 {
		return -1
	}
	return 2 + int(binary.BigEndian.Uint16(s.got))
}

func (s *stream) SetDeadline(t time.Time) error { return s.x.setDeadline(t) }
func (s *stream) Close() error                  { return s.x.close() }

// query notes what is asked.
func (x *exchange) query(msg []byte) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return
	}
	q, err := p.Question()
	if err != nil {
		return
	}
	x.id, x.question, x.sent = h.ID, q, true
	x.sight.mu.Lock()
	defer x.sight.mu.Unlock()
	x.sight.server = x.server
	if !x.sight.asked[q] {
		x.sight.asked[q] = false
	}
}

// reply notes what is answered, if msg is the answer.
func (x *exchange) reply(msg []byte) {
	if !x.sent {
		return
	}
	r, ok := readReply(msg, x.id, x.question)
	if !ok {
		return
	}
	s := x.sight
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = x.server
	switch {
	case r.truncated: // asked again over TCP
		x.settled = true
		return
	case !r.usable():
		s.trouble = r.rcode
		return
	}
	x.settled = true
	s.asked[x.question] = true
	s.nxdomain = s.nxdomain || r.rcode == dnsmessage.RCodeNameError
	if r.negative > 0 && (s.negative == 0 || r.negative < s.negative) {
		s.negative = r.negative
	}
	if r.ttl > 0 && (s.ttl == 0 || r.ttl < s.ttl) {
		s.ttl = r.ttl
	}
	if r.addresses > 0 && !s.found {
		s.found = true
		for other := range s.open {
			if other != x {
				other.conn.SetDeadline(time.Now().Add(restTime))
			}
		}
	}
}

func (x *exchange) setDeadline(t time.Time) error {
	x.sight.mu.Lock()
	defer x.sight.mu.Unlock()
	if own := time.Now().Add(x.sight.patience()); t.IsZero() || own.Before(t) {
		t = own
	}
	return x.conn.SetDeadline(t)
}

// close ends the exchange. A server that did not settle its question is not
// asked first the next time.
func (x *exchange) close() error {
	x.unwatch()
	x.sight.mu.Lock()
	delete(x.sight.open, x)
	hurried := x.sight.found
	x.sight.mu.Unlock()
	if !x.settled && !hurried {
		x.names.server.CompareAndSwap(x.turn, x.turn+1)
	}
	return x.conn.Close()
}
