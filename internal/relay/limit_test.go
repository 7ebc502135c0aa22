package relay

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

func nth(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// A party passes bytes of one direction as a pump does, until ctx ends.
type party struct {
	source int
	conns  int
	piece  int           // how much each connection asks for at a time; 0: as much as may be
	pause  time.Duration // after each

	mu    sync.Mutex // guards the rest
	got   int
	worst time.Duration // that a piece had to wait
}

// compete has parties share a bandwidth for a while of virtual time.
func compete(t *testing.T, p fairlead.Policy, length time.Duration, parties ...*party) {
	synctest.Test(t, func(t *testing.T) {
		limits := newThrottles(&p, nil)
		ctx, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		for _, party := range parties {
			for range party.conns {
				go func() {
					th := limits.join(nth(party.source))
					defer th.leave()
					n := party.piece
					if n == 0 {
						n = th.chunk(down)
					}
					for ctx.Err() == nil {
						asked := time.Now()
						if !th.pass(down, n, ctx.Done(), func(bool) {}) {
							return
						}
						party.mu.Lock()
						party.got += n
						party.worst = max(party.worst, time.Since(asked))
						party.mu.Unlock()
						if party.pause > 0 {
							time.Sleep(party.pause)
						}
					}
				}()
			}
		}
		<-ctx.Done()
		synctest.Wait()
		if left := len(limits.stakes); left > len(parties) {
			t.Errorf("%d sources are remembered of %d", left, len(parties))
		}
	})
}

func each(n int64) fairlead.Bandwidth { return fairlead.Bandwidth{Up: n, Down: n} }

func TestBandwidthIsDividedBySourceAndNotByConnection(t *testing.T) {
	const rate = 1 << 20
	greedy := &party{source: 1, conns: 100}
	modest := &party{source: 2, conns: 1}
	compete(t, fairlead.Policy{Bandwidth: each(rate)}, time.Minute, greedy, modest)
	whole := greedy.got + modest.got
	if most, least := rate*61, rate*59; whole > most || whole < least {
		t.Errorf("%d bytes passed in a minute, want %d to %d", whole, least, most)
	}
	if part := float64(modest.got) / float64(whole); part < 0.49 || part > 0.51 {
		t.Errorf("one connection got %.2f of the bandwidth beside another source's hundred, want half", part)
	}
}

func TestWhoAsksForLittleIsServedAtOnce(t *testing.T) {
	const rate = 1 << 20
	greedy := &party{source: 1, conns: 100}
	others := &party{source: 3, conns: 10}
	modest := &party{source: 2, conns: 1, piece: 500, pause: 10 * time.Millisecond}
	compete(t, fairlead.Policy{Bandwidth: each(rate)}, time.Minute, greedy, others, modest)
	// At most one chunk of each other source, which is a fiftieth of a second.
	if modest.worst > 45*time.Millisecond {
		t.Errorf("a small piece waited %s behind the greedy", modest.worst)
	}
	if got, want := modest.got, 500*60*20; got < want {
		t.Errorf("%d bytes of small pieces passed, want %d", got, want)
	}
}

func TestSmallPiecesGetAsMuchAsLargeOnes(t *testing.T) {
	large, small := &party{source: 1, conns: 1}, &party{source: 2, conns: 4, piece: 300}
	compete(t, fairlead.Policy{Bandwidth: each(1 << 20)}, time.Minute, large, small)
	if part := float64(small.got) / float64(small.got+large.got); part < 0.45 || part > 0.55 {
		t.Errorf("small pieces got %.2f of the bandwidth, want half", part)
	}
}

func TestBandwidthOfASourceAndOfAConnection(t *testing.T) {
	const second = 1 << 20
	a, b := &party{source: 1, conns: 4}, &party{source: 2, conns: 1}
	compete(t, fairlead.Policy{BandwidthPerSource: each(second), BandwidthPerConn: fairlead.Bandwidth{Up: 1, Down: second / 2}}, time.Minute, a, b)
	for _, c := range []struct {
		p    *party
		want int
	}{{a, 60 * second}, {b, 30 * second}} {
		if c.p.got < c.want*98/100 || c.p.got > c.want*102/100 {
			t.Errorf("%d connections of a source passed %d bytes in a minute, want %d", c.p.conns, c.p.got, c.want)
		}
	}
}

func TestASlowRateHoldsFromTheFirstBytes(t *testing.T) {
	for _, rate := range []int64{1, 250, 511} {
		p := &party{source: 1, conns: 1}
		compete(t, fairlead.Policy{BandwidthPerConn: each(rate)}, 4*time.Second, p)
		if most := 5 * int(rate); p.got > most {
			t.Errorf("at %d bytes a second %d passed in four seconds, want %d at most", rate, p.got, most)
		}
	}
}

func TestComingBackIsNoWayToGetMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		limits := newThrottles(&fairlead.Policy{Bandwidth: each(rate)}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var faithful, fickle int
		go func() {
			th := limits.join(nth(1))
			defer th.leave()
			for n := th.chunk(up); th.pass(up, n, ctx.Done(), func(bool) {}); {
				faithful += n
			}
		}()
		go func() {
			for ctx.Err() == nil { // a connection for each chunk
				th := limits.join(nth(2))
				n := th.chunk(up)
				if th.pass(up, n, ctx.Done(), func(bool) {}) {
					fickle += n
				}
				th.leave()
			}
		}()
		<-ctx.Done()
		synctest.Wait()
		if part := float64(fickle) / float64(fickle+faithful); part > 0.51 {
			t.Errorf("who came back for each chunk got %.2f of the bandwidth", part)
		}
	})
}

func TestDatagramsOfTheModestPassWhereTheGreedyLoseTheirs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, size = 1 << 20, 1000
		limits := newThrottles(&fairlead.Policy{Bandwidth: each(rate)}, nil)
		greedy, modest := limits.join(nth(1)), limits.join(nth(2))
		var got, lost, all int
		for ms := range 10_000 {
			for range 10 { // ten times what there is
				if greedy.try(up, size) {
					all += size
				}
			}
			if ms%10 == 0 { // a tenth of it
				if modest.try(up, size) {
					got++
					all += size
				} else {
					lost++
				}
			}
			time.Sleep(time.Millisecond)
		}
		if lost > got/100 {
			t.Errorf("%d of %d datagrams of a modest source were lost", lost, got+lost)
		}
		if want := 10 * rate; all < want*97/100 || all > want*103/100 {
			t.Errorf("%d bytes passed in ten seconds, want %d", all, want)
		}
	})
}

func TestManySourcesAreForgottenWhenTheyGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := newThrottles(&fairlead.Policy{Bandwidth: each(1 << 20), BandwidthPerSource: each(1 << 10)}, nil)
		for n := range 100_000 {
			th := limits.join(nth(n))
			th.try(up, 1000)
			th.leave()
		}
		if n := len(limits.stakes); n > 3*maxRemembered {
			t.Errorf("%d sources are remembered", n)
		}
		time.Sleep(time.Hour)
		for n := range 150_000 {
			limits.join(nth(n)).leave()
		}
		if n := len(limits.stakes); n > 3*maxRemembered {
			t.Errorf("%d sources are remembered that left nothing unpaid", n)
		}
	})
}

func TestRatesOfAMillionSourcesAreBoundedAndKept(t *testing.T) {
	rates := newSourceRates(1, nil)
	now := time.Now()
	arrive := func(n int) bool {
		if rates.open(nth(n), now) > 0 {
			return false
		}
		rates.pay(nth(n), now)
		return true
	}
	if !arrive(0) || arrive(0) {
		t.Fatal("one a second is one at once, and not two")
	}
	in := 0
	for n := range ratesSources + 1000 {
		if n > 0 && arrive(n) {
			in++
		}
	}
	if in != ratesSources-1 {
		t.Errorf("%d of many sources came in, want %d", in, ratesSources-1)
	}
	if arrive(0) {
		t.Error("a source got around its rate in a crowd")
	}
	if arrive(ratesSources + 5000) {
		t.Error("a source more than can be remembered was let in")
	}
	now = now.Add(time.Second)
	if !arrive(0) || arrive(0) {
		t.Error("a second later the source may come once more")
	}
	now = now.Add(ratesPeriod)
	if !arrive(ratesSources + 5000) {
		t.Error("a new source is still not let in")
	}
	for range 3 {
		now = now.Add(ratesPeriod)
		arrive(1)
	}
	if n := len(rates.now) + len(rates.before); n > 2 {
		t.Errorf("%d sources are remembered that did not come for long", n)
	}
}

// A forward's rule after a reload that says p.
func reloaded(limits *throttles, was, p *fairlead.Policy) *throttles {
	return newThrottles(p, &rule{f: &fairlead.Forward{Policy: *was}, bandwidth: limits})
}

func TestBandwidthThatAReloadChangesHoldsForLiveConnections(t *testing.T) {
	whole := func(n int64) fairlead.Policy { return fairlead.Policy{Bandwidth: each(n)} }
	conn := func(n int64) fairlead.Policy { return fairlead.Policy{BandwidthPerConn: each(n)} }
	source := func(n int64) fairlead.Policy { return fairlead.Policy{BandwidthPerSource: each(n)} }
	const fast, slow, crawl = 1 << 20, 200 << 10, 10
	for _, c := range []struct {
		name          string
		before, after fairlead.Policy
		want          int // bytes a second afterwards; 0: no limit
	}{
		{"bandwidth lowered", whole(fast), whole(slow), slow},
		{"bandwidth raised", whole(crawl), whole(fast), fast},
		{"bandwidth lowered to a crawl", whole(1 << 30), whole(crawl), crawl},
		{"per connection lowered", conn(fast), conn(slow), slow},
		{"per connection raised", conn(slow), conn(fast), fast},
		{"per source lowered", source(fast), source(slow), slow},
		{"per source raised", source(crawl), source(fast), fast},
		{"another word", whole(fast), conn(slow), slow},
		{"one word more", source(fast), fairlead.Policy{BandwidthPerSource: each(fast), BandwidthPerConn: each(slow)}, slow},
		{"no word any more", whole(crawl), fairlead.Policy{}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits := newThrottles(&c.before, nil)
				over := make(chan struct{})
				th := limits.join(nth(1))
				got := 0 // is looked at while the other waits
				var mu sync.Mutex
				go func() {
					defer th.leave()
					for {
						n := th.chunk(up)
						if !th.pass(up, n, over, func(bool) {}) {
							return
						}
						mu.Lock()
						got += n
						enough := c.want == 0 && got > 100<<20
						mu.Unlock()
						if enough {
							return
						}
					}
				}()
				passed := func() int { mu.Lock(); defer mu.Unlock(); return got }
				time.Sleep(10*time.Second + time.Millisecond)
				again := reloaded(limits, &c.before, &c.after)
				before := passed()
				time.Sleep(time.Minute)
				more := passed() - before
				close(over)
				synctest.Wait()
				if c.want == 0 {
					if more < 100<<20 {
						t.Errorf("%d bytes passed after the limit was gone", more)
					}
				} else if least, most := 58*c.want, 61*c.want+bufferSize; more < least || more > most {
					t.Errorf("%d bytes passed in a minute after the reload, want %d to %d", more, least, most)
				}
				if th := again.join(nth(2)); (th == nil) != (c.want == 0) {
					t.Errorf("a new connection has a limit: %v", th != nil)
				} else {
					th.leave()
				}
			})
		})
	}
}

func TestBandwidthThatComesAndGoesIsOnePot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fairlead.Policy{Bandwidth: each(100 << 10)}
		limits := newThrottles(&p, nil)
		old := limits.join(nth(1))
		none := fairlead.Policy{}
		limits = reloaded(limits, &p, &none)
		limits = reloaded(limits, &none, &p)
		young := limits.join(nth(2))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var got [2]int
		for i, th := range []*throttle{old, young} {
			go func() {
				defer th.leave()
				for n := th.chunk(up); th.pass(up, n, ctx.Done(), func(bool) {}); {
					got[i] += n
				}
			}()
		}
		<-ctx.Done()
		synctest.Wait()
		if all, most := got[0]+got[1], 61*100<<10; all > most {
			t.Errorf("an old and a new connection passed %d bytes in a minute, want %d at most", all, most)
		}
	})
}
