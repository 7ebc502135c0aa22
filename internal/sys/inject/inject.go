// Package inject lets packets arrive as if they had come in by an interface of
// this host, from whatever address: it is how a host finds out what it would do
// with a stranger's packet. The packet goes through the whole of the kernel's
// own path, hooks and routing included.
//
// It builds no packets and sees no answers. Nothing outlives the process, however
// that ends: what it needs is bound to a descriptor.
package inject

import (
	"errors"
	"fmt"
)

// An Injector is a place where packets come in. Its methods may be called
// concurrently. Close it when done.
type Injector struct {
	own injector
}

// ErrNoCarrier says that nothing can come in by the interface, from us neither:
// its cable is out, or its other end is down.
var ErrNoCarrier = errors.New("the interface has no carrier")

// Open makes an Injector for the interface, in the network namespace of the
// calling thread. It needs CAP_NET_ADMIN and /dev/net/tun; without them the
// error matches [os.ErrPermission] or [os.ErrNotExist].
func Open(ifname string) (*Injector, error) {
	own, err := open(ifname)
	if err != nil {
		return nil, fmt.Errorf("inject packets at %s: %w", ifname, err)
	}
	return &Injector{own: own}, nil
}

// Send lets one IPv4 or IPv6 packet arrive, without a header of the link. That
// it was taken says nothing about what becomes of it.
func (i *Injector) Send(packet []byte) error { return i.own.send(packet) }

// Close takes everything away that Open made.
func (i *Injector) Close() error { return i.own.close() }
