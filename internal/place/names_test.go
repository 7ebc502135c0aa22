package place

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"fairlead"
)

// bubble runs test in a bubble of time with a cache that asks s, which stands
// outside of it: the network knows real time only.
func bubble(t *testing.T, s *nameServer, test func(t *testing.T, n *Names)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := NewNames([]netip.AddrPort{s.at})
		defer n.Close()
		test(t, n)
	})
}

func lookup(n *Names, name string) string {
	addrs, err := n.Lookup(context.Background(), name)
	if err != nil {
		return string(fairlead.AsProblem(err).Code)
	}
	return listed(addrs)
}

func TestAnswersHoldAsLongAsTheirRecords(t *testing.T) {
	for _, c := range []struct {
		name  string
		r     records
		holds time.Duration
	}{
		{"plain.test", records{addrs: []string{"10.0.0.4"}, ttl: 60}, time.Minute},
		{"alias.test", records{addrs: []string{"10.0.0.4"}, ttl: 60, cname: "real.test", cnameTTL: 20}, 20 * time.Second},
		{"zero.test", records{addrs: []string{"10.0.0.4"}, ttl: 0}, time.Second},
		{"week.test", records{addrs: []string{"10.0.0.4"}, ttl: 604800}, time.Hour},
		{"ages.test", records{addrs: []string{"10.0.0.4"}, ttl: 1<<32 - 1}, time.Hour},
		{"six.test", records{addrs: []string{"2001:db8::4"}, ttl: 30}, 30 * time.Second},
		{"large.test", records{addrs: []string{"10.0.0.4"}, ttl: 45, overTCP: true}, 45 * time.Second},
		{"gone.test", records{rcode: dnsmessage.RCodeNameError, negative: 3}, 3 * time.Second},
		{"gone-long.test", records{rcode: dnsmessage.RCodeNameError, negative: 600}, 5 * time.Second},
		{"gone-soaless.test", records{rcode: dnsmessage.RCodeNameError}, time.Second},
		{"empty.test", records{negative: 4}, 4 * time.Second},
		{"broken.test", records{rcode: dnsmessage.RCodeServerFailure}, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newNameServer(t)
			s.set(c.name, c.r)
			bubble(t, s, func(t *testing.T, n *Names) {
				first := lookup(n, c.name)
				asked := s.questions(c.name)
				if asked == 0 {
					t.Fatalf("answered %s and nobody was asked", first)
				}
				time.Sleep(c.holds - time.Millisecond)
				if again := lookup(n, strings.ToUpper(c.name)); again != first || s.questions(c.name) != asked {
					t.Errorf("just before: %s, %d more questions; first it was %s", again, s.questions(c.name)-asked, first)
				}
				time.Sleep(time.Millisecond)
				if again := lookup(n, c.name); again != first || s.questions(c.name) == asked {
					t.Errorf("when it was over: %s, %d more questions; first it was %s", again, s.questions(c.name)-asked, first)
				}
			})
		})
	}
}

func TestNamesOfTheHostsFileHoldFiveSeconds(t *testing.T) {
	s := newNameServer(t)
	bubble(t, s, func(t *testing.T, n *Names) {
		if _, err := n.Lookup(t.Context(), "localhost"); err != nil {
			t.Skipf("the hosts file has no localhost: %v", err)
		}
		if s.questions("localhost") > 0 {
			t.Skip("the hosts file has no localhost")
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if holds := time.Until(n.entries["localhost"].fresh); holds != 5*time.Second {
			t.Errorf("it holds for %v", holds)
		}
	})
}

func TestLastGoodAddressesServeWhileLookupsFail(t *testing.T) {
	s := newNameServer(t)
	s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 10})
	bubble(t, s, func(t *testing.T, n *Names) {
		step := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			if got := lookup(n, "db.test"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		step(0, "10.0.0.4")
		s.set("db.test", records{rcode: dnsmessage.RCodeServerFailure})
		step(11*time.Second, "10.0.0.4")
		asked := s.questions("db.test")
		step(4*time.Second, "10.0.0.4")
		if s.questions("db.test") != asked {
			t.Error("the failing server was asked again after 4 s")
		}
		step(23*time.Hour, "10.0.0.4")
		step(time.Hour, "FL-212")
		s.set("db.test", records{addrs: []string{"10.0.0.5"}, ttl: 10})
		step(time.Second, "10.0.0.5")
	})
}

func TestANameThatGoesIsBelievedAtOnce(t *testing.T) {
	s := newNameServer(t)
	s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 10})
	bubble(t, s, func(t *testing.T, n *Names) {
		step := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			if got := lookup(n, "db.test"); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		step(0, "10.0.0.4")
		s.set("db.test", records{rcode: dnsmessage.RCodeNameError})
		step(9*time.Second, "10.0.0.4") // still within its time to live
		step(2*time.Second, "FL-210")
		// A failure after that is no reason to use them again.
		s.set("db.test", records{rcode: dnsmessage.RCodeServerFailure})
		step(2*time.Second, "FL-212")
		s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 10})
		step(2*time.Second, "10.0.0.4")
	})
}

func TestProblemsOfNamesSayWhoSaidWhat(t *testing.T) {
	s := newNameServer(t)
	s.set("gone.test", records{rcode: dnsmessage.RCodeNameError})
	s.set("mail.test", records{negative: 5})
	s.set("broken.test", records{rcode: dnsmessage.RCodeServerFailure})
	s.set("refused.test", records{rcode: dnsmessage.RCodeRefused})
	s.set("ads.test", records{addrs: []string{"0.0.0.0", "::"}, ttl: 60})
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	for name, want := range map[string]string{
		"gone.test":    `FL-210 no address for "gone.test" (NXDOMAIN from SERVER)`,
		"mail.test":    `FL-210 no address for "mail.test" (no A or AAAA records at SERVER)`,
		"broken.test":  `FL-212 the name server SERVER cannot answer for "broken.test" (SERVFAIL)`,
		"refused.test": `FL-212 the name server SERVER cannot answer for "refused.test" (REFUSED)`,
		"ads.test":     `FL-210 no address for "ads.test" (blocked by SERVER)`,
		"a..b":         `FL-210 no address for "a..b"`,
	} {
		_, err := n.Lookup(t.Context(), name)
		p := fairlead.AsProblem(err)
		if p == nil {
			t.Errorf("%s has addresses", name)
			continue
		}
		got := string(p.Code) + " " + strings.ReplaceAll(p.What, s.at.String(), "SERVER")
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if len(p.Fixes) == 0 {
			t.Errorf("%s has no way out", got)
		}
		if ReasonOf(err) != fairlead.NameUnknown {
			t.Errorf("%s: reason %s", got, ReasonOf(err))
		}
		p.Note("in", "a note of this caller")
		if _, err := n.Lookup(t.Context(), name); len(fairlead.AsProblem(err).Notes) >= len(p.Notes) {
			t.Errorf("%s: callers share their notes", name)
		}
	}
}

func TestAHangingServerIsAskedOnceForAllAndGivenUp(t *testing.T) {
	s := newNameServer(t)
	s.set("slow.test", records{silence: true})
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	began := time.Now()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if got := lookup(n, "slow.test"); got != "FL-212" {
				t.Errorf("got %s", got)
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > lookupTime+time.Second {
		t.Errorf("it took %v", took)
	}
	if asked := s.questions("slow.test"); asked > 6 {
		t.Errorf("%d questions for one name", asked)
	}
}

func TestAHangingServerHoldsNobodyUpWhoHasAnOldAnswer(t *testing.T) {
	s := newNameServer(t)
	s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 60})
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	lookup(n, "db.test")
	s.set("db.test", records{silence: true})
	n.mu.Lock()
	n.entries["db.test"].fresh = time.Now()
	n.mu.Unlock()
	began := time.Now()
	if got := lookup(n, "db.test"); got != "10.0.0.4" {
		t.Errorf("got %s", got)
	}
	if took := time.Since(began); took < patience || took > 3*patience {
		t.Errorf("it took %v", took)
	}
	began = time.Now()
	lookup(n, "db.test")
	if took := time.Since(began); took > patience/2 {
		t.Errorf("the second one took %v", took)
	}
}

func TestOneFamilyThatIsNotAnsweredDoesNotHideTheOther(t *testing.T) {
	s := newNameServer(t)
	s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 60})
	s.mute(dnsmessage.TypeAAAA)
	s.holdIPv4()
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	began := time.Now()
	if got := lookup(n, "db.test"); got != "10.0.0.4" {
		t.Errorf("got %s", got)
	}
	if took := time.Since(began); took > exchangeTime {
		t.Errorf("it took %v", took)
	}
}

func TestNoForOneFamilyAndSilenceForTheOtherIsNoAnswer(t *testing.T) {
	six := asked
	six.Type = dnsmessage.TypeAAAA
	no := &net.DNSError{Err: "no such host", IsNotFound: true}
	for _, c := range []struct {
		asked map[dnsmessage.Question]bool
		want  fairlead.Code
	}{
		{map[dnsmessage.Question]bool{asked: true, six: true}, fairlead.CodeNameUnknown},
		{map[dnsmessage.Question]bool{asked: false, six: true}, fairlead.CodeNameServer},
		{map[dnsmessage.Question]bool{six: true}, fairlead.CodeNameServer}, // the other could not be sent
		{nil, fairlead.CodeNameUnknown},                                    // not a name at all
	} {
		s := sight{asked: c.asked}
		a := s.failure("db.test", no)
		if a.err.Code != c.want || a.negative != (c.want == fairlead.CodeNameUnknown) {
			t.Errorf("%v: %s, negative %v", c.asked, a.err.Code, a.negative)
		}
	}
}

func TestTheNextServerIsAskedWhenOneIsDead(t *testing.T) {
	s := newNameServer(t)
	s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 60})
	s.set("web.test", records{addrs: []string{"10.0.0.5"}, ttl: 60})
	dead := newNameServer(t)
	dead.mute(dnsmessage.TypeA, dnsmessage.TypeAAAA)
	n := NewNames([]netip.AddrPort{dead.at, s.at})
	defer n.Close()
	if got := lookup(n, "db.test"); got != "10.0.0.4" {
		t.Errorf("got %s", got)
	}
	began := time.Now()
	if got := lookup(n, "web.test"); got != "10.0.0.5" || dead.questions("web.test") > 0 {
		t.Errorf("got %s, and the dead server was asked %d times", got, dead.questions("web.test"))
	}
	if took := time.Since(began); took > exchangeTime/2 {
		t.Errorf("the second lookup took %v", took)
	}
}

func TestThousandAddressesAreCutToThirtyTwoOfBothFamilies(t *testing.T) {
	s := newNameServer(t)
	r := records{ttl: 60, overTCP: true, addrs: []string{"10.0.0.4", "10.0.0.4", "10.0.0.5"}}
	for i := range 1000 {
		r.addrs = append(r.addrs, fmt.Sprintf("2001:db8::%x", i+1))
	}
	s.set("many.test", r)
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	addrs, err := n.Lookup(t.Context(), "many.test")
	if err != nil {
		t.Fatal(err)
	}
	four := slices.IndexFunc(addrs, netip.Addr.Is4)
	if len(addrs) != maxAddrs || four < 0 || four > 1 {
		t.Errorf("%d addresses, the first IPv4 one at %d", len(addrs), four)
	}
}

func TestCallersGetTheirOwnAddresses(t *testing.T) {
	s := newNameServer(t)
	s.set("db.test", records{addrs: []string{"10.0.0.4"}, ttl: 60})
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	for range 2 {
		addrs, err := n.Lookup(t.Context(), "db.test")
		if err != nil || addrs[0].String() != "10.0.0.4" {
			t.Fatal(addrs, err)
		}
		addrs[0] = netip.Addr{}
	}
}

func TestTheLeastRecentlyUsedNameIsForgotten(t *testing.T) {
	n := NewNames(nil)
	defer n.Close()
	a := netip.MustParseAddr("10.0.0.4")
	n.won("kept.test", a)
	n.won("forgotten.test", a)
	for i := range maxNames {
		n.won(fmt.Sprintf("%d.test", i), a)
		if i%1000 == 0 {
			n.won("kept.test", a)
		}
	}
	_, kept := n.winner("kept.test")
	_, forgotten := n.winner("forgotten.test")
	if !kept || forgotten || len(n.entries) != maxNames || n.recent.Len() != maxNames {
		t.Errorf("kept %v, forgotten %v, %d entries, %d in the list", kept, !forgotten, len(n.entries), n.recent.Len())
	}
}

func TestAWinnerIsRememberedForTenMinutesAndNotRenewedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNames(nil)
		defer n.Close()
		six, four := netip.MustParseAddr("2001:db8::4"), netip.MustParseAddr("10.0.0.4")
		n.won("Web.test", four)
		time.Sleep(9 * time.Minute)
		if a, _ := n.winner("web.test"); a != four {
			t.Errorf("after 9 min %v", a)
		}
		n.won("web.test", four)
		time.Sleep(time.Minute)
		if a, ok := n.winner("web.test"); ok {
			t.Errorf("after 10 min %v", a)
		}
		n.won("web.test", six)
		n.won("web.test", four)
		if a, _ := n.winner("web.test"); a != four {
			t.Errorf("the last winner is %v", a)
		}
	})
}

func TestCloseEndsLookupsUnderWay(t *testing.T) {
	s := newNameServer(t)
	s.set("slow.test", records{silence: true})
	n := NewNames([]netip.AddrPort{s.at})
	ctx, cancel := context.WithCancel(t.Context())
	asking := make(chan error)
	go func() {
		_, err := n.Lookup(ctx, "slow.test")
		asking <- err
	}()
	for s.questions("slow.test") == 0 {
		select {
		case err := <-asking:
			t.Fatal("it did not wait:", err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-asking; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled caller got %v", err)
	}
	began := time.Now()
	n.Close()
	if took := time.Since(began); took > time.Second {
		t.Errorf("closing took %v", took)
	}
	if _, err := n.Lookup(t.Context(), "other.test"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTheCallersDeadlineBoundsALookup(t *testing.T) {
	s := newNameServer(t)
	s.set("slow.test", records{silence: true})
	n := NewNames([]netip.AddrPort{s.at})
	defer n.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := n.Lookup(ctx, "slow.test")
	p := fairlead.AsProblem(err)
	if p == nil || p.Code != fairlead.CodeNameServer || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}
