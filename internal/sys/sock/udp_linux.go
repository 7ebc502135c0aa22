package sock

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxDatagram is more than the largest datagram has, and than a train of them
// that the kernel hands over at once, in bytes.
const MaxDatagram = 64 << 10

// stride keeps the beginnings of a batch's datagrams out of each other's cache
// lines: at a power of two they would all compete for the same few.
const stride = MaxDatagram + 17*64

// arrivalSpace holds what a datagram brings beside its bytes: which address was
// asked, the size of a train's segments, how many were missed.
const arrivalSpace = 40 + 24 + 24

// departureSpace holds the address to send from and the size of segments.
const departureSpace = 40 + 24

// A message is the kernel's struct mmsghdr.
type message struct {
	unix.Msghdr
	n uint32
}

// Datagrams is room for a batch of datagrams, which one system call fills
// (recvmmsg(2)). It is made once, so that receiving allocates nothing; memory
// that no datagram has reached is not used. One goroutine at a time may use it.
type Datagrams struct {
	msgs    []message
	vecs    []unix.Iovec
	senders []Address
	ctrl    [][arrivalSpace]byte
	data    []byte
	alone   bool // the system has no recvmmsg
}

// NewDatagrams makes room for n datagrams of any size. With senders it notes
// for each who sent it.
func NewDatagrams(n int, senders bool) *Datagrams {
	d := &Datagrams{
		msgs: make([]message, n),
		vecs: make([]unix.Iovec, n),
		ctrl: make([][arrivalSpace]byte, n),
		data: make([]byte, n*stride),
	}
	if senders {
		d.senders = make([]Address, n)
	}
	for i := range d.msgs {
		d.vecs[i].Base = &d.data[i*stride]
		d.vecs[i].SetLen(MaxDatagram)
		m := &d.msgs[i]
		m.Iov = &d.vecs[i]
		m.SetIovlen(1)
		m.Control = &d.ctrl[i][0]
		if senders {
			m.Name = (*byte)(unsafe.Pointer(&d.senders[i].raw))
		}
	}
	return d
}

// Receive takes what waits at the socket fd, at most up to datagrams, into the
// places from first on, and says how many there were. It never waits: EAGAIN
// means that there are none. fd must not be closed meanwhile.
func (d *Datagrams) Receive(fd, first, up int) (int, error) {
	msgs := d.msgs[first : first+up]
	for i := range msgs {
		m := &msgs[i]
		m.SetControllen(arrivalSpace)
		if d.senders != nil {
			m.Namelen = unix.SizeofSockaddrInet6
		}
	}
	if !d.alone {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.ENOSYS:
			d.alone = true
		default:
			return 0, e
		}
	}
	n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0].Msghdr)), unix.MSG_DONTWAIT)
	if e != 0 {
		return 0, e
	}
	msgs[0].n = uint32(n)
	return 1, nil
}

// Bytes are those of the i-th datagram, or of a train of them. They hold until
// the place is received into again.
func (d *Datagrams) Bytes(i int) []byte {
	return d.data[i*stride : i*stride+int(d.msgs[i].n)]
}

// Sender is who sent the i-th datagram. It holds until the place is received
// into again.
func (d *Datagrams) Sender(i int) *Address {
	d.senders[i].size = d.msgs[i].Namelen
	return &d.senders[i]
}

// An Arrival is what the kernel says about a datagram beside its bytes.
type Arrival struct {
	// Local is the address that was asked and Ifindex the interface that the
	// datagram came in by, as PacketInfo tells them: zero where the socket
	// does not report them.
	Local   netip.Addr
	Ifindex int
	// Segment is the size of each datagram of a train but the last, in bytes;
	// 0 for a single datagram.
	Segment int
	// Missed is how many datagrams the socket's queue had no room for since it
	// was opened, modulo 2^32, where Counted.
	Missed  uint32
	Counted bool
}

// Arrival is what the kernel says about the i-th datagram.
func (d *Datagrams) Arrival(i int) (a Arrival) {
	oob := d.ctrl[i][:d.msgs[i].Controllen]
	for len(oob) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		if h.Len < unix.SizeofCmsghdr || uint64(h.Len) > uint64(len(oob)) {
			return a
		}
		data := oob[unix.CmsgLen(0):h.Len]
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			a.Segment = int(*(*int32)(unsafe.Pointer(&data[0])))
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			a.Missed, a.Counted = *(*uint32)(unsafe.Pointer(&data[0])), true
		default:
			if local, ifindex := packetInfo(h, data); local.IsValid() {
				a.Local, a.Ifindex = local, ifindex
			}
		}
		step := unix.CmsgSpace(int(h.Len) - unix.CmsgLen(0))
		if step > len(oob) {
			return a
		}
		oob = oob[step:]
	}
	if a.Segment >= int(d.msgs[i].n) {
		a.Segment = 0
	}
	return a
}

// An Address is a sender or receiver of datagrams in the kernel's form. The
// zero Address is that of a connected socket's peer.
type Address struct {
	raw  unix.RawSockaddrInet6
	size uint32
}

// AddressOf is a client as addressed from a socket of IPv4 or IPv6. ifindex is
// the interface that leads to it, which a link-local address needs.
func AddressOf(v4 bool, to netip.AddrPort, ifindex int) (a Address) {
	if v4 {
		raw := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
		raw.Family, raw.Addr = unix.AF_INET, to.Addr().As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:], to.Port())
		a.size = unix.SizeofSockaddrInet4
		return a
	}
	a.raw.Family, a.raw.Addr = unix.AF_INET6, to.Addr().As16()
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&a.raw.Port))[:], to.Port())
	if to.Addr().IsLinkLocalUnicast() {
		a.raw.Scope_id = uint32(ifindex)
	}
	a.size = unix.SizeofSockaddrInet6
	return a
}

// AddrPort is the address without a zone, and not in the IPv4-in-IPv6 form.
// scope is the interface of a link-local address, 0 for others.
func (a *Address) AddrPort() (at netip.AddrPort, scope int) {
	switch {
	case a.raw.Family == unix.AF_INET && a.size >= unix.SizeofSockaddrInet4:
		raw := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw))
		return netip.AddrPortFrom(netip.AddrFrom4(raw.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:])), 0
	case a.raw.Family == unix.AF_INET6 && a.size >= unix.SizeofSockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.raw.Addr).Unmap(), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&a.raw.Port))[:])), int(a.raw.Scope_id)
	}
	return at, 0
}

// Same reports whether b is the same address.
func (a *Address) Same(b *Address) bool {
	if a.size != b.size {
		return false
	}
	if a.size == unix.SizeofSockaddrInet4 {
		x, y := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.raw)), (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.raw))
		return x.Port == y.Port && x.Addr == y.Addr
	}
	return a.raw == b.raw
}

// Departures is a batch of datagrams to send with one system call
// (sendmmsg(2)). It is made once, so that sending allocates nothing. One
// goroutine at a time may use it.
type Departures struct {
	msgs  []message
	vecs  []unix.Iovec
	ctrl  [][departureSpace]byte
	n     int  // messages
	parts int  // vecs in use
	alone bool // the system has no sendmmsg

	// The last message, while it may become a train.
	size   int // of each of its datagrams; 0: it may not
	total  int
	count  int
	source []byte
}

// A train has at most so many datagrams, and so many bytes with room for the
// headers of IP and UDP; its datagrams fit into the packets of an Ethernet.
const (
	maxTrain      = 64
	maxTrainBytes = 65535 - 48
	maxTrainPart  = 1472
)

// NewDepartures makes room for n datagrams.
func NewDepartures(n int) *Departures {
	return &Departures{msgs: make([]message, n), vecs: make([]unix.Iovec, 2*n), ctrl: make([][departureSpace]byte, n)}
}

// Len is how many messages the batch has: datagrams or trains.
func (d *Departures) Len() int { return d.n }

// Reset empties the batch.
func (d *Departures) Reset() { d.n, d.parts, d.size = 0, 0, 0 }

// Add puts a datagram into the batch: head and body together, either of which
// may be empty. to is nil on a connected socket. source is what SourceInfo
// made, or nil for the address that the system chooses. With a segment above 0
// body is a train: one datagram after the other of that size, the last one not
// larger (UDP_SEGMENT, udp(7)); a train has no head. The bytes must stay as
// they are until they are sent.
func (d *Departures) Add(head, body []byte, to *Address, source []byte, segment int) {
	m := &d.msgs[d.n]
	m.Iov = &d.vecs[d.parts]
	m.SetIovlen(d.add(head, body))
	m.Name, m.Namelen = nil, 0
	if to != nil {
		m.Name, m.Namelen = (*byte)(unsafe.Pointer(&to.raw)), to.size
	}
	m.Control = nil
	m.SetControllen(0)
	if len(source) > 0 {
		m.Control = &source[0]
		m.SetControllen(len(source))
	}
	d.size, d.source = 0, source
	if segment > 0 {
		d.train(d.n, segment)
	} else if size := len(head) + len(body); size <= maxTrainPart {
		d.size, d.total, d.count = size, size, 1
	}
	d.n++
}

// Join puts a datagram for the same receiver as the one before it into the
// same message, so that both pass the stack as one train; on the wire they are
// as they were. It returns false where they cannot be one.
func (d *Departures) Join(head, body []byte) bool {
	size := len(head) + len(body)
	if size == 0 || size > d.size || d.count == maxTrain || d.total+size > maxTrainBytes {
		return false
	}
	m := &d.msgs[d.n-1]
	m.SetIovlen(int(m.Iovlen) + d.add(head, body))
	if d.count == 1 {
		d.train(d.n-1, d.size)
	}
	d.count++
	d.total += size
	if size < d.size {
		d.size = 0 // a shorter one is the last
	}
	return true
}

// add puts bytes into vecs and says into how many.
func (d *Departures) add(head, body []byte) (n int) {
	for _, part := range [2][]byte{head, body} {
		if len(part) > 0 {
			d.vecs[d.parts].Base = &part[0]
			d.vecs[d.parts].SetLen(len(part))
			d.parts++
			n++
		}
	}
	return n
}

// train has the i-th message be cut into datagrams of that size.
func (d *Departures) train(i, segment int) {
	c := &d.ctrl[i]
	n := copy(c[:], d.source)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c[n]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&c[n+unix.CmsgLen(0)])) = uint16(segment)
	d.msgs[i].Control = &c[0]
	d.msgs[i].SetControllen(n + unix.CmsgSpace(2))
}

// Send sends the datagrams of the batch from the first-th on through the
// socket fd, in their order, and says how many have left. With an error it is
// the first of them that has not left; who wants the others sent calls again.
// It never waits: EAGAIN means that the socket takes no more now. fd must not
// be closed meanwhile.
func (d *Departures) Send(fd, first int) (int, error) {
	msgs := d.msgs[first:d.n]
	if len(msgs) > 1 && !d.alone {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.ENOSYS:
			d.alone = true
		default:
			return 0, e
		}
	}
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0].Msghdr)), unix.MSG_DONTWAIT)
	if e != 0 {
		return 0, e
	}
	return 1, nil
}

// Datagram makes a non-blocking datagram socket for IPv6 or IPv4.
func Datagram(v6 bool) (int, error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, _, e := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	return result(fd, e)
}

// PrepareRelay makes a datagram socket fit for a relay that takes and sends
// batches: trains of datagrams are handed over whole where the kernel can
// (UDP_GRO, Linux 5.0), what found no room in the queue is counted
// (SO_RXQ_OVFL), and there is room for bursts.
func PrepareRelay(fd int) {
	unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	// Beyond the system's limits for everybody, with CAP_NET_ADMIN.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, udpBuffer) != nil {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, udpBuffer)
	}
}
