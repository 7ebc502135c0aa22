package control

import (
	"context"
	"fmt"
	"time"

	"fairlead"
)

// A Backend is the service behind the socket. Its methods may be called
// concurrently; errors should be Problems.
type Backend interface {
	// Service says who runs, with which file.
	Service() Service
	// Status is how all forwards stand, in the order to be shown.
	Status() []fairlead.Status
	// Conns are the live connections.
	Conns() []fairlead.Conn
	// Kill ends the connections that m selects, and says how many there were.
	// A name that no forward has is a Problem with CodeNoSuchForward.
	Kill(ctx context.Context, by Actor, m fairlead.Match) (int, error)
	// Reload reads the file again and says what it changed; dry: what it
	// would change, touching nothing. A file with errors changes nothing and
	// is a *Refusal.
	Reload(ctx context.Context, by Actor, dry bool) (Plan, error)
}

// A Service is who runs.
type Service struct {
	Version        string
	PID            int
	Started        time.Time
	File           string
	InForce        time.Time         // when the file was last read without an error
	FileError      *fairlead.Problem // why the file as it is now is not in force; nil: it is
	FileErrorSince time.Time
	Repairs        int64 // how often the kernel's table was put right after somebody else changed it
}

// A Plan is what a reload changes, by the names of the forwards.
type Plan struct {
	File                    string
	Added, Changed, Removed []string
	Unchanged               int
	Warnings                []*fairlead.Problem

	// Standing is how the added and changed forwards stand after it; empty
	// where it was only asked what would change.
	Standing []fairlead.Status
}

// A Refusal is a problem with the single errors that caused it. The client
// returns it as well, when the service answered with one.
type Refusal struct {
	Problem *fairlead.Problem
	Causes  []*fairlead.Problem
}

func (r *Refusal) Error() string { return r.Problem.What }

// Unwrap gives fairlead.AsProblem the problem.
func (r *Refusal) Unwrap() error { return r.Problem }

// An Actor is the process at the other end, as the kernel names it. It may
// have ended since, and another may bear its number by now.
type Actor struct {
	Known         bool // false where the system does not tell
	UID, GID, PID int
}

// String is the actor for an audit line: "uid 1000 pid 4711".
func (a Actor) String() string {
	if !a.Known {
		return "unknown"
	}
	return fmt.Sprintf("uid %d pid %d", a.UID, a.PID)
}
