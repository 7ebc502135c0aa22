// Package claim takes an address that nobody has, on an interface of this
// host, for as long as it is renewed: it asks the link whether somebody has the
// address, gives it to the interface with a life that the kernel ends, and tells
// the link.
//
// It knows nothing of what the address is for, and keeps nothing: who took an
// address renews it and gives it back. One that is not renewed, because the
// process was killed, is gone when its life is over.
//
// The sources are RFC 5227 for IPv4 (whose probes the kernel does not send) and
// RFC 4862 §5.4 for IPv6 (where the kernel does it).
package claim

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Life is how long a claimed address stays without being renewed; Renewal is
// how often it should be.
const (
	Life    = 30 * time.Second
	Renewal = 10 * time.Second
)

// A Taken error says that somebody on the link has the address.
type Taken struct {
	Addr netip.Addr
	On   string           // the interface
	By   net.HardwareAddr // nil where it is not known
}

func (e *Taken) Error() string {
	by := "somebody"
	if e.By != nil {
		by = e.By.String()
	}
	return fmt.Sprintf("%s has the address %s on %s", by, e.Addr, e.On)
}

// Take asks the link of the interface called on whether somebody has the
// address a, which takes four to seven seconds for IPv4, gives a to the
// interface for Life, and announces it. The error is a *Taken where somebody has
// it; the interface has it then no longer than before.
func Take(ctx context.Context, on string, a netip.Addr) error { return take(ctx, on, a) }

// Renew gives an address that was taken another Life.
func Renew(on string, a netip.Addr) error { return renew(on, a) }

// Release gives an address back; one that the interface does not have is no
// error.
func Release(on string, a netip.Addr) error { return release(on, a) }

// Watch calls told for each packet by which somebody else on the link says that
// he has a, until ctx ends. Of a host that has an IPv6 address nothing is heard.
func Watch(ctx context.Context, on string, a netip.Addr, told func(by net.HardwareAddr)) error {
	return watch(ctx, on, a, told)
}

// Announce tells the link that this host has a, so that neighbours forget who
// had it.
func Announce(on string, a netip.Addr) error { return announce(on, a) }
