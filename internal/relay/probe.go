package relay

import (
	"bufio"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
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
	probesAtOnce = 8

	checkEvery = 5 * time.Second // unless the sentence says it
	checkFalls = 2               // failed checks in a row before a target that was up is down
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
				if !t.due(time.Now(), &ru.f.Policy.Check) {
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
func (t *target) due(now time.Time, check *fairlead.Check) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Before(t.next) || !checked(check) && t.known && t.problem == nil {
		return false
	}
	if checked(check) {
		every := check.Every
		if every == 0 {
			every = checkEvery
		}
		// Not all at the same moment, and not in step with others' checks.
		t.next = now.Add(every - every/10 + rand.N(every/5+1))
		return true
	}
	t.backoff = min(max(2*t.backoff, firstBackoff), lastBackoff)
	t.next = now.Add(t.backoff)
	return true
}

func checked(c *fairlead.Check) bool { return c.How != "" && c.How != "off" }

// probe asks one target. A program that serves a single connection would be
// used up by the question, so that nobody is connected to who is not known to
// be down, unless the sentence asks for checks: the system's table of sockets
// tells of programs on this host, and the resolver of names.
func (r *Relay) probe(ru *rule, t *target) {
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	network, address := t.address(ru.f.At.Ports, 0)
	if ru.f.At.Net&fairlead.TCP == 0 {
		// A datagram proves nothing; a name can be looked up.
		if err := r.resolves(ctx, ru, t); err == nil {
			t.found()
		} else if r.ctx.Err() == nil {
			r.saw(t, fairlead.AsProblem(err))
		}
		return
	}
	if r.loops(ctx, network, &binding{ru, 0}, t) {
		r.saw(t, loopProblem(ru, address))
		return
	}
	// That a program listens says nothing about its TLS.
	if !checked(&ru.f.Policy.Check) && (ru.client == nil || t.status().Problem == nil) {
		p, v := r.glance(ctx, ru, t)
		if v == told {
			r.saw(t, p)
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
	if err != nil && t.forgives(&ru.f.Policy.Check) {
		return
	}
	if err != nil {
		r.saw(t, fairlead.AsProblem(err))
		return
	}
	r.saw(t, nil)
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
	if ru.f.Policy.Check.How == "http" {
		return checkHTTP(ctx, c, t)
	}
	return nil
}

// found takes back that the target's name or path is missing. How it stands
// then, nobody knows yet.
func (t *target) found() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.problem == nil {
		return
	}
	switch t.problem.Code {
	case fairlead.CodeNameUnknown, fairlead.CodeNameFamily, fairlead.CodeNameServer, fairlead.CodeNoSocket:
		t.known, t.problem, t.since = false, nil, time.Now()
		t.down.Store(false)
	}
}

// forgives counts a failed check, and reports whether a target that was up may
// stay so: one lost packet takes nobody out of service.
func (t *target) forgives(check *fairlead.Check) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed++
	return checked(check) && t.known && t.problem == nil && t.failed < checkFalls
}

// checkHTTP asks for "/" and is content with any answer below 400: a service
// that redirects serves.
func checkHTTP(ctx context.Context, c net.Conn, t *target) error {
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	failed := func(err error) error {
		p := fairlead.Problemf(fairlead.CodeTargetFailed, "%s gives no HTTP answer: %v", t.t.Dest(), cause(err))
		p.Err = err
		return p
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpHost(t)+"/", nil)
	if err != nil {
		return failed(err)
	}
	req.Header.Set("User-Agent", "fairlead-check")
	req.Close = true
	if err := req.Write(c); err != nil {
		return failed(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, checkHead)), req)
	if err != nil {
		return failed(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fairlead.Problemf(fairlead.CodeTargetFailed, "%s answers %q to GET /", t.t.Dest(), resp.Status)
	}
	return nil
}

// checkHead is how much of an answer a check reads.
const checkHead = 16 << 10

func httpHost(t *target) string {
	if t.t.Unix != "" {
		return "localhost"
	}
	return (&fairlead.Target{Host: t.t.Host}).Dest()
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
		if !isLocal(a) {
			continue
		}
		local = true
		yes, ok := r.cfg.Listens("tcp", netip.AddrPortFrom(a, t.port(ru.f.At.Ports, 0)))
		known = known || ok
		listens = listens || ok && yes
	}
	return local, listens, known
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
