package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fairlead/bench/peers"
	"fairlead/bench/town"
)

// Sizes of fairlead's forwards in the kernel. One is a run of one sentence in the
// foreground; the others are the service, and the last forward is used.
var (
	natSizes      = []int{1, 10, 1000, 10000}
	quickNATSizes = []int{10, 10000}
)

// fresh is a service that is started to see how long its changes take.
const fresh = "fresh"

// kernelCells are the cells of forwards in the kernel: what packets cost, and
// what changes do.
func kernelCells(o option) (cells, applies []cell) {
	list, sizes := []cell{bulk(8), rr(1, 64), rr(256, 64), conn(), udp(1, 64, 100_000)}, natSizes
	if o.quick {
		list, sizes = []cell{bulk(8), rr(256, 64), conn()}, quickNATSizes
	}
	for _, c := range list {
		c.name, c.work, c.self = "nat-"+c.name, "kernel", peers.NAT+"/10"
		var variants []string
		if c.figure.loss {
			variants = []string{overUDP}
		}
		c.targets = []string{name(peers.Direct, variants...), name(peers.Fairlead, variants...), name(peers.NFT, variants...)}
		for _, n := range sizes {
			c.targets = append(c.targets, name(peers.NAT, append([]string{strconv.Itoa(n)}, variants...)...))
		}
		if o.quick {
			c.order.Warm = quickWarm
		}
		cells = append(cells, c)
	}
	a := cell{name: "apply", says: "how long it takes until forwards in the kernel pass, and changes of one of them", work: "kernel", figure: figure{columns: applyColumns}}
	for _, n := range sizes {
		if n > 1 {
			a.targets = append(a.targets, name(peers.NAT, strconv.Itoa(n), fresh))
		}
	}
	return cells, []cell{a}
}

// sizeOf is how many forwards a target of the kernel has.
func sizeOf(target string) int {
	for _, w := range strings.Split(target, "/")[1:] {
		if n, err := strconv.Atoi(w); err == nil {
			return n
		}
	}
	return 1
}

// translate makes a gateway for a target of the kernel's, and starts that there.
// r has no address yet to listen at.
func (s *stage) translate(t *target, r peers.Route) error {
	g, err := s.town.Gateway(t.name)
	if err != nil {
		return err
	}
	t.from = g.Sources
	r.Listen = netip.AddrPortFrom(g.Entry, r.Listen.Port())
	t.at = r.Listen
	switch n := sizeOf(t.name); {
	case base(t.name) == peers.NFT:
		argv, err := peers.NFTCommand(s.tools, r)
		if err != nil {
			return err
		}
		t.call = argv
		_, err = s.command(g.Host, argv)
		return err
	case n == 1:
		return s.run(t, g.Host, peers.NATCommand(s.tools, r), 0)
	default:
		r.Listen = netip.AddrPortFrom(g.Entry, manyEntry)
		service := peers.NewNATService(s.tools, fmt.Sprintf("nat-%d", n), r, n)
		t.at = service.At(n - 1)
		if err := service.Write(nil); err != nil {
			return err
		}
		return s.run(t, g.Host, service.Command("up"), 0)
	}
}

// command runs a program on a host to its end.
func (s *stage) command(h *town.Host, argv []string) (took time.Duration, err error) {
	var said bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	began := time.Now()
	p, err := s.town.Start(h, "command", cmd, 0)
	if err != nil {
		return 0, err
	}
	select {
	case <-p.Ended():
	case <-time.After(time.Minute):
		p.Kill()
		return 0, fmt.Errorf("%s: it does not end", strings.Join(argv, " "))
	}
	took = time.Since(began)
	if err := p.Err(); err != nil {
		return took, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.Join(strings.Fields(said.String()), " "))
	}
	return took, nil
}

// Names of values of what changes take, in seconds.
const (
	startCPUValue = "ready CPU" // of the service until it forwards
	sameValue     = "same"      // "reload" of a file that is as it was
	movedValue    = "moved"     // until a client passes a forward that "reload" moved
	movedCPUValue = "moved CPU" // of the service for that
	reloadValue   = "reload"    // that "reload" itself took
	addValue      = "add"       // "add" of one forward
	rmValue       = "rm"        // "rm" of it
)

var applyColumns = []column{
	{"start, until a client passes: s", readyValue}, {"its CPU", startCPUValue}, {"process memory, MiB", memoryValue},
	{"reload, nothing changed", sameValue},
	{"reload, one forward changed: until a client passes", movedValue}, {"until it is told", reloadValue}, {"the service's CPU", movedCPUValue},
	{"add one", addValue}, {"rm one", rmValue},
}

// applyMost is in how many rounds changes are measured, at most.
const applyMost = 7

// applied measures what changes take: each size is started afresh, one after the
// other, on a gateway of its own.
func (s *stage) applied(ctx context.Context, cells []cell) error {
	gateways := map[string]*town.Gateway{}
	for _, c := range cells {
		for round := range min(s.o.rounds, applyMost) {
			fmt.Fprintf(os.Stderr, "bench: %s, round %d\n", c.name, round+1)
			for _, name := range c.targets {
				g, err := gateways[name], error(nil)
				if g == nil {
					if g, err = s.town.Gateway(name); err != nil {
						return err
					}
					gateways[name] = g
				}
				values, err := s.applyOne(ctx, name, round, g)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				s.note(round, c, name, values, err)
			}
		}
	}
	return nil
}

func (s *stage) applyOne(ctx context.Context, name string, round int, g *town.Gateway) (v map[string]float64, err error) {
	n := sizeOf(name)
	to := netip.AddrPortFrom(town.ServerAddr, firstServe)
	service := peers.NewNATService(s.tools, fmt.Sprintf("apply-%d", n), peers.Route{Listen: netip.AddrPortFrom(g.Entry, manyEntry), To: to}, n)
	if err := service.Write(nil); err != nil {
		return nil, err
	}
	t := &target{name: fmt.Sprintf("%s/%d", name, round)} // with a CPU group of its own
	began := time.Now()
	if err := s.run(t, g.Host, service.Command("up"), 0); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.takeAway(t, g, service)) }()
	ready, err := s.passes(ctx, service.At(n-1))
	if err != nil {
		return nil, fmt.Errorf("%w; it says: %s", err, t.said())
	}
	spent := func() float64 {
		cpu, cpuErr := t.proc.Group.CPU()
		err = errors.Join(err, cpuErr)
		return cpu.Seconds()
	}
	v = map[string]float64{readyValue: ready.Sub(began).Seconds(), startCPUValue: spent()}
	v[memoryValue] = float64(settle(ctx, t.proc.Group).Memory) / (1 << 20)
	seconds := func(value string, words ...string) {
		if err == nil {
			var took time.Duration
			took, err = s.command(g.Host, service.Command(words...))
			v[value] = took.Seconds()
		}
	}
	seconds(sameValue, "reload")

	// A forward in the middle gets another port.
	if err = errors.Join(err, service.Write(map[int]uint16{n / 2: spareEntry})); err != nil {
		return nil, err
	}
	before := spent()
	began = time.Now()
	passed := make(chan error, 1)
	var moved time.Time
	go func() {
		var err error
		moved, err = s.passes(ctx, netip.AddrPortFrom(g.Entry, spareEntry))
		passed <- err
	}()
	seconds(reloadValue, "reload")
	if err = errors.Join(err, <-passed); err != nil {
		return nil, err
	}
	v[movedValue], v[movedCPUValue] = moved.Sub(began).Seconds(), spent()-before
	seconds(addValue, "add", "nat", netip.AddrPortFrom(g.Entry, spareEntry-1).String(), "to", to.String(), "--name", "added")
	seconds(rmValue, "rm", "added")
	return v, err
}

// spareEntry is a port before those of the service's forwards.
const spareEntry = manyEntry - 1

// passes asks until a client is let through to the server, and says when that
// was.
func (s *stage) passes(ctx context.Context, at netip.AddrPort) (when time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err = s.town.Client.Do(func() error {
			c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", at.String())
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil {
			return time.Now(), nil
		}
		select {
		case <-ctx.Done():
			return when, fmt.Errorf("it lets nobody through: %w", err)
		case <-time.After(time.Millisecond):
		}
	}
}

// takeAway ends a service as its operator does, and finds nothing left of it.
func (s *stage) takeAway(t *target, g *town.Gateway, service peers.NATService) error {
	for _, pid := range t.proc.Group.PIDs() {
		syscall.Kill(pid, syscall.SIGTERM)
	}
	select {
	case <-t.proc.Ended():
	case <-time.After(20 * time.Second):
		t.proc.Kill()
		return errors.New("the service does not end")
	}
	if _, err := s.command(g.Host, service.Command("clean")); err != nil {
		return err
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return nil // nobody can look
	}
	var left []byte
	err := g.Do(func() (err error) {
		left, err = exec.Command("nft", "list", "tables").Output()
		return err
	})
	if err == nil && len(bytes.TrimSpace(left)) > 0 {
		err = fmt.Errorf("after clean there is still %s", bytes.TrimSpace(left))
	}
	return err
}
