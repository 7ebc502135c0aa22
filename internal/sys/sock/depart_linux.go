package sock

import (
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// Departs says that all of what a socket can be told before it connects is
// there, and Binds that an address of this host and a code point are.
const (
	Departs = true
	Binds   = true
)

func bindSource(fd int, from netip.AddrPort, foreign, stream bool) error {
	v6 := from.Addr().Is6()
	if foreign {
		level, name := unix.SOL_IP, unix.IP_TRANSPARENT
		if v6 {
			level, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		if err := set(fd, "IP_TRANSPARENT", level, name, 1); err != nil {
			return err
		}
	}
	switch {
	case from.Port() == 0 && stream:
		// Of the level of IPv4 for both families. Datagram sockets have nothing
		// of it: the port that they get at connect is as exclusive as at bind.
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	case from.Port() != 0 && stream:
		if err := set(fd, "SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	return bind(fd, from)
}

func bindDevice(fd int, name string) error {
	return os.NewSyscallError("SO_BINDTODEVICE", unix.BindToDevice(fd, name))
}

func setMark(fd int, mark uint32) error {
	return set(fd, "SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, int(int32(mark)))
}

func setCongestion(fd int, name string) error {
	return os.NewSyscallError("TCP_CONGESTION", unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name))
}

func congestion(fd int) (string, error) {
	name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	return name, os.NewSyscallError("TCP_CONGESTION", err)
}
