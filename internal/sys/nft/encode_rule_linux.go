package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Verdicts, as in linux/netfilter.h and linux/netfilter/nf_tables.h.
const (
	verdictDrop   = 0
	verdictAccept = 1
)

var verdicts = map[string]int32{
	"drop": verdictDrop, "accept": verdictAccept,
	"jump": unix.NFT_JUMP, "goto": unix.NFT_GOTO, "return": unix.NFT_RETURN,
}

// A ruleWriter turns one rule into expressions on registers.
type ruleWriter struct {
	*batch
	anonymous []uint32 // the numbers of the sets without a name, in the order of their use

	// What earlier expressions have settled. A header is loaded only after the
	// packet is known to have it, as nft does.
	nfproto Family // 0: unknown
	l4proto int    // -1: unknown
}

// rules adds a chain's rules at its end.
func (b *batch) rules(c *Chain) error {
	for i := range c.Rules {
		if err := b.rule(c.Name, &c.Rules[i]); err != nil {
			return fmt.Errorf("chain %s, rule %d (%s): %w", c.Name, i+1, c.Rules[i].Text(), err)
		}
	}
	return nil
}

func (b *batch) rule(chain string, r *Rule) error {
	w := ruleWriter{batch: b, l4proto: -1}
	switch b.family {
	case IPv4, IPv6:
		w.nfproto = b.family
	}
	for _, e := range r.Exprs {
		w.anonymousSet(e)
	}
	b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, "")
	b.steps[len(b.steps)-1].doing = "add to chain " + chain + " the rule " + r.Text()
	b.text(unix.NFTA_RULE_TABLE, b.table)
	b.text(unix.NFTA_RULE_CHAIN, chain)
	at := b.open(unix.NFTA_RULE_EXPRESSIONS)
	for _, e := range r.Exprs {
		if err := w.write(e); err != nil {
			return err
		}
	}
	b.close(at)
	if r.Comment != "" {
		b.bytes(unix.NFTA_RULE_USERDATA, commentData(nil, r.Comment))
	}
	b.send()
	return nil
}

// anonymousSet makes the set that an expression needs.
func (w *ruleWriter) anonymousSet(e Expr) {
	switch e := e.(type) {
	case Is:
		if len(e.Values) == 1 {
			return
		}
		values := e.Values
		if anyRange(values) {
			values = mergedRanges(values)
		}
		elements := make([]Element, len(values))
		for i, r := range values {
			elements[i].Key = []Range{r}
		}
		w.makeAnonymous("__set%d", anyRange(e.Values), e.Key.kind(), nil, elements)
	case DNAT:
		if c := e.Choose; c != nil {
			w.makeAnonymous("__map%d", c.ranges(), c.kind(), c.dataKinds(e.Family), c.Elements)
		}
	}
}

// ranges reports whether one of the keys is a range.
func (c *Choose) ranges() bool {
	return slices.ContainsFunc(c.Elements, func(e Element) bool { return !e.Key[0].one() })
}

func (w *ruleWriter) makeAnonymous(name string, interval bool, key kind, data []kind, elements []Element) {
	f := &setForm{name: name, flags: unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT, key: []kind{key}, data: data, size: len(elements)}
	if len(data) > 0 {
		f.flags |= unix.NFT_SET_MAP
	}
	if interval {
		f.flags |= unix.NFT_SET_INTERVAL
		f.size = 2*len(elements) + 1
	}
	id := w.addSet(f)
	w.batch.elements(nil, f, id, elements, false, true)
	w.anonymous = append(w.anonymous, id)
}

// nextAnonymous is the number of the next of them that an expression uses.
func (w *ruleWriter) nextAnonymous() uint32 {
	id := w.anonymous[0]
	w.anonymous = w.anonymous[1:]
	return id
}

// expr adds an expression, in a list or as an attribute.
func (b *batch) expr(kind uint16, name string, data func()) {
	at := b.open(kind)
	b.text(unix.NFTA_EXPR_NAME, name)
	inner := b.open(unix.NFTA_EXPR_DATA)
	data()
	b.close(inner)
	b.close(at)
}

func (w *ruleWriter) do(name string, data func()) { w.expr(unix.NFTA_LIST_ELEM, name, data) }

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

func (w *ruleWriter) write(e Expr) error {
	switch e := e.(type) {
	case Is:
		return w.is(e)
	case Has:
		return w.has(e)
	case In:
		return w.in(e)
	case Verdict:
		if _, ok := verdicts[e.Do]; !ok {
			return fmt.Errorf("there is no verdict %q", e.Do)
		}
		w.do("immediate", func() {
			w.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
			at := w.open(unix.NFTA_IMMEDIATE_DATA)
			w.verdict(e)
			w.close(at)
		})
	case VMap:
		sh, err := w.shape(e.Map)
		if err != nil {
			return err
		}
		if err := w.load(e.Keys, sh.interval); err != nil {
			return err
		}
		w.lookup(e.Map, 0, unix.NFT_REG_VERDICT, false)
	case DNAT:
		return w.dnat(e)
	case SNAT:
		if err := w.fits(e.Family, e.Addr); err != nil {
			return err
		}
		w.immediate(0, e.Addr.Unmap().AsSlice())
		w.nat(unix.NFT_NAT_SNAT, e.Family, true, -1, false)
	case Masquerade:
		w.masquerade(e)
	case Reject:
		return w.reject(e)
	case Limit, ConnCount, Counter:
		return w.stateful(unix.NFTA_LIST_ELEM, e)
	case Update:
		return w.update(e)
	case Log:
		w.do("log", func() {
			if e.Prefix != "" {
				w.text(unix.NFTA_LOG_PREFIX, fitQuotes(e.Prefix))
			}
			if e.Group >= 0 {
				w.u16(unix.NFTA_LOG_GROUP, uint16(e.Group))
			}
		})
	case SetKey:
		return w.setKey(e)
	case UseHelper:
		w.do("objref", func() {
			w.u32(unix.NFTA_OBJREF_IMM_TYPE, objectHelper)
			w.bytes(unix.NFTA_OBJREF_IMM_NAME, []byte(e.Name))
		})
	case Notrack:
		w.do("notrack", func() {})
	default:
		return fmt.Errorf("%T cannot be loaded", e)
	}
	return nil
}

func (b *batch) verdict(v Verdict) {
	at := b.open(unix.NFTA_DATA_VERDICT)
	b.u32(unix.NFTA_VERDICT_CODE, uint32(verdicts[v.Do]))
	if v.Chain != "" {
		b.text(unix.NFTA_VERDICT_CHAIN, v.Chain)
	}
	b.close(at)
}

// shape is what is known of a named set.
func (w *ruleWriter) shape(set string) (shape, error) {
	sh, ok := w.shapes[set]
	if !ok {
		return shape{}, fmt.Errorf("there is no set %s", set)
	}
	return sh, nil
}

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

func (w *ruleWriter) immediate(reg int, v []byte) {
	w.do("immediate", func() {
		w.u32(unix.NFTA_IMMEDIATE_DREG, register(reg))
		w.data(unix.NFTA_IMMEDIATE_DATA, v)
	})
}

// nat rewrites: with addr to the address in the first register, with a port of
// 0 or more to the port in that register. fixed says that the port is a
// constant, which nft marks.
func (w *ruleWriter) nat(kind uint32, f Family, addr bool, port int, fixed bool) {
	w.do("nat", func() {
		w.u32(unix.NFTA_NAT_TYPE, kind)
		w.u32(unix.NFTA_NAT_FAMILY, uint32(f))
		if addr {
			w.u32(unix.NFTA_NAT_REG_ADDR_MIN, register(0))
		}
		if port >= 0 {
			w.u32(unix.NFTA_NAT_REG_PROTO_MIN, register(port))
			if fixed {
				w.u32(unix.NFTA_NAT_FLAGS, rangeProtoSpecified)
			}
		}
	})
}

// rangeProtoSpecified is NF_NAT_RANGE_PROTO_SPECIFIED of linux/netfilter/nf_nat.h.
const rangeProtoSpecified = 2

// fits refuses an address of another family.
func (w *ruleWriter) fits(f Family, a netip.Addr) error {
	if a = a.Unmap(); !a.IsValid() || a.Is4() != (f == IPv4) || a.Is6() != (f == IPv6) {
		return fmt.Errorf("%s is no address of %s", a, f)
	}
	return nil
}

// addrRegisters is how many registers an address takes.
func addrRegisters(f Family) int {
	if f == IPv6 {
		return 4
	}
	return 1
}

func (w *ruleWriter) dnat(e DNAT) error {
	switch {
	case e.Choose != nil:
		return w.choose(e.Family, e.Choose)
	case e.Map != "":
		sh, err := w.shape(e.Map)
		if err != nil {
			return err
		}
		if err := w.load(e.Keys, sh.interval); err != nil {
			return err
		}
		w.lookup(e.Map, 0, int64(register(0)), false)
		port := -1
		if sh.dataLen > 4*addrRegisters(e.Family) {
			port = addrRegisters(e.Family)
		}
		w.nat(unix.NFT_NAT_DNAT, e.Family, true, port, false)
	case !e.Addr.IsValid():
		w.immediate(0, binary.BigEndian.AppendUint16(nil, e.Port))
		w.nat(unix.NFT_NAT_DNAT, e.Family, false, 0, true)
	default:
		if err := w.fits(e.Family, e.Addr); err != nil {
			return err
		}
		w.immediate(0, e.Addr.Unmap().AsSlice())
		port := -1
		if e.Port != 0 {
			port = 4 // nft begins a register of sixteen bytes
			w.immediate(port, binary.BigEndian.AppendUint16(nil, e.Port))
		}
		w.nat(unix.NFT_NAT_DNAT, e.Family, true, port, true)
	}
	return nil
}

func (w *ruleWriter) choose(f Family, c *Choose) error {
	switch c.By {
	case ByKey:
		if err := w.load([]Key{c.Key}, c.ranges()); err != nil {
			return err
		}
	case ByTurn, ByChance:
		kind := uint32(unix.NFT_NG_INCREMENTAL)
		if c.By == ByChance {
			kind = unix.NFT_NG_RANDOM
		}
		w.do("numgen", func() {
			w.u32(unix.NFTA_NG_DREG, register(0))
			w.u32(unix.NFTA_NG_MODULUS, c.Mod)
			w.u32(unix.NFTA_NG_TYPE, kind)
			w.u32(unix.NFTA_NG_OFFSET, 0)
		})
	case BySource:
		if _, err := w.loadFrom(4, []Key{sourceOf(f)}, false); err != nil {
			return err
		}
		w.do("hash", func() {
			w.u32(unix.NFTA_HASH_SREG, register(4))
			w.u32(unix.NFTA_HASH_DREG, register(0))
			w.u32(unix.NFTA_HASH_LEN, uint32(sourceOf(f).kind().size()))
			w.u32(unix.NFTA_HASH_MODULUS, c.Mod)
			w.u32(unix.NFTA_HASH_SEED, chooseSeed)
			w.u32(unix.NFTA_HASH_OFFSET, 0)
			w.u32(unix.NFTA_HASH_TYPE, unix.NFT_HASH_JENKINS)
		})
	default:
		return fmt.Errorf("there is no way %d to choose", c.By)
	}
	if c.ranges() && c.By != ByKey {
		w.hostToNetwork(0)
	}
	w.lookup("__map%d", w.nextAnonymous(), int64(register(0)), false)
	port := -1
	if len(c.dataKinds(f)) > 1 {
		port = addrRegisters(f)
	}
	w.nat(unix.NFT_NAT_DNAT, f, true, port, false)
	return nil
}

func (w *ruleWriter) masquerade(e Masquerade) {
	first, last := 0, -1
	if e.First != 0 {
		w.immediate(first, binary.BigEndian.AppendUint16(nil, e.First))
		if e.Last != 0 && e.Last != e.First {
			last = 4
			w.immediate(last, binary.BigEndian.AppendUint16(nil, e.Last))
		}
	}
	w.do("masq", func() {
		if e.First == 0 {
			return
		}
		w.u32(unix.NFTA_MASQ_FLAGS, rangeProtoSpecified)
		w.u32(unix.NFTA_MASQ_REG_PROTO_MIN, register(first))
		if last >= 0 {
			w.u32(unix.NFTA_MASQ_REG_PROTO_MAX, register(last))
		}
	})
}

// rejects are the codes of an ICMP error for both families, NFT_REJECT_ICMPX_*.
var rejects = map[string]uint8{"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3}

func (w *ruleWriter) reject(e Reject) error {
	kind, code := uint32(unix.NFT_REJECT_TCP_RST), uint8(0)
	if e.With == rejectReset {
		if err := w.needL4(unix.IPPROTO_TCP); err != nil {
			return err
		}
	} else {
		var ok bool
		kind = unix.NFT_REJECT_ICMPX_UNREACH
		if code, ok = rejects[e.With]; !ok {
			return fmt.Errorf("there is no reject with %q", e.With)
		}
	}
	w.do("reject", func() {
		w.u32(unix.NFTA_REJECT_TYPE, kind)
		w.u8(unix.NFTA_REJECT_ICMP_CODE, code)
	})
	return nil
}

// stateful adds an expression that remembers something.
func (w *ruleWriter) stateful(kind uint16, e Expr) error {
	switch e := e.(type) {
	case Limit:
		unit := uint64(e.Per / time.Second)
		if e.Per%time.Second != 0 || unit == 0 || e.Rate == 0 {
			return fmt.Errorf("no limit is %d in %s", e.Rate, e.Per)
		}
		burst, over := e.Burst, uint32(0)
		if burst == 0 {
			burst = defaultBurst
		}
		if e.Over {
			over = unix.NFT_LIMIT_F_INV
		}
		w.expr(kind, "limit", func() {
			w.u64(unix.NFTA_LIMIT_RATE, e.Rate)
			w.u64(unix.NFTA_LIMIT_UNIT, unit)
			w.u32(unix.NFTA_LIMIT_BURST, burst)
			w.u32(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS)
			w.u32(unix.NFTA_LIMIT_FLAGS, over)
		})
	case ConnCount:
		over := uint32(0)
		if e.Over {
			over = 1 // NFT_CONNLIMIT_F_INV
		}
		w.expr(kind, "connlimit", func() {
			w.u32(attrConnCount, e.N)
			w.u32(attrConnFlags, over)
		})
	case Counter:
		w.expr(kind, "counter", func() { w.count(e.Count) })
	default:
		return fmt.Errorf("an element cannot hold %s", exprText(e))
	}
	return nil
}

func (b *batch) count(c Count) {
	if c == (Count{}) {
		return
	}
	b.u64(unix.NFTA_COUNTER_BYTES, c.Bytes)
	b.u64(unix.NFTA_COUNTER_PACKETS, c.Packets)
}

var updates = map[string]uint32{"add": unix.NFT_DYNSET_OP_ADD, "update": unix.NFT_DYNSET_OP_UPDATE, "delete": 2}

func (w *ruleWriter) update(e Update) error {
	op, ok := updates[e.Op]
	if !ok {
		return fmt.Errorf("elements cannot be made to %q", e.Op)
	}
	keys := slices.Concat(e.Keys, e.DataKeys)
	for _, k := range keys {
		if err := w.need(k); err != nil {
			return err
		}
	}
	next, err := w.loadFrom(0, e.Keys, false)
	if err != nil {
		return err
	}
	data := (next + 3) &^ 3
	if _, err := w.loadFrom(data, e.DataKeys, false); err != nil {
		return err
	}
	var failed error
	w.do("dynset", func() {
		w.u32(unix.NFTA_DYNSET_SREG_KEY, register(0))
		if len(e.DataKeys) > 0 {
			w.u32(unix.NFTA_DYNSET_SREG_DATA, register(data))
		}
		w.u32(unix.NFTA_DYNSET_OP, op)
		if e.Timeout > 0 {
			w.u64(unix.NFTA_DYNSET_TIMEOUT, wholeMilliseconds(e.Timeout))
		}
		w.text(unix.NFTA_DYNSET_SET_NAME, e.Set)
		switch len(e.With) {
		case 0:
		case 1:
			failed = w.stateful(unix.NFTA_DYNSET_EXPR, e.With[0])
		default:
			at := w.open(attrDynsetExprs)
			for _, with := range e.With {
				if err := w.stateful(unix.NFTA_LIST_ELEM, with); err != nil {
					failed = err
				}
			}
			w.close(at)
		}
	})
	return failed
}

func (w *ruleWriter) setKey(e SetKey) error {
	var key uint32
	v := binary.NativeEndian.AppendUint32(nil, e.Value)
	switch e.Key {
	case Mark:
		key = unix.NFT_META_MARK
	case NFTrace:
		key = unix.NFT_META_NFTRACE
		v = []byte{byte(e.Value)}
	default:
		return fmt.Errorf("%s cannot be set", strings.TrimSpace(e.Key.info().text))
	}
	w.immediate(0, v)
	w.do("meta", func() {
		w.u32(unix.NFTA_META_KEY, key)
		w.u32(unix.NFTA_META_SREG, register(0))
	})
	return nil
}
