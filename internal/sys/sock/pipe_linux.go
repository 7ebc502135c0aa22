package sock

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Splices says that data can pass between sockets without entering this
// process.
const Splices = true

// A Pipe is where spliced data rests between two sockets. It belongs to one
// goroutine at a time.
type Pipe struct {
	r, w int
	size int
	held int // bytes inside
}

// Pipes is a bounded stock of pipes. It is shared by all connections and used
// only while data is in hand, so that idle connections cost none, and a user
// who may own only 64 large pipes (pipe-user-pages-soft, pipe(7)) never meets
// that limit. The zero value is not usable; see NewPipes.
type Pipes struct {
	size int

	mu   sync.Mutex // guards the rest
	free []*Pipe
	left int // how many more may be made
}

// pipeSize is what each pipe should hold, in bytes, and leastPipe what makes
// splicing worth while: below, the kernel has clamped the size.
const (
	pipeSize  = 1024 << 10
	leastPipe = 128 << 10
)

// NewPipes is a stock of at most n pipes.
func NewPipes(n int) *Pipes { return &Pipes{size: pipeSize, left: n} }

// Get takes a pipe, or nil when there is none to be had; the caller then
// copies.
func (s *Pipes) Get() *Pipe {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		p := s.free[n-1]
		s.free = s.free[:n-1]
		return p
	}
	if s.left == 0 {
		return nil
	}
	var fd [2]int
	if unix.Pipe2(fd[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return nil // out of descriptors: they are needed for connections
	}
	size, err := unix.FcntlInt(uintptr(fd[1]), unix.F_SETPIPE_SZ, s.size)
	if err != nil || size < leastPipe {
		unix.Close(fd[0])
		unix.Close(fd[1])
		s.left = 0 // the user's share is used up: what exists must do
		return nil
	}
	s.left--
	return &Pipe{r: fd[0], w: fd[1], size: size}
}

// Put gives p back. One that still holds data is closed: it belongs to a
// connection that has ended.
func (s *Pipes) Put(p *Pipe) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.held == 0 && s.left >= 0 {
		s.free = append(s.free, p)
		return
	}
	p.close()
	if s.left >= 0 {
		s.left++
	}
}

// Close closes the pipes in stock, and those in use when they come back.
func (s *Pipes) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.free {
		p.close()
	}
	s.free, s.left = nil, -1
}

func (p *Pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// Fill moves what fd has into the empty pipe. It returns 0 at the end of the
// stream and EAGAIN when there is nothing now.
func (p *Pipe) Fill(fd uintptr) (int, error) {
	n, err := splice(int(fd), p.w, p.size)
	if err != nil {
		return 0, err
	}
	p.held = n
	return n, nil
}

// Drain moves what the pipe holds to fd, and returns EAGAIN when fd takes no
// more now.
func (p *Pipe) Drain(fd uintptr) error {
	for p.held > 0 {
		n, err := splice(p.r, int(fd), p.held)
		if err != nil {
			return err
		}
		p.held -= n
	}
	return nil
}

// splice never waits: pipes and sockets are non-blocking. See raw_linux.go.
func splice(from, to, n int) (int, error) {
	for {
		k, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if e == unix.EINTR {
			continue
		}
		return result(k, e)
	}
}
