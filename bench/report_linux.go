package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"fairlead/bench/peers"
	"fairlead/bench/stats"
	"fairlead/bench/town"
)

// A report is what the benchmark found.
type report struct {
	o       option
	began   time.Time
	use     town.Machine // at the beginning
	facts   []string     // in the order of the text
	calls   []call
	cells   []cell
	samples []sample
	again   map[string]float64
}

func newReport(s *stage) *report {
	r := &report{o: s.o, began: time.Now(), use: town.ReadMachine()}
	r.say("when", "%s, %d rounds of %v per cell, called with %s", r.began.UTC().Format("2006-01-02 15:04 UTC"), s.o.rounds, s.o.time, strings.Join(s.o.args, " "))
	r.say("machine", "%d × %s, Linux %s", runtime.NumCPU(), processor(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
	var versions []string
	for _, p := range s.o.peers {
		if v := p.Ask(); v != "" && !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	r.say("versions", "%s%s, %s", peers.FairleadVersion(s.tools), commit(s.o), strings.Join(append(versions, "the rest "+runtime.Version()), ", "))
	r.say("network", "client – middle – server, veth, MTU %d, offloads as veth has them; congestion control reno on all three, unless the work says otherwise", s.town.MTU())
	if s.o.works["kernel"] {
		r.say("connections that the kernel tracks", "at most %s in each namespace, %s buckets", tracking("max"), tracking("buckets"))
	}
	r.say("descriptors", "%d for each process", maxFiles())
	r.say("CPU time by", "%s", s.town.CountedBy())
	return r
}

// commit is that of the source, when fairlead was built from it.
func commit(o option) string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if o.fairlead != "" || err != nil {
		return ""
	}
	return " at commit " + strings.TrimSpace(string(out))
}

func (r *report) say(name, format string, args ...any) {
	r.facts = append(r.facts, name+": "+fmt.Sprintf(format, args...))
}

// finish adds what is known at the end: what else the machine did, and how
// the forwarders were called.
func (r *report) finish(s *stage) {
	use := town.ReadMachine().Since(r.use)
	ours := s.town.Spent()
	r.say("meanwhile", "the benchmark used %.0f %% of the CPU, other work %.0f %%, and %.0f %% was stolen from this virtual machine",
		100*use.Part(ours), 100*use.Part(use.Busy-ours), 100*use.Part(use.Stolen))
	if len(s.lame) > 0 {
		r.say("an answer to a half-closed connection is lost by", "%s", strings.Join(slices.Sorted(maps.Keys(s.lame)), ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(s.targets)) {
		t := s.targets[name]
		if len(t.call) == 0 || !own(name) {
			continue
		}
		c := call{Target: name, Words: strings.ReplaceAll(strings.Join(t.call, " "), s.tools.Dir+"/", "")}
		for _, w := range t.call {
			if text := read(w); strings.HasSuffix(w, ".conf") && text != "" {
				c.Config = strings.ReplaceAll(shorten(text), s.tools.Dir+"/", "")
			}
		}
		r.calls = append(r.calls, c)
	}
}

// own reports whether a target's call says more than that of another one.
func own(name string) bool {
	switch base(name) {
	case peers.NAT, peers.NFT:
		return !has(name, overUDP)
	}
	return !strings.Contains(name, "/") || name == peers.Fairlead+"/"+many || strings.HasSuffix(name, "/"+overUDP)
}

// A call is how a forwarder was started.
type call struct{ Target, Words, Config string }

// shorten keeps the first lines of a long configuration.
func shorten(text string) string {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) <= 40 {
		return text
	}
	return strings.Join(lines[:2], "") + fmt.Sprintf("# and %d more\n", len(lines)-3)
}

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// tracking is a parameter of the kernel's connection tracking.
func tracking(name string) string {
	return strings.TrimSpace(read("/proc/sys/net/netfilter/nf_conntrack_" + name))
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
// round had none. Where one round failed, the target has no values at all: a
// failure is not made good by figures.
func (r *report) values(cell, target, value string) []float64 {
	v := make([]float64, r.o.rounds)
	for i := range v {
		v[i] = math.NaN()
	}
	if r.failure(cell, target) != "" {
		return v
	}
	for _, s := range r.samples {
		if x, ok := s.Values[value]; ok && s.Cell == cell && s.Target == target {
			v[s.Round] = x
		}
	}
	return v
}

func (r *report) spread(cell, target, value string) stats.Spread {
	return stats.Of(r.values(cell, target, value))
}

// failure is why a target failed with a cell, and how often; "" when it did
// not.
func (r *report) failure(cell, target string) string {
	failed, why := 0, ""
	for _, s := range r.samples {
		if s.Cell == cell && s.Target == target && s.Fail != "" {
			failed, why = failed+1, s.Fail
		}
	}
	if failed == 0 {
		return ""
	}
	why = strings.NewReplacer("|", "/", "\n", " ").Replace(why)
	if len(why) > 200 {
		why = strings.ToValidUTF8(why[:200], "") + " …"
	}
	return fmt.Sprintf("failed in %d of %d rounds: %s", failed, r.o.rounds, why)
}

func (r *report) publish() error {
	text := r.markdown()
	fmt.Print(text)
	if r.o.json != "" {
		b, err := json.MarshalIndent(map[string]any{"schema": "fairlead/bench/1", "facts": r.facts, "calls": r.calls, "samples": r.samples}, "", " ")
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
	changed, err := between(string(old), r.o.marks, text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.o.write, err)
	}
	return os.WriteFile(r.o.write, []byte(changed), 0o644)
}

func (r *report) markdown() string {
	var b strings.Builder
	for _, m := range r.facts {
		fmt.Fprintf(&b, "* %s\n", m)
	}
	if rows := r.verdicts(); len(rows) > 0 {
		b.WriteString("\n### Aims\n\n| work | figure | compared with | aim (floor) | median (min–max) | verdict |\n|---|---|---|---|---|---|\n")
		var not []string
		for _, row := range rows {
			b.WriteString("| " + strings.Join(row, " | ") + " |\n")
			if verdict := row[len(row)-1]; verdict != string(stats.Reached) {
				not = append(not, fmt.Sprintf("* %s, %s: %s against %s; the aim is %s – %s\n", row[0], row[1], row[4], row[2], row[3], verdict))
			}
		}
		fmt.Fprintf(&b, "\n### What is not reached\n\n%d of %d.\n\n%s", len(not), len(rows), strings.Join(not, ""))
	}
	for _, c := range r.cells {
		r.table(&b, c)
	}
	b.WriteString("\n### Calls and configurations\n")
	for _, c := range r.calls {
		fmt.Fprintf(&b, "\n%s:\n\n```\n$ %s\n%s```\n", c.Target, c.Words, c.Config)
	}
	return b.String()
}

// table is the figures of one cell.
func (r *report) table(b *strings.Builder, c cell) {
	if len(c.figure.columns) > 0 {
		r.heldTable(b, c)
		return
	}
	f := c.figure
	columns := []string{"", f.rate, "÷ direct", f.cpu, "all three + kernel threads"}
	if f.latency {
		columns = append(columns, "p50 µs", "p99", "p99.9")
	}
	if f.loss {
		columns = append(columns, "lost")
	}
	self, cpu := subject(c), cpuValue
	if c.self == "" {
		columns = append(columns, "fairlead ÷ it: rate", "CPU")
	} else { // what it costs is done by no process
		cpu = sumValue
		columns = append(columns, c.self+" ÷ it: rate", "CPU of all three")
	}
	fmt.Fprintf(b, "\n### %s: %s\n\n", c.name, c.says)
	if varied, ok := r.again[c.name]; ok {
		fmt.Fprintf(b, "Measured twice, because the plain route varied by %.0f %% between rounds. ", varied*100)
	}
	if varied := r.spread(c.name, c.targets[0], rateValue).Varies(); varied > disturbed {
		fmt.Fprintf(b, "**Disturbed**: the plain route varied by %.0f %%. ", varied*100)
	}
	var others []float64
	for _, t := range c.targets {
		others = append(others, r.values(c.name, t, otherValue)...)
	}
	if o := stats.Of(others); o.N > 0 {
		fmt.Fprintf(b, "Other work on the machine took %.0f %% of the CPU (%.0f–%.0f).\n\n", 100*o.Median, 100*o.Min, 100*o.Max)
	}
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, t := range c.targets {
		v := func(name string) []float64 { return r.values(c.name, t, name) }
		row := []string{t,
			stats.Of(v(rateValue)).String(),
			stats.Of(stats.Ratios(v(rateValue), r.values(c.name, c.targets[0], rateValue))).String(),
			stats.Of(v(cpuValue)).String(),
			stats.Number(stats.Of(v(sumValue)).Median) + " + " + stats.Number(stats.Of(v(kernelValue)).Median)}
		if f.latency {
			row = append(row, stats.Of(v(p50Value)).String(), stats.Of(v(p99Value)).String(), stats.Of(v(p999Value)).String())
		}
		if f.loss {
			row = append(row, percent(stats.Of(v(lossValue))))
		}
		if t == self {
			row = append(row, "", "")
		} else {
			row = append(row, stats.Of(stats.Ratios(r.values(c.name, self, rateValue), v(rateValue))).String(),
				stats.Of(stats.Ratios(r.values(c.name, self, cpu), v(cpu))).String())
		}
		r.row(b, c, t, row)
	}
}

// row prints the figures of a target, or that it failed.
func (r *report) row(b *strings.Builder, c cell, target string, row []string) {
	if why := r.failure(c.name, target); why != "" {
		for i := range row {
			row[i] = ""
		}
		row[0], row[1] = target, why
	}
	fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
}

func percent(s stats.Spread) string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f %% (%.2f–%.2f)", s.Median*100, s.Min*100, s.Max*100)
}

// subject is the target of a cell that is held against the others.
func subject(c cell) string {
	if c.self != "" {
		return visited(c, c.self)
	}
	return visited(c, peers.Fairlead)
}

// visited is the first of a cell's targets that goes by a name, which may have
// variants, or may not; "" is none.
func visited(c cell, name string) string {
	for _, t := range c.targets {
		if goesBy(t, name) {
			return t
		}
	}
	return ""
}

// goesBy reports whether a target has that name, or has it before variants.
func goesBy(target, name string) bool {
	return target == name || strings.HasPrefix(target, name+"/")
}
