//go:build unix

package sock

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// PendingError takes the error that the kernel keeps for a connection that
// nobody reads: a reset after the end of the stream. It is nil when there is
// none. fd is one that a RawConn handed out.
func PendingError(fd uintptr) error {
	e, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if e != 0 {
		return syscall.Errno(e)
	}
	return nil
}

// Waiting is how many bytes can be read from a socket at once, 0 also where
// that cannot be told. fd is one that a RawConn handed out.
func Waiting(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), fionread)
	if err != nil || n < 0 {
		return 0
	}
	return int(int32(n))
}

// Gone reports whether whoever is at the other end of c has left without
// having been served: the connection was reset, or ended without a byte. One
// that said something and ended its direction waits for an answer, as far as
// anybody can tell.
func Gone(c syscall.RawConn) (gone bool) {
	c.Control(func(fd uintptr) {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, 0); n != 1 || err != nil {
			return
		}
		if ready[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			gone = true
			return
		}
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n == 0 && err == nil
	})
	return gone
}

// DescriptorLimit is how many descriptors this process may have.
func DescriptorLimit() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 1024
	}
	return int(min(uint64(l.Cur), 1<<30))
}

func takesIPv4(fd int) bool {
	only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return err == nil && only == 0
}

// Spare is a descriptor that is good for nothing but to be closed, when
// another one is needed. It is the same socket as c once more. With an error
// it is one whose Close does nothing.
func Spare(c net.Conn) (io.Closer, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return io.NopCloser(nil), nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return io.NopCloser(nil), err
	}
	var s spare
	if err := control(raw, func(fd int) error {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		s = spare(n)
		return err
	}); err != nil {
		return io.NopCloser(nil), os.NewSyscallError("fcntl", err)
	}
	return s, nil
}

type spare int

func (s spare) Close() error { return unix.Close(int(s)) }
