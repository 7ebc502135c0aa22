package load

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A server takes in what clients send, on two event loops (one where there is
// one CPU). The first accepts and deals connections out in turn, so that
// streams are spread evenly.
type server struct {
	loops []*serverLoop
	conns []atomic.Pointer[serverConn] // by descriptor
	next  int                          // loop of the next connection; of the first loop only
	began time.Time
}

type serverLoop struct {
	*poll
	srv     *server
	buf     []byte
	accepts map[int]bool // listening descriptors

	// Written by this loop, read by the one who answers.
	bytes, ops, accepted atomic.Int64
	_                    [64]byte // keeps the loops' counters apart
}

type serverConn struct {
	want   byte // 0 until the header is there
	head   [header]byte
	have   int // bytes of the header, later of the request
	size   int
	unsent int // bytes of answers that wait for room
	sum    hash.Hash
	answer []byte // of a hash, what is still to send
}

// Serve listens at all ports of addr, TCP and UDP, until in ends; a line on in
// is answered with the Counters on out.
func Serve(addr netip.Addr, ports []uint16, in io.Reader, out io.Writer) error {
	s := &server{began: time.Now(), conns: make([]atomic.Pointer[serverConn], maxFiles()+64)}
	for range min(2, runtime.NumCPU()) {
		p, err := newPoll()
		if err != nil {
			return err
		}
		s.loops = append(s.loops, &serverLoop{poll: p, srv: s, buf: make([]byte, chunk), accepts: map[int]bool{}})
	}
	for _, port := range ports {
		if err := s.loops[0].listen(netip.AddrPortFrom(addr, port)); err != nil {
			return err
		}
	}
	packets, err := newSink(addr, ports)
	if err != nil {
		return err
	}
	failed := make(chan error, len(s.loops)+1)
	for _, l := range s.loops {
		go l.run(failed)
	}
	go packets.run(failed)
	ended := make(chan error, 1)
	go s.answer(packets, in, out, ended)
	select {
	case err := <-failed:
		return err
	case err := <-ended:
		return err
	}
}

func (s *server) answer(packets *sink, in io.Reader, out io.Writer, ended chan<- error) {
	lines := bufio.NewScanner(in)
	enc := json.NewEncoder(out)
	for lines.Scan() {
		c := Counters{At: int64(time.Since(s.began)), Packets: packets.packets.Load(), Payload: packets.payload.Load()}
		for _, l := range s.loops {
			c.Bytes += l.bytes.Load()
			c.Ops += l.ops.Load()
			c.Conns += l.accepted.Load()
		}
		if err := enc.Encode(c); err != nil {
			ended <- err
			return
		}
	}
	ended <- lines.Err()
}

func (l *serverLoop) listen(at netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // inherited
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return fmt.Errorf("listen at %v: %w", at, err)
	}
	if err := unix.Listen(fd, 8192); err != nil {
		return fmt.Errorf("listen at %v: %w", at, err)
	}
	l.accepts[fd] = true
	return l.add(fd, unix.EPOLLIN)
}

func (l *serverLoop) run(failed chan<- error) {
	runtime.LockOSThread()
	for {
		ready, err := l.wait(-1)
		if err != nil {
			failed <- err
			return
		}
		for _, ev := range ready {
			fd := int(ev.Fd)
			if l.accepts[fd] {
				l.accept(fd)
				continue
			}
			c := l.srv.conns[fd].Load()
			if c == nil {
				continue
			}
			if !l.serve(fd, c, ev.Events) {
				l.srv.conns[fd].Store(nil)
				unix.Close(fd)
			}
		}
	}
}

// accept takes up to a batch of connections, and leaves the rest to the next
// turn.
func (l *serverLoop) accept(ln int) {
	for range 64 {
		fd, _, err := unix.Accept4(ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		if fd >= len(l.srv.conns) {
			unix.Close(fd)
			continue
		}
		l.accepted.Add(1)
		l.srv.conns[fd].Store(&serverConn{})
		owner := l.srv.loops[l.srv.next%len(l.srv.loops)]
		l.srv.next++
		if owner.add(fd, unix.EPOLLIN) != nil {
			unix.Close(fd)
		}
	}
}

// serve does what is to be done on one connection; false closes it.
func (l *serverLoop) serve(fd int, c *serverConn, events uint32) bool {
	if events&unix.EPOLLOUT != 0 && !l.flush(fd, c) {
		return false
	}
	if events&^unix.EPOLLOUT == 0 {
		return true
	}
	if c.want == wantSink {
		n, e := drop(fd)
		if e == unix.EAGAIN {
			return true
		}
		if e != 0 || n == 0 {
			return false
		}
		l.bytes.Add(int64(n))
		return true
	}
	n, e := recv(fd, l.buf)
	if e == unix.EAGAIN {
		return true
	}
	if e != 0 || n == 0 && c.want != wantHash {
		return false
	}
	b := l.buf[:n]
	if c.want == 0 {
		k := copy(c.head[c.have:], b)
		c.have += k
		b = b[k:]
		if c.have < header {
			return true
		}
		c.have = 0
		c.want, c.size = c.head[0], int(c.head[1])<<24|int(c.head[2])<<16|int(c.head[3])<<8|int(c.head[4])
		if c.want == wantHash {
			c.sum = sha256.New()
		}
		if len(b) == 0 {
			return true
		}
	}
	switch c.want {
	case wantSink:
		l.bytes.Add(int64(len(b)))
	case wantHash:
		c.sum.Write(b)
		if c.have += len(b); n > 0 && (c.size == 0 || c.have < c.size) {
			return true
		}
		c.answer = c.sum.Sum(nil)
		send(fd, c.answer) // fits: nothing was sent before
		return false
	case wantEcho:
		if c.size < 1 || c.size > len(l.buf) {
			return false
		}
		for c.have += len(b); c.have >= c.size; c.have -= c.size {
			c.unsent += c.size
			l.ops.Add(1)
		}
		return l.flush(fd, c)
	default:
		return false
	}
	return true
}

// flush sends what is owed; its content does not matter.
func (l *serverLoop) flush(fd int, c *serverConn) bool {
	for c.unsent > 0 {
		n, e := send(fd, l.buf[:min(c.unsent, len(l.buf))])
		if e == unix.EAGAIN {
			return l.change(fd, unix.EPOLLIN|unix.EPOLLOUT) == nil
		}
		if e != 0 {
			return false
		}
		if c.unsent -= n; c.unsent == 0 && n < c.size {
			return l.change(fd, unix.EPOLLIN) == nil // it may have waited for room
		}
	}
	return true
}

// maxFiles is how many descriptors this process may have.
func maxFiles() int {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil || r.Cur > 1<<20 {
		return 1 << 20
	}
	return int(r.Cur)
}
