package relay

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// takeIn is called by accept with each connection. It takes the descriptors for
// it, and serves it. Where they are not free, or not its source's share, it
// waits for them apart, so that those behind it are not held up; where too many
// wait already, it is refused if its source is greedy, and waits here
// otherwise. It is false when the entry was closed meanwhile.
func (e *entry) takeIn(c net.Conn) bool {
	r, b := e.r, e.rule.Load()
	o := originOf(c)
	o.source, o.held = sourceKey(o.client.Addr()), perConn
	for pause := shortestNap; !r.crowd.enter(o.source); pause = min(2*pause, longestNap) {
		r.trouble(fairlead.CodeNoDescriptors, r.crowd.trouble(o.source))
		if t := r.crowd.wait(o.source); t != nil {
			r.serving.Add(1)
			r.wg.Go(func() { e.waitForDescriptors(b, c, &o, t) })
			return true
		}
		if r.crowd.greedy(o.source) {
			o.held = 0
			r.turnAway(b.rule, c, &o, fairlead.Crowded, nil)
			return true
		}
		select {
		case <-e.gone.Done():
			sock.Abort(c)
			return false
		case <-time.After(pause):
		}
	}
	spare, ok := e.spare(c)
	if !ok {
		r.crowd.leave(o.source, perConn)
		return false
	}
	r.serving.Add(1)
	r.wg.Go(func() { e.serve(b, c, o, spare) })
	return true
}

// How long accepting rests when there are no descriptors: each time twice the
// last.
const (
	shortestNap = 5 * time.Millisecond
	longestNap  = 160 * time.Millisecond
)

// waitForDescriptors serves c when it is its turn to have descriptors.
func (e *entry) waitForDescriptors(b *binding, c net.Conn, o *origin, t *ticket) {
	r := e.r
	if why := e.waitForShare(t); why != "" {
		r.serving.Add(-1)
		o.held = 0
		r.turnAway(b.rule, c, o, why, nil)
		return
	}
	spare, ok := e.spare(c)
	if !ok {
		r.serving.Add(-1)
		r.crowd.leave(o.source, perConn)
		return
	}
	e.serve(e.rule.Load(), c, *o, spare)
}

// waitForShare waits until it is t's turn to have descriptors, or returns why
// it will not be.
func (e *entry) waitForShare(t *ticket) fairlead.Reason {
	timer := time.NewTimer(crowdTime)
	defer timer.Stop()
	select {
	case <-t.ready:
	case <-timer.C:
		e.r.crowd.dismiss(t, fairlead.Crowded)
	case <-e.gone.Done():
		e.r.crowd.dismiss(t, fairlead.Shutdown)
	}
	<-t.ready
	return t.why
}

// trouble is why source has no descriptor.
func (c *crowd) trouble(source netip.Addr) string {
	s := c.shard(source)
	s.mu.Lock()
	held := s.held[source]
	s.mu.Unlock()
	text := fmt.Sprintf("all file descriptors are in use (%d for connections): new ones wait until some end", c.budget.size)
	if c.greedy(source) {
		who := "clients of unix sockets hold"
		if source.IsValid() {
			who = source.String() + " holds"
		}
		text = fmt.Sprintf("%s %d of %d file descriptors: the rest is kept for others, and more of its connections wait or are refused",
			who, held, c.budget.size)
	}
	return text
}

// A waiting is a client that waits for its turn with a forward. It holds its
// descriptor and nothing else.
type waiting struct {
	r      *Relay
	id     uint64
	rule   *rule
	o      *origin
	c      net.Conn
	raw    syscall.RawConn // nil where c has none
	ticket *ticket
	began  time.Time
}

// waitForTurn waits until t's turn has come, and returns the binding under
// which the client goes on: the forward's sentence may have changed meanwhile.
// With a reason the client is to be turned away; otherwise it is counted in.
func (e *entry) waitForTurn(b *binding, c net.Conn, o *origin, t *ticket) (*binding, []*target, fairlead.Reason) {
	r, ru := e.r, b.rule
	r.crowd.leave(o.source, o.held-1)
	o.held = 1
	w := &waiting{r: r, id: r.table.next(), rule: ru, o: o, c: c, raw: rawConn(c), ticket: t, began: time.Now()}
	r.table.add(w)
	timer := time.NewTimer(ru.f.Policy.Queue)
	select {
	case <-t.ready:
	case <-timer.C:
		ru.dismiss(t, fairlead.QueueTime)
		<-t.ready
	}
	timer.Stop()
	r.table.remove(w)
	if t.why != "" {
		return b, nil, t.why
	}
	client := o.client.Addr()
	if now := e.rule.Load(); now.rule.account == ru.account {
		b = now
	}
	targets, why := b.rule.meant(client)
	if why != "" {
		b.rule.leave(client)
		return b, nil, why
	}
	if !r.crowd.await(r.ctx, o.source, perConn-o.held) {
		b.rule.leave(client)
		return b, nil, fairlead.Shutdown
	}
	o.held = perConn
	return b, targets, ""
}

func (w *waiting) number() uint64 { return w.id }
func (w *waiting) kill()          { w.rule.dismiss(w.ticket, fairlead.Killed) }
func (w *waiting) shut()          { w.rule.dismiss(w.ticket, fairlead.Shutdown) }

// look is the janitor's visit: who has left makes room for those behind it.
func (w *waiting) look(time.Time) {
	if w.raw != nil && sock.Gone(w.raw) {
		w.rule.dismiss(w.ticket, fairlead.ClientLeft)
	}
}

func (w *waiting) matches(m fairlead.Match) bool {
	return matches(m, w.id, w.rule.f.Name, w.o.client.Addr())
}

func (w *waiting) describe() fairlead.Conn {
	return fairlead.Conn{
		ID: idText(w.id), Forward: w.rule.f.Name, Network: w.c.LocalAddr().Network(),
		Client: endText(w.o.client, w.c.RemoteAddr()), Local: endText(w.o.local, w.c.LocalAddr()), Began: w.began,
	}
}
