package helper

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An opening says how a socket is made.
type opening struct {
	at     netip.AddrPort
	link   string         // the interface that it belongs to, "" for none
	group  int            // index of the interface where at's group is joined, 0 for none
	shared bool           // others may hear at the same place
	peer   netip.AddrPort // the only one it talks to, if valid
}

// A socket is a datagram socket that says whom its senders asked, by which
// interface, and how far they had come. Its methods may be called concurrently.
type socket struct {
	conn *net.UDPConn
	raw  syscall.RawConn
	six  bool
	peer bool
}

func openSocket(o opening) (_ *socket, err error) {
	six := o.at.Addr().Is6()
	family := unix.AF_INET
	if six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "udp")
	defer file.Close() // what is kept is a duplicate
	set := func(level, name, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, name, value))
		}
	}
	set(unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	if o.shared {
		set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if six {
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		set(unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
		set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, maxHops6) // RFC 8415 section 19.1
	} else {
		set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		set(unix.IPPROTO_IP, unix.IP_RECVTTL, 1)
	}
	if err == nil && o.link != "" {
		err = os.NewSyscallError("SO_BINDTODEVICE", unix.BindToDevice(fd, o.link))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(o.at)))
	}
	if err == nil && o.group != 0 {
		if six {
			err = unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
				&unix.IPv6Mreq{Multiaddr: o.at.Addr().As16(), Interface: uint32(o.group)})
		} else {
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
				&unix.IPMreqn{Multiaddr: o.at.Addr().As4(), Ifindex: int32(o.group)})
		}
		err = os.NewSyscallError("join the group", err)
	}
	if err == nil && o.peer.IsValid() {
		err = os.NewSyscallError("connect", unix.Connect(fd, sockaddr(o.peer)))
	}
	if err != nil {
		return nil, err
	}
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return nil, err
	}
	s := &socket{conn: pc.(*net.UDPConn), six: six, peer: o.peer.IsValid()}
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		s.conn.Close()
		return nil, err
	}
	return s, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if i, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(i.Index)
		}
	}
	return sa
}

func (s *socket) close() { s.conn.Close() }

// rooms are buffers for datagrams of any size. A socket holds none while it
// waits.
var rooms = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// receive hands over what comes in, one by one, until the socket is closed.
// Errors of ICMP, which tell of what was sent, do not end it.
func (s *socket) receive(do func(*arrival)) {
	for {
		room := rooms.Get().(*[64 << 10]byte)
		var a arrival
		got := false
		err := s.raw.Read(func(fd uintptr) bool {
			var control [128]byte
			n, on, _, from, err := unix.Recvmsg(int(fd), room[:], control[:], 0)
			switch err {
			case unix.EAGAIN:
				return false
			case nil:
				a = arrival{data: room[:n], from: addrPort(from)}
				a.read(control[:on])
				got = true
			}
			return true
		})
		if got {
			do(&a)
		}
		rooms.Put(room)
		if err != nil {
			return
		}
	}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// read takes what the kernel says of a datagram.
func (a *arrival) read(control []byte) {
	list, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return
	}
	for _, m := range list {
		switch kind := [2]int32{m.Header.Level, m.Header.Type}; {
		case kind == [2]int32{unix.IPPROTO_IP, unix.IP_PKTINFO} && len(m.Data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&m.Data[0]))
			a.index, a.to = int(info.Ifindex), netip.AddrFrom4(info.Addr)
		case kind == [2]int32{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO} && len(m.Data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&m.Data[0]))
			a.index, a.to = int(info.Ifindex), netip.AddrFrom16(info.Addr)
		case (kind == [2]int32{unix.IPPROTO_IP, unix.IP_TTL} || kind == [2]int32{unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}) && len(m.Data) >= 4:
			a.hops = uint8(binary.NativeEndian.Uint32(m.Data))
		}
	}
}

// send sends a datagram, by IPv4 with that hop limit unless it is 0. A socket
// with a peer sends to it alone.
func (s *socket) send(b []byte, to netip.AddrPort, hops uint8) error {
	var control []byte
	if hops != 0 && !s.six {
		control = make([]byte, unix.CmsgSpace(4))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_TTL
		h.SetLen(unix.CmsgLen(4))
		binary.NativeEndian.PutUint32(control[unix.CmsgLen(0):], uint32(hops))
	}
	if s.peer {
		_, err := s.conn.Write(b)
		return err
	}
	_, _, err := s.conn.WriteMsgUDPAddrPort(b, control, to)
	return err
}

// A rawSocket sends whole packets of IPv4, with whatever address as their
// source.
type rawSocket struct{ packetSocket }

func openRaw() (*rawSocket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW) // which means IP_HDRINCL: raw(7)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt", err)
	}
	r := &rawSocket{}
	return r, r.own(fd, "raw")
}

func (r *rawSocket) send(packet []byte, to netip.Addr) error {
	return r.write(packet, &unix.SockaddrInet4{Addr: to.As4()})
}

// A frameSocket sends packets of IPv4 to hardware addresses: to clients that
// have no address yet, and so answer no ARP.
type frameSocket struct{ packetSocket }

func openFrames() (*frameSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0) // 0: it hears nothing
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &frameSocket{}
	return s, s.own(fd, "frames")
}

// send sends a packet by an interface; a nil address means all.
func (s *frameSocket) send(packet []byte, index int, hardware []byte) error {
	to := &unix.SockaddrLinklayer{Protocol: ethernetIP, Ifindex: index, Halen: 6}
	for i := range 6 {
		to.Addr[i] = 0xff
	}
	copy(to.Addr[:6], hardware)
	return s.write(packet, to)
}

// ethernetIP is ETH_P_IP in the network's order, as packet(7) wants it.
var ethernetIP = binary.NativeEndian.Uint16([]byte{0x08, 0x00})

// A packetSocket is a descriptor that only sends.
type packetSocket struct {
	file *os.File
	raw  syscall.RawConn
}

func (p *packetSocket) own(fd int, name string) (err error) {
	p.file = os.NewFile(uintptr(fd), name)
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.file.Close()
	}
	return err
}

func (p *packetSocket) write(b []byte, to unix.Sockaddr) (err error) {
	if e := p.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, to)
		return err != unix.EAGAIN
	}); e != nil {
		return e
	}
	return os.NewSyscallError("sendto", err)
}

func (p *packetSocket) close() { p.file.Close() }
