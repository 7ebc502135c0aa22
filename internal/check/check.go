// Package check explains why a client does or does not get through a forward:
// it follows one connection attempt from the listener to the target and back,
// with the kernel's own trace of a packet, and ends with what is wrong and one
// way to mend it.
//
// It only looks. The probe is one packet that is made to come in as the
// client's would (package inject), marked by a table of this process that
// vanishes with it; what the target answers is seen and kept from the address
// that the probe was sent in the name of; and the kernel is made to forget the
// connection. It knows neither files nor the control socket: who asks says which
// forward is meant and what its carrier says of it.
package check

import (
	"context"
	"net/netip"
	"time"

	"fairlead"
	"fairlead/internal/sys/netmon"
)

// Config is what is known of this host.
type Config struct {
	// Sides are the interfaces of "wan" and "lan" at the moment.
	Sides func() (wan, lan []string, err error)

	// Place is where targets are dialed from; a forward's Via names it.
	Place func(name string) (fairlead.Place, error)

	// Holders says in words who has a port of this host: what it is, and the
	// unit of its service, "" without one. It may be nil.
	Holders func(network string, at netip.AddrPort) []Holder

	// Patience is how long an answer may take; 0 means three seconds.
	Patience time.Duration
}

// A Holder is a program that has a port.
type Holder struct {
	Text string
	Unit string
}

// A Question is which attempt is to be explained.
type Question struct {
	Forward *fairlead.Forward
	Network string     // tcp or udp; "": the forward's, TCP of both
	Port    uint16     // the port the client asks for; 0: the forward's first
	From    netip.Addr // the client; the zero Addr: a stranger from where the forward's clients come

	// What is known of how it is carried.
	Running bool              // a service says that it carries it
	State   fairlead.State    // as the service says
	Carrier string            // relay or kernel; "": by the forward's kind
	Table   string            // the kernel carrier's table; "": fairlead
	Problem *fairlead.Problem // what the service says is wrong, if anything
	Active  int64             // connections now
	Flows   int64             // ever

	// Edit is the command that words for a change of this forward are put
	// behind, "fairlead edit web"; "" where it is not written anywhere, and a
	// fix then is the sentence as it should be.
	Edit string
}

// An Outcome is whether the client gets through.
type Outcome string

// The outcomes.
const (
	Works    Outcome = "works"
	Broken   Outcome = "broken"
	Untested Outcome = "untested" // nobody can tell from here
)

// A Mark says how one step went.
type Mark string

// The marks.
const (
	OK      Mark = "ok"
	Bad     Mark = "bad"
	Unknown Mark = "unknown" // it could not be seen
	Skipped Mark = "skipped" // the attempt did not come as far
)

// A Step is one station of the attempt.
type Step struct {
	Name     string // client, arrives, rewritten, own rules, other rules, …
	What     string
	Mark     Mark
	Evidence string // what was seen, in words; may be empty
}

// A Report is how the attempt went.
type Report struct {
	Network string
	From    netip.AddrPort // the port is 0 where none was chosen
	At      netip.AddrPort // what it asked for; zero with a unix socket
	Target  string         // where it led, as far as known
	Steps   []Step
	Outcome Outcome
	Problem *fairlead.Problem // nil when it works
	Notes   []string          // what is not part of the answer, and good to know
}

func (r *Report) add(name string, mark Mark, what, evidence string) {
	r.Steps = append(r.Steps, Step{Name: name, What: what, Mark: mark, Evidence: evidence})
}

// broken ends the walk with p.
func (r *Report) broken(p *fairlead.Problem) *Report {
	r.Outcome, r.Problem = Broken, p
	return r
}

// untested ends the walk without an answer.
func (r *Report) untested(p *fairlead.Problem) *Report {
	r.Outcome, r.Problem = Untested, p
	return r
}

func (c *Config) patience() time.Duration {
	if c.Patience == 0 {
		return 3 * time.Second
	}
	return c.Patience
}

// Explain follows one attempt. It returns when it knows, or when patience is at
// its end; a cancelled context ends it early with what was seen. It changes
// nothing that it does not take back, also when the process is killed.
func Explain(ctx context.Context, c Config, q Question) *Report {
	if q.Table == "" {
		q.Table = "fairlead"
	}
	q.Network = networkOf(&q)
	r := &Report{Network: q.Network}
	if q.Forward.Disabled {
		r.add("listener", Bad, "switched off in its sentence", "")
		return r.broken(fairlead.Problemf(fairlead.CodeNotCarried, "the forward is disabled").
			Fix("switch it on", q.enable()))
	}
	if q.Forward.At.Unix != "" {
		return explainUnix(ctx, &c, &q, r)
	}
	list, err := netmon.Interfaces()
	if err != nil {
		return r.untested(fairlead.AsProblem(err))
	}
	h := &host{list: list}
	if h.wan, h.lan, err = c.Sides(); err != nil {
		return r.untested(fairlead.AsProblem(err))
	}
	w := &walk{c: &c, q: &q, r: r, host: h}
	return w.explain(ctx)
}

func networkOf(q *Question) string {
	switch {
	case q.Network != "":
		return q.Network
	case q.Forward.At.Net&fairlead.TCP != 0:
		return "tcp"
	}
	return "udp"
}

// carriedByKernel reports whether packets are led in the kernel.
func (q *Question) carriedByKernel() bool {
	switch {
	case q.Carrier != "":
		return q.Carrier == "kernel"
	case q.Forward.Policy.By != "":
		return q.Forward.Policy.By == "kernel"
	}
	return q.Forward.Kind == fairlead.KindNAT || q.Forward.Kind == fairlead.KindOpen
}
