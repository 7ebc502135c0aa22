package relay

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

func newAccount(p *fairlead.Policy) *account {
	a := &account{meter: new(fairlead.Meter)}
	a.limit(p, 1024, func() map[netip.Addr]int { return map[netip.Addr]int{} })
	return a
}

// A line of clients of one source that want in, and the order in which all of
// them come in.
func (a *account) line(t *testing.T, order *[]int, from, clients int) (tickets []*ticket) {
	t.Helper()
	var mu sync.Mutex // several may come in at once
	for range clients {
		turn, why := a.enter(nth(from))
		if turn == nil || why != "" {
			t.Fatalf("a client of %d got ticket %v, reason %q, want to wait", from, turn, why)
		}
		tickets = append(tickets, turn)
		go func() {
			<-turn.ready
			if turn.why == "" {
				mu.Lock()
				*order = append(*order, from)
				mu.Unlock()
			}
		}()
	}
	return tickets
}

func TestSourcesThatWaitTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(&fairlead.Policy{MaxConns: 1, Queue: time.Minute})
		if turn, why := a.enter(nth(9)); turn != nil || why != "" {
			t.Fatal("the first is not let in")
		}
		var order []int
		a.line(t, &order, 1, 100)
		a.line(t, &order, 2, 2)
		a.line(t, &order, 3, 1)
		if n := a.meter.Queued.Load(); n != 103 {
			t.Errorf("%d wait, want 103", n)
		}
		leaves := 9
		for n := range 6 {
			a.leave(nth(leaves))
			synctest.Wait()
			if len(order) != n+1 {
				t.Fatalf("%d were let in for %d that left", len(order), n+1)
			}
			leaves = order[n]
		}
		if want := []int{1, 2, 3, 1, 2, 1}; !slices.Equal(order, want) {
			t.Errorf("they came in as %v, want %v", order, want)
		}
		a.close()
		synctest.Wait()
		if a.queue.n != 0 || len(order) != 6 {
			t.Errorf("%d wait for a forward that is gone, %d came in", a.queue.n, len(order))
		}
	})
}

func TestARateLetsInInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(&fairlead.Policy{Rate: 10, RatePerSource: 2, Queue: time.Minute})
		for range 2 {
			a.enter(nth(1))
		}
		var order []int
		a.line(t, &order, 1, 10) // two a second
		for n := range 8 {       // others are not held up by them
			if turn, why := a.enter(nth(2 + n)); turn != nil || why != "" {
				t.Fatalf("client %d has to wait: %q", n, why)
			}
		}
		if turn, _ := a.enter(nth(50)); turn == nil {
			t.Error("an eleventh was let in within the second")
		}
		began := time.Now()
		for a.meter.Queued.Load() > 0 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if took := time.Since(began); took < 4900*time.Millisecond || took > 5200*time.Millisecond {
			t.Errorf("ten at two a second were let in within %s", took)
		}
	})
}

func TestAFullQueueGivesUpThoseOfTheLongestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccount(&fairlead.Policy{MaxConns: 1, Queue: time.Minute, MaxQueue: 5})
		a.enter(nth(9))
		var order []int
		greedy := a.line(t, &order, 1, 5)
		if turn, why := a.enter(nth(1)); turn != nil || why != fairlead.QueueFull {
			t.Errorf("one more of them got %v, %q, want %q", turn, why, fairlead.QueueFull)
		}
		a.line(t, &order, 2, 2) // who takes the places of two
		if turn, why := a.enter(nth(2)); turn != nil || why != fairlead.QueueFull {
			t.Errorf("one more than the greedy have got %v, %q", turn, why)
		}
		synctest.Wait()
		for i, turn := range greedy {
			if gone := turn.why == fairlead.QueueFull; gone != (i >= 3) {
				t.Errorf("client %d: gone %v", i, gone)
			}
		}
		a.close()
	})
}

func TestMoreRoomAfterAReloadLetsInWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fairlead.Policy{MaxConns: 1, Queue: time.Minute}
		a := newAccount(&p)
		a.enter(nth(9))
		var order []int
		a.line(t, &order, 1, 5)
		p.MaxConns = 3
		a.limit(&p, 1024, nil)
		synctest.Wait()
		if len(order) != 2 {
			t.Errorf("%d were let in, want 2", len(order))
		}
		a.limit(&fairlead.Policy{}, 1024, nil)
		synctest.Wait()
		if len(order) != 5 {
			t.Errorf("%d were let in without a limit, want 5", len(order))
		}
	})
}

func TestWhoIsCountedIsCountedOnce(t *testing.T) {
	p := fairlead.Policy{MaxConnsPerSource: 2}
	a := newAccount(&fairlead.Policy{})
	for range 3 { // before there was a limit
		a.enter(nth(1))
	}
	a.limit(&p, 1, func() map[netip.Addr]int { return map[netip.Addr]int{nth(1): 3} })
	if _, why := a.enter(nth(1)); why != fairlead.Limited {
		t.Errorf("a fourth got %q", why)
	}
	a.leave(nth(1))
	a.leave(nth(1))
	if _, why := a.enter(nth(1)); why != "" {
		t.Errorf("a second one got %q", why)
	}
	a.leave(nth(1))
	a.leave(nth(1))
	if n := a.active.Load(); n != 0 || len(a.sources) != 0 {
		t.Errorf("%d are counted, of %v", n, a.sources)
	}
}

func TestACrowdLeavesDescriptorsToOthers(t *testing.T) {
	b := newBudget(1000)
	c := newCrowd(b, 12)
	fill := func(source int) (n int) {
		for c.enter(nth(source)) {
			n++
		}
		return n
	}
	if n := fill(1); n != 437 { // seven eighths, two each
		t.Errorf("one source has %d connections of 500", n)
	}
	if n := fill(2); n < 50 {
		t.Errorf("a second one finds room for %d", n)
	}
	for s := range 4 {
		if !c.enter(nth(10 + s)) {
			t.Errorf("newcomer %d finds no room, %d are free", s, b.free())
		}
	}
	if c.greedy(nth(30)) || !c.greedy(nth(2)) {
		t.Error("who has little is called greedy, or who has much is not")
	}
	waits := c.wait(nth(1))
	if waits == nil || waits.at == nil {
		t.Fatal("one more of the first is not asked to wait")
	}
	other := c.wait(nth(30))
	if other == nil || other.at != nil || other.why != "" {
		t.Error("a newcomer has to wait because others do")
	}
	for range 300 {
		c.leave(nth(1), perConn)
	}
	if waits.at != nil || waits.why != "" {
		t.Error("who waited is not let in when there is room")
	}
	for range 138 {
		c.leave(nth(1), perConn)
	}
	if c.shard(nth(1)).held[nth(1)] != 0 {
		t.Errorf("%d are held by nobody", c.shard(nth(1)).held[nth(1)])
	}
}

func TestASourceThatIsAloneMayHaveNearlyAll(t *testing.T) {
	c := newCrowd(newBudget(20000), 64)
	alone, other := nth(1), nth(2)
	n := 0
	for c.enter(alone) {
		n++
	}
	if want := (20000 - leftAlone) / perConn; n != want {
		t.Errorf("one that is alone gets %d connections, want %d", n, want)
	}
	// Of what it loses others get the most, until each has its share.
	got := 0
	for range n {
		c.leave(alone, perConn)
		for c.enter(other) {
			got++
		}
		c.enter(alone)
	}
	if want := 20000 * generosity / (2*generosity + 1) / perConn; got < want-leastHeld || got > want+leastHeld {
		t.Errorf("a second one that always wants more gets %d connections in the end, want %d", got, want)
	}
}
