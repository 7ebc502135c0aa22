package kernel

import (
	"context"
	"net/netip"
	"time"

	"fairlead/internal/sys/nft"
)

// Leave ends the service's forwards in a way that its next start can take back:
// from now on the kernel itself lets new connections in for Config.Life, and not
// longer. A carrier of the same table that applies within that time takes the
// end away, so that a restart refuses nobody; connections that are established
// live on in either case. What guards this host and the LAN (share) stays as it
// is until it is cleaned away: a guard that ends by itself would let in what it
// kept out.
//
// Apply carries nothing any more afterwards, and repairs cease. With a table that
// is Owned, or was never loaded, it does nothing.
func (k *Kernel) Leave() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left || k.cfg.Owned {
		return nil
	}
	k.left = true
	if k.plan == nil || k.conn == nil {
		return nil
	}
	life := k.cfg.Life
	if life == 0 {
		life = Life
	}
	t := mortal(k.plan.table, life)
	if err := k.load(t); err != nil {
		return k.refused(err)
	}
	return nil
}

// mortal is t with an end for whatever lets new connections in: the elements of
// sets that may end ([nft.Set.Timed]) and that no rule adds to. Those that end
// sooner anyway stay as they are.
func mortal(t *nft.Table, life time.Duration) *nft.Table {
	end := *t
	end.Sets = append([]nft.Set(nil), t.Sets...)
	for i := range end.Sets {
		s := &end.Sets[i]
		if !s.Timed || s.Dynamic {
			continue
		}
		s.Elements = append([]nft.Element(nil), s.Elements...)
		for j := range s.Elements {
			e := &s.Elements[j]
			if e.Timeout == 0 || e.Timeout > life && (e.Expires == 0 || e.Expires > life) {
				e.Timeout, e.Expires = life, 0
			}
		}
	}
	return &end
}

// Drain lets no new connection in and waits until those that there are have
// ended or ctx is over; what is left then is cut. It returns how many that were:
// none for a table that is not Owned, whose connections live on without us.
func (k *Kernel) Drain(ctx context.Context) int {
	if !k.cfg.Owned {
		return 0
	}
	k.Apply(ctx, nil)
	k.mu.Lock()
	targets := k.led
	k.mu.Unlock()
	if len(targets) == 0 {
		return 0
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for k.alive(targets, false) > 0 {
		select {
		case <-ctx.Done():
			return k.alive(targets, true)
		case <-tick.C:
		}
	}
	k.alive(targets, true) // datagrams
	return 0
}

// alive counts the connections of TCP that lead to targets. Datagrams have no
// end that could be waited for.
func (k *Kernel) alive(targets map[netip.Addr]bool, cut bool) (n int) {
	k.inside(func() (err error) {
		n, err = forget(context.Background(), targets, cut)
		return err
	})
	return n
}
