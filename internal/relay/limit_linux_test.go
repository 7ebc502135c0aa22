package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// each is a bandwidth of both directions.
func each(n int64) fairlead.Bandwidth { return fairlead.Bandwidth{Up: n, Down: n} }

func TestBandwidthIsSharedByAllConnectionsOfAForward(t *testing.T) {
	lab.CheckLeaks(t)
	const rate, size, conns = 1 << 20, 256 << 10, 3
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { f.Policy.Bandwidth = each(rate) })
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	began := time.Now()
	lab.Transfers(t, lab.Transfer{Network: "tcp", Address: entryOf(f), Seed: 3}, conns, size)
	in := r.Report()[0].Meter.In.Load()
	// Each direction has the rate for itself; a tenth of a second may pass at once.
	least := time.Duration(float64(in)/rate*float64(time.Second)) - 200*time.Millisecond
	if took := time.Since(began); took < least {
		t.Errorf("%d bytes took %s, and the limit asks for %s", in, took, least)
	}
}

func TestAConnectionThatWaitsForBandwidthCanBeKilled(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { f.Policy.Bandwidth = each(100) })
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := dial(t, entryOf(f))
	c.Write(make([]byte, 64<<10)) // an hour of it
	eventually(t, "it is live", func() bool { return len(r.Conns()) == 1 })
	r.Kill(fairlead.Match{Forward: "web"})
	eventually(t, "it is gone", func() bool { return len(r.Conns()) == 0 })
}

func TestNewConnectionsAreLimitedByTheSecond(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Banner("a"))
	var ev events
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { f.Policy.Rate = 5 })
	r := newRelay(t, relay.Config{Watch: ev.watch})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	served := 0
	began := time.Now()
	for range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		c, err := new(net.Dialer).DialContext(ctx, "tcp", entryOf(f))
		cancel()
		if err != nil {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			continue
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.(*net.TCPConn).CloseWrite()
		if b, _ := io.ReadAll(c); string(b) == "a" {
			served++
		}
		c.Close()
	}
	// Five at once, and five for each second that passed meanwhile.
	if most := 6 + int(5*time.Since(began).Seconds()); served < 5 || served > most {
		t.Errorf("%d of 50 connections were served, want 5 to %d", served, most)
	}
	if !ev.ended(fairlead.Limited) {
		t.Error("nobody was told that the limit was reached")
	}
}

// dialFrom connects from one of the loopback addresses.
func dialFrom(t testing.TB, from, address string) (*net.TCPConn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn), nil
}

// echoes reports whether c answers.
func echoes(c *net.TCPConn) error {
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// Thousands of connections of one address, however they are held, leave room
// for everybody else, and each of the others is served at once.
func TestOneSourceDoesNotUseUpAllDescriptors(t *testing.T) {
	for name, goroutines := range map[string]bool{"loops": false, "goroutines": true} {
		t.Run(name, func(t *testing.T) {
			lab.CheckLeaks(t)
			peer := lab.Serve(t, lab.At{}, lab.Echo)
			var ev events
			r := newRelay(t, relay.Config{Watch: ev.watch, Descriptors: 600, Goroutines: goroutines})
			a, b := wish(t, "a", fairlead.TCP, peer.Address), wish(t, "b", fairlead.TCP, peer.Address)
			r.Apply(t.Context(), []*fairlead.Forward{a, b})
			var greedy []*net.TCPConn
			for range 3000 {
				if c, err := dialFrom(t, "127.0.0.2", entryOf(a)); err == nil {
					greedy = append(greedy, c)
				}
			}
			for i := range 20 { // of the same forward and of another
				c, err := dialFrom(t, fmt.Sprintf("127.0.0.%d", 3+i/4), entryOf([]*fairlead.Forward{a, b}[i%2]))
				if err == nil {
					err = echoes(c)
				}
				if err != nil {
					t.Fatalf("newcomer %d beside the greedy: %v", i, err)
				}
			}
			if !ev.ended(fairlead.Crowded) {
				t.Error("nobody was told that the greedy are turned away")
			}
			if n := len(r.Conns()); n < 200 {
				t.Errorf("%d connections are carried, and there is room for some 250", n)
			}
			for _, c := range greedy {
				c.Close()
			}
			eventually(t, "what the greedy held is free", func() bool { return len(r.Conns()) == 20 })
			c, err := dialFrom(t, "127.0.0.2", entryOf(a))
			if err == nil {
				err = echoes(c)
			}
			if err != nil {
				t.Errorf("the greedy one is not let in again: %v", err)
			}
			r.Kill(fairlead.Match{Forward: "a"})
			r.Kill(fairlead.Match{Forward: "b"})
			eventually(t, "nothing is left", func() bool { return r.Left() == "" })
		})
	}
}

func queued(f *fairlead.Forward) {
	f.Policy.MaxConns, f.Policy.Queue = 1, time.Minute
}

func TestWhoWaitsIsServedInTurn(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	f := wish(t, "web", fairlead.TCP, peer.Address, queued)
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	meter := r.Report()[0].Meter
	first := dial(t, entryOf(f))
	if err := echoes(first); err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.TCPConn, 5)
	for i := range conns {
		conns[i] = dial(t, entryOf(f))
		conns[i].Write([]byte{byte(i)})
		conns[i].CloseWrite() // and waits for its answer
		eventually(t, "it waits", func() bool { return meter.Queued.Load() == int64(i+1) })
	}
	silent := dial(t, entryOf(f)) // leaves without a word
	eventually(t, "it waits", func() bool { return meter.Queued.Load() == 6 })
	silent.Close()
	eventually(t, "who has left makes room", func() bool { return meter.Queued.Load() == 5 })
	first.Close()
	for i, c := range conns {
		if b, err := io.ReadAll(c); err != nil || len(b) != 1 || b[0] != byte(i) {
			t.Errorf("client %d got %v, %v", i, b, err)
		}
		c.Close()
	}
	eventually(t, "nothing is left", func() bool { return r.Left() == "" })
}

func TestWaitingEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(f *fairlead.Forward)
		end    func(r *relay.Relay, f *fairlead.Forward)
		want   fairlead.Reason
	}{
		{"in time", func(f *fairlead.Forward) { f.Policy.Queue = 50 * time.Millisecond },
			func(*relay.Relay, *fairlead.Forward) {}, fairlead.QueueTime},
		{"when the schedule is over by its turn", nil, func(r *relay.Relay, f *fairlead.Forward) {
			night := *f
			minute := time.Now().Hour()*60 + time.Now().Minute()
			night.Policy.Schedule = []fairlead.Window{{Days: fairlead.EveryDay, From: (minute + 120) % 1440, To: (minute+180)%1440 + 1}}
			night.Expr += " schedule"
			r.Apply(context.Background(), []*fairlead.Forward{&night})
			for _, c := range r.Conns() {
				if c.Target != "" {
					r.Kill(fairlead.Match{ID: c.ID})
				}
			}
		}, fairlead.OutsideSchedule},
		{"when the forward goes", nil, func(r *relay.Relay, _ *fairlead.Forward) { r.Apply(context.Background(), nil) }, fairlead.Shutdown},
		{"when it is killed", nil, func(r *relay.Relay, _ *fairlead.Forward) {
			for _, c := range r.Conns() {
				if c.Target == "" {
					r.Kill(fairlead.Match{ID: c.ID})
				}
			}
		}, fairlead.Killed},
		{"when the relay closes", nil, func(r *relay.Relay, _ *fairlead.Forward) { r.Close() }, fairlead.Shutdown},
	} {
		t.Run(c.name, func(t *testing.T) {
			lab.CheckLeaks(t)
			peer := lab.Serve(t, lab.At{}, lab.Echo)
			var ev events
			f := wish(t, "web", fairlead.TCP, peer.Address, queued)
			if c.change != nil {
				c.change(f)
			}
			r := newRelay(t, relay.Config{Watch: ev.watch})
			r.Apply(t.Context(), []*fairlead.Forward{f})
			meter := r.Report()[0].Meter
			if err := echoes(dial(t, entryOf(f))); err != nil {
				t.Fatal(err)
			}
			waits := dial(t, entryOf(f))
			waits.Write([]byte("x"))
			if c.change == nil {
				eventually(t, "it waits", func() bool { return meter.Queued.Load() == 1 })
			}
			c.end(r, f)
			if _, err := waits.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("who waited got %v, want a reset", err)
			}
			eventually(t, "it is told why", func() bool { return ev.ended(c.want) })
			if n := meter.Queued.Load(); n != 0 {
				t.Errorf("%d wait", n)
			}
		})
	}
}

func TestARateOfOneSourceIsNobodyElses(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { f.Policy.RatePerSource = 1 })
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	began := time.Now()
	served := 0
	for range 20 {
		if c, err := dialFrom(t, "127.0.0.2", entryOf(f)); err == nil && echoes(c) == nil {
			served++
		}
	}
	if most := 1 + int(time.Since(began)/time.Second); served < 1 || served > most {
		t.Errorf("%d of 20 were served, want 1 to %d", served, most)
	}
	c, err := dialFrom(t, "127.0.0.3", entryOf(f))
	if err == nil {
		err = echoes(c)
	}
	if err != nil {
		t.Errorf("another source: %v", err)
	}
}

func TestOutsideItsScheduleAForwardLetsNobodyInAndKeepsWhoIsThere(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	udp := lab.ServeUDP(t, lab.At{}, lab.UDPEcho)
	now := time.Now()
	minute := now.Hour()*60 + now.Minute()
	closed := []fairlead.Window{{Days: fairlead.EveryDay, From: (minute + 120) % 1440, To: (minute+180)%1440 + 1}}
	var ev events
	f := wish(t, "web", fairlead.TCP, peer.Address)
	r := newRelay(t, relay.Config{Watch: ev.watch})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	live := dial(t, entryOf(f))
	if err := echoes(live); err != nil {
		t.Fatal(err)
	}
	night := *f
	night.Policy.Schedule = closed
	night.Expr += " schedule"
	dns := wish(t, "dns", fairlead.UDP, udp.Address, func(f *fairlead.Forward) { f.Policy.Schedule = closed })
	for _, st := range r.Apply(t.Context(), []*fairlead.Forward{&night, dns}) {
		if st.State != fairlead.Disabled || st.Problem == nil || st.Problem.Code != fairlead.CodeOutsideSchedule {
			t.Errorf("it is %s, %v", st.State, st.Problem)
		}
	}
	knock(t, entryOf(f))
	eventually(t, "it is told why", func() bool { return ev.ended(fairlead.OutsideSchedule) })
	if err := echoes(live); err != nil {
		t.Errorf("a live connection: %v", err)
	}
	c, err := net.Dial("udp", entryOf(dns))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("x"))
	eventually(t, "a datagram is refused", func() bool { return r.Report()[1].Meter.Refused.Load() == 1 })
}

func TestBandwidthOfEachWayAndOfEachConnection(t *testing.T) {
	lab.CheckLeaks(t)
	const rate, size = 1 << 20, 512 << 10
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) {
		f.Policy.BandwidthPerConn = fairlead.Bandwidth{Down: rate}
		f.Policy.BandwidthPerSource = each(8 * rate)
	})
	r := newRelay(t, relay.Config{})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	began := time.Now()
	lab.Transfers(t, lab.Transfer{Network: "tcp", Address: entryOf(f), Seed: 4}, 3, size)
	out := r.Report()[0].Meter.Out.Load()
	least := time.Duration(float64(out)/3/rate*float64(time.Second)) - 200*time.Millisecond
	if took := time.Since(began); took < least {
		t.Errorf("%d bytes took %s over three connections, and the limit of each asks for %s", out, took, least)
	}
	eventually(t, "nothing is left", func() bool { return r.Left() == "" })
}

func TestAReloadThatRaisesTheBandwidthFreesLiveConnections(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	for _, c := range []struct {
		name string
		set  func(*fairlead.Policy, int64)
	}{
		{"bandwidth", func(p *fairlead.Policy, n int64) { p.Bandwidth = each(n) }},
		{"bandwidth-per-conn", func(p *fairlead.Policy, n int64) { p.BandwidthPerConn = each(n) }},
		{"bandwidth-per-source", func(p *fairlead.Policy, n int64) { p.BandwidthPerSource = each(n) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRelay(t, relay.Config{})
			f := wish(t, "web", fairlead.TCP, peer.Address, func(f *fairlead.Forward) { c.set(&f.Policy, 100) })
			r.Apply(t.Context(), []*fairlead.Forward{f})
			live := dial(t, entryOf(f))
			if err := echoes(live); err != nil {
				t.Fatal(err)
			}
			const size = 64 << 10 // which would take eleven minutes
			live.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := live.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			g := *f
			c.set(&g.Policy, 100<<20)
			g.Expr += " raised"
			r.Apply(t.Context(), []*fairlead.Forward{&g})
			if n, err := io.ReadFull(live, make([]byte, size)); err != nil {
				t.Errorf("%d bytes came back of %d: %v", n, size, err)
			}
		})
	}
}
