package relay

import (
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A pair is a connection that an event loop carries. The loop's goroutine
// alone uses it, but for what is atomic, what never changes, and the janitor's
// notes. There may be very many: what is rarely needed is kept elsewhere.
type pair struct {
	l             *eventLoop
	id            uint64
	rule          *rule
	to            *target
	began         int64 // on the relay's clock, as all its times
	client        netip.AddrPort
	local, target *netip.AddrPort
	name          string // that the client asked for

	fd    [2]int32   // of the client and of the target
	dir   [2]halfway // from the client, from the target
	moved [2]atomic.Int64
	slot  int32        // in the loop's table; -1 before it begins
	ended atomic.Int32 // first side that ended its direction: 1 client, 2 target
	over  bool
	ready bool // in the loop's list of those with more to do

	stalled atomic.Bool // one direction waits for its receiver
	doomed  atomic.Bool // somebody has asked for its end
	dying   atomic.Bool // one side was reset, and the other gets its last bytes
	half    bool        // one direction has ended

	dial *dialing // nil once it is connected to its target
	loss *loss    // one side was reset; the other still gets what it said before

	// The janitor's notes, as half.
	seen      int64
	movedAt   int64
	lastAsked int64
}

// A loss is why one side is gone, and since when.
type loss struct {
	why   fairlead.Reason
	since int64
}

// A halfway is the state of one direction.
type halfway struct {
	backlog  *backlog // was taken from the sender and not yet by the receiver
	readable bool     // there may be something to read
	last     bool     // the kernel said that the sender has ended its stream
	failed   bool     // or that the sender is gone
	eof      bool     // the end was read
	shut     bool     // and passed on
	splice   bool
	copies   bool // splicing was refused
	big      int8
}

// A backlog is bytes in this process, or in a pipe while splicing.
type backlog struct {
	rest []byte
	pipe *sock.Pipe
}

func (d *halfway) holds() bool { return d.backlog != nil }

// A direction has this many reads, or about as many bytes, before it is
// another's turn.
const (
	turn      = 16
	turnBytes = 4 << 20
)

// open enters p among the live connections. It is told before anybody can end
// it, so that its end is told afterwards.
func (p *pair) open() {
	r := p.l.r
	p.movedAt = p.began
	p.l.carried.Add(1)
	p.rule.meter.Flows.Add(1)
	p.rule.meter.Active.Add(1)
	r.tell(fairlead.Event{Kind: fairlead.EventOpen, Forward: p.rule.f.Name}, p)
	r.table.add(p)
}

// release closes both sockets and gives back what the pair held. The pair is
// over.
func (p *pair) release(why fairlead.Reason, abort bool) {
	for _, fd := range p.fd {
		if abort {
			sock.ResetOnClose(int(fd))
		}
		sock.Close(int(fd))
	}
	r := p.l.r
	p.l.load.Add(-1)
	p.rule.meter.Active.Add(-1)
	p.to.active.Add(-1)
	r.table.remove(p) // before leave: who counts those of the table must not count it twice
	p.rule.leave(p.client.Addr())
	r.crowd.leave(sourceKey(p.client.Addr()), perConn)
	r.tell(fairlead.Event{Kind: fairlead.EventClose, Forward: p.rule.f.Name, Reason: why}, p)
}

// pump moves what there is in one direction, from side to the other.
func (l *eventLoop) pump(p *pair, side int) {
	d := &p.dir[side]
	end := p.moved[side].Load() + turnBytes
	for i := 0; i < turn && p.moved[side].Load() < end; i++ {
		if p.over || p.lost() == 1-side {
			return // nobody is there to take it
		}
		if d.holds() && !l.flush(p, side) {
			return
		}
		if d.eof {
			l.passEnd(p, side)
			return
		}
		if !d.readable {
			return
		}
		if !l.read(p, side) {
			return
		}
	}
	if !p.ready {
		p.ready = true
		l.ready = append(l.ready, p)
	}
}

// read takes what the sender has. It returns false when the pair has ended.
func (l *eventLoop) read(p *pair, side int) bool {
	d := &p.dir[side]
	if d.splice {
		if pipe := l.r.pipes.Get(); pipe != nil {
			n, err := pipe.Fill(uintptr(p.fd[side]))
			if err == nil && n > 0 {
				l.count(p, side, n)
				d.adapt(n)
				return l.drain(p, side, pipe)
			}
			l.r.pipes.Put(pipe)
			switch err {
			case unix.EAGAIN:
				d.readable = false
				return true
			case unix.EINVAL:
				d.splice, d.copies = false, true
			case nil: // the end, which read tells as well
			default:
				l.fail(p, side, err)
				return false
			}
		}
	}
	n, err := sock.Read(int(p.fd[side]), l.buf[:])
	switch {
	case err == unix.EAGAIN:
		d.readable = false
		return true
	case err == unix.EINTR:
		return true
	case err != nil:
		l.fail(p, side, err)
		return false
	case n == 0:
		d.eof, d.readable = true, false
		return true
	}
	// A short read has emptied the socket, unless the end came with the same
	// edge and no other will tell of it.
	if n < len(l.buf) && !d.last && !d.failed {
		d.readable = false
	}
	l.count(p, side, n)
	d.adapt(n)
	return l.write(p, side, l.buf[:n])
}

// write hands b to the receiver, and keeps what it does not take.
func (l *eventLoop) write(p *pair, side int, b []byte) bool {
	for len(b) > 0 {
		k, err := sock.Write(int(p.fd[1-side]), b)
		if k > 0 {
			b = b[k:]
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			p.dir[side].backlog = &backlog{rest: append([]byte(nil), b...)}
			return true
		default:
			l.fail(p, 1-side, err)
			return false
		}
	}
	return true
}

// drain hands on what the pipe holds, and keeps what the receiver does not
// take.
func (l *eventLoop) drain(p *pair, side int, pipe *sock.Pipe) bool {
	switch err := pipe.Drain(uintptr(p.fd[1-side])); err {
	case nil:
		l.r.pipes.Put(pipe)
		return true
	case unix.EAGAIN:
		p.dir[side].backlog = &backlog{pipe: pipe}
		return true
	default:
		l.r.pipes.Put(pipe)
		l.fail(p, 1-side, err)
		return false
	}
}

// flush hands on what was kept. It returns false when some of it is left, or
// the pair has ended.
func (l *eventLoop) flush(p *pair, side int) bool {
	d := &p.dir[side]
	k := d.backlog
	d.backlog = nil
	if k.pipe != nil {
		if !l.drain(p, side, k.pipe) {
			return false
		}
	} else if !l.write(p, side, k.rest) {
		return false
	}
	if d.holds() {
		p.stalled.Store(true)
		if d.failed {
			l.lose(p, side, resetBy(int32(side)+1, sender))
		}
		return false
	}
	if p.stalled.Load() && !p.dir[1-side].holds() {
		p.stalled.Store(false)
	}
	return true
}

// passEnd passes the end of one direction on, once all of it was taken.
func (l *eventLoop) passEnd(p *pair, side int) {
	d := &p.dir[side]
	if p.loss != nil {
		return // it gets a reset, and no clean end
	}
	if d.shut {
		if d.failed {
			l.failed(p, side)
		}
		return
	}
	d.shut = true
	if !p.ended.CompareAndSwap(0, int32(side)+1) {
		l.finish(p, closedBy(p.ended.Load()), false) // which says it to both
		return
	}
	err := sock.ShutdownWrite(int(p.fd[1-side]))
	switch {
	case err != nil:
		l.lose(p, 1-side, resetBy(int32(side)+1, receiver))
	case d.failed:
		l.failed(p, side)
	}
}

// failed ends the pair because a sender that had ended its stream is gone. No
// read will tell why, so that the socket is asked.
func (l *eventLoop) failed(p *pair, side int) {
	if err := sock.PendingError(uintptr(p.fd[side])); err != nil {
		l.fail(p, side, err)
		return
	}
	l.lose(p, side, resetBy(int32(side)+1, sender))
}

// fail ends the pair because a system call on one side's socket failed.
func (l *eventLoop) fail(p *pair, side int, err error) {
	from := int32(side) + 1
	switch {
	case p.loss != nil && p.lost() == side:
		p.dir[side].eof = true // all was read
	case p.loss != nil:
		l.finish(p, p.loss.why, true)
	case isReset(err):
		l.lose(p, side, resetBy(from, sender))
	case isVanished(err):
		l.finish(p, vanishedFrom(from, sender), true)
	default:
		l.finish(p, fairlead.Failed, true)
	}
}

func (l *eventLoop) count(p *pair, side, n int) {
	p.moved[side].Add(int64(n))
	if side == 0 {
		p.rule.meter.In.Add(int64(n))
	} else {
		p.rule.meter.Out.Add(int64(n))
	}
}

// adapt chooses between copying and splicing by how much comes at a time.
func (d *halfway) adapt(n int) {
	if d.copies {
		return
	}
	if (n >= bigRead) == d.splice || d.splice && n >= smallRead {
		d.big = 0
		return
	}
	if d.big++; d.big >= bigReads {
		d.splice, d.big = !d.splice, 0
	}
}

// check asks the kernel whether a peer has vanished.
func (l *eventLoop) check(p *pair) {
	patient := 2 * max(p.rule.keepalive, time.Second) // the kernel asks no faster
	for side, why := range []fairlead.Reason{fairlead.ClientVanished, fairlead.TargetVanished} {
		if h, ok := sock.LookAt(uintptr(p.fd[side])); ok && h.Unacked && p.rule.keepalive > 0 && h.Silent >= patient {
			l.finish(p, why, true)
			return
		}
	}
}

// lose begins the end of a pair of which one side was reset: the other gets
// what was said before, within flushTime, and is reset then.
func (l *eventLoop) lose(p *pair, side int, why fairlead.Reason) {
	if p.over || p.loss != nil {
		return
	}
	p.loss = &loss{why, l.r.clock()}
	p.dying.Store(true)
	p.dir[1-side].drop(l.r.pipes)
	d := &p.dir[side]
	d.failed = true
	if !d.eof {
		d.readable = true
		l.pump(p, side)
	}
	if !l.buried(p) {
		l.dying = append(l.dying, p)
	}
}

// lost is the side that was reset, -1 while both are there.
func (p *pair) lost() int {
	if p.loss == nil {
		return -1
	}
	switch p.loss.why {
	case fairlead.ClientReset:
		return 0
	case fairlead.TargetReset:
		return 1
	}
	return -1
}

// buried ends a pair that has lost one side, when the other has got
// everything or had its time.
func (l *eventLoop) buried(p *pair) bool {
	if p.over {
		return true
	}
	side := p.lost()
	if d := &p.dir[side]; l.r.clock()-p.loss.since < int64(flushTime) &&
		(d.holds() || d.readable && !d.eof || sock.UnsentAt(uintptr(p.fd[1-side])) > 0) {
		return false
	}
	l.finish(p, p.loss.why, true)
	return true
}

// bury looks after those who have lost one side.
func (l *eventLoop) bury() {
	kept := l.dying[:0]
	for _, p := range l.dying {
		if !l.buried(p) {
			kept = append(kept, p)
		}
	}
	clear(l.dying[len(kept):])
	l.dying = kept
}

// drop gives back what a direction holds.
func (d *halfway) drop(pipes *sock.Pipes) {
	if d.backlog != nil && d.backlog.pipe != nil {
		pipes.Put(d.backlog.pipe)
	}
	d.backlog = nil
}

func (p *pair) number() uint64 { return p.id }

func (p *pair) admittedBy() (*rule, netip.Addr) { return p.rule, p.client.Addr() }

func (p *pair) kill() { p.askEnd(fairlead.Killed) }
func (p *pair) shut() { p.askEnd(fairlead.Shutdown) }

func (p *pair) askEnd(why fairlead.Reason) {
	p.doomed.Store(true)
	p.l.ask(p, finish, why)
}

func (p *pair) matches(m fairlead.Match) bool {
	return !p.doomed.Load() && matches(m, p.id, p.rule.f.Name, p.client.Addr())
}

func (p *pair) describe() fairlead.Conn {
	d := fairlead.Conn{
		ID: idText(p.id), Forward: p.rule.f.Name, Network: "tcp",
		Client: p.client.String(), Local: p.local.String(), Target: p.target.String(), Asked: p.name,
		Began: p.l.r.began.Add(time.Duration(p.began)), In: p.moved[0].Load(), Out: p.moved[1].Load(),
	}
	switch p.ended.Load() {
	case 1:
		d.Half = "client"
	case 2:
		d.Half = "target"
	}
	return d
}

// look is the janitor's visit. It ends nothing itself: the descriptors are the
// loop's.
func (p *pair) look(now time.Time) {
	at := int64(now.Sub(p.l.r.began))
	if n := p.moved[0].Load() + p.moved[1].Load(); n != p.seen {
		p.seen, p.movedAt = n, at
	}
	if !p.half && p.ended.Load() != 0 {
		p.half, p.movedAt = true, at
	}
	silent := time.Duration(at - p.movedAt)
	switch ru := p.rule; {
	case ru.lifetime > 0 && time.Duration(at-p.began) >= ru.lifetime:
		p.l.ask(p, finish, fairlead.Lifetime)
	case ru.idle > 0 && silent >= ru.idle:
		p.l.ask(p, finish, fairlead.IdleTimeout)
	case ru.linger > 0 && p.half && silent >= ru.linger:
		p.l.ask(p, finish, fairlead.LingerTimeout)
	case (p.stalled.Load() || silent >= patience) && at-p.lastAsked >= int64(patience/4):
		p.lastAsked = at
		p.l.ask(p, check, "")
	}
}
