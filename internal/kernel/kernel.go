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
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

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

	// In runs a function in the network namespace that the carrier works for;
	// nil means the one in which its methods are called.
	In func(func() error) error

	// Life is for how long the kernel goes on to let new connections in after
	// Leave; 0 means [Life].
	Life time.Duration
}

// A Listener is a port of a program on this host.
type Listener struct {
	Net     fairlead.Network
	At      netip.AddrPort // an unspecified address is every one of its family, [::] of both
	Program string         // the program's name, "" when it is not known
}

// Life is what an operator may count on: a service that is started again within
// that time after its end has refused nobody.
const Life = 30 * time.Second

// A Kernel is a fairlead.Carrier and a fairlead.Tracker. Close it when done.
type Kernel struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the carrier
	names  *names
	undos  *undos
	claims *claims
	undone error // why what is to be put back could not be read

	carried atomic.Pointer[[]*carried] // in the order of the last Apply that is done
	counted atomic.Pointer[plan]       // what was loaded by it
	repairs atomic.Int64               // ever made
	own     atomic.Uint32              // the connection's netlink port, 0 without one

	changed chan struct{} // has a token when somebody else may have changed our table
	around  chan struct{} // has a token when somebody else changed another table
	blame   blame

	counting counting
	held     held
	census   census
	openings openings
	ledger   ledger
	killing  killing

	unchanged atomic.Bool // nobody has changed others' tables since they were read

	mu       sync.Mutex // guards the rest
	conn     *nft.Conn
	watching bool
	want     []*fairlead.Forward // of the last Apply
	plan     *plan               // nil before the first one that found something to do
	loaded   *nft.Table          // what the kernel has, as far as we know; nil: read it
	seen     time.Time           // when that was so
	led      map[netip.Addr]bool // every target that this process led to
	left     bool
	routes   routes            // to the targets
	beyond   outside           // the rules of others
	allowed  map[string]string // what each firewall was asked to let through, in words
	adopted  bool              // the first table that was wanted is the one that was there
}

// New makes a carrier that carries nothing yet and has touched nothing.
func New(cfg Config) *Kernel {
	k := &Kernel{cfg: cfg, changed: make(chan struct{}, 1), around: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	k.names = newNames(k.ctx, cfg.Resolve, k.kick)
	k.undos, k.undone = openUndos(cfg.State, cfg.Table)
	k.killing = killing{table: cfg.Table + killedSuffix, inside: k.inside, life: killedFor, wg: &k.wg, ctx: k.ctx}
	k.claims = newClaims(k.ctx, &k.wg, k.inside, k.kick, k.trouble)
	k.carried.Store(new([]*carried))
	k.wg.Go(k.names.follow)
	return k
}

// Name returns "kernel".
func (k *Kernel) Name() string { return Name }

// Fits returns nil for a forward that the kernel can carry. One that leaves it
// to the program ("by auto") also needs a kernel that lets us.
func (k *Kernel) Fits(f *fairlead.Forward) error {
	if p := fits(f); p != nil {
		return p
	}
	if f.Policy.By == "auto" {
		if p := k.able(); p != nil {
			return p
		}
	}
	return nil
}

// Carries is Fits without a look at this machine's rights.
func (k *Kernel) Carries(f *fairlead.Forward) error {
	if p := fits(f); p != nil {
		return p
	}
	return nil
}

// able is nil where this process may use nftables, or why it may not.
func (k *Kernel) able() *fairlead.Problem {
	k.mu.Lock()
	defer k.mu.Unlock()
	conn, err := k.open()
	if err == nil {
		err = k.inside(func() error {
			_, err := conn.Tables()
			return err
		})
	}
	if err != nil {
		return k.refused(err)
	}
	return nil
}

// inside runs f in the carrier's network namespace.
func (k *Kernel) inside(f func() error) error {
	if k.cfg.In == nil {
		return f()
	}
	return k.cfg.In(f)
}

// kick asks for another Apply.
func (k *Kernel) kick() {
	if k.cfg.Kick != nil {
		k.cfg.Kick()
	}
}

// Close ends what the carrier does in this process. A table that is Owned goes
// with it; the service's stays as it is, which is what a crash would leave:
// [Kernel.Leave] comes first where the end is meant.
func (k *Kernel) Close() {
	k.cancel()
	k.wg.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = true
	k.routes.close()
	if k.conn != nil {
		k.conn.Close()
		k.conn = nil
	}
	if k.cfg.Owned {
		k.putBack()
	}
}

// putBack puts back all that was changed outside the table.
func (k *Kernel) putBack() {
	if err := k.inside(func() error { return k.undos.putBack(nil) }); err != nil {
		k.trouble(fairlead.Problemf(fairlead.CodeNotPutBack, "not everything could be put back as it was found: %v", err).
			Fix("try again", "fairlead clean"))
	}
}

// trouble tells of p.
func (k *Kernel) trouble(p *fairlead.Problem) {
	if k.cfg.Watch != nil {
		k.cfg.Watch(fairlead.Event{Time: time.Now(), Kind: fairlead.EventTrouble, Text: p.What, Problem: p})
	}
}

// tablePrefix begins the names of all our tables.
const tablePrefix = "fairlead"

// TableOf is the name of an instance's table: of the service itself for "", of
// others by whatever tells them apart, as the path of their control socket.
func TableOf(instance string) string {
	if instance == "" {
		return tablePrefix
	}
	sum := sha256.Sum256([]byte(instance))
	return tablePrefix + "-" + hex.EncodeToString(sum[:4])
}

// TableOfProcess is the name of the table of a run in the foreground.
func TableOfProcess(pid int) string { return fmt.Sprintf("%s-pid-%d", tablePrefix, pid) }
