package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

var refusal = fairlead.Problemf(fairlead.CodeTargetRefuses, "refuses connections")

// waits are the times from one probe of t to the next, of which each fails.
func waits(t *target, n int) (list []time.Duration) {
	last := time.Now()
	for len(list) < n {
		if t.due(time.Now()) {
			t.asked()
			t.answered(refusal)
			list = append(list, time.Since(last).Round(tick))
			last = time.Now()
		}
		time.Sleep(tick)
	}
	return list
}

func TestATargetThatIsDownIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := choosing(failover, 0).targets[0]
		to.saw(nil)
		time.Sleep(time.Minute)
		to.saw(refusal)
		got := waits(to, 7)
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if d := got[i] - want*time.Second; d < 0 || d > tick {
				t.Fatalf("asked after %v, want 1 s, 2 s, 4 s, 8 s, 16 s, 30 s, 30 s", got)
			}
		}
		// It comes back and goes at once: it is not asked as often as at first.
		to.answered(nil)
		if to.down.Load() {
			t.Fatal("it answered, and is down")
		}
		time.Sleep(5 * time.Second)
		to.saw(refusal)
		if got := waits(to, 1)[0]; got < lastBackoff {
			t.Errorf("after a moment of service it is asked after %v", got)
		}
		// After a while of service it begins anew.
		to.answered(nil)
		time.Sleep(time.Minute)
		to.saw(refusal)
		if got := waits(to, 1)[0]; got > 2*time.Second {
			t.Errorf("after a minute of service it is asked after %v", got)
		}
	})
}

func TestOneFailureAmongSuccessesIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := choosing(roundRobin, 0, 0).targets[0]
		to.saw(nil)
		for range 20 {
			to.saw(refusal)
			to.saw(refusal)
			if to.down.Load() {
				t.Fatal("two failures in a row took it out of service")
			}
			to.saw(nil)
		}
		for range failures {
			to.saw(refusal)
		}
		if !to.down.Load() {
			t.Error("failures in a row did not take it out of service")
		}
		to.saw(nil)
		to.saw(fairlead.Problemf(fairlead.CodeTargetSilent, "does not answer"))
		if !to.down.Load() {
			t.Error("it is silent, which costs each client time, and is still used")
		}
		to.saw(nil)
		time.Sleep(recently)
		to.saw(refusal)
		if !to.down.Load() {
			t.Error("nobody has reached it for long, and it refuses: it is down")
		}
		alone := choosing(failover, 0).targets[0]
		alone.saw(nil)
		alone.saw(refusal)
		if !alone.down.Load() {
			t.Error("the only target refuses, and that is not told")
		}
	})
}

func TestChecksDecideByThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ru := choosing(failover, 0, 0)
		ru.f.Policy.Check = fairlead.Check{How: "http", Rise: 2, Fall: 3}
		to := ru.targets[0]
		for i, c := range []struct {
			p    *fairlead.Problem
			down bool
		}{
			{refusal, true}, // nothing was known
			{nil, true}, {refusal, true}, {nil, true}, {nil, false},
			{refusal, false}, {refusal, false}, {nil, false}, {refusal, false}, {refusal, false}, {refusal, true},
		} {
			if to.answered(c.p); to.down.Load() != c.down {
				t.Fatalf("after check %d it is down: %v, want %v", i+1, to.down.Load(), c.down)
			}
		}
		to.saw(nil)
		if !to.down.Load() {
			t.Error("a client's connection overruled the check that found no service behind it")
		}
		to.answered(nil)
		to.answered(nil)
		for range failures {
			to.saw(refusal)
		}
		if !to.down.Load() {
			t.Error("clients are refused, and it is used until the next check")
		}
		to.saw(nil)
		if to.down.Load() {
			t.Error("clients reach it, and no check has found otherwise")
		}
	})
}
