package main

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/engine"
	"fairlead/internal/helper"
	"fairlead/internal/kernel"
	"fairlead/internal/place"
	"fairlead/internal/relay"
	"fairlead/internal/sys/holder"
	"fairlead/internal/sys/netmon"
)

// A house is the program's parts, wired together.
type house struct {
	engine *engine.Engine
	relay  *relay.Relay
	kernel rules
	helper *helper.Helper
	here   *place.Here

	settings atomic.Pointer[settings]
	guess    guess
	leaving  error // why the kernel could not be left to itself, once closed
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// settings are what a configuration says beside its forwards.
type settings struct {
	wan, lan []string
	places   []config.Place
}

// rules are what carries in the kernel: nftables, or the packet filter of
// another system.
type rules interface {
	fairlead.Carrier
	Leave() error
	Drain(ctx context.Context) int
	Close()
	Guards() bool
	Repairs() int64
}

// A table is the kernel's table of this run: its name, and whether it goes with
// the process.
type table struct {
	name  string
	owned bool
}

// newHouse wires everything: this is where concrete packages meet. wanted is
// whether watch wants to know of each connection's beginning or end. What has to
// outlive the process is kept in the directory state.
func newHouse(watch fairlead.Watch, wanted func(fairlead.EventKind) bool, passed []*os.File, state string, table table) *house {
	h := &house{here: newHere()}
	h.settings.Store(&settings{})
	h.relay = relay.New(relay.Config{
		Place:       h.place,
		Interfaces:  h.addresses,
		Holders:     holders,
		HoldersPath: pathHolders,
		Listens:     new(listening).at,
		Passed:      passed,
		State:       state,
		Watch:       watch,
		Wanted:      wanted,
	})
	h.kernel = newRules(kernel.Config{
		Table:     table.name,
		Owned:     table.owned,
		Sides:     h.sides,
		Resolve:   h.here.Resolve,
		Listeners: h.listeners,
		Kick:      func() { h.engine.Kick() }, // made below, and before any Apply
		State:     state,
		Watch:     watch,
	})
	h.helper = helper.New(helper.Config{Sides: h.sides, Resolve: h.here.Resolve, Watch: watch})
	h.engine = engine.New(engine.Config{
		Carriers: []fairlead.Carrier{h.kernel, &heardRelay{Relay: h.relay, changed: func() {
			if h.kernel.Guards() {
				h.engine.Kick()
			}
		}}, h.helper},
		Watch: watch,
	})
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.wg.Go(func() { h.engine.Run(ctx) })
	h.wg.Go(func() { netmon.Watch(ctx, h.engine.Kick) })
	return h
}

// newHere is this host as a place.
func newHere() *place.Here { return place.New(place.Config{}) }

// close takes everything down: no new connections at once, live ones when
// they have ended or drain is done. It returns how many were cut. What the
// kernel carries for a service goes on for a while by itself: see
// kernel.Kernel.Leave.
func (h *house) close(drain context.Context) int {
	h.leaving = h.kernel.Leave()
	h.engine.Close(drain)
	cut := make(chan int, 1)
	go func() { cut <- h.kernel.Drain(drain) }()
	left := h.relay.Drain(drain) + <-cut
	h.relay.Close()
	h.kernel.Close()
	h.helper.Close()
	h.cancel()
	h.wg.Wait()
	h.here.Close()
	return left
}

// place finds a declared place by name; "" is this host.
func (h *house) place(name string) (fairlead.Place, error) {
	if name == "" {
		return h.here, nil
	}
	for _, p := range h.settings.Load().places {
		if p.Name == name {
			return nil, fairlead.Problemf(fairlead.CodeCannotCarry, "this version cannot reach places of type %s yet", p.Type)
		}
	}
	return nil, fairlead.Problemf(fairlead.CodeUnknownPlace, "no place is named %q", name)
}

// sides are the interfaces of "wan" and of "lan" at the moment.
func (h *house) sides() (wan, lan []string, err error) {
	s := h.settings.Load()
	wan, lan, err = h.guess.sides()
	if err != nil {
		return nil, nil, err
	}
	if len(s.wan) > 0 {
		wan = s.wan
	}
	if len(s.lan) > 0 {
		return wan, s.lan, nil
	}
	return wan, slices.DeleteFunc(lan, func(n string) bool { return slices.Contains(wan, n) }), nil
}

// listeners are the ports at which the relay listens.
func (h *house) listeners() []kernel.Listener { return listenersOf(h.relay.Report()) }

// addresses are those of "wan", "lan" or an interface at the moment.
func (h *house) addresses(where string) ([]netip.Addr, error) {
	names := []string{where}
	if where == "wan" || where == "lan" {
		wan, lan, err := h.sides()
		if err != nil {
			return nil, err
		}
		names = wan
		if where == "lan" {
			names = lan
		}
		if len(names) == 0 {
			return nil, fairlead.Problemf(fairlead.CodeNoInterface, "this machine has no %s interface: %s", where, map[string]string{
				"wan": "no default route", "lan": "no other interface with a private address"}[where]).
				Fix("name it", "fairlead … --"+where+" eth0")
		}
	}
	var all []netip.Addr
	var last error
	for _, name := range names {
		addrs, err := netmon.Addresses(name)
		if err != nil {
			last = fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q on this machine", name)
			continue
		}
		all = append(all, addrs...)
	}
	if len(all) == 0 && last != nil {
		return nil, last
	}
	return all, nil
}

func holders(network string, at netip.AddrPort) []relay.Holder {
	found, err := holder.Find(network, at)
	if err != nil {
		return nil
	}
	return describe(found)
}

func pathHolders(path string) []relay.Holder {
	found, err := holder.FindPath(path)
	if err != nil {
		return nil
	}
	return describe(found)
}

func describe(found []holder.Holder) []relay.Holder {
	var list []relay.Holder
	for _, h := range found {
		d := relay.Holder{Text: h.String(), Unit: h.Unit, Hidden: h.PID == 0 && !h.Nobody}
		if !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

// A listening is who listened on this host a moment ago. The targets of ten
// thousand forwards are asked for one by one, and the kernel looks at all
// sockets each time.
type listening struct {
	mu    sync.Mutex // guards the rest
	taken map[string]time.Time
	was   map[string]*holder.Listeners
}

// aMoment is for how long who listens is taken to be known.
const aMoment = 250 * time.Millisecond

func (l *listening) at(network string, at netip.AddrPort) (yes, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.was[network] == nil || time.Since(l.taken[network]) >= aMoment {
		now, err := holder.Listening(network)
		if err != nil {
			return false, false
		}
		if l.was == nil {
			l.was, l.taken = map[string]*holder.Listeners{}, map[string]time.Time{}
		}
		l.was[network], l.taken[network] = now, time.Now()
	}
	return l.was[network].At(at), true
}
