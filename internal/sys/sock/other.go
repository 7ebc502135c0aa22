//go:build !unix

package sock

import (
	"io"
	"net"
)

// DescriptorLimit is how many sockets this process should have: the system
// sets none.
func DescriptorLimit() int { return 1 << 20 }

// takesIPv4 is false: no service manager of these systems passes sockets.
func takesIPv4(fd int) bool { return false }

// Spare is nothing here: the system sets no limit.
func Spare(c net.Conn) (io.Closer, error) { return io.NopCloser(nil), nil }
