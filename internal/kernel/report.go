package kernel

import (
	"net/netip"
	"reflect"
	"slices"

	"fairlead"
)

// A carried is one forward that was applied. Only its meter changes.
type carried struct {
	part  part
	tally *running
	// What its meter had when its sentence became what it is: those are no
	// signs that it passes anything now.
	inBefore, outBefore int64
	ways                []way             // how its targets are reached
	lacks               *fairlead.Problem // what of this host is in the way, a warning

	beyond    *fairlead.Problem // which rules of others drop its packets
	allBeyond bool              // all of them
	denied    *fairlead.Problem // why allow-in was not kept, a warning
}

// key tells forwards apart.
type key struct {
	owner fairlead.Owner
	name  string
}

func keyOf(f *fairlead.Forward) key { return key{f.Owner, f.Name} }

// before finds what was carried under the name of the i-th of a list of wishes,
// which mostly are in the same order; nil where there was nothing.
func (k *Kernel) before() func(i int, f *fairlead.Forward) *carried {
	list := *k.carried.Load()
	var by map[key]*carried
	return func(i int, f *fairlead.Forward) *carried {
		if i < len(list) && (list[i].part.f == f || keyOf(list[i].part.f) == keyOf(f)) {
			return list[i]
		}
		if by == nil {
			by = make(map[key]*carried, len(list))
			for _, c := range list {
				by[keyOf(c.part.f)] = c
			}
		}
		return by[keyOf(f)]
	}
}

// keep makes p what Report tells of. Meters go on under the same name.
func (k *Kernel) keep(p *plan) {
	old := k.before()
	list := make([]*carried, len(p.parts))
	for i := range p.parts {
		c := &carried{part: p.parts[i]}
		switch o := old(i, c.part.f); {
		case o == nil:
			c.tally = new(running)
		case sameMeaning(o.part.f, c.part.f):
			c.tally, c.inBefore, c.outBefore = o.tally, o.inBefore, o.outBefore
		default:
			c.tally = o.tally
			c.inBefore, c.outBefore = o.tally.meter.In.Load(), o.tally.meter.Out.Load()
		}
		list[i] = c
		if k.led == nil {
			k.led = map[netip.Addr]bool{}
		}
		for _, t := range c.part.targets {
			k.led[t.Addr()] = true
		}
		if f := c.part.f; f.Kind != fairlead.KindOpen && slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return t.Host == "self" }) {
			k.led[itself] = true
		}
	}
	k.lookAround(list)
	if p.world != nil {
		k.allow(list, p.world)
		k.lookBeyond(list, p.world)
	}
	k.carried.Store(&list)
	k.counted.Store(p)
}

// reworded are those carried under whose name want has another sentence.
func (k *Kernel) reworded(want []*fairlead.Forward) map[*fairlead.Forward]bool {
	old := k.before()
	changed := map[*fairlead.Forward]bool{}
	for i, f := range want {
		if o := old(i, f); o != nil && !sameMeaning(o.part.f, f) {
			changed[o.part.f] = true
		}
	}
	return changed
}

// sameMeaning reports whether two forwards ask for the same, wherever that was
// written.
func sameMeaning(a, b *fairlead.Forward) bool {
	if a == b {
		return true
	}
	x, y := *a, *b
	x.Source, x.Expr, x.Expires = y.Source, y.Expr, y.Expires
	return reflect.DeepEqual(&x, &y)
}

// Report is the status of every forward carried.
func (k *Kernel) Report() []fairlead.Status {
	k.recount(false)
	k.countActive()
	k.lookAtOpenings(lookFresh)
	return k.statuses()
}

// statuses are as of the last count.
func (k *Kernel) statuses() []fairlead.Status {
	list := *k.carried.Load()
	statuses := make([]fairlead.Status, len(list))
	for i, c := range list {
		statuses[i] = c.status()
		if c.part.memory != nil {
			k.holding(&statuses[i])
		}
	}
	return statuses
}

// status is how the forward stands. Nobody connects to its targets to find that
// out: it passes when an answer of a target came back, or, where datagrams may
// be all that there is, when one was led on.
func (c *carried) status() fairlead.Status {
	f := c.part.f
	s := fairlead.Status{
		Forward: f, By: Name, State: fairlead.Listening,
		Bound: c.part.bound, Problem: c.part.problem, Meter: &c.tally.meter,
	}
	answered := c.tally.meter.Out.Load() > c.outBefore
	passed := answered || f.At.Net == fairlead.UDP && c.tally.meter.In.Load() > c.inBefore
	if passed {
		s.State = fairlead.Passing
	}
	for _, w := range c.ways {
		t := fairlead.TargetStatus{Target: w.target.String(), Problem: w.problem}
		t.Up = w.problem == nil && answered && len(c.ways) == 1
		s.Targets = append(s.Targets, t)
	}
	if c.lacks != nil && (s.Problem == nil || s.Problem.Warning) {
		s.Problem = c.lacks // nothing passes: that comes before what is only half of a success
	}
	unreached := 0
	var first *fairlead.Problem
	for _, w := range c.ways {
		if w.problem != nil {
			unreached++
			if first == nil {
				first = w.problem
			}
		}
	}
	switch {
	case s.Problem != nil && !s.Problem.Warning && len(s.Bound) == 0:
		s.State = fairlead.Broken
	case s.Problem != nil && !s.Problem.Warning:
		s.State = fairlead.Partial
	case unreached > 0 && unreached == len(c.ways):
		s.State, s.Problem = fairlead.Broken, first
	case unreached > 0:
		s.State, s.Problem = fairlead.Partial, first
	}
	switch b := c.beyond; {
	case s.Problem != nil && !s.Problem.Warning:
	case b != nil && !b.Warning:
		s.Problem, s.State = b, fairlead.Partial
		if c.allBeyond {
			s.State = fairlead.Broken
		}
	case c.denied != nil:
		s.Problem = c.denied
	case s.Problem == nil:
		s.Problem = b
	}
	return s
}
