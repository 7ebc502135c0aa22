package control

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"fairlead"
)

// The schemas, each the "schema" of one document.
const (
	SchemaStatus  = "fairlead/status/1"
	SchemaConns   = "fairlead/conns/1"
	SchemaEvent   = "fairlead/event/1"
	SchemaVersion = "fairlead/version/1"
	SchemaReload  = "fairlead/reload/1"
	SchemaKill    = "fairlead/kill/1"
	SchemaError   = "fairlead/error/1"
)

// Status is how the service and its forwards stand. Lists are never null.
type Status struct {
	Schema    string     `json:"schema"`
	Version   string     `json:"version"`
	PID       int        `json:"pid"`
	Started   time.Time  `json:"started"`
	File      string     `json:"file"`
	InForce   time.Time  `json:"in_force,omitzero"` // since when the file's forwards are carried
	FileError *FileError `json:"file_error,omitempty"`
	Repairs   int64      `json:"repairs,omitempty"` // of the kernel's table, after changes by others
	Forwards  []Forward  `json:"forwards"`
}

// A FileError is why the file as it is now is not in force.
type FileError struct {
	Problem
	Since time.Time `json:"since"`
}

// A Forward is how one forward stands.
type Forward struct {
	Name     string     `json:"name"`
	Kind     string     `json:"kind"`
	Expr     string     `json:"expr"`
	State    string     `json:"state"` // listening, passing, verified, partial, broken, disabled
	Carrier  string     `json:"carrier"`
	Because  string     `json:"because,omitempty"` // why that carrier, where the sentence says "by auto"
	Owner    string     `json:"owner"`
	Source   string     `json:"source,omitempty"` // file:line
	Bound    []string   `json:"bound"`
	Targets  []Target   `json:"targets"`
	Error    *Problem   `json:"error,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"`
	Counters *Counters  `json:"counters,omitempty"` // not there where nothing is counted

	// Engine is what in this process carries its connections, and why where it
	// is not the usual one.
	Engine string `json:"engine,omitempty"`

	// Congestion is the congestion control of its connections, where it is not
	// simply the host's.
	Congestion string `json:"congestion,omitempty"`
}

// A Target is what is known of one target.
type Target struct {
	Target string     `json:"target"`
	Up     bool       `json:"up"` // false without an error: not tried yet
	Error  *Problem   `json:"error,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
	Until  *time.Time `json:"until,omitempty"` // when a trigger's ports close for that host without more traffic

	Active   int64    `json:"active"` // connections now
	Weight   int      `json:"weight,omitempty"`
	Backup   bool     `json:"backup,omitempty"`
	Draining bool     `json:"draining,omitempty"` // no new connections
	Gone     bool     `json:"gone,omitempty"`     // DNS names it no more
	Members  []Target `json:"members,omitempty"`  // what it stands for
}

// Counters count what a forward carried; all but Active and Queued only grow.
type Counters struct {
	Flows    int64 `json:"flows"`
	Active   int64 `json:"active"`
	Refused  int64 `json:"refused"`
	BytesIn  int64 `json:"bytes_in"` // from clients to targets
	BytesOut int64 `json:"bytes_out"`
	Dropped  int64 `json:"dropped"` // datagrams
	Queued   int64 `json:"queued"`  // clients that wait for their turn now
}

// Conns are the live connections.
type Conns struct {
	Schema      string `json:"schema"`
	Connections []Conn `json:"connections"`
}

// A Conn is one live connection or UDP session.
type Conn struct {
	ID       string    `json:"id"`
	Forward  string    `json:"forward"`
	Network  string    `json:"network"`
	Client   string    `json:"client"`
	Local    string    `json:"local"`
	Target   string    `json:"target"`
	Began    time.Time `json:"began,omitzero"`  // absent: not known
	Age      float64   `json:"age"`             // seconds, -1: not known
	BytesIn  int64     `json:"bytes_in"`        // -1: not counted
	BytesOut int64     `json:"bytes_out"`       // -1: not counted
	Half     string    `json:"half,omitempty"`  // "client" or "target" ended its direction
	Asked    string    `json:"asked,omitempty"` // the name that the client asked for
}

// An Event is something that happened. A state event without a state says that
// the forward is gone.
type Event struct {
	Schema  string    `json:"schema"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"` // open, close, state, reload, trouble, trigger
	Forward string    `json:"forward,omitempty"`
	Conn    *Conn     `json:"conn,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	State   string    `json:"state,omitempty"`
	Text    string    `json:"text,omitempty"`
	Error   *Problem  `json:"error,omitempty"`
}

// Version is who answers.
type Version struct {
	Schema  string    `json:"schema"`
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// A ReloadRequest asks to read the file again. All of it may be left out.
type ReloadRequest struct {
	Dry bool `json:"dry,omitempty"` // only say what would change
}

// Reload is what a reload changed, or would change. Lists are never null.
type Reload struct {
	Schema    string    `json:"schema"`
	Dry       bool      `json:"dry"`
	File      string    `json:"file"`
	Added     []string  `json:"added"` // names of forwards, in the order of the file
	Changed   []string  `json:"changed"`
	Removed   []string  `json:"removed"`
	Unchanged int       `json:"unchanged"`
	Warnings  []Problem `json:"warnings"`

	// Standing are the added and changed forwards, in the order of the file;
	// none when it was dry.
	Standing []Standing `json:"standing"`
}

// A Standing is how a forward stands right after the reload that brought it.
type Standing struct {
	Name   string   `json:"name"`
	State  string   `json:"state"`
	Source string   `json:"source,omitempty"` // file:line
	Error  *Problem `json:"error,omitempty"`
}

// A KillRequest selects live connections as fairlead.Match does: what is set
// must match, and something must be set.
type KillRequest struct {
	ID      string     `json:"id,omitempty"`
	Forward string     `json:"forward,omitempty"`
	Client  netip.Addr `json:"client,omitzero"`
}

// Kill says how many connections were ended.
type Kill struct {
	Schema string `json:"schema"`
	Killed int    `json:"killed"`
}

// An Error is the answer to what failed. Causes are the single errors of a
// file that was not taken.
type Error struct {
	Schema string    `json:"schema"`
	Error  Problem   `json:"error"`
	Causes []Problem `json:"causes,omitempty"`
}

// StatusOf is the status document of a service.
func StatusOf(s Service, forwards []fairlead.Status) Status {
	j := Status{
		Schema:   SchemaStatus,
		Version:  s.Version,
		PID:      s.PID,
		Started:  instant(s.Started),
		File:     s.File,
		InForce:  instant(s.InForce),
		Repairs:  s.Repairs,
		Forwards: make([]Forward, len(forwards)),
	}
	if s.FileError != nil {
		j.FileError = &FileError{*ProblemOf(s.FileError), instant(s.FileErrorSince)}
	}
	for i, f := range forwards {
		j.Forwards[i] = ForwardOf(f)
	}
	return j
}

// ForwardOf is the entry of one forward. Its Status has a Forward.
func ForwardOf(s fairlead.Status) Forward {
	f := s.Forward
	j := Forward{
		Name:    f.Name,
		Kind:    string(f.Kind),
		Expr:    f.Expr,
		State:   string(s.State),
		Carrier: s.By,
		Because: s.Because,
		Owner:   f.Owner.String(),
		Bound:   list(s.Bound),
		Targets: make([]Target, len(s.Targets)),
		Error:   ProblemOf(s.Problem),
		Expires: moment(f.Expires),
		Source:  sourceOf(f),

		Engine:     s.Engine,
		Congestion: s.Congestion,
	}
	for i, t := range s.Targets {
		j.Targets[i] = targetOf(t)
	}
	if m := s.Meter; m != nil {
		j.Counters = &Counters{
			Flows: m.Flows.Load(), Active: m.Active.Load(), Refused: m.Refused.Load(),
			BytesIn: m.In.Load(), BytesOut: m.Out.Load(), Dropped: m.Dropped.Load(), Queued: m.Queued.Load(),
		}
	}
	return j
}

func targetOf(t fairlead.TargetStatus) Target {
	j := Target{
		Target: t.Target, Up: t.Up, Error: ProblemOf(t.Problem), Since: moment(t.Since), Until: moment(t.Until),
		Active: t.Active, Weight: t.Weight, Backup: t.Backup, Draining: t.Draining, Gone: t.Gone,
	}
	for _, m := range t.Members {
		j.Members = append(j.Members, targetOf(m))
	}
	return j
}

// ConnOf is the entry of one connection, whose age is counted to now.
func ConnOf(c fairlead.Conn, now time.Time) Conn {
	began, age := time.Time{}, -1.0
	if !c.Began.IsZero() {
		began, age = instant(c.Began), math.Round(max(0, now.Sub(c.Began)).Seconds()*1000)/1000
	}
	return Conn{c.ID, c.Forward, c.Network, c.Client, c.Local, c.Target, began, age, c.In, c.Out, c.Half, c.Asked}
}

// EventOf is the document of one event.
func EventOf(e fairlead.Event) Event {
	j := Event{
		Schema:  SchemaEvent,
		Time:    instant(e.Time),
		Kind:    string(e.Kind),
		Forward: e.Forward,
		Reason:  string(e.Reason),
		State:   string(e.State),
		Text:    e.Text,
		Error:   ProblemOf(e.Problem),
	}
	if e.Conn != nil {
		c := ConnOf(*e.Conn, e.Time)
		j.Conn = &c
	}
	return j
}

// ReloadOf is the document of one reload.
func ReloadOf(p Plan, dry bool) Reload {
	j := Reload{
		Schema: SchemaReload, Dry: dry, File: p.File,
		Added: list(p.Added), Changed: list(p.Changed), Removed: list(p.Removed),
		Unchanged: p.Unchanged,
		Warnings:  make([]Problem, len(p.Warnings)),
		Standing:  make([]Standing, len(p.Standing)),
	}
	for i, w := range p.Warnings {
		j.Warnings[i] = *ProblemOf(w)
	}
	for i, s := range p.Standing {
		j.Standing[i] = Standing{s.Forward.Name, string(s.State), sourceOf(s.Forward), ProblemOf(s.Problem)}
	}
	return j
}

// sourceOf is where the forward is written, file:line; "" where that is
// nowhere.
func sourceOf(f *fairlead.Forward) string {
	if f.Source.Line == 0 || f.Source.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", f.Source.File, f.Source.Line)
}

// instant is t as documents have it: UTC, to the millisecond.
func instant(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = instant(t)
	return &t
}

func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
