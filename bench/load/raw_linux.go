package load

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The first five bytes of a connection say what the server shall do: one
// letter, and a size.
const (
	wantSink = 'U' // drop everything
	wantEcho = 'E' // answer size bytes with as many
	wantHash = 'H' // take size bytes, or everything until the end for 0; answer with the SHA-256
	header   = 5
)

func hello(want byte, size int) []byte {
	return binary.BigEndian.AppendUint32([]byte{want}, uint32(size))
}

const (
	chunk   = 256 << 10 // of one write
	gulp    = 1 << 20   // of one read that drops
	dropNow = unix.MSG_TRUNC | unix.MSG_DONTWAIT
)

// send and recv are for descriptors that do not block: the scheduler is not
// told, which saves a good part of a small message's cost.
func send(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}

func recv(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// drop takes up to gulp bytes from a stream without copying them: with
// MSG_TRUNC the kernel writes nothing, tcp(7).
func drop(fd int) (int, unix.Errno) {
	var b [1]byte
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), gulp, dropNow, 0, 0)
	return int(n), e
}

// A poll is one epoll instance.
type poll struct {
	fd     int
	events [256]unix.EpollEvent
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an event queue: %w", err)
	}
	return &poll{fd: fd}, nil
}

func (p *poll) add(fd int, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (p *poll) change(fd int, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// wait returns what is ready, after at most ms milliseconds (-1 for ever).
func (p *poll) wait(ms int) ([]unix.EpollEvent, error) {
	n, err := unix.EpollWait(p.fd, p.events[:], ms)
	if err == unix.EINTR {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("wait for events: %w", err)
	}
	return p.events[:n], nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// dialStream begins a connection; it is there when the descriptor becomes
// writable.
func dialStream(to netip.AddrPort, from netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if from.IsValid() {
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("bind to %v: %w", from, err)
		}
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}

// connectError is why a connection did not come about, nil when it did.
func connectError(fd int) error {
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if e != 0 {
		return unix.Errno(e)
	}
	return nil
}
