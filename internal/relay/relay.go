// Package relay carries forwards in this process: it accepts, admits, dials,
// copies and says goodbye, for TCP, unix sockets and UDP, without privileges.
// It decides nothing about which forwards there are; the engine tells it with
// Apply. It resolves no names and knows no tunnels: it dials through the
// fairlead.Place that a forward names.
//
// Listeners belong to the relay and not to a configuration: an Apply swaps the
// rule behind a socket that both the old and the new forwards want, so that a
// reload refuses no connection and loses no datagram.
package relay

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/place"
	"fairlead/internal/sys/sock"
)

// Name is the carrier's name after "by".
const Name = "relay"

// Config is what a relay is made of. The zero value of each field is usable,
// but for Place.
type Config struct {
	// Place finds the place to dial from by its name, "" being this host. An
	// error is the reason why there is no such place.
	Place func(name string) (fairlead.Place, error)

	// Interfaces gives the addresses of "wan", "lan" or an interface. Without
	// it such spots cannot be listened at.
	Interfaces func(where string) ([]netip.Addr, error)

	// Holders says who holds an address and port that is taken; HoldersPath
	// the same for a unix socket.
	Holders     func(network string, at netip.AddrPort) []Holder
	HoldersPath func(path string) []Holder

	// Listens tells whether a program on this host listens at an address, so
	// that a local target can be tested without connecting to it. known is
	// false where that cannot be told.
	Listens func(network string, at netip.AddrPort) (yes, known bool)

	// Passed are listening sockets from a service manager. They are used by
	// the forward that wants their address, and belong to the relay.
	Passed []*os.File

	// Watch is told of connections and of trouble. It must not block.
	Watch fairlead.Watch

	// State is a directory for what outlives the process: certificates from
	// an authority and the keys of both. Without it there are none of those.
	State string

	// Wanted reports whether Watch wants to know now that a connection began
	// (EventOpen) or ended (EventClose): there may be ten thousand of them a
	// second. Without it, it wants to know of all.
	Wanted func(fairlead.EventKind) bool

	// Goroutines has goroutines carry every connection, also those that an
	// event loop could.
	Goroutines bool

	// Descriptors is how many the relay may use, for tests; 0 means what the
	// process may have, less a reserve.
	Descriptors int
}

// A Holder is a program that has what a forward wants.
type Holder struct {
	Text   string // "nginx, pid 812, user www-data"
	Unit   string // its systemd unit, "" where there is none
	Hidden bool   // another user's, of which only the user is known
}

// A Relay is a fairlead.Carrier and a fairlead.Tracker. Close it when done.
type Relay struct {
	cfg    Config
	began  time.Time
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the relay
	table  table
	budget *budget
	crowd  *crowd
	pipes  *sock.Pipes
	udp    *udpEngine
	engine *engine
	log    quiet // the trouble that was told lately

	handshakes handshakes // of TLS with clients, under way

	look    chan struct{}           // has a token when there may be targets to look up
	rules   atomic.Pointer[[]*rule] // in the order of the last Apply that is done
	heard   atomic.Pointer[hearingFrom]
	legs    atomic.Pointer[legs]
	short   atomic.Int64 // dials that wait for a descriptor
	serving atomic.Int64 // clients let in that are not in the table yet

	mu      sync.Mutex // guards the rest
	entries map[key]*entry
	passed  map[key]*os.File
}

// New makes a relay that carries nothing yet.
func New(cfg Config) *Relay {
	limit := cfg.Descriptors
	if limit == 0 {
		limit = sock.DescriptorLimit()
	}
	reserve := min(max(limit/8, 24), 128)
	own := max(limit-reserve, 4)
	places := crowdPlaces(own)
	r := &Relay{
		cfg:     cfg,
		began:   time.Now(),
		budget:  newBudget(own - places),
		pipes:   sock.NewPipes(min(max(limit/64, 2), 32)),
		entries: map[key]*entry{},
		passed:  map[key]*os.File{},
		look:    make(chan struct{}, 1),
	}
	r.crowd = newCrowd(r.budget, places)
	r.handshakes = newHandshakes(r.budget.size)
	r.table.conns = map[uint64]tracked{}
	r.rules.Store(new([]*rule))
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, f := range cfg.Passed {
		if k, ok := keyOf(f); ok {
			r.passed[k] = f
		} else {
			f.Close() // nothing that could be listened at
		}
	}
	r.udp = newUDPEngine(r)
	r.engine = newEngine(r)
	r.wg.Go(r.keepTime)
	r.wg.Go(r.probeTargets)
	r.wg.Go(r.keepCertificates)
	r.wg.Go(r.followTargets)
	return r
}

// Name returns "relay".
func (r *Relay) Name() string { return Name }

// Apply carries exactly want; see fairlead.Carrier.
func (r *Relay) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	r.mu.Lock()
	defer r.mu.Unlock()

	current := r.current()
	old := make(map[identity]*rule, len(current))
	for _, ru := range current {
		old[identify(ru.f)] = ru
	}
	rules := make([]*rule, len(want))
	for i, f := range want {
		was := old[identify(f)]
		if was != nil && sameMeaning(was.f, f) && was.unsecured == nil {
			was.lookAtCertificates(time.Now())
			rules[i] = was
			continue
		}
		rules[i] = r.newRule(f, was)
	}
	r.learnLegs()
	for _, ru := range rules {
		ru.checkLeaving()
	}
	r.listen(ctx, rules)
	r.rules.Store(&rules)
	for _, ru := range rules {
		delete(old, identify(ru.f))
	}
	for _, gone := range old {
		gone.account.close()
	}
	select {
	case r.look <- struct{}{}:
	default: // it will look anyway
	}

	statuses := make([]fairlead.Status, len(rules))
	for i, ru := range rules {
		statuses[i] = r.statusOf(ru)
	}
	return statuses
}

// Unclaimed are the sockets from the service manager at which no forward
// listens: who connects to one is never served.
func (r *Relay) Unclaimed() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for k := range r.passed {
		if r.entries[k] == nil {
			list = append(list, k.String())
		}
	}
	slices.Sort(list)
	return list
}

// Report is the status of every forward carried.
func (r *Relay) Report() []fairlead.Status {
	rules := r.current()
	statuses := make([]fairlead.Status, len(rules))
	for i, ru := range rules {
		statuses[i] = r.statusOf(ru)
	}
	return statuses
}

// Conns is every live connection and UDP session, oldest first.
func (r *Relay) Conns() []fairlead.Conn {
	conns := []fairlead.Conn{}
	for _, c := range r.table.all() {
		conns = append(conns, c.describe())
	}
	return conns
}

// Kill resets the connections that m selects.
func (r *Relay) Kill(m fairlead.Match) int {
	if m == (fairlead.Match{}) {
		return 0
	}
	n := 0
	for _, c := range r.table.all() {
		if c.matches(m) {
			c.kill()
			n++
		}
	}
	return n
}

// Drain stops listening and waits until every connection has ended by itself
// or ctx is done. It returns how many are left.
func (r *Relay) Drain(ctx context.Context) int {
	r.Apply(ctx, nil)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		n := int(r.serving.Load()) + r.table.len()
		if n == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return n
		case <-tick.C:
		}
	}
}

// Close ends everything at once: listeners, connections and sessions. When it
// returns, no goroutine and no descriptor of the relay is left.
func (r *Relay) Close() {
	r.Apply(context.Background(), nil)
	r.cancel()
	r.table.close()
	for _, c := range r.table.all() {
		c.shut()
	}
	r.wg.Wait()
	r.pipes.Close()
	for _, f := range r.passed {
		f.Close()
	}
}

// tell passes e on to the watch, with what is known of c.
func (r *Relay) tell(e fairlead.Event, c tracked) {
	if r.cfg.Watch == nil {
		return
	}
	if c == nil {
		r.tellOf(e, nil)
		return
	}
	if r.wanted(e.Kind) {
		d := c.describe()
		r.tellOf(e, &d)
	}
}

func (r *Relay) wanted(k fairlead.EventKind) bool { return r.cfg.Wanted == nil || r.cfg.Wanted(k) }

func (r *Relay) tellOf(e fairlead.Event, c *fairlead.Conn) {
	if r.cfg.Watch == nil {
		return
	}
	e.Time, e.Conn = time.Now(), c
	r.cfg.Watch(e)
}

// trouble tells what the program itself is short of, each thing at most once
// in ten seconds.
func (r *Relay) trouble(code fairlead.Code, text string) {
	if r.log.due(code) {
		r.tell(fairlead.Event{Kind: fairlead.EventTrouble, Text: text, Problem: fairlead.Problemf(code, "%s", text)}, nil)
	}
}

// quiet remembers what was told, so that a flood of trouble is one line.
type quiet struct {
	mu   sync.Mutex
	last map[fairlead.Code]time.Time // guarded by mu
}

const quietFor = 10 * time.Second

func (q *quiet) due(code fairlead.Code) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if t, ok := q.last[code]; ok && now.Sub(t) < quietFor {
		return false
	}
	if q.last == nil {
		q.last = map[fairlead.Code]time.Time{}
	}
	q.last[code] = now
	return true
}

// reason is why a dial failed, in the closed set's words.
func reason(err error) fairlead.Reason {
	switch fairlead.AsProblem(err).Code {
	case fairlead.CodeLoop:
		return fairlead.Loop
	case fairlead.CodeTargetTLS, fairlead.CodeTargetUntrusted, fairlead.CodeTargetOtherName, fairlead.CodeTargetExpired,
		fairlead.CodeTargetPlain, fairlead.CodeTargetWantsCert:
		return fairlead.NoTLS
	}
	return place.ReasonOf(err)
}
