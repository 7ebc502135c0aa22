//go:build unix

package relay

import (
	"io"
	"net"
	"syscall"
)

// runSealed moves bytes where at least one side speaks TLS. Like runRaw it
// holds no buffer while it waits.
func (p *pump) runSealed() (side, error) {
	from, sealed := p.from.(*sealed)
	if p.src == nil || sealed && from.wire.raw == nil {
		return p.runCopy()
	}
	if sealed {
		from.wire.wait = true
	}
	p.read = p.tryRead
	for {
		var err error
		if sealed {
			err = p.readSealed(from)
		} else {
			err = p.readPlain()
		}
		if n := p.n; n > 0 {
			if p.granted == 0 && !p.pass(n) {
				p.release()
				return sender, net.ErrClosed
			}
			p.granted = 0
			p.count(n)
			p.stalled.Store(true)
			_, werr := p.to.Write(p.buf[:n])
			p.stalled.Store(false)
			p.release()
			if werr != nil {
				return receiver, werr
			}
		}
		p.release()
		if err == io.EOF {
			return sender, nil
		}
		if err != nil {
			return sender, err
		}
	}
}

func (p *pump) readPlain() error {
	for {
		err := p.src.Read(p.read)
		switch {
		case err != nil:
			p.n = 0
			return err
		case p.err != nil:
			return p.err
		case p.asked > 0: // nothing is held while this waits
			if !p.pass(p.asked) {
				p.n = 0
				return net.ErrClosed
			}
			p.granted, p.asked = p.asked, 0
		case p.n == 0:
			return io.EOF
		default:
			return nil
		}
	}
}

// readSealed fills a buffer with what there is, of several records if need be,
// and waits without one where there is nothing.
func (p *pump) readSealed(from *sealed) error {
	p.n = 0
	for {
		p.buf = buffers.Get().(*buffer)
		most := p.most()
		for p.n < most {
			k, err := from.Conn.Read(p.buf[p.n:most])
			p.n += k
			if err == errAgain {
				break
			}
			if err != nil {
				return err
			}
		}
		if p.n > 0 {
			return nil
		}
		p.release()
		if err := p.src.Read(readable); err != nil {
			return err
		}
	}
}

// readable reports whether a read would not wait.
func readable(fd uintptr) bool {
	var b [1]byte
	for {
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		if err != syscall.EINTR {
			return err != syscall.EAGAIN
		}
	}
}

// tryRead reads what there is.
func (w *wire) tryRead(b []byte) (int, error) {
	if w.once == nil {
		w.once = w.readOnce
	}
	w.b = b
	err := w.raw.Read(w.once)
	w.b = nil
	switch {
	case err != nil:
		return 0, err
	case w.err == syscall.EAGAIN:
		return 0, errAgain
	case w.err != nil:
		return 0, w.err
	case w.n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return w.n, nil
}

func (w *wire) readOnce(fd uintptr) bool {
	for {
		w.n, w.err = syscall.Read(int(fd), w.b)
		if w.err != syscall.EINTR {
			break
		}
	}
	w.n = max(w.n, 0)
	return true
}
