package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/control"
	"fairlead/internal/packetfilter"
	"fairlead/internal/sys/netmon"
)

// nftables is the packet filter of Linux, for which plan is by itself.
const nftables = "nftables"

// filterNames are the packet filters that plan knows.
func filterNames() []string {
	list := []string{nftables}
	for _, d := range packetfilter.Dialects {
		list = append(list, string(d))
	}
	return list
}

// planFor prints what would be loaded into another packet filter than nftables.
func (p *program) planFor(h *house, filter string, forwards []*fairlead.Forward, sentence bool) error {
	d := packetfilter.Dialect(filter)
	if !slices.Contains(packetfilter.Dialects, d) {
		return exitProblems(exitUsage, []*fairlead.Problem{
			fairlead.Problemf(fairlead.CodeUsage, "--for names a packet filter, and %q is none of %s", filter, strings.Join(filterNames(), ", ")).
				Note("note", "the modifier is written without dashes here: for %s", filter)})
	}
	carriers := newFitter()
	defer carriers.close()
	var mine []*fairlead.Forward
	var refusals []*fairlead.Problem
	var others []string
	for _, f := range forwards {
		if f.Disabled {
			continue
		}
		err := packetfilter.Fits(d, f)
		if err == nil {
			mine = append(mine, f)
			continue
		}
		if carriers.relay.Fits(f) == nil && (f.Policy.By == "" || f.Policy.By == "auto" || f.Policy.By == carriers.relay.Name()) {
			others = append(others, f.Name)
			continue
		}
		var problem *fairlead.Problem
		if errors.As(err, &problem) {
			refusals = append(refusals, written(f, problem))
		}
	}
	w, err := p.filterWorld(h, mine)
	if err != nil {
		return err
	}
	plan := packetfilter.Compile(d, mine, w)
	var statuses []fairlead.Status
	for i := range plan.Parts {
		part := &plan.Parts[i]
		if part.Problem != nil {
			refusals = append(refusals, written(part.Forward, part.Problem))
		}
		s := fairlead.Status{Forward: part.Forward, State: fairlead.Listening, By: carriers.kernel.Name(), Bound: part.Bound, Problem: part.Problem}
		if !part.Carried() {
			s.State = fairlead.Broken
		}
		statuses = append(statuses, s)
	}
	if p.json {
		doc := planDoc{Schema: "fairlead/plan/1", For: filter, Text: plan.Text(), Outside: append([]string{}, plan.Notes...), Forwards: []control.Forward{}}
		for _, s := range statuses {
			doc.Forwards = append(doc.Forwards, control.ForwardOf(s))
		}
		if err := p.talk.JSON(doc); err != nil {
			return err
		}
	} else {
		var b strings.Builder
		for _, name := range others {
			b.WriteString("# " + name + " is carried by the relay, in the process: nothing of it is in the kernel\n")
		}
		b.WriteString(plan.Text())
		if _, err := p.stdout.Write([]byte(b.String())); err != nil {
			return err
		}
	}
	if sentence && len(refusals) > 0 && plan.Text() == "" {
		return exitProblems(exitFailed, refusals)
	}
	p.talk.Problems(refusals, 0)
	return nil
}

// written is problem with the place where f was written.
func written(f *fairlead.Forward, problem *fairlead.Problem) *fairlead.Problem {
	told := *problem
	if f.Source.File != "" {
		return told.Note("in", "%s:%d  %s", f.Source.File, f.Source.Line, f.Name)
	}
	return &told
}

// filterWorld is what rules are made for: this machine, or another one when a
// side names an interface that this one does not have.
func (p *program) filterWorld(h *house, want []*fairlead.Forward) (*packetfilter.World, error) {
	all, err := netmon.Interfaces()
	if err != nil {
		return nil, err
	}
	wan, lan, err := h.sides()
	if err != nil {
		return nil, err
	}
	here := func(name string) bool {
		return slices.ContainsFunc(all, func(i netmon.Interface) bool { return i.Name == name })
	}
	set := h.settings.Load()
	if named := slices.Concat(set.wan, set.lan); slices.ContainsFunc(named, func(name string) bool { return !here(name) }) {
		all, wan, lan = nil, set.wan, set.lan
	}
	w := &packetfilter.World{WAN: wan, LAN: lan, Interfaces: all, Resolved: map[string][]netip.Addr{}}
	ctx, cancel := context.WithTimeout(p.ctx, p.timeout)
	defer cancel()
	for _, host := range packetfilter.Hosts(want) {
		if addrs, err := h.here.Resolve(ctx, host); err == nil {
			w.Resolved[host] = addrs
		}
	}
	return w, nil
}
