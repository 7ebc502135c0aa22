package lab

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"fairlead"
)

// The cases about live connections: the list is right, and each can be killed.

func connsList(s *scene) {
	began := time.Now()
	echo, end := s.serve(Echo), s.serve(ServerFirst(nil))
	a, b := s.entry(), s.entry()
	s.apply(s.tcp("first", a, echo.Address), s.tcp("second", b, end.Address))
	if conns := s.run.Tracker.Conns(); len(conns) != 0 {
		s.Fatalf("%d connections before there is one", len(conns))
	}
	one, two, ended := s.dial(a), s.dialAs(1, a), s.dial(b)
	s.echoes(one)
	for range 3 {
		if err := echoes(two, "1234567890"); err != nil {
			s.Fatal(err)
		}
	}
	halved := s.dial(a)
	s.echoes(halved)
	ended.Write([]byte("abc"))

	find := func(c net.Conn) (fairlead.Conn, bool) {
		for _, conn := range s.run.Tracker.Conns() {
			if conn.Client == c.LocalAddr().String() {
				return conn, true
			}
		}
		return fairlead.Conn{}, false
	}
	hello := int64(len("hello through " + a.String()))
	for _, want := range []struct {
		conn            net.Conn
		forward, target string
		in, out         int64
		half            string
	}{
		{one, "first", echo.Address, hello, hello, ""},
		{two, "first", echo.Address, 30, 30, ""},
		{ended, "second", end.Address, 3, 0, "target"},
	} {
		var got fairlead.Conn
		s.eventually("the counted bytes of a connection of "+want.forward, func() bool {
			got, _ = find(want.conn)
			return got.In == want.in && got.Out == want.out && got.Half == want.half
		})
		if got.Forward != want.forward || got.Target != want.target || got.Local != want.conn.RemoteAddr().String() || got.Network != "tcp" {
			s.Errorf("Conns: got %+v", got)
		}
		if got.ID == "" || got.Began.Before(began) || got.Began.After(time.Now()) {
			s.Errorf("Conns: ID %q, began %v", got.ID, got.Began)
		}
	}
	ids := map[string]bool{}
	for _, conn := range s.run.Tracker.Conns() {
		ids[conn.ID] = true
	}
	if len(ids) != 4 {
		s.Errorf("%d different ids for 4 connections", len(ids))
	}
	one.Close()
	s.eventually("a closed connection leaves the list", func() bool {
		_, there := find(one)
		return !there
	})
	if n := len(s.run.Tracker.Conns()); n != 3 {
		s.Errorf("%d connections in the list, want 3", n)
	}
}

func kill(s *scene) {
	echo := s.serve(Echo)
	a, b := s.entry(), s.entry()
	s.apply(s.tcp("one", a, echo.Address), s.tcp("two", b, echo.Address))
	dial := func(client int, at netip.AddrPort) net.Conn {
		s.Helper()
		c := s.dialAs(client, at)
		s.echoes(c)
		return c
	}
	stays := dial(0, a)
	byID, sameForward := dial(0, b), []net.Conn{dial(0, b), dial(2, b)}
	sameClient := []net.Conn{dial(1, a), dial(1, b)}

	cut := func(m fairlead.Match, conns ...net.Conn) {
		s.Helper()
		if n := s.run.Tracker.Kill(m); n != len(conns) {
			s.Fatalf("Kill(%+v) says %d, want %d", m, n, len(conns))
		}
		for _, c := range conns {
			s.mustReset(c)
			if v := echo.Visit(s); !isReset(v.Err) {
				s.Errorf("Kill(%+v): the target sees %v, want a reset", m, v.Err)
			}
		}
	}
	conns := s.run.Tracker.Conns()
	i := slices.IndexFunc(conns, func(c fairlead.Conn) bool { return c.Client == byID.LocalAddr().String() })
	if i < 0 {
		s.Fatalf("a connection is not in the list of %d", len(conns))
	}
	cut(fairlead.Match{})
	cut(fairlead.Match{ID: conns[i].ID + "?"})
	cut(fairlead.Match{ID: conns[i].ID, Forward: "one"})
	cut(fairlead.Match{ID: conns[i].ID}, byID)
	cut(fairlead.Match{Client: s.at.Clients[1]}, sameClient...)
	cut(fairlead.Match{Forward: "two"}, sameForward...)
	s.echoes(stays)
	s.eventually("only one connection is left", func() bool { return len(s.run.Tracker.Conns()) == 1 })
}
