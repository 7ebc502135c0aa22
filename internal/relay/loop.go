package relay

import (
	"context"
	"net"
	"net/netip"

	"fairlead"
)

// A resolver is a place that can say what a name stands for there.
type resolver interface {
	Resolve(ctx context.Context, host string) ([]netip.Addr, error)
}

// maxChain is through how many forwards of ours a circle is followed.
const maxChain = 8

// loops reports whether what is dialed for t would arrive at b again, directly
// or through other forwards of this relay, which would go on until nothing is
// left. network is tcp, udp or unix.
func (r *Relay) loops(ctx context.Context, network string, b *binding, t *target) bool {
	at := b
	for range maxChain {
		e := r.entryOf(ctx, network, at, t)
		if e == nil {
			return false
		}
		if at = e.rule.Load(); at.rule == b.rule && at.port == b.port {
			return true
		}
		if t = at.rule.targets[0]; len(t.t.From) > 0 || at.rule.routed {
			return false // it depends on the client
		}
	}
	return false
}

// entryOf is the entry of ours at which a dial for t arrives, if any.
func (r *Relay) entryOf(ctx context.Context, network string, b *binding, t *target) *entry {
	heard := r.heard.Load()
	if b.rule.f.Via != "" || heard == nil {
		return nil
	}
	if t.t.Unix != "" {
		return heard.entries[key{network: "unix", path: t.t.Unix}]
	}
	port := t.port(b.rule.f.At.Ports, b.port)
	if !heard.ports[port] {
		return nil
	}
	host := t.t.Host
	if host == "self" {
		host = "localhost"
	}
	addrs := []netip.Addr{}
	switch a, err := netip.ParseAddr(host); {
	case err == nil:
		addrs = append(addrs, a)
	case host == "localhost":
		addrs = append(addrs, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	default:
		if res, ok := b.rule.place.(resolver); ok {
			addrs, _ = res.Resolve(ctx, host)
		}
	}
	for _, a := range addrs {
		if e := r.entryAt(network, netip.AddrPortFrom(a, port)); e != nil {
			return e
		}
	}
	return nil
}

// entryAt is the entry of ours that hears what is sent to at on this host.
func (r *Relay) entryAt(network string, at netip.AddrPort) *entry {
	heard := r.heard.Load()
	if heard == nil || !heard.ports[at.Port()] {
		return nil
	}
	addr, every := at.Addr().Unmap(), netip.IPv4Unspecified()
	if addr.Is6() {
		every = netip.IPv6Unspecified()
	}
	if e := heard.entries[key{network: network, at: netip.AddrPortFrom(addr, at.Port())}]; e != nil {
		return e
	}
	if e := heard.entries[key{network: network, at: netip.AddrPortFrom(every, at.Port())}]; e != nil && r.legs.Load().isOwn(addr) {
		return e
	}
	return nil
}

func loopProblem(ru *rule, address string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeLoop, "%s leads back to itself through %s", ru.f.Name, address)
}

// isLocal reports whether a belongs to this host.
func isLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, n := range addrs {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().Unmap() == a.Unmap() {
			return true
		}
	}
	return false
}
