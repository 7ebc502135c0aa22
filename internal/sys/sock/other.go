//go:build !unix

package sock

import (
	"io"
	"net"
	"syscall"
)

// DescriptorLimit is how many sockets this process should have: the system
// sets none.
func DescriptorLimit() int { return 1 << 20 }

// Waiting knows nothing on this system.
func Waiting(fd uintptr) int { return 0 }

// Gone knows nothing on this system.
func Gone(c syscall.RawConn) bool { return false }

// takesIPv4 is false: no service manager of these systems passes sockets.
func takesIPv4(fd int) bool { return false }

// Spare is nothing here: the system sets no limit.
func Spare(c net.Conn) (io.Closer, error) { return io.NopCloser(nil), nil }
