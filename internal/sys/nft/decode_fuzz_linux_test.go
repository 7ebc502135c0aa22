package nft

import (
	"encoding/binary"
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
