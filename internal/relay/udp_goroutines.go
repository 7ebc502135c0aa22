package relay

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// datagramSize is more than any datagram has.
const datagramSize = 64 << 10

// A udpReader serves a listening socket with one goroutine, and each session
// with another: on every system, and for places whose connections are no
// sockets.
type udpReader struct {
	u   *udpEntry
	c   *net.UDPConn
	raw syscall.RawConn
}

// A udpHand is what a udpReader knows of a session.
type udpHand struct {
	to sockaddr // the client

	// Guarded by the session's mu.
	up    net.Conn // connected to the target; nil while dialing
	raw   syscall.RawConn
	ready bool // what has waited is sent
}

func newUDPReader(u *udpEntry, c *net.UDPConn) *udpReader {
	return &udpReader{u: u, c: c, raw: rawConn(c)}
}

func (l *udpReader) serve()  { l.u.e.r.wg.Go(l.receive) }
func (l *udpReader) settle() {}

func (l *udpReader) dial(*session, *target) bool { return false }

func (l *udpReader) close() { l.c.Close() }

func (l *udpReader) control(f func(fd int) error) error { return controlOf(l.c, f) }

// receive takes datagrams from clients until the socket is closed. No error
// of one client's ends it.
func (l *udpReader) receive() {
	u := l.u
	buf, oob := make([]byte, datagramSize), make([]byte, sock.PacketInfoSize)
	out := newOutlet()
	var h herald
	for {
		n, oobn, _, from, err := l.c.ReadMsgUDPAddrPort(buf, oob)
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
		a := arrived{sender: netip.AddrPortFrom(from.Addr().WithZone("").Unmap(), from.Port())}
		if from.Port() == 0 {
			continue // nobody could be answered
		}
		a.local, a.ifindex = sock.PacketInfo(oob[:oobn])
		if !a.local.IsValid() {
			a.local = u.e.key.at.Addr()
		}
		d, ok := u.introduced(&h, u.e.rule.Load().rule, &a, buf[:n])
		if !ok {
			continue
		}
		if s := u.session(&a); s != nil {
			s.send(d, a.told, out)
		}
	}
}

// address notes where answers go.
func (s *session) address(a *arrived) {
	at := s.u.e.key.at.Addr()
	s.hand.to = destination(at, a.sender, a.ifindex)
	s.link.address(at, a)
}

// begin sends what has waited, and what comes meanwhile after it, so that
// datagrams keep their order.
func (l *udpReader) begin(s *session, up net.Conn) {
	s.mu.Lock()
	over := s.over.Load()
	s.hand.up, s.hand.raw = up, rawConn(up)
	s.mu.Unlock()
	if over {
		up.Close() // release came before there was anything to close
		return
	}
	out := newOutlet()
	for {
		waiting := s.waited()
		for _, d := range waiting {
			s.write(d, out)
		}
		s.settle(len(waiting))
		s.mu.Lock()
		s.hand.ready = len(s.waiting) == 0
		done := s.hand.ready
		s.mu.Unlock()
		if done {
			break
		}
	}
	s.u.e.r.wg.Go(s.readAnswers)
}

// send takes a datagram from the client to the target.
func (s *session) send(d []byte, told *origin, out *outlet) {
	s.last.Store(int64(time.Since(s.began)))
	s.mu.Lock()
	ready := s.hand.ready
	if !ready {
		s.wait(d)
	}
	s.mu.Unlock()
	if !ready {
		return
	}
	if told != s.told {
		s.introduce(told)
	}
	s.write(d, out)
	s.settle(1)
}

func (s *session) write(d []byte, out *outlet) {
	if !s.throttle.try(up, len(d)) {
		s.sent(0, 1)
		return
	}
	n := len(d)
	if len(s.header) > 0 {
		// In the same datagram: each is understood by itself.
		b := buffers.Get().(*buffer)
		defer buffers.Put(b)
		if n+len(s.header) > len(b) {
			s.sent(0, 1)
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
	if err != nil {
		s.sent(0, 1)
		return
	}
	s.sent(n, 0)
}

// readAnswers takes datagrams from the target to the client until the session
// is over.
func (s *session) readAnswers() {
	l := s.u.server.(*udpReader)
	buf := make([]byte, datagramSize)
	for {
		n, err := s.hand.up.Read(buf)
		switch {
		case err == nil:
			s.answer(l, buf[:n])
		case s.over.Load() || errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, syscall.ECONNREFUSED):
			s.noteRefused()
		case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
			// Routers say so, and it passes.
		default:
			s.finish(fairlead.Failed)
			return
		}
	}
}

func (s *session) answer(l *udpReader, d []byte) {
	s.last.Store(int64(time.Since(s.began)))
	s.heard()
	s.u.mu.Lock()
	s.u.touch(s)
	s.u.mu.Unlock()
	if !s.throttle.try(down, len(d)) {
		s.answered(0, 1)
		return
	}
	if err := l.answer(s, d); err != nil {
		s.answered(0, 1)
		return
	}
	s.answered(len(d), 0)
	if s.counts {
		s.replies.Add(1)
		s.complete()
	}
}

func (l *udpReader) release(s *session, keep bool) {
	s.mu.Lock()
	up := s.hand.up
	s.mu.Unlock()
	if up != nil {
		up.Close()
	}
	if !keep {
		s.giveBack()
	}
}
