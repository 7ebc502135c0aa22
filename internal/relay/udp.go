package relay

import (
	"container/list"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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
)

// A udpEntry is a datagram socket with its sessions: each client address gets
// a connected socket towards the target, so that answers find their way back
// and the target's errors stay its own. Sockets are read and written by a
// datagramServer; who has a session, and for how long, is decided here.
type udpEntry struct {
	e      *entry
	any    bool // bound to every address: answers must name theirs
	server datagramServer

	dialing atomic.Int64 // sessions that wait for a dial
	waiting atomic.Int64 // bytes of their datagrams

	mu       sync.Mutex // guards the rest
	sessions map[sessionKey]*session
	used     *list.List                // of *session, most recently used first
	sources  map[netip.Addr]*list.List // the same for each source
	closed   bool
}

// A datagramServer moves the datagrams of one listening socket: goroutines do
// everywhere, an event loop does on Linux.
type datagramServer interface {
	// serve begins to receive from clients.
	serve()
	// dial connects s to t at once where there is nothing to wait for, and
	// begins; it returns false where somebody else has to.
	dial(s *session, t *target) bool
	// begin sends what has waited for s to be dialed and from then on takes
	// the answers of up, which it owns.
	begin(s *session, up net.Conn)
	// release closes the socket of s, which is over, and gives its descriptor
	// back to the budget unless it is kept.
	release(s *session, keep bool)
	// settle does now what was released and could wait.
	settle()
	// control runs f with the descriptor of the listening socket.
	control(f func(fd int) error) error
	// close closes the listening socket; when it returns that is done.
	close()
}

// A sessionKey is what makes a conversation: who asked, and which address.
type sessionKey struct {
	client netip.AddrPort // without a zone
	scope  int            // the interface of a link-local client
	local  netip.Addr
	sender netip.AddrPort // who told of the client; zero where the client came itself
}

// An arrived is where a datagram comes from and what it asked.
type arrived struct {
	sender  netip.AddrPort // without a zone
	local   netip.Addr
	ifindex int // by which it came, as far as known
	told    *origin
}

// key is the conversation that the datagram belongs to.
func (a *arrived) key() sessionKey {
	k := sessionKey{client: a.sender, local: a.local}
	if a.sender.Addr().IsLinkLocalUnicast() {
		k.scope = a.ifindex
	}
	if a.told != nil {
		k.client, k.sender = a.told.client, a.sender
	}
	return k
}

// newUDPEntry serves c, which it owns, on an event loop where there is one.
func newUDPEntry(e *entry, c *net.UDPConn) *udpEntry {
	u := &udpEntry{
		e:        e,
		any:      e.key.at.Addr().IsUnspecified(),
		sessions: map[sessionKey]*session{},
		used:     list.New(),
		sources:  map[netip.Addr]*list.List{},
	}
	if !e.r.cfg.Goroutines {
		u.server = e.r.udp.server(u, c)
	}
	if u.server == nil {
		u.server = newUDPReader(u, c)
	}
	return u
}

// take is the live conversation k, for one more datagram of the client; nil
// where there is none. The caller holds u.mu.
func (u *udpEntry) take(k *sessionKey) *session {
	s := u.sessions[*k]
	if s == nil || s.over.Load() {
		return nil
	}
	if s.counts && s.asked() {
		delete(u.sessions, *k) // it waits for answers; the next datagram is another's
	}
	return s
}

// session finds or begins the conversation that a belongs to. It returns nil
// for a client that may not have one. One goroutine at a time calls it.
func (u *udpEntry) session(a *arrived) *session {
	k := a.key()
	u.mu.Lock()
	s := u.take(&k)
	if s != nil {
		u.touch(s)
	}
	closed := u.closed
	u.mu.Unlock()
	if s != nil || closed {
		return s
	}

	b := u.e.rule.Load()
	ru := b.rule
	client := k.client.Addr()
	targets := ru.choose(client)
	sender := netip.AddrPortFrom(zoned(a.sender.Addr(), k.scope), a.sender.Port())
	shown := sender
	if a.told != nil {
		shown = k.client
	}
	// A datagram that claims to come from a listener of ours would have its
	// answer forwarded, and that one's answer, for ever.
	if !ru.allowed(client) || len(targets) == 0 || u.e.r.entryAt("udp", sender) != nil {
		ru.meter.Refused.Add(1)
		return nil
	}
	if !ru.schedule.open(time.Now()) || !ru.arrive(client) {
		ru.meter.Refused.Add(1)
		return nil
	}
	if u.dialing.Load() >= maxDialing {
		ru.meter.Dropped.Add(1)
		return nil
	}
	if !u.makeRoom(client, ru) {
		ru.meter.Dropped.Add(1)
		return nil
	}
	if !u.e.r.crowd.enterSession(sourceKey(client)) && !u.takeOver(client) {
		u.e.r.trouble(fairlead.CodeNoDescriptors, "no file descriptor is left for datagrams of new clients: they are dropped")
		ru.talks.Add(-1)
		ru.meter.Dropped.Add(1)
		return nil
	}
	s = &session{
		u: u, id: u.e.r.table.next(), b: b, key: k, client: shown, began: time.Now(),
		local:  netip.AddrPortFrom(k.local, u.e.key.at.Port()),
		counts: ru.f.Policy.Requests != 0 || ru.f.Policy.Replies != 0,
	}
	if u.any {
		s.source = sock.SourceInfo(k.local, a.ifindex)
	}
	if a.told != nil {
		s.local = a.told.local
	}
	s.introduce(a.told)
	s.address(a)
	s.throttle = ru.bandwidth.join(client)
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		s.throttle.leave()
		s.giveBack()
		ru.talks.Add(-1)
		return nil
	}
	if !s.counts || !s.asked() {
		u.sessions[k] = s
	}
	s.inUsed = u.used.PushFront(s)
	key := sourceKey(client)
	if u.sources[key] == nil {
		u.sources[key] = list.New()
	}
	s.ofSource = u.sources[key]
	s.inSource = s.ofSource.PushFront(s)
	u.mu.Unlock()

	ru.meter.Flows.Add(1)
	ru.meter.Active.Add(1)
	u.e.r.table.add(s)
	if s.over.Load() { // the socket was closed meanwhile, and its end found nothing to remove
		u.e.r.table.remove(s)
	}
	if targets = ru.order(targets, client); !u.server.dial(s, targets[0]) {
		u.dialing.Add(1)
		u.e.r.wg.Go(func() { s.dial(targets) })
	}
	return s
}

// zoned is a with the name of the interface that it belongs to, if any.
func zoned(a netip.Addr, scope int) netip.Addr {
	if scope == 0 {
		return a
	}
	if i, err := net.InterfaceByIndex(scope); err == nil {
		return a.WithZone(i.Name)
	}
	return a.WithZone(strconv.Itoa(scope))
}

// touch marks s as used just now. The caller holds u.mu.
func (u *udpEntry) touch(s *session) {
	if s.inUsed == nil {
		return
	}
	u.used.MoveToFront(s.inUsed)
	s.ofSource.MoveToFront(s.inSource)
}

// makeRoom counts a new session of ru, and ends the one that was used least
// recently where the new one would exceed a limit: the source's own first, so
// that nobody can push out others. It returns false, and has counted nothing,
// where that makes no room.
func (u *udpEntry) makeRoom(client netip.Addr, ru *rule) bool {
	p := &ru.f.Policy
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
	// Counted before it is there: other sockets of the forward do so as well, at
	// the same time.
	for ru.talks.Add(1); p.MaxConns > 0 && ru.talks.Load() > int64(p.MaxConns); {
		if !u.evictOf(ru.account) {
			ru.talks.Add(-1)
			return false
		}
	}
	return true
}

// evictOf ends the session of a forward that was used least recently, whichever
// of its sockets has it.
func (u *udpEntry) evictOf(a *account) bool {
	oldest := u.idlest(a)
	if heard := u.e.r.heard.Load(); heard != nil {
		for _, e := range heard.entries {
			if e.udp == nil || e.udp == u || e.rule.Load().rule.account != a {
				continue
			}
			if s := e.udp.idlest(a); s != nil && (oldest == nil || s.used().Before(oldest.used())) {
				oldest = s
			}
		}
	}
	if oldest == nil {
		return false
	}
	oldest.finish(fairlead.Evicted)
	u.server.settle()
	return true
}

// idlest is the session of a forward that was used least recently at this
// socket; nil where there is none.
func (u *udpEntry) idlest(a *account) *session {
	u.mu.Lock()
	defer u.mu.Unlock()
	for e := u.used.Back(); e != nil; e = e.Prev() { // those of a forward that had the socket before are passed over
		if s := e.Value.(*session); s.b.rule.account == a {
			return s
		}
	}
	return nil
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
	u.server.settle()
	return true
}

// takeOver ends the session that was used least recently, the source's own
// first, and keeps its descriptor for a new one of client: given back, it would
// go to whoever waits longest.
func (u *udpEntry) takeOver(client netip.Addr) bool {
	u.mu.Lock()
	last := u.used.Back()
	if own := u.sources[sourceKey(client)]; own != nil {
		last = own.Back()
	}
	u.mu.Unlock()
	if last == nil {
		return false
	}
	s := last.Value.(*session)
	if !s.end(fairlead.Evicted, true) {
		return false
	}
	u.e.r.crowd.give(sourceKey(s.key.client.Addr()), sourceKey(client), 1)
	u.server.settle()
	return true
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
	s.b.rule.talks.Add(-1)
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
	for e := u.used.Front(); e != nil; e = e.Next() { // also those that take no more requests
		all = append(all, e.Value.(*session))
	}
	u.mu.Unlock()
	for _, s := range all {
		s.finish(fairlead.Shutdown)
	}
	u.server.close()
}

// A session is one client's conversation with the target.
type session struct {
	u      *udpEntry
	id     uint64
	b      *binding // under which it began
	key    sessionKey
	client netip.AddrPort // with its zone
	local  netip.AddrPort // what it asked
	source []byte         // control data that answers from the address asked
	told   *origin        // what a sender that is believed last said; nil: nothing
	header []byte         // goes before each datagram to the target; nil: none
	counts bool           // requests and replies
	began  time.Time
	link   udpLink // the event loop's
	hand   udpHand // the goroutines'

	throttle *throttle // of bandwidth; nil: no limit

	in, out  atomic.Int64
	last     atomic.Int64 // when a datagram passed last, in nanoseconds since began
	requests atomic.Int64 // datagrams of the client, where they are counted
	handled  atomic.Int64 // of these, those that have left or never will
	replies  atomic.Int64 // datagrams of the target
	refused  atomic.Bool  // the target said that nothing listens, and nothing since
	proved   atomic.Bool  // the target has answered
	over     atomic.Bool  // is set with mu held

	inUsed, inSource *list.Element // guarded by u.mu
	ofSource         *list.List    // the list of inSource

	mu      sync.Mutex     // guards the rest
	stop    func()         // ends the dial; nil when that is over
	target  *target        // reached; nil while dialing
	far     netip.AddrPort // its address
	waiting [][]byte       // datagrams that came during the dial
	kept    bool           // somebody else has its descriptor
}

// used is when a datagram passed last.
func (s *session) used() time.Time { return s.began.Add(time.Duration(s.last.Load())) }

// introduce sets what each datagram tells the target about the client.
func (s *session) introduce(told *origin) {
	s.told = told
	v := s.b.rule.f.Policy.ProxyProtocol
	if v == 0 {
		return
	}
	o := origin{client: s.client, local: s.local}
	if told != nil {
		o = *told
	}
	s.header, _ = o.header(v, "udp") // what was read, and addresses alone, always fit
}

// asked counts a datagram of the client, and reports whether it is the last
// one that the session takes.
func (s *session) asked() bool {
	n, limit := s.requests.Add(1), int64(s.b.rule.f.Policy.Requests)
	return limit > 0 && n >= limit
}

// settle notes that n of the client's datagrams have left, or never will, and
// ends the session if it now has all the answers that it expects.
func (s *session) settle(n int) {
	if s.counts {
		s.handled.Add(int64(n))
		s.complete()
	}
}

// complete ends the session if it has all the answers that it expects.
func (s *session) complete() {
	p := &s.b.rule.f.Policy
	n := s.requests.Load()
	if p.Replies == 0 || n < int64(p.Requests) || n > s.handled.Load() {
		return
	}
	if s.replies.Load() >= n*int64(max(p.Replies, 0)) {
		s.finish(fairlead.Completed)
	}
}

// dial connects the session to the first of targets that can be had, and sends
// what has waited.
func (s *session) dial(targets []*target) {
	r := s.u.e.r
	defer s.u.dialing.Add(-1)
	ctx, stop := s.b.rule.dialContext(r.ctx, 0)
	defer stop()
	s.mu.Lock()
	if s.stop = stop; s.over.Load() {
		stop()
	}
	s.mu.Unlock()
	var up net.Conn
	var chosen *target
	var err error
	for _, t := range targets {
		if up, err = r.dialDatagrams(ctx, s.b, s.key.client, t); err == nil {
			chosen = t
			break
		}
		if ctx.Err() != context.Canceled && reason(err) != fairlead.NoDescriptors {
			r.blame(s.b.rule, t, fairlead.AsProblem(err))
		}
	}
	if err != nil {
		if !s.over.Load() {
			s.b.rule.meter.Refused.Add(1)
		}
		s.finish(reason(err))
		s.undialed()
		return
	}
	if !s.connected(sock.AddrPort(up.RemoteAddr()), chosen) {
		up.Close()
		s.undialed()
		return
	}
	s.u.server.begin(s, up)
}

func (r *Relay) dialDatagrams(ctx context.Context, b *binding, client netip.AddrPort, t *target) (net.Conn, error) {
	t, err := r.stand(ctx, t, client.Addr())
	if err != nil {
		return nil, err
	}
	_, address := t.address(b.rule.f.At.Ports, b.port)
	if r.loops(ctx, "udp", b, t) {
		return nil, loopProblem(b.rule, address)
	}
	return r.connect(ctx, b.rule, client, "udp", address)
}

// connected notes the target that was dialed, unless the session has ended
// meanwhile.
func (s *session) connected(to netip.AddrPort, t *target) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = nil
	if s.over.Load() {
		return false
	}
	s.target, s.far = t, to
	t.active.Add(1)
	// Told under the lock, so that the end is told afterwards.
	if r := s.u.e.r; r.wanted(fairlead.EventOpen) {
		d := s.describeLocked()
		r.tellOf(fairlead.Event{Kind: fairlead.EventOpen, Forward: s.b.rule.f.Name}, &d)
	}
	return true
}

// undialed gives back the descriptor of a session that is over without having
// had a target.
func (s *session) undialed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kept {
		s.giveBack()
	}
}

// giveBack gives back the descriptor of s.
func (s *session) giveBack() { s.u.e.r.crowd.leaveSession(sourceKey(s.key.client.Addr())) }

// wait keeps a datagram until the dial is over. The caller holds s.mu.
func (s *session) wait(d []byte) {
	if s.over.Load() || len(s.waiting) >= maxWaiting || s.u.waiting.Load()+int64(len(d)) > maxWaitingBytes {
		s.b.rule.meter.Dropped.Add(1)
		s.handled.Add(1)
		return
	}
	s.u.waiting.Add(int64(len(d)))
	s.waiting = append(s.waiting, append([]byte(nil), d...))
}

// waited takes what has waited.
func (s *session) waited() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.waiting
	s.waiting = nil
	for _, d := range waiting {
		s.u.waiting.Add(-int64(len(d)))
	}
	return waiting
}

// sent counts datagrams that have left for the target, or not.
func (s *session) sent(bytes, dropped int) {
	m := s.b.rule.meter
	if bytes > 0 {
		s.in.Add(int64(bytes))
		m.In.Add(int64(bytes))
	}
	if dropped > 0 {
		m.Dropped.Add(int64(dropped))
	}
}

// answered counts answers that have left for the client, or not.
func (s *session) answered(bytes, dropped int) {
	m := s.b.rule.meter
	if bytes > 0 {
		s.out.Add(int64(bytes))
		m.Out.Add(int64(bytes))
	}
	if dropped > 0 {
		m.Dropped.Add(int64(dropped))
	}
	if !s.b.rule.passed.Load() {
		s.b.rule.passed.Store(true)
	}
}

// heard notes that the target has answered.
func (s *session) heard() {
	t := s.target
	again := s.refused.Load() && s.refused.Swap(false) // refusals before are not in a row with later ones
	if again || !t.fine.Load() || !s.proved.Swap(true) {
		s.u.e.r.saw(t, nil)
	}
}

// noteRefused tells the target that its host says that nothing listens: each
// time until the target is down, because it may forgive the first ones. The
// session stays where there is no other target to go to: the program may be
// starting. Otherwise it ends, and the client's next datagram goes elsewhere;
// one that has been answered before ends when the target is down.
func (s *session) noteRefused() {
	t := s.target
	if !s.refused.Swap(true) || !t.down.Load() {
		s.u.e.r.saw(t, fairlead.Problemf(fairlead.CodeTargetRefuses,
			"%s/udp refuses datagrams: nothing listens there", s.far))
	}
	if s.out.Load() > 0 && !t.down.Load() {
		return
	}
	if slices.ContainsFunc(s.b.rule.choose(s.key.client.Addr()), func(other *target) bool {
		return other != t && !other.t.Drain && !other.down.Load()
	}) {
		s.finish(fairlead.Refused)
	}
}

// finish ends the session for good; the first reason counts.
func (s *session) finish(why fairlead.Reason) { s.end(why, false) }

// end is finish. With keep the caller has the session's descriptor, unless end
// returns false because somebody else has ended the session.
func (s *session) end(why fairlead.Reason, keep bool) bool {
	s.mu.Lock()
	if s.over.Load() {
		s.mu.Unlock()
		return false
	}
	s.over.Store(true)
	t := s.target
	s.kept = keep
	if s.stop != nil {
		s.stop() // whoever dials finds that it is over
	}
	s.mu.Unlock()
	r := s.u.e.r
	s.u.forget(s)
	dropped := len(s.waited())
	m := s.b.rule.meter
	m.Dropped.Add(int64(dropped))
	if t != nil {
		t.active.Add(-1)
		s.u.server.release(s, keep)
	}
	s.throttle.leave()
	m.Active.Add(-1)
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
		Client: s.client.String(), Local: s.local.String(),
		Began: s.began, In: s.in.Load(), Out: s.out.Load(),
	}
	if s.target != nil {
		d.Target = s.far.String()
	}
	return d
}
