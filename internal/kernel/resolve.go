package kernel

import (
	"cmp"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fairlead"
)

// names knows the addresses of the targets' names. It asks for them in a
// goroutine of its own, follow, so that no Apply waits for a name server; when
// an answer differs from what the table was made of, another Apply is asked for.
type names struct {
	ctx     context.Context
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	differs func()
	wake    chan struct{} // has a token when there may be new names

	mu    sync.Mutex // guards the rest
	known map[string]*answer
	heard chan struct{} // closed, and made anew, when an answer came
}

// An answer is what was last heard of a name.
type answer struct {
	addrs []netip.Addr // sorted; the last good ones while asking fails
	err   error        // of the last question
	asked bool
}

// Names are asked for again as often as a cache with their time to live in
// front of Resolve would like, a few at a time, and none of them longer than an
// operator's patience.
const (
	nameEvery  = 2 * time.Second
	nameAtTime = 8
	nameWait   = 10 * time.Second
)

func newNames(ctx context.Context, resolve func(context.Context, string) ([]netip.Addr, error), differs func()) *names {
	if resolve == nil {
		resolve = systemResolve
	}
	return &names{
		ctx: ctx, resolve: resolve, differs: differs,
		wake: make(chan struct{}, 1), known: map[string]*answer{}, heard: make(chan struct{}),
	}
}

func systemResolve(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// of makes hosts the names to be followed and returns what is known of them.
// For those it never asked about it waits until patience is over.
func (n *names) of(hosts []string, patience time.Duration) map[string]answer {
	n.mu.Lock()
	maps.DeleteFunc(n.known, func(h string, _ *answer) bool { return !slices.Contains(hosts, h) })
	fresh := false
	for _, h := range hosts {
		if n.known[h] == nil {
			n.known[h], fresh = &answer{}, true
		}
	}
	n.mu.Unlock()
	if fresh {
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
	over := time.NewTimer(patience)
	defer over.Stop()
	for {
		list, heard, all := n.now()
		if all || !fresh {
			return list
		}
		select {
		case <-heard:
		case <-over.C:
			return list
		case <-n.ctx.Done():
			return list
		}
	}
}

// now is what is known, a channel that is closed when more is, and whether
// every name was asked for once.
func (n *names) now() (list map[string]answer, heard <-chan struct{}, all bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list, all = make(map[string]answer, len(n.known)), true
	for h, a := range n.known {
		list[h] = *a
		all = all && a.asked
	}
	return list, n.heard, all
}

// follow asks for the names again and again until the carrier is closed.
func (n *names) follow() {
	tick := time.NewTicker(nameEvery)
	defer tick.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.wake:
		case <-tick.C:
		}
		n.askAll()
	}
}

// askAll asks for each name once.
func (n *names) askAll() {
	n.mu.Lock()
	hosts := slices.Sorted(maps.Keys(n.known))
	n.mu.Unlock()
	var wg sync.WaitGroup
	free := make(chan struct{}, nameAtTime)
	for _, h := range hosts {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			n.ask(h)
		})
	}
	wg.Wait()
}

func (n *names) ask(host string) {
	ctx, cancel := context.WithTimeout(n.ctx, nameWait)
	defer cancel()
	addrs, err := n.resolve(ctx, host)
	if n.ctx.Err() != nil {
		return
	}
	if n.learn(host, addrs, err) {
		n.differs()
	}
}

// learn notes an answer and reports whether an Apply that is done would come out
// differently.
func (n *names) learn(host string, addrs []netip.Addr, err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.known[host]
	if a == nil {
		return false
	}
	was := *a
	a.asked, a.err = true, err
	if err == nil {
		addrs = slices.Clone(addrs)
		slices.SortFunc(addrs, func(x, y netip.Addr) int { return cmp.Or(cmp.Compare(x.BitLen(), y.BitLen()), x.Compare(y)) })
		a.addrs = addrs
	}
	close(n.heard)
	n.heard = make(chan struct{})
	return !was.asked || !slices.Equal(was.addrs, a.addrs) || len(a.addrs) == 0 && (was.err == nil) != (a.err == nil)
}

// problem is why nothing is known of a name, nil when there are addresses.
func (a answer) problem(host string) *fairlead.Problem {
	switch {
	case len(a.addrs) > 0:
		return nil
	case !a.asked:
		p := fairlead.Problemf(fairlead.CodeBeingSetUp, "the addresses of %s are being looked up", host)
		return p
	case a.err != nil:
		return fairlead.AsProblem(a.err)
	}
	return fairlead.Problemf(fairlead.CodeNameUnknown, "%s has no addresses", host)
}
