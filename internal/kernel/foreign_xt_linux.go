package kernel

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"fairlead/internal/sys/nft"
)

// The matches and targets of iptables that iptables-nft still loads as such.
// Each has a struct of its own; the layouts are those of
// linux/netfilter/xt_*.h. What is not here makes the answer "perhaps".

// info reads a struct of this machine.
type info []byte

func (i info) u8(at int) uint8 {
	if at >= len(i) {
		return 0
	}
	return i[at]
}

func (i info) u16(at int) uint16 {
	if at+2 > len(i) {
		return 0
	}
	return binary.NativeEndian.Uint16(i[at:])
}

func (i info) u32(at int) uint32 {
	if at+4 > len(i) {
		return 0
	}
	return binary.NativeEndian.Uint32(i[at:])
}

func (i info) bytes(at, n int) []byte {
	if at+n > len(i) {
		return make([]byte, n)
	}
	return i[at : at+n]
}

// port is a port that is compared as a number of this machine.
func (i info) port(at int) []byte { return binary.BigEndian.AppendUint16(nil, i.u16(at)) }

func xor(m maybe, invert bool) maybe {
	if invert {
		return m.not()
	}
	return m
}

// masked compares those bits that mask has.
func masked(b bits, mask, want []byte) maybe {
	out := unsure(b.len())
	for i := range out.value {
		out.known[i] = b.known[i] | ^mask[i]
		out.value[i] = b.value[i] & mask[i]
	}
	return out.equal(want)
}

func (w *walk) xtMatch(e nft.RawXT) maybe {
	i, p := info(e.Info), &w.packet
	switch {
	case e.Name == "comment":
		return yes
	case e.Name == "conntrack" && e.Rev >= 1 && e.Rev <= 3:
		return w.xtConntrack(i, e.Rev)
	case e.Name == "state" && e.Rev == 0:
		return of(i.u32(0)&(1<<3) != 0)
	case e.Name == "tcp" && e.Rev == 0:
		if p.proto != unix.IPPROTO_TCP {
			return no
		}
		inv := i.u8(11)
		m := xor(portBits(p.sport).within(i.port(0), i.port(2)), inv&1 != 0)
		m = m.and(xor(portBits(p.dport).within(i.port(4), i.port(6)), inv&2 != 0))
		m = m.and(xor(masked(w.transport().slice(13, 1), i.bytes(9, 1), i.bytes(10, 1)), inv&4 != 0))
		if i.u8(8) != 0 {
			m = m.and(unknown)
		}
		return m
	case e.Name == "udp" && e.Rev == 0:
		if p.proto != unix.IPPROTO_UDP {
			return no
		}
		inv := i.u8(8)
		m := xor(portBits(p.sport).within(i.port(0), i.port(2)), inv&1 != 0)
		return m.and(xor(portBits(p.dport).within(i.port(4), i.port(6)), inv&2 != 0))
	case (e.Name == "icmp" || e.Name == "icmp6") && e.Rev == 0:
		return no // the packet is of TCP or UDP
	case e.Name == "multiport" && e.Rev == 1:
		return w.xtMultiport(i)
	case e.Name == "addrtype" && e.Rev == 1:
		return w.xtAddrtype(i)
	case e.Name == "mark" && e.Rev == 1:
		return xor(masked(w.mark, i.bytes(4, 4), i.bytes(0, 4)), i.u8(8) != 0)
	case e.Name == "connmark" && e.Rev == 1:
		return xor(masked(w.ctmark, i.bytes(4, 4), i.bytes(0, 4)), i.u8(8) != 0)
	case e.Name == "limit" && e.Rev == 0:
		return yes // a single packet is within any rate
	case e.Name == "hashlimit" && e.Rev >= 2 && len(i) >= 276:
		return of(i.u32(272)&0x10 == 0) // XT_HASHLIMIT_INVERT
	case e.Name == "connlimit" && e.Rev == 1 && len(i) >= 24:
		return xor(of(i.u32(16) == 0), i.u32(20)&1 != 0)
	case e.Name == "iprange" && e.Rev == 1 && len(i) >= 65:
		n, flags, m := 4, i.u8(64), yes
		if p.v6 {
			n = 16
		}
		if flags&1 != 0 {
			m = m.and(xor(addrBits(p.src, n).within(i.bytes(0, n), i.bytes(16, n)), flags&0x10 != 0))
		}
		if flags&2 != 0 {
			m = m.and(xor(addrBits(p.dst, n).within(i.bytes(32, n), i.bytes(48, n)), flags&0x20 != 0))
		}
		return m
	case e.Name == "pkttype" && e.Rev == 0:
		return xor(of(i.u32(0) == 0), i.u32(4) != 0)
	}
	w.lack = "the match " + e.Name
	return unknown
}

func (w *walk) xtMultiport(i info) maybe {
	flags, count := i.u8(0), int(i.u8(1))
	if count > 15 || len(i) < 48 {
		w.lack = "the match multiport"
		return unknown
	}
	hit := no
	or := func(m maybe) {
		if m == yes || hit == no {
			hit = m
		}
	}
	for n := 0; n < count; n++ {
		first := i.port(2 + 2*n)
		last := first
		if i.u8(32+n) != 0 && n+1 < count {
			n++
			last = i.port(2 + 2*n)
		}
		if flags == 0 || flags == 2 { // source, or either
			or(portBits(w.packet.sport).within(first, last))
		}
		if flags == 1 || flags == 2 { // destination, or either
			or(portBits(w.packet.dport).within(first, last))
		}
	}
	return xor(hit, i.u8(47) != 0)
}

func (w *walk) xtAddrtype(i info) maybe {
	source, dest, flags := i.u16(0), i.u16(2), i.u32(4)
	if flags&(4|8) != 0 {
		w.lack = "the kind of an address on one interface"
		return unknown
	}
	m := yes
	if dest != 0 {
		kind := uint16(1) << unix.RTN_UNICAST
		if w.packet.hook == "input" {
			kind = 1 << unix.RTN_LOCAL
		}
		m = m.and(xor(of(dest&kind != 0), flags&2 != 0))
	}
	if source != 0 {
		m = m.and(xor(of(source&(1<<unix.RTN_UNICAST) != 0), flags&1 != 0))
	}
	return m
}

// xtConntrack is xt_conntrack_mtinfo1 to 3.
func (w *walk) xtConntrack(i info, rev uint32) maybe {
	const (
		byState = 1 << iota
		byProto
		byOrigSrc
		byOrigDst
		byReplSrc
		byReplDst
		byStatus
		byExpires
		byOrigSrcPort
		byOrigDstPort
		byReplSrcPort
		byReplDstPort
		byDirection
	)
	if len(i) < 152 {
		return unknown
	}
	p := &w.packet
	flags, inv := i.u16(146), i.u16(148)
	m := yes
	check := func(bit uint16, is maybe) {
		if flags&bit != 0 {
			m = m.and(xor(is, inv&bit != 0))
		}
	}
	state, status := uint16(i.u8(150)), uint16(i.u8(151))
	if rev >= 2 {
		state, status = i.u16(150), i.u16(152)
	}
	now := uint16(1 << 3) // XT_CONNTRACK_STATE_BIT(IP_CT_NEW)
	if p.translated {
		now |= 1 << 7 // XT_CONNTRACK_STATE_DNAT
	}
	check(byState, of(state&now != 0))
	check(byProto, of(i.u16(136) == uint16(p.proto)))
	n := 4
	if p.v6 {
		n = 16
	}
	addr := func(at int, a bits) maybe { return masked(a, i.bytes(at+16, n), i.bytes(at, n)) }
	check(byOrigSrc, addr(0, addrBits(p.src, n)))
	check(byOrigDst, addr(32, addrBits(w.askedAddr(), n)))
	check(byReplSrc, addr(64, addrBits(p.dst, n)))
	check(byReplDst, addr(96, addrBits(p.src, n)))
	port := func(at, high int, b uint16) maybe {
		if rev < 3 { // in network order
			return portBits(b).equal(i.bytes(at, 2))
		}
		return portBits(b).within(i.port(at), i.port(high))
	}
	check(byOrigSrcPort, port(138, 154, p.sport))
	check(byOrigDstPort, port(140, 156, w.askedPort()))
	check(byReplSrcPort, port(142, 158, p.dport))
	check(byReplDstPort, port(144, 160, p.sport))
	check(byDirection, yes)
	if flags&byStatus != 0 {
		const done = 1<<7 | 1<<8
		switch {
		case p.translated && status&nft.StatusDNAT != 0:
			check(byStatus, yes)
		case status&done != 0:
			m = m.and(unknown)
		default:
			check(byStatus, no)
		}
	}
	if flags&byExpires != 0 {
		m = m.and(unknown)
	}
	return m
}

// harmless are targets after which the next rule follows, and that write
// nothing that is followed here.
var harmless = []string{"LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "TCPMSS", "TOS", "DSCP", "ECN", "TTL", "HL", "CHECKSUM", "CLASSIFY",
	"SECMARK", "CONNSECMARK", "SET", "LED", "IDLETIMER", "RATEEST", "TEE", "NOTRACK", "CT", "TCPOPTSTRIP"}

// xtTarget says what a target does; ends is false where the rule goes on as if
// it were not there.
func (w *walk) xtTarget(e nft.RawXT, match maybe) (verdicts []nft.Verdict, ends bool) {
	i := info(e.Info)
	switch {
	case slices.Contains(harmless, e.Name):
		return nil, false
	case e.Name == "REJECT", e.Name == "DROP":
		return []nft.Verdict{nft.Drop}, true
	case slices.Contains([]string{"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"}, e.Name):
		return []nft.Verdict{nft.Accept}, true
	case e.Name == "MARK" && e.Rev == 2:
		// mark = mark &^ mask ^ value
		now := w.mark
		next := unsure(4)
		value, mask := i.bytes(0, 4), i.bytes(4, 4)
		for n := range next.value {
			next.known[n] = now.known[n] | mask[n]
			next.value[n] = (now.value[n]&^mask[n] ^ value[n]) & next.known[n]
		}
		w.mark = w.written(w.mark, next, match)
		return nil, false
	case e.Name == "MARK", e.Name == "CONNMARK":
		w.mark, w.ctmark = unsure(4), unsure(4)
		return nil, false
	case e.Name == "NFQUEUE":
		return []nft.Verdict{{Do: "queue"}}, true
	}
	w.lack = "the target " + e.Name
	return []nft.Verdict{nft.Accept, nft.Drop, {Do: "continue"}}, true
}
