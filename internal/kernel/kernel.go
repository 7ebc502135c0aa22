// Package kernel carries forwards in the kernel: it says which rules of
// nftables make packets go where the forwards want them, keeps one table of its
// own loaded with exactly those, and forgets connections that must not go on.
// Kinds nat, open and share are its own; a plain forward it takes when asked.
//
// No packet passes through it. It never edits a table of somebody else, but by
// that program's own interface when a forward says allow-in. It knows nothing
// of files and commands, and how nftables is spoken is package nft's business.
package kernel

import (
	"context"
	"net/netip"
	"sync"

	"fairlead"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/sys/nft"
)

// Name is the carrier's name after "by".
const Name = "kernel"

// Config is what a kernel carrier is made of.
type Config struct {
	// Table is the name of its table, "fairlead" unless it is another
	// instance's.
	Table string

	// Owned has the table vanish with the process, however that ends: for
	// forwards in the foreground. Otherwise the table outlives a crash and is
	// adopted by the next Apply of a carrier with that name.
	Owned bool

	// Sides are the interfaces of "wan" and "lan" at the moment.
	Sides func() (wan, lan []string, err error)

	// Interfaces are those of this host; nil means netmon.Interfaces.
	Interfaces func() ([]netmon.Interface, error)

	// Resolve gives the addresses of a target's name; nil means the system's
	// resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Listeners are the ports at which other carriers of this process listen:
	// a share lets clients from the WAN reach them. It may be nil.
	Listeners func() []Listener

	// Kick asks for another Apply, because the world around changed. It may be
	// nil, and must not block.
	Kick func()

	// State is a directory for what outlives the process: counters, and what
	// has to be put back as it was found. Without it neither is kept.
	State string

	// Watch is told of trouble and repairs. It must not block.
	Watch fairlead.Watch
}

// A Listener is a port of a program on this host.
type Listener struct {
	Net     fairlead.Network
	At      netip.AddrPort // an unspecified address is every one of its family, [::] of both
	Program string         // the program's name, "" when it is not known
}

// A Kernel is a fairlead.Carrier and a fairlead.Tracker. Close it when done.
type Kernel struct {
	cfg Config

	mu   sync.Mutex // guards the rest
	conn *nft.Conn
}

// New makes a carrier that carries nothing yet and has touched nothing.
func New(cfg Config) *Kernel { return &Kernel{cfg: cfg} }

// Name returns "kernel".
func (k *Kernel) Name() string { return Name }
