package relay

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// A target that nobody has tried yet is asked once, and one that is down again
// after these times, each twice the last. One that is up is left in peace.
const (
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
	probeTimeout = 5 * time.Second
	probesAtOnce = 8
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
		for _, ru := range r.current() {
			if ru.f.Policy.Check.How == "off" || ru.place == nil {
				continue
			}
			for _, t := range ru.targets {
				if !t.due(time.Now()) {
					continue
				}
				select {
				case slots <- struct{}{}:
				case <-r.ctx.Done():
					return
				}
				probes.Go(func() {
					r.probe(ru, t)
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
func (t *target) due(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known && t.problem == nil || now.Before(t.next) {
		return false
	}
	t.backoff = min(max(2*t.backoff, firstBackoff), lastBackoff)
	t.next = now.Add(t.backoff)
	return true
}

// probe asks one target. A program on this host is looked up in the system's
// table of sockets rather than connected to: one that serves a single
// connection would be used up by the question.
func (r *Relay) probe(ru *rule, t *target) {
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	network, address := t.address(ru.f.At.Ports, 0)
	if ru.f.At.Net&fairlead.TCP == 0 {
		// A datagram proves nothing; a name can be looked up.
		if err := r.resolves(ctx, ru, t); err != nil && r.ctx.Err() == nil {
			r.saw(t, fairlead.AsProblem(err))
		} else if t.status().Problem != nil {
			r.saw(t, nil)
		}
		return
	}
	if network == "tcp" {
		if r.loops(ctx, network, &binding{ru, 0}, t) {
			r.saw(t, loopProblem(ru, address))
			return
		}
		if r.listensHere(ctx, ru, t) {
			r.saw(t, nil)
			return
		}
	}
	c, err := ru.place.DialContext(ctx, network, address)
	if err == nil {
		sock.Abort(c)
	}
	if r.ctx.Err() != nil || err != nil && reason(err) == fairlead.NoDescriptors {
		return
	}
	if err != nil {
		r.saw(t, fairlead.AsProblem(err))
		return
	}
	r.saw(t, nil)
}

func (r *Relay) resolves(ctx context.Context, ru *rule, t *target) error {
	res, ok := ru.place.(resolver)
	if !ok || t.t.Unix != "" || t.t.Host == "self" {
		return nil
	}
	_, err := res.Resolve(ctx, t.t.Host)
	return err
}

// listensHere reports whether the target is a listening program of this host.
func (r *Relay) listensHere(ctx context.Context, ru *rule, t *target) bool {
	if r.cfg.Listens == nil || ru.f.Via != "" {
		return false
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
		if !isLocal(a) {
			continue
		}
		if yes, known := r.cfg.Listens("tcp", netip.AddrPortFrom(a, t.port(ru.f.At.Ports, 0))); known && yes {
			return true
		}
	}
	return false
}

// saw notes how a target stands; whoever asks for a report is told.
func (r *Relay) saw(t *target, p *fairlead.Problem) {
	if p != nil {
		warning := *p          // the place may have given it to others as well
		warning.Warning = true // the forward stays, and tries again
		p = &warning
	}
	t.saw(p)
}
