package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/conntrack"
	"fairlead/internal/sys/nft"
)

// Cleaned is what Clean took away, or would take away. Lists are never nil.
type Cleaned struct {
	Tables  []string // names of tables of ours
	PutBack []string // commands that say the same as what was put back
	Cut     int      // connections that these tables translated
	Left    []string // what stays, with the reason

	// Elsewhere is what was changed in other network namespaces and is put back
	// by a Clean there. It is no failure of this one.
	Elsewhere []string
}

// Clean removes every table of ours in this network namespace, cuts the
// connections that they translated, and puts back what the directory state
// remembers as changed elsewhere. A table of ours has our name and our mark; one
// that belongs to a run in the foreground stays, and goes with it. With dry it
// only says what there is.
//
// What could not be done is in Left; the error says why nothing could be done.
func Clean(ctx context.Context, state string, dry bool) (Cleaned, error) {
	c := Cleaned{Tables: []string{}, PutBack: []string{}, Left: []string{}, Elsewhere: []string{}}
	held, err := c.tables(ctx, dry)
	if err != nil {
		return c, err
	}
	return c, c.records(state, held, dry)
}

// tables removes tables and returns the names of those that stay because their
// owner lives.
func (c *Cleaned) tables(ctx context.Context, dry bool) (held []string, err error) {
	k := New(Config{Owned: true})
	defer k.Close()
	conn, err := nft.Open()
	if err != nil {
		return nil, k.refused(err)
	}
	defer conn.Close()
	all, err := conn.Tables()
	if err != nil {
		return nil, k.refused(err)
	}
	targets := map[netip.Addr]bool{}
	for _, l := range all {
		if l.Family != nft.Inet || l.Name != tablePrefix && !strings.HasPrefix(l.Name, tablePrefix+"-") {
			continue
		}
		t, err := conn.Read(l.Family, l.Name)
		switch {
		case err != nil:
			c.Left = append(c.Left, fmt.Sprintf("table inet %s: %v", l.Name, err))
			continue
		case t == nil: // gone since
			continue
		case l.Owner != 0 && strings.HasSuffix(l.Name, killedSuffix): // it goes within seconds
			continue
		case l.Owner != 0:
			held = append(held, l.Name)
			c.Left = append(c.Left, fmt.Sprintf("table inet %s: it goes with the program that runs in the foreground", l.Name))
			continue
		case foreign(t):
			c.Left = append(c.Left, fmt.Sprintf("table inet %s: it has our name and not our mark, so somebody else made it", l.Name))
			continue
		}
		if !dry {
			if err := conn.Delete(l.Family, l.Name); err != nil {
				c.Left = append(c.Left, fmt.Sprintf("table inet %s: %v", l.Name, err))
				continue
			}
		}
		c.Tables = append(c.Tables, l.Name)
		targetsOf(t, targets)
	}
	// Without the table, those that other tables of address translation keep
	// alive would go on for ever.
	c.Cut, err = forget(ctx, targets, !dry)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		c.Left = append(c.Left, fmt.Sprintf("connections: %v", err))
	}
	return held, nil
}

// itself stands among targets for those connections to this host of which the
// port alone was translated, as for the target self.
var itself netip.Addr

// targetsOf adds the addresses to which a table's maps and rules lead.
func targetsOf(t *nft.Table, to map[netip.Addr]bool) {
	for _, s := range t.Sets {
		for i, typ := range s.Data {
			if typ != nft.IPv4Addr && typ != nft.IPv6Addr {
				continue
			}
			for _, e := range s.Elements {
				if i < len(e.Data) {
					if a, ok := netip.AddrFromSlice([]byte(e.Data[i])); ok {
						to[a] = true
					}
				}
			}
		}
	}
	for _, ch := range t.Chains {
		for _, r := range ch.Rules {
			for _, e := range r.Exprs {
				d, ok := e.(nft.DNAT)
				switch {
				case !ok:
				case d.Addr.IsValid():
					to[d.Addr] = true
				case d.Choose != nil:
					for _, c := range d.Choose.Elements {
						if len(c.Data) == 0 {
							continue
						}
						if a, ok := netip.AddrFromSlice([]byte(c.Data[0])); ok {
							to[a] = true
						}
					}
				case d.Map == "":
					to[itself] = true
				}
			}
		}
	}
}

// forget counts the connections of TCP that lead to targets; with cut, those of
// every protocol are forgotten, so that their packets go where they would
// without us.
func forget(ctx context.Context, targets map[netip.Addr]bool, cut bool) (n int, err error) {
	if len(targets) == 0 {
		return 0, nil
	}
	var list []conntrack.Entry
	err = conntrack.Each(ctx, func(e *conntrack.Entry) bool {
		to := e.Reply.Src.Addr().Unmap()
		if to == e.Original.Dst.Addr().Unmap() {
			to = itself
		}
		if e.Status&conntrack.DNAT == 0 || !targets[to] {
			return true
		}
		if e.Original.Proto == protoTCP && e.TCPState < tcpTimeWait {
			n++
		}
		if cut {
			list = append(list, *e)
		}
		return true
	})
	for i := range list {
		if e := conntrack.Delete(&list[i]); err == nil {
			err = e
		}
	}
	return n, err
}

// In connection tracking a connection of TCP has nothing left to say in this
// state and those behind it (linux/netfilter/nf_conntrack_tcp.h).
const tcpTimeWait = 7

// records puts back what the directory remembers, but for that of the tables
// that stay.
func (c *Cleaned) records(state string, held []string, dry bool) error {
	if state == "" {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(state, undoPrefix+"*"+undoSuffix))
	if err != nil {
		return err
	}
	for _, path := range paths {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), undoPrefix), undoSuffix)
		if slices.Contains(held, name) {
			continue
		}
		u, err := openUndos(state, name)
		if errors.Is(err, os.ErrPermission) {
			return fairlead.Problemf(fairlead.CodeNotPutBack, "what has to be put back may not be read: %v", err).
				Fix("use the right", "sudo fairlead clean")
		}
		if err != nil {
			c.Left = append(c.Left, err.Error())
			continue
		}
		here := network()
		elsewhere := func(r Undo) bool { return r.Network != 0 && here != 0 && r.Network != here }
		before := u.all()
		if !dry {
			u.putBack(func(r Undo) bool { return !elsewhere(r) })
		}
		after := u.all()
		for _, r := range before {
			if elsewhere(r) {
				c.Elsewhere = append(c.Elsewhere, r.String())
				continue
			}
			if dry || !slices.ContainsFunc(after, func(o Undo) bool { return o.subject() == r.subject() }) {
				c.PutBack = append(c.PutBack, r.String())
			} else {
				c.Left = append(c.Left, r.String()+": failed")
			}
		}
	}
	return nil
}
