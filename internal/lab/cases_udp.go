package lab

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"fairlead"
)

// The cases about datagrams: each arrives whole or not at all, and answers
// find the client that asked, from the address that it asked.

// ask sends one datagram and returns the next that comes back.
func ask(c *net.UDPConn, datagram []byte) ([]byte, error) {
	if _, err := c.Write(datagram); err != nil {
		return nil, err
	}
	return hear(c)
}

func hear(c *net.UDPConn) ([]byte, error) {
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return buf[:n], err
}

func (s *scene) mustAsk(c *net.UDPConn, datagram string) string {
	s.Helper()
	got, err := ask(c, []byte(datagram))
	if err != nil {
		s.Fatalf("udp: no answer: %v", err)
	}
	return string(got)
}

func udpEcho(s *scene) {
	at := s.entry()
	s.apply(s.udp("echo", at, s.serveUDP(UDPEcho).Address))
	c := s.dialUDP(0, at)
	for i, size := range []int{1, 2, 512, 1472, 1473, 9000, 32768, 65507} {
		data := Stream(20 + i).Bytes(size)
		got, err := ask(c, data)
		if err != nil || !bytes.Equal(got, data) {
			s.Errorf("a datagram of %d bytes came back as %d bytes, or others (%v)", size, len(got), err)
		}
	}
}

func udpClients(s *scene) {
	const clients, rounds = 100, 10
	at := s.entry()
	s.apply(s.udp("echo", at, s.serveUDP(UDPEcho).Address))
	var g errgroup.Group
	for i := range clients {
		c := s.dialUDP(i%3, at)
		g.Go(func() error {
			for round := range rounds {
				want := fmt.Sprintf("client %d, round %d", i, round)
				if got, err := ask(c, []byte(want)); err != nil || string(got) != want {
					return fmt.Errorf("%s: got %q (%w)", want, got, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		s.Error(err)
	}
}

func udpRepeat(s *scene) {
	const n = 20
	at := s.entry()
	s.apply(s.udp("repeat", at, s.serveUDP(UDPRepeat(n)).Address))
	c := s.dialUDP(0, at)
	for range 5 {
		got, err := ask(c, []byte("x"))
		for i := range n {
			if err != nil || len(got) != 2 || got[1] != byte(i) {
				s.Fatalf("answer %d of %d: %q (%v)", i, n, got, err)
			}
			if i < n-1 {
				got, err = hear(c)
			}
		}
	}
}

func udpZeroLength(s *scene) {
	empty, echo := s.serveUDP(UDPEmpty), s.serveUDP(UDPEcho)
	a, b := s.entry(), s.entry()
	s.apply(s.udp("empty", a, empty.Address), s.udp("echo", b, echo.Address))
	c := s.dialUDP(0, a)
	for _, question := range []string{"something", "", "", "something"} {
		if got := s.mustAsk(c, question); got != "" {
			s.Errorf("got %q, want an empty datagram", got)
		}
	}
	if n := empty.Count.Load(); n != 4 {
		s.Errorf("the target got %d datagrams, want 4", n)
	}
	// As the first of a session, and without harm to it.
	c = s.dialUDP(0, b)
	for _, question := range []string{"", "after it", "", "and after that"} {
		if got := s.mustAsk(c, question); got != question {
			s.Errorf("got %q, want %q", got, question)
		}
	}
}

func udpAskedAddress(s *scene) {
	port := s.entry().Port()
	every := fairlead.Spot{Any: true, Ports: ports(port, 1), Net: fairlead.UDP}
	s.apply(s.forward("any", every, target(s.serveUDP(UDPEcho).Address)))
	for client := range s.at.Clients {
		for _, addr := range s.at.Entries {
			// Connected: an answer from any other address is not received.
			c := s.dialUDP(client, netip.AddrPortFrom(addr, port))
			if got := s.mustAsk(c, addr.String()); got != addr.String() {
				s.Errorf("got %q", got)
			}
		}
	}
	if s.at.Client == nil && hasIPv6(s) {
		c, err := s.at.Client.DialContext(s.Context(), "udp", "[::1]:"+strconv.Itoa(int(port)))
		if err != nil {
			s.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if got := s.mustAsk(c.(*net.UDPConn), "six"); got != "six" {
			s.Errorf("got %q", got)
		}
	}

	// One socket of one client that asks two addresses has two conversations.
	one, err := s.at.Client.ListenPacket(s.Context(), "udp", netip.AddrPortFrom(s.at.Clients[0], 0).String())
	if err != nil {
		s.Fatal(err)
	}
	defer one.Close()
	one.SetDeadline(time.Now().Add(patience))
	for range 3 {
		for _, addr := range s.at.Entries {
			if _, err := one.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(addr, port)); err != nil {
				s.Fatal(err)
			}
			_, from, err := one.ReadFromUDPAddrPort(make([]byte, 16))
			if err != nil || from.Addr().Unmap() != addr {
				s.Fatalf("asked %s and got an answer from %s (%v)", addr, from, err)
			}
		}
	}
}

func udpRefused(s *scene) {
	absent := s.refusing().String()
	a, b := s.entry(), s.entry()
	s.try(s.udp("absent", a, absent), s.udp("well", b, s.serveUDP(UDPWhoAmI).Address))
	well := s.dialUDP(0, b)
	before := s.mustAsk(well, "")
	c := s.dialUDP(0, a)
	for range 20 {
		c.Write([]byte("anybody?")) // may be refused, which is for the client to know
		if after := s.mustAsk(well, ""); after != before {
			s.Fatalf("the session with another target moved from %s to %s", before, after)
		}
	}
	ServeUDP(s, At{Host: s.at.Target, Address: absent}, UDPName("now here"))
	s.eventually("the same client reaches the target that appeared", func() bool {
		c.Write([]byte("and now?"))
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		got, err := hear(c)
		return err == nil && string(got) == "now here"
	})
}

func udpCap(s *scene) {
	const limit = 4
	at := s.entry()
	s.apply(with(s.udp("capped", at, s.serveUDP(UDPWhoAmI).Address), func(p *fairlead.Policy) { p.MaxConns = limit }))
	var clients [limit + 1]*net.UDPConn
	var was [limit + 1]string
	for i := range clients {
		clients[i] = s.dialUDP(0, at)
	}
	for i := range limit {
		was[i] = s.mustAsk(clients[i], "first")
	}
	for _, i := range []int{2, 0} { // 1 is now the longest unused, then 3
		if got := s.mustAsk(clients[i], "again"); got != was[i] {
			s.Fatalf("client %d had the session %s and has %s, below the cap", i, was[i], got)
		}
	}
	was[limit] = s.mustAsk(clients[limit], "one too many")
	for _, i := range []int{3, 2, 0, limit} {
		if got := s.mustAsk(clients[i], "still there"); got != was[i] {
			s.Errorf("client %d lost its session, which was not the least recently used", i)
		}
	}
	if s.run.Tracker != nil {
		conns := s.run.Tracker.Conns()
		for _, conn := range conns {
			if conn.Client == clients[1].LocalAddr().String() {
				s.Errorf("the least recently used session is still in the list")
			}
		}
		if len(conns) != limit {
			s.Errorf("%d sessions in the list, want %d", len(conns), limit)
		}
	}
	// Who was put out may come back.
	if got := s.mustAsk(clients[1], "back"); got == was[1] {
		s.Errorf("client 1 still has the session %s, which was over the cap", got)
	}
}

func udpIdle(s *scene) {
	echo := s.serveUDP(UDPEcho)
	at := s.entry()
	s.apply(with(s.udp("idle", at, echo.Address), func(p *fairlead.Policy) { p.Idle = 300 * time.Millisecond }))
	c := s.dialUDP(0, at)
	s.mustAsk(c, "hello")
	conns := s.run.Tracker.Conns()
	if len(conns) != 1 || conns[0].Client != c.LocalAddr().String() || conns[0].Target != echo.Address ||
		conns[0].Network != "udp" || conns[0].Local != at.String() || conns[0].Forward != "idle" {
		s.Errorf("Conns: got %+v", conns)
	}
	s.eventually("an idle session ends", func() bool { return len(s.run.Tracker.Conns()) == 0 })
	s.mustAsk(c, "and comes back")
	if n := s.run.Tracker.Kill(fairlead.Match{Client: s.at.Clients[0]}); n != 1 {
		s.Errorf("Kill says %d, want 1", n)
	}
	s.eventually("a killed session ends", func() bool { return len(s.run.Tracker.Conns()) == 0 })
	s.mustAsk(c, "and comes back")
}

func udpReload(s *scene) {
	a, b := s.serveUDP(UDPWhoAmI), s.serveUDP(UDPName("B"))
	at, other := s.entry(), s.entry()
	steady := s.udp("steady", at, a.Address)
	s.apply(steady)
	c := s.dialUDP(0, at)
	was := s.mustAsk(c, "first")
	for round := range 100 {
		want := []*fairlead.Forward{again(steady)}
		if round%3 > 0 {
			dest := []string{a.Address, b.Address}[round%2]
			want = append(want, s.udp("other", other, dest))
		}
		s.apply(want...)
		if got := s.mustAsk(c, "again"); got != was { // nothing lost, and still the same session
			s.Fatalf("round %d: the session moved from %s to %s", round, was, got)
		}
		if round%3 > 0 && round%2 == 1 {
			if got := s.mustAsk(s.dialUDP(1, other), "who?"); got != "B" {
				s.Fatalf("round %d: the other forward leads to %q", round, got)
			}
		}
	}
	// A changed target takes the next client.
	s.apply(s.udp("steady", at, b.Address))
	if got := s.mustAsk(s.dialUDP(0, at), "who?"); got != "B" {
		s.Errorf("a new client is led to %q, want B", got)
	}
	// A removed one is gone.
	s.apply()
	if s.occupied("udp", at.String()) {
		s.Error("the entry of a removed forward is not free")
	}
}

func udpWho(s *scene) {
	a, b := target(s.serveUDP(UDPName("A")).Address), target(s.serveUDP(UDPName("B")).Address)
	a.From = prefixes(s.at.Clients[1])
	split, only := s.entry(), s.entries(3)
	// And a range besides: 1:1, as for TCP.
	to := FreePorts(s, s.at.Target, s.at.At, 3)
	for i := range uint16(3) {
		at := At{Host: s.at.Target, Address: netip.AddrPortFrom(to.Addr(), to.Port()+i).String()}
		ServeUDP(s, at, UDPName(strconv.Itoa(int(i))))
	}
	s.apply(
		s.forward("split", spot(fairlead.UDP, split, 1), a, b),
		with(s.forward("range", spot(fairlead.UDP, only, 3), fairlead.Target{Host: to.Addr().String(), Ports: ports(to.Port(), 3)}),
			func(p *fairlead.Policy) { p.Deny = prefixes(s.at.Clients[2]) }),
	)
	for client, want := range []string{"B", "A", "B"} {
		if got := s.mustAsk(s.dialUDP(client, split), "who?"); got != want {
			s.Errorf("client %d is led to %q, want %q", client, got, want)
		}
	}
	denied := s.dialUDP(2, only)
	denied.Write([]byte("let me in"))
	for i := range uint16(3) {
		got := s.mustAsk(s.dialUDP(0, netip.AddrPortFrom(only.Addr(), only.Port()+i)), "who?")
		if got != strconv.Itoa(int(i)) {
			s.Errorf("port %d leads to %q", i, got)
		}
	}
	denied.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if got, err := hear(denied); err == nil || !isTimeout(err) && !isReset(err) && !errors.Is(err, net.ErrClosed) {
		s.Errorf("a denied client hears %q (%v)", got, err)
	}
}
