package relay

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"fairlead"
)

// choosing is a rule that only chooses, among targets of these weights.
func choosing(policy string, weights ...int) *rule {
	f := &fairlead.Forward{Policy: fairlead.Policy{Choose: policy}}
	for i, w := range weights {
		f.To = append(f.To, fairlead.Target{Host: string(rune('a' + i)), Ports: fairlead.PortList{{First: 80, Last: 80}}, Weight: w})
	}
	return ruleFor(f)
}

func ruleFor(f *fairlead.Forward) *rule {
	ru := &rule{f: f, departure: newDeparture(&f.Policy)}
	for i := range f.To {
		ru.targets = append(ru.targets, ru.newTarget(&f.To[i]))
	}
	ru.draw = rand.New(rand.NewPCG(1, 2)).Float64
	ru.fill()
	return ru
}

func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// picks counts the first choices of n clients.
func (ru *rule) picks(n int) map[string]int {
	got := map[string]int{}
	for i := range n {
		got[ru.pick(client(i)).t.Host]++
	}
	return got
}

// fair fails where a target's part of all is not its weight's, within a
// fraction of it.
func fair(t *testing.T, ru *rule, got map[string]int, within float64) {
	t.Helper()
	var all, weights float64
	for _, to := range ru.targets {
		all += float64(got[to.t.Host])
		weights += float64(to.weight)
	}
	for _, to := range ru.targets {
		want := all * float64(to.weight) / weights
		if math.Abs(float64(got[to.t.Host])-want) > within*want {
			t.Errorf("%s: %s has %d of %.0f, want %.0f (weight %d)", ru.f.Policy.Choose, to.t.Host, got[to.t.Host], all, want, to.weight)
		}
	}
}

func TestTurnsAreExactlyAsTheWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		weights := make([]int, 1+rng.IntN(8))
		sum := 0
		for i := range weights {
			weights[i] = 1 + rng.IntN(20)
			sum += weights[i]
		}
		ru := choosing(roundRobin, weights...)
		got := map[string]int{}
		for n := 1; n <= 3*sum; n++ {
			to := ru.pick(client(0))
			got[to.t.Host]++
			// At no moment is a target more than a turn or so from its share.
			for _, to := range ru.targets {
				want := float64(n) * float64(to.weight) / float64(sum)
				if d := float64(got[to.t.Host]) - want; math.Abs(d) > float64(len(weights)) {
					t.Fatalf("weights %v: after %d turns %s is %.1f from its share", weights, n, to.t.Host, d)
				}
			}
		}
		fair(t, ru, got, 0)
	}
}

func TestWeightsHoldUnderEveryPolicyOfShares(t *testing.T) {
	for policy, within := range map[string]float64{roundRobin: 0.01, random: 0.03, sourceHash: 0.04} {
		ru := choosing(policy, 3, 1, 6)
		fair(t, ru, ru.picks(30000), within)
		ru.targets[0].down.Store(true)
		got := ru.picks(30000)
		if got["a"] != 0 {
			t.Errorf("%s: a is down and has %d", policy, got["a"])
		}
		ru.targets = ru.targets[1:]
		fair(t, ru, got, within)
	}
	ru := choosing(leastConn, 3, 1, 6)
	got := map[string]int{}
	for i := range 1000 { // connections that stay
		to := ru.pick(client(i))
		to.active.Add(1)
		got[to.t.Host]++
	}
	fair(t, ru, got, 0.02)
	if unweighted := choosing(leastConn, 0, 0).picks(10); unweighted["a"] != 5 || unweighted["b"] != 5 {
		t.Errorf("least-conn: equals do not take turns: %v", unweighted)
	}
}

func TestClientsMoveOnlyWithTheirTarget(t *testing.T) {
	ru := choosing(sourceHash, 3, 1, 6, 2)
	was := map[int]*target{}
	for i := range 5000 {
		was[i] = ru.pick(client(i))
	}
	ru.targets[2].down.Store(true)
	moved := 0
	for i, to := range was {
		if now := ru.pick(client(i)); now != to {
			moved++
			if to != ru.targets[2] {
				t.Fatalf("client %d moved from %s, which is there", i, to.t.Host)
			}
		}
	}
	if moved < 2000 {
		t.Errorf("%d clients moved, and half of 5000 were the target's", moved)
	}
	// A host within a /64 chooses its own address, and stays the same source.
	if a, b := ru.pick(netip.MustParseAddr("2001:db8::1")), ru.pick(netip.MustParseAddr("2001:db8::ffff:2")); a != b {
		t.Errorf("two addresses of a /64 were led to %s and %s", a.t.Host, b.t.Host)
	}
}

func TestBackupsAndTheDrainedComeIntoPlay(t *testing.T) {
	for _, policy := range policies {
		f := &fairlead.Forward{Policy: fairlead.Policy{Choose: policy}, To: []fairlead.Target{
			{Host: "spare", Backup: true}, {Host: "a"}, {Host: "b"}, {Host: "off", Drain: true},
		}}
		ru := ruleFor(f)
		spare, a, b := ru.targets[0], ru.targets[1], ru.targets[2]
		hosts := func() (list []string) {
			for _, to := range ru.order(ru.choose(client(1)), client(1)) {
				list = append(list, to.t.Host)
			}
			return list
		}
		if got := hosts(); len(got) != 3 || got[2] != "spare" {
			t.Errorf("%s: order %v, want spare last and off never", policy, got)
		}
		a.down.Store(true)
		if got := hosts(); !slices.Equal(got, []string{"b", "spare", "a"}) {
			t.Errorf("%s, a down: order %v", policy, got)
		}
		b.down.Store(true)
		if got := hosts(); len(got) != 3 || got[0] != "spare" {
			t.Errorf("%s, a and b down: order %v", policy, got)
		}
		spare.down.Store(true)
		if got := hosts(); len(got) != 3 || got[2] != "spare" {
			t.Errorf("%s, all down: order %v, and they are tried all the same", policy, got)
		}
		if to := ru.pickOther(client(1), []*target{a, b, spare}); to != nil {
			t.Errorf("%s: all were tried, and %s is left", policy, to.t.Host)
		}
	}
	f := &fairlead.Forward{To: []fairlead.Target{
		{Host: "a", Drain: true, From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, {Host: "rest"},
	}}
	if to := ruleFor(f).pick(client(1)); to != nil {
		t.Errorf("the clients of a drained target were led to %s", to.t.Host)
	}
	if to := ruleFor(f).pick(netip.MustParseAddr("192.0.2.1")); to == nil || to.t.Host != "rest" {
		t.Errorf("everybody else was led to %v", to)
	}
}

func TestATargetThatCameBackGrowsToItsShare(t *testing.T) {
	for _, policy := range []string{roundRobin, leastConn, random} {
		ru := choosing(policy, 0, 0)
		ru.f.Policy.SlowStart = 30 * time.Second
		last := -1
		for _, gone := range []time.Duration{time.Second, 10 * time.Second, 20 * time.Second, time.Hour} {
			ru.targets[1].back.Store(time.Now().Add(-gone).UnixNano())
			for _, to := range ru.targets {
				to.active.Store(0)
			}
			n := 0
			for i := range 3000 {
				to := ru.pick(client(i))
				to.active.Add(1)
				if to == ru.targets[1] {
					n++
				}
			}
			part := min(float64(gone)/float64(30*time.Second), 1)
			want := 3000 * part / (1 + part)
			if n <= last || math.Abs(float64(n)-want) > 0.1*want+10 {
				t.Errorf("%s: after %v it has %d of 3000, want about %.0f", policy, gone, n, want)
			}
			last = n
		}
	}
}

func TestAFirstChoiceAllocatesNothing(t *testing.T) {
	for _, policy := range policies {
		for _, weights := range [][]int{{0}, {0, 0}, {3, 1, 2}} {
			ru := choosing(policy, weights...)
			ru.f.Policy.SlowStart = time.Minute
			if n := testing.AllocsPerRun(100, func() { ru.pick(client(7)) }); n != 0 {
				t.Errorf("%s among %d: %.0f allocations", policy, len(weights), n)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range policies {
		ru := choosing(policy, 3, 1, 2)
		b.Run(policy, func(b *testing.B) {
			for b.Loop() {
				ru.pick(client(7))
			}
		})
	}
}
