package kernel

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"fairlead/internal/wire/packet"
)

// provoke sends the probes. One that has no way to its end is left out: that
// end is not there.
func provoke(probes []probe) error {
	var fds [2]int // of IPv4 and IPv6
	for i := range fds {
		fds[i] = -1
	}
	defer func() {
		for _, fd := range fds {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}()
	for _, p := range probes {
		i := 0
		if p.to.Addr().Is6() {
			i = 1
		}
		if fds[i] < 0 {
			fd, err := rawSocket(i == 1)
			if err != nil {
				return &silentError{err}
			}
			fds[i] = fd
		}
		if err := p.send(fds[i]); errors.Is(err, os.ErrPermission) {
			return &silentError{fmt.Errorf("send from %s: %w", p.from.Addr(), err)}
		}
	}
	return nil
}

// rawSocket sends packets whose headers are given, from whatever address
// (raw(7), ipv6(7)).
func rawSocket(v6 bool) (fd int, err error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return -1, fmt.Errorf("open a raw socket: %w", err)
	}
	if v6 { // so that it may name a source that is not this host's
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open a raw socket: %w", err)
	}
	return fd, nil
}

// send sends the probe. Its source is named beside the packet too: routes may
// depend on it.
func (p probe) send(fd int) error {
	flags := uint8(packet.SYN | packet.ACK)
	if p.syn {
		flags = packet.SYN
	}
	head := packet.Packet{Proto: packet.TCP, Src: p.from, Dst: p.to, Flags: flags, Seq: rand.Uint32()}
	if !p.syn {
		head.Ack = rand.Uint32()
	}
	b, err := head.Append(nil, nil)
	if err != nil {
		return err
	}
	return sendRaw(fd, p.from.Addr(), p.to.Addr(), b)
}

// sendRaw sends a packet with its header.
func sendRaw(fd int, from, to netip.Addr, b []byte) error {
	if to.Is4() {
		oob := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
		return unix.Sendmsg(fd, b, oob, &unix.SockaddrInet4{Addr: to.As4()}, 0)
	}
	oob := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: from.As16()})
	return unix.Sendmsg(fd, b, oob, &unix.SockaddrInet6{Addr: to.As16()}, 0)
}
