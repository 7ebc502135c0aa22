package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"fairlead"
)

// The cases about change: what is carried changes while connections live.

// reload applies sets of other forwards a hundred times, while transfers come
// and go and one connection lives through one forward that stays.
func reload(s *scene) {
	const others, rounds = 6, 100
	at := s.entry()
	steady := s.tcp("steady", at, s.serve(Echo).Address)
	s.apply(steady)
	names := [2]string{"target A", "target B"}
	targets := [2]string{s.serve(Banner(names[0])).Address, s.serve(Banner(names[1])).Address}
	var entries [others]netip.AddrPort
	for i := range entries {
		entries[i] = s.entry()
	}

	long := s.dial(at)
	load := s.startLoad(at, 4)
	rnd := rand.New(rand.NewPCG(11, 0))
	for round := range rounds {
		want := []*fairlead.Forward{again(steady)}
		var says [others]string // "" where nothing listens
		for i := range others {
			if which := rnd.IntN(3); which < 2 {
				says[i] = names[which]
				want = append(want, s.tcp(fmt.Sprintf("other-%d", i), entries[i], targets[which]))
			}
		}
		rnd.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
		s.apply(want...)
		if err := echoes(long, fmt.Sprintf("round %d", round)); err != nil {
			s.Fatalf("the connection that was there before: %v", err)
		}
		i := rnd.IntN(others)
		if says[i] != "" {
			s.mustSay(0, entries[i], says[i])
		} else {
			s.mustTurnAway(0, entries[i])
		}
		load.next(s) // no round without a transfer
	}
	load.finish(s)
}

// A load is transfers through one entry, one after the other in each of
// several goroutines.
type load struct {
	wg    sync.WaitGroup
	ended chan error    // one for each transfer
	halt  chan struct{} // is closed when no more shall begin
}

func (s *scene) startLoad(at netip.AddrPort, n int) *load {
	l := &load{ended: make(chan error), halt: make(chan struct{})}
	ctx, cancel := context.WithCancel(s.Context())
	for i := range n {
		x := s.transfer(at, uint64(i)<<32)
		x.Stalls = true
		l.wg.Go(func() { l.repeat(ctx, x) })
	}
	s.Cleanup(func() {
		cancel()
		l.wg.Wait()
	})
	return l
}

func (l *load) repeat(ctx context.Context, x Transfer) {
	for {
		x.Seed++
		x.Size = RandomSize(rand.New(rand.NewPCG(x.Seed, 3)), 256<<10)
		select {
		case l.ended <- x.Run(ctx):
		case <-ctx.Done():
			return
		}
		select {
		case <-l.halt:
			return
		default:
		}
	}
}

// next waits for one transfer to end well.
func (l *load) next(s *scene) {
	s.Helper()
	if err := <-l.ended; err != nil {
		s.Fatalf("under change: %v", err)
	}
}

// finish lets the transfers under way end.
func (l *load) finish(s *scene) {
	s.Helper()
	close(l.halt)
	go func() {
		l.wg.Wait()
		close(l.ended)
	}()
	for err := range l.ended {
		if err != nil {
			s.Errorf("under change: %v", err)
		}
	}
}

func changedTarget(s *scene) {
	a, b := s.serve(Echo), s.serve(Banner("B"))
	at := s.entry()
	s.apply(s.tcp("moves", at, a.Address))
	old := s.dial(at)
	s.echoes(old)
	s.apply(s.tcp("moves", at, b.Address))
	s.mustSay(0, at, "B")
	s.echoes(old)

	// Between the two there is no moment without a listener: each change
	// happens while clients come.
	const askers = 4
	c := s.serve(Banner("C"))
	answers, halt := make(chan error), make(chan struct{})
	var wg sync.WaitGroup
	for range askers {
		wg.Go(func() { s.keepAsking(at, answers, halt) })
	}
	s.Cleanup(func() {
		close(halt)
		wg.Wait()
	})
	for i := range 100 {
		s.apply(s.tcp("moves", at, []*Peer{b, c}[i%2].Address))
		for range askers {
			if err := <-answers; err != nil {
				s.Fatalf("while the target changed: %v", err)
			}
		}
	}
	s.mustSay(0, at, "C")
	s.echoes(old)

	// Another policy, and another name, for the same entry.
	s.apply(with(s.tcp("moves", at, b.Address), func(p *fairlead.Policy) { p.Deny = prefixes(s.at.Clients[1]) }))
	s.mustTurnAway(1, at)
	s.apply(s.tcp("renamed", at, b.Address))
	s.mustSay(1, at, "B")
	s.echoes(old)
}

// keepAsking reports for one client after the other whether it was led to B
// or C.
func (s *scene) keepAsking(at netip.AddrPort, answers chan<- error, halt <-chan struct{}) {
	for {
		got, err := s.says(0, "tcp", at.String())
		if err == nil && got != "B" && got != "C" {
			err = fmt.Errorf("a client was led to %q", got)
		}
		select {
		case answers <- err:
		case <-halt:
			return
		}
	}
}

func removed(s *scene) {
	echo := s.serve(Echo)
	a, b := s.entry(), s.entry()
	stays := s.tcp("stays", b, echo.Address)
	s.apply(s.tcp("goes", a, echo.Address), stays)
	c := s.dial(a)
	s.echoes(c)
	s.apply(stays)
	s.mustTurnAway(0, a)
	s.echoes(c)
	s.echoes(s.dial(b))
	if !s.sub.Kernel && s.occupied("tcp", a.String()) {
		s.Error("the entry of a removed forward is not free")
	}
	// And back again.
	s.apply(stays, s.tcp("goes", a, echo.Address))
	s.echoes(s.dial(a))
	s.echoes(c)
}

func takenPort(s *scene) {
	echo := s.serve(Echo)
	taken, free := s.entry(), s.entry()
	squatter := Serve(s, At{Host: s.at.Entry, Address: taken.String()}, Banner("somebody else"))
	one, two := s.tcp("one", taken, echo.Address), s.tcp("two", free, echo.Address)
	got := s.try(one, two)
	if got[0].State != fairlead.Broken || got[0].Problem == nil {
		s.Errorf("the port is taken, and the forward is %s with %v", got[0].State, got[0].Problem)
	}
	if got[1].Problem != nil || got[1].State == fairlead.Broken {
		s.Errorf("the other forward is %s with %v", got[1].State, got[1].Problem)
	}
	s.echoes(s.dial(free))
	squatter.Stop()
	s.apply(one, two) // tries again
	s.echoes(s.dial(taken))
}

func ranges(s *scene) {
	const n = 5
	from, to := s.entries(n), FreePorts(s, s.at.Target, s.at.At, n)
	port := func(ap netip.AddrPort, i int) netip.AddrPort {
		return netip.AddrPortFrom(ap.Addr(), ap.Port()+uint16(i))
	}
	for i := range n {
		at := At{Host: s.at.Target, Address: port(to, i).String()}
		Serve(s, at, Banner(fmt.Sprintf("port %d", i)))
	}
	dest := fairlead.Target{Host: to.Addr().String(), Ports: ports(to.Port(), n)}
	s.apply(s.forward("range", spot(fairlead.TCP, from, n), dest))
	for i := range n {
		s.mustSay(0, port(from, i), fmt.Sprintf("port %d", i))
	}

	// All to one, and a list that is not in order.
	dest.Ports = ports(to.Port()+2, 1)
	list := fairlead.Spot{Addr: from.Addr(), Net: fairlead.TCP, Ports: append(ports(from.Port()+3, 2), ports(from.Port(), 1)...)}
	s.apply(s.forward("range", list, dest))
	for _, i := range []int{0, 3, 4} {
		s.mustSay(0, port(from, i), "port 2")
	}
	for _, i := range []int{1, 2} {
		s.mustTurnAway(0, port(from, i))
	}
	dest.Ports = ports(to.Port(), 3)
	s.apply(s.forward("range", list, dest))
	for i, want := range map[int]string{3: "port 0", 4: "port 1", 0: "port 2"} {
		s.mustSay(0, port(from, i), want)
	}
}

func who(s *scene) {
	a, b := target(s.serve(Banner("A")).Address), target(s.serve(Banner("B")).Address)
	clients := s.at.Clients
	at, only, deny, wide := s.entry(), s.entry(), s.entry(), s.entry()
	split := a
	split.From = prefixes(clients[1])
	fence := a
	fence.From = prefixes(clients[0], clients[2])
	all := a
	all.From = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	s.apply(
		s.forward("split", spot(fairlead.TCP, at, 1), split, b),
		s.forward("only", spot(fairlead.TCP, only, 1), fence),
		with(s.forward("deny", spot(fairlead.TCP, deny, 1), a), func(p *fairlead.Policy) { p.Deny = prefixes(clients[2]) }),
		with(s.forward("wide", spot(fairlead.TCP, wide, 1), all), func(p *fairlead.Policy) { p.Deny = prefixes(clients[1]) }),
	)
	s.mustSay(0, at, "B")
	s.mustSay(1, at, "A")
	s.mustSay(2, at, "B")

	s.mustSay(0, only, "A")
	s.mustTurnAway(1, only)
	s.mustSay(2, only, "A")

	s.mustSay(0, deny, "A")
	s.mustTurnAway(2, deny)

	s.mustSay(0, wide, "A")
	s.mustTurnAway(1, wide)
}

// prefixes are addresses as prefixes of one each.
func prefixes(addrs ...netip.Addr) []netip.Prefix {
	list := make([]netip.Prefix, len(addrs))
	for i, addr := range addrs {
		list[i] = netip.PrefixFrom(addr, addr.BitLen())
	}
	return list
}

// entryOf is where a forward of one port listens.
func (s *scene) entryOf(f *fairlead.Forward) netip.AddrPort {
	return netip.AddrPortFrom(f.At.Addr, f.At.Ports.At(0))
}
