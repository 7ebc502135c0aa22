package helper

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// The bounds of sessions.
const (
	maxSessions          = 1024
	maxSessionsPerClient = 32
	maxAnswerers         = 16 // ports of servers that answer in one session
	defaultIdle          = 60 * time.Second
)

// A table is the sessions of all posts: who sent what with our address, and so
// where answers go.
type table struct {
	mu       sync.Mutex // guards the rest
	closed   bool
	last     uint64
	sessions map[sessionKey]*session
	clients  map[netip.Addr]int
}

func newTable() *table {
	return &table{sessions: map[sessionKey]*session{}, clients: map[netip.Addr]int{}}
}

type sessionKey struct {
	p      *post
	index  int
	client netip.AddrPort
	port   uint16
}

// A session is what a client sends to a port, and the answers to that. To each
// port that answers belongs a socket on the client's side, so that the client
// may go on with whom answered: TFTP's servers answer from another port than
// they were asked at (RFC 1350 section 4).
type session struct {
	key   sessionKey
	id    string
	name  string
	link  *netmon.Interface
	to    netip.AddrPort
	began time.Time
	up    *socket
	moved atomic.Int64 // when something passed last, Unix nanoseconds
	in    atomic.Int64
	out   atomic.Int64

	mu    sync.Mutex // guards the rest
	backs map[netip.AddrPort]*socket
	over  bool
}

// send sends a client's datagram to a target.
func (t *table) send(p *post, link *netmon.Interface, port uint16, client, to netip.AddrPort, hops uint8, data []byte) error {
	s, err := t.session(sessionKey{p, link.Index, client, port}, link, to)
	if err != nil || s == nil {
		return err
	}
	s.moved.Store(time.Now().UnixNano())
	if err := s.up.send(data, to, hops); err != nil {
		return err
	}
	s.in.Add(int64(len(data)))
	p.meter.In.Add(int64(len(data)))
	return nil
}

// session finds or begins one; it is nil where there are too many.
func (t *table) session(key sessionKey, link *netmon.Interface, to netip.AddrPort) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[key]; s != nil || t.closed {
		return s, nil
	}
	if t.clients[key.client.Addr()] >= maxSessionsPerClient {
		key.p.meter.Refused.Add(1)
		return nil, nil
	}
	if len(t.sessions) >= maxSessions {
		t.evict()
	}
	s := &session{key: key, link: link, to: to, began: time.Now(), name: key.p.f.Load().Name, backs: map[netip.AddrPort]*socket{}}
	err := key.p.h.inside(func() (err error) {
		s.up, err = openSocket(opening{at: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
		return err
	})
	if err != nil {
		return nil, err
	}
	t.last++
	s.id = fmt.Sprintf("h%d", t.last)
	s.moved.Store(time.Now().UnixNano())
	t.sessions[key] = s
	t.clients[key.client.Addr()]++
	key.p.meter.Flows.Add(1)
	key.p.meter.Active.Add(1)
	key.p.h.wg.Go(func() { s.up.receive(s.answer) })
	conn := s.conn()
	key.p.h.cfg.Watch(fairlead.Event{Time: s.began, Kind: fairlead.EventOpen, Forward: s.name, Conn: &conn})
	return s, nil
}

// answer takes what came back from a server to the client.
func (s *session) answer(a *arrival) {
	p := s.key.p
	if !p.answered(a.from.Addr()) {
		p.trouble(fairlead.CodeNotAsked, "%s answers %s, and was not asked", a.from, s.key.client)
		return
	}
	back := s.back(a.from)
	if back == nil {
		p.meter.Dropped.Add(1)
		return
	}
	if err := back.send(a.data, netip.AddrPort{}, 0); err != nil {
		p.meter.Dropped.Add(1) // the client is gone, or its neighbour's address is not known
		return
	}
	s.moved.Store(time.Now().UnixNano())
	s.out.Add(int64(len(a.data)))
	p.meter.Out.Add(int64(len(a.data)))
}

// back is the socket that stands for a server on the client's side: at the
// server's port where that is free, and where the right to it is there.
func (s *session) back(server netip.AddrPort) *socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.backs[server]; b != nil || s.over || len(s.backs) >= maxAnswerers {
		return b
	}
	at := s.facing()
	if !at.IsValid() {
		return nil
	}
	var b *socket
	err := s.key.p.h.inside(func() (err error) {
		o := opening{at: netip.AddrPortFrom(at, server.Port()), link: s.link.Name, shared: true, peer: s.key.client}
		if b, err = openSocket(o); err != nil {
			o.at = netip.AddrPortFrom(at, 0)
			b, err = openSocket(o)
		}
		return err
	})
	if err != nil {
		return nil
	}
	s.backs[server] = b
	s.key.p.h.wg.Go(func() { b.receive(func(a *arrival) { s.more(server, a) }) })
	return b
}

// more takes what the client says to whom answered.
func (s *session) more(server netip.AddrPort, a *arrival) {
	p := s.key.p
	if err := s.up.send(a.data, server, 0); err != nil {
		p.meter.Dropped.Add(1)
		return
	}
	s.moved.Store(time.Now().UnixNano())
	s.in.Add(int64(len(a.data)))
	p.meter.In.Add(int64(len(a.data)))
}

// facing is our address on the client's network.
func (s *session) facing() netip.Addr {
	for _, net := range s.link.Nets {
		if !net.Contains(s.key.client.Addr()) {
			continue
		}
		for _, a := range s.link.Addrs {
			if net.Contains(a) {
				return a
			}
		}
	}
	a, _ := address(s.link, netip.Addr.Is4)
	return a
}

// idle ends sessions in which nothing moves.
func (t *table) idle(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		idle := s.key.p.f.Load().Policy.Idle
		switch {
		case idle == 0:
			idle = defaultIdle
		case idle == fairlead.Off:
			continue
		}
		if now.Sub(time.Unix(0, s.moved.Load())) >= idle {
			t.end(s, fairlead.IdleTimeout)
		}
	}
}

// evict ends the session that was silent longest. The caller has the lock.
func (t *table) evict() {
	var oldest *session
	for _, s := range t.sessions {
		if oldest == nil || s.moved.Load() < oldest.moved.Load() {
			oldest = s
		}
	}
	if oldest != nil {
		t.end(oldest, fairlead.Evicted)
	}
}

// end ends a session. The caller has the lock.
func (t *table) end(s *session, why fairlead.Reason) {
	delete(t.sessions, s.key)
	if t.clients[s.key.client.Addr()]--; t.clients[s.key.client.Addr()] <= 0 {
		delete(t.clients, s.key.client.Addr())
	}
	s.mu.Lock()
	s.over = true
	s.up.close()
	for _, b := range s.backs {
		b.close()
	}
	s.mu.Unlock()
	s.key.p.meter.Active.Add(-1)
	conn := s.conn()
	s.key.p.h.cfg.Watch(fairlead.Event{Time: time.Now(), Kind: fairlead.EventClose, Forward: s.name, Conn: &conn, Reason: why})
}

func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, s := range t.sessions {
		t.end(s, fairlead.Shutdown)
	}
}

func (s *session) conn() fairlead.Conn {
	return fairlead.Conn{
		ID: s.id, Forward: s.name, Network: "udp", Client: s.key.client.String(),
		Local: fmt.Sprintf("%s:%d", s.link.Name, s.key.port), Target: s.to.String(),
		Began: s.began, In: s.in.Load(), Out: s.out.Load(),
	}
}

// Conns are the sessions whose answers come back through this host.
func (h *Helper) Conns() []fairlead.Conn {
	h.table.mu.Lock()
	defer h.table.mu.Unlock()
	var list []fairlead.Conn
	for _, s := range h.table.sessions {
		list = append(list, s.conn())
	}
	return list
}

// Kill ends the sessions that m selects. Their answers are not passed on any
// more; UDP has no way to tell the peers.
func (h *Helper) Kill(m fairlead.Match) int {
	if m == (fairlead.Match{}) {
		return 0
	}
	h.table.mu.Lock()
	defer h.table.mu.Unlock()
	n := 0
	for _, s := range h.table.sessions {
		if (m.ID == "" || m.ID == s.id) && (m.Forward == "" || m.Forward == s.name) &&
			(!m.Client.IsValid() || m.Client.Unmap() == s.key.client.Addr()) {
			h.table.end(s, fairlead.Killed)
			n++
		}
	}
	return n
}
