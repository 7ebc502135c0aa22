package relay

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/sys/sock"
)

// fromClients takes what clients have sent to x, and sends to each target in
// one go what is meant for it.
func (l *udpLoop) fromClients(x *udpSocket) {
	n, err := l.in.Receive(x.fd, 0, x.burst)
	if err != nil {
		if err != unix.EAGAIN && err != unix.EINTR {
			time.Sleep(time.Millisecond) // no memory: it passes
		}
		return
	}
	x.burst = fitting(l.in, 0, n, batch)
	l.sort(x, n)
	for _, c := range l.fresh {
		p := &l.pieces[c.piece]
		if p.s = x.u.session(&c.from); p.s != nil {
			p.s.speaksFor(c.from.told)
			p.head = p.s.header
		}
	}
	for i := range l.pieces {
		s := l.pieces[i].s
		if s == nil {
			continue
		}
		if len(s.link.ask) == 0 {
			l.asking = append(l.asking, s)
		}
		s.link.ask = append(s.link.ask, int32(i))
	}
	for _, s := range l.asking {
		l.toTarget(s, l.pieces, s.link.ask)
		s.link.ask = s.link.ask[:0]
	}
	clear(l.asking) // keeps nothing alive
	clear(l.pieces)
	clear(l.fresh)
	l.asking, l.pieces, l.fresh = l.asking[:0], l.pieces[:0], l.fresh[:0]
}

// cached is how many bytes are taken at once at most, about: what is sent on
// shall still be in the cache of the core that has received it.
const cached = 256 << 10

// fitting is how many datagrams to take next, up to most, by the size of the n
// that were received last.
func fitting(d *sock.Datagrams, first, n, most int) int {
	size := 0
	for i := first; i < first+n; i++ {
		size += len(d.Bytes(i))
	}
	if size <= cached/2 {
		return most
	}
	return max(min(most, n*cached/size), 2)
}

// sort finds whose the n datagrams are that x has received.
func (l *udpLoop) sort(x *udpSocket, n int) {
	u := x.u
	ru := u.e.rule.Load().rule
	heralds := len(ru.f.Policy.AcceptProxy) > 0
	// Datagrams of a train that are counted, or each have a header, go one by one.
	apart := heralds || ru.f.Policy.Requests != 0 || ru.f.Policy.Replies != 0
	var before *sock.Address // the datagram before this one
	var local netip.Addr     // what it asked
	var s *session           // and whose it was; nil: has to be looked up
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range n {
		says := l.in.Arrival(i)
		if says.Counted {
			ru.meter.Dropped.Add(int64(says.Missed - x.missed))
			x.missed = says.Missed
		}
		from := l.in.Sender(i)
		p := piece{s: s, body: l.in.Bytes(i), segment: says.Segment}
		if s != nil && from.Same(before) && says.Local == local {
			p.head = s.header
			l.pieces = append(l.pieces, p)
			continue
		}
		a, ok := l.arrived(u, from, &says)
		switch {
		case !ok:
			continue
		case apart:
			p.each(func(d []byte) {
				if d, ok := u.introduced(&x.herald, ru, &a, d); ok {
					l.find(u, &a, piece{body: d})
				}
			})
			s = nil
			continue
		}
		if s = l.find(u, &a, p); s != nil && s.counts {
			s.requests.Add(int64(p.count()) - 1)
			s = nil // has begun under another rule; each is counted
		}
		before, local = from, says.Local
	}
}

// find notes p as one of whoever a says, and returns the session if there is
// one already. The caller holds u.mu.
func (l *udpLoop) find(u *udpEntry, a *arrived, p piece) *session {
	k := a.key()
	s := u.take(&k)
	if p.s = s; s == nil {
		l.fresh = append(l.fresh, newcomer{int32(len(l.pieces)), *a})
	} else {
		if since := int64(l.now.Sub(s.began)); s.last.Swap(since) != since {
			u.touch(s)
		}
		s.speaksFor(a.told)
		p.head = s.header
	}
	l.pieces = append(l.pieces, p)
	return s
}

// speaksFor notes that the sender said something else of the client than
// before.
func (s *session) speaksFor(told *origin) {
	if told != s.told {
		s.introduce(told)
	}
}

// arrived is where a datagram comes from; ok is false where nobody could be
// answered.
func (l *udpLoop) arrived(u *udpEntry, from *sock.Address, says *sock.Arrival) (a arrived, ok bool) {
	a.sender, a.ifindex = from.AddrPort()
	if says.Ifindex != 0 {
		a.ifindex = says.Ifindex
	}
	if a.local = says.Local; !a.local.IsValid() {
		a.local = u.e.key.at.Addr()
	}
	return a, a.sender.Port() != 0
}

// toTarget sends to s's target those of pieces that which counts up.
func (l *udpLoop) toTarget(s *session, pieces []piece, which []int32) {
	k := &s.link
	if !k.linked {
		l.toUnlinked(s, pieces, which)
		return
	}
	limited := s.throttle.limits(up)
	split := limited || k.noTrains[toTarget]
	var head []byte
	put := func(d []byte) {
		if limited && !s.throttle.try(up, len(d)) {
			s.sent(0, 1)
			return
		}
		l.put(k.socket, toTarget, piece{s: s, head: head, body: d})
	}
	for _, i := range which {
		if p := &pieces[i]; split || p.segment > 0 && len(p.head) > 0 {
			head = p.head
			p.each(put)
		} else {
			l.put(k.socket, toTarget, *p)
		}
	}
	l.flush(k.socket, toTarget)
	if s.counts {
		n := 0
		for _, i := range which {
			n += pieces[i].count()
		}
		s.settle(n)
	}
}

// toUnlinked keeps what came during the dial, or leaves it to a ferry.
func (l *udpLoop) toUnlinked(s *session, pieces []piece, which []int32) {
	if f := s.link.ferry; f != nil {
		for _, i := range which {
			pieces[i].each(func(d []byte) { f.take(pieces[i].head, d) }) // may end s, which locks it
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range which {
		pieces[i].each(s.wait)
	}
}

// fromTarget takes the answers that have come for s. They leave with those of
// others at the end of the round.
func (l *udpLoop) fromTarget(s *session) {
	k := &s.link
	up := k.burst
	if l.held+up > batch {
		l.reply()
	}
	n, err := l.back.Receive(k.socket, l.held, up)
	switch err {
	case nil:
	case unix.ECONNREFUSED:
		s.noteRefused()
		return
	default:
		return // EHOSTUNREACH and its like come from routers and pass
	}
	// Where one waits, more may: but looking for them costs, too.
	if k.burst = max(n, 1); n == up {
		k.burst = min(2*n, fitting(l.back, l.held, n, batch/2))
	}
	s.last.Store(int64(l.now.Sub(s.began)))
	if s.refused.Load() || l.now.Sub(k.looked) > tick {
		k.looked = l.now
		s.heard()
	}
	x := s.u.server.(*udpSocket)
	if len(x.answers) == 0 {
		l.replying = append(l.replying, x)
	}
	for i := l.held; i < l.held+n; i++ {
		says := l.back.Arrival(i)
		if says.Counted {
			s.answered(0, int(says.Missed-k.missed))
			k.missed = says.Missed
		}
		x.answers = append(x.answers, piece{s: s, body: l.back.Bytes(i), segment: says.Segment})
	}
	l.held += n
}

// reply sends all answers that were taken: those of one listening socket in
// one go, whosever they are.
func (l *udpLoop) reply() {
	for _, x := range l.replying {
		if x.fd >= 0 {
			l.toClients(x)
		}
		clear(x.answers)
		x.answers = x.answers[:0]
	}
	clear(l.replying)
	l.replying = l.replying[:0]
	l.held = 0
}

func (l *udpLoop) toClients(x *udpSocket) {
	var before *session
	x.u.mu.Lock()
	for i := range x.answers {
		if s := x.answers[i].s; s != before {
			x.u.touch(s)
			before = s
		}
	}
	x.u.mu.Unlock()
	for i := range x.answers {
		p := &x.answers[i]
		limited := p.s.throttle.limits(down)
		switch {
		case p.s.over.Load():
		case !limited && !p.s.link.noTrains[toClient]:
			l.put(x.fd, toClient, *p)
		default:
			p.each(func(d []byte) {
				if limited && !p.s.throttle.try(down, len(d)) {
					p.s.answered(0, 1)
					return
				}
				l.put(x.fd, toClient, piece{s: p.s, body: d})
			})
		}
	}
	l.flush(x.fd, toClient)
	for i := range x.answers {
		if p := &x.answers[i]; p.s.counts {
			p.s.replies.Add(int64(p.count()))
			p.s.complete()
		}
	}
}

// A way is a direction.
type way uint8

const (
	toTarget way = iota
	toClient
)

// A load is a batch on its way out: what the kernel is handed, and whose it
// is.
type load struct {
	d      *sock.Departures
	pieces []piece
	ends   []int32 // for each message the number of its last piece, plus one
}

func newLoad() load {
	return load{sock.NewDepartures(batch), make([]piece, 0, batch), make([]int32, 0, batch)}
}

// add adds p, with train to the message before it where both are one session's
// and of one size: the stack is then passed once for all of them.
func (o *load) add(w way, p piece, train bool) {
	n := len(o.pieces)
	o.pieces = append(o.pieces, p)
	train = train && n > 0 && p.segment == 0 && o.pieces[n-1].s == p.s
	switch {
	case train && w == toTarget && o.d.Join(p.head, p.body), train && w == toClient && o.d.Join(nil, p.body):
		o.ends[len(o.ends)-1]++
		return
	case w == toTarget:
		o.d.Add(p.head, p.body, nil, nil, p.segment)
	default:
		o.d.Add(nil, p.body, &p.s.link.to, p.s.source, p.segment)
	}
	o.ends = append(o.ends, int32(n)+1)
}

func (o *load) reset() {
	clear(o.pieces) // keeps nothing alive
	o.pieces, o.ends = o.pieces[:0], o.ends[:0]
	o.d.Reset()
}

// put has p leave through fd, soon.
func (l *udpLoop) put(fd int, w way, p piece) {
	if len(l.out.pieces) == batch {
		l.flush(fd, w)
	}
	l.out.add(w, p, !p.s.link.noTrains[w])
}

// flush sends what was put.
func (l *udpLoop) flush(fd int, w way) {
	l.send(fd, w, &l.out)
	l.out.reset()
}

// send sends a load and counts what became of it. A datagram that is refused
// is lost alone; a train that is refused as such goes in pieces.
func (l *udpLoop) send(fd int, w way, o *load) {
	var c tally
	again := -1 // was sent again, after an error of an earlier one
	for at := 0; at < len(o.ends); {
		n, err := o.d.Send(fd, at)
		for range n {
			c.count(w, o.message(at), true)
			at++
		}
		if err == nil || err == unix.EINTR {
			continue
		}
		m := o.message(at)
		s := m[0].s
		switch {
		case err == unix.ECONNREFUSED && again != at:
			// That was the answer to an earlier datagram. This one has not left.
			s.noteRefused()
			again = at
			continue
		case (len(m) > 1 || m[0].segment > 0) && refusesTrains(err):
			s.link.noTrains[w] = true
			l.sendApart(fd, w, m)
		case err == unix.EAGAIN: // as the network would
			for ; at < len(o.ends); at++ {
				c.count(w, o.message(at), false)
			}
			continue
		default:
			c.count(w, m, false)
		}
		at++
	}
	c.commit(w)
}

// message is what the i-th message is made of.
func (o *load) message(i int) []piece {
	first := int32(0)
	if i > 0 {
		first = o.ends[i-1]
	}
	return o.pieces[first:o.ends[i]]
}

// refusesTrains says that a train may be what is wrong: the way out cannot
// compute checksums (EIO), a datagram of it needs fragments (EINVAL,
// EMSGSIZE), or the system does not know of trains.
func refusesTrains(err error) bool {
	return err == unix.EIO || err == unix.EINVAL || err == unix.EMSGSIZE || err == unix.EOPNOTSUPP || err == unix.ENOPROTOOPT
}

// sendApart sends the datagrams of a train one by one.
func (l *udpLoop) sendApart(fd int, w way, train []piece) {
	for i := range train {
		p := &train[i]
		p.each(func(d []byte) {
			if len(l.apart.pieces) == batch {
				l.send(fd, w, &l.apart)
				l.apart.reset()
			}
			l.apart.add(w, piece{s: p.s, head: p.head, body: d}, false)
		})
	}
	l.send(fd, w, &l.apart)
	l.apart.reset()
}

// A tally counts for one session after the other, so that counters that others
// read are touched once for many datagrams.
type tally struct {
	s              *session
	bytes, dropped int
}

// count counts a message, which is one session's.
func (c *tally) count(w way, m []piece, left bool) {
	if s := m[0].s; s != c.s {
		c.commit(w)
		c.s = s
	}
	for i := range m {
		if left {
			c.bytes += len(m[i].body)
		} else {
			c.dropped += m[i].count()
		}
	}
}

func (c *tally) commit(w way) {
	switch {
	case c.s == nil:
	case w == toTarget:
		c.s.sent(c.bytes, c.dropped)
	default:
		c.s.answered(c.bytes, c.dropped)
	}
	*c = tally{}
}
