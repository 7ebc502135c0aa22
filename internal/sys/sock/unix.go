//go:build unix

package sock

import (
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
