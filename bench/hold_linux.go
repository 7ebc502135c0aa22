package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"fairlead/bench/load"
	"fairlead/bench/peers"
	"fairlead/bench/town"
)

// Bounds of idle connections: each takes two descriptors of a forwarder, and
// where a forwarder takes a process for each, the machine is asked for no more
// than idleProcesses.
const (
	idleMost      = 10000
	idleProcesses = 1000
)

// idleCount is how many connections a target is asked to hold.
func idleCount(target string, files int) int {
	perConn := 2
	if p, ok := peers.Find(base(target)); ok {
		perConn = p.PerConn
	}
	if perConn == 0 {
		return idleProcesses
	}
	return min(idleMost, files*9/10/perConn)
}

// hold measures what idle connections cost: each target is started afresh,
// one after the other, and asked what it holds before and after.
func (s *stage) hold(ctx context.Context, cells []cell) error {
	for _, c := range cells {
		for round := range min(s.o.rounds, 3) {
			if s.o.quick && round > 0 {
				break
			}
			fmt.Fprintf(os.Stderr, "bench: %s, round %d\n", c.name, round+1)
			for _, name := range c.targets {
				values, err := s.holdOne(ctx, name)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s.note(round, c, name, values, err)
			}
		}
	}
	return nil
}

func (s *stage) holdOne(ctx context.Context, name string) (map[string]float64, error) {
	t := s.begin(ctx, name)
	if t.proc != nil {
		defer t.proc.Kill()
	}
	if t.fail != nil {
		return nil, t.fail
	}
	n := idleCount(name, maxFiles())
	var before, after town.Usage
	look := func() (u town.Usage) {
		if t.proc != nil {
			u = t.proc.Group.Usage()
		}
		return u
	}
	slab := town.KernelMemory()
	before = look()
	_, err := s.send(ctx, load.Order{Kind: load.Idle, To: t.at, N: n, Size: 64, Warm: time.Second, Sources: town.ClientAddrs}, func(func(time.Duration), func()) error {
		after = look()
		slab = town.KernelMemory() - slab
		return nil
	})
	if err != nil {
		return nil, err
	}
	v := map[string]float64{countValue: float64(n), slabValue: float64(slab) / 1024 / float64(n)}
	if t.proc != nil {
		v[memoryValue] = float64(after.Memory-before.Memory) / 1024 / float64(n)
		each := float64(after.Files-before.Files) / float64(n)
		v[filesValue] = math.Round(each*100) / 100 // one more for the whole process is none for each
	}
	return v, nil
}

// settle waits until the process neither opens nor closes descriptors, and
// returns what it holds then.
func settle(ctx context.Context, g *town.Group) town.Usage {
	u := g.Usage()
	for range 50 {
		select {
		case <-ctx.Done():
			return u
		case <-time.After(100 * time.Millisecond):
		}
		next := g.Usage()
		if next.Files == u.Files {
			return next
		}
		u = next
	}
	return u
}

// loaded notes what targets of the first stage held when they were up. It
// costs no visits.
func (s *stage) loaded(_ context.Context, cells []cell) error {
	for _, c := range cells {
		for _, name := range c.targets {
			t := s.targets[name]
			if t == nil {
				continue // no cell of this run needs it
			}
			s.note(0, c, name, map[string]float64{
				readyValue:  t.ready.Seconds(),
				memoryValue: float64(t.held.Memory) / (1 << 20),
				filesValue:  float64(t.held.Files),
			}, t.fail)
		}
	}
	return nil
}

var (
	idleColumns = []column{{"connections", countValue}, {"process memory, KiB each", memoryValue},
		{"descriptors each", filesValue}, {"kernel memory on all hosts, KiB each", slabValue}}
	loadedColumns = []column{{"seconds until it forwards", readyValue}, {"process memory, MiB", memoryValue}, {"descriptors", filesValue}}
)

// heldTable is the figures of what is held.
func (r *report) heldTable(b *strings.Builder, c cell) {
	fmt.Fprintf(b, "\n### %s: %s\n\n| ", c.name, c.says)
	for _, col := range c.figure.columns {
		fmt.Fprintf(b, " | %s", col.says)
	}
	fmt.Fprintf(b, " |\n|%s\n", strings.Repeat("---|", len(c.figure.columns)+1))
	for _, t := range c.targets {
		row := []string{t}
		for _, col := range c.figure.columns {
			row = append(row, r.spread(c.name, t, col.value).String())
		}
		r.row(b, c, t, row)
	}
}
