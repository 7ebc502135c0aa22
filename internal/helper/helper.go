// Package helper carries kind helper, the UDP helper address of routers: what a
// host sends to all on its network, because it does not know whom to ask, is
// heard here and goes on as a unicast to servers elsewhere. DHCP it relays as
// RFC 1542, RFC 3046 and RFC 8415 say; whatever else is a datagram to it.
//
// It answers nothing itself: it is no DHCP server, and no proxy for those who
// know their target (kind forward). Datagrams that were sent to this host alone
// it leaves to others, but for the answers of DHCP servers.
package helper

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// Name is the carrier's name after "by".
const Name = "helper"

// Config is what a helper is made of.
type Config struct {
	// Sides are the interfaces of "wan" and "lan" at the moment.
	Sides func() (wan, lan []string, err error)

	// Interfaces are those of this host; nil means netmon.Interfaces.
	Interfaces func() ([]netmon.Interface, error)

	// Resolve gives the addresses of a target's name. Without it targets are
	// addresses.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Watch is told of sessions and of trouble. It may be nil and must not block.
	Watch fairlead.Watch

	// In runs a function in the network namespace that the helper works for;
	// nil means the one in which its methods are called.
	In func(func() error) error
}

// A Helper is a fairlead.Carrier and a fairlead.Tracker. Close it when done.
type Helper struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the carrier
	table  *table
	loops  *guard // what was passed on lately, by whatever forward
	own    own

	mu    sync.Mutex // guards the rest
	posts []*post    // in the order of the last Apply
}

// New makes a helper that carries nothing yet.
func New(cfg Config) *Helper {
	if cfg.Interfaces == nil {
		cfg.Interfaces = netmon.Interfaces
	}
	if cfg.Watch == nil {
		cfg.Watch = func(fairlead.Event) {}
	}
	h := &Helper{cfg: cfg, table: newTable(), loops: newGuard()}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.wg.Go(h.keepTime)
	return h
}

// Name returns "helper".
func (h *Helper) Name() string { return Name }

// Apply hears for exactly want. Forwards that have not changed keep their
// sockets; sessions of those that are gone go on until they fall silent.
func (h *Helper) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	h.mu.Lock()
	old := slices.Clone(h.posts)
	posts := make([]*post, len(want))
	for i, f := range want {
		at := slices.IndexFunc(old, func(p *post) bool { return p != nil && p.is(f) })
		if at < 0 {
			posts[i] = newPost(h, f)
			continue
		}
		posts[i], old[at] = old[at], nil
		posts[i].renew(f)
	}
	h.posts = posts
	h.mu.Unlock()
	// What is gone leaves its ports before others take them.
	for _, p := range old {
		if p != nil {
			p.close()
		}
	}
	list, err := h.interfaces()
	status := make([]fairlead.Status, len(want))
	for i, p := range posts {
		p.resolve(ctx)
		p.open(list, err)
		status[i] = p.status()
	}
	return status
}

// Report is how what is carried stands.
func (h *Helper) Report() []fairlead.Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]fairlead.Status, len(h.posts))
	for i, p := range h.posts {
		list[i] = p.status()
	}
	return list
}

// Close ends everything: sockets, sessions, goroutines.
func (h *Helper) Close() {
	h.cancel()
	h.mu.Lock()
	for _, p := range h.posts {
		p.close()
	}
	h.posts = nil
	h.mu.Unlock()
	h.table.close()
	h.wg.Wait()
}

// How often the names of targets are looked up again, and what could not be
// carried is tried again.
const (
	lookAgain = 30 * time.Second
	tryAgain  = 3 * time.Second
)

// keepTime ends silent sessions, follows the names of targets, and takes ports
// that have become free.
func (h *Helper) keepTime() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	looked := time.Now()
	tried := looked
	for {
		select {
		case <-h.ctx.Done():
			return
		case now := <-tick.C:
			h.table.idle(now)
			look, try := now.Sub(looked) >= lookAgain, now.Sub(tried) >= tryAgain
			if look {
				looked = now
			}
			if try {
				tried = now
			}
			if look || try {
				h.mend(look)
			}
		}
	}
}

// mend tries again what is not carried, and looks up all names or those that
// are not known.
func (h *Helper) mend(all bool) {
	h.mu.Lock()
	posts := slices.Clone(h.posts)
	h.mu.Unlock()
	for _, p := range posts {
		lacks := p.status().Problem != nil
		if all || lacks {
			p.resolve(h.ctx)
		}
		if lacks {
			list, err := h.interfaces()
			p.open(list, err)
		}
	}
}

// interfaces are those of this host at the moment.
func (h *Helper) interfaces() (list []netmon.Interface, err error) {
	err = h.inside(func() error {
		list, err = h.cfg.Interfaces()
		return err
	})
	if err == nil {
		h.own.set(list)
	}
	return list, err
}

// inside runs f in the helper's network namespace.
func (h *Helper) inside(f func() error) error {
	if h.cfg.In == nil {
		return f()
	}
	return h.cfg.In(f)
}

// own are this host's addresses.
type own struct {
	mu    sync.RWMutex // guards addrs
	addrs map[netip.Addr]bool
}

func (o *own) set(list []netmon.Interface) {
	addrs := map[netip.Addr]bool{}
	for _, i := range list {
		for _, a := range i.Addrs {
			addrs[a.WithZone("")] = true
		}
	}
	o.mu.Lock()
	o.addrs = addrs
	o.mu.Unlock()
}

func (o *own) has(a netip.Addr) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.addrs[a.WithZone("")]
}
