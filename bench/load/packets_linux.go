package load

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket options of udp(7) and socket(7) that have one number everywhere.
const (
	udpSegment = 103
	udpGRO     = 104
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A sink counts datagrams on all ports. Trains are taken as a whole
// (UDP_GRO), so that counting stays cheap.
type sink struct {
	*poll
	packets, payload atomic.Int64

	msgs []mmsghdr
	ctl  [][64]byte
}

const sinkBatch = 32

func newSink(addr netip.Addr, ports []uint16) (*sink, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	s := &sink{poll: p, msgs: make([]mmsghdr, sinkBatch), ctl: make([][64]byte, sinkBatch)}
	for i := range s.msgs {
		b := make([]byte, 64<<10)
		iov := &unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		s.msgs[i].hdr.Iov = iov
		s.msgs[i].hdr.SetIovlen(1)
		s.msgs[i].hdr.Control = &s.ctl[i][0]
	}
	for _, port := range ports {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpGRO, 1)
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(addr, port))); err != nil {
			return nil, fmt.Errorf("listen at %v:%d/udp: %w", addr, port, err)
		}
		if err := s.add(fd, unix.EPOLLIN); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *sink) run(failed chan<- error) {
	runtime.LockOSThread()
	for {
		ready, err := s.wait(-1)
		if err != nil {
			failed <- err
			return
		}
		for _, ev := range ready {
			s.take(int(ev.Fd))
		}
	}
}

func (s *sink) take(fd int) {
	for i := range s.msgs {
		s.msgs[i].hdr.SetControllen(len(s.ctl[i]))
	}
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msgs[0])), uintptr(len(s.msgs)), unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return
	}
	var packets, payload int64
	for i := range int(n) {
		size := int(s.msgs[i].n)
		packets += trainLength(size, segmentSize(s.ctl[i][:s.msgs[i].hdr.Controllen]))
		payload += int64(size)
	}
	s.packets.Add(packets)
	s.payload.Add(payload)
}

// segmentSize is the size of a train's segments, 0 where there is no train.
func segmentSize(control []byte) int {
	if len(control) == 0 {
		return 0
	}
	msgs, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == udpGRO && len(m.Data) >= 4 {
			return int(*(*int32)(unsafe.Pointer(&m.Data[0])))
		}
	}
	return 0
}

// A sender sends datagrams one way, from N sockets in turn, at a fixed rate
// or as fast as it can.
type sender struct {
	r    *runner
	fds  []int
	data []byte

	sent, errors int64 // valid when run has returned
}

// establish is the pause between the first datagrams of many clients: none of
// them may be lost.
const establish = 200 * time.Microsecond

func newSender(r *runner) (*sender, error) {
	o := r.order
	train := max(1, o.Train)
	if o.Size < 1 || o.Size*train > 65507 {
		return nil, fmt.Errorf("trains of %d times %d bytes: out of bounds", train, o.Size)
	}
	s := &sender{r: r, data: make([]byte, o.Size*train)}
	for i := range o.N {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("make a socket: %w", err)
		}
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
		if len(o.Sources) > 0 {
			if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(o.Sources[i%len(o.Sources)], 0))); err != nil {
				return nil, err
			}
		}
		if err := unix.Connect(fd, sockaddr(o.To)); err != nil {
			return nil, err
		}
		// The first datagram makes the session at the forwarder.
		if _, err := unix.Write(fd, s.data[:o.Size]); err != nil {
			return nil, fmt.Errorf("send to %v: %w", o.To, err)
		}
		if o.N > 1 {
			time.Sleep(establish)
		}
		if train > 1 {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, udpSegment, o.Size); err != nil {
				return nil, fmt.Errorf("this system has no UDP_SEGMENT: %w", err)
			}
		}
		s.fds = append(s.fds, fd)
	}
	time.Sleep(o.Warm)
	return s, nil
}

// run sends from "go" to "stop".
func (s *sender) run() {
	runtime.LockOSThread()
	defer s.close()
	for !s.r.counting.Load() {
		if s.over() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	train := int64(max(1, s.r.order.Train))
	batch := batchOf(s.data, 32)
	if len(s.fds) > 1 || train > 1 {
		batch = batch[:1] // many clients do not send in batches, and a train is one
	}
	began := time.Now()
	for i := 0; !s.over(); {
		due := int64(1) << 62
		if s.r.order.Rate > 0 {
			due = int64(time.Since(began).Seconds() * float64(s.r.order.Rate))
		}
		for n := 0; s.sent < due && n < 256; n++ {
			k, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fds[i%len(s.fds)]), uintptr(unsafe.Pointer(&batch[0])), uintptr(len(batch)), 0, 0, 0)
			i++
			if e != 0 {
				s.errors++
				s.r.failed <- fmt.Errorf("send to %v: %w", s.r.order.To, e)
				return
			}
			s.sent += int64(k) * train
		}
		if s.sent >= due {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

func (s *sender) over() bool {
	select {
	case <-s.r.stopped:
		return true
	default:
		return false
	}
}

func (s *sender) close() {
	for _, fd := range s.fds {
		unix.Close(fd)
	}
}

// batchOf is n messages with the same data.
func batchOf(data []byte, n int) []mmsghdr {
	msgs := make([]mmsghdr, n)
	iov := &unix.Iovec{Base: &data[0]}
	iov.SetLen(len(data))
	for i := range msgs {
		msgs[i].hdr.Iov = iov
		msgs[i].hdr.SetIovlen(1)
	}
	return msgs
}
