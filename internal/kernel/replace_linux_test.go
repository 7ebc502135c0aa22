package kernel

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fairlead/internal/lab"
)

const (
	replacements   = 200
	replacePackets = 100_000
	window         = 64 // datagrams under way, so that no buffer overflows
)

// The table is replaced as a whole, again and again, with the forwards of two
// targets in turn at their places and in each other's neighbourhood, while
// datagrams of one long conversation, of many short ones, and new connections
// pass.
func TestReplacementsLoseNothing(t *testing.T) {
	g := newTown(t)
	answerNumbers(t, g.Inside, lab.Inside4+":7000")
	answerNumbers(t, g.Inside, "["+lab.Inside6+"]:7000")
	newDesk(t, g.Inside, lab.Inside4+":80")
	newDesk(t, g.Beside, lab.Beside4+":80")
	base := []string{
		"nat wan:7000/udp to " + lab.Inside4, "nat wan:7001/udp to [" + lab.Inside6 + "]:7000",
		"nat wan:80/tcp+udp to " + lab.Inside4, "nat wan:81/tcp+udp to " + lab.Beside4 + ":80",
	}
	g.carry(base...)

	passing, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var lost, wrong, conns atomic.Int64
	for _, at := range []string{lab.WAN4 + ":7000", "[" + lab.WAN6 + "]:7001"} {
		wg.Go(func() { lost.Add(int64(talkNumbers(t, g.Outside, at, replacePackets/2))) })
	}
	left := make(chan struct{})
	go func() { wg.Wait(); close(left) }()
	var askers sync.WaitGroup
	for _, who := range []struct{ network, at, name string }{
		{"tcp", lab.WAN4 + ":80", "inside"}, {"tcp", lab.WAN4 + ":81", "beside"}, {"udp", lab.WAN4 + ":80", "inside"}, {"udp", lab.WAN4 + ":81", "beside"},
	} {
		askers.Go(func() {
			for passing.Err() == nil {
				name, err := askOnce(g.Outside, who.network, who.at)
				conns.Add(1)
				switch {
				case err != nil:
					lost.Add(1)
					t.Errorf("%s %s: %v", who.network, who.at, err)
				case name != who.name:
					wrong.Add(1)
					t.Errorf("%s %s was answered by %q", who.network, who.at, name)
				}
			}
		})
	}
	// Each Apply that has another shape (a guard comes and goes) or is forced
	// to forget what is loaded replaces the table.
	n := 0
	for done := false; !done || n < replacements; n++ {
		select {
		case <-left:
			done = true
		default:
		}
		extra := append([]string(nil), base...)
		for i := range n % 7 {
			extra = append(extra, fmt.Sprintf("nat wan:%d to %s:%d", 1000+i, lab.Beside4, 2000+n%100))
		}
		g.carry(extra...)
		if err := g.replaceWhole(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	askers.Wait()
	t.Logf("%d replacements, %d datagrams, %d new connections and conversations: %d lost, %d at the wrong target", n, replacePackets, conns.Load(), lost.Load(), wrong.Load())
	if lost.Load()+wrong.Load() > 0 || conns.Load() < 100 {
		t.Errorf("of %d new ones and %d datagrams %d were lost and %d misled", conns.Load(), replacePackets, lost.Load(), wrong.Load())
	}
}

// replaceWhole loads all of the table in place of itself.
func (g *town) replaceWhole() error {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.k.inside(func() error { return g.k.conn.Replace(g.k.plan.table) })
}

// answerNumbers sends back what comes.
func answerNumbers(t *testing.T, h *lab.Host, at string) {
	pc, err := h.ListenPacket(t.Context(), "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	pc.SetReadBuffer(4 << 20)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 100)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-ended })
}

// talkNumbers sends numbers, a window at a time, and returns how many of n did
// not come back within seconds.
func talkNumbers(t *testing.T, h *lab.Host, at string, n int) (lost int) {
	c, err := h.DialContext(t.Context(), "udp", at)
	if err != nil {
		t.Error(err)
		return n
	}
	defer c.Close()
	b := make([]byte, 100)
	for first := 0; first < n; first += window {
		missing := map[uint32]bool{}
		for i := first; i < min(first+window, n); i++ {
			missing[uint32(i)] = true
			c.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		for len(missing) > 0 {
			k, err := c.Read(b)
			if err != nil {
				lost += len(missing)
				t.Errorf("%s: %d of the numbers from %d on are missing: %v", at, len(missing), first, err)
				break
			}
			if k == 4 {
				delete(missing, binary.BigEndian.Uint32(b))
			}
		}
		if lost > 0 {
			return lost
		}
	}
	return lost
}

// askOnce is who answers one question that is asked once.
func askOnce(h *lab.Host, network, at string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := h.DialContext(ctx, network, at)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("who am I?")); err != nil {
			return "", err
		}
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		return "", err
	}
	var seen, name string
	fmt.Sscanf(string(b[:n]), "%s at %s", &seen, &name)
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0) // thousands of ports are used
	}
	return name, nil
}
