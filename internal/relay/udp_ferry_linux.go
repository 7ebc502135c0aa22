package relay

import (
	"net"
	"sync/atomic"

	"fairlead"
)

// A ferry carries a session whose place's connections are no sockets, with a
// goroutine for each direction: such a connection may have others wait, and an
// event loop must not.
type ferry struct {
	l  *udpLoop
	s  *session
	up net.Conn

	queue  chan cargo   // for the target; the loop alone sends and closes
	behind atomic.Int64 // answers that the loop has not taken yet
}

// A cargo is a datagram for the target.
type cargo struct{ head, body []byte }

// ferryRoom is how many datagrams wait in each direction.
const ferryRoom = 64

func (l *udpLoop) startFerry(s *session, up net.Conn) {
	f := &ferry{l: l, s: s, up: up, queue: make(chan cargo, ferryRoom)}
	begun := l.do(func() {
		if s.over.Load() {
			close(f.queue)
			up.Close()
			return
		}
		s.link.ferry = f
		for _, d := range s.waited() {
			f.take(s.header, d)
		}
	})
	if !begun { // the relay is closing
		up.Close()
		return
	}
	l.r.wg.Go(f.write)
	l.r.wg.Go(f.read)
}

// take takes a datagram from the loop.
func (f *ferry) take(head, d []byte) {
	select {
	case f.queue <- cargo{head, append([]byte(nil), d...)}:
	default:
		f.s.sent(0, 1)
		f.s.settle(1)
	}
}

func (f *ferry) write() {
	for c := range f.queue {
		n := len(c.body)
		if !f.s.throttle.try(up, n) {
			f.s.sent(0, 1)
			f.s.settle(1)
			continue
		}
		if _, err := f.up.Write(append(c.head[:len(c.head):len(c.head)], c.body...)); err != nil {
			f.s.sent(0, 1)
		} else {
			f.s.sent(n, 0)
		}
		f.s.settle(1)
	}
}

func (f *ferry) read() {
	buf := make([]byte, datagramSize)
	for {
		n, err := f.up.Read(buf)
		if err != nil {
			f.s.finish(fairlead.Failed) // unless it is over
			return
		}
		if f.behind.Add(1) > ferryRoom {
			f.behind.Add(-1)
			f.s.answered(0, 1)
			continue
		}
		d := append([]byte(nil), buf[:n]...)
		f.l.do(func() {
			f.behind.Add(-1)
			f.l.ferried(f.s, d)
		})
	}
}

// close ends both goroutines. The loop calls it.
func (f *ferry) close() {
	f.s.link.ferry = nil
	close(f.queue)
	f.up.Close()
}

// ferried sends an answer to the client.
func (l *udpLoop) ferried(s *session, d []byte) {
	s.last.Store(int64(l.now.Sub(s.began)))
	s.heard()
	x := s.u.server.(*udpSocket)
	if len(x.answers) == 0 {
		l.replying = append(l.replying, x)
	}
	x.answers = append(x.answers, piece{s: s, body: d})
	l.reply()
}
