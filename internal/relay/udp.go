package relay

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// Bounds on what strangers can make the relay hold. A session costs a
// descriptor and about a kilobyte.
const (
	maxSessions          = 65536 // of one listening socket
	maxSessionsPerSource = 1024
	maxDialing           = 1024    // sessions of one listening socket that wait for a dial,
	maxWaiting           = 16      // and the datagrams that each of them holds,
	maxWaitingBytes      = 4 << 20 // and all of them together
	datagramSize         = 64 << 10
)

// A udpEntry is a datagram socket with its sessions: each client address gets
// a connected socket towards the target, so that answers find their way back
// and the target's errors stay its own.
type udpEntry struct {
	e   *entry
	c   *net.UDPConn
	any bool // bound to every address: answers must name theirs
	raw syscall.RawConn

	dialing atomic.Int64 // sessions that wait for a dial
	waiting atomic.Int64 // bytes of their datagrams

	mu       sync.Mutex // guards the rest
	sessions map[sessionKey]*session
	used     *list.List                // of *session, most recently used first
	sources  map[netip.Addr]*list.List // the same for each source
	closed   bool
}

// A sessionKey is what makes a conversation: who asked, and which address.
type sessionKey struct {
	client netip.AddrPort
	local  netip.Addr
}

func newUDPEntry(e *entry, c *net.UDPConn) *udpEntry {
	return &udpEntry{
		e: e, c: c,
		any:      e.key.at.Addr().IsUnspecified(),
		raw:      rawConn(c),
		sessions: map[sessionKey]*session{},
		used:     list.New(),
		sources:  map[netip.Addr]*list.List{},
	}
}

// receive takes datagrams from clients until the socket is closed. No error
// of one client's ends it.
func (u *udpEntry) receive() {
	buf, oob := make([]byte, datagramSize), make([]byte, sock.PacketInfoSize)
	out := newOutlet()
	for {
		n, oobn, _, from, err := u.c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if u.e.gone.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select { // an ICMP error that came back, or no memory: it passes
			case <-u.e.gone.Done():
				return
			case <-time.After(time.Millisecond):
			}
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if from.Port() == 0 {
			continue // nobody could be answered
		}
		local, ifindex := sock.PacketInfo(oob[:oobn])
		if !local.IsValid() {
			local = u.e.key.at.Addr()
		}
		if s := u.session(sessionKey{from, local}, ifindex); s != nil {
			s.send(buf[:n], out)
		}
	}
}

// session finds or begins the conversation k. It returns nil for a client
// that may not have one.
func (u *udpEntry) session(k sessionKey, ifindex int) *session {
	u.mu.Lock()
	s := u.sessions[k]
	if s != nil && !s.over.Load() {
		u.touch(s)
		u.mu.Unlock()
		return s
	}
	closed := u.closed
	u.mu.Unlock()
	if closed {
		return nil
	}

	b := u.e.rule.Load()
	ru := b.rule
	client := k.client.Addr().WithZone("")
	targets := ru.choose(client)
	// A datagram that claims to come from a listener of ours would have its
	// answer forwarded, and that one's answer, for ever.
	if !ru.allowed(client) || len(targets) == 0 || u.e.r.entryAt("udp", k.client) != nil {
		ru.meter.Refused.Add(1)
		return nil
	}
	if ru.arrivals != nil && !ru.arrivals.try(1, time.Now()) {
		ru.meter.Refused.Add(1)
		return nil
	}
	if u.dialing.Load() >= maxDialing {
		ru.meter.Dropped.Add(1)
		return nil
	}
	u.makeRoom(client, &ru.f.Policy)
	if !u.e.r.budget.try(1) && !u.takeOver() {
		u.e.r.trouble(fairlead.CodeNoDescriptors, "all file descriptors are in use: datagrams of new clients are dropped")
		ru.meter.Dropped.Add(1)
		return nil
	}
	s = &session{
		u: u, id: u.e.r.table.next(), b: b, key: k, began: time.Now(),
	}
	if u.any {
		s.source = sock.SourceInfo(k.local, ifindex)
	}
	if v := ru.f.Policy.ProxyProtocol; v != 0 {
		o := origin{client: k.client, local: netip.AddrPortFrom(k.local, u.e.key.at.Port())}
		s.header, _ = o.header(v, "udp") // addresses alone always fit
	}
	s.to = destination(u.e.key.at.Addr(), k.client, ifindex)
	ctx, stop := b.rule.dialContext(u.e.r.ctx, 0)
	s.stop = stop
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		stop()
		u.e.r.budget.give(1)
		return nil
	}
	u.sessions[k] = s
	s.inUsed = u.used.PushFront(s)
	key := sourceKey(client)
	if u.sources[key] == nil {
		u.sources[key] = list.New()
	}
	s.inSource = u.sources[key].PushFront(s)
	u.mu.Unlock()

	ru.meter.Flows.Add(1)
	ru.meter.Active.Add(1)
	u.e.r.table.add(s)
	u.dialing.Add(1)
	u.e.r.wg.Go(func() { s.dial(ctx, targets) })
	return s
}

// touch marks s as used just now. The caller holds u.mu.
func (u *udpEntry) touch(s *session) {
	if s.inUsed == nil {
		return
	}
	u.used.MoveToFront(s.inUsed)
	if l := u.sources[sourceKey(s.key.client.Addr())]; l != nil {
		l.MoveToFront(s.inSource)
	}
}

// makeRoom ends the session that was used least recently where a new one
// would exceed a limit: the source's own first, so that nobody can push out
// others.
func (u *udpEntry) makeRoom(client netip.Addr, p *fairlead.Policy) {
	all, perSource := maxSessions, maxSessionsPerSource
	if p.MaxConns > 0 {
		all = p.MaxConns
	}
	if p.MaxConnsPerSource > 0 {
		perSource = p.MaxConnsPerSource
	}
	u.mu.Lock()
	own := u.sources[sourceKey(client)]
	ownFull, full := own != nil && own.Len() >= perSource, u.used.Len() >= all
	u.mu.Unlock()
	switch {
	case ownFull:
		u.evict(own)
	case full:
		u.evict(u.used)
	}
}

// evict ends the last session of a list.
func (u *udpEntry) evict(l *list.List) bool {
	u.mu.Lock()
	last := l.Back()
	u.mu.Unlock()
	if last == nil {
		return false
	}
	last.Value.(*session).finish(fairlead.Evicted)
	return true
}

// takeOver ends the session that was used least recently and keeps its
// descriptor for a new one: given back, it would go to whoever waits longest.
func (u *udpEntry) takeOver() bool {
	u.mu.Lock()
	last := u.used.Back()
	u.mu.Unlock()
	return last != nil && last.Value.(*session).end(fairlead.Evicted)
}

// forget takes s out of the tables.
func (u *udpEntry) forget(s *session) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sessions[s.key] == s {
		delete(u.sessions, s.key)
	}
	if s.inUsed == nil {
		return
	}
	u.used.Remove(s.inUsed)
	key := sourceKey(s.key.client.Addr())
	if l := u.sources[key]; l != nil {
		l.Remove(s.inSource)
		if l.Len() == 0 {
			delete(u.sources, key)
		}
	}
	s.inUsed, s.inSource = nil, nil
}

func (u *udpEntry) close() {
	u.mu.Lock()
	u.closed = true
	var all []*session
	for _, s := range u.sessions {
		all = append(all, s)
	}
	u.mu.Unlock()
	for _, s := range all {
		s.finish(fairlead.Shutdown)
	}
	u.c.Close()
}

// A session is one client's conversation with the target.
type session struct {
	u      *udpEntry
	id     uint64
	b      *binding // under which it began
	key    sessionKey
	source []byte // control data that answers from the address asked
	header []byte // goes before each datagram to the target; nil: none
	to     sockaddr
	began  time.Time

	in, out atomic.Int64
	last    atomic.Int64 // when a datagram passed last, in nanoseconds since began
	refused atomic.Bool  // the target said that nothing listens, and nothing since
	over    atomic.Bool

	inUsed, inSource *list.Element // guarded by u.mu

	mu      sync.Mutex // guards the rest
	stop    func()     // ends the dial; nil when that is over
	up      net.Conn   // connected to the target; nil while dialing
	target  *target    // which that is
	raw     syscall.RawConn
	ready   bool // what has waited is sent
	waiting [][]byte
}

// dial connects the session to its target and sends what has waited.
func (s *session) dial(ctx context.Context, targets []*target) {
	r := s.u.e.r
	defer s.u.dialing.Add(-1)
	var up net.Conn
	var chosen *target
	var err error
	for _, t := range s.b.rule.order(targets, s.key.client.Addr()) {
		if up, err = r.dialDatagrams(ctx, s.b, s.key.client, t); err == nil {
			chosen = t
			break
		}
		if ctx.Err() != context.Canceled && reason(err) != fairlead.NoDescriptors {
			r.saw(t, fairlead.AsProblem(err))
		}
	}
	if err != nil {
		if !s.over.Load() {
			s.b.rule.meter.Refused.Add(1)
		}
		s.finish(reason(err))
		return
	}
	if !s.connected(up, chosen) {
		up.Close()
		return
	}
	s.sendWaiting()
	if s.raw == nil || !r.poller.add(s) {
		r.wg.Go(s.readAnswers)
	}
}

func (r *Relay) dialDatagrams(ctx context.Context, b *binding, client netip.AddrPort, t *target) (net.Conn, error) {
	_, address := t.address(b.rule.f.At.Ports, b.port)
	if r.loops(ctx, "udp", b, t) {
		return nil, loopProblem(b.rule, address)
	}
	return r.connect(ctx, b.rule, client, "udp", address)
}

// connected notes the dialed socket, unless the session has ended meanwhile.
func (s *session) connected(up net.Conn, t *target) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop() // releases what the time limit held
	s.stop = nil
	if s.over.Load() {
		return false
	}
	s.up, s.raw = up, rawConn(up)
	s.target = t
	t.active.Add(1)
	// Told under the lock, so that the end is told afterwards.
	d := s.describeLocked()
	s.u.e.r.tellOf(fairlead.Event{Kind: fairlead.EventOpen, Forward: s.b.rule.f.Name}, &d)
	return true
}

// sendWaiting sends what came during the dial, and what comes meanwhile after
// it, so that datagrams keep their order.
func (s *session) sendWaiting() {
	out := newOutlet()
	for {
		s.mu.Lock()
		waiting := s.waiting
		s.waiting = nil
		s.ready = len(waiting) == 0
		s.mu.Unlock()
		if len(waiting) == 0 {
			return
		}
		for _, d := range waiting {
			s.u.waiting.Add(-int64(len(d)))
			s.write(d, out)
		}
	}
}

// send takes a datagram from the client to the target.
func (s *session) send(d []byte, out *outlet) {
	s.last.Store(int64(time.Since(s.began)))
	s.mu.Lock()
	ready := s.ready
	if !ready {
		s.wait(d)
	}
	s.mu.Unlock()
	if ready {
		s.write(d, out)
	}
}

// wait keeps a datagram until the dial is over. The caller holds s.mu.
func (s *session) wait(d []byte) {
	if s.over.Load() || len(s.waiting) >= maxWaiting || s.u.waiting.Load()+int64(len(d)) > maxWaitingBytes {
		s.b.rule.meter.Dropped.Add(1)
		return
	}
	s.u.waiting.Add(int64(len(d)))
	s.waiting = append(s.waiting, append([]byte(nil), d...))
}

func (s *session) write(d []byte, out *outlet) {
	if l := s.b.rule.bandwidth.up; l != nil && !l.try(len(d), time.Now()) {
		s.b.rule.meter.Dropped.Add(1)
		return
	}
	n := len(d)
	if len(s.header) > 0 {
		// In the same datagram: each is understood by itself.
		b := buffers.Get().(*buffer)
		defer buffers.Put(b)
		if n+len(s.header) > len(b) {
			s.b.rule.meter.Dropped.Add(1)
			return
		}
		d = append(append(b[:0], s.header...), d...)
	}
	err := out.send(s, d)
	if errors.Is(err, syscall.ECONNREFUSED) {
		// That was the answer to an earlier datagram. This one has not left.
		s.noteRefused()
		err = out.send(s, d)
	}
	m := s.b.rule.meter
	if err != nil {
		m.Dropped.Add(1)
		return
	}
	s.in.Add(int64(n))
	m.In.Add(int64(n))
}

// answer takes a datagram from the target to the client.
func (s *session) answer(d []byte) {
	s.last.Store(int64(time.Since(s.began)))
	s.refused.Store(false)
	s.u.mu.Lock()
	s.u.touch(s)
	s.u.mu.Unlock()
	m := s.b.rule.meter
	if l := s.b.rule.bandwidth.down; l != nil && !l.try(len(d), time.Now()) {
		m.Dropped.Add(1)
		return
	}
	if err := s.u.answer(s, d); err != nil {
		m.Dropped.Add(1)
		return
	}
	s.out.Add(int64(len(d)))
	m.Out.Add(int64(len(d)))
	if !s.b.rule.passed.Load() {
		s.b.rule.passed.Store(true)
	}
	s.noteAnswer()
}

// readAnswers serves a session where there is no poller.
func (s *session) readAnswers() {
	buf := make([]byte, datagramSize)
	for {
		n, err := s.up.Read(buf)
		switch {
		case err == nil:
			s.answer(buf[:n])
		case s.over.Load() || errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			s.noteRefused()
		default:
			s.finish(fairlead.Failed)
			return
		}
	}
}

// noteRefused marks the target as down when its host says that nothing
// listens. The session stays: the program may be starting.
func (s *session) noteRefused() {
	if s.refused.Swap(true) {
		return
	}
	address := addrText(s.up.RemoteAddr())
	for _, t := range s.b.rule.targets {
		if len(s.b.rule.targets) == 1 || t.t.Dest() == address {
			s.u.e.r.saw(t, fairlead.Problemf(fairlead.CodeTargetRefuses,
				"%s/udp refuses datagrams: nothing listens there", address))
		}
	}
}

func (s *session) noteAnswer() {
	for _, t := range s.b.rule.targets {
		if len(s.b.rule.targets) == 1 && t.status().Problem != nil {
			s.u.e.r.saw(t, nil)
		}
	}
}

// finish ends the session for good; the first reason counts.
func (s *session) finish(why fairlead.Reason) {
	if s.end(why) {
		s.u.e.r.budget.give(1)
	}
}

// end is finish without giving back the descriptor. It returns false when
// somebody else has ended the session, and then gives it back.
func (s *session) end(why fairlead.Reason) bool {
	if !s.over.CompareAndSwap(false, true) {
		return false
	}
	r := s.u.e.r
	s.u.forget(s)
	s.mu.Lock()
	up := s.up
	if s.stop != nil {
		s.stop()
	}
	for _, d := range s.waiting {
		s.u.waiting.Add(-int64(len(d)))
		s.b.rule.meter.Dropped.Add(1)
	}
	s.waiting = nil
	s.mu.Unlock()
	if up != nil {
		r.poller.remove(s)
		up.Close()
		s.target.active.Add(-1)
	}
	s.b.rule.meter.Active.Add(-1)
	r.table.remove(s)
	r.tell(fairlead.Event{Kind: fairlead.EventClose, Forward: s.b.rule.f.Name, Reason: why}, s)
	return true
}

func (s *session) number() uint64 { return s.id }
func (s *session) kill()          { s.finish(fairlead.Killed) }
func (s *session) shut()          { s.finish(fairlead.Shutdown) }

func (s *session) look(now time.Time) {
	ru := s.b.rule
	switch {
	case ru.lifetime > 0 && now.Sub(s.began) >= ru.lifetime:
		s.finish(fairlead.Lifetime)
	case ru.udpIdle > 0 && now.Sub(s.began)-time.Duration(s.last.Load()) >= ru.udpIdle:
		s.finish(fairlead.IdleTimeout)
	}
}

func (s *session) matches(m fairlead.Match) bool {
	return matches(m, s.id, s.b.rule.f.Name, s.key.client.Addr())
}

func (s *session) describe() fairlead.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.describeLocked()
}

// describeLocked is describe for who holds s.mu.
func (s *session) describeLocked() fairlead.Conn {
	d := fairlead.Conn{
		ID: idText(s.id), Forward: s.b.rule.f.Name, Network: "udp",
		Client: s.key.client.String(), Local: netip.AddrPortFrom(s.key.local, s.u.e.key.at.Port()).String(),
		Began: s.began, In: s.in.Load(), Out: s.out.Load(),
	}
	if s.up != nil {
		d.Target = addrText(s.up.RemoteAddr())
	}
	return d
}
