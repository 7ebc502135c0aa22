package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Attributes and flags of linux/netfilter/nf_tables.h that x/sys/unix lacks.
const (
	nftaTableOwner         = 7
	nftaHookDevs           = 4
	nftaSetExpr            = 17
	nftaSetExpressions     = 18
	nftaSetElemKeyEnd      = 10
	nftaSetElemExpressions = 11
	nftaSetDescConcat      = 2
	nftaSetFieldLen        = 1
	nftTableFOwner         = 2
	nftSetElemCatchall     = 2
	nftDataVerdict         = 0xffffff00
	nftObjectCtHelper      = 3
)

// mostFields is how many components a key can have.
const mostFields = 16

func decodeTable(f Family, body []byte) Listed {
	a := attributes(body)
	return Listed{Family: f, Name: a.str(unix.NFTA_TABLE_NAME), Owner: a.u32(nftaTableOwner)}
}

// A placed thing belongs to a table.
type placed struct {
	family Family
	table  string
}

var hookNames = [...]string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}

func decodeChain(f Family, body []byte) (placed, Chain) {
	a := attributes(body)
	c := Chain{Name: a.str(unix.NFTA_CHAIN_NAME)}
	if a.has(unix.NFTA_CHAIN_HOOK) {
		at := a.nest(unix.NFTA_CHAIN_HOOK)
		h := &Hook{
			Type:     a.str(unix.NFTA_CHAIN_TYPE),
			Priority: int(int32(at.u32(unix.NFTA_HOOK_PRIORITY))),
			Drop:     a.u32(unix.NFTA_CHAIN_POLICY) == 0 && a.has(unix.NFTA_CHAIN_POLICY), // NF_DROP
			Hook:     hookName(f, at.u32(unix.NFTA_HOOK_HOOKNUM)),
		}
		if at.has(unix.NFTA_HOOK_DEV) {
			h.Devices = append(h.Devices, at.str(unix.NFTA_HOOK_DEV))
		}
		each(at[nftaHookDevs], func(_ int, name []byte) {
			if dev := cString(name); !slices.Contains(h.Devices, dev) {
				h.Devices = append(h.Devices, dev)
			}
		})
		c.Hook = h
	}
	return placed{f, a.str(unix.NFTA_CHAIN_TABLE)}, c
}

// hookName is the hook of that number, which the families count each for
// itself (linux/netfilter.h, netfilter_arp.h, netfilter_netdev.h).
func hookName(f Family, n uint32) string {
	switch {
	case f == ARP && n < 2:
		return [...]string{"input", "output"}[n]
	case f == Netdev && n < 2:
		return [...]string{"ingress", "egress"}[n]
	case f == Bridge && n == 5:
		return "brouting"
	case f != ARP && f != Netdev && n < uint32(len(hookNames)):
		return hookNames[n]
	}
	return fmt.Sprint("hook ", n)
}

func decodeHelper(f Family, body []byte) (at placed, h Helper, ok bool) {
	a := attributes(body)
	at = placed{f, a.str(unix.NFTA_OBJ_TABLE)}
	if a.u32(unix.NFTA_OBJ_TYPE) != nftObjectCtHelper {
		return at, h, false
	}
	data := a.nest(unix.NFTA_OBJ_DATA)
	return at, Helper{
		Name:  a.str(unix.NFTA_OBJ_NAME),
		Type:  data.str(unix.NFTA_CT_HELPER_NAME),
		Proto: data.u8(unix.NFTA_CT_HELPER_L4PROTO),
	}, true
}

func decodeRule(f Family, body []byte) (at placed, chain string, r Rule) {
	a := attributes(body)
	r.Handle = a.u64(unix.NFTA_RULE_HANDLE)
	r.Raw = decodeRaws(a[unix.NFTA_RULE_EXPRESSIONS], 0)
	r.Comment = comment(a[unix.NFTA_RULE_USERDATA])
	return placed{f, a.str(unix.NFTA_RULE_TABLE)}, a.str(unix.NFTA_RULE_CHAIN), r
}

// comment finds it in the bytes that nft keeps with a rule or an element:
// type, length, value each; the comment is of type 0 (libnftnl, udata.h).
func comment(b []byte) string {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == 0 {
			return cString(b[2 : 2+b[1]])
		}
		b = b[2+b[1]:]
	}
	return ""
}

// A layout is how the keys and data of a set lie in registers.
type layout struct {
	set       *Set
	at        placed
	anonymous bool
	keys      []int // bytes of each component
	data      []int
	half      []edge // of a set of intervals: elements that are begins and ends
}

// An edge is the first value of an interval, or the first after it.
type edge struct {
	key   []byte
	end   bool
	other bool
	Element
}

// decodeSet reads what a set is, without its elements.
func decodeSet(f Family, body []byte) *layout {
	a := attributes(body)
	flags := a.u32(unix.NFTA_SET_FLAGS)
	s := &Set{
		Name:     a.str(unix.NFTA_SET_NAME),
		Interval: flags&unix.NFT_SET_INTERVAL != 0,
		Dynamic:  flags&unix.NFT_SET_EVAL != 0,
		Timed:    flags&unix.NFT_SET_TIMEOUT != 0,
		Objects:  flags&unix.NFT_SET_OBJECT != 0,
		Timeout:  milliseconds(a.u64(unix.NFTA_SET_TIMEOUT)),
	}
	l := &layout{set: s, at: placed{f, a.str(unix.NFTA_SET_TABLE)}, anonymous: flags&unix.NFT_SET_ANONYMOUS != 0}
	desc := a.nest(unix.NFTA_SET_DESC)
	s.Size = int(desc.u32(unix.NFTA_SET_DESC_SIZE))
	var fields []int
	each(desc[nftaSetDescConcat], func(_ int, b []byte) {
		field := attributes(b)
		if len(fields) < mostFields {
			fields = append(fields, field.count(nftaSetFieldLen))
		}
	})
	s.Key, l.keys = fieldTypes(a.u32(unix.NFTA_SET_KEY_TYPE), a.count(unix.NFTA_SET_KEY_LEN), fields)
	if flags&unix.NFT_SET_MAP != 0 {
		if kind := a.u32(unix.NFTA_SET_DATA_TYPE); kind == nftDataVerdict {
			s.Verdicts = true
		} else {
			s.Data, l.data = fieldTypes(kind, a.count(unix.NFTA_SET_DATA_LEN), nil)
		}
	}
	for _, e := range decodeOneOrMore(a[nftaSetExpr], a[nftaSetExpressions]) {
		if _, ok := e.(RawCounter); ok {
			s.Counted = true
		}
	}
	return l
}

// decodeOneOrMore reads the expressions of an element or a set, of which older
// kernels know one.
func decodeOneOrMore(one, more []byte) []RawExpr {
	if more != nil {
		return decodeRaws(more, 1)
	}
	if one != nil {
		return []RawExpr{decodeRaw(one, 1)}
	}
	return nil
}

// The numbers that nft gives to types (its include/datatype.h). The kernel
// keeps them and does not look at them. A concatenation has six bits for each.
var typeNumbers = map[uint32]Type{
	2: NFProtoType, 7: IPv4Addr, 8: IPv6Addr, 12: InetProto, 13: InetService, 19: MarkType, 41: IfName,
}

// fieldTypes splits a type number into components of which the bytes are size
// in all. Where that does not come out the whole is one component that is not
// understood. fields are the lengths that the kernel has for a concatenation
// with ranges.
func fieldTypes(number uint32, size int, fields []int) (types []Type, lens []int) {
	var parts []Type
	for n := number; n != 0; n >>= 6 {
		t, ok := typeNumbers[n&0x3f]
		if !ok {
			t = OtherType
		}
		parts = append(parts, t)
	}
	slices.Reverse(parts)
	if len(fields) > 0 && len(fields) != len(parts) {
		parts = slices.Repeat([]Type{OtherType}, len(fields))
	}
	total, others := 0, 0
	for i, t := range parts {
		n := t.size()
		if len(fields) > 0 {
			if n != fields[i] {
				parts[i], n = OtherType, fields[i]
			}
		} else if t == OtherType {
			others++
		}
		lens = append(lens, n)
		total += padded(n)
	}
	if len(parts) == 1 && others == 0 && lens[0] == size { // alone it is not filled up
		return parts, lens
	}
	if others == 1 && total < size {
		lens[slices.Index(parts, OtherType)] = size - total
		return parts, lens
	}
	if len(parts) > 1 && others == 0 && total == padded(size) {
		return parts, lens
	}
	return []Type{OtherType}, []int{size}
}

// padded is how many bytes a value takes in registers.
func padded(n int) int { return (n + 3) &^ 3 }

func milliseconds(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(1<<63-1)/uint64(time.Millisecond))) * time.Millisecond
}

// add takes the elements of one message in; it returns how many there were.
func (l *layout) add(body []byte) (n int) {
	a := attributes(body)
	each(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ int, b []byte) {
		n++
		l.addElement(attributes(b))
	})
	return n
}

func (l *layout) addElement(a attrs) {
	flags := a.u32(unix.NFTA_SET_ELEM_FLAGS)
	e := Element{
		Timeout: milliseconds(a.u64(unix.NFTA_SET_ELEM_TIMEOUT)),
		Expires: milliseconds(a.u64(unix.NFTA_SET_ELEM_EXPIRATION)),
		Comment: comment(a[unix.NFTA_SET_ELEM_USERDATA]),
		Object:  a.str(unix.NFTA_SET_ELEM_OBJREF),
	}
	e.Count = countOf(&a)
	if data := a.nest(unix.NFTA_SET_ELEM_DATA); data.has(unix.NFTA_DATA_VERDICT) {
		e.Verdict = decodeVerdict(data[unix.NFTA_DATA_VERDICT])
	} else if value := data[unix.NFTA_DATA_VALUE]; value != nil {
		e.Data = split(value, l.set.Data, l.data, true)
	}
	key := a.nest(unix.NFTA_SET_ELEM_KEY)
	first := key[unix.NFTA_DATA_VALUE]
	end := a.nest(nftaSetElemKeyEnd)
	last := end[unix.NFTA_DATA_VALUE]
	switch {
	case flags&nftSetElemCatchall != 0:
		l.set.Elements = append(l.set.Elements, e)
	case l.set.Interval && len(l.keys) == 1 && last == nil:
		l.half = append(l.half, edge{key: bytes.Clone(first), end: flags&unix.NFT_SET_ELEM_INTERVAL_END != 0, Element: e})
	default:
		e.Key = ranges(split(first, l.set.Key, l.keys, !l.set.Interval), split(last, l.set.Key, l.keys, !l.set.Interval))
		l.set.Elements = append(l.set.Elements, e)
	}
}

// countOf is what an element counted.
func countOf(a *attrs) (n Count) {
	if a[unix.NFTA_SET_ELEM_EXPR] == nil && a[nftaSetElemExpressions] == nil {
		return n
	}
	for _, x := range decodeOneOrMore(a[unix.NFTA_SET_ELEM_EXPR], a[nftaSetElemExpressions]) {
		if c, ok := x.(RawCounter); ok {
			n = c.Count
		}
	}
	return n
}

// split takes registers apart; with own, numbers of this machine's order are
// turned into network order.
func split(b []byte, types []Type, lens []int, own bool) []Value {
	if b == nil {
		return nil
	}
	values := make([]Value, 0, len(lens))
	for i, n := range lens {
		v := b[:min(n, len(b))]
		if own {
			v = turned(types[i], v)
		}
		values = append(values, Value(v))
		b = b[min(padded(n), len(b)):]
	}
	return values
}

func ranges(first, last []Value) []Range {
	rs := make([]Range, len(first))
	for i := range first {
		rs[i].First = first[i]
		if i < len(last) && last[i] != first[i] {
			rs[i].Last = last[i]
		}
	}
	return rs
}

// dropRepeated leaves out elements that came before, and reports whether there
// were any.
func (l *layout) dropRepeated() bool {
	seen := make(map[string]bool, len(l.set.Elements))
	var key []byte
	before := len(l.set.Elements)
	l.set.Elements = slices.DeleteFunc(l.set.Elements, func(e Element) bool {
		key = key[:0]
		for _, r := range e.Key {
			key = append(append(append(key, r.First...), '-'), r.last()...)
		}
		if seen[string(key)] {
			return true
		}
		seen[string(key)] = true
		return false
	})
	return len(l.set.Elements) < before
}

// done is the set with its elements, when all have been added. Those of
// intervals, which come as begins and ends in any order, are paired.
func (l *layout) done() Set {
	slices.SortStableFunc(l.half, func(a, b edge) int {
		if c := bytes.Compare(a.key, b.key); c != 0 || a.end == b.end {
			return c
		}
		if a.end {
			return -1
		}
		return 1
	})
	for i, from := range l.half {
		if from.end || len(from.key) == 0 {
			continue
		}
		last := bytes.Repeat([]byte{0xff}, len(from.key))
		if i+1 < len(l.half) && len(l.half[i+1].key) == len(from.key) {
			copy(last, l.half[i+1].key)
			before(last)
		}
		e := from.Element
		e.Key = ranges([]Value{Value(from.key)}, []Value{Value(last)})
		l.set.Elements = append(l.set.Elements, e)
	}
	l.half = nil
	return *l.set
}

// before makes a number in network order the one before it.
func before(b []byte) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			return
		}
	}
}

// Verdicts as numbers, of linux/netfilter.h and nf_tables.h.
const (
	nfDrop   = 0
	nfAccept = 1
	nfStolen = 2
	nfQueue  = 3
)

func decodeVerdict(b []byte) Verdict {
	a := attributes(b)
	code := int32(a.u32(unix.NFTA_VERDICT_CODE))
	v := Verdict{Chain: a.str(unix.NFTA_VERDICT_CHAIN)}
	v.Do = verdictName(code)
	return v
}

func verdictName(code int32) string {
	switch code {
	case nfDrop:
		return "drop"
	case nfAccept:
		return "accept"
	case nfStolen:
		return "stolen"
	case unix.NFT_CONTINUE:
		return "continue"
	case unix.NFT_BREAK:
		return "break"
	case unix.NFT_JUMP:
		return "jump"
	case unix.NFT_GOTO:
		return "goto"
	case unix.NFT_RETURN:
		return "return"
	}
	switch code & 0xff { // the rest is the number of the queue or an errno
	case nfQueue:
		return "queue"
	case nfDrop:
		return "drop"
	}
	return fmt.Sprint("verdict ", code)
}

// ownUint32 is a number of this machine's order in a register.
func ownUint32(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.NativeEndian.Uint32(b), true
}
