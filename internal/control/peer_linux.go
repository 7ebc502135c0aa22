package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// peer is who connected, or, on a connection that we made, who listens:
// SO_PEERCRED, unix(7). The credentials are those of connect and listen.
func peer(c net.Conn) Actor {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Actor{}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Actor{}
	}
	var a Actor
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			a = Actor{true, int(cred.Uid), int(cred.Gid), int(cred.Pid)}
		}
	})
	if err != nil {
		return Actor{}
	}
	return a
}
