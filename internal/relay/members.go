package relay

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/place"
)

// A servicer is a place that can look service records up.
type servicer interface {
	Services(ctx context.Context, name string) ([]place.Service, error)
}

// A group is the members of a target that stands for several: the addresses of
// a name, or the hosts of a service record. They are followed as DNS changes:
// who joins gets its share, and who is gone gets no new connections and keeps
// those it has.
type group struct {
	mu      sync.Mutex // guards the rest
	members []*target
	leaving []*target // gone, with connections left
	looking bool
	next    time.Time // of the next look
	known   bool      // it has had an answer

	first chan struct{} // closed when the first look is over
}

// A member is what DNS says of one.
type member struct {
	host   string
	port   uint16 // 0: as the target says
	weight int64
	tier   int
}

const (
	// followEvery is how often a group looks. The answers are kept as long as
	// their time to live says, so that most looks ask nobody.
	followEvery = time.Second

	looksAtOnce = 32
)

// grouped reports whether a target stands for several.
func grouped(t *fairlead.Target) bool { return t.Resolve == "all" || t.Service() }

// fitsGroups is what keeps f's targets from being looked up where they would
// have to be, nil for nothing.
func fitsGroups(f *fairlead.Forward, at fairlead.Place) *fairlead.Problem {
	for i := range f.To {
		t := &f.To[i]
		_, resolves := at.(resolver)
		_, services := at.(servicer)
		switch {
		case t.Service() && t.Resolve != "":
			return fairlead.Problemf(fairlead.CodeCannotHonour, "%s is a service record, whose members are hosts: it goes without \"resolve\"", t.Dest())
		case t.Service() && !services, t.Resolve != "" && !resolves:
			return fairlead.Problemf(fairlead.CodeCannotHonour, "%s cannot be followed: the place that it is dialed from looks names up by itself", t.Dest())
		case t.Resolve != "" && (t.Unix != "" || t.Host == "self" || isAddress(t.Host)):
			return fairlead.Problemf(fairlead.CodeCannotHonour, "%s is no name whose addresses could be followed", t.Dest()).
				Fix("take \"resolve all\" out", "")
		}
	}
	return nil
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// leaves are the targets to choose among: t, or its members.
func (t *target) leaves() []*target {
	if t.group != nil {
		t.group.mu.Lock()
		defer t.group.mu.Unlock()
		if len(t.group.members) > 0 {
			return t.group.members
		}
	}
	return []*target{t}
}

// newMember is a member of t.
func (t *target) newMember(m member) *target {
	ft := *t.t
	ft.Host, ft.Resolve = m.host, ""
	if m.port != 0 {
		ft.Ports = fairlead.PortList{{First: m.port, Last: m.port}}
	}
	n := t.ru.newTarget(&ft)
	n.weight *= m.weight
	n.tier += m.tier
	n.as = m
	if m.port == 0 {
		n.name = t.t.Host
	}
	return n
}

// take takes over the members that a group had before a reload. Nobody else
// has t yet.
func (g *group) take(t *target, old *group) {
	old.mu.Lock()
	defer old.mu.Unlock()
	for _, o := range old.members {
		n := t.newMember(o.as)
		n.take(o)
		g.members = append(g.members, n)
	}
	g.leaving = slices.Clone(old.leaving)
	if old.known {
		g.known = true
		close(g.first)
	}
}

// become makes the members those that DNS says now, and reports whether that
// is a change.
func (g *group) become(t *target, want []member) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.members
	g.members = make([]*target, 0, len(want))
	for _, m := range want {
		i := slices.IndexFunc(old, func(o *target) bool { return o.as == m })
		if i >= 0 {
			g.members = append(g.members, old[i])
			continue
		}
		n := t.newMember(m)
		// The same host and port with another weight or priority, or one that
		// was gone: it is known.
		same := func(o *target) bool { return o.as.host == m.host && o.as.port == m.port }
		if i := slices.IndexFunc(old, same); i >= 0 {
			n.take(old[i])
		} else if i := slices.IndexFunc(g.leaving, same); i >= 0 {
			n.active = g.leaving[i].active
			g.leaving = slices.Delete(g.leaving, i, i+1)
		}
		if g.known && len(old) > 0 && !slices.ContainsFunc(old, same) {
			n.back.Store(time.Now().UnixNano()) // who joins begins slowly, too
		}
		g.members = append(g.members, n)
	}
	for _, o := range old {
		if !slices.ContainsFunc(g.members, func(n *target) bool { return n.active == o.active }) {
			g.leaving = append(g.leaving, o)
		}
	}
	g.leaving = slices.DeleteFunc(g.leaving, func(o *target) bool { return o.active.Load() == 0 })
	if !g.known {
		g.known = true
		close(g.first)
	}
	return !slices.Equal(old, g.members)
}

// describe adds to a target's status what is known of its members.
func (g *group) describe(s *fairlead.TargetStatus) {
	g.mu.Lock()
	members, leaving := g.members, slices.Clone(g.leaving)
	g.mu.Unlock()
	if len(members) > 0 {
		s.Up, s.Problem = false, nil
	}
	down := 0
	for _, m := range members {
		ms := m.status()
		s.Members = append(s.Members, ms)
		s.Active += ms.Active
		s.Up = s.Up || ms.Up
		if ms.Problem != nil {
			down++
		}
	}
	if down > 0 && down == len(members) {
		s.Problem, s.Since = s.Members[0].Problem, s.Members[0].Since
	}
	for _, m := range leaving {
		ms := m.status()
		if ms.Active == 0 {
			continue
		}
		ms.Draining, ms.Gone = true, true
		s.Members = append(s.Members, ms)
		s.Active += ms.Active
	}
}

// followTargets looks up what stands for several, again and again.
func (r *Relay) followTargets() {
	var looks sync.WaitGroup
	defer looks.Wait()
	slots := make(chan struct{}, looksAtOnce)
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		for _, ru := range r.current() {
			for _, t := range ru.groups {
				if !t.group.due(time.Now()) {
					continue
				}
				select {
				case slots <- struct{}{}:
				case <-r.ctx.Done():
					return
				}
				looks.Go(func() {
					r.follow(ru, t)
					<-slots
				})
			}
		}
		select {
		case <-r.ctx.Done():
			return
		case <-r.look:
		case <-t.C:
		}
	}
}

func (g *group) due(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looking || now.Before(g.next) {
		return false
	}
	g.looking, g.next = true, now.Add(followEvery)
	return true
}

// follow looks up once what t stands for.
func (r *Relay) follow(ru *rule, t *target) {
	ctx, cancel := context.WithTimeout(r.ctx, probeTimeout)
	defer cancel()
	want, err := members(ctx, ru.place, t.t)
	g := t.group
	g.mu.Lock()
	g.looking = false
	g.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	p := fairlead.AsProblem(err)
	if p != nil && p.Code != fairlead.CodeNameUnknown {
		// The name server's trouble is no answer: who was there stays.
		if len(t.leaves()) == 1 && t.leaves()[0] == t {
			r.noteProbe(t, p)
		}
		return
	}
	if g.become(t, want) {
		ru.fill()
	}
	if p != nil {
		r.noteProbe(t, p)
	} else {
		t.found()
	}
}

// members asks DNS for the members of a target, in an order that does not
// depend on the order of the answer.
func members(ctx context.Context, at fairlead.Place, t *fairlead.Target) (list []member, err error) {
	if !t.Service() {
		addrs, err := at.(resolver).Resolve(ctx, t.Host)
		if err != nil {
			return nil, err
		}
		addrs = slices.Clone(addrs)
		slices.SortFunc(addrs, netip.Addr.Compare)
		for _, a := range addrs {
			list = append(list, member{host: a.String(), weight: 1})
		}
		return list, nil
	}
	records, err := at.(servicer).Services(ctx, t.Host)
	if err != nil {
		return nil, err
	}
	records = slices.Clone(records)
	slices.SortFunc(records, func(a, b place.Service) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(b.Weight, a.Weight))
	})
	tier := 0
	for i, s := range records {
		switch {
		case i == 0:
		case s.Priority == records[i-1].Priority && s.Host == records[i-1].Host && s.Port == records[i-1].Port:
			continue // said twice
		case s.Priority != records[i-1].Priority:
			tier++
		}
		// A weight of nothing is a very small chance among others that have
		// one (RFC 2782, Weight), and the same share for all where none has.
		list = append(list, member{host: s.Host, port: s.Port, weight: max(100*int64(s.Weight), 1), tier: tier})
	}
	return list, nil
}

// stand is the target to dial for t: itself, or one of its members where it
// cannot be dialed, as soon as these are known.
func (r *Relay) stand(ctx context.Context, t *target, client netip.Addr) (*target, error) {
	if t.group == nil || !t.t.Service() {
		return t, nil
	}
	select {
	case <-t.group.first:
	case <-ctx.Done():
		p := fairlead.Problemf(fairlead.CodeNameServer, "nobody has told the service record %s in time", t.t.Dest())
		p.Err = ctx.Err()
		return nil, p
	}
	if m := t.ru.first(t.leaves(), client, nil); m != nil && m != t {
		return m, nil
	}
	if p := t.status().Problem; p != nil {
		return nil, p
	}
	return nil, errors.New("no service record of " + t.t.Dest() + " is known")
}

// drained is why a forward whose targets are all drained gets nobody through.
func drained(f *fairlead.Forward) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeAllDrained, "every target is drained: new connections are refused")
	p.Warning = true
	return p.Fix("take one back", "fairlead drain --undo "+f.Name+" "+f.To[0].Dest())
}
