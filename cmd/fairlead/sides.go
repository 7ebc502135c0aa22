package main

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"fairlead"
	"fairlead/internal/kernel"
	"fairlead/internal/relay"
	"fairlead/internal/sys/netmon"
)

// A guess is what this host's sides are where nobody has said so. It remembers:
// an interface that led outside once is not taken for the LAN's when its default
// route goes away, as it does while a line is down. A share would let everybody
// out there in.
type guess struct {
	mu   sync.Mutex // guards once
	once []string   // the interfaces that ever led outside
}

// sides are the interfaces of the default routes, those that had one before
// behind them as long as they exist, and the others with private addresses.
func (g *guess) sides() (wan, lan []string, err error) {
	wan, lan, err = netmon.Default()
	if err != nil {
		return nil, nil, err
	}
	all, err := netmon.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	wan, lan = g.settle(wan, lan, func(name string) bool {
		return slices.ContainsFunc(all, func(i netmon.Interface) bool { return i.Name == name })
	})
	return wan, lan, nil
}

func (g *guess) settle(wan, lan []string, exists func(string) bool) (_, _ []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range wan {
		if !slices.Contains(g.once, name) {
			g.once = append(g.once, name)
		}
	}
	for _, name := range g.once {
		if !slices.Contains(wan, name) && exists(name) {
			wan = append(wan, name)
		}
	}
	return wan, slices.DeleteFunc(lan, func(name string) bool { return slices.Contains(g.once, name) })
}

// A heardRelay is the relay, and tells when the ports have changed at which it
// listens: the guard of a share lets clients reach them. The engine calls Apply
// from one goroutine at a time.
type heardRelay struct {
	*relay.Relay
	last    []kernel.Listener
	changed func()
}

// Apply applies, and tells of the change afterwards.
func (r *heardRelay) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	list := r.Relay.Apply(ctx, want)
	if now := listenersOf(list); !slices.Equal(now, r.last) {
		r.last = now
		r.changed()
	}
	return list
}

// listenersOf are the ports at which forwards listen, in order.
func listenersOf(statuses []fairlead.Status) []kernel.Listener {
	var list []kernel.Listener
	for _, s := range statuses {
		for _, b := range s.Bound {
			address, network, _ := strings.Cut(b, "/")
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				continue // a unix socket
			}
			l := kernel.Listener{Net: fairlead.TCP, At: at, Program: "fairlead"}
			if network == "udp" {
				l.Net = fairlead.UDP
			}
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b kernel.Listener) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Net, b.Net))
	})
	return list
}
