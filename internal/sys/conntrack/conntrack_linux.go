package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// dumps is how often a list is asked for that changed while it was read.
	dumps = 3

	// bufferLen holds what the kernel sends at once, which is 32 KiB at most.
	bufferLen = 64 << 10

	// watchBuffer is how many bytes of notices may wait for Watch.
	watchBuffer = 4 << 20

	// patience is how long the kernel has for an answer, which it gives within
	// the call; a socket that waits for ever would hide a mistake of ours.
	patience = 10 // seconds
)

// sequence tells the answers to a request from older ones.
var sequence atomic.Uint32

func each(ctx context.Context, f Filter, do func(*Entry) bool) error {
	goOn := true
	wanted := func(e *Entry) bool {
		goOn = !f.means(e) || do(e)
		return goOn
	}
	asked := f
	families := f.families()
	for try := 1; len(families) > 0 && goOn; try++ {
		interrupted, err := list(ctx, asked, families[0], wanted)
		switch {
		case asked != (Filter{}) && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
			// A kernel that knows filters and not this one leaves it to us.
			asked, families, try = Filter{}, Filter{}.families(), 0
		case err != nil:
			return fmt.Errorf("list tracked connections: %w", explain(err))
		case !interrupted || try == dumps:
			families, try = families[1:], 0
		}
	}
	return nil
}

// families are what one list each is asked of: filters of protocols want to be
// told the family.
func (f Filter) families() []uint8 {
	if f.Proto == 0 {
		return []uint8{unix.AF_UNSPEC}
	}
	return []uint8{unix.AF_INET, unix.AF_INET6}
}

// list streams one dump, of a family or of all. interrupted says that the list changed beneath it.
func list(ctx context.Context, f Filter, family uint8, do func(*Entry) bool) (interrupted bool, err error) {
	s, err := open()
	if err != nil {
		return false, err
	}
	defer s.close() // which ends a dump that is not read to its end
	seq := sequence.Add(1)
	if err := s.send(dump(f, family, seq)); err != nil {
		return false, err
	}
	var e Entry
	buf := make([]byte, bufferLen)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b, err := s.receive(buf)
		if err != nil {
			return false, err
		}
		for m, rest, ok := next(b); ok; m, rest, ok = next(rest) {
			if m.seq != seq {
				continue
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.kind {
			case unix.NLMSG_DONE:
				return interrupted, status(m.body)
			case unix.NLMSG_ERROR:
				return false, status(m.body)
			case msgNew:
				if decode(m.body, &e) && !do(&e) {
					return false, nil
				}
			}
		}
	}
}

func forget(entries []*Entry) error {
	if len(entries) == 0 {
		return nil
	}
	s, err := open()
	if err != nil {
		return fmt.Errorf("forget tracked connections: %w", explain(err))
	}
	defer s.close()
	var first error
	buf := make([]byte, bufferLen)
	for _, e := range entries {
		if err := s.forget(e, buf); err != nil && first == nil {
			first = fmt.Errorf("forget the tracked connection %s to %s: %w", e.Original.Src, e.Original.Dst, err)
		}
	}
	return first
}

func (s socket) forget(e *Entry, buf []byte) error {
	t := e.Original
	switch {
	case !t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Addr().Is4() != t.Dst.Addr().Is4():
		return errors.New("it has no addresses") // the kernel would forget everything
	case t.Proto == unix.IPPROTO_ICMP || t.Proto == unix.IPPROTO_ICMPV6:
		return fmt.Errorf("entries of ICMP are not told apart by ports: %w", errors.ErrUnsupported)
	}
	seq := sequence.Add(1)
	if err := s.send(remove(e, seq)); err != nil {
		return err
	}
	for {
		b, err := s.receive(buf)
		if err != nil {
			return err
		}
		for m, rest, ok := next(b); ok; m, rest, ok = next(rest) {
			if m.seq != seq || m.kind != unix.NLMSG_ERROR {
				continue
			}
			if err := status(m.body); !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		}
	}
}

func watch(ctx context.Context, which []What, ready func(), told func(What, *Entry), lost func()) error {
	s, err := open()
	if err != nil {
		return fmt.Errorf("watch tracked connections: %w", explain(err))
	}
	fd := int(s)
	wants := map[What]bool{}
	for _, w := range which {
		group, ok := groups[w]
		if !ok {
			s.close()
			return fmt.Errorf("watch tracked connections: nothing becomes %d of one", w)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			s.close()
			return fmt.Errorf("watch tracked connections: %w", explain(err))
		}
		wants[w] = true
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer) // as far as net.core.rmem_max allows
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		s.close()
		return fmt.Errorf("watch tracked connections: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ctnetlink")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()

	if ready != nil {
		ready()
	}
	var e Entry
	buf := make([]byte, bufferLen)
	for {
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			if lost != nil {
				lost()
			}
			continue
		case err != nil:
			return fmt.Errorf("watch tracked connections: %w", err)
		}
		for m, rest, ok := next(buf[:n]); ok; m, rest, ok = next(rest) {
			if w := becomes(m); wants[w] && decode(m.body, &e) {
				told(w, &e)
			}
		}
	}
}

// groups are the multicast groups, as in linux/netfilter/nfnetlink_compat.h.
var groups = map[What]int{
	New:       unix.NFNLGRP_CONNTRACK_NEW,
	Updated:   unix.NFNLGRP_CONNTRACK_UPDATE,
	Destroyed: unix.NFNLGRP_CONNTRACK_DESTROY,
}

// becomes says what a notice tells, 0 where it is none.
func becomes(m message) What {
	switch {
	case m.kind == msgDelete:
		return Destroyed
	case m.kind == msgNew && m.flags&unix.NLM_F_CREATE != 0:
		return New
	case m.kind == msgNew:
		return Updated
	}
	return 0
}

// A socket speaks to the kernel's netfilter.
type socket int

func open() (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return socket(fd), nil
}

func (s socket) close() { unix.Close(int(s)) }

func (s socket) send(b []byte) error {
	return unix.Sendto(int(s), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// receive reads what the kernel sends next. Other programs may send to the
// socket too, and are not heard.
func (s socket) receive(buf []byte) ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(int(s), buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if nl, ok := from.(*unix.SockaddrNetlink); ok && nl.Pid == 0 {
			return buf[:n], nil
		}
	}
}

// status is the error that the end of a list, or an answer, carries.
func status(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(body)); n < 0 {
		return unix.Errno(-n)
	}
	return nil
}

// explain makes errors of a kernel without connection tracking match
// errors.ErrUnsupported.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: this kernel tells nothing of connection tracking (nf_conntrack_netlink): %w", err, errors.ErrUnsupported)
	}
	return err
}
