package relay

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A conn is one forwarded connection: two sockets and a pump for each
// direction. Whoever ends it first, a pump, the janitor or an operator, calls
// finish, which closes both sockets and thereby ends both pumps.
type conn struct {
	r              *Relay
	id             uint64
	rule           *rule
	to             *target
	from, at       netip.AddrPort // the client and what it asked; zero for unix sockets
	name           string         // that it asked for
	client, target net.Conn
	up, down       pump // from the client, from the target
	in, out        atomic.Int64
	began          time.Time
	ended          atomic.Int32 // first side that ended its direction: 1 client, 2 target
	over           atomic.Bool
	killed         atomic.Bool
	throttle       *throttle     // of bandwidth; nil: no limit
	gone           chan struct{} // closed when it is over; nil without a throttle

	// The janitor's notes.
	seen  int64     // bytes at its last look
	moved time.Time // when that last changed, or one direction ended
	asked time.Time // when it last asked the kernel
	half  bool      // it has seen that one direction ended
}

// start begins to carry. The dialing goroutine, whose stack is large, ends
// afterwards; the two pumps keep small ones.
func (c *conn) start() {
	craw, traw := rawConn(c.client), rawConn(c.target)
	m := c.rule.meter
	c.up = pump{from: c.client, to: c.target, src: craw, dst: traw, moved: &c.in, total: &m.In, pipes: c.r.pipes}
	c.down = pump{from: c.target, to: c.client, src: traw, dst: craw, moved: &c.out, total: &m.Out, pipes: c.r.pipes}
	if c.throttle = c.rule.bandwidth.join(c.from.Addr()); c.throttle != nil {
		c.gone = make(chan struct{})
		for way, p := range []*pump{up: &c.up, down: &c.down} {
			if c.throttle.limits(way) {
				p.throttle, p.way, p.over = c.throttle, way, c.gone
			}
		}
	}
	c.began = time.Now()
	c.moved = c.began
	m.In.Add(c.in.Load()) // what the target was told before
	m.Flows.Add(1)
	m.Active.Add(1)
	// Told before anybody can end it, so that its end is told afterwards.
	c.r.tell(fairlead.Event{Kind: fairlead.EventOpen, Forward: c.rule.f.Name}, c)
	c.r.table.add(c)
	c.r.wg.Go(c.pumpUp)
	c.r.wg.Go(c.pumpDown)
}

func (c *conn) pumpUp()   { c.carry(&c.up, 1) }
func (c *conn) pumpDown() { c.carry(&c.down, 2) }

// carry runs one direction and says what its end means for the whole.
func (c *conn) carry(p *pump, from int32) {
	which, err := p.run()
	if err == nil {
		first := c.ended.CompareAndSwap(0, from)
		if werr := closeWrite(p.to); werr == nil || !first {
			if !first {
				c.finish(closedBy(c.ended.Load()), false)
				return
			}
			which, err = sender, p.awaitError()
		} else {
			which, err = receiver, syscall.ECONNRESET // the receiver is gone already
		}
	}
	switch {
	case err == errTruncated && c.ended.Load() != 0:
		// Many clients leave so after a reply. It is no clean end all the same.
		c.end(closedBy(c.ended.Load()), p.to)
	case err == nil: // the other direction ends the connection
	case errors.Is(err, net.ErrClosed):
		c.finish(fairlead.Shutdown, true) // somebody finished it already, as a rule
	case err == errTruncated, isReset(err):
		c.finish(resetBy(from, which), true)
	case isVanished(err):
		c.finish(vanishedFrom(from, which), true)
	default:
		if from == 2 && which == sender {
			c.complain(err)
		}
		c.finish(fairlead.Failed, true)
	}
}

func closedBy(first int32) fairlead.Reason {
	if first == 1 {
		return fairlead.ClientClosed
	}
	return fairlead.TargetClosed
}

func resetBy(from int32, which side) fairlead.Reason {
	if (from == 1) == (which == sender) {
		return fairlead.ClientReset
	}
	return fairlead.TargetReset
}

func vanishedFrom(from int32, which side) fairlead.Reason {
	if (from == 1) == (which == sender) {
		return fairlead.ClientVanished
	}
	return fairlead.TargetVanished
}

// flushTime bounds the wait for what was forwarded before a reset to reach
// the side that is to be reset.
const flushTime = 5 * time.Second

// finish ends the connection for good, where abort is set with a reset of both
// sides; the first caller's reason counts. It must not be called from inside a
// pump's system call.
func (c *conn) finish(why fairlead.Reason, abort bool) {
	if abort {
		c.end(why, c.client, c.target)
	} else {
		c.end(why)
	}
}

// end is finish with the sides named that are reset. The reason is taken before
// a side is closed: the pump that watches it wakes then, and would tell its own.
func (c *conn) end(why fairlead.Reason, reset ...net.Conn) {
	if !c.over.CompareAndSwap(false, true) {
		return
	}
	if c.gone != nil {
		close(c.gone)
	}
	switch {
	case why == fairlead.TargetReset:
		// What came before the reset was meant to arrive: a reset of ours
		// would throw away what the client's socket has not sent yet.
		c.flush(c.up.src)
	case why == fairlead.ClientReset:
		c.flush(c.up.dst)
	}
	for _, side := range reset {
		sock.Abort(side)
	}
	c.client.Close()
	c.target.Close()
	c.rule.meter.Active.Add(-1)
	c.to.active.Add(-1)
	c.throttle.leave()
	// In this order: a reload may count now whom it finds in the table.
	c.r.table.remove(c)
	c.rule.leave(c.from.Addr())
	c.r.crowd.leave(sourceKey(c.from.Addr()), perConn)
	c.r.tell(fairlead.Event{Kind: fairlead.EventClose, Forward: c.rule.f.Name, Reason: why}, c)
}

func (c *conn) abort() {
	sock.Abort(c.client)
	sock.Abort(c.target)
}

func (c *conn) flush(raw syscall.RawConn) {
	if raw == nil {
		return
	}
	for wait, left := time.Millisecond, flushTime; left > 0 && c.r.ctx.Err() == nil && sock.Unsent(raw) > 0; left -= wait {
		time.Sleep(wait)
		wait = min(2*wait, 100*time.Millisecond)
	}
}

// describe is the connection as the API tells it.
func (c *conn) describe() fairlead.Conn {
	d := fairlead.Conn{
		ID:      idText(c.id),
		Forward: c.rule.f.Name,
		Network: c.client.LocalAddr().Network(),
		Client:  endText(c.from, c.client.RemoteAddr()),
		Local:   endText(c.at, c.client.LocalAddr()),
		Target:  addrText(c.target.RemoteAddr()),
		Asked:   c.name,
		Began:   c.began,
		In:      c.in.Load(),
		Out:     c.out.Load(),
	}
	switch c.ended.Load() {
	case 1:
		d.Half = "client"
	case 2:
		d.Half = "target"
	}
	return d
}

func (c *conn) matches(m fairlead.Match) bool {
	return !c.killed.Load() && matches(m, c.id, c.rule.f.Name, c.from.Addr())
}

// kill and shut also cut short a finish that waits to flush.
func (c *conn) kill() {
	c.killed.Store(true)
	c.finish(fairlead.Killed, true)
	c.abort()
}

func (c *conn) shut() {
	c.finish(fairlead.Shutdown, true)
	c.abort()
}

func idText(id uint64) string { return "c" + strconv.FormatUint(id, 36) }

// endText is an end as it was told, or where nothing was, the socket's own.
func endText(told netip.AddrPort, own net.Addr) string {
	if told.IsValid() {
		return told.String()
	}
	return addrText(own)
}

func addrText(a net.Addr) string {
	if ap := sock.AddrPort(a); ap.IsValid() {
		return ap.String()
	}
	if a == nil || a.String() == "" || a.String() == "@" {
		return "unix"
	}
	return a.Network() + ":" + a.String()
}
