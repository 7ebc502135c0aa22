package kernel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"fairlead"
)

// A Preview is what Apply would load.
type Preview struct {
	Table string // its name
	Text  string // in nft(8)'s words; "" where nothing would be loaded

	// Outside is what would be changed on this host outside the table, in
	// words: an address that is claimed, another firewall that is asked.
	Outside []string

	// Statuses are those of the forwards, without what only the kernel knows.
	Statuses []fairlead.Status
}

// Preview says what Apply would load for want, and loads nothing. Names are
// waited for as long as ctx lasts.
func (k *Kernel) Preview(ctx context.Context, want []*fairlead.Forward) (Preview, error) {
	hosts := hostsOf(want)
	known := k.names.of(hosts, namePatience)
	for all := false; !all && ctx.Err() == nil && len(hosts) > 0; {
		var heard <-chan struct{}
		if known, heard, all = k.names.now(); !all {
			select {
			case <-heard:
			case <-ctx.Done():
			}
		}
	}
	v := Preview{Table: k.cfg.Table}
	w, err := k.world(known)
	if err != nil {
		return v, err
	}
	// As if nobody had the addresses that are claimed.
	w.claims = map[netip.Addr]error{}
	for key := range claimsOf(want, w) {
		w.claims[key.addr] = nil
		u := key.undo()
		v.Outside = append(v.Outside, "ip address add "+u.Address+" dev "+u.Interface+" (if nobody else has it)")
	}
	slices.Sort(v.Outside)
	p := k.compile(want, w)
	explainNames(p, known)
	list := make([]*carried, len(p.parts))
	for i := range p.parts {
		list[i] = &carried{part: p.parts[i], tally: new(running)}
	}
	k.lookAround(list)
	for _, c := range list {
		if fw := c.part.f.Policy.AllowIn; fw != "" && (c.part.problem == nil || c.part.problem.Warning) {
			for _, h := range holesFor(c, w) {
				v.Outside = append(v.Outside, fmt.Sprintf("%s is asked, for %s, to let through %s", fw, c.part.f.Name, h))
			}
		}
		v.Statuses = append(v.Statuses, c.status())
	}
	if len(want) > 0 {
		v.Text = p.table.Text()
	}
	return v, nil
}
