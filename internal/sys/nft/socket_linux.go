package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A socket speaks netlink with nf_tables. The kernel does what it is sent before
// the sending returns, and its answers wait in the socket then: nothing here
// waits for anybody else.
type socket struct {
	mu   sync.Mutex // guards what follows; held from a message to the last of its answers
	fd   int        // -1: closed
	port uint32
	seq  uint32
	room int    // the largest message that SO_SNDBUF has room for
	buf  []byte // for what is received

	plain bool // the kernel is older than msgDestroyElement
}

// Sizes of the socket's queues. A batch is sent whole, however large it is; the
// kernel keeps up to so much of it.
const (
	receiveRoom = 4 << 20
	receiveMost = 1 << 16 // one datagram of a dump
)

func openSocket(groups ...int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, fmt.Errorf("open a netlink socket: this kernel has no netfilter: %w", errors.ErrUnsupported)
		}
		return nil, os.NewSyscallError("open a netlink socket", err)
	}
	s := &socket{fd: fd, buf: make([]byte, receiveMost)}
	if err := s.prepare(groups); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) prepare(groups []int) error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind a netlink socket", err)
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	if at, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = at.Pid
	}
	// Errors name the attribute that is at fault, and do not repeat the message.
	// Kernels before 4.12 do neither.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// Without the right to go beyond the system's bound the bound must do.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveRoom) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveRoom)
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			return os.NewSyscallError("join a netlink group", err)
		}
	}
	return nil
}

func (s *socket) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return os.ErrClosed
	}
	err := os.NewSyscallError("close", unix.Close(s.fd))
	s.fd = -1
	return err
}

// send sends what is one datagram. The caller holds mu.
func (s *socket) send(b []byte) error {
	if s.fd < 0 {
		return os.ErrClosed
	}
	if len(b) > s.room {
		// The kernel counts a few bytes of its own, and doubles what it is asked for.
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, len(b)+4096); err != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, len(b)+4096)
		}
		s.room = len(b)
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == unix.EINTR {
			continue
		}
		return os.NewSyscallError("send to nf_tables", err)
	}
}

// errInterrupted says that a list changed while it was read.
var errInterrupted = errors.New("the list changed while it was read")

// A reply is a message of the kernel's.
type reply struct {
	kind   uint16 // unix.NFT_MSG_* for those of nf_tables
	flags  uint16
	seq    uint32
	port   uint32
	family Family // of those of nf_tables
	res    uint16 // of nfgenmsg
	attrs  []byte // valid until the next is read
}

// receive reads what waits in the socket until nothing does, or until got says
// that it is enough. Lost is true where answers did not fit. The caller holds
// mu.
func (s *socket) receive(got func(h *unix.NlMsghdr, body []byte) (enough bool)) (lost bool, err error) {
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return lost, nil
		case unix.ENOBUFS:
			lost = true
			continue
		default:
			return lost, os.NewSyscallError("receive from nf_tables", err)
		}
		if !messages(s.buf[:n], got) {
			return lost, nil
		}
	}
}

// messages takes a datagram apart. It reports whether there may be more.
func messages(b []byte, got func(h *unix.NlMsghdr, body []byte) (enough bool)) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		h := unix.NlMsghdr{
			Len:   binary.NativeEndian.Uint32(b),
			Type:  binary.NativeEndian.Uint16(b[4:]),
			Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq:   binary.NativeEndian.Uint32(b[8:]),
			Pid:   binary.NativeEndian.Uint32(b[12:]),
		}
		if h.Len < unix.SizeofNlMsghdr || uint64(h.Len) > uint64(len(b)) {
			return true
		}
		if got(&h, b[unix.SizeofNlMsghdr:h.Len]) {
			return false
		}
		b = b[min(len(b), int(h.Len+3)&^3):]
	}
	return true
}

// parseReply reads what is after a header; ok is false where it is not of
// nf_tables.
func parseReply(h *unix.NlMsghdr, body []byte) (r reply, ok bool) {
	if h.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(body) < 4 {
		return reply{}, false
	}
	return reply{
		kind: h.Type & 0xff, flags: h.Flags, seq: h.Seq, port: h.Pid,
		family: Family(body[0]), res: binary.BigEndian.Uint16(body[2:]), attrs: body[4:],
	}, true
}

// ask sends one question and calls got for each answer. The error is
// errInterrupted when a list changed meanwhile; got has seen part of it then.
// Flags are unix.NLM_F_DUMP for a list, else 0. An error of the kernel's is a
// syscall.Errno: ENOENT where there is no such thing.
func (s *socket) ask(kind uint8, flags uint16, family Family, attrs []byte, got func(reply) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.askHeld(kind, flags, family, attrs, got)
	if errors.Is(err, unix.EINVAL) && errors.Is(s.askHeld(unix.NFT_MSG_GETGEN, 0, 0, nil, ignore), unix.EINVAL) {
		return errNoTables // there is nothing wrong with that question, but nobody to answer it
	}
	if errors.Is(err, unix.EPERM) {
		return errNoRight
	}
	return err
}

// What stands in the way of everything.
var (
	errNoRight  = fmt.Errorf("nftables cannot be spoken to without CAP_NET_ADMIN: %w", os.ErrPermission)
	errNoTables = fmt.Errorf("this kernel has no nf_tables: %w", errors.ErrUnsupported)
)

func ignore(reply) error { return nil }

// askHeld is ask while mu is held.
func (s *socket) askHeld(kind uint8, flags uint16, family Family, attrs []byte, got func(reply) error) error {
	s.seq++
	seq := s.seq
	b := appendHeader(nil, uint16(kind), unix.NLM_F_REQUEST|flags, seq, family, 0)
	b = append(b, attrs...)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	if err := s.send(b); err != nil {
		return err
	}
	var failed error
	changed, done := false, false
	lost, err := s.receive(func(h *unix.NlMsghdr, body []byte) bool {
		if h.Seq != seq {
			return false
		}
		changed = changed || h.Flags&unix.NLM_F_DUMP_INTR != 0
		switch h.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			done = true
			if len(body) >= 4 && failed == nil {
				if n := int32(binary.NativeEndian.Uint32(body)); n < 0 {
					failed = syscall.Errno(-n)
				}
			}
			return false
		}
		if r, ok := parseReply(h, body); ok && failed == nil {
			failed = got(r)
		}
		done = done || flags&unix.NLM_F_DUMP == 0
		return false
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case lost || changed:
		return errInterrupted
	case !done:
		return errors.New("nf_tables did not answer")
	}
	return nil
}

// appendHeader begins a message of nf_tables; its length is still to be filled
// in.
func appendHeader(b []byte, kind, flags uint16, seq uint32, family Family, res uint16) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, byte(family), 0)
	return binary.BigEndian.AppendUint16(b, res)
}
