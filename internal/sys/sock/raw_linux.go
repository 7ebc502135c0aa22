package sock

import (
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls below never wait: every descriptor that they are given is
// non-blocking. They are therefore made without telling the Go scheduler,
// which would cost as much as a short one takes, and may let another thread
// take over the event loop's processor in the middle of a long one.

// Read is read(2) on a non-blocking descriptor. b must not be empty.
func Read(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return result(n, e)
}

// Write is send(2) on a non-blocking socket, without a signal when the peer
// is gone. b must not be empty.
func Write(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return result(n, e)
}

// Close is close(2).
func Close(fd int) { unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// Stream makes a non-blocking TCP socket for IPv6 or IPv4.
func Stream(v6 bool) (int, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	return result(fd, e)
}

// Accept takes a connection from a non-blocking listening socket; what it
// returns is non-blocking as well and has the listener's options.
func Accept(fd int) (int, netip.AddrPort, error) {
	var sa unix.RawSockaddrInet6 // the larger of both
	size := uint32(unsafe.Sizeof(sa))
	n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	c, err := result(n, e)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	return c, readSockaddr(&sa), nil
}

// LocalAddr is the address and port that a socket is bound to.
func LocalAddr(fd int) netip.AddrPort {
	var sa unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(sa))
	unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	return readSockaddr(&sa)
}

// Connect begins to connect a socket of the address's family. EINPROGRESS says
// that it goes on.
func Connect(fd int, to netip.AddrPort) error {
	port := [2]byte{byte(to.Port() >> 8), byte(to.Port())}
	var e unix.Errno
	if to.Addr().Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
		*(*[2]byte)(unsafe.Pointer(&sa.Port)) = port
		_, _, e = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	} else {
		sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16()}
		*(*[2]byte)(unsafe.Pointer(&sa.Port)) = port
		_, _, e = unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	}
	if e != 0 {
		return e
	}
	return nil
}

// readSockaddr is an address without the IPv4-in-IPv6 form and without a zone;
// zero where the family is neither.
func readSockaddr(sa *unix.RawSockaddrInet6) netip.AddrPort {
	port := *(*[2]byte)(unsafe.Pointer(&sa.Port)) // at the same place in both families
	var a netip.Addr
	switch sa.Family {
	case unix.AF_INET:
		a = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sa)).Addr)
	case unix.AF_INET6:
		a = netip.AddrFrom16(sa.Addr).Unmap()
	default:
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a, uint16(port[0])<<8|uint16(port[1]))
}

// SetNoDelay has a TCP socket send small messages at once. Connections that a
// listening socket accepts inherit it.
func SetNoDelay(fd int) error { return setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// SetKeepalive is net.TCPConn.SetKeepAliveConfig for a descriptor.
func SetKeepalive(fd int, d time.Duration) error {
	return setListenerKeepalive(fd, KeepaliveConfig(d))
}

func setInt(fd, level, name, value int) error {
	v := int32(value)
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v)), 4, 0)
	if e != 0 {
		return os.NewSyscallError("setsockopt", e)
	}
	return nil
}

// ResetOnClose has the peer see a reset when fd is closed. What was not sent
// yet is lost.
func ResetOnClose(fd int) {
	l := unix.Linger{Onoff: 1}
	unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
}

// ShutdownWrite ends the stream that fd sends.
func ShutdownWrite(fd int) error {
	if _, _, e := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); e != 0 {
		return e
	}
	return nil
}

// EpollAdd has ev told of fd.
func EpollAdd(epfd, fd int, ev *unix.EpollEvent) error {
	_, _, e := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epfd), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

// Yield lets other threads run that want this processor: sched_yield(2).
func Yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// EpollNow is what has happened already, without waiting. events must not be
// empty.
func EpollNow(epfd int, events []unix.EpollEvent) int {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

func result(n uintptr, e unix.Errno) (int, error) {
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
