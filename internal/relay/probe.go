package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A target that nobody has tried yet is asked once, and one that is down again
// after these times, each twice the last. One that is up is left in peace,
// unless the sentence has it checked: then it is asked every so often, up or
// down.
const (
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
	probeTimeout = 5 * time.Second
	probesAtOnce = 32

	// knockTime is how long a datagram target that has refused may take to
	// refuse again.
	knockTime = time.Second
)

// probeTargets finds out how targets stand that no client has tried, so that
// a forward that leads nowhere says so before anybody runs into it.
func (r *Relay) probeTargets() {
	var probes sync.WaitGroup
	defer probes.Wait()
	slots := make(chan struct{}, probesAtOnce)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		now := time.Now()
		for _, ru := range r.current() {
			if ru.place == nil {
				continue
			}
			for _, t := range ru.pool.Load().all {
				if !t.due(now) {
					continue
				}
				select {
				case slots <- struct{}{}:
				case <-r.ctx.Done():
					return
				}
				probes.Go(func() {
					r.probe(ru, t)
					t.asked()
					<-slots
				})
			}
		}
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
	}
}

// current is the rules of the last Apply; nobody changes the slice.
func (r *Relay) current() []*rule { return *r.rules.Load() }

// due reports whether the target wants a probe now, and books the next one.
// Who gets true calls asked afterwards.
func (t *target) due(now time.Time) bool {
	check := &t.ru.f.Policy.Check
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.asking || now.Before(t.next):
		return false
	case checked(check):
		// Not all at the same moment, and not in step with others' checks.
		d := every(check)
		t.next = now.Add(d - d/10 + rand.N(d/5+1))
	case t.problem == nil && (t.known || t.t.Drain || check.How == "off"):
		return false
	default:
		t.backoff = min(max(2*t.backoff, firstBackoff), lastBackoff)
		t.next = now.Add(t.backoff)
	}
	t.asking = true
	return true
}

func (t *target) asked() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asking = false
}

// probe asks one target. A program that serves a single connection would be
// used up by the question, so that nobody is connected to who is not known to
// be down, unless the sentence asks for checks: the system's table of sockets
// tells of programs on this host, and the resolver of names.
func (r *Relay) probe(ru *rule, t *target) {
	check := &ru.f.Policy.Check
	patience := probeTimeout
	if checked(check) {
		patience = min(max(every(check), time.Second), probeTimeout)
	}
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	if check.How == "off" {
		// Nobody but a client may ask it.
		t.mu.Lock()
		t.forget()
		t.mu.Unlock()
		return
	}
	if t.group != nil && t.t.Service() {
		return // without members: its lookup says how it stands
	}
	network, address := t.address(ru.f.At.Ports, 0)
	if ru.f.At.Net&fairlead.TCP == 0 {
		network = "udp"
	}
	if r.loops(ctx, network, &binding{ru, 0}, t) {
		r.noteProbe(t, loopProblem(ru, address))
		return
	}
	// That a program listens says nothing about its TLS.
	if !checked(check) && (network == "udp" || ru.client == nil || t.status().Problem == nil) {
		if network == "udp" {
			r.knock(ctx, ru, t, address)
			return
		}
		p, v := r.glance(ctx, ru, t)
		if v == told {
			r.noteProbe(t, p)
			return
		}
		t.found()
		if v == unknown && t.status().Problem == nil {
			return // it is the next client's to find out
		}
	}
	c, err := r.connect(ctx, ru, t.asker(ru), network, address)
	if err == nil {
		err = r.question(ctx, ru, t, c)
	}
	if r.ctx.Err() != nil || err != nil && reason(err) == fairlead.NoDescriptors {
		return
	}
	p := fairlead.AsProblem(err)
	if p != nil && ru.lacks(p) {
		r.noteLack(ru, p)
		return
	}
	r.noteProbe(t, p)
}

// question finds out whether a target that was connected to serves, as far as
// the sentence wants to know. It owns c.
func (r *Relay) question(ctx context.Context, ru *rule, t *target, c net.Conn) error {
	if ru.client != nil {
		// It comes from nobody but us, which the header says.
		s, err := r.greetTarget(ctx, ru, t, c, &origin{})
		if err != nil {
			return err
		}
		c = s
		if err := s.(*sealed).remark(ru, t); err != nil {
			sock.Abort(c)
			return err
		}
	}
	defer sock.Abort(c)
	return ru.ask(ctx, c, t)
}

// knock finds out what it can about a target of datagrams without a check: a
// name can be looked up, and one that has refused is sent an empty datagram,
// which its host refuses as well while nothing listens. When that comes back no
// more, the next client finds out whether it serves.
func (r *Relay) knock(ctx context.Context, ru *rule, t *target, address string) {
	if err := r.resolves(ctx, ru, t); err != nil {
		if r.ctx.Err() == nil {
			r.noteProbe(t, fairlead.AsProblem(err))
		}
		return
	}
	t.found()
	p := t.status().Problem
	if p == nil || p.Code != fairlead.CodeTargetRefuses {
		return
	}
	c, err := r.connect(ctx, ru, netip.AddrPort{}, "udp", address)
	if err != nil {
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.SetDeadline(time.Now().Add(knockTime))
	if _, err = c.Write(nil); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), r.ctx.Err() != nil:
		return // down as before
	case err == nil:
		r.noteProbe(t, nil)
		return
	}
	t.mu.Lock()
	t.forget()
	t.mu.Unlock()
}

func (r *Relay) resolves(ctx context.Context, ru *rule, t *target) error {
	res, ok := ru.place.(resolver)
	if !ok || t.t.Unix != "" || t.t.Host == "self" {
		return nil
	}
	_, err := res.Resolve(ctx, t.t.Host)
	return err
}

// A verdict is what can be said of a target without connecting to it.
type verdict int

const (
	unknown  verdict = iota
	told             // how it stands
	harmless         // nobody seems to listen: a connection would use nobody up
)

// glance finds out what it can about a target without connecting to it. Where
// that tells how it stands, p is what is wrong, nil for a target that is up.
func (r *Relay) glance(ctx context.Context, ru *rule, t *target) (p *fairlead.Problem, v verdict) {
	if ru.f.Via != "" {
		return nil, unknown
	}
	if t.t.Unix != "" {
		return glanceAtPath(t)
	}
	if err := r.resolves(ctx, ru, t); err != nil {
		if r.ctx.Err() != nil {
			return nil, unknown
		}
		return fairlead.AsProblem(err), told
	}
	local, listens, known := r.lookUp(ctx, ru, t)
	switch {
	case listens:
		return nil, told
	case local && known:
		// The kernel may lead it elsewhere, to a published container.
		return nil, harmless
	}
	return nil, unknown
}

// glanceAtPath says that there is no socket; one that is there may serve or not.
func glanceAtPath(t *target) (p *fairlead.Problem, v verdict) {
	if strings.HasPrefix(t.t.Unix, "@") {
		return nil, unknown
	}
	if _, err := os.Stat(t.t.Unix); err != nil {
		return fairlead.Problemf(fairlead.CodeNoSocket, "there is no unix socket at %s", t.t.Unix).
			Fix("start the program that makes it, or correct the path", ""), told
	}
	return nil, unknown
}

// lookUp tells whether the target is on this host, and whether a program
// listens there.
func (r *Relay) lookUp(ctx context.Context, ru *rule, t *target) (local, listens, known bool) {
	if r.cfg.Listens == nil {
		return false, false, false
	}
	addrs := []netip.Addr{}
	switch a, err := netip.ParseAddr(t.t.Host); {
	case err == nil:
		addrs = append(addrs, a)
	case t.t.Host == "self" || t.t.Host == "localhost":
		addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	default:
		if res, ok := ru.place.(resolver); ok {
			addrs, _ = res.Resolve(ctx, t.t.Host)
		}
	}
	for _, a := range addrs {
		if !r.legs.Load().isOwn(a) {
			continue
		}
		local = true
		yes, ok := r.cfg.Listens("tcp", netip.AddrPortFrom(a, t.port(ru.f.At.Ports, 0)))
		known = known || ok
		listens = listens || ok && yes
	}
	return local, listens, known
}

// saw notes what a client's dial to a target met.
func (r *Relay) saw(t *target, p *fairlead.Problem) { t.saw(warning(p)) }

// noteProbe notes what a probe met.
func (r *Relay) noteProbe(t *target, p *fairlead.Problem) { t.answered(warning(p)) }

// warning is p as it is told of a forward that stays, and tries again.
func warning(p *fairlead.Problem) *fairlead.Problem {
	if p == nil {
		return nil
	}
	w := *p // the place may have given it to others as well
	w.Warning = true
	return &w
}
