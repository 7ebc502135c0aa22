package fairlead

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"
)

// A Carrier makes the world carry exactly the forwards it is given. Start,
// reload, expiry, shutdown and repair after a crash are all Apply.
type Carrier interface {
	// Name is the word for it after "by": relay, kernel, router, helper.
	Name() string

	// Fits returns nil when the carrier can carry f as it stands, or the
	// reason why not, a *Problem.
	Fits(f *Forward) error

	// Apply carries exactly want, and returns a status for each in the same
	// order. Forwards that are carried already and have not changed are not
	// disturbed; connections of those that are gone live on unless they are
	// killed. A forward that cannot be carried now is a Status with a Problem
	// and never stops the others; it is tried again at the next Apply.
	// The engine calls Apply from one goroutine at a time.
	Apply(ctx context.Context, want []*Forward) []Status

	// Report is the status of what is carried now, in no certain order. It may be
	// called at any time.
	Report() []Status
}

// A Desk takes wishes while the program runs. It is the one door through which
// a port can be opened, and so the one place where rights are checked. Its
// methods may be called concurrently.
type Desk interface {
	// Ask wishes f, in the name of f.Owner, for ttl (0: until dropped), and
	// returns how it stands. Asking again for the same owner and name renews
	// or changes the wish.
	Ask(ctx context.Context, f *Forward, ttl time.Duration) (Status, error)
	// Drop takes back the owner's wish of that name, "" all of them.
	Drop(ctx context.Context, owner Owner, name string) error
}

// A State is how a forward stands, in the order in which a healthy one passes
// through: nothing is called better than it was seen to be.
type State string

// The states.
const (
	Listening State = "listening" // entered at, nothing has passed yet
	Passing   State = "passing"   // a connection reached the target
	Verified  State = "verified"  // tested from outside
	Partial   State = "partial"   // some of its addresses, ports or targets work
	Broken    State = "broken"    // nothing gets through
	Disabled  State = "disabled"  // switched off in its sentence, or by its schedule
)

// A Status is what became of one wish.
type Status struct {
	Forward *Forward
	State   State
	By      string   // the carrier's name
	Because string   // why that one, where the sentence leaves it to the program: "the kernel, because …"; else ""
	Bound   []string // addresses listened at, "127.0.0.1:8080/tcp"
	Problem *Problem // what is wrong, if anything
	Targets []TargetStatus
	Meter   *Meter // nil where nothing is counted

	// Engine is what in this process carries its connections, and why where it
	// is not the usual one: "goroutines, because of TLS". "" where none does.
	Engine string

	// Congestion is which congestion control its connections have where that is
	// not simply this host's: "cubic on local legs (host default bbr)".
	Congestion string
}

// A TargetStatus is what is known of one target.
type TargetStatus struct {
	Target  string
	Up      bool // false with a nil Problem: not tried yet
	Problem *Problem
	Since   time.Time
	Until   time.Time // when a trigger's ports close for that host unless there is more traffic; zero: of others

	Active   int64 // connections now
	Weight   int   // as written; 0: not said
	Backup   bool  // used only when no other is up
	Draining bool  // it gets no new connections
	Gone     bool  // DNS names it no more; it is drained

	// Members are what it stands for: the addresses of its name, or the hosts
	// of its service record. Empty for a target that is dialed itself.
	Members []TargetStatus
}

// A Meter counts what a forward carried. Its fields only grow, but for Active
// and Queued.
type Meter struct {
	Flows   atomic.Int64 // ever begun
	Active  atomic.Int64 // now
	Refused atomic.Int64 // turned away or failed to reach a target
	In      atomic.Int64 // bytes from clients to targets
	Out     atomic.Int64 // bytes from targets to clients
	Dropped atomic.Int64 // datagrams
	Queued  atomic.Int64 // clients that wait for their turn now
}

// A Conn is one live connection or UDP session.
type Conn struct {
	ID      string
	Forward string
	Network string    // tcp, udp, unix
	Client  string    // address and port, or "unix"
	Local   string    // what the client asked
	Target  string    // address and port dialed
	Asked   string    // the name that the client asked for, where its target depended on that
	Began   time.Time // zero where the carrier does not know
	In, Out int64     // bytes from and to the client, -1 where nobody counts them
	Half    string    // "", "client" or "target": the side that has ended its direction
}

// A Match selects live connections. Fields that are set must all match; an
// empty Match selects nothing.
type Match struct {
	ID      string
	Forward string
	Client  netip.Addr
}

// A Tracker knows the live connections of a carrier that has them.
type Tracker interface {
	Conns() []Conn
	// Kill ends the connections that m selects with a reset, and says how
	// many there were.
	Kill(m Match) int
}

// A Reason is why a connection ended. The set is closed: logs, counters and
// the API all speak these words.
type Reason string

// The reasons.
const (
	ClientClosed    Reason = "client-closed"   // both directions ended, the client's first
	TargetClosed    Reason = "target-closed"   // both directions ended, the target's first
	ClientReset     Reason = "client-reset"    // and the target was reset
	TargetReset     Reason = "target-reset"    // and the client was reset
	ClientVanished  Reason = "client-vanished" // keepalive or retransmission had no answer
	TargetVanished  Reason = "target-vanished"
	IdleTimeout     Reason = "idle"
	LingerTimeout   Reason = "linger"   // half-closed, and the other direction fell silent
	Lifetime        Reason = "lifetime" // max-lifetime was reached
	Killed          Reason = "killed"
	Shutdown        Reason = "shutdown"    // the program or the forward ended
	Completed       Reason = "completed"   // a UDP session had the replies that its requests expect
	Evicted         Reason = "evicted"     // a newer UDP session took the place
	Denied          Reason = "denied"      // the client's address may not
	Limited         Reason = "limited"     // a limit on connections was reached
	QueueTime       Reason = "queue-time"  // the client waited for its turn, and it did not come
	QueueFull       Reason = "queue-full"  // too many wait already
	ClientLeft      Reason = "client-left" // while it waited for its turn
	OutsideSchedule Reason = "schedule"    // new connections are not let in at this time
	Crowded         Reason = "crowded"     // the client's address holds more than its share of the descriptors
	NoTarget        Reason = "no-target"   // no target is meant for this client
	NoHeader        Reason = "no-header"   // a PROXY protocol header had to come first
	NoGreeting      Reason = "no-greeting" // the client did not say what it asks for
	NoMatch         Reason = "no-match"    // no target takes what the client asks for
	NameUnknown     Reason = "name-unknown"
	NoTLS           Reason = "no-tls"      // the TLS handshake with the client or the target failed
	Refused         Reason = "refused"     // the target answered with a reset
	Unreachable     Reason = "unreachable" // no route, or its router said so
	DialTimeout     Reason = "timeout"     // the target did not answer in time
	NoDescriptors   Reason = "no-descriptors"
	Loop            Reason = "loop"   // the target is this forward itself
	Failed          Reason = "failed" // anything else; the log line says what
)

// An EventKind says what an event tells.
type EventKind string

// The kinds of event.
const (
	EventOpen    EventKind = "open"    // a connection or session reached its target
	EventClose   EventKind = "close"   // it ended, or never came about; Reason says why
	EventState   EventKind = "state"   // a forward stands differently now
	EventReload  EventKind = "reload"  // the file was read again
	EventTrouble EventKind = "trouble" // the program itself is short of something
	EventTrigger EventKind = "trigger" // a host opened a trigger's ports, was refused them, or they closed
)

// An Event is something that happened, for logs and watchers.
type Event struct {
	Time    time.Time
	Kind    EventKind
	Forward string
	Conn    *Conn  // open and close
	Reason  Reason // close
	State   State  // state
	Text    string // a sentence for people, may be empty
	Problem *Problem
}

// A Watch is told of events. It is handed to carriers when they are made, is
// called from many goroutines, and must not block.
type Watch func(Event)
