package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/sys/service"
)

// A journal writes the service's log: a line for each connection at its end,
// for each change of state and for each trouble. Events are queued, so that a
// slow terminal or disk holds up no connection; what does not fit is counted.
type journal struct {
	log     *slog.Logger // writes at once
	lines   *slog.Logger // writes events to out
	out     *batch
	events  chan fairlead.Event
	dropped atomic.Int64
	done    chan struct{}
}

// journalQueue is how many events may wait to be written.
const journalQueue = 4096

// newJournal logs to stderr: with priorities and no time in systemd's journal,
// as JSON when FAIRLEAD_LOG says so, else as logfmt.
func newJournal(stderr *os.File, getenv func(string) string, verbose bool) *journal {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	logger := func(w io.Writer) *slog.Logger {
		switch {
		case getenv("FAIRLEAD_LOG") == "json":
			return slog.New(slog.NewJSONHandler(w, options))
		case service.InJournal():
			return slog.New(priorities{slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTime}), w})
		}
		return slog.New(slog.NewTextHandler(w, options))
	}
	out := &batch{w: stderr}
	j := &journal{
		log: logger(stderr), lines: logger(out), out: out,
		events: make(chan fairlead.Event, journalQueue), done: make(chan struct{}),
	}
	go j.write()
	return j
}

// A batch gathers lines, so that many at once are one write.
type batch struct {
	w     io.Writer
	lines []byte
}

// batchSize is when a batch is written though more lines are coming, in bytes.
const batchSize = 32 << 10

func (b *batch) Write(p []byte) (int, error) {
	b.lines = append(b.lines, p...)
	return len(p), nil
}

func (b *batch) flush() {
	if len(b.lines) > 0 {
		b.w.Write(b.lines)
		b.lines = b.lines[:0]
	}
}

// watch is a fairlead.Watch.
func (j *journal) watch(e fairlead.Event) {
	select {
	case j.events <- e:
	default:
		j.dropped.Add(1)
	}
}

// close writes what is queued and ends. Nothing may be watched afterwards.
func (j *journal) close() {
	close(j.events)
	<-j.done
}

func (j *journal) write() {
	defer close(j.done)
	for e := range j.events {
		j.event(e)
		if n := j.dropped.Swap(0); n > 0 {
			j.lines.Warn("the log could not keep up", "dropped", n)
		}
		if len(j.events) == 0 || len(j.out.lines) >= batchSize {
			j.out.flush()
		}
	}
}

func (j *journal) event(e fairlead.Event) {
	attrs := []slog.Attr{}
	if e.Forward != "" {
		attrs = append(attrs, slog.String("forward", e.Forward))
	}
	if c := e.Conn; c != nil {
		attrs = append(attrs, slog.String("client", c.Client), slog.String("local", c.Local))
		if c.Target != "" {
			attrs = append(attrs, slog.String("target", c.Target))
		}
		if c.Asked != "" {
			attrs = append(attrs, slog.String("asked", c.Asked))
		}
		if c.ID != "" {
			attrs = append(attrs, slog.String("id", c.ID))
		}
		if e.Kind == fairlead.EventClose {
			attrs = append(attrs, slog.Int64("in", c.In), slog.Int64("out", c.Out),
				slog.Duration("lasted", e.Time.Sub(c.Began).Round(time.Millisecond)))
		}
	}
	if e.Reason != "" {
		attrs = append(attrs, slog.String("reason", string(e.Reason)))
	}
	if e.State != "" {
		attrs = append(attrs, slog.String("state", string(e.State)))
	}
	if e.Problem != nil {
		attrs = append(attrs, slog.String("code", string(e.Problem.Code)), slog.String("error", e.Problem.What))
	}
	level, text := slog.LevelInfo, e.Text
	switch e.Kind {
	case fairlead.EventOpen:
		level, text = slog.LevelDebug, "connection"
	case fairlead.EventClose:
		text = "connection ended"
	case fairlead.EventState, fairlead.EventReload:
		if e.Problem != nil {
			level = slog.LevelWarn
		}
		if text == "" {
			text = "state"
		}
	case fairlead.EventTrouble:
		level = slog.LevelWarn
	}
	j.lines.LogAttrs(context.Background(), level, text, attrs...)
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

// priorities puts sd-daemon(3)'s "<N>" before each line, which the journal
// takes for its priority.
type priorities struct {
	slog.Handler
	w io.Writer
}

func (h priorities) Handle(ctx context.Context, r slog.Record) error {
	prefix := "<6>"
	switch {
	case r.Level >= slog.LevelError:
		prefix = "<3>"
	case r.Level >= slog.LevelWarn:
		prefix = "<4>"
	case r.Level < slog.LevelInfo:
		prefix = "<7>"
	}
	io.WriteString(h.w, prefix)
	return h.Handler.Handle(ctx, r)
}
