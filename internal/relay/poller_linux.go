package relay

import (
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A poller reads the answers of all UDP sessions in one goroutine. Its epoll
// instance is itself waited for by the runtime's poller, so that no thread
// blocks in it.
type poller struct {
	r *Relay

	mu       sync.Mutex // guards the rest
	f        *os.File   // the epoll instance, once there is a session
	raw      syscall.RawConn
	sessions map[uint64]*session
	closed   bool
}

func newPoller(r *Relay) *poller { return &poller{r: r, sessions: map[uint64]*session{}} }

// add has the session's answers read. It returns false where that cannot be
// had; the caller then reads by itself.
func (p *poller) add(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.f == nil && !p.start() {
		return false
	}
	if s.over.Load() {
		return true
	}
	ok := false
	p.raw.Control(func(epfd uintptr) {
		s.raw.Control(func(fd uintptr) {
			ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.id), Pad: int32(s.id >> 32)}
			ok = unix.EpollCtl(int(epfd), unix.EPOLL_CTL_ADD, int(fd), &ev) == nil
		})
	})
	if ok {
		p.sessions[s.id] = s
	}
	return ok
}

// start makes the epoll instance. The caller holds p.mu.
func (p *poller) start() bool {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return false
	}
	f := os.NewFile(uintptr(fd), "udp sessions")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return false
	}
	p.f, p.raw = f, raw
	p.r.wg.Go(p.readAnswers)
	return true
}

// remove forgets a session; closing its socket takes it out of the epoll
// instance.
func (p *poller) remove(s *session) {
	p.mu.Lock()
	delete(p.sessions, s.id)
	p.mu.Unlock()
}

func (p *poller) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.f != nil {
		p.f.Close()
	}
}

// answersAtOnce is how many datagrams of one session are taken before it is
// another's turn.
const answersAtOnce = 32

func (p *poller) readAnswers() {
	events := make([]unix.EpollEvent, 64)
	buf := make([]byte, datagramSize)
	for {
		n := 0
		err := p.raw.Read(func(epfd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(epfd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil || n < 0 {
			return
		}
		for _, ev := range events[:n] {
			p.mu.Lock()
			s := p.sessions[uint64(uint32(ev.Fd))|uint64(uint32(ev.Pad))<<32]
			p.mu.Unlock()
			if s != nil {
				p.serve(s, buf)
			}
		}
	}
}

func (p *poller) serve(s *session, buf []byte) {
	for range answersAtOnce {
		var n int
		var err error
		if s.raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), buf)
			return true
		}) != nil {
			return // closed meanwhile
		}
		switch {
		case err == nil:
			s.answer(buf[:n])
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.ECONNREFUSED):
			s.noteRefused()
		case errors.Is(err, unix.EINTR):
		default:
			// EHOSTUNREACH and its like come from routers and pass.
			return
		}
	}
}
