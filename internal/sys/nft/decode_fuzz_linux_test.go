package nft

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// attr is one attribute.
func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func str(s string) []byte { return append([]byte(s), 0) }

// FuzzDecode has any bytes for any message of the kernel's: none makes the
// reading panic, and what is read is not larger than what was there.
func FuzzDecode(f *testing.F) {
	expr := func(name string, data []byte) []byte {
		return attr(1, join(attr(unix.NFTA_EXPR_NAME, str(name)), attr(unix.NFTA_EXPR_DATA, data)))
	}
	f.Add(byte(1), []byte{}, []byte{}, []byte{})
	for _, keyType := range []uint32{7, 41<<6 | 12, 7<<12 | 12<<6 | 13, 26, 0xffffffff} {
		for _, flags := range []uint32{0, unix.NFT_SET_INTERVAL, unix.NFT_SET_MAP | unix.NFT_SET_ANONYMOUS, unix.NFT_SET_MAP | unix.NFT_SET_INTERVAL | unix.NFT_SET_TIMEOUT} {
			set := join(attr(unix.NFTA_SET_NAME, str("s")), attr(unix.NFTA_SET_TABLE, str("t")), attr(unix.NFTA_SET_FLAGS, be32(flags)),
				attr(unix.NFTA_SET_KEY_TYPE, be32(keyType)), attr(unix.NFTA_SET_KEY_LEN, be32(12)), attr(unix.NFTA_SET_DATA_TYPE, be32(7<<6|13)), attr(unix.NFTA_SET_DATA_LEN, be32(8)))
			elements := attr(unix.NFTA_SET_ELEM_LIST_ELEMENTS, join(
				attr(1, join(attr(unix.NFTA_SET_ELEM_KEY, attr(1, make([]byte, 12))), attr(unix.NFTA_SET_ELEM_DATA, attr(1, make([]byte, 8))))),
				attr(1, join(attr(unix.NFTA_SET_ELEM_KEY, attr(1, []byte("abcdefghijkl"))), attr(unix.NFTA_SET_ELEM_FLAGS, be32(1)), attr(unix.NFTA_SET_ELEM_USERDATA, []byte{0, 2, 'x', 0}))),
			))
			rule := attr(unix.NFTA_RULE_EXPRESSIONS, join(
				expr("meta", join(attr(unix.NFTA_META_KEY, be32(unix.NFT_META_MARK)), attr(unix.NFTA_META_DREG, be32(1)))),
				expr("bitwise", join(attr(unix.NFTA_BITWISE_SREG, be32(1)), attr(unix.NFTA_BITWISE_DREG, be32(1)), attr(unix.NFTA_BITWISE_LEN, be32(4)), attr(unix.NFTA_BITWISE_MASK, attr(1, be32(255))), attr(unix.NFTA_BITWISE_XOR, attr(1, be32(0))))),
				expr("cmp", join(attr(unix.NFTA_CMP_SREG, be32(1)), attr(unix.NFTA_CMP_OP, be32(1)), attr(unix.NFTA_CMP_DATA, attr(1, be32(0))))),
				expr("payload", join(attr(unix.NFTA_PAYLOAD_BASE, be32(1)), attr(unix.NFTA_PAYLOAD_OFFSET, be32(12)), attr(unix.NFTA_PAYLOAD_LEN, be32(4)), attr(unix.NFTA_PAYLOAD_DREG, be32(1)))),
				expr("lookup", join(attr(unix.NFTA_LOOKUP_SET, str("s")), attr(unix.NFTA_LOOKUP_SREG, be32(1)), attr(unix.NFTA_LOOKUP_DREG, be32(1)))),
				expr("nat", join(attr(unix.NFTA_NAT_TYPE, be32(1)), attr(unix.NFTA_NAT_FAMILY, be32(2)), attr(unix.NFTA_NAT_REG_ADDR_MIN, be32(1)), attr(unix.NFTA_NAT_REG_PROTO_MIN, be32(9)))),
				expr("dynset", join(attr(unix.NFTA_DYNSET_SET_NAME, str("s")), attr(unix.NFTA_DYNSET_SREG_KEY, be32(1)), attr(unix.NFTA_DYNSET_EXPR, join(attr(1, str("limit")), attr(2, nil))))),
				expr("match", join(attr(unix.NFTA_MATCH_NAME, str("conntrack")), attr(unix.NFTA_MATCH_REV, be32(3)), attr(unix.NFTA_MATCH_INFO, make([]byte, 164)))),
				expr("target", join(attr(unix.NFTA_TARGET_NAME, str("DNAT")), attr(unix.NFTA_TARGET_REV, be32(2)), attr(unix.NFTA_TARGET_INFO, make([]byte, 48)))),
				expr("immediate", join(attr(unix.NFTA_IMMEDIATE_DREG, be32(0)), attr(unix.NFTA_IMMEDIATE_DATA, attr(2, join(attr(1, be32(0xfffffffd)), attr(2, str("c"))))))),
			))
			f.Add(byte(1), set, elements, rule)
		}
	}
	f.Fuzz(func(t *testing.T, family byte, set, elements, rule []byte) {
		fam := Family(family)
		l := decodeSet(fam, set)
		anonymous := l.anonymous
		l.add(elements)
		table := &Table{Family: fam}
		if s := l.done(); anonymous {
			table.Anonymous = []Set{s}
		} else {
			table.Sets = []Set{s}
		}
		_, c := decodeChain(fam, set)
		_, _, r := decodeRule(fam, rule)
		c.Rules = []Rule{r}
		table.Chains = []Chain{c}
		table.understand()
		if n := len(table.Chains[0].Rules[0].Words()); n > 1<<10+64*(len(rule)+len(elements)) {
			// Each expression may name one set, of which 32 elements are written.
			if n > 1<<10+len(rule)*(len(elements)+64)*4 {
				t.Errorf("%d bytes of words for %d of a rule and %d of elements", n, len(rule), len(elements))
			}
		}
		_ = table.Text()
		for _, s := range append(table.Sets, table.Anonymous...) {
			if len(s.Elements) > len(elements) {
				t.Errorf("%d elements of %d bytes", len(s.Elements), len(elements))
			}
			s.Lookup(elements)
		}
		decodeTable(fam, rule)
		decodeHelper(fam, rule)
		decodeTrace(fam, rule, func(uint32) string { return "" })
		w := watcher{told: func(Notice) {}}
		w.took(reply{attrs: set, port: 1})
		messages(rule, func(*unix.NlMsghdr, []byte) bool { return false })
	})
}

// FuzzUnderstand has any expressions on any registers: each rule has a meaning,
// if only that it is not known.
func FuzzUnderstand(f *testing.F) {
	f.Add(byte(1), []byte{0, 4, 0, 1, 1, 0, 7, 3, 9})
	f.Add(byte(2), []byte("\x02\x01\x0c\x04\x00\x08\x00\x04\x09\x01\x0a\x02\x0b\x03\x0c\x04\x0d"))
	f.Fuzz(func(_ *testing.T, family byte, b []byte) { understandAny(family, b) })
}

func TestAnyExpressionsHaveAMeaning(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	for range 30000 {
		b := make([]byte, random.IntN(400))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		understandAny([]byte{1, 2, 3, 5, 7, 10}[random.IntN(6)], b)
	}
}

// understandAny makes a rule of the bytes and reads it.
func understandAny(family byte, b []byte) {
	take := func() byte {
		if len(b) == 0 {
			return 0
		}
		c := b[0]
		b = b[1:]
		return c
	}
	data := func() []byte {
		n := min([...]int{0, 1, 1, 2, 2, 3, 4, 4, 4, 8, 12, 16, 16, 32, 48, 164}[take()%16], len(b))
		d := b[:n:n]
		b = b[n:]
		return d
	}
	reg := func() Reg {
		return [...]Reg{0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 4, 8, 15, 16, NoReg, NoReg}[take()%16]
	}
	num := func() uint32 { return uint32(take()) }
	table := &Table{
		Family: Family(family),
		Sets: []Set{
			{Name: "0", Key: []Type{IPv4Addr, InetService}, Data: []Type{IPv6Addr, InetService}},
			{Name: "1", Key: []Type{OtherType}, Verdicts: true},
		},
		Anonymous: []Set{
			{Name: "2", Key: []Type{OtherType}, Data: []Type{IPv4Addr, InetService}, Elements: []Element{
				{Key: []Range{One(Value(data()))}, Data: []Value{Value(data())}}, {Data: []Value{Value(data())}},
			}},
			{Name: "3", Key: []Type{MarkType, IfName}, Verdicts: true, Interval: true, Elements: []Element{{Key: []Range{{Value(data()), Value(data())}}, Verdict: Accept}}},
			{Name: "4", Key: []Type{IPv4Addr}, Elements: []Element{{Key: []Range{One(Value(data()))}}}},
		},
	}
	set := func() string { return string('0' + rune(take()%6)) }
	var raw []RawExpr
	for len(b) > 0 {
		var e RawExpr
		switch take() % 26 {
		case 0:
			e = RawMeta{num() % 36, reg()}
		case 1:
			e = RawPayload{num() % 4, [...]int{0, 2, 6, 8, 9, 12, 13, 16, 24, 200}[take()%10], [...]int{1, 2, 3, 4, 4, 7, 8, 16, 17, 32}[take()%10], reg()}
		case 2:
			e = RawCt{num() % 25, int(take()%3) - 1, reg()}
		case 3:
			e = RawFib{num() % 64, num() % 5, reg()}
		case 4:
			e = RawImmediate{reg(), data()}
		case 5:
			mask := data()
			e = RawBitwise{reg(), reg(), len(mask), mask, make([]byte, len(mask)), int(take()%8) / 6}
		case 6:
			e = RawByteorder{reg(), reg(), int(take()), int(take()), true}
		case 7:
			e = RawCmp{reg(), CmpOp(take() % 12 % 6), pick(take()&1 != 0, data(), make([]byte, 4))}
		case 8:
			e = RawRange{reg(), take()&1 != 0, data(), data()}
		case 9:
			e = RawLookup{Set: set(), Reg: reg(), Dst: reg(), Not: take()&1 != 0}
		case 10:
			e = RawLookup{Set: set(), Reg: reg(), Dst: reg(), Map: true}
		case 11:
			e = RawLookup{Set: set(), Reg: reg(), VMap: true}
		case 12:
			e = RawDynset{Update: Update{Op: "add", Set: set()}, Key: reg(), DataReg: reg(), HasData: take()&1 != 0, Exprs: []RawExpr{RawLimit{}, RawCounter{}}}
		case 13:
			e = RawNAT{take()&1 != 0, Family(take()), reg(), reg(), reg(), reg(), num()}
		case 14:
			e = RawMasquerade{reg(), reg(), num()}
		case 15:
			e = RawRedirect{reg(), reg(), num()}
		case 16:
			e = RawXT{take()&1 != 0, []string{"conntrack", "state", "addrtype", "tcp", "udp", "multiport", "MARK", "MASQUERADE", "REDIRECT", "DNAT", "SNAT", "REJECT", "LOG", "comment"}[take()%14], num() % 4, append(data(), data()...)}
		case 17:
			e = RawHash{Src: reg(), Dst: reg(), Len: int(take() % 20), Mod: num(), Seed: num() & 1, Sym: take()&1 != 0}
		case 18:
			e = RawNumgen{reg(), num(), num() & 1, take()&1 != 0}
		case 19:
			e = RawMetaSet{num() % 20, reg()}
		case 20:
			e = RawCtSet{num(), 0, reg()}
		case 21:
			e = RawPayloadSet{num() % 5, int(take()), int(take()), reg()}
		case 22:
			e = RawObject{Type: num() % 12, Name: set(), Map: "", Reg: reg()}
		case 23:
			e = RawExthdr{Op: num(), Reg: reg()}
		case 24:
			e = RawReject{num(), take()}
		case 25:
			e = RawVerdict{Verdict{Do: "jump", Chain: set()}}
		}
		raw = append(raw, e)
	}
	table.Chains = []Chain{{Name: "c", Rules: []Rule{{Raw: raw}}}}
	table.understand()
	r := &table.Chains[0].Rules[0]
	_ = r.Words()
	_ = r.Text()
	_ = r.meaning()
}
