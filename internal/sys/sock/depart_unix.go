//go:build unix

package sock

import (
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func bind(fd int, from netip.AddrPort) error {
	if from.Addr().Is4() {
		return os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Port: int(from.Port()), Addr: from.Addr().As4()}))
	}
	sa := &unix.SockaddrInet6{Port: int(from.Port()), Addr: from.Addr().As16()}
	if zone := from.Addr().Zone(); zone != "" {
		index, err := strconv.Atoi(zone)
		if err != nil {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return os.NewSyscallError("bind", unix.ENODEV)
			}
			index = link.Index
		}
		sa.ZoneId = uint32(index)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, sa))
}

func setDSCP(fd int, v6 bool, dscp int) error {
	// The two lowest bits are the network's, for ECN.
	if v6 {
		return set(fd, "IPV6_TCLASS", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, dscp<<2)
	}
	return set(fd, "IP_TOS", unix.IPPROTO_IP, unix.IP_TOS, dscp<<2)
}

func set(fd int, what string, level, name, value int) error {
	return os.NewSyscallError(what, unix.SetsockoptInt(fd, level, name, value))
}

func try(v6 bool, do func(fd int) error) error {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	unix.CloseOnExec(fd)
	return do(fd)
}
