package sock

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inherits says that accepted connections have their listener's keepalive.
const Inherits = true

// fionread asks how much can be read (tcp(7) has it as SIOCINQ).
const fionread = unix.SIOCINQ

func setListenerKeepalive(fd int, k net.KeepAliveConfig) error {
	if !k.Enable {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0))
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(k.Idle / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(k.Interval / time.Second)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, k.Count},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

func setPacketInfo(fd int, v6 bool) error {
	if v6 {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
}

// PacketInfoSize is how many bytes of control data ReadMsg needs for a
// datagram's packet information.
var PacketInfoSize = unix.CmsgSpace(unix.SizeofInet6Pktinfo)

// PacketInfo reads from a datagram's control data which local address was
// asked, with the interface it came in by: for a broadcast the address to
// answer from, for an IPv6 group the unspecified one. ip(7), ipv6(7).
func PacketInfo(oob []byte) (asked netip.Addr, ifindex int) {
	for len(oob) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		if h.Len < unix.SizeofCmsghdr || uint64(h.Len) > uint64(len(oob)) {
			return
		}
		if asked, ifindex = packetInfo(h, oob[unix.CmsgLen(0):h.Len]); asked.IsValid() {
			return
		}
		step := unix.CmsgSpace(int(h.Len) - unix.CmsgLen(0))
		if step > len(oob) {
			return
		}
		oob = oob[step:]
	}
	return
}

// packetInfo reads one piece of control data; it is zero for one of another
// kind.
func packetInfo(h *unix.Cmsghdr, data []byte) (asked netip.Addr, ifindex int) {
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		p := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
		// Spec_dst rather than Addr: for a broadcast it is the address to answer from.
		return netip.AddrFrom4(p.Spec_dst), int(p.Ifindex)
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		p := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
		a := netip.AddrFrom16(p.Addr).Unmap()
		if a.IsMulticast() { // nothing may be sent from it
			a = netip.IPv6Unspecified()
		}
		return a, int(p.Ifindex)
	}
	return
}

// SourceInfo is control data that sends a datagram from that local address.
// The interface is fixed only for link-local addresses: elsewhere the route
// back may leave by another one.
func SourceInfo(from netip.Addr, ifindex int) []byte {
	if from.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: from.As4()})
	}
	p := &unix.Inet6Pktinfo{Addr: from.As16()}
	if from.IsLinkLocalUnicast() {
		p.Ifindex = uint32(ifindex)
	}
	return unix.PktInfo6(p)
}

// Health is what the kernel knows of a TCP connection without asking the peer.
type Health struct {
	Failed  bool          // reset, or given up; not: closed in order with data still to be read
	Unacked bool          // the peer owes acknowledgements
	Silent  time.Duration // since its last acknowledgement
}

// Look reads the health of a TCP connection; ok is false where c is none.
func Look(c syscall.RawConn) (h Health, ok bool) {
	c.Control(func(fd uintptr) { h, ok = LookAt(fd) })
	return h, ok
}

// LookAt is Look for a descriptor.
func LookAt(fd uintptr) (h Health, ok bool) {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return h, false
	}
	// The state alone does not tell a reset from an orderly end, and SO_ERROR
	// would take the error away from the next read.
	ready := []unix.PollFd{{Fd: int32(fd)}}
	unix.Poll(ready, 0)
	return Health{
		Failed:  ready[0].Revents&unix.POLLERR != 0,
		Unacked: info.Unacked > 0,
		Silent:  time.Duration(info.Last_ack_recv) * time.Millisecond,
	}, true
}

// Unsent is how many bytes were written to c and not yet acknowledged by its
// peer (SIOCOUTQ, tcp(7)).
func Unsent(c syscall.RawConn) (n int) {
	c.Control(func(fd uintptr) { n = UnsentAt(fd) })
	return n
}

// UnsentAt is Unsent for a descriptor.
func UnsentAt(fd uintptr) int {
	n, _ := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	return n
}
