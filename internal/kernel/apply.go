package kernel

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/nft"
)

// namePatience is how long an Apply waits for names that were never asked for.
// A name server that takes longer is not waited for: the rest is carried, and
// another Apply follows its answer.
const namePatience = 2 * time.Second

// Apply carries exactly want; see fairlead.Carrier.
func (k *Kernel) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	known := k.names.of(hostsOf(want), namePatience)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left {
		return k.ended(want)
	}
	k.want = want
	k.make(ctx, known)
	k.lookAtOpenings(0) // what is there now was opened before
	return k.statuses()
}

// ended are the statuses of forwards that come after Leave or Close: as they
// stood, where they were carried.
func (k *Kernel) ended(want []*fairlead.Forward) []fairlead.Status {
	before := k.before()
	list := make([]fairlead.Status, len(want))
	for i, f := range want {
		if c := before(i, f); c != nil {
			list[i] = c.status()
			list[i].Forward = f
			continue
		}
		list[i] = fairlead.Status{Forward: f, By: Name, State: fairlead.Broken,
			Problem: fairlead.Problemf(fairlead.CodeFailed, "the program is ending")}
	}
	return list
}

// make brings the kernel from what it has to what k.want says.
func (k *Kernel) make(ctx context.Context, known map[string]answer) {
	if len(k.want) == 0 && k.plan == nil && k.cfg.Owned {
		return // nobody asked for anything yet
	}
	w, err := k.world(known)
	if err != nil {
		k.fail(fairlead.AsProblem(err))
		return
	}
	k.claim(w)
	w.guarded = k.guarded()
	var p *plan
	if err := k.inside(func() error { p = k.compile(k.want, w); return nil }); err != nil {
		k.fail(fairlead.AsProblem(err))
		return
	}
	explainNames(p, known)
	if k.plan == nil && len(k.want) == 0 {
		// Only what an earlier life left is to be taken away; where nothing
		// may be asked there is nothing of ours.
		if has, err := k.has(); err != nil || !has {
			return
		}
	}
	k.recountChanged(k.want)
	if err := k.load(p.table); err != nil {
		k.fail(k.refused(err))
		return
	}
	k.follow(ctx, k.plan, p, w)
	k.plan = p
	k.keep(p)
	k.watchOn()
}

// compile is the plan, marked as ours.
func (k *Kernel) compile(want []*fairlead.Forward, w *world) *plan {
	p := compile(want, w)
	p.world = w
	p.table.Chains = append(p.table.Chains, nft.Chain{Name: marker})
	return p
}

// marker is an empty chain by which a table is known to be ours, whatever its
// name: nothing of somebody else is ever taken for ours.
const marker = "made_by_fairlead"

// world is what there is around, now.
func (k *Kernel) world(known map[string]answer) (*world, error) {
	w := &world{
		table: k.cfg.Table, owned: k.cfg.Owned,
		addrs: map[string][]netip.Prefix{}, resolved: map[string][]netip.Addr{}, now: time.Now(),
	}
	for host, a := range known {
		if len(a.addrs) > 0 {
			w.resolved[host] = a.addrs
		}
	}
	if k.cfg.Listeners != nil {
		w.listens = k.cfg.Listeners()
	}
	w.lent, w.claims = k.lent(), k.claims.states()
	list := k.cfg.Interfaces
	if list == nil {
		list = netmon.Interfaces
	}
	err := k.inside(func() error {
		all, err := list()
		if err != nil {
			return err
		}
		for _, i := range all {
			w.addrs[i.Name] = prefixes(i)
		}
		if guards(k.want) || hides(k.want) {
			w.held = k.held.now()
		}
		if k.cfg.Sides != nil {
			w.wan, w.lan, err = k.cfg.Sides()
		} else {
			w.wan, w.lan, err = netmon.Default()
		}
		return err
	})
	return w, err
}

// prefixes are an interface's addresses with the networks that they stand in; a
// tunnel's stand alone.
func prefixes(i netmon.Interface) []netip.Prefix {
	list := make([]netip.Prefix, 0, len(i.Addrs))
	for _, a := range i.Addrs {
		a = a.WithZone("")
		bits := a.BitLen()
		for _, n := range i.Nets {
			if n.Contains(a) && n.Bits() < bits {
				bits = n.Bits()
			}
		}
		list = append(list, netip.PrefixFrom(a, bits))
	}
	return list
}

// hostsOf are the targets' names that have to be looked up.
func hostsOf(want []*fairlead.Forward) []string {
	var hosts []string
	seen := map[string]bool{}
	for _, f := range want {
		if f.Kind == fairlead.KindShare {
			continue // it leads to interfaces
		}
		for i := range f.To {
			h := f.To[i].Host
			if h == "" || h == "self" || seen[h] {
				continue
			}
			seen[h] = true
			if _, err := netip.ParseAddr(h); err != nil {
				hosts = append(hosts, h)
			}
		}
	}
	return hosts
}

// explainNames says of forwards that cannot be carried, because a target's name
// has no address, why it has none.
func explainNames(p *plan, known map[string]answer) {
	if len(known) == 0 {
		return
	}
	for i := range p.parts {
		part := &p.parts[i]
		if part.problem == nil {
			continue
		}
		for j := range part.f.To {
			host := part.f.To[j].Host
			a, ok := known[host]
			if why := a.problem(host); ok && why != nil {
				why := *why
				why.Warning = part.problem.Warning
				part.problem = &why
				break
			}
		}
	}
}

// tries is how often a table is looked at anew that changed under our hands.
const tries = 3

// load makes t what the kernel has: a change where it will do, else all of it
// at once. It is the only place that writes the table.
func (k *Kernel) load(t *nft.Table) error {
	conn, err := k.open()
	if err != nil {
		return err
	}
	for range tries {
		if k.loaded == nil {
			err = k.inside(func() error {
				k.loaded, err = conn.Read(t.Family, t.Name)
				k.seen = time.Now()
				return err
			})
			if err != nil {
				return err
			}
		}
		if err = k.step(conn, t); err == nil {
			k.loaded, k.seen = t, time.Now()
			return nil
		}
		if errors.Is(err, os.ErrPermission) || errors.Is(err, errors.ErrUnsupported) || errors.As(err, new(*fairlead.Problem)) {
			k.loaded = nil
			return err
		}
		k.loaded = nil // it is not what it was taken for: look
	}
	err = k.replace(conn, t)
	if err == nil {
		k.loaded, k.seen = t, time.Now()
	}
	return err
}

// step goes from k.loaded to t.
func (k *Kernel) step(conn *nft.Conn, t *nft.Table) error {
	old := k.loaded
	k.adopted = k.plan == nil && old != nil && alike(old, t)
	if old == nil {
		return k.replace(conn, t)
	}
	if !foreign(old) {
		old = hold(old, t, time.Since(k.seen))
		ch, ok := nft.Diff(old, t)
		switch {
		case ok && ch.Empty():
			return nil
		case ok:
			return k.inside(func() error {
				carryChange(conn, old, &ch)
				return conn.Change(ch)
			})
		}
		k.carry(conn, old, t)
		return k.replace(conn, t)
	}
	return fairlead.Problemf(fairlead.CodeForeignTable, "there is a table inet %s here that fairlead did not make", old.Name).
		Fix("look at it", "nft list table inet "+old.Name).
		Fix("have this instance use another name: give it a control socket of its own", "fairlead up --socket PATH")
}

// foreign reports whether a table of our name lacks our mark.
func foreign(t *nft.Table) bool {
	return !slices.ContainsFunc(t.Chains, func(c nft.Chain) bool { return c.Name == marker })
}

// open opens the connection, once.
func (k *Kernel) open() (*nft.Conn, error) {
	if k.conn != nil {
		return k.conn, nil
	}
	err := k.inside(func() (err error) {
		k.conn, err = nft.Open()
		return err
	})
	if err != nil {
		k.conn = nil
		return nil, err
	}
	k.own.Store(k.conn.ID())
	return k.conn, nil
}

// has reports whether the kernel has a table of our name and mark.
func (k *Kernel) has() (bool, error) {
	conn, err := k.open()
	if err != nil {
		return false, err
	}
	var t *nft.Table
	err = k.inside(func() error {
		all, err := conn.Tables()
		if err != nil || !slices.ContainsFunc(all, func(l nft.Listed) bool { return l.Family == nft.Inet && l.Name == k.cfg.Table }) {
			return err
		}
		t, err = conn.Read(nft.Inet, k.cfg.Table)
		return err
	})
	return t != nil && !foreign(t), err
}

// refused is why the kernel did not take the table, as a problem with a way out.
func (k *Kernel) refused(err error) *fairlead.Problem {
	var own *fairlead.Problem
	if errors.As(err, &own) {
		return own
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return noRight(err)
	case errors.Is(err, errors.ErrUnsupported):
		p := fairlead.Problemf(fairlead.CodeNoNFTables, "this kernel has no nf_tables with address translation").
			Note("why", "%v", err).
			Fix("load the modules", "sudo modprobe nf_tables nft_chain_nat").
			Fix("or have a process carry it", "fairlead forward … to …")
		if k.cfg.Owned {
			p.Note("note", "a run in the foreground also needs Linux 5.12, which takes its table away when it ends; a service (fairlead up) does not")
		}
		p.Err = err
		return p
	}
	p := fairlead.Problemf(fairlead.CodeKernelRefused, "the kernel did not take the table %s: %v", k.cfg.Table, err)
	p.Err = err
	return p
}

// noRight is what is missing to change nftables: the right, or a container that
// was given it.
func noRight(err error) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodePrivilege, "changing nftables needs CAP_NET_ADMIN, which this process does not have")
	p.Err = err
	if in := container(); in != "" {
		return p.Note("note", "this is a container (%s); the table would be that of its own network", in).
			Fix("give the container the right, and the host's network if that is the gateway", in+" run --cap-add NET_ADMIN --network host …").
			Fix("or have a process carry it: needs no right", "fairlead forward … to …")
	}
	if os.Geteuid() == 0 {
		p.Note("note", "this is root without that right: a container, or a service with a bounding set")
	}
	return p.Fix("run it with the right", "sudo fairlead …").
		Fix("give the service the right", "systemctl edit fairlead   # [Service] AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE and CapabilityBoundingSet= the same").
		Fix("or have a process carry it: needs no right", "fairlead forward … to …")
}

// container is the program that made the container this is, "" for none that is
// known.
func container() string {
	for path, name := range map[string]string{"/.dockerenv": "docker", "/run/.containerenv": "podman"} {
		if _, err := os.Stat(path); err == nil {
			return name
		}
	}
	if text, err := os.ReadFile("/proc/1/environ"); err == nil {
		for _, v := range strings.Split(string(text), "\x00") {
			if name, ok := strings.CutPrefix(v, "container="); ok {
				return name
			}
		}
	}
	return ""
}

// fail has every forward stand broken for one reason.
func (k *Kernel) fail(why *fairlead.Problem) {
	old := k.before()
	list := make([]*carried, len(k.want))
	for i, f := range k.want {
		c := &carried{part: part{f: f, problem: why}}
		if o := old(i, f); o != nil {
			c.tally, c.inBefore, c.outBefore = o.tally, o.inBefore, o.outBefore
		} else {
			c.tally = new(running)
		}
		list[i] = c
	}
	k.carried.Store(&list)
}
