package lab

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"fairlead"
)

// The cases about the bytes of a stream: all of them, in order, both ways,
// with no more memory than a buffer.

func echoSizes(s *scene) {
	at := s.entry()
	s.apply(s.tcp("echo", at, s.serve(Echo).Address))
	for i, size := range []int64{0, 1, 2, 1460, 65535, 65536, 65537, 1 << 20, 3<<20 + 7} {
		x := s.transfer(at, uint64(100+i))
		x.Size = size
		if err := x.Run(s.Context()); err != nil {
			s.Fatal(err)
		}
	}
	if s.at.Client != nil {
		return
	}
	// A name that the resolver knows without asking anybody.
	name := s.tcp("name", s.entry(), s.serve(Echo).Address)
	name.To[0].Host = "localhost"
	name.Expr = "forward " + name.At.String() + " to " + name.To[0].Dest()
	s.apply(name)
	s.echoes(s.dial(s.entryOf(name)))
}

func oneByteSegments(s *scene) {
	at := s.entry()
	s.apply(s.tcp("echo", at, s.serve(Echo).Address))
	c := s.dial(at) // without Nagle's delay, as always in Go
	var g errgroup.Group
	data := Stream(1).Bytes(3000)
	g.Go(func() error {
		for i := range data {
			if _, err := c.Write(data[i : i+1]); err != nil {
				return err
			}
		}
		return c.CloseWrite()
	})
	if got := s.mustEOF(c); !bytes.Equal(got, data) {
		s.Errorf("%d bytes came back, or others than the %d sent one by one", len(got), len(data))
	}
	if err := g.Wait(); err != nil {
		s.Error(err)
	}
}

func transfers(s *scene) {
	at := s.entry()
	s.apply(s.patient(s.tcp("echo", at, s.serve(Echo).Address)))
	n, limit := 200, int64(8<<20)
	if testing.Short() {
		n, limit = 100, 1<<20
	}
	x := s.transfer(at, 1000)
	x.Stalls = true
	Transfers(s, x, n, limit)
}

func families(s *scene) {
	here := s.serve(Banner("here")).Address
	to := target(here)
	check := func(address string) {
		s.Helper()
		c, err := (*Host)(nil).DialContext(s.Context(), "tcp", address)
		if err != nil {
			s.Errorf("%s: %v", address, err)
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if got := s.mustEOF(c); string(got) != "here" {
			s.Errorf("%s leads to %q", address, got)
		}
	}
	hosts := []string{"127.0.0.1"}
	if hasIPv6(s) {
		hosts = append(hosts, "[::1]")
	}
	bare, any := s.entry().Port(), s.entry().Port()
	s.apply(
		s.forward("bare", fairlead.Spot{Ports: ports(bare, 1), Net: fairlead.TCP}, to),
		s.forward("any", fairlead.Spot{Any: true, Ports: ports(any, 1), Net: fairlead.TCP}, to),
	)
	for _, host := range hosts {
		check(fmt.Sprintf("%s:%d", host, bare))
		check(fmt.Sprintf("%s:%d", host, any))
	}
	check(fmt.Sprintf("127.0.0.2:%d", any))
	if c, err := s.connect(1, "tcp", fmt.Sprintf("127.0.0.2:%d", bare)); err == nil {
		c.Close()
		s.Error("a bare port listens at more than 127.0.0.1 and ::1")
	}
	if len(hosts) > 1 {
		// From one family to the other, both ways.
		six := Serve(s, At{Address: "[::1]:0"}, Banner("here")).Address
		a, b := s.entry(), netip.AddrPortFrom(netip.IPv6Loopback(), s.entry().Port())
		s.apply(s.tcp("4to6", a, six), s.tcp("6to4", b, here))
		check(a.String())
		check(b.String())
	}
}

func hasIPv6(s *scene) bool {
	ln, err := (*Host)(nil).Listen(s.Context(), "tcp", "[::1]:0")
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

func neverReads(s *scene) {
	const n = 16
	at, other := s.entry(), s.entry()
	s.apply(s.tcp("stuck", at, s.serve(NeverRead).Address), s.tcp("well", other, s.serve(Echo).Address))
	well := s.dial(other)
	s.echoes(well)
	before := memory(s)
	data := Stream(2).Bytes(64 << 10)
	var g errgroup.Group
	for range n {
		c := s.dial(at)
		c.SetWriteBuffer(64 << 10)
		g.Go(func() error {
			for sent := 0; ; {
				c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				m, err := c.Write(data)
				if sent += m; isTimeout(err) {
					return nil // stalled, as it should
				}
				if err != nil {
					return fmt.Errorf("after %d bytes, want a stall: %w", sent, err)
				}
				if sent > 64<<20 {
					return fmt.Errorf("%d bytes were taken for a target that reads none", sent)
				}
			}
		})
	}
	s.echoes(well)
	if err := g.Wait(); err != nil {
		s.Error(err)
	}
	if grown := (memory(s) - before) / n; grown >= 1<<20 {
		s.Errorf("a stalled connection costs %d KiB of memory, want less than 1 MiB", grown>>10)
	}
	s.echoes(well)
}

// memory is what the subject's process uses in user space.
func memory(s *scene) int64 {
	if s.run.PID != 0 {
		n, err := anonymousMemory(s.run.PID)
		if err != nil {
			s.Fatalf("memory of the subject: %v", err)
		}
		return n
	}
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func slowReader(s *scene) {
	size, rate := 12<<20, 16<<20
	if testing.Short() {
		size = 4 << 20
	}
	sink, source := s.serve(SlowRead(rate)), s.serve(Source(3, int64(size)))
	up, down := s.entry(), s.entry()
	s.apply(s.tcp("up", up, sink.Address), s.tcp("down", down, source.Address))
	var g errgroup.Group

	data := Stream(4).Bytes(size)
	uphill := s.dial(up)
	g.Go(func() error {
		if _, err := uphill.Write(data); err != nil {
			return err
		}
		return uphill.CloseWrite()
	})

	slow := s.dial(down)
	g.Go(func() error {
		v := Visit{Conn: slow}
		shrink(slow)
		v.drain(rate)
		if want := sha256.Sum256(Stream(3).Bytes(size)); v.Err != nil || v.Sum != want {
			return fmt.Errorf("a slow client got %d bytes of %d (%v), or others", v.Bytes, size, v.Err)
		}
		return nil
	})

	if err := g.Wait(); err != nil {
		s.Error(err)
	}
	if v := sink.Visit(s); v.Err != nil || v.Sum != sha256.Sum256(data) {
		s.Errorf("a slow target got %d bytes of %d (%v), or others", v.Bytes, size, v.Err)
	}
}

func meter(s *scene) {
	at := s.entry()
	f := s.tcp("metered", at, s.serve(Banner("0123456789")).Address)
	s.apply(f)
	for range 3 {
		c := s.dial(at)
		io.WriteString(c, "abc")
		s.mustEndSending(c)
		s.mustEOF(c)
		c.Close()
	}
	if m := s.apply(f)[0].Meter; m == nil {
		return
	}
	s.eventually("the meter reads 3 flows, none active, 9 bytes in, 30 out", func() bool {
		m := s.apply(f)[0].Meter
		return m.Flows.Load() == 3 && m.Active.Load() == 0 && m.In.Load() == 9 && m.Out.Load() == 30
	})
}
