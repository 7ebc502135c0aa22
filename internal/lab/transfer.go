package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// A Transfer sends data to an echo, in pieces of random size, ends its own
// direction, and verifies every byte that comes back and the clean end after
// the last one. What it does follows from Seed alone.
type Transfer struct {
	From    *Host
	Local   netip.Addr // address of From to come from; zero: any
	Network string     // tcp or unix
	Address string

	Seed   uint64
	Size   int64 // bytes each way, 0 or more
	Stalls bool  // pauses of some milliseconds on either side, now and then
}

// HalfCloser is a connection whose writing side can be ended alone.
type HalfCloser interface {
	net.Conn
	CloseWrite() error
}

// Run does the transfer. That ctx ends first, or a minute passes, is an error.
func (x Transfer) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 6*patience)
	defer cancel()
	conn, err := x.From.DialFrom(ctx, x.Network, x.Local, x.Address)
	if err != nil {
		return fmt.Errorf("transfer %d: %w", x.Seed, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := x.Over(conn.(HalfCloser)); err != nil {
		return fmt.Errorf("transfer %d of %d bytes from %s: %w", x.Seed, x.Size, conn.LocalAddr(), err)
	}
	return nil
}

// Over does the transfer over a connection that exists, and leaves closing it
// and any deadline to the caller.
func (x Transfer) Over(c HalfCloser) error {
	sent := make(chan error, 1)
	go x.send(c, sent)
	err := x.receive(c)
	if err != nil {
		c.SetWriteDeadline(time.Unix(1, 0)) // the rest need not be sent
	}
	if werr := <-sent; werr != nil && (err == nil || !errors.Is(werr, errTimeout)) {
		// The system tells of a reset once; where writing met it, reading saw
		// a clean end.
		err = errors.Join(werr, err)
	}
	return err
}

var errTimeout = context.DeadlineExceeded

func (x Transfer) send(c HalfCloser, sent chan<- error) {
	rnd := rand.New(rand.NewPCG(x.Seed, 1))
	buf := make([]byte, 64<<10)
	for off := int64(0); off < x.Size; {
		p := buf[:min(int64(pieceSize(rnd, len(buf))), x.Size-off)]
		Stream(x.Seed).ReadAt(p, off)
		if _, err := c.Write(p); err != nil {
			if isTimeout(err) {
				err = errTimeout
			}
			sent <- fmt.Errorf("write at byte %d: %w", off, err)
			return
		}
		off += int64(len(p))
		x.stall(rnd)
	}
	if err := c.CloseWrite(); err != nil {
		sent <- fmt.Errorf("end the sending side: %w", err)
		return
	}
	sent <- nil
}

func (x Transfer) receive(c net.Conn) error {
	rnd := rand.New(rand.NewPCG(x.Seed, 2))
	buf := make([]byte, 128<<10)
	half := len(buf) / 2
	for off := int64(0); ; {
		n, err := c.Read(buf[:half])
		if off+int64(n) > x.Size {
			return fmt.Errorf("received more than the %d bytes that were sent", x.Size)
		}
		if err := Stream(x.Seed).Check(buf[:n], off, buf[half:]); err != nil {
			return err
		}
		off += int64(n)
		switch {
		case err == io.EOF && off == x.Size:
			return nil
		case err == io.EOF:
			return fmt.Errorf("clean end after %d bytes of %d", off, x.Size)
		case err != nil:
			return fmt.Errorf("read at byte %d: %w", off, err)
		}
		x.stall(rnd)
	}
}

// stall is load, not synchronisation: nothing depends on how long it takes.
func (x Transfer) stall(rnd *rand.Rand) {
	if x.Stalls && rnd.IntN(32) == 0 {
		time.Sleep(time.Duration(rnd.IntN(4000)) * time.Microsecond)
	}
}

// pieceSize is spread evenly over the orders of magnitude from 1 to limit.
func pieceSize(rnd *rand.Rand, limit int) int {
	return min(1+rnd.IntN(1<<(1+rnd.IntN(17))), limit)
}

// RandomSize is a size from 1 to limit, one in eight near the top and the rest
// spread evenly over the orders of magnitude.
func RandomSize(rnd *rand.Rand, limit int64) int64 {
	if rnd.IntN(8) == 0 {
		return limit - rnd.Int64N(limit/4+1)
	}
	size := int64(1)
	for size < limit && rnd.IntN(8) != 0 {
		size *= 2
	}
	return min(size+rnd.Int64N(size), limit)
}

// Transfers runs n transfers like x at once, with seeds counted up from
// x.Seed and random sizes up to limit, and reports each that failed.
func Transfers(t testing.TB, x Transfer, n int, limit int64) {
	t.Helper()
	failed := make(chan error)
	for i := range n {
		one := x
		one.Seed += uint64(i)
		one.Size = RandomSize(rand.New(rand.NewPCG(one.Seed, 3)), limit)
		go func() { failed <- one.Run(t.Context()) }()
	}
	for range n {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
