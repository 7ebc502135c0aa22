package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// register is the name of register i of four bytes: every fourth has the one of
// the older register of sixteen bytes that begins there.
func register(i int) uint32 {
	if i%4 == 0 {
		return uint32(unix.NFT_REG_1 + i/4)
	}
	return uint32(unix.NFT_REG32_00 + i)
}

// registers is how many a value takes.
func registers(k kind) int { return (k.size() + 3) / 4 }

// need sees to it that a key can be loaded: a header of a protocol is there only
// in packets of that protocol.
func (w *ruleWriter) need(k Key) error {
	switch k {
	case IPSaddr, IPDaddr:
		return w.needFamily(IPv4)
	case IP6Saddr, IP6Saddr64, IP6Daddr:
		return w.needFamily(IPv6)
	case ICMPType:
		if err := w.needFamily(IPv4); err != nil {
			return err
		}
		return w.needL4(unix.IPPROTO_ICMP)
	case ICMPv6Type:
		if err := w.needFamily(IPv6); err != nil {
			return err
		}
		return w.needL4(unix.IPPROTO_ICMPV6)
	}
	return nil
}

func (w *ruleWriter) needFamily(f Family) error {
	switch w.nfproto {
	case f:
		return nil
	case 0:
		w.nfproto = f
		w.loadKey(NFProto, 0)
		w.compare(unix.NFT_CMP_EQ, 0, []byte{byte(f)})
		return nil
	}
	return fmt.Errorf("a packet of %s has nothing of %s", w.nfproto, f)
}

func (w *ruleWriter) needL4(proto int) error {
	switch w.l4proto {
	case proto:
		return nil
	case -1:
		w.l4proto = proto
		w.loadKey(L4Proto, 0)
		w.compare(unix.NFT_CMP_EQ, 0, []byte{byte(proto)})
		return nil
	}
	return fmt.Errorf("a packet of %s has nothing of %s", protoText(uint8(w.l4proto)), protoText(uint8(proto)))
}

// load loads keys from the first register on. Where they are compared with
// ranges, numbers are turned into network order.
func (w *ruleWriter) load(keys []Key, network bool) error {
	_, err := w.loadFrom(0, keys, network)
	return err
}

func (w *ruleWriter) loadFrom(reg int, keys []Key, network bool) (next int, err error) {
	for _, k := range keys {
		if err := w.need(k); err != nil {
			return 0, err
		}
	}
	for _, k := range keys {
		if err := w.loadKey(k, reg); err != nil {
			return 0, err
		}
		if network && k.kind().hostOrder() {
			w.hostToNetwork(reg)
		}
		reg += registers(k.kind())
	}
	return reg, nil
}

func (w *ruleWriter) loadKey(k Key, reg int) error {
	switch k {
	case IIFName:
		w.meta(unix.NFT_META_IIFNAME, reg)
	case OIFName:
		w.meta(unix.NFT_META_OIFNAME, reg)
	case L4Proto:
		w.meta(unix.NFT_META_L4PROTO, reg)
	case NFProto:
		w.meta(unix.NFT_META_NFPROTO, reg)
	case Mark:
		w.meta(unix.NFT_META_MARK, reg)
	case IPSaddr:
		w.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4, reg)
	case IPDaddr:
		w.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4, reg)
	case IP6Saddr:
		w.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16, reg)
	case IP6Saddr64:
		w.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16, reg)
		w.mask(reg, append(bytes.Repeat([]byte{0xff}, 8), make([]byte, 8)...))
	case IP6Daddr:
		w.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16, reg)
	case Sport:
		w.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, reg)
	case Dport:
		w.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg)
	case ICMPType, ICMPv6Type:
		w.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, reg)
	case CtState:
		w.ct(unix.NFT_CT_STATE, reg, false)
	case CtStatus:
		w.ct(unix.NFT_CT_STATUS, reg, false)
	case CtDirection:
		w.ct(unix.NFT_CT_DIRECTION, reg, false)
	case CtOrigIPSaddr:
		w.ct(unix.NFT_CT_SRC_IP, reg, true)
	case CtOrigIPDaddr:
		w.ct(unix.NFT_CT_DST_IP, reg, true)
	case CtOrigIP6Saddr:
		w.ct(unix.NFT_CT_SRC_IP6, reg, true)
	case CtOrigIP6Daddr:
		w.ct(unix.NFT_CT_DST_IP6, reg, true)
	case CtOrigSport:
		w.ct(unix.NFT_CT_PROTO_SRC, reg, true)
	case CtOrigDport:
		w.ct(unix.NFT_CT_PROTO_DST, reg, true)
	case FibDaddrType:
		w.fib(unix.NFTA_FIB_F_DADDR, unix.NFT_FIB_RESULT_ADDRTYPE, reg)
	case FibDaddrIIFType:
		w.fib(unix.NFTA_FIB_F_DADDR|unix.NFTA_FIB_F_IIF, unix.NFT_FIB_RESULT_ADDRTYPE, reg)
	case FibSaddrType:
		w.fib(unix.NFTA_FIB_F_SADDR, unix.NFT_FIB_RESULT_ADDRTYPE, reg)
	case FibSaddrOIF:
		w.fib(unix.NFTA_FIB_F_SADDR|unix.NFTA_FIB_F_IIF, unix.NFT_FIB_RESULT_OIF, reg)
	default:
		return fmt.Errorf("%s cannot be looked at", k.info().text)
	}
	return nil
}

func (w *ruleWriter) meta(key uint32, reg int) {
	w.do("meta", func() {
		w.u32(unix.NFTA_META_KEY, key)
		w.u32(unix.NFTA_META_DREG, register(reg))
	})
}

func (w *ruleWriter) payload(base, offset, n uint32, reg int) {
	w.do("payload", func() {
		w.u32(unix.NFTA_PAYLOAD_DREG, register(reg))
		w.u32(unix.NFTA_PAYLOAD_BASE, base)
		w.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		w.u32(unix.NFTA_PAYLOAD_LEN, n)
	})
}

// ct loads something of the connection; original says that it is of the
// direction in which it began.
func (w *ruleWriter) ct(key uint32, reg int, original bool) {
	w.do("ct", func() {
		w.u32(unix.NFTA_CT_KEY, key)
		w.u32(unix.NFTA_CT_DREG, register(reg))
		if original {
			w.u8(unix.NFTA_CT_DIRECTION, 0)
		}
	})
}

func (w *ruleWriter) fib(flags, result uint32, reg int) {
	w.do("fib", func() {
		w.u32(unix.NFTA_FIB_FLAGS, flags)
		w.u32(unix.NFTA_FIB_RESULT, result)
		w.u32(unix.NFTA_FIB_DREG, register(reg))
	})
}

// hostToNetwork turns the number in a register.
func (w *ruleWriter) hostToNetwork(reg int) {
	w.do("byteorder", func() {
		w.u32(unix.NFTA_BYTEORDER_SREG, register(reg))
		w.u32(unix.NFTA_BYTEORDER_DREG, register(reg))
		w.u32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
		w.u32(unix.NFTA_BYTEORDER_LEN, 4)
		w.u32(unix.NFTA_BYTEORDER_SIZE, 4)
	})
}

// mask clears the bits of a register that are not in the mask.
func (w *ruleWriter) mask(reg int, mask []byte) {
	w.do("bitwise", func() {
		w.u32(unix.NFTA_BITWISE_SREG, register(reg))
		w.u32(unix.NFTA_BITWISE_DREG, register(reg))
		w.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		w.data(unix.NFTA_BITWISE_MASK, mask)
		w.data(unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	})
}

func (w *ruleWriter) compare(op uint32, reg int, v []byte) {
	w.do("cmp", func() {
		w.u32(unix.NFTA_CMP_SREG, register(reg))
		w.u32(unix.NFTA_CMP_OP, op)
		w.data(unix.NFTA_CMP_DATA, v)
	})
}

// lookup looks in a set for what is in the registers from the first on. id is
// the number of a set without a name; dreg is -1 for a set, else where what it
// leads to goes.
func (w *ruleWriter) lookup(set string, id uint32, dreg int64, not bool) {
	w.do("lookup", func() {
		w.u32(unix.NFTA_LOOKUP_SREG, register(0))
		if dreg >= 0 {
			w.u32(unix.NFTA_LOOKUP_DREG, uint32(dreg))
		}
		w.text(unix.NFTA_LOOKUP_SET, set)
		if id != 0 {
			w.u32(unix.NFTA_LOOKUP_SET_ID, id)
		}
		if not {
			w.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

func (w *ruleWriter) is(e Is) error {
	k := e.Key.kind()
	if len(e.Values) != 1 {
		if err := w.load([]Key{e.Key}, anyRange(e.Values)); err != nil {
			return err
		}
		w.lookup("__set%d", w.nextAnonymous(), -1, e.Not)
		return nil
	}
	r := e.Values[0]
	if err := w.load([]Key{e.Key}, !r.one()); err != nil {
		return err
	}
	switch {
	case r.one() && e.Not:
		w.compare(unix.NFT_CMP_NEQ, 0, appendValue(nil, k, r.First, false))
	case r.one():
		w.compare(unix.NFT_CMP_EQ, 0, appendValue(nil, k, r.First, false))
		w.settle(e.Key, r.First)
	case e.Not:
		w.do("range", func() {
			w.u32(unix.NFTA_RANGE_SREG, register(0))
			w.u32(unix.NFTA_RANGE_OP, unix.NFT_RANGE_NEQ)
			w.data(unix.NFTA_RANGE_FROM_DATA, []byte(r.First))
			w.data(unix.NFTA_RANGE_TO_DATA, []byte(r.Last))
		})
	default:
		w.compare(unix.NFT_CMP_GTE, 0, []byte(r.First))
		w.compare(unix.NFT_CMP_LTE, 0, []byte(r.Last))
	}
	return nil
}

// settle notes what a comparison says of the packet's protocols.
func (w *ruleWriter) settle(k Key, v Value) {
	switch k {
	case NFProto:
		w.nfproto = Family(v[0])
	case L4Proto:
		w.l4proto = int(v[0])
	}
}

func (w *ruleWriter) has(e Has) error {
	if e.Key.kind().size() != 4 || !e.Key.kind().hostOrder() {
		return fmt.Errorf("%s has no bits", e.Key.info().text)
	}
	if err := w.load([]Key{e.Key}, false); err != nil {
		return err
	}
	w.mask(0, binary.NativeEndian.AppendUint32(nil, e.Mask))
	op := uint32(unix.NFT_CMP_NEQ)
	if e.Not {
		op = unix.NFT_CMP_EQ
	}
	w.compare(op, 0, make([]byte, 4))
	return nil
}

func (w *ruleWriter) in(e In) error {
	sh, err := w.shape(e.Set)
	if err != nil {
		return err
	}
	if err := w.load(e.Keys, sh.interval); err != nil {
		return err
	}
	w.lookup(e.Set, 0, -1, e.Not)
	return nil
}
