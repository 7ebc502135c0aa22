package lab

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"fairlead"
)

// The cases about ends: each direction ends by itself, a reset stays a reset,
// and nothing waits for ever.

func serverFirst(s *scene) {
	banner, answer := []byte("220 ready\r\n"), Stream(5).Bytes(1<<20)
	peer := s.serve(ServerFirst(banner))
	at := s.entry()
	s.apply(s.tcp("banner", at, peer.Address))
	c := s.dial(at)
	if got := s.mustEOF(c); !bytes.Equal(got, banner) { // before the client says a word
		s.Fatalf("got the banner %q, want %q", got, banner)
	}
	// The target has ended its direction; the client's still works.
	if _, err := c.Write(answer); err != nil {
		s.Fatalf("write after the target's end: %v", err)
	}
	s.mustEndSending(c)
	if v := peer.Visit(s); v.Err != nil || v.Sum != sha256.Sum256(answer) {
		s.Errorf("the target got %d bytes of %d (%v), or others", v.Bytes, len(answer), v.Err)
	}
}

func halfClose(s *scene) {
	// The client ends first.
	peer := s.serve(EchoAfterEOF)
	at := s.entry()
	s.apply(s.tcp("after-eof", at, peer.Address))
	for i, size := range []int64{0, 1, 70_000, 2 << 20} {
		x := s.transfer(at, uint64(200+i))
		x.Size = size
		if err := x.Run(s.Context()); err != nil {
			s.Fatalf("client first: %v", err)
		}
		if size == 0 {
			continue
		}
		if v := peer.Visit(s); v.Err != nil || v.Sent != nil || v.Bytes != size {
			s.Errorf("client first: the target saw %d bytes of %d, %v and %v", v.Bytes, size, v.Err, v.Sent)
		}
	}

	// The client ends at once, and the answer is still under way.
	const size = 4 << 20
	source := s.serve(Source(6, size))
	down := s.entry()
	s.apply(s.tcp("source", down, source.Address))
	c := s.dial(down)
	c.Write([]byte{1})
	s.mustEndSending(c)
	if got := s.mustEOF(c); !bytes.Equal(got, Stream(6).Bytes(size)) {
		s.Errorf("after the client's end %d bytes of %d came, or others", len(got), size)
	}
	if v := source.Visit(s); v.Err != nil || v.Sent != nil {
		s.Errorf("target first: the target saw %v and %v", v.Err, v.Sent)
	}

	// The target's end alone does not end the client's direction, and does not
	// reach the target as an end.
	open := s.serve(ServerFirst([]byte("x")))
	third := s.entry()
	s.apply(s.tcp("open", third, open.Address))
	c = s.dial(third)
	s.mustEOF(c)
	for range 20 {
		if _, err := c.Write([]byte("more")); err != nil {
			s.Fatalf("write after the target's end: %v", err)
		}
	}
	if open.Visited() {
		s.Error("the target saw the end of a client that has not ended")
	}
	s.mustEndSending(c)
	if v := open.Visit(s); v.Err != nil || v.Bytes != 80 {
		s.Errorf("the target got %d bytes and %v, want 80 and a clean end", v.Bytes, v.Err)
	}
}

func refused(s *scene) {
	f := s.tcp("refused", s.entry(), s.refusing().String())
	s.try(f) // a target that is down may be known at once, and the entry is there all the same
	at := s.entryOf(f)
	for _, speak := range []bool{false, true} {
		c, err := s.connect(0, "tcp", at.String())
		if err == nil {
			if speak {
				_, err = io.WriteString(c, "anybody there?")
			}
			if err == nil { // the system tells of a reset once, here or there
				_, err = io.Copy(io.Discard, readerOnly{c})
			}
			c.Close()
		}
		if !isReset(err) {
			s.Errorf("the target refuses, and the client (speaking first: %v) sees %v, want a reset", speak, err)
		}
	}
	// Once the target is there, so is the forward.
	Serve(s, At{Host: s.at.Target, Address: f.To[0].Dest()}, Banner("back"))
	s.mustSay(0, at, "back")
}

func targetResets(s *scene) {
	for _, test := range []struct {
		name string
		size int // sent before the reset
	}{{"at once", 0}, {"after a word", 5}, {"amid the data", 3 << 20}} {
		peer := s.serve(Reset(7, test.size, 1))
		at := s.entry()
		s.apply(s.tcp("resets", at, peer.Address))
		c := s.dial(at)
		if _, err := c.Write([]byte{1}); err != nil {
			s.Fatal(err)
		}
		got := s.mustReset(c)
		if err := Stream(7).Check(got, 0, make([]byte, len(got))); err != nil || len(got) > test.size {
			s.Errorf("%s: %d bytes before the reset, not those sent: %v", test.name, len(got), err)
		}
	}

	// Data that was read long before the reset does not soften it.
	peer := s.serve(Reset(8, 5, 1))
	at := s.entry()
	s.apply(s.tcp("late", at, peer.Address))
	c := s.dial(at)
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		s.Fatal(err)
	}
	c.Write([]byte{1})
	if got := s.mustReset(c); len(got) > 0 {
		s.Errorf("%d bytes too many", len(got))
	}

	// Half-closed by the client.
	peer = s.serve(Reset(9, 0, 2))
	at = s.entry()
	s.apply(s.tcp("half", at, peer.Address))
	c = s.dial(at)
	c.Write([]byte{1})
	s.mustEndSending(c)
	s.mustReset(c)
}

func clientResets(s *scene) {
	// Idle after some words.
	echo := s.serve(Echo)
	at := s.entry()
	s.apply(s.tcp("echo", at, echo.Address))
	c := s.dial(at)
	s.echoes(c)
	ResetConn(c)
	if v := echo.Visit(s); !isReset(v.Err) {
		s.Errorf("the client reset the connection, and the target sees %v", v.Err)
	}

	// While the target sends and does not read.
	source := s.serve(Greeted(Source(10, -1)))
	at = s.entry()
	s.apply(s.tcp("source", at, source.Address))
	for _, half := range []bool{false, true} {
		c = s.dial(at)
		c.Write([]byte{1})
		if _, err := io.ReadFull(c, make([]byte, 100_000)); err != nil {
			s.Fatal(err)
		}
		if half {
			s.mustEndSending(c)
		}
		ResetConn(c)
		if v := source.Visit(s); !isReset(v.Sent) && !errors.Is(v.Sent, syscall.EPIPE) {
			s.Errorf("the client (half-closed: %v) reset the connection, and the sending target sees %v", half, v.Sent)
		}
	}

	// Half-closed by the target.
	first := s.serve(Greeted(ServerFirst([]byte("x"))))
	at = s.entry()
	s.apply(s.tcp("first", at, first.Address))
	c = s.dial(at)
	c.Write([]byte{1})
	s.mustEOF(c)
	ResetConn(c)
	if v := first.Visit(s); !isReset(v.Err) {
		s.Errorf("half-closed by the target, reset by the client, and the target sees %v", v.Err)
	}
}

func linger(s *scene) {
	const bound = 500 * time.Millisecond
	short := func(p *fairlead.Policy) { p.Linger = bound }
	silent, first, drip := s.serve(HoldOpen), s.serve(ServerFirst([]byte("x"))), s.serve(Drip(15, bound/5))
	a, b, d := s.entry(), s.entry(), s.entry()
	s.apply(
		with(s.tcp("silent", a, silent.Address), short),
		with(s.tcp("first", b, first.Address), short),
		with(s.tcp("drip", d, drip.Address), short),
	)

	// Bytes in the surviving direction keep it alive for longer than the bound.
	dripping := s.dial(d)
	s.mustEndSending(dripping)
	var g errgroup.Group
	g.Go(func() error {
		got, err := io.ReadAll(dripping)
		if err == nil && len(got) != 15 {
			err = io.ErrUnexpectedEOF
		}
		return err
	})

	// Silence does not, whichever side ended first.
	began := time.Now()
	c := s.dial(a)
	s.mustEndSending(c)
	s.mustEnd(c)
	if took := time.Since(began); took < bound/2 {
		s.Errorf("a half-closed connection was cut after %v, want about %v", took, bound)
	}
	c = s.dial(b)
	c.Write([]byte{1})
	s.mustEOF(c) // and then says nothing
	if v := first.Visit(s); v.Bytes != 1 {
		s.Errorf("the target got %d bytes", v.Bytes)
	}
	if err := g.Wait(); err != nil {
		s.Errorf("the surviving direction was busy and yet it ended with %v", err)
	}
}

func idle(s *scene) {
	const bound = 500 * time.Millisecond
	echo := s.serve(Echo)
	at := s.entry()
	s.apply(with(s.tcp("idle", at, echo.Address), func(p *fairlead.Policy) { p.Idle = bound }))
	quiet, busy := s.dial(at), s.dial(at)
	s.echoes(quiet)
	began := time.Now()
	var ended time.Duration
	var g errgroup.Group
	g.Go(func() error {
		_, err := io.Copy(io.Discard, readerOnly{quiet})
		ended = time.Since(began)
		if isTimeout(err) {
			return errors.New("an idle connection did not end")
		}
		return nil
	})
	tick := time.NewTicker(bound / 5)
	defer tick.Stop()
	for range 12 {
		<-tick.C
		s.echoes(busy)
	}
	if err := g.Wait(); err != nil {
		s.Error(err)
	}
	if ended < bound/2 {
		s.Errorf("an idle connection was cut after %v, want about %v", ended, bound)
	}
}

func connectTimeout(s *scene) {
	const bound = 300 * time.Millisecond
	hole := BlackHole(s, s.targetAt())
	at := s.entry()
	s.try(with(s.tcp("hole", at, hole), func(p *fairlead.Policy) { p.Connect = bound }))
	c := s.dial(at)
	began := time.Now()
	s.mustReset(c)
	if took := time.Since(began); took < bound/2 || took > patience/2 {
		s.Errorf("a silent target was given up after %v, want about %v", took, bound)
	}
	// A client that gives up first takes its dial along: the leak check sees.
	s.dial(at).Close()
}

func stopCuts(s *scene) {
	at := s.entry()
	s.apply(s.tcp("echo", at, s.serve(Echo).Address))
	c := s.dial(at)
	s.echoes(c)
	s.stop()
	s.mustEnd(c)
	if late, err := s.connect(0, "tcp", at.String()); err == nil {
		late.Close()
		s.Error("after Stop a client was accepted")
	}
}
