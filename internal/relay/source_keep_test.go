package relay

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

func TestWhoseAddressIsKept(t *testing.T) {
	l := &legs{own: map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("fe80::1"): true}}
	for _, c := range []struct {
		client, to string
		want       keeping
	}{
		{"10.0.1.2", "10.0.2.2", kept},
		{"10.0.1.2", "fd02::2", keptOther},
		{"fd01::2", "10.0.2.2", keptOther},
		{"10.0.1.2", "10.0.0.1", keptBeside},
		{"fd01::2", "10.0.0.1", keptBeside},
		{"10.0.0.1", "fd02::2", keptPlain}, // the host's is the client's
		{"10.0.0.1", "10.0.2.2", kept},
		{"::1", "10.0.2.2", keptPlain},
		{"fe80::1%eth0", "fd02::2", keptPlain},
		{"fe80::2%eth0", "fd02::2", keptLink},
		{"169.254.0.9", "10.0.2.2", keptLink},
	} {
		if got := l.keeps(netip.MustParseAddr(c.client), netip.MustParseAddr(c.to)); got != c.want {
			t.Errorf("%s toward %s: %d, want %d", c.client, c.to, got, c.want)
		}
	}
	if got := l.keeps(netip.Addr{}, netip.MustParseAddr("10.0.2.2")); got != keptPlain {
		t.Errorf("nobody: %d", got)
	}
}

func keepingRule(n int) *rule {
	f := &fairlead.Forward{Policy: fairlead.Policy{Choose: roundRobin, Source: "keep"}}
	for i := range n {
		f.To = append(f.To, fairlead.Target{Host: string(rune('a' + i)), Ports: fairlead.PortList{{First: 80, Last: 80}}})
	}
	return ruleFor(f)
}

func TestOneClientWithoutAWayBackTakesNoTargetFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := fairlead.Problemf(fairlead.CodeTargetSilent, "does not answer")
		lost := fairlead.Problemf(fairlead.CodeSourceLost, "answers do not come back")
		ru := keepingRule(2)
		to := ru.targets[0]
		for range 2 * failures {
			to.saw(nil)
			to.saw(silent)
			to.saw(lost)
			to.saw(silent)
			if to.down.Load() {
				t.Fatal("others reach it, and one client without a way back took it out of service")
			}
		}
		time.Sleep(recently)
		to.saw(silent)
		if !to.down.Load() {
			t.Fatal("nobody has reached it for long, it is silent, and it is still used")
		}
		to.lost = netip.MustParseAddr("10.0.2.9")
		to.saw(lost)
		// It is asked as that client and as nobody, so that it heals for others.
		asked := map[netip.AddrPort]int{}
		for range 4 {
			asked[to.asker(ru)]++
		}
		if asked[netip.AddrPort{}] != 2 || asked[netip.AddrPortFrom(to.lost, 0)] != 2 {
			t.Errorf("it is asked as %v", asked)
		}
		// Where there is no other target nobody is led elsewhere, and the loss is
		// told until the way back is there.
		alone := keepingRule(1)
		to = alone.targets[0]
		to.saw(nil)
		to.lost = netip.MustParseAddr("10.0.2.9")
		to.saw(lost)
		for range 4 {
			if a := to.asker(alone); !to.down.Load() || a.Addr() != to.lost {
				t.Errorf("the only target is down: %v, and asked as %v", to.down.Load(), a)
			}
		}
	})
}

func TestWhatThisHostLacksIsNoTargetsFault(t *testing.T) {
	r := &Relay{}
	spent := fairlead.Problemf(fairlead.CodeNoSourcePort, "no port is left")
	other := fairlead.Problemf(fairlead.CodeNoSource, "of the other family")
	ru := keepingRule(1)
	to := ru.targets[0]
	to.saw(nil)
	for _, p := range []*fairlead.Problem{spent, other} {
		r.blame(ru, to, p)
		if to.down.Load() {
			t.Errorf("%s took the target out of service", p.Code)
		}
		if ru.lack.told(time.Now()).Code != p.Code {
			t.Errorf("%s is not told", p.Code)
		}
	}
	if p := ru.lack.told(time.Now().Add(lackTold)); p != nil {
		t.Errorf("it is told for ever: %v", p)
	}
	// A source that the sentence names, and none of the target's family: nobody
	// gets there.
	named := choosing(failover, 0)
	named.departure = newDeparture(&fairlead.Policy{Source: "192.0.2.1"})
	r.blame(named, named.targets[0], other)
	if !named.targets[0].down.Load() {
		t.Error("a target that no source fits is not down")
	}
}
