package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"fairlead/internal/sys/sock"
)

// A pump moves the bytes of one direction of a connection until the sender
// ends it or either side fails. While it waits for data it holds neither a
// buffer nor a pipe. Small messages are read and written; after a few large
// reads the bytes pass through a pipe inside the kernel, until they are small
// again.
type pump struct {
	from, to net.Conn
	src, dst syscall.RawConn // nil where the connection has no descriptor
	moved    *atomic.Int64   // bytes, told as they move
	total    *atomic.Int64   // the same for the forward as a whole
	stalled  atomic.Bool     // the receiver takes no more at the moment
	pipes    *sock.Pipes
	throttle *throttle       // of bandwidth; nil: none in this direction
	way      int             // which direction of it this is
	over     <-chan struct{} // closed when the connection ends; nil without a throttle
	held     atomic.Bool     // it waits for bandwidth at the moment
	asked    int             // bytes that wait to be read until they may pass
	granted  int             // bytes that may pass

	// What is in hand, used by the pump's goroutine alone.
	buf    *buffer
	pipe   *sock.Pipe
	n, off int
	err    error
	big    int  // large reads in a row, or small ones while splicing
	splice bool // the direction passes through a pipe
	copies bool // splicing was refused for this pair

	read, write func(fd uintptr) bool // made once: a method value allocates
}

// A side is one end of a pump.
type side int

const (
	sender side = iota
	receiver
)

// bufferSize is large enough that a read which fills half of it is worth a
// splice.
const bufferSize = 64 << 10

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// run moves bytes until the end. A nil error is the end of the stream;
// otherwise which tells the side whose error it is.
func (p *pump) run() (which side, err error) {
	if isSealed(p.from) || isSealed(p.to) {
		return p.runSealed()
	}
	if p.src != nil && p.dst != nil && rawPumps {
		return p.runRaw()
	}
	return p.runCopy()
}

// runCopy serves connections that are not sockets of this host: encrypted
// channels, and systems without raw access. It holds a buffer while it waits.
func (p *pump) runCopy() (side, error) {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for {
		n, err := p.from.Read(b[:p.most()])
		if n > 0 {
			if !p.pass(n) {
				return sender, net.ErrClosed
			}
			p.count(n)
			p.stalled.Store(true)
			_, werr := p.to.Write(b[:n])
			p.stalled.Store(false)
			if werr != nil {
				return receiver, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return sender, nil
		}
		if err != nil {
			return sender, err
		}
	}
}

func (p *pump) count(n int) {
	p.moved.Add(int64(n))
	p.total.Add(int64(n))
}

// most is how much may be read at a time.
func (p *pump) most() int {
	switch {
	case p.throttle == nil:
		return bufferSize
	case p.granted > 0:
		return p.granted
	}
	return p.throttle.chunk(p.way)
}

// pass holds the direction until n bytes may pass. What the sender says
// meanwhile fills its socket, and slows it. It is false when the connection
// ends meanwhile.
func (p *pump) pass(n int) bool {
	return p.throttle == nil || p.throttle.pass(p.way, n, p.over, p.held.Store)
}

// closeWrite ends the stream towards c and leaves the other direction open.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// rawConn is c's descriptor for waiting and system calls, or nil.
func rawConn(c net.Conn) syscall.RawConn {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
