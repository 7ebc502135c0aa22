package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"fairlead/bench/load"
	"fairlead/bench/peers"
	"fairlead/bench/stats"
	"fairlead/bench/town"
)

// A sample is what one visit of one target with one cell came to.
type sample struct {
	Round  int
	Cell   string
	Target string
	Fail   string             `json:",omitempty"`
	Values map[string]float64 `json:",omitempty"` // by the names below
}

// Names of values.
const (
	rateValue   = "rate"   // in the cell's unit
	cpuValue    = "cpu"    // of the target, in the cell's unit
	sumValue    = "sum"    // of client, target and server
	kernelValue = "kernel" // of the kernel's own threads, whoever they work for
	otherValue  = "other"  // part of all CPU time that went to other work on the machine
	p50Value    = "p50"    // microseconds
	p99Value    = "p99"
	p999Value   = "p99.9"
	lossValue   = "loss" // part of what was sent

	countValue  = "count"       // idle connections
	memoryValue = "memory"      // KiB of process memory for each of them
	filesValue  = "descriptors" // for each of them
	slabValue   = "slab"        // KiB of kernel memory for each, on all hosts
	readyValue  = "ready"       // seconds from the start until something was forwarded
)

// A target is a forwarder at work, or the plain route.
type target struct {
	name string
	at   netip.AddrPort // where clients go
	proc *town.Process  // nil for the plain route
	from []netip.Addr   // whence clients come, where it has to be that; see load.Order.Sources
	fail error          // why it cannot be measured
	log  string

	call  []string      // how it was called
	ready time.Duration // from the start until something was forwarded
	held  town.Usage    // then
}

// A stage is the town with a server and the targets that are up.
type stage struct {
	o       option
	town    *town.Town
	tools   peers.Tools
	server  *server
	targets map[string]*target
	next    uint16 // number of the next target; its ports follow from it
	client  *town.Group
	samples []sample
	lame    map[string]bool    // peers that do not carry half-closed connections
	again   map[string]float64 // cells measured twice, and why: how far the plain route varied
}

// Ports: the server listens at one for each target, so that no two targets
// share the connections that wait to be forgotten.
const (
	firstEntry = 2001
	firstServe = 31001
	serveMost  = 64
	manyEntry  = 40001 // the first of the target with 10,000 forwards
	manyCount  = 10000
	firstUser  = 61001 // ordinary users that forwarders run as
)

func bench(ctx context.Context, o option) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces are made by root only; run it with sudo")
	}
	if err := raiseFiles(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "fairlead-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{o: o, targets: map[string]*target{}, again: map[string]float64{}, lame: map[string]bool{}}
	if s.tools, err = tools(ctx, o, dir); err != nil {
		return err
	}
	if s.town, err = town.New(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.town.Close()) }()
	if s.server, err = startServer(s.town, s.tools); err != nil {
		return err
	}
	report := newReport(s)
	if err := s.measure(ctx, report); err != nil {
		return err
	}
	if err := report.publish(); err != nil {
		return err
	}
	if o.keep {
		for _, h := range []*town.Host{s.town.Client, s.town.Middle, s.town.Server} {
			fmt.Fprintf(os.Stderr, "bench: the %s: %s\n", h.Name, h.Enter())
		}
		fmt.Fprintf(os.Stderr, "bench: configurations and logs are in %s; everything runs until Ctrl-C\n", dir)
		<-ctx.Done()
	}
	return nil
}

// tools puts the programs where an ordinary user can call them.
func tools(ctx context.Context, o option, dir string) (peers.Tools, error) {
	t := peers.Tools{Dir: dir, Fairlead: filepath.Join(dir, "fairlead"), Self: filepath.Join(dir, "bench")}
	if err := os.Chmod(dir, 0o777); err != nil { // some write their pid there
		return t, err
	}
	self, err := os.Executable()
	if err != nil {
		return t, err
	}
	if err := copyProgram(self, t.Self); err != nil {
		return t, err
	}
	if o.fairlead != "" {
		return t, copyProgram(o.fairlead, t.Fairlead)
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", t.Fairlead, "./cmd/fairlead")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return t, fmt.Errorf("build ./cmd/fairlead (is this the project's directory?): %w\n%s", err, out)
	}
	return t, nil
}

func copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// maxFiles is how many descriptors each process may have.
func maxFiles() int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil || r.Cur > 1<<20 {
		return 1 << 20
	}
	return int(r.Cur)
}

// raiseFiles takes all descriptors that this process may have.
func raiseFiles() error {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	r.Cur = r.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &r)
}

// A server is the process that counts.
type server struct {
	proc *town.Process
	mu   sync.Mutex // guards the conversation
	in   io.Writer
	out  *bufio.Reader
}

func startServer(t *town.Town, tools peers.Tools) (*server, error) {
	args := []string{"serve", town.ServerAddr.String()}
	for i := range serveMost {
		args = append(args, fmt.Sprint(firstServe+i))
	}
	cmd := exec.Command(tools.Self, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, printed, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = printed
	s := &server{in: in, out: bufio.NewReader(out)}
	s.proc, err = t.Start(t.Server, "server", cmd, 0)
	printed.Close()
	if err != nil {
		return nil, err
	}
	_, err = s.counters() // it answers when it listens
	return s, err
}

func (s *server) counters() (c load.Counters, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		return c, fmt.Errorf("ask the server: %w", err)
	}
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return c, fmt.Errorf("ask the server: %w", err)
	}
	return c, json.Unmarshal(line, &c)
}

// measure carries out the plan and fills the report.
func (s *stage) measure(ctx context.Context, r *report) error {
	plan := plan(s.o)
	for _, step := range []struct {
		congestion string
		cells      []cell
		run        func(context.Context, []cell) error
	}{
		{"reno", plan.first, s.rounds},
		{"reno", plan.loads, s.loaded},
		{"reno", plan.idles, s.hold},
		{"reno", plan.kernels, s.rounds},
		{"reno", plan.applies, s.applied},
		{"bbr", plan.paced, s.rounds},
	} {
		if len(step.cells) == 0 {
			continue
		}
		if err := s.town.Congestion(step.congestion); err != nil {
			return err
		}
		if err := step.run(ctx, step.cells); err != nil {
			return err
		}
		r.cells = append(r.cells, step.cells...)
	}
	r.samples, r.again = s.samples, s.again
	r.finish(s)
	return nil
}

// rounds measures all cells in all rounds. Where the plain route itself
// varied too much, the machine was disturbed, and all rounds of the cell are
// measured once more.
func (s *stage) rounds(ctx context.Context, cells []cell) error {
	s.startAll(ctx, cells)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := s.visits(ctx, cells); err != nil || !s.o.again {
		return err
	}
	again := slices.DeleteFunc(slices.Clone(cells), func(c cell) bool {
		return s.varied(c) <= disturbed
	})
	for _, c := range again {
		s.again[c.name] = s.varied(c)
		s.samples = slices.DeleteFunc(s.samples, func(x sample) bool { return x.Cell == c.name })
	}
	return s.visits(ctx, again)
}

// disturbed is the part of its median by which the figures of the plain route
// may lie apart.
const disturbed = 0.25

// varied is how far the figures of the plain route lie apart.
func (s *stage) varied(c cell) float64 {
	var v []float64
	for _, x := range s.samples {
		if rate, ok := x.Values[rateValue]; ok && x.Cell == c.name && base(x.Target) == peers.Direct {
			v = append(v, rate)
		}
	}
	return stats.Of(v).Varies()
}

func (s *stage) visits(ctx context.Context, cells []cell) error {
	n := 0
	for _, c := range cells {
		n += len(c.targets)
	}
	for round := range s.o.rounds {
		if n > 0 {
			fmt.Fprintf(os.Stderr, "bench: round %d of %d, %d visits\n", round+1, s.o.rounds, n)
		}
		for _, c := range cells {
			order := slices.Clone(c.targets)
			rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, name := range order {
				values, err := s.visit(ctx, c, s.targets[name])
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s.note(round, c, name, values, err)
			}
		}
	}
	return nil
}

func (s *stage) note(round int, c cell, target string, values map[string]float64, err error) {
	x := sample{Round: round, Cell: c.name, Target: target, Values: values}
	if err != nil {
		x.Fail = err.Error()
		x.Fail = strings.ReplaceAll(x.Fail, s.tools.Dir+"/", "")
		fmt.Fprintf(os.Stderr, "bench: round %d, %s, %s: %s\n", round+1, c.name, target, x.Fail)
	}
	s.samples = append(s.samples, x)
}

// startAll starts every target of the cells that is not up yet. One that does
// not come up fails at each visit.
func (s *stage) startAll(ctx context.Context, cells []cell) {
	for _, c := range cells {
		for _, name := range c.targets {
			if s.targets[name] == nil && ctx.Err() == nil {
				s.targets[name] = s.begin(ctx, name)
			}
		}
	}
}

// begin starts a target and proves it.
func (s *stage) begin(ctx context.Context, name string) *target {
	began := time.Now()
	t := s.start(name)
	if t.fail == nil {
		t.fail = s.prove(ctx, t, has(name, overUDP))
	}
	t.ready = time.Since(began)
	if t.proc != nil {
		t.held = settle(ctx, t.proc.Group)
	}
	return t
}

func (s *stage) start(name string) *target {
	t := &target{name: name}
	i := s.next
	s.next++
	to := netip.AddrPortFrom(town.ServerAddr, firstServe+i%serveMost)
	if base(name) == peers.Direct {
		t.at = to
		return t
	}
	if base(name) == peers.NAT || base(name) == peers.NFT {
		t.fail = s.translate(t, peers.Route{Listen: netip.AddrPortFrom(netip.Addr{}, firstEntry+i), To: to, UDP: has(name, overUDP)})
		return t
	}
	r := peers.Route{Listen: netip.AddrPortFrom(town.EntryAddr, firstEntry+i), To: to, UDP: has(name, overUDP)}
	var argv []string
	switch {
	case has(name, many):
		r.Listen = netip.AddrPortFrom(town.EntryAddr, manyEntry)
		argv, t.fail = peers.FairleadMany(s.tools, r, manyCount)
	case base(name) == peers.Fairlead && has(name, off):
		argv = peers.FairleadCommand(s.tools, r, "congestion", "off")
	case base(name) == peers.Fairlead:
		argv = peers.FairleadCommand(s.tools, r)
	default:
		p, _ := peers.Find(base(name))
		if t.fail = p.Missing(); t.fail == nil {
			argv, t.fail = p.Command(s.tools, r)
		}
	}
	if t.fail != nil {
		return t
	}
	var uid uint32
	if has(name, nobody) {
		uid = firstUser + uint32(i) // pipes are limited per user
	}
	if t.at = r.Listen; has(name, many) { // the last is used, as it is there when all are
		t.at = netip.AddrPortFrom(town.EntryAddr, manyEntry+manyCount-1)
	}
	t.fail = s.run(t, s.town.Middle, argv, uid)
	return t
}

// run starts a target's program on a host.
func (s *stage) run(t *target, h *town.Host, argv []string, uid uint32) error {
	t.log = filepath.Join(s.tools.Dir, strings.ReplaceAll(t.name, "/", "-")+".log")
	log, err := os.Create(t.log)
	if err != nil {
		return err
	}
	defer log.Close()
	t.call = argv
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.tools.Dir, log, log
	cmd.Env = append(os.Environ(), "STATE_DIRECTORY="+t.log+".state") // fairlead's
	t.proc, err = s.town.Start(h, t.name, cmd, uid)
	return err
}

// prove waits until the target forwards, and checks that what it forwards
// arrives whole: nothing is measured before. A peer that cannot carry the end
// of one half is measured, and that is told.
func (s *stage) prove(ctx context.Context, t *target, isUDP bool) error {
	whole := load.Order{Kind: load.Check, To: t.at, N: 1}
	counted := whole
	counted.Size = 1
	var err error
	for began := time.Now(); time.Since(began) < 20*time.Second && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if t.proc != nil {
			select {
			case <-t.proc.Ended():
				return fmt.Errorf("it ended at once (%v): %s", t.proc.Err(), t.said())
			default:
			}
		}
		if isUDP {
			err = s.provePackets(ctx, t)
		} else if _, err = s.send(ctx, counted, nil); err == nil {
			if _, half := s.send(ctx, whole, nil); half != nil {
				if err = half; base(t.name) != peers.Fairlead && ctx.Err() == nil {
					s.lame[base(t.name)] = true
					err = nil
				}
			}
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("it does not forward: %w; it says: %s", err, t.said())
}

func (s *stage) provePackets(ctx context.Context, t *target) error {
	before, err := s.server.counters()
	if err != nil {
		return err
	}
	if _, err := s.send(ctx, load.Order{Kind: load.Packets, To: t.at, N: 1, Size: 64, Rate: 100, Warm: 50 * time.Millisecond}, nil); err != nil {
		return err
	}
	after, err := s.server.counters()
	if err == nil && after.Packets == before.Packets {
		err = errors.New("no datagram arrived")
	}
	return err
}

// said is the end of what the target has printed.
func (t *target) said() string {
	b, _ := os.ReadFile(t.log)
	return strings.Join(strings.Fields(string(bytes.ToValidUTF8(b[max(0, len(b)-300):], nil))), " ")
}

// A reading is everything that is read at the beginning and at the end of a
// visit.
type reading struct {
	counters load.Counters
	target   time.Duration
	sum      time.Duration
	kernel   time.Duration
	machine  town.Machine
}

func (s *stage) read(t *target) (r reading, err error) {
	if r.counters, err = s.server.counters(); err != nil {
		return r, err
	}
	groups := []*town.Group{s.server.proc.Group, s.client}
	if t.proc != nil {
		if r.target, err = t.proc.Group.CPU(); err != nil {
			return r, err
		}
	}
	r.sum = r.target
	for _, g := range groups {
		cpu, err := g.CPU()
		if err != nil {
			return r, err
		}
		r.sum += cpu
	}
	r.kernel = town.KernelThreads()
	r.machine = town.ReadMachine()
	return r, nil
}

// visit measures one cell with one target.
func (s *stage) visit(ctx context.Context, c cell, t *target) (map[string]float64, error) {
	if t.fail != nil {
		return nil, t.fail
	}
	order := c.order
	order.To = t.at
	if len(order.Sources) > 0 && t.from != nil {
		order.Sources = t.from
	}
	var from, to reading
	result, err := s.send(ctx, order, func(pause func(time.Duration), stop func()) (err error) {
		if from, err = s.read(t); err != nil {
			return err
		}
		pause(s.o.time)
		if c.figure.loss {
			stop()
			pause(200 * time.Millisecond) // what is under way arrives
		}
		to, err = s.read(t)
		return err
	})
	if err != nil {
		return nil, err
	}
	count := c.figure.count(to.counters) - c.figure.count(from.counters)
	if count <= 0 {
		return nil, errors.New("nothing arrived")
	}
	seconds := float64(to.counters.At-from.counters.At) / 1e9
	if c.figure.loss {
		seconds = result.Seconds
	}
	per := func(cpu time.Duration) float64 {
		return float64(cpu) / float64(c.figure.cpuIn) / (count / c.figure.cpuPer)
	}
	use := to.machine.Since(from.machine)
	v := map[string]float64{
		otherValue:  use.Part(use.Busy - (to.sum - from.sum)),
		rateValue:   count / seconds / c.figure.rateIn,
		sumValue:    per(to.sum - from.sum),
		kernelValue: per(to.kernel - from.kernel),
	}
	if t.proc != nil {
		v[cpuValue] = per(to.target - from.target)
	}
	if c.figure.latency {
		v[p50Value], v[p99Value], v[p999Value] = result.P50, result.P99, result.P999
	}
	if c.figure.loss {
		v[lossValue] = max(0, 1-float64(to.counters.Packets-from.counters.Packets)/float64(result.Ops))
	}
	return v, nil
}

// send lets a client carry out an order and calls during between "go" and
// "stop"; during can pause, and can stop the client early.
func (s *stage) send(ctx context.Context, o load.Order, during func(pause func(time.Duration), stop func()) error) (r load.Result, err error) {
	b, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	cmd := exec.Command(s.tools.Self, "load", string(b))
	in, err := cmd.StdinPipe()
	if err != nil {
		return r, err
	}
	// Not a StdoutPipe: that is closed as soon as the client ends, and its last
	// line may be lost.
	out, printed, err := os.Pipe()
	if err != nil {
		return r, err
	}
	defer out.Close()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = printed, &said
	p, err := s.town.Start(s.town.Client, "client", cmd, 0)
	printed.Close()
	if err != nil {
		return r, err
	}
	defer p.Kill()
	s.client = p.Group
	unstop := context.AfterFunc(ctx, p.Kill)
	defer unstop()
	lines := bufio.NewReader(out)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		return r, fmt.Errorf("the client ended (%v): %s", err, said.String())
	}
	if first[0] == '{' { // a result already: it has failed
		return r, failure(first, &r)
	}
	io.WriteString(in, "go\n")
	stop := sync.OnceFunc(func() { io.WriteString(in, "stop\n") })
	if during != nil {
		pause := func(d time.Duration) {
			select {
			case <-time.After(d):
			case <-ctx.Done():
			}
		}
		if err := during(pause, stop); err != nil {
			return r, err
		}
	} else {
		time.Sleep(30 * time.Millisecond)
	}
	stop()
	last, err := lines.ReadBytes('\n')
	if err != nil {
		return r, fmt.Errorf("the client ended (%v): %s", err, said.String())
	}
	return r, failure(last, &r)
}

// failure reads a result, and makes an error of errors.
func failure(line []byte, r *load.Result) error {
	if err := json.Unmarshal(line, r); err != nil {
		return fmt.Errorf("the client said %q: %w", line, err)
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	if r.Errors > 0 {
		return fmt.Errorf("%d errors", r.Errors)
	}
	return nil
}
