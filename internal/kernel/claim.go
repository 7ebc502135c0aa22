package kernel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/claim"
	"fairlead/internal/sys/nft"
)

// claims are the addresses that forwards claim, and how each of them stands.
// An address is asked for, taken and renewed by a goroutine of its own, because
// asking the link takes seconds. The kernel ends what is not renewed.
type claims struct {
	ctx     context.Context
	wg      *sync.WaitGroup
	inside  func(func() error) error
	changed func()                  // a claim stands differently: carry anew
	told    func(*fairlead.Problem) // trouble that passes

	mu   sync.Mutex // guards the rest
	held map[claimKey]*claimed
}

// A claimKey is an address on an interface.
type claimKey struct {
	on   string
	addr netip.Addr
}

// undo is how it is given back.
func (key claimKey) undo() Undo {
	return Undo{Address: key.addr.String() + "/" + strconv.Itoa(key.addr.BitLen()), Interface: key.on}
}

// A claimed is one that is wanted.
type claimed struct {
	stop context.CancelFunc
	over chan struct{} // closed when its goroutine has ended

	// Guarded by the claims' lock.
	settled bool
	problem error // why it is not ours, once it is settled
}

// claimAgain is when an address that could not be taken is asked for anew.
const claimAgain = 30 * time.Second

// defendEach is how often at most a claimed address is defended against somebody
// who says that he has it (RFC 5227 §2.4, DEFEND_INTERVAL).
const defendEach = 10 * time.Second

func newClaims(ctx context.Context, wg *sync.WaitGroup, inside func(func() error) error, changed func(), told func(*fairlead.Problem)) *claims {
	return &claims{ctx: ctx, wg: wg, inside: inside, changed: changed, told: told, held: map[claimKey]*claimed{}}
}

// want has exactly the keys claimed, and returns those that are not any more,
// to be given back; nobody renews them by then.
func (c *claims) want(keys map[claimKey]bool) (gone []claimKey) {
	var left []*claimed
	defer func() {
		for _, held := range left {
			<-held.over
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, held := range c.held {
		if !keys[key] {
			held.stop()
			delete(c.held, key)
			gone = append(gone, key)
			left = append(left, held)
		}
	}
	for key := range keys {
		if c.held[key] == nil {
			ctx, stop := context.WithCancel(c.ctx)
			held := &claimed{stop: stop, over: make(chan struct{})}
			c.held[key] = held
			c.wg.Go(func() { c.follow(ctx, key, held) })
		}
	}
	return gone
}

// states are how claims stand: nil for those that are ours, by their address.
func (c *claims) states() map[netip.Addr]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := map[netip.Addr]error{}
	for key, held := range c.held {
		m[key.addr] = held.problem
		if !held.settled {
			m[key.addr] = errAsking
		}
	}
	return m
}

// errAsking is how a claim stands while the link is asked.
var errAsking = errors.New("the link is being asked whether somebody has it")

// follow takes the address, keeps it, and tries again when it cannot.
func (c *claims) follow(ctx context.Context, key claimKey, held *claimed) {
	defer close(held.over)
	for ctx.Err() == nil {
		err := c.inside(func() error { return claim.Take(ctx, key.on, key.addr) })
		if ctx.Err() != nil {
			return
		}
		c.settle(held, err)
		if err == nil {
			err = c.keep(ctx, key)
			if ctx.Err() != nil {
				return
			}
			c.settle(held, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(claimAgain):
		}
	}
}

func (c *claims) settle(held *claimed, err error) {
	c.mu.Lock()
	was, first := held.problem, !held.settled
	held.settled, held.problem = true, err
	c.mu.Unlock()
	if first || (was == nil) != (err == nil) {
		c.changed()
	}
}

// keep renews the address and defends it, until ctx ends or it cannot be kept.
func (c *claims) keep(ctx context.Context, key claimKey) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	c.wg.Go(func() {
		ended <- c.inside(func() error {
			var last time.Time
			return claim.Watch(watching, key.on, key.addr, func(by net.HardwareAddr) {
				if time.Since(last) < defendEach {
					return
				}
				last = time.Now()
				c.told(fairlead.Problemf(fairlead.CodeClaim, "%s says that it has %s, which is claimed here; the claim was told again", by, key.addr).
					Fix("see whose it is", "ip neigh show dev "+key.on))
				claim.Announce(key.on, key.addr)
			})
		})
	})
	defer func() { stop(); <-ended }()
	tick := time.NewTicker(claim.Renewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := c.inside(func() error { return claim.Renew(key.on, key.addr) }); err != nil {
				return err
			}
		}
	}
}

// claim has the addresses claimed that the forwards want, and none else, and
// notes how that stands. What is given to an interface is remembered before.
func (k *Kernel) claim(w *world) {
	keys := claimsOf(k.want, w)
	for key := range keys {
		if err := k.inside(func() error { return k.undos.note(key.undo()) }); err != nil {
			k.trouble(fairlead.Problemf(fairlead.CodeClaim, "%s is not claimed: that it has to be given back could not be noted: %v", key.addr, err))
			delete(keys, key)
		}
	}
	for _, key := range k.claims.want(keys) {
		mine := func(u Undo) bool { return u.subject() == key.undo().subject() }
		if err := k.inside(func() error { return k.undos.putBack(mine) }); err != nil {
			k.trouble(fairlead.Problemf(fairlead.CodeClaim, "the address %s was not given back: %v", key.addr, err))
		}
	}
	w.claims = k.claims.states()
}

// lent are the addresses that this host has by a claim, or may have.
func (k *Kernel) lent() map[netip.Addr]bool {
	lent := map[netip.Addr]bool{}
	for _, u := range k.undos.all() {
		if p, err := netip.ParsePrefix(u.Address); err == nil {
			lent[p.Addr()] = true
		}
	}
	return lent
}

// fitsClaim refuses claims of what is no address of a neighbourhood.
func fitsClaim(f *fairlead.Forward) *fairlead.Problem {
	if !f.Policy.Claim {
		return nil
	}
	if a := f.At.Addr.Unmap(); a.IsValid() && a.IsGlobalUnicast() {
		return nil
	}
	return fairlead.Problemf(fairlead.CodeCannotHonour, "\"claim\" takes an address that nobody has, and %s names none", f.At.String()).
		Fix("say which", string(f.Kind)+" ADDRESS:"+f.At.Ports.String()+" … claim")
}

// claimsOf are the claims of want: of each address the interface in whose network
// it lies. An address that this host has without us needs no claim.
func claimsOf(want []*fairlead.Forward, w *world) map[claimKey]bool {
	keys := map[claimKey]bool{}
	for _, f := range want {
		if !f.Policy.Claim || f.Disabled {
			continue
		}
		a := f.At.Addr.Unmap()
		if on := w.linkOf(a); on != "" && !w.own(a) {
			keys[claimKey{on, a}] = true
		}
	}
	return keys
}

// linkOf is the interface in whose network a lies, "" for none. An address alone
// in its network is none to have neighbours, as one that was claimed.
func (w *world) linkOf(a netip.Addr) string {
	best, on := -1, ""
	for name, nets := range w.addrs {
		for _, n := range nets {
			if n.Contains(a) && !n.IsSingleIP() && (n.Bits() > best || n.Bits() == best && name < on) {
				best, on = n.Bits(), name
			}
		}
	}
	return on
}

// own reports whether a is an address of this host's own, not one that was
// claimed, be it in an earlier life.
func (w *world) own(a netip.Addr) bool {
	if w.lent[a] {
		return false
	}
	for _, nets := range w.addrs {
		for _, n := range nets {
			if n.Addr() == a {
				return true
			}
		}
	}
	return false
}

// claimed warns of forwards whose address is not claimed, or not yet.
func (c *compiler) claimed(i int, f *fairlead.Forward) {
	if !f.Policy.Claim || c.failed(i) {
		return
	}
	a := f.At.Addr.Unmap()
	if c.w.own(a) {
		return
	}
	on := c.w.linkOf(a)
	if on == "" {
		c.fail(i, fairlead.Problemf(fairlead.CodeClaim, "%s cannot be claimed: it lies in the network of none of this host's interfaces", a).
			Fix("look at them", "ip address"))
		return
	}
	err, asked := c.w.claims[a]
	var taken *claim.Taken
	switch {
	case !asked || errors.Is(err, errAsking):
		c.warn(i, fairlead.Problemf(fairlead.CodeBeingSetUp, "%s is asked for on %s: whether somebody has it is known in some seconds", a, on))
	case errors.As(err, &taken):
		c.warn(i, fairlead.Problemf(fairlead.CodeClaim, "%v, so it was not claimed", taken).
			Fix("lead its clients here instead, on each of them", "ip route add "+netip.PrefixFrom(a, a.BitLen()).String()+" via THIS-HOST").
			Fix("or take an address that is free", ""))
	case err != nil:
		c.warn(i, fairlead.Problemf(fairlead.CodeClaim, "%s could not be claimed: %v", a, err))
	}
}

// chainRedirects keeps this host from telling neighbours of a better way.
const chainRedirects = "redirects"

// redirects holds back ICMP redirects on links whose neighbours ask us for an
// address that is not ours: the kernel sees that it would send their packets for
// other ports back by the link they came by, tells them to go there themselves,
// and they would, for our port as well (RFC 1122 §3.2.2.2). A rule goes with the
// table, as two kernel parameters would not.
func (c *compiler) redirects() {
	links := map[string]bool{}
	for i, f := range c.want {
		a := f.At.Addr.Unmap()
		if f.Kind != fairlead.KindNAT && f.Kind != fairlead.KindForward || c.failed(i) || !a.IsGlobalUnicast() || c.w.own(a) {
			continue
		}
		if on := c.w.linkOf(a); on != "" {
			links[on] = true
		}
	}
	if len(links) == 0 {
		return
	}
	c.hook(chainRedirects, nft.Hook{Type: "filter", Hook: "output", Priority: nft.Filter})
	var names []string
	for name := range links {
		names = append(names, name)
	}
	for _, kind := range []struct {
		key nft.Key
		typ byte
	}{{nft.ICMPType, 5}, {nft.ICMPv6Type, 137}} {
		c.rule(chainRedirects, nft.Is{Key: nft.OIFName, Values: ifnames(sorted(names))},
			nft.Is{Key: kind.key, Values: []nft.Range{nft.One(nft.Byte(kind.typ))}}, nft.Drop)
	}
}

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}
