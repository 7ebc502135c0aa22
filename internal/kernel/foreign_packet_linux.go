package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"fairlead/internal/sys/nft"
)

// What a walk knows of its packet: the values that nft's and iptables'
// expressions read. The sources are net/netfilter/nft_meta.c, nft_payload.c,
// nft_ct.c and nft_fib.c of Linux.

// meta is a value of the packet's; no where the kernel has none.
func (w *walk) meta(key uint32) (bits, maybe) {
	p := &w.packet
	switch key {
	case unix.NFT_META_PROTOCOL:
		if p.v6 {
			return sure([]byte{0x86, 0xdd}), yes
		}
		return sure([]byte{0x08, 0x00}), yes
	case unix.NFT_META_MARK:
		return w.mark, yes
	case unix.NFT_META_IIFNAME:
		return nameBits(p.iif), yes
	case unix.NFT_META_OIFNAME:
		if p.hook == "input" {
			return sure(make([]byte, 16)), yes
		}
		return nameBits(p.oif), yes
	case unix.NFT_META_OIF:
		if p.hook == "input" {
			return native32(0), yes
		}
	case unix.NFT_META_L4PROTO:
		return sure([]byte{p.proto}), yes
	case unix.NFT_META_NFPROTO:
		if p.v6 {
			return sure([]byte{unix.AF_INET6}), yes
		}
		return sure([]byte{unix.AF_INET}), yes
	case unix.NFT_META_PKTTYPE:
		return sure([]byte{0}), yes // PACKET_HOST
	case unix.NFT_META_SKUID, unix.NFT_META_SKGID, unix.NFT_META_CGROUP:
		if p.hook == "forward" {
			return unsure(4), no // there is no socket
		}
		w.lack = "whose socket it is for"
		return unsure(4), unknown
	case unix.NFT_META_NFTRACE:
		return unsure(1), yes
	case unix.NFT_META_IIFTYPE, unix.NFT_META_OIFTYPE:
		return unsure(2), yes
	case unix.NFT_META_LEN, unix.NFT_META_PRIORITY, unix.NFT_META_IIF, unix.NFT_META_RTCLASSID, unix.NFT_META_SECMARK,
		unix.NFT_META_CPU, unix.NFT_META_IIFGROUP, unix.NFT_META_OIFGROUP, unix.NFT_META_PRANDOM:
		return unsure(4), yes
	case unix.NFT_META_BRI_IIFNAME, unix.NFT_META_BRI_OIFNAME:
		return unsure(16), unknown
	}
	return unsure(16), unknown
}

// payload are bytes of the packet's headers.
func (w *walk) payload(e nft.RawPayload) (bits, maybe) {
	switch e.Base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		return w.network().slice(e.Off, e.Len), yes
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		return w.transport().slice(e.Off, e.Len), yes
	}
	w.lack = "bytes of the link's header, or of what the packet carries"
	return unsure(e.Len), unknown
}

func (w *walk) network() bits {
	p := &w.packet
	if p.v6 {
		first := bits{[]byte{0x60}, []byte{0xf0}}
		return first.with(unsure(5), sure([]byte{p.proto}), unsure(1), addrBits(p.src, 16), addrBits(p.dst, 16))
	}
	// No fragment: of the flags only DF may be set.
	frag := bits{[]byte{0, 0}, []byte{0xbf, 0xff}}
	return sure([]byte{0x45}).with(unsure(5), frag, unsure(1), sure([]byte{p.proto}), unsure(2), addrBits(p.src, 4), addrBits(p.dst, 4))
}

func (w *walk) transport() bits {
	p := &w.packet
	h := portBits(p.sport).with(portBits(p.dport))
	if p.proto == unix.IPPROTO_TCP {
		// SYN; the two bits of ECN may be set, too.
		return h.with(unsure(8), unsure(1), bits{[]byte{0x02}, []byte{0x3f}}, unsure(6))
	}
	return h.with(unsure(4))
}

// ct is a value of the packet's connection.
func (w *walk) ct(e nft.RawCt) (bits, maybe) {
	p := &w.packet
	n := 4
	if p.v6 {
		n = 16
	}
	reply := e.Dir == 1
	switch e.Key {
	case unix.NFT_CT_STATE:
		return native32(nft.StateNew), yes
	case unix.NFT_CT_DIRECTION:
		return sure([]byte{0}), yes
	case unix.NFT_CT_STATUS:
		b := native32(0)
		if p.translated {
			b = native32(nft.StatusDNAT)
		}
		// IPS_DST_NAT_DONE and IPS_SRC_NAT_DONE.
		done := native32(1<<7 | 1<<8)
		for i := range b.known {
			b.known[i] &^= done.value[i]
		}
		return b, yes
	case unix.NFT_CT_MARK:
		return w.ctmark, yes
	case unix.NFT_CT_L3PROTOCOL:
		if p.v6 {
			return sure([]byte{unix.AF_INET6}), yes
		}
		return sure([]byte{unix.AF_INET}), yes
	case unix.NFT_CT_PROTOCOL:
		return sure([]byte{p.proto}), yes
	case unix.NFT_CT_SRC, unix.NFT_CT_SRC_IP, unix.NFT_CT_SRC_IP6:
		if reply {
			return addrBits(p.dst, n), yes
		}
		return addrBits(p.src, n), yes
	case unix.NFT_CT_DST, unix.NFT_CT_DST_IP, unix.NFT_CT_DST_IP6:
		if reply {
			return addrBits(p.src, n), yes
		}
		return addrBits(w.askedAddr(), n), yes
	case unix.NFT_CT_PROTO_SRC:
		if reply {
			return portBits(p.dport), yes
		}
		return portBits(p.sport), yes
	case unix.NFT_CT_PROTO_DST:
		if reply {
			return portBits(p.sport), yes
		}
		return portBits(w.askedPort()), yes
	case unix.NFT_CT_ZONE, unix.NFT_CT_LABELS, unix.NFT_CT_HELPER, unix.NFT_CT_BYTES, unix.NFT_CT_PKTS, unix.NFT_CT_EXPIRATION:
		w.lack = "something of the connection"
		return unsure(16), unknown
	}
	return unsure(16), unknown
}

func (w *walk) askedAddr() netip.Addr {
	if w.packet.translated {
		return w.packet.asked
	}
	return w.packet.dst
}

func (w *walk) askedPort() uint16 {
	if w.packet.translated {
		return w.packet.askedPort
	}
	return w.packet.dport
}

// fib is what the routing table says. The kind of the destination's address
// follows from the hook; a client's address is not known to be anything but
// somebody's.
func (w *walk) fib(e nft.RawFib) bits {
	const bound = unix.NFTA_FIB_F_IIF | unix.NFTA_FIB_F_OIF
	if e.Result != unix.NFT_FIB_RESULT_ADDRTYPE {
		return unsure(16)
	}
	switch {
	case e.Flags&bound != 0:
	case e.Flags&unix.NFTA_FIB_F_DADDR != 0 && w.packet.hook == "input":
		return native32(unix.RTN_LOCAL)
	case e.Flags&unix.NFTA_FIB_F_DADDR != 0:
		return native32(unix.RTN_UNICAST)
	case e.Flags&unix.NFTA_FIB_F_SADDR != 0:
		return native32(unix.RTN_UNICAST)
	}
	return unsure(4)
}

func (w *walk) bitwise(e nft.RawBitwise) bits {
	b := w.get(e.Src, e.Len)
	out := unsure(e.Len)
	if e.Len != out.len() {
		return out
	}
	if e.Shift != 0 || len(e.Mask) != e.Len || len(e.Xor) != e.Len {
		// One number of the whole register, in this machine's order.
		if e.Shift == 0 || !b.whole() || e.Len != 4 {
			return out
		}
		n := binary.NativeEndian.Uint32(b.value)
		if e.Shift > 0 {
			return native32(n << e.Shift)
		}
		return native32(n >> -e.Shift)
	}
	for i := range out.value {
		out.known[i] = b.known[i] | ^e.Mask[i]
		out.value[i] = (b.value[i]&e.Mask[i] ^ e.Xor[i]) & out.known[i]
	}
	return out
}

func (w *walk) byteorder(e nft.RawByteorder) bits {
	b := w.get(e.Src, e.Len)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 || e.Size <= 0 {
		return b // network order is this machine's
	}
	out := unsure(e.Len)
	for at := 0; at+e.Size <= out.len(); at += e.Size {
		for i := range e.Size {
			out.value[at+i], out.known[at+i] = b.value[at+e.Size-1-i], b.known[at+e.Size-1-i]
		}
	}
	return out
}

// writesMarks reports whether rules of the table write marks of packets and of
// connections.
func writesMarks(t *nft.Table) (mark, ctmark bool) {
	for i := range t.Chains {
		for j := range t.Chains[i].Rules {
			for _, e := range t.Chains[i].Rules[j].Raw {
				switch e := e.(type) {
				case nft.RawMetaSet:
					mark = mark || e.Key == unix.NFT_META_MARK
				case nft.RawCtSet:
					ctmark = ctmark || e.Key == unix.NFT_CT_MARK
				case nft.RawXT:
					mark = mark || !e.Match && (e.Name == "MARK" || e.Name == "CONNMARK")
					ctmark = ctmark || !e.Match && e.Name == "CONNMARK"
				}
			}
		}
	}
	return mark, ctmark
}
