package relay

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// An engine carries pairs of TCP connections on event loops, one for each
// core. A pair costs no goroutine and a few hundred bytes, and a message two
// system calls. Accepting, admission and dialing happen elsewhere; both
// descriptors are then handed over.
type engine struct {
	r    *Relay
	once sync.Once
	next atomic.Uint32

	loops []*eventLoop // after once; empty where the system refuses them
}

func newEngine(r *Relay) *engine { return &engine{r: r} }

func (g *engine) start() {
	for range max(runtime.GOMAXPROCS(0), 1) {
		l, err := newEventLoop(g.r)
		if err != nil {
			break // goroutines carry as well
		}
		g.loops = append(g.loops, l)
	}
	for _, l := range g.loops {
		g.r.wg.Go(l.run)
		context.AfterFunc(g.r.ctx, l.wake)
	}
}

// carry takes over both connections, or returns false and leaves them as they
// are: when they are not TCP sockets, or descriptors are short.
func (g *engine) carry(id uint64, ru *rule, to *target, o *origin, client, server net.Conn) bool {
	c, ok1 := client.(*net.TCPConn)
	t, ok2 := server.(*net.TCPConn)
	if !ok1 || !ok2 {
		return false
	}
	if g.once.Do(g.start); len(g.loops) == 0 {
		return false
	}
	cfd, ok := duplicate(c)
	if !ok {
		return false
	}
	tfd, ok := duplicate(t)
	if !ok {
		unix.Close(cfd)
		return false
	}
	l := g.loops[g.next.Add(1)%uint32(len(g.loops))]
	p := &pair{
		l: l, id: id, rule: ru, to: to, fd: [2]int{cfd, tfd}, began: time.Now(),
		slot:   -1,
		client: o.client, local: o.local, target: sock.AddrPort(t.RemoteAddr()), name: o.asked.what(),
	}
	p.moved[0].Store(int64(len(o.head))) // the target has it already
	ru.meter.In.Add(int64(len(o.head)))
	p.movedAt = p.began
	ru.meter.Flows.Add(1)
	ru.meter.Active.Add(1)
	// The duplicates keep the connections; the runtime's poller lets go of them.
	c.Close()
	t.Close()
	// Told before anybody can end it, so that its end is told afterwards.
	g.r.tell(fairlead.Event{Kind: fairlead.EventOpen, Forward: ru.f.Name}, p)
	g.r.table.add(p)
	if !l.ask(p, begin, "") { // the relay is closing
		p.over = true
		p.release(fairlead.Shutdown, true)
	}
	return true
}

// duplicate is another descriptor of c, for a loop.
func duplicate(c *net.TCPConn) (fd int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, err == nil
}

// A pair is a connection that an event loop carries. The loop's goroutine
// alone uses it, but for what is atomic, what never changes, and the janitor's
// notes.
type pair struct {
	l                     *eventLoop
	id                    uint64
	rule                  *rule
	to                    *target
	began                 time.Time
	client, local, target netip.AddrPort
	name                  string // that the client asked for

	fd    [2]int     // of the client and of the target
	dir   [2]halfway // from the client, from the target
	slot  int32      // in the loop's table; -1 before it begins
	moved [2]atomic.Int64
	ended atomic.Int32 // first side that ended its direction: 1 client, 2 target
	over  bool
	ready bool // in the loop's list of those with more to do

	stalled atomic.Bool // one direction waits for its receiver
	doomed  atomic.Bool // somebody has asked for its end
	dying   atomic.Bool // one side was reset, and the other gets its last bytes

	gone  fairlead.Reason // one side was reset; the other still gets what it said before
	since time.Time       // when that was

	// The janitor's notes.
	seen      int64
	movedAt   time.Time
	lastAsked time.Time
	half      bool
}

// A halfway is the state of one direction.
type halfway struct {
	rest     []byte     // was read and not yet taken by the receiver
	pipe     *sock.Pipe // the same, while splicing
	readable bool       // there may be something to read
	last     bool       // the kernel said that the sender has ended its stream
	failed   bool       // or that the sender is gone
	eof      bool       // the end was read
	shut     bool       // and passed on
	splice   bool
	copies   bool // splicing was refused
	big      int8
}

func (d *halfway) holds() bool { return len(d.rest) > 0 || d.pipe != nil }

// An op is what others ask a loop to do with a pair.
type op uint8

const (
	begin  op = iota
	finish    // for a reason
	check     // whether the peers are alive
)

type request struct {
	p   *pair
	op  op
	why fairlead.Reason
}

// An eventLoop serves its pairs in one goroutine.
type eventLoop struct {
	r     *Relay
	epfd  int
	waker int // an eventfd
	buf   *buffer
	slots []*pair
	free  []int32
	ready []*pair // have more to do than their turn allowed
	dying []*pair // have lost one side

	mu    sync.Mutex // guards the rest
	asked []request
	done  bool
}

func newEventLoop(r *Relay) (*eventLoop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	waker, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, waker, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1})
	}
	if err != nil {
		unix.Close(epfd)
		if waker > 0 {
			unix.Close(waker)
		}
		return nil, err
	}
	return &eventLoop{r: r, epfd: epfd, waker: waker, buf: new(buffer)}, nil
}

// ask has the loop do something with p. It is false when the loop has ended,
// and every pair with it.
func (l *eventLoop) ask(p *pair, o op, why fairlead.Reason) bool {
	l.mu.Lock()
	if l.done {
		l.mu.Unlock()
		return false
	}
	first := len(l.asked) == 0
	l.asked = append(l.asked, request{p, o, why})
	l.mu.Unlock()
	if first {
		l.wake()
	}
	return true
}

func (l *eventLoop) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		unix.Write(l.waker, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// turn is how many reads a direction has before it is another's turn.
const turn = 16

func (l *eventLoop) run() {
	events := make([]unix.EpollEvent, 256)
	for l.r.ctx.Err() == nil {
		for _, ev := range events[:l.wait(events)] {
			l.event(ev)
		}
		l.answer()
		l.again()
		l.bury()
	}
	l.end()
}

// wait returns at once when there is more to do, else when something happens.
func (l *eventLoop) wait(events []unix.EpollEvent) int {
	timeout := -1
	switch {
	case len(l.ready) > 0:
		timeout = 0
	case len(l.dying) > 0:
		timeout = 20
	}
	n, err := unix.EpollWait(l.epfd, events, timeout)
	if err != nil {
		return 0 // EINTR
	}
	return n
}

func (l *eventLoop) event(ev unix.EpollEvent) {
	if ev.Fd < 0 {
		var b [8]byte
		unix.Read(l.waker, b[:])
		return
	}
	p := l.slots[ev.Fd>>1]
	if p == nil || int32(p.id) != ev.Pad {
		return // it ended earlier in this round
	}
	side := int(ev.Fd & 1)
	d := &p.dir[side]
	if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		d.last = true
	}
	if ev.Events&unix.EPOLLERR != 0 {
		d.failed = true
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		d.readable = true
		l.pump(p, side)
	}
	if ev.Events&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 && !p.over && p.dir[1-side].holds() {
		l.pump(p, 1-side)
	}
}

// answer does what was asked.
func (l *eventLoop) answer() {
	l.mu.Lock()
	asked := l.asked
	l.asked = nil
	l.mu.Unlock()
	for _, q := range asked {
		switch {
		case q.p.over:
		case q.op == begin:
			l.begin(q.p)
		case q.op == finish:
			l.finish(q.p, q.why, true)
		case q.op == check:
			l.check(q.p)
		}
	}
}

// begin enters p. The first edge comes by itself, for what is there already.
func (l *eventLoop) begin(p *pair) {
	if n := len(l.free); n > 0 {
		p.slot = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		p.slot = int32(len(l.slots))
		l.slots = append(l.slots, nil)
	}
	l.slots[p.slot] = p
	for side, fd := range p.fd {
		ev := unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
			Fd:     p.slot<<1 | int32(side), Pad: int32(p.id),
		}
		if unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev) != nil {
			l.finish(p, fairlead.Failed, true)
			return
		}
	}
}

// again gives those their turn who had more to do.
func (l *eventLoop) again() {
	ready := l.ready
	l.ready = nil
	for _, p := range ready {
		p.ready = false
		for side := range 2 {
			if !p.over && p.dir[side].readable {
				l.pump(p, side)
			}
		}
	}
	if l.ready == nil {
		l.ready = ready[:0]
	}
}

// pump moves what there is in one direction, from side to the other.
func (l *eventLoop) pump(p *pair, side int) {
	d := &p.dir[side]
	for range turn {
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
		if d.pipe = l.r.pipes.Get(); d.pipe != nil {
			n, err := d.pipe.Fill(uintptr(p.fd[side]))
			if err == nil && n > 0 {
				l.count(p, side, n)
				d.adapt(n)
				return true
			}
			l.r.pipes.Put(d.pipe)
			d.pipe = nil
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
	n, err := unix.Read(p.fd[side], l.buf[:])
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
		k, err := unix.Write(p.fd[1-side], b)
		if k > 0 {
			b = b[k:]
		}
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			p.dir[side].rest = append([]byte(nil), b...)
			return true
		default:
			l.fail(p, 1-side, err)
			return false
		}
	}
	return true
}

// flush hands on what was kept. It returns false when some of it is left, or
// the pair has ended.
func (l *eventLoop) flush(p *pair, side int) bool {
	d := &p.dir[side]
	if d.pipe != nil {
		err := d.pipe.Drain(uintptr(p.fd[1-side]))
		if err != nil && err != unix.EAGAIN {
			l.fail(p, 1-side, err)
			return false
		}
		if err == nil {
			l.r.pipes.Put(d.pipe)
			d.pipe = nil
		}
	} else {
		rest := d.rest
		d.rest = nil
		if !l.write(p, side, rest) {
			return false
		}
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
	if p.gone != "" {
		return // it gets a reset, and no clean end
	}
	if d.shut {
		if d.failed {
			l.failed(p, side)
		}
		return
	}
	d.shut = true
	first := p.ended.CompareAndSwap(0, int32(side)+1)
	err := unix.Shutdown(p.fd[1-side], unix.SHUT_WR)
	switch {
	case !first:
		l.finish(p, closedBy(p.ended.Load()), false)
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
	case p.gone != "" && p.lost() == side:
		p.dir[side].eof = true // all was read
	case p.gone != "":
		l.finish(p, p.gone, true)
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
	if p.over || p.gone != "" {
		return
	}
	p.gone, p.since = why, time.Now()
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
	switch p.gone {
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
	if d := &p.dir[side]; time.Since(p.since) < flushTime &&
		(d.holds() || d.readable && !d.eof || sock.UnsentAt(uintptr(p.fd[1-side])) > 0) {
		return false
	}
	l.finish(p, p.gone, true)
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
	if d.pipe != nil {
		pipes.Put(d.pipe)
	}
	d.pipe, d.rest = nil, nil
}

// finish ends a pair at once.
func (l *eventLoop) finish(p *pair, why fairlead.Reason, abort bool) {
	if p.over {
		return
	}
	p.over = true
	p.dir[0].drop(l.r.pipes)
	p.dir[1].drop(l.r.pipes)
	if p.slot >= 0 {
		l.slots[p.slot] = nil
		l.free = append(l.free, p.slot)
	}
	p.release(why, abort)
}

// release closes both sockets and gives back what the pair held. The pair is
// over.
func (p *pair) release(why fairlead.Reason, abort bool) {
	for _, fd := range p.fd {
		if abort {
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		unix.Close(fd)
	}
	r := p.l.r
	p.rule.meter.Active.Add(-1)
	p.to.active.Add(-1)
	p.rule.leave(p.client.Addr())
	r.table.remove(p)
	r.budget.give(2)
	r.tell(fairlead.Event{Kind: fairlead.EventClose, Forward: p.rule.f.Name, Reason: why}, p)
}

// end ends the loop and everything on it.
func (l *eventLoop) end() {
	l.mu.Lock()
	l.done = true
	asked := l.asked
	l.asked = nil
	l.mu.Unlock()
	for _, q := range asked {
		if q.op == begin {
			l.finish(q.p, fairlead.Shutdown, true)
		}
	}
	for _, p := range l.slots {
		if p != nil {
			l.finish(p, fairlead.Shutdown, true)
		}
	}
	l.mu.Lock() // nobody wakes it any more
	defer l.mu.Unlock()
	unix.Close(l.epfd)
	unix.Close(l.waker)
}

func (p *pair) number() uint64 { return p.id }
func (p *pair) kill()          { p.askEnd(fairlead.Killed) }
func (p *pair) shut()          { p.askEnd(fairlead.Shutdown) }

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
		Began: p.began, In: p.moved[0].Load(), Out: p.moved[1].Load(),
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
	if n := p.moved[0].Load() + p.moved[1].Load(); n != p.seen {
		p.seen, p.movedAt = n, now
	}
	if !p.half && p.ended.Load() != 0 {
		p.half, p.movedAt = true, now
	}
	silent := now.Sub(p.movedAt)
	switch ru := p.rule; {
	case ru.lifetime > 0 && now.Sub(p.began) >= ru.lifetime:
		p.l.ask(p, finish, fairlead.Lifetime)
	case ru.idle > 0 && silent >= ru.idle:
		p.l.ask(p, finish, fairlead.IdleTimeout)
	case ru.linger > 0 && p.half && silent >= ru.linger:
		p.l.ask(p, finish, fairlead.LingerTimeout)
	case (p.stalled.Load() || silent >= patience) && now.Sub(p.lastAsked) >= patience/4:
		p.lastAsked = now
		p.l.ask(p, check, "")
	}
}
