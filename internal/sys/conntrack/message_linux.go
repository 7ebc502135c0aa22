package conntrack

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Messages, as in linux/netfilter/nfnetlink_conntrack.h.
const (
	msgNew    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 0
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

// Attributes, as in linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoInfo     = 4
	ctaTimeout       = 7
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaTupleMaster   = 14
	ctaZone          = 18
	ctaTimestamp     = 20
	ctaFilter        = 25
	ctaStatusMask    = 26

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaProtoInfoTCP      = 1
	ctaProtoInfoTCPState = 1

	ctaCountersPackets = 1
	ctaCountersBytes   = 2

	ctaTimestampStart = 1

	ctaFilterOrigFlags = 1
)

// filterProtoNum is the bit of ctaFilterOrigFlags that has the number of the
// protocol compared: CTA_FILTER_F_CTA_PROTO_NUM of net/netfilter/nf_internals.h.
const filterProtoNum = 1 << 3

const (
	headerLen  = unix.SizeofNlMsghdr
	nfgenLen   = 4 // struct nfgenmsg: family, version, resource id
	attrHeader = 4
	typeMask   = 0x3fff // NLA_TYPE_MASK of linux/netlink.h
)

// A message is one netlink message: its header, and what follows it.
type message struct {
	kind, flags uint16
	seq, port   uint32
	body        []byte
}

// next cuts the first message off b. ok is false where b holds none.
func next(b []byte) (m message, rest []byte, ok bool) {
	if len(b) < headerLen {
		return message{}, nil, false
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < headerLen || n > len(b) {
		return message{}, nil, false
	}
	m = message{
		kind:  binary.NativeEndian.Uint16(b[4:]),
		flags: binary.NativeEndian.Uint16(b[6:]),
		seq:   binary.NativeEndian.Uint32(b[8:]),
		port:  binary.NativeEndian.Uint32(b[12:]),
		body:  b[headerLen:n],
	}
	return m, b[min(align(n), len(b)):], true
}

func align(n int) int { return (n + 3) &^ 3 }

// attr cuts the first attribute off b. Flags in its type (nested, byte order)
// are taken away.
func attr(b []byte) (kind uint16, value, rest []byte, ok bool) {
	if len(b) < attrHeader {
		return 0, nil, nil, false
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < attrHeader || n > len(b) {
		return 0, nil, nil, false
	}
	kind = binary.NativeEndian.Uint16(b[2:]) & typeMask
	return kind, b[attrHeader:n], b[min(align(n), len(b)):], true
}

// decode reads the body of a message about an entry. ok is false where it has
// no original tuple with addresses; an attribute that is cut short ends the
// reading, and one of another length than it has to have is passed over.
func decode(body []byte, e *Entry) (ok bool) {
	*e = Entry{}
	if len(body) < nfgenLen {
		return false
	}
	for b := body[nfgenLen:]; ; {
		kind, v, rest, more := attr(b)
		if !more {
			break
		}
		b = rest
		switch kind {
		case ctaTupleOrig:
			e.Original = decodeTuple(v)
		case ctaTupleReply:
			e.Reply = decodeTuple(v)
		case ctaTupleMaster:
			e.Master = decodeTuple(v)
		case ctaStatus:
			e.Status = be32(v)
		case ctaMark:
			e.Mark = be32(v)
		case ctaID:
			e.ID = be32(v)
		case ctaZone:
			e.Zone = be16(v)
		case ctaTimeout:
			e.Timeout = time.Duration(be32(v)) * time.Second
		case ctaProtoInfo:
			e.TCPState = decodeTCPState(v)
		case ctaCountersOrig:
			e.OrigPackets, e.OrigBytes = decodeCounters(v)
		case ctaCountersReply:
			e.ReplyPackets, e.ReplyBytes = decodeCounters(v)
		case ctaTimestamp:
			e.Started = decodeStarted(v)
		}
	}
	return e.Original.Src.Addr().IsValid() && e.Original.Dst.Addr().IsValid()
}

func decodeTuple(b []byte) (t Tuple) {
	var src, dst netip.Addr
	var from, to uint16
	for {
		kind, v, rest, more := attr(b)
		if !more {
			break
		}
		b = rest
		switch kind {
		case ctaTupleIP:
			src, dst = decodeAddrs(v)
		case ctaTupleProto:
			t.Proto, from, to = decodePorts(v)
		}
	}
	t.Src, t.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return t
}

func decodeAddrs(b []byte) (src, dst netip.Addr) {
	for {
		kind, v, rest, more := attr(b)
		if !more {
			return src, dst
		}
		b = rest
		switch {
		case kind == ctaIPv4Src && len(v) == 4:
			src = netip.AddrFrom4([4]byte(v))
		case kind == ctaIPv4Dst && len(v) == 4:
			dst = netip.AddrFrom4([4]byte(v))
		case kind == ctaIPv6Src && len(v) == 16:
			src = netip.AddrFrom16([16]byte(v))
		case kind == ctaIPv6Dst && len(v) == 16:
			dst = netip.AddrFrom16([16]byte(v))
		}
	}
}

func decodePorts(b []byte) (proto uint8, from, to uint16) {
	for {
		kind, v, rest, more := attr(b)
		if !more {
			return proto, from, to
		}
		b = rest
		switch {
		case kind == ctaProtoNum && len(v) == 1:
			proto = v[0]
		case kind == ctaProtoSrcPort:
			from = be16(v)
		case kind == ctaProtoDstPort:
			to = be16(v)
		}
	}
}

func decodeTCPState(b []byte) uint8 {
	if v := find(find(b, ctaProtoInfoTCP), ctaProtoInfoTCPState); len(v) == 1 {
		return v[0]
	}
	return 0
}

func decodeCounters(b []byte) (packets, bytes uint64) {
	return be64(find(b, ctaCountersPackets)), be64(find(b, ctaCountersBytes))
}

func decodeStarted(b []byte) time.Time {
	if ns := be64(find(b, ctaTimestampStart)); ns != 0 {
		return time.Unix(0, int64(ns))
	}
	return time.Time{}
}

// find is the value of the first attribute of that kind in b, nil without one.
func find(b []byte, kind uint16) []byte {
	for {
		k, v, rest, more := attr(b)
		if !more {
			return nil
		}
		if k == kind {
			return v
		}
		b = rest
	}
}

// Numbers in conntrack's attributes are in network order, unlike netlink's own.

func be16(v []byte) uint16 {
	if len(v) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

func be32(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

func be64(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// request begins a message of that kind; finish completes it.
func request(kind, flags uint16, family uint8, seq uint32) []byte {
	b := make([]byte, headerLen+nfgenLen, 256)
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b[headerLen] = family // version and resource id are zero (NFNETLINK_V0)
	return b
}

func finish(b []byte) []byte {
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func put(b []byte, kind uint16, value ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeader+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// nest appends an attribute that holds what inside appends.
func nest(b []byte, kind uint16, inside func([]byte) []byte) []byte {
	at := len(b)
	b = put(b, kind|unix.NLA_F_NESTED)
	b = inside(b)
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

func putTuple(b []byte, kind uint16, t Tuple) []byte {
	return nest(b, kind, func(b []byte) []byte {
		b = nest(b, ctaTupleIP, func(b []byte) []byte {
			src, dst := uint16(ctaIPv6Src), uint16(ctaIPv6Dst)
			if t.Src.Addr().Is4() {
				src, dst = ctaIPv4Src, ctaIPv4Dst
			}
			b = put(b, src, t.Src.Addr().AsSlice()...)
			return put(b, dst, t.Dst.Addr().AsSlice()...)
		})
		return nest(b, ctaTupleProto, func(b []byte) []byte {
			b = put(b, ctaProtoNum, t.Proto)
			b = put(b, ctaProtoSrcPort, byte(t.Src.Port()>>8), byte(t.Src.Port()))
			return put(b, ctaProtoDstPort, byte(t.Dst.Port()>>8), byte(t.Dst.Port()))
		})
	})
}

// dump asks for the entries of f, of one family or of all.
func dump(f Filter, family uint8, seq uint32) []byte {
	b := request(msgGet, unix.NLM_F_DUMP, family, seq)
	if f.Status != 0 {
		status := binary.BigEndian.AppendUint32(nil, f.Status)
		b = put(b, ctaStatus, status...)
		b = put(b, ctaStatusMask, status...)
	}
	if f.Proto != 0 {
		b = nest(b, ctaTupleOrig, func(b []byte) []byte {
			return nest(b, ctaTupleProto, func(b []byte) []byte { return put(b, ctaProtoNum, f.Proto) })
		})
		b = nest(b, ctaFilter, func(b []byte) []byte {
			return put(b, ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, filterProtoNum)...)
		})
	}
	return finish(b)
}

// remove asks to forget e. The kernel forgets everything when a request names
// no tuple, so e must have one.
func remove(e *Entry, seq uint32) []byte {
	family := uint8(unix.AF_INET6)
	if e.Original.Src.Addr().Is4() {
		family = unix.AF_INET
	}
	b := request(msgDelete, unix.NLM_F_ACK, family, seq)
	b = putTuple(b, ctaTupleOrig, e.Original)
	if e.Zone != 0 {
		b = put(b, ctaZone, byte(e.Zone>>8), byte(e.Zone))
	}
	b = put(b, ctaID, binary.BigEndian.AppendUint32(nil, e.ID)...)
	return finish(b)
}

// means reports whether e is one of those that f means.
func (f Filter) means(e *Entry) bool {
	return (f.Proto == 0 || f.Proto == e.Original.Proto) && e.Status&f.Status == f.Status
}
