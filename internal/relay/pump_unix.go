//go:build unix

package relay

import (
	"errors"
	"net"
	"syscall"

	"fairlead/internal/sys/sock"
)

const rawPumps = true

// Reads of at least bigRead, bigReads times in a row, turn a direction to
// splicing; as many below smallRead turn it back.
const (
	bigRead   = 12 << 10
	smallRead = 4 << 10
	bigReads  = 2
)

func (p *pump) runRaw() (side, error) {
	p.read, p.write = p.tryRead, p.tryWrite
	for {
		err := p.src.Read(p.read)
		if err == nil {
			err = p.err
		}
		if err == nil && p.asked > 0 {
			// Nothing is held while this waits.
			if !p.pass(p.asked) {
				return sender, net.ErrClosed
			}
			p.granted, p.asked = p.asked, 0
			continue
		}
		if err != nil || p.n == 0 {
			p.release()
			return sender, err
		}
		if p.granted == 0 && !p.pass(p.n) { // it came just when there seemed to be nothing
			p.release()
			return sender, net.ErrClosed
		}
		p.granted = 0
		p.count(p.n)
		err = p.dst.Write(p.write)
		if p.stalled.Load() {
			p.stalled.Store(false)
		}
		if err == nil {
			err = p.err
		}
		p.release()
		if err != nil {
			return receiver, err
		}
		p.adapt()
	}
}

// tryRead takes what the sender has, and asks to be called again when that is
// nothing. What it would have read into is given back before the wait.
func (p *pump) tryRead(fd uintptr) bool {
	p.n, p.off, p.err = 0, 0, nil
	if p.throttle != nil && p.granted == 0 {
		if p.asked = min(sock.Waiting(fd), p.most()); p.asked > 0 {
			return true
		}
	}
	if p.splice {
		if p.pipe = p.pipes.Get(); p.pipe != nil {
			p.n, p.err = p.pipe.Fill(fd)
			if p.err == nil && p.n > 0 {
				return true
			}
			p.release()
			switch p.err {
			case syscall.EAGAIN:
				return false
			case syscall.EINVAL:
				p.splice, p.copies = false, true
			case nil: // the end, which read tells as well
			default:
				return true // a read would not see it again: the kernel tells each error once
			}
		}
	}
	p.buf = buffers.Get().(*buffer)
	for {
		p.n, p.err = syscall.Read(int(fd), p.buf[:p.most()])
		if p.err != syscall.EINTR {
			break
		}
	}
	if p.err == nil {
		return true
	}
	p.n = 0
	p.release()
	return p.err != syscall.EAGAIN
}

// tryWrite hands on what is in hand, and asks to be called again while some
// of it is left.
func (p *pump) tryWrite(fd uintptr) bool {
	if p.pipe != nil {
		p.err = p.pipe.Drain(fd)
		return p.wrote(p.err)
	}
	for p.off < p.n {
		k, err := syscall.Write(int(fd), p.buf[p.off:p.n])
		if k > 0 {
			p.off += k
		}
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return p.wrote(err)
		}
	}
	return p.wrote(nil)
}

func (p *pump) wrote(err error) bool {
	if err == syscall.EAGAIN {
		p.err = nil
		p.stalled.Store(true)
		return false
	}
	p.err = err
	return true
}

// release gives back what was in hand.
func (p *pump) release() {
	if p.buf != nil {
		buffers.Put(p.buf)
		p.buf = nil
	}
	if p.pipe != nil {
		p.pipes.Put(p.pipe)
		p.pipe = nil
	}
}

// adapt chooses between copying and splicing by how much comes at a time.
func (p *pump) adapt() {
	if !sock.Splices || p.copies || p.throttle != nil {
		return
	}
	if (p.n >= bigRead) == p.splice || p.splice && p.n >= smallRead {
		p.big = 0
		return
	}
	if p.big++; p.big >= bigReads {
		p.splice, p.big = !p.splice, 0
	}
}

// awaitError waits, after the end of the sender's stream, until the sender's
// connection fails or somebody closes it. It returns nil at once where that
// cannot be seen.
func (p *pump) awaitError() error {
	if p.src == nil {
		return nil
	}
	err := p.src.Read(func(fd uintptr) bool {
		p.err = sock.PendingError(fd)
		return p.err != nil
	})
	if err == nil {
		err = p.err
	}
	return err
}

// Kinds of failure, as the system names them.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

func isVanished(err error) bool {
	return errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.ENETDOWN)
}
