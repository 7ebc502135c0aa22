package nft

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// understand reads the rules of the table, of which the sets are known by now,
// from what they do with registers.
func (t *Table) understand() {
	sets := map[string]*Set{}
	for i := range t.Sets {
		sets[t.Sets[i].Name] = &t.Sets[i]
	}
	anonymous := map[string]*Set{}
	for i := range t.Anonymous {
		anonymous[t.Anonymous[i].Name] = &t.Anonymous[i]
	}
	for i := range t.Chains {
		rules := t.Chains[i].Rules
		for k := range rules {
			m := meaning{sets: sets, anonymous: anonymous, raw: rules[k].Raw, network: t.Family}
			m.read()
			rules[k].Exprs = m.exprs
			if t.Family == Inet {
				rules[k].Exprs = withoutImplied(m.exprs)
			}
			if rules[k].Comment == "" {
				rules[k].Comment = m.comment
			}
		}
	}
}

// A meaning is what the rule that is being read says.
type meaning struct {
	sets, anonymous map[string]*Set

	raw       []RawExpr // what is still to be read
	regs      [16]*held // by the first register of each
	network   Family    // of the packet, as far as the rule has asked
	transport int       // its protocol, 0 where the rule has not asked
	exprs     []Expr
	comment   string
}

// A held thing is what stands in registers.
type held struct {
	key   Key    // 0: it has only words
	words string // nft's for it
	kind  kind   // how values of it are written
	size  int    // bytes

	more    []Key  // keys that follow in the same bytes
	mask    []byte // only these bits
	swapped bool   // a number of this machine turned into network order
	present bool   // one byte: whether there is one

	data     []byte  // a constant
	choice   *Choose // a number, or with Elements what a map leads to
	mapKeys  []Key   // what a named map leads to
	mapNamed string
	at       *held // the first component of data, of which this is one more
}

func (m *meaning) add(e Expr) { m.exprs = append(m.exprs, e) }

func (m *meaning) unknown(format string, args ...any) {
	m.add(Unknown{strings.TrimSpace(fmt.Sprintf(format, args...))})
}

// reg is what a register holds; there is always something.
func (m *meaning) reg(r Reg) *held {
	if int(r) < len(m.regs) && m.regs[r] != nil {
		return m.regs[r]
	}
	return &held{words: fmt.Sprintf("[reg %d]", r), kind: kindInteger}
}

func (m *meaning) hold(r Reg, h *held) {
	if int(r) < len(m.regs) {
		m.regs[r] = h
	}
}

func ofKey(k Key) *held {
	return &held{key: k, words: keys[k].text, kind: keys[k].kind, size: keys[k].kind.size()}
}

func (m *meaning) read() {
	for len(m.raw) > 0 {
		e := m.raw[0]
		m.raw = m.raw[1:]
		m.step(e)
	}
}

func (m *meaning) step(e RawExpr) {
	switch e := e.(type) {
	case RawMeta:
		m.hold(e.Reg, metaHeld(e.Key))
	case RawPayload:
		m.hold(e.Reg, m.payload(e.Base, e.Off, e.Len))
	case RawCt:
		m.hold(e.Reg, ctHeld(e.Key, e.Dir))
	case RawFib:
		m.hold(e.Reg, fibHeld(e.Flags, e.Result))
	case RawExthdr:
		m.hold(e.Reg, &held{words: exthdrWords(e), kind: kindInteger, size: e.Len, present: e.Present})
	case RawRt:
		m.hold(e.Reg, &held{words: indexed([]string{"rt classid", "rt ip nexthop", "rt ip6 nexthop", "rt mtu", "rt ipsec"}, e.Key, "rt"), kind: kindInteger})
	case RawSocket:
		m.hold(e.Reg, &held{words: indexed([]string{"socket transparent", "socket mark", "socket wildcard", "socket cgroupv2"}, e.Key, "socket"), kind: kindInteger})
	case RawHash:
		m.hold(e.Dst, m.hashed(e))
	case RawNumgen:
		h := &held{words: fmt.Sprintf("numgen %s mod %d", pick(e.Random, "random", "inc"), e.Mod), kind: kindInteger, size: 4}
		if e.Offset != 0 {
			h.words += fmt.Sprintf(" offset %d", e.Offset)
		} else if h.choice = (&Choose{By: ByTurn, Mod: e.Mod}); e.Random {
			h.choice.By = ByChance
		}
		m.hold(e.Dst, h)
	case RawImmediate:
		m.hold(e.Reg, &held{data: e.Data, words: looseText(e.Data), kind: kindInteger, size: len(e.Data)})
	case RawBitwise:
		m.hold(e.Dst, m.masked(e))
	case RawByteorder:
		h := *m.reg(e.Src)
		h.swapped = !h.swapped
		m.hold(e.Dst, &h)
	case RawCmp:
		m.compare(e)
	case RawRange:
		h := m.reg(e.Reg)
		m.within(h, e.From, e.To, e.Not)
	case RawLookup:
		m.lookup(e)
	case RawDynset:
		m.dynset(e)
	case RawVerdict:
		m.add(e.Verdict)
	case RawCounter:
		m.add(Counter{e.Count})
	case RawLimit:
		m.add(limitOf(e))
	case RawQuota:
		m.unknown("quota %s%d bytes used %d bytes", overText(e.Over), e.Bytes, e.Used)
	case RawConnCount:
		m.add(e.ConnCount)
	case RawLog:
		m.add(e.Log)
	case RawReject:
		m.reject(e)
	case RawNAT:
		m.nat(e)
	case RawMasquerade:
		m.masquerade(e)
	case RawRedirect:
		m.unknown("redirect%s%s", m.toPorts(e.ProtoMin, e.ProtoMax), natFlags(e.Flags))
	case RawMetaSet:
		m.setMeta(e)
	case RawCtSet:
		m.unknown("%s set %s", ctHeld(e.Key, e.Dir).words, m.valueOf(ctHeld(e.Key, e.Dir), m.reg(e.Reg)))
	case RawPayloadSet:
		m.unknown("%s set %s", m.payload(e.Base, e.Off, e.Len).words, m.valueOf(m.payload(e.Base, e.Off, e.Len), m.reg(e.Reg)))
	case RawObject:
		m.object(e)
	case RawNotrack:
		m.add(Notrack{})
	case RawQueue:
		m.unknown("queue%s", pick(e.Bypass, " flags bypass", ""))
	case RawXT:
		if text, ok := xtComment(e); ok {
			m.comment = text
		} else {
			m.understandXT(e)
		}
	case RawOther:
		m.unknown("[%s]", e.Name)
	default:
		m.unknown("[%T]", e)
	}
}

func pick[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}

func indexed(names []string, n uint32, what string) string {
	if n < uint32(len(names)) {
		return names[n]
	}
	return fmt.Sprintf("%s %d", what, n)
}

// What is loaded.

func metaHeld(key uint32) *held {
	switch key {
	case unix.NFT_META_IIFNAME:
		return ofKey(IIFName)
	case unix.NFT_META_OIFNAME:
		return ofKey(OIFName)
	case unix.NFT_META_L4PROTO:
		return ofKey(L4Proto)
	case unix.NFT_META_NFPROTO:
		return ofKey(NFProto)
	case unix.NFT_META_MARK:
		return ofKey(Mark)
	case unix.NFT_META_NFTRACE:
		return &held{key: NFTrace, words: keys[NFTrace].text, kind: kindInteger, size: 1}
	case unix.NFT_META_PROTOCOL:
		return &held{words: "meta protocol", kind: kindEthertype, size: 2}
	case unix.NFT_META_BRI_IIFNAME, unix.NFT_META_BRI_OIFNAME:
		return &held{words: pick(key == unix.NFT_META_BRI_IIFNAME, "ibrname", "obrname"), kind: kindIfname, size: 16}
	case unix.NFT_META_LEN, unix.NFT_META_PRIORITY, unix.NFT_META_IIF, unix.NFT_META_OIF, unix.NFT_META_SKUID, unix.NFT_META_SKGID,
		unix.NFT_META_RTCLASSID, unix.NFT_META_CPU, unix.NFT_META_IIFGROUP, unix.NFT_META_OIFGROUP, unix.NFT_META_CGROUP:
		return &held{words: "meta " + metaNames[key], kind: kindInteger, size: 4}
	}
	if name, ok := metaNames[key]; ok {
		return &held{words: "meta " + name, kind: kindInteger}
	}
	return &held{words: fmt.Sprintf("meta key%d", key), kind: kindInteger}
}

var metaNames = map[uint32]string{
	unix.NFT_META_LEN: "length", unix.NFT_META_PRIORITY: "priority", unix.NFT_META_IIF: "iif", unix.NFT_META_OIF: "oif",
	unix.NFT_META_IIFTYPE: "iiftype", unix.NFT_META_OIFTYPE: "oiftype", unix.NFT_META_SKUID: "skuid", unix.NFT_META_SKGID: "skgid",
	unix.NFT_META_RTCLASSID: "rtclassid", unix.NFT_META_SECMARK: "secmark", unix.NFT_META_PKTTYPE: "pkttype", unix.NFT_META_CPU: "cpu",
	unix.NFT_META_IIFGROUP: "iifgroup", unix.NFT_META_OIFGROUP: "oifgroup", unix.NFT_META_CGROUP: "cgroup", unix.NFT_META_PRANDOM: "random",
	25: "ipsec", 26: "iifkind", 27: "oifkind", 28: "ibrpvid", 29: "ibrvproto", 30: "time", 31: "day", 32: "hour", 33: "sdif", 34: "sdifname",
}

// fields of headers that have a Key.
var fields = []struct {
	base      uint32
	off, size int
	network   Family
	key       Key
}{
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4, IPv4, IPSaddr},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4, IPv4, IPDaddr},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16, IPv6, IP6Saddr},
	{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16, IPv6, IP6Daddr},
	{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, 0, Sport},
	{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 0, Dport},
}

// payload is a field, or the begin of one (nft compares prefixes of whole bytes
// so), or two that lie side by side (which nft compares at once).
func (m *meaning) payload(base uint32, off, size int) *held {
	network := m.network
	if network == Inet && base == unix.NFT_PAYLOAD_NETWORK_HEADER { // a rule that has not asked
		network = pick(size >= 16, IPv6, IPv4)
	}
	if base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && off == 0 && size == 1 {
		switch m.transport {
		case unix.IPPROTO_ICMP:
			return ofKey(ICMPType)
		case unix.IPPROTO_ICMPV6:
			return ofKey(ICMPv6Type)
		}
	}
	for i, f := range fields {
		if f.base != base || f.off != off || f.network != 0 && f.network != network {
			continue
		}
		h := ofKey(f.key)
		if base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && size < f.size {
			break
		}
		h.size = size
		if next := i + 1; size > f.size && i%2 == 0 && size <= 2*f.size {
			h.more = []Key{fields[next].key}
		} else if size > f.size {
			break
		}
		return h
	}
	kind := kindInteger
	words := ""
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && size == 1 && network == IPv4 && off == 9:
		words, kind = "ip protocol", kindInetProto
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && size == 1 && network == IPv4 && off == 8:
		words = "ip ttl"
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && size == 2 && network == IPv4 && off == 2:
		words = "ip length"
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && size == 2 && network == IPv4 && off == 6:
		words = "ip frag-off"
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && size == 1 && network == IPv6 && off == 6:
		words, kind = "ip6 nexthdr", kindInetProto
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && size == 1 && network == IPv6 && off == 7:
		words = "ip6 hoplimit"
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && size == 1 && off == 13 && m.transport == unix.IPPROTO_TCP:
		words = "tcp flags"
	case base == unix.NFT_PAYLOAD_LL_HEADER && size == 6 && (off == 0 || off == 6):
		words, kind = pick(off == 0, "ether daddr", "ether saddr"), kindEther
	case base == unix.NFT_PAYLOAD_LL_HEADER && size == 2 && off == 12:
		words, kind = "ether type", kindEthertype
	default:
		words = fmt.Sprintf("@%s,%d,%d", indexed([]string{"ll", "nh", "th", "ih"}, base, "header"), 8*off, 8*size)
	}
	return &held{words: words, kind: kind, size: size}
}

func ctHeld(key uint32, dir int) *held {
	if dir <= 0 {
		switch key {
		case unix.NFT_CT_STATE:
			return ofKey(CtState)
		case unix.NFT_CT_STATUS:
			return ofKey(CtStatus)
		case unix.NFT_CT_DIRECTION:
			return ofKey(CtDirection)
		}
	}
	if dir == 0 {
		switch key {
		case unix.NFT_CT_SRC_IP:
			return ofKey(CtOrigIPSaddr)
		case unix.NFT_CT_DST_IP:
			return ofKey(CtOrigIPDaddr)
		case unix.NFT_CT_SRC_IP6:
			return ofKey(CtOrigIP6Saddr)
		case unix.NFT_CT_DST_IP6:
			return ofKey(CtOrigIP6Daddr)
		case unix.NFT_CT_PROTO_SRC:
			return ofKey(CtOrigSport)
		case unix.NFT_CT_PROTO_DST:
			return ofKey(CtOrigDport)
		}
	}
	h := &held{words: "ct ", kind: kindInteger}
	switch dir {
	case 0:
		h.words += "original "
	case 1:
		h.words += "reply "
	}
	h.words += indexed([]string{
		"state", "direction", "status", "mark", "secmark", "expiration", "helper", "l3proto", "saddr", "daddr", "protocol", "proto-src",
		"proto-dst", "label", "packets", "bytes", "avgpkt", "zone", "event", "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "id",
	}, key, "key")
	switch key {
	case unix.NFT_CT_MARK:
		h.kind, h.size = kindMark, 4
	case unix.NFT_CT_PROTO_SRC, unix.NFT_CT_PROTO_DST:
		h.kind, h.size = kindInetService, 2
	case unix.NFT_CT_SRC_IP, unix.NFT_CT_DST_IP:
		h.kind, h.size = kindIPv4, 4
	case unix.NFT_CT_SRC_IP6, unix.NFT_CT_DST_IP6:
		h.kind, h.size = kindIPv6, 16
	}
	return h
}

func fibHeld(flags, result uint32) *held {
	const addresses = unix.NFTA_FIB_F_SADDR | unix.NFTA_FIB_F_DADDR
	switch {
	case result == unix.NFT_FIB_RESULT_ADDRTYPE && flags == unix.NFTA_FIB_F_DADDR:
		return ofKey(FibDaddrType)
	case result == unix.NFT_FIB_RESULT_ADDRTYPE && flags == unix.NFTA_FIB_F_DADDR|unix.NFTA_FIB_F_IIF:
		return ofKey(FibDaddrIIFType)
	case result == unix.NFT_FIB_RESULT_ADDRTYPE && flags == unix.NFTA_FIB_F_SADDR:
		return ofKey(FibSaddrType)
	case result == unix.NFT_FIB_RESULT_OIF && flags&^unix.NFTA_FIB_F_PRESENT == unix.NFTA_FIB_F_SADDR|unix.NFTA_FIB_F_IIF:
		h := ofKey(FibSaddrOIF)
		h.present = flags&unix.NFTA_FIB_F_PRESENT != 0
		return h
	}
	words := "fib"
	for i, name := range []string{"saddr", "daddr", "mark", "iif", "oif"} {
		if flags&(1<<i) != 0 {
			words += pick(words == "fib", " ", " . ") + name
		}
	}
	h := &held{words: words + " " + indexed([]string{"?", "oif", "oifname", "type"}, result, "result"), kind: kindInteger, present: flags&unix.NFTA_FIB_F_PRESENT != 0}
	switch result {
	case unix.NFT_FIB_RESULT_OIFNAME:
		h.kind, h.size = kindIfname, 16
	case unix.NFT_FIB_RESULT_ADDRTYPE:
		h.kind, h.size = kindFibType, 4
	}
	return h
}

func exthdrWords(e RawExthdr) string {
	return fmt.Sprintf("%s %d,%d,%d", indexed([]string{"exthdr", "tcp option", "ip option", "sctp chunk", "dccp option"}, e.Op, "exthdr"), e.Type, e.Off*8, e.Len*8)
}

func (m *meaning) hashed(e RawHash) *held {
	h := &held{kind: kindInteger, size: 4}
	if e.Sym {
		h.words = fmt.Sprintf("symhash mod %d", e.Mod)
		return h
	}
	of := m.reg(e.Src)
	h.words = fmt.Sprintf("jhash %s mod %d seed 0x%x", of.words, e.Mod, e.Seed)
	if e.Offset != 0 {
		h.words += fmt.Sprintf(" offset %d", e.Offset)
	} else if e.Seed == chooseSeed && (of.key == IPSaddr && e.Len == 4 || of.key == IP6Saddr && e.Len == 16) {
		h.choice = &Choose{By: BySource, Mod: e.Mod}
	}
	return h
}

// firstHalf is the mask of an IPv6 address's /64.
var firstHalf = []byte("\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00")

func (m *meaning) masked(e RawBitwise) *held {
	h := *m.reg(e.Src)
	if e.Shift == 0 && len(bytes.Trim(e.Xor, "\x00")) == 0 && h.data == nil && h.mask == nil {
		if h.key == IP6Saddr && bytes.Equal(e.Mask, firstHalf) {
			return ofKey(IP6Saddr64)
		}
		h.mask = e.Mask
		return &h
	}
	if e.Shift != 0 {
		return &held{words: fmt.Sprintf("%s %s %d", h.words, pick(e.Shift > 0, "<<", ">>"), max(e.Shift, -e.Shift)), kind: kindInteger}
	}
	return &held{words: fmt.Sprintf("%s & %s ^ %s", h.words, looseText(e.Mask), looseText(e.Xor)), kind: kindInteger}
}

// What is compared.

var signs = [...]string{Equal: "", NotEqual: "!= ", Less: "< ", LessEqual: "<= ", Greater: "> ", GreaterEqual: ">= "}

func (m *meaning) compare(e RawCmp) {
	h := m.reg(e.Reg)
	not := e.Op == NotEqual
	if e.Op > NotEqual {
		if len(m.raw) > 0 && e.Op == GreaterEqual {
			if to, ok := m.raw[0].(RawCmp); ok && to.Op == LessEqual && to.Reg == e.Reg {
				m.raw = m.raw[1:]
				m.within(h, e.Data, to.Data, false)
				return
			}
		}
		m.unknown("%s %s%s", h.wordsMasked(), signs[e.Op], h.text(e.Data))
		return
	}
	switch {
	case h.present:
		m.comparePresence(h, e, not)
	case h.mask != nil:
		m.compareMasked(h, e, not)
	case len(h.more) > 0:
		m.compareMany(h, e.Data, not)
	case h.kind == kindIfname && len(e.Data) < 16:
		m.compareName(h, e.Data, not)
	case len(e.Data) < h.kind.size() && (h.key == IPSaddr || h.key == IPDaddr || h.key == IP6Saddr || h.key == IP6Daddr):
		m.add(Is{Key: h.key, Values: []Range{beginning(e.Data, h.kind.size())}, Not: not})
	case h.key != 0:
		m.is(h, Is{Key: h.key, Values: []Range{One(h.value(e.Data))}, Not: not})
	default:
		m.unknown("%s %s%s", h.words, signs[e.Op], h.text(e.Data))
		if h.words == "meta protocol" && !not && len(e.Data) == 2 {
			switch binary.BigEndian.Uint16(e.Data) {
			case unix.ETH_P_IP:
				m.network = IPv4
			case unix.ETH_P_IPV6:
				m.network = IPv6
			}
		}
	}
}

// is adds a comparison, and keeps in mind what it says of what may follow.
func (m *meaning) is(h *held, is Is) {
	if len(is.Values) == 1 && is.Values[0].one() && len(is.Values[0].First) == 1 && !is.Not {
		switch n := is.Values[0].First[0]; is.Key {
		case NFProto:
			m.network = Family(n)
		case L4Proto:
			m.transport = int(n)
		}
	}
	m.add(is)
}

// value is what the Value is of bytes in registers.
func (h *held) value(b []byte) Value {
	if h.kind.hostOrder() && !h.swapped && (len(b) == 4 || len(b) == 2) {
		b = slices.Clone(b)
		if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
			slices.Reverse(b)
		}
	}
	return Value(b)
}

// text is bytes in registers as nft writes values of what is held.
func (h *held) text(b []byte) string {
	v := h.value(b)
	switch {
	case h.kind == kindIfname:
		return quoted(cString(b))
	case h.kind == kindEther:
		return colons(b)
	case h.kind == kindEthertype && len(b) == 2:
		switch n := binary.BigEndian.Uint16(b); n {
		case unix.ETH_P_IP:
			return "ip"
		case unix.ETH_P_IPV6:
			return "ip6"
		case unix.ETH_P_ARP:
			return "arp"
		}
	case len(v) == h.kind.size() && h.kind != kindInteger:
		return valueText(h.kind, v)
	}
	if len(b) == 4 && h.size != 4 { // of which order is not known
		return looseText(b)
	}
	return numberText([]byte(v))
}

func (h *held) wordsMasked() string {
	if h.mask == nil {
		return h.words
	}
	return fmt.Sprintf("%s & %s", h.words, h.maskText(h.mask))
}

func (h *held) maskText(b []byte) string {
	if h.kind == kindIPv4 || h.kind == kindIPv6 {
		return h.text(b)
	}
	return hexText([]byte(h.value(b)))
}

// numberText is a number in network order.
func numberText(b []byte) string {
	if len(b) > 0 && len(b) <= 8 {
		var whole [8]byte
		copy(whole[8-len(b):], b)
		return strconv.FormatUint(binary.BigEndian.Uint64(whole[:]), 10)
	}
	return hexText(b)
}

func hexText(b []byte) string { return "0x" + hex.EncodeToString(b) }

// looseText is a constant of which nobody says what it is.
func looseText(b []byte) string {
	switch {
	case len(b) == 1 || len(b) == 2:
		return numberText(b)
	case len(b) == 4:
		return fmt.Sprintf("0x%08x", binary.NativeEndian.Uint32(b))
	}
	return hexText(b)
}

func colons(b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf("%02x", c)
	}
	return strings.Join(parts, ":")
}

// beginning is the range of what begins so.
func beginning(b []byte, size int) Range {
	rest := max(0, size-len(b))
	return Range{Value(b) + Value(make([]byte, rest)), Value(b) + Value(bytes.Repeat([]byte{0xff}, rest))}
}

// comparePresence reads the answer of fib to whether there is a route.
func (m *meaning) comparePresence(h *held, e RawCmp, not bool) {
	none := len(bytes.Trim(e.Data, "\x00")) == 0
	if h.key == FibSaddrOIF {
		m.add(Is{Key: FibSaddrOIF, Values: []Range{One(Number(0))}, Not: not == none})
		return
	}
	m.unknown("%s %s", h.words, pick(none != not, "missing", "exists"))
}

func (m *meaning) compareMasked(h *held, e RawCmp, not bool) {
	if len(e.Data) != len(h.mask) {
		m.unknown("%s %s%s", h.wordsMasked(), pick(not, "!= ", "== "), h.text(e.Data))
		return
	}
	if h.key != 0 && h.kind.hostOrder() && len(h.mask) == 4 && len(bytes.Trim(e.Data, "\x00")) == 0 {
		m.add(Has{Key: h.key, Mask: Value(h.value(h.mask)).number(), Not: !not})
		return
	}
	if h.key != 0 && (h.kind == kindIPv4 || h.kind == kindIPv6) && len(h.more) == 0 && len(e.Data) == h.kind.size() {
		last := make([]byte, len(e.Data))
		for i := range last {
			last[i] = e.Data[i] | ^h.mask[i]
		}
		r := Range{Value(e.Data), Value(last)}
		n, ok := prefixLen(r)
		if r.First == r.Last {
			r, ok = One(r.First), true
		}
		if ok && isPrefix(h.mask, n, r.one()) {
			m.add(Is{Key: h.key, Values: []Range{r}, Not: not})
			return
		}
	}
	if h.words == "tcp flags" && len(h.mask) == 1 {
		switch {
		case e.Data[0] == 0 && not:
			m.unknown("tcp flags %s", flagText(h.mask[0], ","))
		case e.Data[0] == 0:
			m.unknown("tcp flags ! %s", flagText(h.mask[0], ","))
		default:
			m.unknown("tcp flags %s%s / %s", pick(not, "!= ", ""), flagText(e.Data[0], ","), flagText(h.mask[0], ","))
		}
		return
	}
	m.unknown("%s %s %s", h.wordsMasked(), pick(not, "!=", "=="), h.text(e.Data))
}

// isPrefix reports whether the mask is n bits of one, or whole.
func isPrefix(mask []byte, n int, whole bool) bool {
	for i, b := range mask {
		want := byte(0xff)
		if bits := n - 8*i; !whole && bits < 8 {
			want = ^byte(0xff >> max(0, bits))
		}
		if b != want {
			return false
		}
	}
	return true
}

func flagText(b byte, comma string) string {
	var names []string
	for i, name := range []string{"fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"} {
		if b&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "0x0"
	}
	return strings.Join(names, comma)
}

// compareMany reads the comparison of fields that lie side by side.
func (m *meaning) compareMany(h *held, data []byte, not bool) {
	if not || len(data) < h.kind.size() { // of which either may differ
		m.unknown("%s . %s %s%s", h.words, keysText(h.more), pick(not, "!= ", ""), hexText(data))
		return
	}
	size := h.kind.size()
	m.add(Is{Key: h.key, Values: []Range{One(Value(data[:size]))}})
	rest := data[size:]
	if next := h.more[0]; len(rest) >= size {
		m.add(Is{Key: next, Values: []Range{One(Value(rest[:size]))}})
	} else {
		m.add(Is{Key: next, Values: []Range{beginning(rest, size)}})
	}
}

// compareName reads the comparison of an interface's name: with its zero byte,
// or else of how it begins.
func (m *meaning) compareName(h *held, data []byte, not bool) {
	if bytes.IndexByte(data, 0) < 0 {
		m.unknown("%s %s%s", h.words, pick(not, "!= ", ""), quoted(string(data)+"*"))
		return
	}
	if h.key == 0 {
		m.unknown("%s %s%s", h.words, pick(not, "!= ", ""), h.text(data))
		return
	}
	m.add(Is{Key: h.key, Values: []Range{One(Name(cString(data)))}, Not: not})
}

func (m *meaning) within(h *held, from, to []byte, not bool) {
	if h.key != 0 && h.mask == nil && len(h.more) == 0 && len(from) == len(to) && len(from) == h.kind.size() {
		first, last := h.value(from), h.value(to)
		m.add(Is{Key: h.key, Values: []Range{{first, last}}, Not: not})
		return
	}
	m.unknown("%s %s%s-%s", h.wordsMasked(), pick(not, "!= ", ""), h.text(from), h.text(to))
}

// What is looked up.

// components are what the registers from r on hold, n of them.
func (m *meaning) components(r Reg, n int) (list []*held, keys []Key, words string) {
	var names []string
	known := true
	for range n {
		h := m.reg(r)
		list = append(list, h)
		known = known && h.key != 0 && h.mask == nil && len(h.more) == 0
		keys = append(keys, h.key)
		names = append(names, h.wordsMasked())
		r += Reg(padded(max(h.size, 1)) / 4)
	}
	if !known {
		keys = nil
	}
	return list, keys, strings.Join(names, " . ")
}

func (m *meaning) lookup(e RawLookup) {
	set, hidden := m.anonymous[e.Set]
	if !hidden {
		set = m.sets[e.Set]
	}
	n := 1
	if set != nil {
		n = max(1, len(set.Key))
	}
	list, keys, words := m.components(e.Reg, n)
	switch {
	case hidden && e.Map:
		m.hold(e.Dst, m.chosen(list, words, set))
	case hidden && e.VMap:
		m.unknown("%s vmap %s", words, m.anonymousText(list, set))
	case hidden && len(list) == 1 && keys != nil && !set.Partial:
		values := make([]Range, 0, len(set.Elements))
		for _, el := range set.Elements {
			if len(el.Key) == 1 {
				values = append(values, list[0].ordered(set, el.Key[0]))
			}
		}
		slices.SortFunc(values, func(a, b Range) int { return strings.Compare(string(a.First), string(b.First)) })
		m.is(list[0], Is{Key: keys[0], Values: values, Not: e.Not})
	case hidden:
		m.unknown("%s %s%s", words, pick(e.Not, "!= ", ""), m.anonymousText(list, set))
	case e.Map:
		h := &held{mapKeys: keys, mapNamed: e.Set, words: words + " map @" + e.Set}
		if keys == nil {
			h.mapNamed = ""
		}
		m.hold(e.Dst, h)
		if set != nil && len(set.Data) > 1 { // the port is beside the address
			m.hold(e.Dst+Reg(padded(set.Data[0].size())/4), &held{at: h})
		}
	case keys == nil:
		m.unknown("%s %s%s@%s", words, pick(e.Not, "!= ", ""), pick(e.VMap, "vmap ", ""), e.Set)
	case e.VMap:
		m.add(VMap{Keys: keys, Map: e.Set})
	default:
		m.add(In{Keys: keys, Set: e.Set, Not: e.Not})
	}
}

// ordered is the range of an anonymous set in network order: of a set without
// intervals numbers are as this machine has them.
func (h *held) ordered(set *Set, r Range) Range {
	if set.Interval || len(set.Key) == 0 || set.Key[0] != OtherType {
		return r
	}
	first := h.value([]byte(r.First))
	if r.Last == "" {
		return One(first)
	}
	return Range{first, h.value([]byte(r.Last))}
}

// chosen is what a map without a name leads to.
func (m *meaning) chosen(list []*held, words string, set *Set) *held {
	h := &held{words: words + " map " + m.anonymousText(list, set)}
	if len(list) != 1 || set.Partial {
		return h
	}
	c := Choose{Key: list[0].key}
	switch {
	case list[0].choice != nil:
		c = *list[0].choice
	case list[0].key == 0 || list[0].mask != nil || len(list[0].more) > 0:
		return h
	}
	for _, e := range set.Elements {
		if len(e.Key) != 1 {
			return h
		}
		e.Key = []Range{list[0].ordered(set, e.Key[0])}
		c.Elements = append(c.Elements, e)
	}
	slices.SortFunc(c.Elements, func(a, b Element) int { return strings.Compare(string(a.Key[0].First), string(b.Key[0].First)) })
	h.choice = &c
	return h
}

// anonymousText is a set without a name, so much of it as people read.
func (m *meaning) anonymousText(list []*held, set *Set) string {
	const most = 32
	var parts []string
	sorted := slices.SortedStableFunc(slices.Values(set.Elements), func(a, b Element) int {
		return slices.CompareFunc(a.Key, b.Key, func(a, b Range) int { return strings.Compare(string(a.First), string(b.First)) })
	})
	for i, e := range sorted {
		if i == most {
			parts = append(parts, fmt.Sprintf("and %d more", len(set.Elements)-most))
			break
		}
		var key []string
		for k, r := range e.Key {
			h := &held{kind: kindInteger}
			if k < len(list) {
				h = list[k]
			}
			r = h.ordered(set, r)
			written := *h
			written.swapped = true // it is in network order by now
			if h.kind.size() == len(r.First) && h.kind != kindInteger {
				key = append(key, rangeText(h.kind, r, true))
			} else if r.one() {
				key = append(key, written.text([]byte(r.First)))
			} else {
				key = append(key, written.text([]byte(r.First))+"-"+written.text([]byte(r.Last)))
			}
		}
		text := pick(len(e.Key) == 0, "*", strings.Join(key, " . "))
		if e.Verdict.Do != "" {
			text += " : " + exprText(e.Verdict)
		}
		for i, v := range e.Data {
			kind := kindInteger
			if i < len(set.Data) {
				kind = set.Data[i].kind()
			}
			text += pick(i == 0, " : ", " . ") + valueText(kind, v)
		}
		parts = append(parts, text)
	}
	if set.Partial {
		parts = append(parts, "...")
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func (m *meaning) dynset(e RawDynset) {
	set := m.sets[e.Set]
	n, data := 1, 0
	if set != nil {
		n, data = max(1, len(set.Key)), len(set.Data)
	}
	_, keys, words := m.components(e.Key, n)
	u := e.Update
	u.Keys = keys
	dataWords := ""
	if e.HasData {
		_, u.DataKeys, dataWords = m.components(e.DataReg, max(1, data))
	}
	for _, x := range e.Exprs {
		inner := meaning{network: m.network}
		inner.step(x)
		u.With = append(u.With, inner.exprs...)
	}
	if keys != nil && !e.Not && (!e.HasData || u.DataKeys != nil) {
		m.add(u)
		return
	}
	with := ""
	for _, x := range u.With {
		with += " " + exprText(x)
	}
	if e.HasData {
		with += " : " + dataWords
	}
	m.unknown("%s @%s { %s%s }", u.Op, u.Set, words, with)
}

// What is done.

func limitOf(e RawLimit) Expr {
	unit := e.Per
	if !e.Bytes && (unit == time.Second || unit == time.Minute || unit == time.Hour) {
		return e.Limit
	}
	name := map[time.Duration]string{
		time.Second: "second", time.Minute: "minute", time.Hour: "hour", 24 * time.Hour: "day", 7 * 24 * time.Hour: "week",
	}[unit]
	if name == "" {
		name = unit.String()
	}
	what := pick(e.Bytes, " bytes", "")
	text := fmt.Sprintf("limit rate %s%d%s/%s", overText(e.Over), e.Rate, what, name)
	if e.Burst != 0 {
		text += fmt.Sprintf(" burst %d%s", e.Burst, pick(e.Bytes, " bytes", " packets"))
	}
	return Unknown{text}
}

func (m *meaning) reject(e RawReject) {
	if e.Type == unix.NFT_REJECT_TCP_RST {
		m.add(Reject{With: rejectReset})
		return
	}
	if e.Type == unix.NFT_REJECT_ICMPX_UNREACH && e.Code < 4 {
		m.add(Reject{With: [...]string{"no-route", "port-unreachable", "host-unreachable", "admin-prohibited"}[e.Code]})
		return
	}
	m.unknown("reject with %s code %d", pick(m.network == IPv6, "icmpv6", "icmp"), e.Code)
}

// Flags of linux/netfilter/nf_nat.h.
const (
	natRandom     = 4
	natPersistent = 8
	natFullRandom = 16
	natPrefix     = 64
)

func natFlags(flags uint32) (s string) {
	for _, f := range []struct {
		bit  uint32
		name string
	}{{natRandom, "random"}, {natFullRandom, "fully-random"}, {natPersistent, "persistent"}} {
		if flags&f.bit != 0 {
			s += pick(s == "", " ", ",") + f.name
		}
	}
	return s
}

const natOther = natRandom | natPersistent | natFullRandom | natPrefix

func (m *meaning) nat(e RawNAT) {
	word := pick(e.Source, "snat", "dnat")
	if expr, ok := m.knownNAT(e); ok {
		m.add(expr)
		return
	}
	to := ""
	if e.AddrMin != NoReg {
		of := &held{kind: pick(e.Family == IPv6, kindIPv6, kindIPv4), words: "addr"}
		to = m.valueOf(of, m.reg(e.AddrMin))
		if e.AddrMax != NoReg && e.AddrMax != e.AddrMin {
			to += "-" + m.valueOf(of, m.reg(e.AddrMax))
		}
		if e.Family == IPv6 && e.ProtoMin != NoReg {
			to = "[" + to + "]"
		}
	}
	family := ""
	if e.Family == IPv4 || e.Family == IPv6 {
		family = " " + e.Family.String()
	}
	if e.Flags&natPrefix != 0 {
		family += " prefix"
	}
	ports := strings.TrimPrefix(m.toPorts(e.ProtoMin, e.ProtoMax), " to ")
	m.unknown("%s%s to %s%s%s", word, family, to, ports, natFlags(e.Flags))
}

// knownNAT is a DNAT or SNAT of this package's, where it is one.
func (m *meaning) knownNAT(e RawNAT) (Expr, bool) {
	one := (e.AddrMax == NoReg || e.AddrMax == e.AddrMin) && (e.ProtoMax == NoReg || e.ProtoMax == e.ProtoMin) && e.Flags&natOther == 0
	if !one {
		return nil, false
	}
	if e.AddrMin == NoReg {
		port, ok := m.port(e.ProtoMin)
		return DNAT{Family: Inet, Port: port}, ok && !e.Source
	}
	addr := m.reg(e.AddrMin)
	if addr.data != nil {
		a, ok := fromSlice(addr.data)
		if e.Source {
			return SNAT{Family: e.Family, Addr: a}, ok && e.ProtoMin == NoReg
		}
		d := DNAT{Family: e.Family, Addr: a}
		if e.ProtoMin != NoReg {
			port, has := m.port(e.ProtoMin)
			d.Port, ok = port, ok && has
		}
		return d, ok
	}
	if e.Source {
		return nil, false
	}
	if e.ProtoMin != NoReg { // from the same map
		if beside := m.reg(e.ProtoMin); beside.at != addr && !(addr.choice != nil && e.ProtoMin == e.AddrMin+Reg(pick(e.Family == IPv6, 4, 1))) {
			return nil, false
		}
	}
	switch {
	case addr.mapNamed != "":
		return DNAT{Family: e.Family, Keys: addr.mapKeys, Map: addr.mapNamed}, true
	case addr.choice != nil && addr.choice.Elements != nil:
		return DNAT{Family: e.Family, Choose: addr.choice}, true
	}
	return nil, false
}

func (m *meaning) port(r Reg) (uint16, bool) {
	h := m.reg(r)
	if len(h.data) < 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(h.data), true
}

func (m *meaning) masquerade(e RawMasquerade) {
	masq := Masquerade{}
	ok := e.Flags&natOther == 0
	if e.ProtoMin != NoReg {
		var has bool
		masq.First, has = m.port(e.ProtoMin)
		ok = ok && has
		masq.Last = masq.First
		if e.ProtoMax != NoReg {
			masq.Last, has = m.port(e.ProtoMax)
			ok = ok && has
		}
	}
	if ok {
		m.add(masq)
		return
	}
	m.unknown("masquerade%s%s", m.toPorts(e.ProtoMin, e.ProtoMax), natFlags(e.Flags))
}

// toPorts is " to :80-90", or nothing.
func (m *meaning) toPorts(first, last Reg) string {
	if first == NoReg {
		return ""
	}
	of := &held{kind: kindInetService}
	s := " to :" + m.valueOf(of, m.reg(first))
	if last != NoReg && last != first {
		s += "-" + m.valueOf(of, m.reg(last))
	}
	return s
}

// valueOf is what is written into something of that kind: a constant, or where
// it comes from.
func (m *meaning) valueOf(of, h *held) string {
	if h.data == nil {
		if h.at != nil {
			return "it"
		}
		return h.wordsMasked()
	}
	size := of.kind.size()
	if of.kind != kindInteger && len(h.data) > size {
		return of.text(h.data[:size])
	}
	return of.text(h.data)
}

func (m *meaning) setMeta(e RawMetaSet) {
	to, h := metaHeld(e.Key), m.reg(e.Reg)
	if h.data != nil && to.key == Mark && len(h.data) == 4 {
		m.add(SetKey{Mark, binary.NativeEndian.Uint32(h.data)})
		return
	}
	if h.data != nil && to.key == NFTrace && len(h.data) > 0 {
		m.add(SetKey{NFTrace, uint32(pick(len(bytes.Trim(h.data, "\x00")) == 0, 0, 1))})
		return
	}
	m.unknown("%s set %s", to.words, m.valueOf(to, h))
}

func (m *meaning) object(e RawObject) {
	if e.Type == nftObjectCtHelper && e.Map == "" {
		m.add(UseHelper{e.Name})
		return
	}
	if e.Map != "" {
		_, _, words := m.components(e.Reg, 1)
		m.unknown("[object] %s map @%s", words, e.Map)
		return
	}
	name := indexed([]string{"object", "counter name", "quota name", "ct helper set", "limit name", "connlimit name", "tunnel name", "ct timeout set", "secmark name", "ct expectation set", "synproxy name"}, e.Type, "object")
	m.unknown("%s %s", name, quoted(e.Name))
}
