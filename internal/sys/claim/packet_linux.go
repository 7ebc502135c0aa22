package claim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An arpSocket hears and says ARP on one link.
type arpSocket struct {
	file  *os.File
	raw   syscall.RawConn
	index int
}

// listenARP opens a socket on an interface that speaks ARP; the caller closes
// it.
func listenARP(on string) (netlink.Link, *arpSocket, error) {
	link, err := netlink.LinkByName(on)
	if err != nil {
		return nil, nil, fmt.Errorf("interface %s: %w", on, err)
	}
	if len(link.Attrs().HardwareAddr) != 6 || link.Attrs().RawFlags&unix.IFF_NOARP != 0 {
		return nil, nil, fmt.Errorf("interface %s has no ARP, so nobody can be asked or told: %w", on, errors.ErrUnsupported)
	}
	proto := htons(unix.ETH_P_ARP)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto))
	if err != nil {
		return nil, nil, fmt.Errorf("open a socket for ARP: %w", os.NewSyscallError("socket", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Attrs().Index}); err != nil {
		unix.Close(fd)
		return nil, nil, fmt.Errorf("listen for ARP on %s: %w", on, os.NewSyscallError("bind", err))
	}
	s := &arpSocket{file: os.NewFile(uintptr(fd), "arp"), index: link.Attrs().Index}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, nil, err
	}
	return link, s, nil
}

// htons is the number whose bytes in memory are v's in network order (htons(3)).
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Close closes the socket.
func (s *arpSocket) Close() error { return s.file.Close() }

// say sends m to all.
func (s *arpSocket) say(m *arp) error {
	to := unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: s.index, Halen: 6}
	for i := range 6 {
		to.Addr[i] = 0xff
	}
	var err error
	if e := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), m.bytes(), 0, &to)
		return err != unix.EAGAIN
	}); e != nil {
		return e
	}
	return os.NewSyscallError("sendto", err)
}

// hear returns the first message that is wanted, nil when none came in time.
func (s *arpSocket) hear(ctx context.Context, wait time.Duration, wanted func(*arp) bool) (*arp, error) {
	if err := s.file.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [128]byte
	for {
		n, err := s.file.Read(b[:])
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, nil
		case err != nil:
			return nil, err
		}
		if m, ok := parseARP(b[:n]); ok && wanted(&m) {
			return &m, nil
		}
	}
}
