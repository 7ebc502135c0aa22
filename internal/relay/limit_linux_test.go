package relay_test

import (
	"context"
	"errors"
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
