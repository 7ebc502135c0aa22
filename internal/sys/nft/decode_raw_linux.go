package nft

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"
)

// Attributes of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	nftaBitwiseOp         = 6
	nftaBitwiseData       = 7
	nftaDynsetExpressions = 10
	nftDynsetOpDelete     = 2
	nftaConnlimitCount    = 1
	nftaConnlimitFlags    = 2
	nftaSocketKey         = 1
	nftaSocketDreg        = 2
	nftaExthdrOp          = 6
	nftaExthdrSreg        = 7
	nftaQueueFlags        = 3
)

// deepest is how deep expressions stand in expressions: a limit in a dynset.
const deepest = 2

// decodeRaws reads a list of expressions.
func decodeRaws(b []byte, depth int) (list []RawExpr) {
	each(b, func(_ int, e []byte) { list = append(list, decodeRaw(e, depth)) })
	return list
}

// register is the four-byte register of a number as netlink has it. One that
// is not given is NoReg.
func (a *attrs) register(n int) Reg {
	if !a.has(n) {
		return NoReg
	}
	switch r := a.u32(n); {
	case r >= unix.NFT_REG_1 && r <= unix.NFT_REG_4:
		return Reg(r-unix.NFT_REG_1) * 4
	case r >= unix.NFT_REG32_00 && r <= unix.NFT_REG32_15:
		return Reg(r - unix.NFT_REG32_00)
	}
	return NoReg
}

// value is the bytes of nested data.
func (a *attrs) value(n int) []byte {
	data := a.nest(n)
	return bytes.Clone(data[unix.NFTA_DATA_VALUE])
}

// decodeRaw reads one expression.
func decodeRaw(b []byte, depth int) RawExpr {
	outer := attributes(b)
	name := outer.str(unix.NFTA_EXPR_NAME)
	if depth > deepest {
		return RawOther{name}
	}
	a := outer.nest(unix.NFTA_EXPR_DATA)
	switch name {
	case "meta":
		if a.has(unix.NFTA_META_SREG) {
			return RawMetaSet{a.u32(unix.NFTA_META_KEY), a.register(unix.NFTA_META_SREG)}
		}
		return RawMeta{a.u32(unix.NFTA_META_KEY), a.register(unix.NFTA_META_DREG)}
	case "payload":
		base, off, size := a.u32(unix.NFTA_PAYLOAD_BASE), a.count(unix.NFTA_PAYLOAD_OFFSET), a.count(unix.NFTA_PAYLOAD_LEN)
		if a.has(unix.NFTA_PAYLOAD_SREG) {
			return RawPayloadSet{base, off, size, a.register(unix.NFTA_PAYLOAD_SREG)}
		}
		return RawPayload{base, off, size, a.register(unix.NFTA_PAYLOAD_DREG)}
	case "exthdr":
		if a.has(nftaExthdrSreg) || !a.has(unix.NFTA_EXTHDR_DREG) { // it writes, or resets
			return RawOther{name}
		}
		return RawExthdr{
			Op: a.u32(nftaExthdrOp), Type: a.u8(unix.NFTA_EXTHDR_TYPE),
			Off: a.count(unix.NFTA_EXTHDR_OFFSET), Len: a.count(unix.NFTA_EXTHDR_LEN),
			Present: a.u32(unix.NFTA_EXTHDR_FLAGS)&unix.NFT_EXTHDR_F_PRESENT != 0,
			Reg:     a.register(unix.NFTA_EXTHDR_DREG),
		}
	case "ct":
		dir := -1
		if a.has(unix.NFTA_CT_DIRECTION) {
			dir = int(a.u8(unix.NFTA_CT_DIRECTION))
		}
		if a.has(unix.NFTA_CT_SREG) {
			return RawCtSet{a.u32(unix.NFTA_CT_KEY), dir, a.register(unix.NFTA_CT_SREG)}
		}
		return RawCt{a.u32(unix.NFTA_CT_KEY), dir, a.register(unix.NFTA_CT_DREG)}
	case "fib":
		return RawFib{a.u32(unix.NFTA_FIB_FLAGS), a.u32(unix.NFTA_FIB_RESULT), a.register(unix.NFTA_FIB_DREG)}
	case "rt":
		return RawRt{a.u32(unix.NFTA_RT_KEY), a.register(unix.NFTA_RT_DREG)}
	case "socket":
		return RawSocket{a.u32(nftaSocketKey), a.register(nftaSocketDreg)}
	case "hash":
		return RawHash{
			Src: a.register(unix.NFTA_HASH_SREG), Dst: a.register(unix.NFTA_HASH_DREG), Len: a.count(unix.NFTA_HASH_LEN),
			Mod: a.u32(unix.NFTA_HASH_MODULUS), Seed: a.u32(unix.NFTA_HASH_SEED), Offset: a.u32(unix.NFTA_HASH_OFFSET),
			Sym: a.u32(unix.NFTA_HASH_TYPE) == unix.NFT_HASH_SYM,
		}
	case "numgen":
		return RawNumgen{
			Dst: a.register(unix.NFTA_NG_DREG), Mod: a.u32(unix.NFTA_NG_MODULUS), Offset: a.u32(unix.NFTA_NG_OFFSET),
			Random: a.u32(unix.NFTA_NG_TYPE) == unix.NFT_NG_RANDOM,
		}
	case "immediate":
		if data := a.nest(unix.NFTA_IMMEDIATE_DATA); data.has(unix.NFTA_DATA_VERDICT) {
			return RawVerdict{decodeVerdict(data[unix.NFTA_DATA_VERDICT])}
		}
		return RawImmediate{a.register(unix.NFTA_IMMEDIATE_DREG), a.value(unix.NFTA_IMMEDIATE_DATA)}
	case "bitwise":
		return decodeBitwise(&a)
	case "byteorder":
		return RawByteorder{
			Src: a.register(unix.NFTA_BYTEORDER_SREG), Dst: a.register(unix.NFTA_BYTEORDER_DREG),
			Len: a.count(unix.NFTA_BYTEORDER_LEN), Size: a.count(unix.NFTA_BYTEORDER_SIZE),
			ToHost: a.u32(unix.NFTA_BYTEORDER_OP) == unix.NFT_BYTEORDER_NTOH,
		}
	case "cmp":
		if a.u32(unix.NFTA_CMP_OP) > uint32(GreaterEqual) {
			return RawOther{name}
		}
		return RawCmp{a.register(unix.NFTA_CMP_SREG), CmpOp(a.u32(unix.NFTA_CMP_OP)), a.value(unix.NFTA_CMP_DATA)}
	case "range":
		return RawRange{
			Reg: a.register(unix.NFTA_RANGE_SREG), Not: a.u32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ,
			From: a.value(unix.NFTA_RANGE_FROM_DATA), To: a.value(unix.NFTA_RANGE_TO_DATA),
		}
	case "lookup":
		l := RawLookup{
			Set: a.str(unix.NFTA_LOOKUP_SET), Reg: a.register(unix.NFTA_LOOKUP_SREG),
			Not: a.u32(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0, Dst: NoReg,
		}
		if a.has(unix.NFTA_LOOKUP_DREG) {
			if a.u32(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT {
				l.VMap = true
			} else {
				l.Map, l.Dst = true, a.register(unix.NFTA_LOOKUP_DREG)
			}
		}
		return l
	case "dynset":
		return decodeDynset(&a, depth)
	case "counter":
		return RawCounter{Count{a.u64(unix.NFTA_COUNTER_PACKETS), a.u64(unix.NFTA_COUNTER_BYTES)}}
	case "limit":
		return RawLimit{
			Limit: Limit{
				Rate: a.u64(unix.NFTA_LIMIT_RATE), Per: time.Duration(min(a.u64(unix.NFTA_LIMIT_UNIT), 1<<32)) * time.Second,
				Burst: a.u32(unix.NFTA_LIMIT_BURST), Over: a.u32(unix.NFTA_LIMIT_FLAGS)&unix.NFT_LIMIT_F_INV != 0,
			},
			Bytes: a.u32(unix.NFTA_LIMIT_TYPE) == unix.NFT_LIMIT_PKT_BYTES,
		}
	case "quota":
		return RawQuota{a.u64(unix.NFTA_QUOTA_BYTES), a.u64(unix.NFTA_QUOTA_CONSUMED), a.u32(unix.NFTA_QUOTA_FLAGS)&unix.NFT_QUOTA_F_INV != 0}
	case "connlimit":
		return RawConnCount{ConnCount{a.u32(nftaConnlimitCount), a.u32(nftaConnlimitFlags)&1 != 0}}
	case "log":
		group := -1
		if a.has(unix.NFTA_LOG_GROUP) {
			group = int(a.u16(unix.NFTA_LOG_GROUP))
		}
		return RawLog{Log{a.str(unix.NFTA_LOG_PREFIX), group}}
	case "reject":
		return RawReject{a.u32(unix.NFTA_REJECT_TYPE), a.u8(unix.NFTA_REJECT_ICMP_CODE)}
	case "nat":
		return RawNAT{
			Source: a.u32(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_SNAT, Family: Family(a.u32(unix.NFTA_NAT_FAMILY)),
			AddrMin: a.register(unix.NFTA_NAT_REG_ADDR_MIN), AddrMax: a.register(unix.NFTA_NAT_REG_ADDR_MAX),
			ProtoMin: a.register(unix.NFTA_NAT_REG_PROTO_MIN), ProtoMax: a.register(unix.NFTA_NAT_REG_PROTO_MAX),
			Flags: a.u32(unix.NFTA_NAT_FLAGS),
		}
	case "masq":
		return RawMasquerade{a.register(unix.NFTA_MASQ_REG_PROTO_MIN), a.register(unix.NFTA_MASQ_REG_PROTO_MAX), a.u32(unix.NFTA_MASQ_FLAGS)}
	case "redir":
		return RawRedirect{a.register(unix.NFTA_REDIR_REG_PROTO_MIN), a.register(unix.NFTA_REDIR_REG_PROTO_MAX), a.u32(unix.NFTA_REDIR_FLAGS)}
	case "objref":
		return RawObject{
			Type: a.u32(unix.NFTA_OBJREF_IMM_TYPE), Name: a.str(unix.NFTA_OBJREF_IMM_NAME),
			Map: a.str(unix.NFTA_OBJREF_SET_NAME), Reg: a.register(unix.NFTA_OBJREF_SET_SREG),
		}
	case "notrack":
		return RawNotrack{}
	case "queue":
		return RawQueue{a.u16(nftaQueueFlags)&1 != 0}
	case "match": // NFTA_MATCH_* and NFTA_TARGET_* have the same numbers
		return RawXT{true, a.str(unix.NFTA_MATCH_NAME), a.u32(unix.NFTA_MATCH_REV), bytes.Clone(a[unix.NFTA_MATCH_INFO])}
	case "target":
		return RawXT{false, a.str(unix.NFTA_TARGET_NAME), a.u32(unix.NFTA_TARGET_REV), bytes.Clone(a[unix.NFTA_TARGET_INFO])}
	}
	return RawOther{name}
}

func decodeBitwise(a *attrs) RawExpr {
	b := RawBitwise{
		Src: a.register(unix.NFTA_BITWISE_SREG), Dst: a.register(unix.NFTA_BITWISE_DREG), Len: a.count(unix.NFTA_BITWISE_LEN),
	}
	switch op := a.u32(nftaBitwiseOp); op {
	case 0:
		b.Mask, b.Xor = a.value(unix.NFTA_BITWISE_MASK), a.value(unix.NFTA_BITWISE_XOR)
		if len(b.Mask) != b.Len || len(b.Xor) != b.Len {
			return RawOther{"bitwise"}
		}
	case 1, 2: // NFT_BITWISE_LSHIFT, _RSHIFT
		by, ok := ownUint32(a.value(nftaBitwiseData))
		if !ok || by == 0 || by >= 32 {
			return RawOther{"bitwise"}
		}
		b.Shift = int(by)
		if op == 2 {
			b.Shift = -b.Shift
		}
	default: // of two registers
		return RawOther{"bitwise"}
	}
	return b
}

func decodeDynset(a *attrs, depth int) RawExpr {
	d := RawDynset{
		Update: Update{
			Op:      [...]string{"add", "update", "delete", "?"}[min(a.u32(unix.NFTA_DYNSET_OP), 3)],
			Set:     a.str(unix.NFTA_DYNSET_SET_NAME),
			Timeout: milliseconds(a.u64(unix.NFTA_DYNSET_TIMEOUT)),
		},
		Key: a.register(unix.NFTA_DYNSET_SREG_KEY), DataReg: a.register(unix.NFTA_DYNSET_SREG_DATA),
		HasData: a.has(unix.NFTA_DYNSET_SREG_DATA),
		Not:     a.u32(unix.NFTA_DYNSET_FLAGS)&unix.NFT_DYNSET_F_INV != 0,
	}
	if more := a[nftaDynsetExpressions]; more != nil {
		d.Exprs = decodeRaws(more, depth+1)
	} else if one := a[unix.NFTA_DYNSET_EXPR]; one != nil {
		d.Exprs = []RawExpr{decodeRaw(one, depth+1)}
	}
	return d
}
