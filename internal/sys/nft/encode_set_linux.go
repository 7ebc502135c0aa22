package nft

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// keyLen is how many bytes a key or data of these kinds has: each component of
// a concatenation fills up registers of four bytes.
func keyLen(kinds []kind) int {
	if len(kinds) == 1 {
		return kinds[0].size()
	}
	n := 0
	for _, k := range kinds {
		n += (k.size() + 3) &^ 3
	}
	return n
}

// keyType is the number by which nft knows the type of a key or of data: six
// bits for each component.
func keyType(kinds []kind) uint32 {
	var t uint32
	for _, k := range kinds {
		t = t<<6 | uint32(k)
	}
	return t
}

// byteOrder is what nft remembers of a key's order; a concatenation has none.
func byteOrder(kinds []kind) uint32 {
	switch {
	case len(kinds) != 1, kinds[0] == kindNFProto:
		return 0
	case kinds[0].hostOrder(), kinds[0] == kindIfname:
		return udataOrderHost
	}
	return udataOrderNetwork
}

// A setForm is a set as the kernel is told of it, named or not.
type setForm struct {
	name     string
	flags    uint32
	key      []kind
	data     []kind
	verdicts bool
	counted  bool
	size     int
	timeout  time.Duration
}

func (s *Set) form() setForm {
	f := setForm{name: s.Name, key: kindsOf(s.Key), data: kindsOf(s.Data), verdicts: s.Verdicts, counted: s.Counted, size: s.Size, timeout: s.Timeout}
	if s.Interval {
		f.flags |= unix.NFT_SET_INTERVAL
		if len(s.Key) > 1 {
			f.flags |= setConcat
		}
	}
	if s.isMap() {
		f.flags |= unix.NFT_SET_MAP
	}
	if s.Dynamic {
		f.flags |= unix.NFT_SET_EVAL
	}
	if s.Timed || s.Timeout > 0 {
		f.flags |= unix.NFT_SET_TIMEOUT
	}
	return f
}

func (f *setForm) ranges() bool { return f.flags&unix.NFT_SET_INTERVAL != 0 }

// addSet makes a set without its elements, and returns its number in the batch.
func (b *batch) addSet(f *setForm) uint32 {
	b.sets++
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, "add "+f.word()+" "+f.name)
	b.text(unix.NFTA_SET_TABLE, b.table)
	b.text(unix.NFTA_SET_NAME, f.name)
	b.u32(unix.NFTA_SET_FLAGS, f.flags)
	b.u32(unix.NFTA_SET_KEY_TYPE, keyType(f.key))
	b.u32(unix.NFTA_SET_KEY_LEN, uint32(keyLen(f.key)))
	switch {
	case f.verdicts:
		b.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		b.u32(unix.NFTA_SET_DATA_LEN, 16) // sizeof(struct nft_verdict)
	case len(f.data) > 0:
		b.u32(unix.NFTA_SET_DATA_TYPE, keyType(f.data))
		b.u32(unix.NFTA_SET_DATA_LEN, uint32(keyLen(f.data)))
	}
	b.u32(unix.NFTA_SET_ID, b.sets)
	if f.size > 0 || f.flags&setConcat != 0 {
		at := b.open(unix.NFTA_SET_DESC)
		if f.size > 0 {
			b.u32(unix.NFTA_SET_DESC_SIZE, uint32(f.size))
		}
		if f.flags&setConcat != 0 {
			fields := b.open(nftaSetDescConcat)
			for _, k := range f.key {
				field := b.open(unix.NFTA_LIST_ELEM)
				b.u32(nftaSetFieldLen, uint32(k.size()))
				b.close(field)
			}
			b.close(fields)
		}
		b.close(at)
	}
	if f.timeout > 0 {
		b.u64(unix.NFTA_SET_TIMEOUT, uint64(f.timeout/time.Millisecond))
	}
	user := udata32(nil, udataKeyOrder, byteOrder(f.key))
	if len(f.data) > 0 {
		user = udata32(user, udataDataOrder, byteOrder(f.data))
	}
	b.bytes(unix.NFTA_SET_USERDATA, user)
	if f.counted {
		b.expr(nftaSetExpr, "counter", func() {})
	}
	b.send()
	return b.sets
}

func (f *setForm) word() string {
	if f.flags&unix.NFT_SET_MAP != 0 {
		return "map"
	}
	return "set"
}

func (b *batch) dropSet(name string) {
	b.message(unix.NFT_MSG_DELSET, 0, "remove set "+name)
	b.text(unix.NFTA_SET_TABLE, b.table)
	b.text(unix.NFTA_SET_NAME, name)
	b.send()
}

// elements adds elements to a set, or with drop deletes them, in as many
// messages as it takes. id is the number of a set of this batch, else 0; whole
// is true for the first elements of a new set.
func (b *batch) elements(s *Set, f *setForm, id uint32, elements []Element, drop, whole bool) {
	if len(elements) == 0 {
		return
	}
	if f.ranges() && len(f.key) == 1 {
		elements = slices.Clone(elements)
		slices.SortFunc(elements, func(a, b Element) int { return strings.Compare(string(a.Key[0].First), string(b.Key[0].First)) })
	}
	for first := true; len(elements) > 0; first = false {
		elements = elements[b.someElements(s, f, id, elements, drop, whole && first):]
	}
}

// someElements writes one message, and returns how many elements it has.
func (b *batch) someElements(s *Set, f *setForm, id uint32, elements []Element, drop, whole bool) int {
	switch {
	case drop && b.plain:
		b.message(unix.NFT_MSG_DELSETELEM, 0, "delete from "+f.word()+" "+f.name)
	case drop:
		b.message(msgDestroyElement, 0, "delete from "+f.word()+" "+f.name)
		b.steps[len(b.steps)-1].destroys = true
	default:
		b.message(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, "add to "+f.word()+" "+f.name)
	}
	b.text(unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
	b.text(unix.NFTA_SET_ELEM_LIST_SET, f.name)
	if id != 0 {
		b.u32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
	}
	list := b.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	if whole && f.ranges() && len(f.key) == 1 {
		if zero := make([]byte, f.key[0].size()); string(elements[0].Key[0].First) != string(zero) {
			b.intervalEnd(zero) // nft begins a list of intervals with the end of nothing
		}
	}
	n := 0
	at := make([]int, 0, min(len(elements), 1024))
	for n < len(elements) && len(b.b)-list < listRoom {
		at = append(at, len(b.b)-b.begun)
		e := &elements[n]
		n++
		if !f.ranges() || len(f.key) > 1 {
			b.element(f, e, drop)
			continue
		}
		var next *Element
		if n < len(elements) {
			next = &elements[n]
		}
		b.interval(f, e, next, drop)
	}
	b.close(list)
	b.send()
	last := &b.steps[len(b.steps)-1]
	last.set, last.elements, last.at = s, elements[:n], at
	return n
}

// element adds one of a set of values, or of ranges of concatenations, which
// have their first and their last key.
func (b *batch) element(f *setForm, e *Element, drop bool) {
	at := b.open(unix.NFTA_LIST_ELEM)
	b.data(unix.NFTA_SET_ELEM_KEY, f.keyBytes(e, false))
	if f.ranges() {
		b.data(nftaSetElemKeyEnd, f.keyBytes(e, true))
	}
	if !drop {
		b.elementRest(f, e, nil)
	}
	b.close(at)
}

// interval adds one of a set of ranges of a single value, as the two elements
// that it is: its first value, and the value after its last with a flag. It has
// no second where there is no value after it, nor, in sets without a name,
// where the next begins there.
func (b *batch) interval(f *setForm, e, next *Element, drop bool) {
	r := e.Key[0]
	after, ok := successor(r.last())
	at := b.open(unix.NFTA_LIST_ELEM)
	b.data(unix.NFTA_SET_ELEM_KEY, []byte(r.First))
	if !drop {
		var user []byte
		if !ok {
			user = udata32(user, udataElemFlags, udataElemOpenEnded)
		}
		b.elementRest(f, e, user)
	}
	b.close(at)
	if !ok || f.flags&unix.NFT_SET_ANONYMOUS != 0 && next != nil && string(next.Key[0].First) == string(after) {
		return
	}
	b.intervalEnd(after)
}

func (b *batch) intervalEnd(key []byte) {
	at := b.open(unix.NFTA_LIST_ELEM)
	b.u32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	b.data(unix.NFTA_SET_ELEM_KEY, key)
	b.close(at)
}

// elementRest is what an element has beside its key; user is userdata so far.
func (b *batch) elementRest(f *setForm, e *Element, user []byte) {
	switch {
	case f.verdicts:
		at := b.open(unix.NFTA_SET_ELEM_DATA)
		b.verdict(e.Verdict)
		b.close(at)
	case len(f.data) > 0:
		b.data(unix.NFTA_SET_ELEM_DATA, joined(f.data, e.Data, false))
	}
	if e.Timeout > 0 {
		b.u64(unix.NFTA_SET_ELEM_TIMEOUT, wholeMilliseconds(e.Timeout))
		if e.Expires > 0 {
			b.u64(unix.NFTA_SET_ELEM_EXPIRATION, wholeMilliseconds(e.Expires))
		}
	}
	if e.Comment != "" {
		user = commentData(user, e.Comment)
	}
	if len(user) > 0 {
		b.bytes(unix.NFTA_SET_ELEM_USERDATA, user)
	}
	if f.counted && e.Count != (Count{}) {
		b.expr(unix.NFTA_SET_ELEM_EXPR, "counter", func() { b.count(e.Count) })
	}
}

// wholeMilliseconds is at least one: none would be for ever.
func wholeMilliseconds(d time.Duration) uint64 { return uint64(max(1, d/time.Millisecond)) }

// keyBytes is the first, or with last the last, key of an element.
func (f *setForm) keyBytes(e *Element, last bool) []byte {
	values := make([]Value, len(e.Key))
	for i, r := range e.Key {
		values[i] = r.First
		if last {
			values[i] = r.last()
		}
	}
	return joined(f.key, values, f.ranges())
}

// joined is values in registers. Sets of ranges compare bytes, and so have
// numbers in network order; the others as the kernel has them.
func joined(kinds []kind, values []Value, network bool) []byte {
	b := make([]byte, 0, keyLen(kinds))
	for i, v := range values {
		b = appendValue(b, kinds[i], v, network)
		if len(kinds) > 1 {
			for len(b)%4 != 0 {
				b = append(b, 0)
			}
		}
	}
	return b
}

func appendValue(b []byte, k kind, v Value, network bool) []byte {
	if network || !k.hostOrder() {
		return append(b, v...)
	}
	return binary.NativeEndian.AppendUint32(b, v.number())
}
