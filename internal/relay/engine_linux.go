package relay

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// An engine carries pairs of TCP connections on event loops, one for each
// core. A pair costs no goroutine and a few hundred bytes, and a message two
// system calls. What a forward needs nothing but a target for, the loops also
// accept and dial by themselves; everything else happens in goroutines, and
// both descriptors are handed over afterwards.
type engine struct {
	r    *Relay
	once sync.Once
	next atomic.Uint32

	loops []*eventLoop // after once; empty where the system refuses them
}

func newEngine(r *Relay) *engine { return &engine{r: r} }

// ready starts the loops when they are first needed, and reports whether there
// are any.
func (g *engine) ready() bool {
	if g.r.cfg.Goroutines {
		return false
	}
	g.once.Do(g.start)
	return len(g.loops) > 0
}

func (g *engine) start() {
	for range max(runtime.GOMAXPROCS(0), 1) {
		l, err := newEventLoop(g)
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
	if !ok1 || !ok2 || !g.ready() {
		return false
	}
	cfd, ok := duplicate(c)
	if !ok {
		return false
	}
	tfd, ok := duplicate(t)
	if !ok {
		sock.Close(cfd)
		return false
	}
	target := sock.AddrPort(t.RemoteAddr())
	local := o.local
	l := g.idlest()
	l.load.Add(1)
	p := &pair{
		l: l, id: id, rule: ru, to: to, fd: [2]int32{int32(cfd), int32(tfd)}, began: g.r.clock(),
		slot: -1, client: o.client, local: &local, target: &target, name: o.asked.what(),
	}
	p.moved[0].Store(int64(len(o.head))) // the target has it already
	ru.meter.In.Add(int64(len(o.head)))
	// The duplicates keep the connections; the runtime's poller lets go of them.
	c.Close()
	t.Close()
	p.open()
	if !l.ask(p, begin, "") { // the relay is closing
		l.finish(p, fairlead.Shutdown, true)
	}
	return true
}

// duplicate is another descriptor of c, for a loop.
func duplicate(c syscall.Conn) (fd int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, err == nil
}

// idlest is the loop with the fewest pairs; equals take turns.
func (g *engine) idlest() *eventLoop {
	first := int(g.next.Add(1) % uint32(len(g.loops)))
	best := g.loops[first]
	for i := range g.loops {
		if l := g.loops[(first+i)%len(g.loops)]; l.load.Load() < best.load.Load() {
			best = l
		}
	}
	return best
}

// An op is what others ask a loop to do.
type op uint8

const (
	begin  op = iota // to carry a pair
	finish           // to end one for a reason
	check            // whether a pair's peers are alive
	hear             // to accept from a listening socket
	unhear           // to forget it: it is closed
	take             // to let a client in that another loop has accepted
)

type request struct {
	op  op
	p   *pair
	ln  *listening
	a   arrival
	why fairlead.Reason
}

// An eventLoop serves its pairs, and the listening sockets of all, in one
// goroutine.
type eventLoop struct {
	g     *engine
	r     *Relay
	epfd  int
	file  *os.File // the same, for the runtime's poller
	raw   syscall.RawConn
	waker int          // an eventfd
	load  atomic.Int32 // pairs

	carried atomic.Int64 // pairs ever

	// The goroutine's own.
	buf     *buffer
	slots   []*pair
	free    []int32
	ready   []*pair // have more to do than their turn allowed
	dying   []*pair // have lost one side
	dialing []*pair // are not connected to their target, or were not lately
	swept   int64   // when those were last looked through
	events  []unix.EpollEvent
	n       int                   // of them
	poll    func(fd uintptr) bool // fills them
	busy    int                   // rounds in a row that found something to do
	alarm   *time.Timer           // wakes it to look after those above
	target  *netip.AddrPort       // that the last pair was connected to
	arrivals

	mu    sync.Mutex // guards the rest
	asked []request
	done  bool
}

func newEventLoop(g *engine) (*eventLoop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	waker, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = sock.EpollAdd(epfd, waker, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakerEvent})
	}
	if err != nil {
		unix.Close(epfd)
		if waker > 0 {
			unix.Close(waker)
		}
		return nil, err
	}
	l := &eventLoop{
		g: g, r: g.r, epfd: epfd, waker: waker, buf: new(buffer),
		events: make([]unix.EpollEvent, 256), arrivals: newArrivals(),
	}
	l.poll = l.pollOnce
	l.alarm = time.AfterFunc(time.Hour, l.wake)
	unix.SetNonblock(epfd, true) // else the runtime would not wait for it
	l.file = os.NewFile(uintptr(epfd), "event loop")
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		unix.Close(waker)
		return nil, err
	}
	return l, nil
}

// ask has the loop do something with p. It is false when the loop has ended,
// and every pair with it.
func (l *eventLoop) ask(p *pair, o op, why fairlead.Reason) bool {
	return l.request(request{op: o, p: p, why: why})
}

func (l *eventLoop) request(q request) bool {
	l.mu.Lock()
	if l.done {
		l.mu.Unlock()
		return false
	}
	first := len(l.asked) == 0
	l.asked = append(l.asked, q)
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

// What an event's number means, where it is none of a pair's: those are twice
// the slot, and one more for the target's side.
const (
	wakerEvent  = -1
	firstListen = -2 // and below: listening sockets
)

func (l *eventLoop) run() {
	for l.r.ctx.Err() == nil {
		l.wait()
		for _, ev := range l.events[:l.n] {
			l.event(ev)
		}
		l.answer()
		l.again()
		l.bury()
		l.sweep()
		l.resume()
	}
	l.end()
}

// busyRounds is how often in a row a loop that always finds something to do
// goes on, before it lets other goroutines run.
const busyRounds = 8

// many is from how many pairs on a loop lets other threads of its processor go
// first, before it looks what has happened: the peers on this host, and the
// network's own work, then send more that is taken together. Where nobody else
// wants the processor it costs a short system call for a batch.
const many = 32

// few is below how many pairs a loop waits in a system call of its own: it is
// then back a few microseconds sooner. With more it waits in the runtime's
// poller. A thread that is often in a short system call has the runtime look
// after it every 20 microseconds, which costs more than it saves.
const few = 3

// wait returns at once when there is more to do, else when something happens.
func (l *eventLoop) wait() {
	if l.load.Load() >= many {
		sock.Yield()
	}
	if l.pollOnce(0) || len(l.ready) > 0 {
		if l.busy++; l.busy >= busyRounds {
			l.busy = 0
			runtime.Gosched()
		}
		return
	}
	l.busy = 0
	switch {
	case len(l.dying) > 0:
		l.alarm.Reset(deathWatch)
	case l.resting:
		l.alarm.Reset(l.nap)
	case len(l.dialing) > 0:
		l.alarm.Reset(sweepTime) // put off by others' news, which has them looked through as well
	}
	if l.load.Load() >= few {
		l.raw.Read(l.poll)
	} else if l.n, _ = unix.EpollWait(l.epfd, l.events, -1); l.n < 0 {
		l.n = 0 // EINTR
	}
}

// pollOnce takes what has happened, and reports whether that was anything.
func (l *eventLoop) pollOnce(uintptr) bool {
	l.n = sock.EpollNow(l.epfd, l.events)
	return l.n > 0
}

// deathWatch is how often those are looked at who get their last bytes.
const deathWatch = 20 * time.Millisecond

func (l *eventLoop) event(ev unix.EpollEvent) {
	switch {
	case ev.Fd == wakerEvent:
		var b [8]byte
		unix.Read(l.waker, b[:])
		return
	case ev.Fd <= firstListen:
		if ln := l.hearing[ev.Fd]; ln != nil {
			l.receive(ln)
		}
		return
	}
	p := l.slots[ev.Fd>>1]
	if p == nil || int32(p.id) != ev.Pad {
		return // it ended earlier in this round
	}
	if p.dial != nil && !l.connected(p) {
		return
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
		case q.op == hear:
			l.hear(q.ln)
		case q.op == unhear:
			l.unhear(q.ln)
		case q.op == take:
			l.welcome(q.a)
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

// seat gives p its number in the loop.
func (l *eventLoop) seat(p *pair) {
	if n := len(l.free); n > 0 {
		p.slot = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		p.slot = int32(len(l.slots))
		l.slots = append(l.slots, nil)
	}
	l.slots[p.slot] = p
}

// watch has the loop told of one side of p. The first edge comes by itself,
// for what is there already.
func (l *eventLoop) watch(p *pair, side int) error {
	return sock.EpollAdd(l.epfd, int(p.fd[side]), &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff,
		Fd:     p.slot<<1 | int32(side), Pad: int32(p.id),
	})
}

// begin enters p.
func (l *eventLoop) begin(p *pair) {
	l.seat(p)
	for side := range p.fd {
		if l.watch(p, side) != nil {
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
		clear(ready) // keeps nothing alive
		l.ready = ready[:0]
	}
}

// finish ends a pair at once.
func (l *eventLoop) finish(p *pair, why fairlead.Reason, abort bool) {
	if p.over {
		return
	}
	p.over = true
	p.dir[0].drop(l.r.pipes)
	p.dir[1].drop(l.r.pipes)
	l.unseat(p)
	p.release(why, abort)
}

func (l *eventLoop) unseat(p *pair) {
	if p.slot >= 0 {
		l.slots[p.slot] = nil
		l.free = append(l.free, p.slot)
		p.slot = -1
	}
}

// end ends the loop and everything on it.
func (l *eventLoop) end() {
	l.mu.Lock()
	l.done = true
	asked := l.asked
	l.asked = nil
	l.mu.Unlock()
	for _, q := range asked {
		switch q.op {
		case begin:
			l.finish(q.p, fairlead.Shutdown, true)
		case take:
			l.r.serving.Add(-1)
			q.a.reset()
			l.r.crowd.leave(q.a.source(), perConn)
		}
	}
	for _, p := range l.slots {
		switch {
		case p == nil:
		case p.dial != nil:
			l.giveUp(p, fairlead.Shutdown)
		default:
			l.finish(p, fairlead.Shutdown, true)
		}
	}
	l.arrivals.close()
	l.alarm.Stop()
	l.mu.Lock() // nobody wakes it any more
	defer l.mu.Unlock()
	l.file.Close()
	unix.Close(l.waker)
}

// clock is the time since the relay began, which costs a pair eight bytes
// where a time.Time costs 24.
func (r *Relay) clock() int64 { return int64(time.Since(r.began)) }
