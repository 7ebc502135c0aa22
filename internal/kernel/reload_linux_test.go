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
	reloads       = 200
	reloadPackets = 100_000
	window        = 64 // datagrams under way, so that no buffer overflows
)

// Everything around the forwards that are used changes, again and again: others
// come, go and lead elsewhere, have chains of their own and none, a guard and
// helpers with their hooks are there and are not. Datagrams of one long
// conversation and new connections pass meanwhile.
//
// A table that is replaced as a whole cannot promise as much: its new hooks stand
// before the old ones until these are gone, and a packet that is between the two
// at the moment of the change meets neither. That is why nothing but another form
// of a set has a table replaced.
func TestReloadsLoseNothing(t *testing.T) {
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
		wg.Go(func() { lost.Add(int64(talkNumbers(t, g.Outside, at, reloadPackets/2))) })
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
	n := 0
	for done := false; !done || n < reloads; n++ {
		select {
		case <-left:
			done = true
		default:
		}
		now := append([]string(nil), base...)
		for i := range n % 7 {
			now = append(now, fmt.Sprintf("nat wan:%d to %s:%d", 1000+i, lab.Beside4, 2000+n%100))
		}
		if n%3 == 0 {
			now = append(now, "nat wan:2000-2100 to "+lab.Beside4+" from 198.51.100.0/24, "+lab.Inside4+" max-conns 10")
		}
		if n%5 == 0 {
			now = append(now, "share lan to wan")
		}
		if n%4 == 0 {
			now = append(now, "nat wan:2121 to "+lab.Beside4+":21 alg ftp masquerade")
		}
		g.carry(now...)
	}
	stop()
	askers.Wait()
	t.Logf("%d reloads, %d datagrams, %d new connections and conversations: %d lost, %d at the wrong target", n, reloadPackets, conns.Load(), lost.Load(), wrong.Load())
	if lost.Load()+wrong.Load() > 0 || conns.Load() < 100 {
		t.Errorf("of %d new ones and %d datagrams %d were lost and %d misled", conns.Load(), reloadPackets, lost.Load(), wrong.Load())
	}
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
