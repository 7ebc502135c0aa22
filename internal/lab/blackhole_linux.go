package lab

import (
	"net"
	"syscall"
)

// shortenQueue lets one connection wait to be accepted: listen(2) on a
// listening socket sets its backlog anew, and 0 still leaves room for one.
func shortenQueue(ln *net.TCPListener) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	if err := raw.Control(func(fd uintptr) { lerr = syscall.Listen(int(fd), 0) }); err != nil {
		return err
	}
	return lerr
}
