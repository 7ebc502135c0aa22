package relay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A listening is a listening socket that all loops accept from. It is no
// net.Listener: the runtime's poller would be woken for each connection, too.
type listening struct {
	e *entry

	mu sync.RWMutex // guards fd
	fd int          // -1 when closed
}

// listen takes over the listening socket of e, and has the loops accept from
// it. Where there are none, it leaves e as it is.
func (g *engine) listen(e *entry) bool {
	t, ok := e.ln.(*net.TCPListener)
	if !ok || !g.ready() {
		return false
	}
	fd, ok := duplicate(t)
	if !ok {
		return false
	}
	sock.SetNoDelay(fd) // connections inherit it
	e.ln.Close()
	e.ln, e.ear = nil, &listening{e: e, fd: fd}
	for _, l := range g.loops {
		l.request(request{op: hear, ln: e.ear})
	}
	return true
}

// accept takes the next connection. An error other than EAGAIN is the one
// connection's, or says that the socket is closed.
func (ln *listening) accept() (fd int, from netip.AddrPort, err error) {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	if ln.fd < 0 {
		return 0, from, net.ErrClosed
	}
	return sock.Accept(ln.fd)
}

// control runs f with the socket's descriptor.
func (ln *listening) control(f func(fd int) error) error {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	if ln.fd < 0 {
		return net.ErrClosed
	}
	return f(ln.fd)
}

// close closes the socket at once: another may want its address.
func (ln *listening) close() {
	ln.mu.Lock()
	for _, l := range ln.e.r.engine.loops {
		l.ignore(ln.fd) // closing would not do it: a service manager may have the socket, too
	}
	sock.Close(ln.fd)
	ln.fd = -1
	ln.mu.Unlock()
	for _, l := range ln.e.r.engine.loops {
		l.request(request{op: unhear, ln: ln})
	}
}

// arrivals is what a loop needs to let clients in and to dial for them.
type arrivals struct {
	hearing map[int32]*listening // by the number in their events
	last    int32                // of these numbers, given last
	resting bool                 // it accepts nobody for a moment
	rested  int64                // since when
	nap     time.Duration        // and for how long
	held    *arrival             // came when there was no place left to wait for descriptors

	// The socket for the next target is made before its client is accepted:
	// clients that were let in could use up all descriptors otherwise, and none
	// would reach a target.
	spare   int // -1: none
	spareV6 bool

	notes []*dialing // to be used again
}

func newArrivals() arrivals {
	return arrivals{hearing: map[int32]*listening{}, last: firstListen + 1, spare: -1}
}

// close ends what no pair has taken over.
func (a *arrivals) close() {
	if a.held != nil {
		a.held.reset()
	}
	if a.spare >= 0 {
		sock.Close(a.spare)
	}
}

// An arrival is a client that was accepted.
type arrival struct {
	e    *entry
	fd   int
	from netip.AddrPort
}

// A dialing is what a pair is before it is connected.
type dialing struct {
	arrival
	b       *binding
	targets []*target // those meant for the client
}

// sweepTime is how often those who dial are looked through.
const sweepTime = 100 * time.Millisecond

func (l *eventLoop) hear(ln *listening) {
	for {
		if l.last--; l.last > firstListen || l.last < -1<<30 {
			l.last = firstListen
		}
		if l.hearing[l.last] == nil {
			break
		}
	}
	l.hearing[l.last] = ln
	l.prepared()
	if !l.resting {
		l.attend(l.last, ln)
	}
}

// attend has the loop told of clients. Whichever loop is free takes them.
func (l *eventLoop) attend(n int32, ln *listening) {
	ln.mu.RLock()
	defer ln.mu.RUnlock()
	if ln.fd >= 0 {
		err := sock.EpollAdd(l.epfd, ln.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLEXCLUSIVE, Fd: n})
		if err != nil {
			l.r.trouble(fairlead.CodeListenFailed, fmt.Sprintf("nobody may be heard at %s: %v", ln.e.key, err))
		}
	}
}

func (l *eventLoop) unhear(ln *listening) {
	for n, other := range l.hearing {
		if other == ln {
			delete(l.hearing, n)
		}
	}
}

// rest stops accepting until descriptors are free again. New connections wait
// in the kernel's queue meanwhile.
func (l *eventLoop) rest() {
	if l.resting {
		return
	}
	l.resting, l.rested = true, l.r.clock()
	l.nap = min(max(2*l.nap, shortestNap), longestNap)
	for _, ln := range l.hearing {
		ln.mu.RLock()
		l.ignore(ln.fd)
		ln.mu.RUnlock()
	}
}

// ignore has the loop told of fd no more.
func (l *eventLoop) ignore(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// resume accepts again after a rest, when there is something to accept with.
func (l *eventLoop) resume() {
	if !l.resting || l.r.clock()-l.rested < int64(l.nap) {
		return
	}
	l.rested = l.r.clock()
	if !l.prepared() {
		return
	}
	if a := l.held; a != nil {
		switch {
		case a.e.gone.Err() != nil:
			a.reset()
		case l.r.crowd.enter(a.source()):
			l.r.serving.Add(1)
			l.welcome(*a)
		case !l.crowded(*a):
			l.nap = min(2*l.nap, longestNap)
			return
		}
		l.held = nil
	}
	l.resting = false
	for n, ln := range l.hearing {
		l.attend(n, ln)
	}
}

// prepared makes sure that there is a socket for the next target.
func (l *eventLoop) prepared() bool {
	if l.r.short.Load() > 0 {
		return false // others wait for a descriptor with a client in hand
	}
	if l.spare >= 0 {
		return true
	}
	fd, err := sock.Stream(l.spareV6)
	if err != nil {
		if sock.NoDescriptors(err) {
			l.r.trouble(fairlead.CodeNoDescriptors, outOfDescriptors)
			return false
		}
		return true // no such family, perhaps: goroutines find out
	}
	l.spare = fd
	return true
}

// receive accepts one client of those who wait at ln: if there are more, the
// next round tells of them, or another loop.
func (l *eventLoop) receive(ln *listening) {
	if l.resting {
		return // since an event that came with this one
	}
	if !l.prepared() {
		l.rest()
		return
	}
	fd, from, err := ln.accept()
	switch {
	case err == nil:
	case sock.NoDescriptors(err):
		l.r.trouble(fairlead.CodeNoDescriptors, outOfDescriptors)
		l.rest()
		return
	default: // EAGAIN; ECONNABORTED, a firewall's EPERM: the one connection's; closed
		return
	}
	l.nap = 0
	a := arrival{ln.e, fd, from}
	if !l.r.crowd.enter(a.source()) {
		if !l.crowded(a) {
			l.held = new(arrival)
			*l.held = a
			l.rest()
		}
		return
	}
	l.r.serving.Add(1)
	if other := l.g.idlest(); l.load.Load() <= other.load.Load()*9/8+3 || !other.request(request{op: take, a: a}) {
		l.welcome(a)
	}
}

// crowded has a client wait for descriptors apart, so that those behind it are
// not held up. Where too many wait already, it refuses one whose source is
// greedy, and returns false for another.
func (l *eventLoop) crowded(a arrival) bool {
	r := l.r
	r.trouble(fairlead.CodeNoDescriptors, r.crowd.trouble(a.source()))
	t := r.crowd.wait(a.source())
	if t == nil {
		if !r.crowd.greedy(a.source()) {
			return false
		}
		a.refuse(fairlead.Crowded)
		return true
	}
	r.serving.Add(1)
	r.wg.Go(func() {
		why := a.e.waitForShare(t)
		if why == "" && l.request(request{op: take, a: a}) {
			return
		}
		r.serving.Add(-1)
		if why != "" {
			a.refuse(why)
		} else {
			a.reset()
			r.crowd.leave(a.source(), perConn)
		}
	})
	return true
}

// welcome lets a client in and dials for it, or has a goroutine do that which
// takes more than to connect to a known address. Two descriptors of the budget
// are the client's, and it is counted among those being served.
func (l *eventLoop) welcome(a arrival) {
	b := a.e.rule.Load()
	ru := b.rule
	if !ru.straight || ru.believed(a.from.Addr()) {
		l.r.wg.Go(func() { a.serve(b) })
		return
	}
	client := a.from.Addr()
	targets, turn, why := admit(ru, client)
	if turn != nil { // the sentence has changed this moment, and goroutines wait
		if !ru.dismiss(turn, fairlead.Limited) && turn.why == "" {
			ru.leave(client)
		}
		l.r.wg.Go(func() { a.serve(a.e.rule.Load()) })
		return
	}
	if why != "" {
		l.r.serving.Add(-1)
		a.turnAway(ru, why)
		return
	}
	t := ru.first(targets, client, nil)
	to, ok := l.r.straightTo("tcp", b, t)
	if !ok || !l.dial(dialing{a, b, targets}, t, to) {
		l.r.wg.Go(func() { a.lead(b, t, targets, 0) })
	}
}

// straightTo is the address to connect to for t, if that is all there is to a
// dial: nobody need be asked, nothing is known to be wrong, it is not far away,
// and it is not ourselves.
func (r *Relay) straightTo(network string, b *binding, t *target) (to netip.AddrPort, ok bool) {
	if t.t.Unix != "" || t.group != nil || t.down.Load() || t.far.Load() {
		return to, false
	}
	host := t.t.Host
	if host == "self" {
		host = "localhost"
	}
	a, ok := b.rule.place.(straightPlace).Straight(host)
	to = netip.AddrPortFrom(a, t.port(b.rule.f.At.Ports, b.port))
	return to, ok && r.entryAt(network, to) == nil // else it may be a circle
}

// dial begins to connect. It returns false when it could not, and the client
// is then still the caller's.
func (l *eventLoop) dial(d dialing, t *target, to netip.AddrPort) bool {
	ru := d.b.rule
	if v6 := to.Addr().Is6(); v6 != l.spareV6 {
		if l.spare >= 0 {
			sock.Close(l.spare)
		}
		l.spare, l.spareV6 = -1, v6
	}
	if !l.prepared() || l.spare < 0 {
		return false
	}
	fd := l.spare
	l.spare = -1
	defer l.prepared() // each loop always holds one, so that nobody has to guess
	sock.SetNoDelay(fd)
	if ru.keepalive > 0 {
		sock.SetKeepalive(fd, ru.f.Policy.Keepalive)
	}
	if s := l.r.start(ru, d.from); !s.plain() {
		if s.prepare(fd, "tcp", to, 0) != nil {
			sock.Close(fd)
			return false
		}
		if name := l.r.congestionFor(d.from.Addr(), ru); name != "" {
			sock.SetCongestion(d.fd, name)
		}
	}
	if err := sock.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		sock.Close(fd)
		return false
	}
	if ru.keepalive != d.e.inherited {
		sock.SetKeepalive(d.fd, ru.f.Policy.Keepalive)
	}
	if l.target == nil || *l.target != to {
		l.target = new(netip.AddrPort) // most pairs have the same
		*l.target = to
	}
	p := &pair{
		l: l, id: l.r.table.next(), rule: ru, to: t, dial: l.note(d), fd: [2]int32{int32(d.fd), int32(fd)},
		began: l.r.clock(), client: d.from, local: d.local(), target: l.target,
	}
	l.load.Add(1)
	t.active.Add(1) // before the others choose
	l.seat(p)
	if l.watch(p, 1) != nil {
		l.letGo(p)
		return false
	}
	l.dialing = append(l.dialing, p)
	return true
}

// note keeps d while it is needed. Memory of those who are connected is used
// again: garbage, too, is memory that an idle connection costs.
func (l *eventLoop) note(d dialing) *dialing {
	if len(l.notes) == 0 {
		l.notes = append(l.notes, new(dialing))
	}
	last := len(l.notes) - 1
	kept := l.notes[last]
	l.notes = l.notes[:last]
	*kept = d
	return kept
}

// connected goes on with a pair whose socket towards the target has news. It
// returns false when that is not connected.
func (l *eventLoop) connected(p *pair) bool {
	if sock.PendingError(uintptr(p.fd[1])) != nil {
		l.passOn(p)
		return false
	}
	r, ru := l.r, p.rule
	if v := ru.f.Policy.ProxyProtocol; v != 0 {
		o := origin{client: p.client, local: *p.local}
		b, err := o.header(v, "tcp")
		if n, werr := sock.Write(int(p.fd[1]), b); err != nil || werr != nil || n < len(b) {
			l.passOn(p) // a fresh socket has room for it
			return false
		}
	}
	*p.dial = dialing{} // keeps no rule alive
	l.notes = append(l.notes, p.dial)
	p.dial = nil
	r.serving.Add(-1)
	r.saw(p.to, nil)
	if !ru.passed.Load() {
		ru.passed.Store(true)
	}
	p.open()
	// The client has mostly said something already.
	p.dir[0].readable = true
	l.pump(p, 0)
	if !p.over && l.watch(p, 0) != nil {
		l.finish(p, fairlead.Failed, true)
	}
	return !p.over
}

// sweep passes on who has waited long enough for a target.
func (l *eventLoop) sweep() {
	if len(l.dialing) == 0 {
		return
	}
	now := l.r.clock()
	if now-l.swept < int64(sweepTime) {
		return
	}
	l.swept = now
	l.dialing = slices.DeleteFunc(l.dialing, func(p *pair) bool {
		if p.dial != nil && time.Duration(now-p.began) >= p.rule.straightTime() {
			l.passOn(p)
		}
		return p.dial == nil
	})
}

// passOn gives a client whose target did not answer to a goroutine, which
// dials again, and knows other addresses, other targets, and the words for
// what is wrong.
func (l *eventLoop) passOn(p *pair) {
	d := p.dial
	l.letGo(p)
	// The same target first: its turn was taken, and what is wrong with it has
	// to be found out by somebody.
	l.r.wg.Go(func() { d.lead(d.b, p.to, d.targets, time.Duration(l.r.clock()-p.began)) })
}

// giveUp ends a pair that is not connected yet.
func (l *eventLoop) giveUp(p *pair, why fairlead.Reason) {
	d := p.dial
	l.letGo(p)
	p.rule.leave(p.client.Addr())
	l.r.serving.Add(-1)
	d.turnAway(p.rule, why)
}

// letGo takes a pair that is not connected out of the loop.
func (l *eventLoop) letGo(p *pair) {
	sock.Close(int(p.fd[1]))
	l.unseat(p)
	l.load.Add(-1)
	p.to.active.Add(-1)
	p.dial = nil
}

// serve is entry.serve for an arrival. It runs in a goroutine.
func (a arrival) serve(b *binding) {
	local := a.local()
	c, err := a.conn(b.rule)
	if err != nil {
		a.e.r.serving.Add(-1)
		a.turnedAway(b.rule, local, reason(err))
		return
	}
	a.e.serve(b, c, a.origin(local), nil)
}

// lead is entry.lead for an arrival. It runs in a goroutine.
func (a arrival) lead(b *binding, first *target, targets []*target, spent time.Duration) {
	defer a.e.r.serving.Add(-1)
	local := a.local()
	c, err := a.conn(b.rule)
	if err != nil {
		b.rule.leave(a.from.Addr())
		a.turnedAway(b.rule, local, reason(err))
		return
	}
	a.e.r.tuneClient(c, b.rule)
	a.e.lead(b, c, a.origin(local), b.rule.orderBehind(first, targets, a.from.Addr()), spent)
}

// conn is the client as goroutines want it, which takes a descriptor for a
// moment: the arrival's own is closed in any case.
func (a arrival) conn(ru *rule) (net.Conn, error) {
	f := os.NewFile(uintptr(a.fd), "client")
	defer f.Close()
	c, err := net.FileConn(f)
	if err == nil {
		return c, nil
	}
	if !sock.NoDescriptors(err) {
		sock.ResetOnClose(a.fd)
		return nil, err
	}
	r := a.e.r
	r.short.Add(1)
	defer r.short.Add(-1)
	ctx, cancel := ru.dialContext(r.ctx, 0)
	defer cancel()
	for wait := 10 * time.Millisecond; sock.NoDescriptors(err); wait = min(2*wait, time.Second) {
		select {
		case <-ctx.Done():
			sock.ResetOnClose(a.fd)
			return nil, err
		case <-time.After(wait):
		}
		c, err = net.FileConn(f)
	}
	return c, err
}

// source is for whom its descriptors are counted.
func (a arrival) source() netip.Addr { return sourceKey(a.from.Addr()) }

func (a arrival) origin(local *netip.AddrPort) origin {
	return origin{client: a.from, local: *local, source: a.source(), held: perConn}
}

// local is the address that the client asked.
func (a arrival) local() *netip.AddrPort {
	if !a.e.key.at.Addr().IsUnspecified() {
		return &a.e.key.at
	}
	own := sock.LocalAddr(a.fd)
	return &own
}

// reset ends a client that nothing is known of yet.
func (a arrival) reset() {
	sock.ResetOnClose(a.fd)
	sock.Close(a.fd)
}

// turnAway is Relay.turnAway for an arrival.
func (a arrival) turnAway(ru *rule, why fairlead.Reason) {
	local := a.local()
	a.reset()
	a.turnedAway(ru, local, why)
}

// turnedAway counts and tells it of a client that is gone.
func (a arrival) turnedAway(ru *rule, local *netip.AddrPort, why fairlead.Reason) {
	a.e.r.crowd.leave(a.source(), perConn)
	a.tell(ru, local, why)
}

// refuse turns away a client that got no descriptors.
func (a arrival) refuse(why fairlead.Reason) {
	local := a.local()
	a.reset()
	a.tell(a.e.rule.Load().rule, local, why)
}

func (a arrival) tell(ru *rule, local *netip.AddrPort, why fairlead.Reason) {
	a.e.r.turnedAway(ru, &fairlead.Conn{Network: "tcp", Client: a.from.String(), Local: local.String()}, why, nil)
}
