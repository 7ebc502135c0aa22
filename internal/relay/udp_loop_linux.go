package relay

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A udpEngine serves datagram sockets on event loops, one for each core. A
// listening socket and all its sessions belong to one loop, so that nothing
// but the tables is shared: datagrams that came together leave together, in
// one system call for each session, and answers of many sessions in one for
// all of them.
type udpEngine struct {
	r     *Relay
	loops []*udpLoop // as many as there are listening sockets, and not more than cores
	next  int
}

func newUDPEngine(r *Relay) *udpEngine { return &udpEngine{r: r} }

// loop is the one for the next listening socket; nil where the system refuses
// them. The caller holds the relay's mu.
func (g *udpEngine) loop() *udpLoop {
	if len(g.loops) < runtime.GOMAXPROCS(0) {
		if l, err := newUDPLoop(g.r); err == nil {
			g.loops = append(g.loops, l)
			return l
		}
	}
	if len(g.loops) == 0 {
		return nil // goroutines serve as well
	}
	g.next++
	return g.loops[g.next%len(g.loops)]
}

// server serves c, which it owns, on a loop; it is nil, and c left as it is,
// where the system refuses that.
func (g *udpEngine) server(u *udpEntry, c *net.UDPConn) datagramServer {
	l := g.loop()
	if l == nil {
		return nil
	}
	fd, ok := takeDescriptor(c)
	if !ok {
		return nil
	}
	sock.PrepareRelay(fd)
	return &udpSocket{l: l, u: u, fd: fd, slot: -1, burst: batch}
}

// takeDescriptor is c's descriptor for a loop; c is closed. The runtime's
// poller lets go of it: it would wake up for each datagram that leaves.
func takeDescriptor(c *net.UDPConn) (fd int, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	raw.Control(func(from uintptr) {
		fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err != nil {
		return 0, false
	}
	c.Close()
	return fd, true
}

// batch is how many datagrams, or trains of them, are taken and sent at once.
const batch = 64

// A udpLoop serves its sockets in one goroutine, which alone touches their
// descriptors and closes them.
type udpLoop struct {
	r     *Relay
	epfd  int
	waker int // an eventfd

	// What the goroutine works with.
	in    *sock.Datagrams // from clients
	back  *sock.Datagrams // from targets
	held  int             // places of back whose answers have not been sent yet
	out   load
	apart load      // trains that were refused as such
	now   time.Time // of this round

	pieces   []piece    // that came together
	asking   []*session // whose they are
	fresh    []newcomer
	replying []*udpSocket // have answers that are not sent yet

	slots []slot // what may happen, by the number that the kernel knows
	free  []int32

	mu    sync.Mutex // guards the rest
	asked []func()
	done  bool
}

// A slot is a socket in a loop's table.
type slot struct {
	listener *udpSocket
	session  *session
	turn     int32 // differs each time that the slot is used
}

// A piece is a datagram, or a train of them, on its way.
type piece struct {
	s       *session
	head    []byte // goes before it
	body    []byte
	segment int // size of a train's datagrams but the last; 0 for a single one
}

// count is how many datagrams it has.
func (p *piece) count() int {
	if p.segment == 0 {
		return 1
	}
	return (len(p.body) + p.segment - 1) / p.segment
}

// each calls f with each datagram.
func (p *piece) each(f func(d []byte)) {
	rest := p.body
	for p.segment > 0 && len(rest) > p.segment {
		f(rest[:p.segment])
		rest = rest[p.segment:]
	}
	f(rest)
}

// A newcomer is a piece whose client had no session when it came.
type newcomer struct {
	piece int32
	from  arrived
}

// A udpSocket is a listening socket on a loop.
type udpSocket struct {
	herald  herald
	l       *udpLoop
	u       *udpEntry
	fd      int    // -1 once it is closed
	slot    int32  // -1: none
	burst   int    // how many datagrams are taken at once
	missed  uint32 // as the kernel last counted
	answers []piece
}

// A udpLink is what a loop knows of a session. Its goroutine alone uses it,
// but for to, which never changes.
type udpLink struct {
	to       sock.Address // the client
	socket   int          // connected to the target
	linked   bool         // there is one
	slot     int32
	ferry    *ferry // instead, where the place's connections are no sockets
	burst    int    // how many answers are looked for at once
	missed   uint32
	noTrains [2]bool // were refused, towards the target and towards the client
	ask      []int32 // its pieces of this round
	looked   time.Time
}

func (k *udpLink) address(at netip.Addr, a *arrived) {
	k.to = sock.AddressOf(at.Is4(), a.sender, a.ifindex)
}

func newUDPLoop(r *Relay) (*udpLoop, error) {
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
	l := &udpLoop{r: r, epfd: epfd, waker: waker}
	r.wg.Go(l.run)
	context.AfterFunc(r.ctx, l.wake)
	return l, nil
}

// do has the loop's goroutine run f. It returns false when the loop has ended,
// and every socket with it.
func (l *udpLoop) do(f func()) bool {
	l.mu.Lock()
	if l.done {
		l.mu.Unlock()
		return false
	}
	first := len(l.asked) == 0
	l.asked = append(l.asked, f)
	l.mu.Unlock()
	if first {
		l.wake()
	}
	return true
}

func (l *udpLoop) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		unix.Write(l.waker, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// settle does what was asked. The loop's goroutine calls it.
func (l *udpLoop) settle() {
	l.mu.Lock()
	asked := l.asked
	l.asked = nil
	l.mu.Unlock()
	for _, f := range asked {
		f()
	}
}

func (l *udpLoop) run() {
	l.in, l.back = sock.NewDatagrams(batch, true), sock.NewDatagrams(batch, false)
	l.out, l.apart = newLoad(), newLoad()
	events := make([]unix.EpollEvent, 256)
	for l.r.ctx.Err() == nil {
		n := l.wait(events)
		l.now = time.Now()
		asked := false
		for _, ev := range events[:n] {
			if ev.Fd < 0 {
				asked = true
				continue
			}
			switch s := &l.slots[ev.Fd]; {
			case s.turn != ev.Pad: // it ended earlier in this round
			case s.session != nil:
				l.fromTarget(s.session)
			case s.listener != nil:
				l.fromClients(s.listener)
			}
		}
		l.reply()
		if asked {
			var b [8]byte
			unix.Read(l.waker, b[:])
			l.settle()
		}
	}
	l.end()
}

// wait returns what has happened, and waits for it only when nothing has: a
// system call that does not wait need not be told to the scheduler.
func (l *udpLoop) wait(events []unix.EpollEvent) int {
	if n := sock.EpollNow(l.epfd, events); n > 0 {
		return n
	}
	n, err := unix.EpollWait(l.epfd, events, -1)
	if err != nil {
		return 0 // EINTR
	}
	return n
}

// end closes everything; nobody asks any more.
func (l *udpLoop) end() {
	l.mu.Lock()
	l.done = true
	l.mu.Unlock()
	l.settle()
	for i := range l.slots {
		switch s := &l.slots[i]; {
		case s.session != nil:
			l.unlink(s.session)
		case s.listener != nil:
			l.closeListener(s.listener)
		}
	}
	l.mu.Lock() // nobody wakes it any more
	defer l.mu.Unlock()
	unix.Close(l.epfd)
	unix.Close(l.waker)
}

// watch enters a socket into the table and has the kernel tell of it.
func (l *udpLoop) watch(fd int, s slot) (int32, bool) {
	var i int32
	if n := len(l.free); n > 0 {
		i = l.free[n-1]
		l.free = l.free[:n-1]
	} else {
		i = int32(len(l.slots))
		l.slots = append(l.slots, slot{})
	}
	s.turn = l.slots[i].turn + 1
	l.slots[i] = s
	if unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: i, Pad: s.turn}) != nil {
		l.forget(i)
		return 0, false
	}
	return i, true
}

func (l *udpLoop) forget(i int32) {
	l.slots[i] = slot{turn: l.slots[i].turn + 1}
	l.free = append(l.free, i)
}

func (x *udpSocket) serve() {
	x.l.do(func() {
		if i, ok := x.l.watch(x.fd, slot{listener: x}); ok {
			x.slot = i
			return
		}
		x.l.r.trouble(fairlead.CodeListenFailed, "datagrams at "+x.u.e.key.String()+" are not heard: the system watches no more sockets for this user (fs.epoll.max_user_watches)")
	})
}

func (x *udpSocket) settle() { x.l.settle() }

func (x *udpSocket) close() {
	x.control(func(int) error { x.l.closeListener(x); return nil })
}

func (x *udpSocket) control(f func(fd int) error) error {
	done := make(chan error, 1)
	if !x.l.do(func() { done <- f(x.fd) }) {
		return net.ErrClosed
	}
	return <-done
}

func (l *udpLoop) closeListener(x *udpSocket) {
	if x.fd < 0 {
		return
	}
	if x.slot >= 0 {
		l.forget(x.slot)
	}
	unix.Close(x.fd)
	x.fd = -1
}

// dial is called by the loop's goroutine.
func (x *udpSocket) dial(s *session, t *target) bool {
	if !s.b.rule.straight {
		return false
	}
	to, ok := x.l.r.straightTo("udp", s.b, t)
	if !ok {
		return false
	}
	fd, err := sock.Datagram(to.Addr().Is6())
	if err != nil {
		return false
	}
	if out := x.l.r.start(s.b.rule, s.key.client); !out.plain() {
		err = out.prepare(fd, "udp", to, 0)
	}
	if err != nil || sock.Connect(fd, to) != nil {
		sock.Close(fd)
		return false // a goroutine finds out more
	}
	sock.PrepareRelay(fd)
	if s.connected(to, t) {
		x.l.link(s, fd)
	} else {
		sock.Close(fd)
		s.undialed()
	}
	return true
}

// begin is called by the goroutine that has dialed.
func (x *udpSocket) begin(s *session, up net.Conn) {
	c, ok := up.(*net.UDPConn)
	if !ok {
		x.l.startFerry(s, up)
		return
	}
	fd, ok := takeDescriptor(c)
	if !ok {
		x.l.startFerry(s, up)
		return
	}
	sock.PrepareRelay(fd)
	if !x.l.do(func() { x.l.link(s, fd) }) {
		unix.Close(fd) // the relay is closing
	}
}

// link begins to serve s over the socket fd, with what has waited for it.
func (l *udpLoop) link(s *session, fd int) {
	k := &s.link
	k.socket, k.linked, k.burst = fd, true, 1
	i, ok := l.watch(fd, slot{session: s})
	if !ok || s.over.Load() {
		if ok {
			l.forget(i)
		}
		unix.Close(fd)
		k.linked = false
		if !ok {
			s.finish(fairlead.Failed)
		}
		return
	}
	k.slot = i
	for _, d := range s.waited() {
		l.toTarget(s, []piece{{s: s, head: s.header, body: d}}, []int32{0})
	}
}

// unlink closes the socket of s.
func (l *udpLoop) unlink(s *session) {
	if !s.link.linked {
		return
	}
	l.forget(s.link.slot)
	unix.Close(s.link.socket)
	s.link.linked = false
}

func (x *udpSocket) release(s *session, keep bool) {
	ok := x.l.do(func() {
		x.l.unlink(s)
		if s.link.ferry != nil {
			s.link.ferry.close()
		}
		if !keep {
			s.giveBack()
		}
	})
	if !ok && !keep {
		s.giveBack()
	}
}
