package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"fairlead/bench/peers"
	"fairlead/bench/stats"
)

// A report is what the benchmark found.
type report struct {
	o       option
	machine []string // facts, in the order of the text
	cells   []cell
	samples []sample
}

func newReport(s *stage) *report {
	r := &report{o: s.o}
	say := func(name, format string, args ...any) {
		r.machine = append(r.machine, name+": "+fmt.Sprintf(format, args...))
	}
	var versions []string
	for _, p := range s.o.peers {
		if v := p.Ask(); v != "" && !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	mtu := "1500, segmentation and receive offload as veth has them by default"
	say("when", "%s, %d rounds of %v per cell", time.Now().UTC().Format("2006-01-02 15:04 UTC"), s.o.rounds, s.o.time)
	say("machine", "%d × %s, %s", runtime.NumCPU(), processor(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
	say("made with", "%s", runtime.Version())
	say("versions", "%s", strings.Join(versions, "; "))
	say("CPU time by", "%s", s.town.CountedBy())
	say("congestion control", "reno on all hosts, unless the work says otherwise")
	say("MTU", "%s", mtu)
	return r
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

func processor() string {
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOARCH
}

// values are what rounds came to with one value of one target, NaN where a
// round failed or had none.
func (r *report) values(cell, target, value string) []float64 {
	v := make([]float64, r.o.rounds)
	for i := range v {
		v[i] = math.NaN()
	}
	for _, s := range r.samples {
		if x, ok := s.Values[value]; ok && s.Cell == cell && s.Target == target {
			v[s.Round] = x
		}
	}
	return v
}

func (r *report) failure(cell, target string) string {
	for _, s := range r.samples {
		if s.Cell == cell && s.Target == target && s.Fail != "" {
			return s.Fail
		}
	}
	return ""
}

func (r *report) publish() error {
	text := r.markdown()
	fmt.Print(text)
	if r.o.json != "" {
		b, err := json.MarshalIndent(map[string]any{"schema": "fairlead/bench/1", "machine": r.machine, "samples": r.samples}, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(r.o.json, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if r.o.write == "" {
		return nil
	}
	old, err := os.ReadFile(r.o.write)
	if err != nil {
		return err
	}
	changed, err := between(string(old), text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.o.write, err)
	}
	return os.WriteFile(r.o.write, []byte(changed), 0o644)
}

func (r *report) markdown() string {
	var b strings.Builder
	for _, m := range r.machine {
		fmt.Fprintf(&b, "* %s\n", m)
	}
	if rows := r.verdicts(); len(rows) > 0 {
		b.WriteString("\n### Aims\n\n| work | figure | compared with | aim (floor) | median (min–max) | verdict |\n|---|---|---|---|---|---|\n")
		for _, row := range rows {
			b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		}
	}
	for _, c := range r.cells {
		r.table(&b, c)
	}
	return b.String()
}

// table is the figures of one cell.
func (r *report) table(b *strings.Builder, c cell) {
	f := c.figure
	columns := []string{"", f.rate, "÷ direct", f.cpu, "all hosts"}
	if f.latency {
		columns = append(columns, "p50 µs", "p99", "p99.9")
	}
	if f.loss {
		columns = append(columns, "lost")
	}
	columns = append(columns, "fairlead ÷ it: rate", "CPU")
	fmt.Fprintf(b, "\n### %s: %s\n\n| %s |\n|%s\n", c.name, c.says, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	self := subject(c)
	for _, t := range c.targets {
		v := func(name string) []float64 { return r.values(c.name, t, name) }
		cells := []string{t,
			stats.Of(v(rateValue)).String(),
			stats.Of(stats.Ratios(v(rateValue), r.values(c.name, c.targets[0], rateValue))).String(),
			stats.Of(v(cpuValue)).String(), stats.Number(stats.Of(v(sumValue)).Median)}
		if f.latency {
			cells = append(cells, stats.Of(v(p50Value)).String(), stats.Of(v(p99Value)).String(), stats.Of(v(p999Value)).String())
		}
		if f.loss {
			cells = append(cells, percent(stats.Of(v(lossValue))))
		}
		if t == self {
			cells = append(cells, "", "")
		} else {
			cells = append(cells, stats.Of(stats.Ratios(r.values(c.name, self, rateValue), v(rateValue))).String(),
				stats.Of(stats.Ratios(r.values(c.name, self, cpuValue), v(cpuValue))).String())
		}
		if why := r.failure(c.name, t); why != "" {
			cells[0] += " – failed: " + why
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
}

func percent(s stats.Spread) string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f %% (%.2f–%.2f)", s.Median*100, s.Min*100, s.Max*100)
}

// subject is the target of a cell that is held against the others.
func subject(c cell) string {
	for _, t := range c.targets {
		if strings.HasPrefix(t, peers.Fairlead) {
			return t
		}
	}
	return ""
}
