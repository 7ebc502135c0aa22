package place

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// stagger is the time an attempt has for itself before the next one begins
// (RFC 8305 §8, Connection Attempt Delay).
const stagger = 250 * time.Millisecond

// An attempt is one address that was dialed, and what became of it.
type attempt struct {
	to   netip.AddrPort
	conn net.Conn
	err  error
}

// race dials targets in their order, each one stagger after the one before or
// as soon as that has failed, and returns the first connection. The others are
// cancelled, closed and waited for. Without a connection it returns what each
// target said; there are fewer of these than targets when ctx ended first.
func race(ctx context.Context, d *dialer, network string, targets []netip.AddrPort) (net.Conn, []attempt) {
	if len(targets) == 1 {
		a := dial(ctx, d, network, targets[0])
		return a.conn, []attempt{a}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt)
	run := func(to netip.AddrPort) { results <- dial(ctx, d, network, to) }

	var failed []attempt
	running := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for len(targets) > 0 || running > 0 {
		var turn <-chan time.Time
		if len(targets) > 0 {
			turn = timer.C
		}
		select {
		case <-turn:
			go run(targets[0])
			running++
			targets = targets[1:]
			timer.Reset(stagger)
		case a := <-results:
			running--
			if a.err == nil {
				cancel()
				for ; running > 0; running-- {
					if late := <-results; late.err == nil {
						late.conn.Close()
					}
				}
				return a.conn, nil
			}
			failed = append(failed, a)
			if ctx.Err() != nil {
				targets = nil
			}
			timer.Reset(0)
		}
	}
	return nil, failed
}

// A dialer connects to addresses, with sockets that are readied.
type dialer struct {
	net.Dialer // of which a dial uses a copy
	start      Start
}

func dial(ctx context.Context, d *dialer, network string, to netip.AddrPort) attempt {
	if d.start.Prepare == nil {
		conn, err := d.DialContext(ctx, network, to.String())
		return attempt{to, conn, err}
	}
	for try := 0; ; try++ {
		one := d.Dialer
		one.Control = func(network, address string, c syscall.RawConn) error {
			if d.Control != nil {
				if err := d.Control(network, address, c); err != nil {
					return err
				}
			}
			return d.start.Prepare(network, to, try, c)
		}
		conn, err := one.DialContext(ctx, network, to.String())
		if err == nil || ctx.Err() != nil || d.start.Failed == nil {
			return attempt{to, conn, err}
		}
		again, told := d.start.Failed(err, to, try)
		if !again {
			return attempt{to, nil, told}
		}
	}
}

// interleave orders addrs so that families alternate (RFC 8305 §4) and else
// keep their order. first, when it is one of them, comes first; otherwise the
// family of addrs[0] begins.
func interleave(addrs []netip.Addr, first netip.Addr) []netip.Addr {
	var lead, rest []netip.Addr
	if len(addrs) == 0 {
		return nil
	}
	six := addrs[0].Is6()
	for _, a := range addrs {
		if a == first {
			lead, six = append(lead, a), a.Is6()
		}
	}
	for _, a := range addrs {
		switch {
		case a == first:
		case a.Is6() == six:
			lead = append(lead, a)
		default:
			rest = append(rest, a)
		}
	}
	mixed := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(lead), len(rest)) {
		if i < len(lead) {
			mixed = append(mixed, lead[i])
		}
		if i < len(rest) {
			mixed = append(mixed, rest[i])
		}
	}
	return mixed
}
