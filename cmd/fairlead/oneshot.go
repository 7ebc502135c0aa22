package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/kernel"
	"fairlead/internal/talk"
)

// oneShot carries one sentence until Ctrl-C. Nothing of it outlives the
// process.
func (p *program) oneShot(flags *sentenceFlags, words []string) error {
	f, problems := config.ParseArgs(words)
	if len(problems) > 0 {
		code := exitUsage
		for _, problem := range problems {
			if problem.Code == fairlead.CodeLoop {
				code = exitFailed
			}
		}
		return exitProblems(code, problems)
	}
	if f.Disabled {
		return exit(exitUsage, fairlead.Problemf(fairlead.CodeWrongKind, "a forward in the foreground that is disabled forwards nothing").
			Fix("write it down for later", "fairlead add "+f.Expr))
	}
	f.Owner = fairlead.Owner{Kind: fairlead.OwnerCommand}
	f.Name = givenName(flags.name, f, func(string) bool { return false })

	interrupted := make(chan os.Signal, 4)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(interrupted)

	run := &oneShotRun{p: p}
	h := newHouse(run.watch, run.wanted, nil, p.keepDir(), table{kernel.TableOfProcess(os.Getpid()), true})
	h.settings.Store(&settings{wan: p.wan, lan: p.lan})
	ended := false
	defer func() {
		if !ended {
			now, cancel := context.WithCancel(context.Background())
			cancel()
			h.close(now)
		}
	}()

	statuses, err := h.engine.Replace(p.ctx, f.Owner, []*fairlead.Forward{f})
	if err != nil {
		return err
	}
	st := statuses[0]
	if st.Problem != nil && (len(st.Bound) == 0 || flags.strict) {
		problem := *st.Problem
		problem.Warning = false
		return exit(codeOf(&problem), &problem)
	}
	if st.Problem != nil {
		problem := *st.Problem
		problem.Warning = true
		p.tellProblem(&problem)
		run.told.Store(&problem.What)
	}
	for _, problem := range restless([]*fairlead.Forward{f}) {
		p.tellProblem(problem)
	}
	p.announce(f, st)
	run.announced.Store(true)

	var over <-chan time.Time
	if f.Life() > 0 {
		over = time.After(f.Life())
	}
	code := exitOK
	select {
	case s := <-interrupted:
		if s == syscall.SIGINT {
			code = exitInterrupted
		}
	case <-over:
		p.talk.Say("the time is over (for %s)", talk.Duration(f.Policy.For))
	case <-p.ctx.Done():
	}
	ended = true
	p.endHouse(h, interrupted)
	if code != exitOK {
		return exit(code)
	}
	return nil
}

// endHouse closes h: live connections get a while, a second signal none.
func (p *program) endHouse(h *house, interrupted <-chan os.Signal) {
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if n := len(h.engine.Conns()); n > 0 {
		p.talk.Say("%s still open: waiting up to %s, Ctrl-C ends now", talk.Count(n, "connection"), talk.Duration(drainTime))
	}
	done := make(chan int, 1)
	go func() { done <- h.close(drain) }()
	for {
		select {
		case <-interrupted:
			cancel()
		case n := <-done:
			if n > 0 {
				p.talk.Say("%s cut", talk.Count(n, "connection"))
			}
			return
		}
	}
}

// announce says in one line what is reachable by whom.
func (p *program) announce(f *fairlead.Forward, st fairlead.Status) {
	if p.json {
		p.talk.JSONLine(struct {
			Schema  string          `json:"schema"`
			Forward control.Forward `json:"forward"`
		}{"fairlead/forward/1", control.ForwardOf(st)})
		return
	}
	switch f.Kind {
	case fairlead.KindShare:
		p.talk.Say("sharing: %s. Ctrl-C ends it, and the guard with it", strings.Join(st.Bound, ", "))
		return
	case fairlead.KindOpen:
		p.talk.Say("open: %s, for %s. Ctrl-C closes it", strings.Join(st.Bound, ", "), talk.ReachOf(f))
		return
	}
	if f.Kind == fairlead.KindTrigger {
		p.talk.Say("watching %s: it opens %s for whoever sends there. Ctrl-C ends it", f.At.String(), strings.Join(st.Bound, ", "))
		return
	}
	var to []string
	for i := range f.To {
		to = append(to, withPort(f, &f.To[i]))
	}
	p.talk.Say("forwarding %s to %s, for %s. Ctrl-C ends it", boundText(f, st.Bound), strings.Join(to, ", "), talk.ReachOf(f))
}

// withPort is the target with the port that is dialed, where it is one.
func withPort(f *fairlead.Forward, t *fairlead.Target) string {
	if t.Unix != "" || len(t.Ports) > 0 {
		return t.Dest()
	}
	full := *t
	full.Ports = f.At.Ports
	return full.Dest()
}

// boundText is where f listens, with the network once: "127.0.0.1:8080,
// [::1]:8080 (tcp)". A range is told as such, when all of it is listened at.
func boundText(f *fairlead.Forward, bound []string) string {
	if f.At.Unix != "" {
		return strings.Join(bound, ", ")
	}
	var list, hosts []string
	for _, b := range bound {
		address, _, _ := strings.Cut(b, "/")
		host := address[:strings.LastIndexByte(address, ':')]
		if !slices.Contains(list, address) {
			list = append(list, address)
		}
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	if n := f.At.Ports.Len(); n > 1 && len(list) == n*len(hosts) {
		list = nil
		for _, host := range hosts {
			list = append(list, host+":"+f.At.Ports.String())
		}
	}
	return strings.Join(list, ", ") + " (" + f.At.Net.String() + ")"
}

// tellProblem prints a problem that does not end the run.
func (p *program) tellProblem(problem *fairlead.Problem) {
	if p.json {
		p.talk.JSONLine(errorDocument([]*fairlead.Problem{problem}))
		return
	}
	p.talk.Problem(problem)
}

// A oneShotRun tells what happens while the forward runs.
type oneShotRun struct {
	p         *program
	announced atomic.Bool
	broken    atomic.Bool
	told      atomic.Pointer[string] // the problem told last
}

// wanted reports whether a connection's beginning or end is told.
func (r *oneShotRun) wanted(k fairlead.EventKind) bool {
	return r.p.verbose && k == fairlead.EventClose
}

func (r *oneShotRun) watch(e fairlead.Event) {
	switch {
	case e.Kind == fairlead.EventState && !r.announced.Load():
		// What is so at the start, the start tells.
	case e.Kind == fairlead.EventState && e.Problem != nil:
		if last := r.told.Swap(&e.Problem.What); last != nil && *last == e.Problem.What {
			return
		}
		r.broken.Store(true)
		problem := *e.Problem
		problem.Warning = true // the run goes on
		r.p.tellProblem(&problem)
	case e.Kind == fairlead.EventState && e.State != "":
		r.told.Store(nil)
		if r.broken.Swap(false) {
			// Whether a target answers, only its own state would say.
			r.p.talk.Say("what was wrong is over: the forward is %s", e.State)
		}
	case e.Kind == fairlead.EventTrouble:
		r.p.tellProblem(e.Problem)
	case e.Kind == fairlead.EventTrigger:
		r.p.talk.Say("%s", e.Text)
	case e.Kind == fairlead.EventClose && e.Conn != nil:
		r.p.talk.Detail("%s", connLine(e))
	}
}

// connLine is a connection's end in words.
func connLine(e fairlead.Event) string {
	c := e.Conn
	line := c.Client
	if c.Target != "" {
		line += " to " + c.Target
	}
	if c.ID == "" {
		if e.Problem != nil {
			return line + " turned away (" + string(e.Reason) + "): " + e.Problem.What
		}
		return line + " turned away (" + string(e.Reason) + ")"
	}
	return line + " ended (" + string(e.Reason) + ") after " + talk.Duration(e.Time.Sub(c.Began)) +
		", " + talk.Bytes(c.In) + " in, " + talk.Bytes(c.Out) + " out"
}
