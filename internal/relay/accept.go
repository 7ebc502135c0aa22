package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
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
			if !e.descriptors(c) {
				return
			}
			b := e.rule.Load()
			e.r.wg.Go(func() { e.serve(b, c) })
			continue
		}
		if e.gone.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if sock.NoDescriptors(err) {
			e.r.trouble(fairlead.CodeNoDescriptors, "out of file descriptors: new connections wait until some are free")
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

// descriptors takes the budget for c and its target, and while there is none
// waits with c in hand. It returns false when the entry is closed meanwhile.
func (e *entry) descriptors(c net.Conn) bool {
	if e.r.budget.try(2) {
		return true
	}
	e.r.trouble(fairlead.CodeNoDescriptors, "all file descriptors are in use ("+strconv.FormatInt(e.r.budget.size, 10)+
		" for connections): new ones wait until some end")
	if e.r.budget.take(e.gone, 2) != nil {
		sock.Abort(c)
		return false
	}
	return true
}

// serve admits one connection, dials its target and hands both to the pumps.
// It owns c, and two descriptors of the budget, until then.
func (e *entry) serve(b *binding, c net.Conn) {
	r, ru := e.r, b.rule
	client := sock.AddrPort(c.RemoteAddr()).Addr()
	targets, why := admit(ru, client)
	if why != "" {
		r.turnAway(ru, c, why, nil)
		return
	}
	if ru.keepalive != sock.DefaultKeepalive || !sock.Inherits {
		keepalive(c, ru.f.Policy.Keepalive)
	}
	t, why, err := r.dial(b, targets)
	if err != nil {
		ru.leaveAddr(client)
		r.turnAway(ru, c, why, fairlead.AsProblem(err))
		return
	}
	keepalive(t, ru.f.Policy.Keepalive)
	ru.passed.Store(true)
	fc := &conn{r: r, id: r.table.next(), rule: ru, client: c, target: t}
	fc.start()
}

// admit finds the targets for a client, or why it is turned away. A client
// that is admitted is counted, and has to leave.
func admit(ru *rule, client netip.Addr) ([]*target, fairlead.Reason) {
	if !ru.allowed(client) {
		return nil, fairlead.Denied
	}
	targets := ru.choose(client)
	if len(targets) == 0 {
		return nil, fairlead.NoTarget
	}
	if !ru.enter(client, &ru.f.Policy) {
		return nil, fairlead.Limited
	}
	return targets, ""
}

// turnAway resets a client that did not come through, and gives back its
// descriptors.
func (r *Relay) turnAway(ru *rule, c net.Conn, why fairlead.Reason, p *fairlead.Problem) {
	ru.meter.Refused.Add(1)
	e := fairlead.Event{Time: time.Now(), Kind: fairlead.EventClose, Forward: ru.f.Name, Reason: why, Problem: p}
	if r.cfg.Watch != nil {
		e.Conn = &fairlead.Conn{
			Forward: ru.f.Name, Network: c.LocalAddr().Network(), Began: e.Time,
			Client: addrText(c.RemoteAddr()), Local: addrText(c.LocalAddr()),
		}
	}
	sock.Abort(c)
	r.budget.give(2)
	r.tell(e, nil)
}

func keepalive(c net.Conn, d time.Duration) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(sock.KeepaliveConfig(d))
	}
}

// dial connects to the first of targets that answers, within the time that
// the rule allows for all of them.
func (r *Relay) dial(b *binding, targets []*target) (net.Conn, fairlead.Reason, error) {
	ctx := r.ctx
	if b.rule.connect > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.rule.connect)
		defer cancel()
	}
	var last error
	for _, t := range targets {
		c, err := r.dialTarget(ctx, b, t)
		if err == nil {
			r.saw(t, nil)
			return c, "", nil
		}
		why := reason(err)
		if why == fairlead.NoDescriptors {
			r.trouble(fairlead.CodeNoDescriptors, "out of file descriptors: a target could not be reached")
		} else if r.ctx.Err() == nil {
			r.saw(t, fairlead.AsProblem(err))
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, reason(last), last
}

func (r *Relay) dialTarget(ctx context.Context, b *binding, t *target) (net.Conn, error) {
	network, address := t.address(b.rule.f.At.Ports, b.port)
	if network == "tcp" && r.loops(ctx, b, t) {
		return nil, fairlead.Problemf(fairlead.CodeLoop, "%s leads back to itself: %s is where it listens", b.rule.f.Name, address)
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		c, err := b.rule.place.DialContext(ctx, network, address)
		if err == nil || reason(err) != fairlead.NoDescriptors {
			return c, err
		}
		// Others will end; until then the client waits as if in the queue.
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// A resolver is a place that can say what a name stands for there.
type resolver interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// loops reports whether dialing t would arrive at b's own rule again, which
// would go on until nothing is left.
func (r *Relay) loops(ctx context.Context, b *binding, t *target) bool {
	at := &b.rule.f.At
	if b.rule.f.Via != "" || len(at.Ports) == 0 || at.Net&fairlead.TCP == 0 {
		return false
	}
	port := t.port(at.Ports, b.port)
	listens := false
	for _, p := range at.Ports {
		listens = listens || p.First <= port && port <= p.Last
	}
	if !listens {
		return false
	}
	host := t.t.Host
	if host == "self" || host == "localhost" {
		return at.Any || at.Loopback() || at.Addr.IsValid() && at.Addr.IsUnspecified()
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else if res, ok := b.rule.place.(resolver); ok {
		addrs, _ = res.Resolve(ctx, host)
	}
	for _, a := range addrs {
		if r.ownEntry(b.rule, netip.AddrPortFrom(a.Unmap(), port)) {
			return true
		}
	}
	return false
}

// ownEntry reports whether a connection to at, on this host, would be
// accepted by ru.
func (r *Relay) ownEntry(ru *rule, at netip.AddrPort) bool {
	any := netip.IPv4Unspecified()
	if at.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[key{network: "tcp", at: at}]
	if e == nil && isLocal(at.Addr()) {
		e = r.entries[key{network: "tcp", at: netip.AddrPortFrom(any, at.Port())}]
	}
	return e != nil && e.rule.Load().rule == ru
}

// isLocal reports whether a belongs to this host.
func isLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, n := range addrs {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}
