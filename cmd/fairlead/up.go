package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/kernel"
	"fairlead/internal/sys/service"
	"fairlead/internal/talk"
)

func (p *program) upCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "up",
		Short:   "run the service: carry the file's forwards for good",
		GroupID: groupProgram,
		Args:    cobra.NoArgs,
		Long: `Run the service: carry the forwards of the configuration file until it is told
to end. SIGHUP and "fairlead reload" read the file again; a file with errors
changes nothing. SIGTERM and Ctrl-C stop listening, give live connections ten
seconds, and end; a second one ends at once. What the kernel carries (nat, open,
share) outlives the process: after an end the kernel lets new connections in for
another thirty seconds, so that a restart refuses nobody; "fairlead clean" takes
it out at once.

systemd is told of readiness, reloads and life signs (Type=notify-reload,
WatchdogSec=), and sockets that it opened are used by the forwards that name
their address. FAIRLEAD_LOG=json makes the log JSON.`,
		RunE: func(cmd *cobra.Command, args []string) error { return p.up() },
	}
	c.Flags().StringSliceVar(&p.wan, "wan", nil, "interfaces that lead outside, instead of the file's")
	c.Flags().StringSliceVar(&p.lan, "lan", nil, "interfaces that lead inside, instead of the file's")
	return c
}

// tableName is the name of the kernel's table of the service at this socket.
func (p *program) tableName() string {
	path := p.socketPath()
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if path == systemSocket {
		return kernel.TableOf("")
	}
	return kernel.TableOf(path)
}

// A daemon is the running service.
type daemon struct {
	p       *program
	house   *house
	journal *journal
	feed    control.Feed
	server  *control.Server
	path    string
	started time.Time

	loading sync.Mutex // one reload at a time

	mu          sync.Mutex // guards the rest
	file        *config.File
	inForce     time.Time
	fileProblem *fairlead.Problem // why the file as it is now is not in force
	fileSince   time.Time
	gone        map[string]time.Time // when forwards left the table, since the last take
}

func (p *program) up() error {
	path := p.config
	if path == "" {
		path = p.getenv("FAIRLEAD_CONFIG")
	}
	if path == "" {
		path = p.usualConfig()
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	file, problems := load(path)
	if err := onlyWarnings(problems); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	signal.Ignore(syscall.SIGPIPE) // a log that nobody reads ends no service

	socket := p.socketPath()
	ln, err := control.Listen(socket, serviceGroup)
	if err != nil {
		return err
	}
	d := &daemon{p: p, path: path, started: time.Now(), gone: map[string]time.Time{}}
	d.journal = newJournal(p.stderr, p.getenv, p.verbose)
	defer d.journal.close()
	d.server = control.New(control.Config{Backend: d, Feed: &d.feed, Log: d.journal.log})
	d.house = newHouse(func(e fairlead.Event) {
		d.journal.watch(e)
		d.feed.Tell(e)
		if e.Kind == fairlead.EventState && e.State == "" {
			d.left(e.Forward, e.Time)
		}
	}, func(k fairlead.EventKind) bool {
		return k == fairlead.EventClose || p.verbose || d.feed.Heard()
	}, service.PassedSockets(), p.keepDir(), table{p.tableName(), false})

	for _, problem := range problems {
		d.journal.log.Warn(problem.What, "code", problem.Code)
	}
	d.take(file)
	for _, at := range d.house.relay.Unclaimed() {
		d.journal.log.Warn("a socket from the service manager is listened at by no forward: its clients are not served", "socket", at)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		d.server.Serve(ln)
	}()
	d.journal.log.Info("fairlead "+version()+" is up", "file", path, "forwards", len(file.Forwards), "socket", socket)
	service.Ready(d.summary())
	d.loop(signals)

	service.Stopping()
	d.stop(signals)
	<-served
	return nil
}

// serviceGroup may use the control socket, where it exists.
const serviceGroup = "fairlead"

// loop serves signals and the service manager until it is time to end.
func (d *daemon) loop(signals <-chan os.Signal) {
	var alive <-chan time.Time
	if interval, ok := service.Watchdog(); ok {
		t := time.NewTicker(interval)
		defer t.Stop()
		alive = t.C
	}
	say := time.NewTicker(5 * time.Second)
	defer say.Stop()
	last := d.summary()
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGHUP {
				d.journal.log.Info("ending", "signal", s.String())
				return
			}
			if _, err := d.reload("SIGHUP", false); err != nil {
				d.journal.log.Error("the reload changed nothing", "error", err)
			}
		case <-alive:
			// Only a table that still answers is a sign of life.
			d.house.engine.Status()
			service.Alive()
		case <-say.C:
			if now := d.summary(); now != last {
				service.Status(now)
				last = now
			}
		}
	}
}

// stop ends listeners at once, connections after the drain.
func (d *daemon) stop(signals <-chan os.Signal) {
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	go func() {
		for {
			select {
			case s := <-signals:
				if s != syscall.SIGHUP {
					cancel()
				}
			case <-drain.Done():
				return
			}
		}
	}()
	if left := d.house.close(drain); left > 0 {
		d.journal.log.Warn("connections were cut", "count", left)
	}
	if err := d.house.leaving; err != nil {
		d.journal.log.Error("what the kernel carries was not given an end: fairlead clean takes it away", "error", err)
	}
	now, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	d.server.Shutdown(now)
	d.journal.log.Info("down")
}

func (d *daemon) summary() string {
	var states []fairlead.State
	for _, s := range d.house.engine.Status() {
		states = append(states, s.State)
	}
	return talk.Summary(states)
}

// take makes file what the service carries.
func (d *daemon) take(file *config.File) []fairlead.Status {
	s := &settings{wan: file.WAN, lan: file.LAN, places: file.Places}
	if len(d.p.wan) > 0 {
		s.wan = d.p.wan
	}
	if len(d.p.lan) > 0 {
		s.lan = d.p.lan
	}
	d.house.settings.Store(s)
	statuses, err := d.house.engine.Replace(context.Background(), fairlead.Owner{Kind: fairlead.OwnerFile}, file.Forwards)
	if err != nil {
		d.journal.log.Error("the forwards could not be taken", "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.file, d.inForce = file, time.Now()
	d.fileProblem, d.fileSince = nil, time.Time{}
	over := map[string]time.Time{}
	for _, s := range statuses {
		if at, ok := d.gone[s.Forward.Name]; ok && s.Problem != nil && s.Problem.Code == fairlead.CodeTimeOver {
			over[s.Forward.Name] = at
		}
	}
	d.gone = over
	return statuses
}

// left notes when a forward left the table.
func (d *daemon) left(name string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone[name] = at
}

// Reload reads the file again. One with errors changes nothing.
func (d *daemon) Reload(ctx context.Context, by control.Actor, dry bool) (control.Plan, error) {
	return d.reload(by.String(), dry)
}

func (d *daemon) reload(by string, dry bool) (control.Plan, error) {
	d.loading.Lock()
	defer d.loading.Unlock()
	if !dry {
		service.Reloading()
		defer func() { service.Ready(d.summary()) }()
	}
	plan := control.Plan{File: d.path}
	file, problems := load(d.path)
	if err := onlyWarnings(problems); err != nil {
		return plan, d.refuse(problems, dry)
	}
	plan.Warnings = problems
	d.mu.Lock()
	old := d.file
	d.mu.Unlock()
	touched := 0
	changed := map[string]bool{}
	for _, c := range config.Diff(old.Forwards, file.Forwards) {
		changed[c.Name] = c.Op != '-'
		touched++
		switch c.Op {
		case '+':
			plan.Added = append(plan.Added, c.Name)
		case '~':
			plan.Changed = append(plan.Changed, c.Name)
		case '-':
			plan.Removed = append(plan.Removed, c.Name)
			touched--
		}
	}
	// Files of a forward that did not change are the relay's: it goes on with
	// what it has.
	news := slices.DeleteFunc(slices.Clone(file.Forwards), func(f *fairlead.Forward) bool { return !changed[f.Name] })
	if list := unusable(news, d.p.keepDir()); len(list) > 0 {
		return plan, d.refuse(append(problems, list...), dry)
	}
	plan.Unchanged = len(file.Forwards) - touched
	if dry {
		return plan, nil
	}
	for _, s := range d.take(file) {
		if changed[s.Forward.Name] {
			plan.Standing = append(plan.Standing, s)
		}
	}
	e := fairlead.Event{Time: time.Now(), Kind: fairlead.EventReload, Text: "the file was read again"}
	d.journal.log.Info(e.Text, "by", by, "added", len(plan.Added), "changed", len(plan.Changed), "removed", len(plan.Removed))
	d.feed.Tell(e)
	return plan, nil
}

// refuse notes, unless it was only asked about, that the file is not taken.
func (d *daemon) refuse(problems []*fairlead.Problem, dry bool) error {
	refusal := refuse(d.path, problems)
	if dry {
		return refusal
	}
	d.mu.Lock()
	d.fileProblem = refusal.Problem
	if d.fileSince.IsZero() {
		d.fileSince = time.Now()
	}
	d.mu.Unlock()
	d.journal.watch(fairlead.Event{Time: time.Now(), Kind: fairlead.EventReload, Problem: refusal.Problem, Text: "the file is broken and changed nothing"})
	return refusal
}

// refuse is why a file with those problems is not taken.
func refuse(path string, problems []*fairlead.Problem) *control.Refusal {
	n := 0
	for _, problem := range problems {
		if !problem.Warning {
			n++
		}
	}
	return &control.Refusal{
		Problem: fairlead.Problemf(fairlead.CodeReloadFailed, "%s has %s and changed nothing", path, talk.Count(n, "error")).
			Fix("see all of them", "fairlead validate -c "+path),
		Causes: problems,
	}
}

// Service says who runs.
func (d *daemon) Service() control.Service {
	d.mu.Lock()
	defer d.mu.Unlock()
	return control.Service{
		Version: version(), PID: os.Getpid(), Started: d.started, File: d.path, InForce: d.inForce,
		FileError: d.fileProblem, FileErrorSince: d.fileSince,
		Repairs: d.house.kernel.Repairs(),
	}
}

// Status is how all forwards stand, and behind them those that the file still
// has and whose time is over.
func (d *daemon) Status() []fairlead.Status {
	list := d.house.engine.Status()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil || !slices.ContainsFunc(d.file.Forwards, timed) {
		return list
	}
	carried := map[string]bool{}
	for _, s := range list {
		carried[s.Forward.Name] = true
	}
	for _, f := range d.file.Forwards {
		if timed(f) && !carried[f.Name] {
			list = append(list, timeOver(f, d.gone[f.Name]))
		}
	}
	return list
}

// timed reports whether the forward has a time of its own.
func timed(f *fairlead.Forward) bool { return f.Life() > 0 }

// timeOver is how a forward stands whose time ended at that moment; zero: it is
// not known when.
func timeOver(f *fairlead.Forward, at time.Time) fairlead.Status {
	own := *f
	own.Owner = fairlead.Owner{Kind: fairlead.OwnerFile}
	s := fairlead.Status{Forward: &own, State: fairlead.Disabled}
	if f.Disabled {
		return s // that it is, whatever the time
	}
	is := "is over"
	if !at.IsZero() {
		is = "was over at " + at.Local().Format(time.DateTime)
	}
	s.Problem = fairlead.Problemf(fairlead.CodeTimeOver, "its time (\"for\" %s) %s", talk.Duration(f.Policy.For), is).
		Fix("begin it anew", "fairlead disable "+f.Name+" && fairlead enable "+f.Name)
	s.Problem.Warning = true
	return s
}

// Conns are the live connections.
func (d *daemon) Conns() []fairlead.Conn { return d.house.engine.Conns() }

// Kill ends connections.
func (d *daemon) Kill(ctx context.Context, by control.Actor, m fairlead.Match) (int, error) {
	n := d.house.engine.Kill(m)
	if n == 0 && m.Forward != "" {
		known := false
		for _, s := range d.Status() {
			known = known || s.Forward.Name == m.Forward
		}
		if !known {
			return 0, noSuchForward(m.Forward)
		}
	}
	if n > 0 {
		d.journal.log.Info("connections were killed", "by", by.String(), "count", n, "id", m.ID, "forward", m.Forward, "client", m.Client)
	}
	return n, nil
}

func noSuchForward(name string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeNoSuchForward, "there is no forward %q", name).Fix("list them", "fairlead status")
}
