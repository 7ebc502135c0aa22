package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fairlead/internal/sys/conntrack"
	"fairlead/internal/sys/inject"
	"fairlead/internal/sys/nft"
	"fairlead/internal/wire/packet"
)

const (
	// again is how long a probe waits until it is repeated, once: the first may
	// have been lost while an address was looked up.
	again = time.Second
	// quiet is how long nothing has to be told of a packet until its way is
	// taken to be over.
	quiet = 150 * time.Millisecond
)

// follow makes the attempt and watches it for at most patience. An error means
// that it could not be made.
func follow(ctx context.Context, a *attempt, patience time.Duration) (*seen, error) {
	conn, err := nft.Open()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	table := a.table(fmt.Sprintf("%s%d", probeTable, os.Getpid()))
	if err := conn.Replace(table); err != nil {
		return nil, err
	}
	defer conn.Delete(table.Family, table.Name) // and if we do not come to it, the kernel does
	watch, cancel := context.WithCancel(ctx)
	f := &follower{a: a, events: make(chan nft.TraceEvent, 1024), seen: seen{a: a}}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- nft.Trace(watch, func() { close(ready) }, func(e nft.TraceEvent) {
			select {
			case f.events <- e:
			case <-watch.Done():
			}
		})
	}()
	defer func() { cancel(); <-ended }()
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		if err == nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	if a.link == "" {
		f.connect(ctx, patience)
		return &f.seen, nil
	}
	return &f.seen, f.probe(ctx, patience)
}

// A follower gathers what is told of one attempt.
type follower struct {
	a      *attempt
	events chan nft.TraceEvent
	seen   seen
}

// probe sends the packet in the client's name.
func (f *follower) probe(ctx context.Context, patience time.Duration) error {
	first, rst, err := f.a.packets(rand.Uint32())
	if err != nil {
		return err
	}
	at, err := inject.Open(f.a.link)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := at.Send(first); err != nil {
		return err
	}
	// The connection is forgotten even when the wait was ended early.
	defer func() {
		if rst != nil && f.seen.reached() {
			at.Send(rst)
			f.drain(quiet)
		}
		forget(flow{f.a.proto, f.a.src, f.a.dst})
	}()
	settled := func() bool { return f.seen.settled() }
	f.gather(ctx, min(again, patience), settled)
	if patience > again && ctx.Err() == nil && !f.seen.settled() {
		at.Send(first)
		f.gather(ctx, patience-again, settled)
	}
	return nil
}

// connect makes the attempt as a program on this host.
func (f *follower) connect(ctx context.Context, patience time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if f.a.proto == packet.UDP {
			f.seen.connected, f.seen.err = f.ask(ctx)
			return
		}
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(f.a.src)}
		d.SetMultipathTCP(false)
		c, err := d.DialContext(ctx, "tcp", f.a.dst.String())
		f.seen.connected, f.seen.err = err == nil, err
		if err == nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	for {
		select {
		case e := <-f.events:
			f.seen.told(e)
			continue
		case <-done:
		}
		break
	}
	f.gather(context.WithoutCancel(ctx), quiet, func() bool { return false })
}

// ask sends the datagram from a socket and waits for anything to come back.
func (f *follower) ask(ctx context.Context) (bool, error) {
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(f.a.src)}
	c, err := d.DialContext(ctx, "udp", f.a.dst.String())
	if err != nil {
		return false, err
	}
	defer c.Close()
	if _, err := c.Write(f.a.payload); err != nil {
		return false, err
	}
	deadline, _ := ctx.Deadline()
	c.SetReadDeadline(deadline)
	_, err = c.Read(make([]byte, 1500))
	return err == nil, err
}

// gather takes events in for at most d, until what is wanted is known and
// nothing more is told.
func (f *follower) gather(ctx context.Context, d time.Duration, settled func() bool) {
	end := time.NewTimer(d)
	defer end.Stop()
	rest := time.NewTimer(d)
	defer rest.Stop()
	if settled() {
		rest.Reset(quiet)
	}
	for {
		select {
		case e := <-f.events:
			f.seen.told(e)
			if settled() {
				rest.Reset(quiet)
			}
		case <-rest.C:
			if settled() {
				return
			}
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// drain lets what is told pass by for d.
func (f *follower) drain(d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-f.events:
		case <-end.C:
			return
		}
	}
}

// forget has the kernel forget connections that were made only to ask. Who may
// not, leaves them to time out.
func forget(flows ...flow) {
	if len(flows) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var found []*conntrack.Entry
	conntrack.Each(ctx, func(e *conntrack.Entry) bool {
		if slices.ContainsFunc(flows, func(f flow) bool { return f.is(e.Original.Proto, e.Original.Src, e.Original.Dst) }) {
			x := *e
			found = append(found, &x)
		}
		return true
	})
	for _, e := range found {
		conntrack.Delete(e)
	}
}

// ruleText is the rule that a step tells of, in words as far as there are any.
func ruleText(s *sight) string {
	if s.Kind != nft.TraceRule {
		return ""
	}
	conn, err := nft.Open()
	if err != nil {
		return ""
	}
	defer conn.Close()
	text, err := conn.RuleText(s.Family, s.Table, s.Chain, s.RuleHandle)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return ""
	}
	return text
}

// chainsOf are the names of a table's chains.
func chainsOf(f nft.Family, table string) []string {
	conn, err := nft.Open()
	if err != nil {
		return nil
	}
	defer conn.Close()
	t, err := conn.Read(f, table)
	if err != nil || t == nil {
		return nil
	}
	var names []string
	for i := range t.Chains {
		names = append(names, t.Chains[i].Name)
	}
	return names
}

// legacyProgram reports whether a program of that path is iptables-legacy.
func legacyProgram(path string) bool {
	to, err := filepath.EvalSymlinks(path)
	return err == nil && strings.Contains(filepath.Base(to), "legacy")
}
