package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// accept takes connections until the socket is closed. It never gives up the
// listener: without descriptors it waits until some are free, and new
// connections wait in the kernel's queue.
func (e *entry) accept() {
	pause := 5 * time.Millisecond
	for {
		c, err := e.ln.Accept()
		if err == nil {
			pause = 5 * time.Millisecond
			if !e.takeIn(c) {
				return
			}
			continue
		}
		if e.gone.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if sock.NoDescriptors(err) {
			e.r.trouble(fairlead.CodeNoDescriptors, outOfDescriptors)
		}
		// Anything else (ECONNABORTED, a firewall's EPERM) is the one
		// connection's trouble, and passes.
		select {
		case <-e.gone.Done():
			return
		case <-time.After(pause):
			pause = min(2*pause, time.Second)
		}
	}
}

// spare is a descriptor to be closed when the target of c is dialed: without
// it, clients that were let in could use up all that there are and none would
// reach a target. While there is none it waits with c in hand. It returns
// false, and c is closed, when the entry is closed meanwhile.
func (e *entry) spare(c net.Conn) (spare io.Closer, ok bool) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		// Those who have closed their spare and found it taken go first.
		if e.r.short.Load() == 0 {
			if spare, err := sock.Spare(c); err == nil || !sock.NoDescriptors(err) {
				return spare, true
			}
			e.r.trouble(fairlead.CodeNoDescriptors, outOfDescriptors)
		}
		select {
		case <-e.gone.Done():
			sock.Abort(c)
			return nil, false
		case <-time.After(pause):
		}
	}
}

const outOfDescriptors = "out of file descriptors: new connections wait until some are free"

// serve admits one connection and leads it to a target. It owns c, two
// descriptors of the budget until then, and the spare one, if there is any.
func (e *entry) serve(b *binding, c net.Conn, o origin, spare io.Closer) {
	r, ru := e.r, b.rule
	defer r.serving.Add(-1)
	if ru.believed(o.client.Addr()) {
		var err error
		if o, err = readHeader(r.ctx, c, o); err != nil {
			closeSpare(spare)
			r.turnAway(ru, c, &o, fairlead.NoHeader, badHeader(o, err))
			return
		}
		// From now on the descriptors are the client's, and not its sender's.
		source := sourceKey(o.client.Addr())
		if !r.crowd.move(o.source, source, o.held) {
			closeSpare(spare)
			r.turnAway(ru, c, &o, fairlead.Crowded, nil)
			return
		}
		o.source = source
	}
	client := o.client.Addr()
	targets, turn, why := admit(ru, client)
	if turn != nil {
		closeSpare(spare)
		spare = nil
		b, targets, why = e.waitForTurn(b, c, &o, turn)
		ru = b.rule
	}
	if why != "" {
		closeSpare(spare)
		r.turnAway(ru, c, &o, why, nil)
		return
	}
	if ru.keepalive != e.inherited || !sock.Inherits {
		keepalive(c, ru.f.Policy.Keepalive)
	}
	r.tuneClient(c, ru)
	c, targets, why, p := r.greet(ru, c, &o, targets)
	closeSpare(spare)
	if why != "" {
		ru.leave(client)
		r.turnAway(ru, c, &o, why, p)
		return
	}
	e.lead(b, c, o, ru.order(targets, client), 0)
}

func closeSpare(spare io.Closer) {
	if spare != nil {
		spare.Close()
	}
}

// lead dials for a client that was admitted and hands both connections to the
// pumps. The targets are in the order in which they are tried, and spent is how
// much of the time for it is gone.
func (e *entry) lead(b *binding, c net.Conn, o origin, targets []*target, spent time.Duration) {
	r, ru := e.r, b.rule
	t, to, why, err := r.dial(b, &o, targets, spent)
	if err != nil {
		ru.leave(o.client.Addr())
		r.turnAway(ru, c, &o, why, fairlead.AsProblem(err))
		return
	}
	keepalive(t, ru.f.Policy.Keepalive)
	ru.passed.Store(true)
	id := r.table.next()
	if ru.loops && r.engine.carry(id, ru, to, &o, c, t) {
		return
	}
	fc := &conn{r: r, id: id, rule: ru, to: to, from: o.client, at: o.local, name: o.asked.what(), client: c, target: t}
	fc.in.Store(int64(len(o.head)))
	fc.start()
}

// turnAway resets a client that did not come through, and gives back its
// descriptors.
func (r *Relay) turnAway(ru *rule, c net.Conn, o *origin, why fairlead.Reason, p *fairlead.Problem) {
	client := &fairlead.Conn{Network: c.LocalAddr().Network(), Client: addrText(c.RemoteAddr()), Local: addrText(c.LocalAddr())}
	sock.Abort(c)
	r.crowd.leave(o.source, o.held)
	r.turnedAway(ru, client, why, p)
}

// turnedAway counts and tells that a client did not come through.
func (r *Relay) turnedAway(ru *rule, client *fairlead.Conn, why fairlead.Reason, p *fairlead.Problem) {
	client.Forward, client.Began = ru.f.Name, time.Now()
	ru.meter.Refused.Add(1)
	if ru.flood.tells(client.Began, why) {
		r.tellOf(fairlead.Event{Kind: fairlead.EventClose, Forward: ru.f.Name, Reason: why, Problem: p}, client)
	}
}

func keepalive(c net.Conn, d time.Duration) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(sock.KeepaliveConfig(d))
	}
}

// dial connects to the first of targets that answers, within the time that
// the rule allows for all of them. The one that answered counts the connection
// until it ends.
func (r *Relay) dial(b *binding, o *origin, targets []*target, spent time.Duration) (net.Conn, *target, fairlead.Reason, error) {
	ctx, cancel := b.rule.dialContext(r.ctx, spent)
	defer cancel()
	var failed []error
	for i, t := range targets {
		t.active.Add(1) // before the others choose
		began := time.Now()
		c, err := r.dialInTime(ctx, b, o, t, len(targets)-i)
		if err == nil {
			t.far.Store(time.Since(began) >= b.rule.straightTime())
			r.saw(t, nil)
			return c, t, "", nil
		}
		t.active.Add(-1)
		why := reason(err)
		if why == fairlead.NoDescriptors {
			r.trouble(fairlead.CodeNoDescriptors, "out of file descriptors: a target could not be reached")
		} else if r.ctx.Err() == nil {
			r.blame(b.rule, t, fairlead.AsProblem(err))
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, nil, reason(failed[len(failed)-1]), together(failed)
}

// toldFailures is how many targets a client's failure is told of.
const toldFailures = 4

// together is what several targets failed with, the last one's kind of failure.
func together(failed []error) error {
	last := fairlead.AsProblem(failed[len(failed)-1])
	if len(failed) == 1 {
		return last
	}
	var what []string
	for _, err := range failed[:min(len(failed), toldFailures)] {
		what = append(what, fairlead.AsProblem(err).What)
	}
	p := fairlead.Problemf(last.Code, "none of %d targets could be reached: %s", len(failed), strings.Join(what, "; "))
	if more := len(failed) - toldFailures; more > 0 {
		p.What += "; and " + strconv.Itoa(more) + " more"
	}
	p.Fixes, p.Err = last.Fixes, last
	return p
}

// longestShare is what a target may take while there are others to try.
const longestShare = 3 * time.Second

// dialInTime dials t in its share of the time that is left for it and those
// after it: one that is silent must not use up what the others need.
func (r *Relay) dialInTime(ctx context.Context, b *binding, o *origin, t *target, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		share, cancel := context.WithTimeout(ctx, min(time.Until(deadline)/time.Duration(left), longestShare))
		defer cancel()
		ctx = share
	}
	c, err := r.dialTarget(ctx, b, o.client, t)
	if err != nil {
		return nil, err
	}
	return r.greetTarget(ctx, b.rule, t, c, o)
}

func (r *Relay) dialTarget(ctx context.Context, b *binding, client netip.AddrPort, t *target) (net.Conn, error) {
	t, err := r.stand(ctx, t, client.Addr())
	if err != nil {
		return nil, err
	}
	network, address := t.address(b.rule.f.At.Ports, b.port)
	if r.loops(ctx, network, b, t) {
		return nil, loopProblem(b.rule, address)
	}
	short := false
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		c, err := r.connect(ctx, b.rule, client, network, address)
		if err == nil || reason(err) != fairlead.NoDescriptors {
			if err != nil {
				r.doubt(b.rule, t, client, network, address, err)
			}
			return c, err
		}
		if !short {
			short = true
			r.short.Add(1)
			defer r.short.Add(-1)
		}
		// Others will end; until then the client waits as if in the queue.
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// A straightPlace is this host: to dial from there is to connect. See
// place.Here.
type straightPlace interface {
	Straight(host string) (netip.Addr, bool)
}

// straightTime is how long a target that is connected to in the shortest way
// may take for it, before it is dialed with all that is known to help: other
// addresses, other targets. A lost packet would be sent again after a second.
func (ru *rule) straightTime() time.Duration {
	if ru.connect == 0 {
		return longestStraight
	}
	return min(longestStraight, ru.connect/time.Duration(4*len(ru.targets)))
}

const longestStraight = 250 * time.Millisecond
