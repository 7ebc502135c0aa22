package packetfilter

import (
	"context"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/kernel"
	"fairlead/internal/sys/netmon"
)

// Config is what a carrier is made of.
type Config struct {
	// Dialect is the filter's language. "" finds out which filter of FreeBSD is
	// switched on: pf, else ipfw.
	Dialect Dialect

	// Name tells our instances apart, Service or another: rules of pf are in the
	// anchor fairlead/NAME.
	Name string

	// Sides are the interfaces of "wan" and "lan" at the moment.
	Sides func() (wan, lan []string, err error)

	// Interfaces are those of this host; nil means netmon.Interfaces.
	Interfaces func() ([]netmon.Interface, error)

	// Resolve gives the addresses of a target's name.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Run runs one of the filter's programs with that input, and returns what it
	// printed; nil runs it.
	Run func(ctx context.Context, input, program string, args ...string) (string, error)
}

// Service is the name of the service itself. What it left when it was killed it
// finds again, and replaces.
const Service = "service"

// How long the filter's programs and a target's name are waited for.
const (
	runWait  = 10 * time.Second
	nameWait = 2 * time.Second
)

// A Carrier is a fairlead.Carrier that keeps the rules of a packet filter
// loaded, by the filter's own programs. Nobody has seen a packet pass them in our
// tests: docs/decisions/019. Rules go when it is closed; connections that are
// established then go on, because the filter remembers them beyond its rules.
type Carrier struct {
	cfg    Config
	filter func() filter // found once

	mu       sync.Mutex // guards the rest
	plan     *Plan      // of the last Apply
	loaded   *Plan      // what the filter has; nil: nothing of ours
	failed   *fairlead.Problem
	resolved map[string][]netip.Addr // the last good answers
	meters   map[meterKey]*metered
	left     bool
	begun    bool // something was loaded, or taken away, by this process
}

// A filter is one packet filter's programs.
type filter interface {
	dialect() Dialect
	// ready says why rules would not hold, nil when they would.
	ready(ctx context.Context) *fairlead.Problem
	// load makes the rules those of p instead of those of was, at once. An empty
	// plan takes all of them away.
	load(ctx context.Context, p, was *Plan) error
	// counts are what passed the rules of each label since they were loaded.
	counts(ctx context.Context) (map[string]count, error)
}

// A count is what passed: connections, and bytes from and to clients.
type count struct{ flows, in, out int64 }

// A metered is a forward's meter, and what the filter had counted when it was
// last looked at.
type metered struct {
	meter fairlead.Meter
	seen  count
}

type meterKey struct {
	owner fairlead.Owner
	name  string
}

func keyOf(f *fairlead.Forward) meterKey { return meterKey{f.Owner, f.Name} }

// New makes a carrier that carries nothing yet and has touched nothing.
func New(cfg Config) *Carrier {
	if cfg.Run == nil {
		cfg.Run = run
	}
	if cfg.Interfaces == nil {
		cfg.Interfaces = netmon.Interfaces
	}
	c := &Carrier{cfg: cfg, plan: &Plan{}, resolved: map[string][]netip.Addr{}, meters: map[meterKey]*metered{}}
	c.filter = sync.OnceValue(c.find)
	return c
}

// find is the filter of the dialect, or the one that is switched on.
func (c *Carrier) find() filter {
	p := &pfctl{run: c.cfg.Run, anchor: "fairlead/" + c.cfg.Name, d: c.cfg.Dialect}
	w := &ipfwctl{run: c.cfg.Run, name: c.cfg.Name}
	switch c.cfg.Dialect {
	case IPFW:
		return w
	case "":
		p.d = PF
		ctx, cancel := context.WithTimeout(context.Background(), runWait)
		defer cancel()
		if p.enabled(ctx) != nil && w.ready(ctx) == nil {
			return w
		}
	}
	return p
}

// Name returns "kernel": it is what "by kernel" means on its systems.
func (c *Carrier) Name() string { return kernel.Name }

// Fits returns nil for a forward that rules can carry. One that leaves it to the
// program ("by auto") also needs a filter that is switched on.
func (c *Carrier) Fits(f *fairlead.Forward) error {
	if err := Fits(c.filter().dialect(), f); err != nil {
		return err
	}
	if f.Policy.By == "auto" {
		ctx, cancel := context.WithTimeout(context.Background(), runWait)
		defer cancel()
		if p := c.filter().ready(ctx); p != nil {
			return p
		}
	}
	return nil
}

// Apply loads the rules of exactly want.
func (c *Carrier) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, runWait)
	defer cancel()
	w, err := c.world(ctx, want)
	if err != nil {
		c.plan = &Plan{Parts: make([]Part, len(want))}
		for i, f := range want {
			c.plan.Parts[i] = Part{Forward: f, Problem: fairlead.AsProblem(err)}
		}
		return c.statuses()
	}
	c.recount(ctx)
	c.plan = Compile(c.filter().dialect(), want, w)
	c.failed = c.bring(ctx)
	return c.statuses()
}

// bring loads what the plan says, unless it is there. The lock is held.
func (c *Carrier) bring(ctx context.Context) *fairlead.Problem {
	was := c.loaded
	switch {
	case c.left:
		return nil
	case c.plan.Rules == "" && was == nil:
		if !c.begun && c.cfg.Name == Service && c.filter().ready(ctx) == nil {
			c.begun = c.filter().load(ctx, &Plan{}, &Plan{}) == nil // of one that was killed
		}
		return nil
	case was != nil && was.Rules == c.plan.Rules && reflect.DeepEqual(was.NAT, c.plan.NAT) && c.failed == nil:
		return nil
	}
	if c.plan.Rules != "" {
		if p := c.filter().ready(ctx); p != nil {
			return p
		}
	}
	if was == nil {
		was = &Plan{}
	}
	if err := c.filter().load(ctx, c.plan, was); err != nil {
		return refused(err)
	}
	c.loaded, c.begun = c.plan, true
	if c.plan.Rules == "" {
		c.loaded = nil
	}
	for _, m := range c.meters {
		m.seen = count{} // new rules count from the beginning
	}
	return nil
}

func refused(err error) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeFilterRefused, "the packet filter did not take the rules: %v", err).
		Fix("see what would be loaded", "fairlead plan")
	p.Err = err
	return p
}

// world is the host as it is now. A name that cannot be asked for keeps its
// last addresses. The lock is held.
func (c *Carrier) world(ctx context.Context, want []*fairlead.Forward) (*World, error) {
	all, err := c.cfg.Interfaces()
	if err != nil {
		return nil, err
	}
	wan, lan, err := c.cfg.Sides()
	if err != nil {
		return nil, err
	}
	for _, host := range Hosts(want) {
		one, cancel := context.WithTimeout(ctx, nameWait)
		addrs, err := c.cfg.Resolve(one, host)
		cancel()
		if err == nil && len(addrs) > 0 {
			addrs = slices.Clone(addrs)
			slices.SortFunc(addrs, netip.Addr.Compare) // the first is used: the same one each time
			c.resolved[host] = addrs
		}
	}
	return &World{WAN: wan, LAN: lan, Interfaces: all, Resolved: c.resolved}, nil
}

// Report is the status of every forward carried.
func (c *Carrier) Report() []fairlead.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), runWait)
	defer cancel()
	c.recount(ctx)
	return c.statuses()
}

// recount adds what passed since the last look to the meters. The lock is held.
func (c *Carrier) recount(ctx context.Context) {
	if c.loaded == nil {
		return
	}
	counts, err := c.filter().counts(ctx)
	if err != nil {
		return // they are read again at the next look
	}
	for i := range c.loaded.Parts {
		part := &c.loaded.Parts[i]
		now, ok := counts[part.Label]
		if !ok || part.Label == "" {
			continue
		}
		m := c.meterOf(part.Forward)
		if now.in < m.seen.in || now.out < m.seen.out || now.flows < m.seen.flows {
			m.seen = count{} // somebody else set the counters to zero
		}
		m.meter.Flows.Add(now.flows - m.seen.flows)
		m.meter.In.Add(now.in - m.seen.in)
		m.meter.Out.Add(now.out - m.seen.out)
		m.seen = now
	}
}

func (c *Carrier) meterOf(f *fairlead.Forward) *metered {
	m := c.meters[keyOf(f)]
	if m == nil {
		m = new(metered)
		c.meters[keyOf(f)] = m
	}
	return m
}

// statuses are how the forwards stand. The lock is held.
func (c *Carrier) statuses() []fairlead.Status {
	list := make([]fairlead.Status, len(c.plan.Parts))
	for i := range c.plan.Parts {
		part := &c.plan.Parts[i]
		m := c.meterOf(part.Forward)
		s := fairlead.Status{Forward: part.Forward, State: fairlead.Listening, By: kernel.Name, Bound: part.Bound, Problem: part.Problem, Meter: &m.meter}
		if m.meter.Out.Load() > 0 {
			s.State = fairlead.Passing
		}
		for _, t := range part.Targets {
			s.Targets = append(s.Targets, fairlead.TargetStatus{Target: t.String()})
		}
		if part.Carried() && c.failed != nil {
			s.Problem = c.failed
		}
		if s.Problem != nil && !s.Problem.Warning {
			s.State, s.Bound = fairlead.Broken, nil
		}
		list[i] = s
	}
	return list
}

// Leave takes the rules away, so that nobody new is let in. Rules of these filters
// have no time of their own: a restart of the service refuses clients for as
// long as it takes.
func (c *Carrier) Leave() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = true
	if c.loaded == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), runWait)
	defer cancel()
	c.recount(ctx)
	if err := c.filter().load(ctx, &Plan{}, c.loaded); err != nil {
		return refused(err)
	}
	c.loaded = nil
	return nil
}

// Drain waits for nothing: connections are the filter's and go on without us.
func (c *Carrier) Drain(context.Context) int { return 0 }

// Guards is false: no rule of ours shuts this host off.
func (c *Carrier) Guards() bool { return false }

// Repairs is 0: rules that somebody else took away are loaded again with the
// next change only.
func (c *Carrier) Repairs() int64 { return 0 }

// Close takes away what is still there.
func (c *Carrier) Close() { c.Leave() }
