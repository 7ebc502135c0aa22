package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Numbers of linux/netfilter/nf_tables.h that package unix does not have.
const (
	setConcat = 0x80 // NFT_SET_CONCAT

	// NFT_MSG_DESTROYSETELEM, Linux 6.3: a deletion that does not mind when
	// there is no such element.
	msgDestroyElement = 30
)

// Userdata, which the kernel keeps for nft: libnftnl/udata.h.
const (
	udataComment       = 0 // of rules and elements
	udataElemFlags     = 1
	udataKeyOrder      = 0 // of sets
	udataDataOrder     = 1
	udataOrderHost     = 1
	udataOrderNetwork  = 2
	udataElemOpenEnded = 1 // a flag of udataElemFlags
)

// listRoom is how long a list of elements may get in one message: the length of
// an attribute has sixteen bits.
const listRoom = 60_000

// A batch is the messages of one transaction.
type batch struct {
	b      []byte
	family Family
	table  string
	sets   uint32 // the number of the last set
	shapes map[string]shape
	steps  []step // what each message does, the first included
	begun  int    // where the message begins that is being written

	// plain has elements deleted by what Linux before 6.3 understands.
	plain bool
}

// A shape is what a rule has to know of a set that it names.
type shape struct {
	interval bool
	dataLen  int
}

func shapeOf(s *Set) shape { return shape{s.Interval, keyLen(kindsOf(s.Data))} }

// A step is what a message does, in words, for the error that names it.
type step struct {
	doing    string
	set      *Set // elements are added to it, or deleted
	elements []Element
	at       []int // where each element begins in its message
	destroys bool  // by msgDestroyElement
}

// errBatchTooLarge cannot happen before the machine is out of memory.
var errBatchTooLarge = errors.New("more than 1 GiB of messages")

func newBatch(f Family, table string) *batch {
	b := &batch{family: f, table: table, shapes: map[string]shape{}}
	b.wrap(unix.NFNL_MSG_BATCH_BEGIN)
	return b
}

// finish ends the batch. The last message before its end is answered even when
// it did well, so that the answer to all of them can be told from none.
func (b *batch) finish() ([]byte, error) {
	flags := binary.NativeEndian.Uint16(b.b[b.begun+6:])
	binary.NativeEndian.PutUint16(b.b[b.begun+6:], flags|unix.NLM_F_ACK)
	b.wrap(unix.NFNL_MSG_BATCH_END)
	if len(b.b) > 1<<30 {
		return nil, errBatchTooLarge
	}
	return b.b, nil
}

// wrap adds a message that begins or ends the batch.
func (b *batch) wrap(kind uint16) {
	at := len(b.b)
	b.b = appendHeader(b.b, 0, unix.NLM_F_REQUEST, 0, 0, unix.NFNL_SUBSYS_NFTABLES)
	binary.NativeEndian.PutUint16(b.b[at+4:], kind)
	binary.NativeEndian.PutUint32(b.b[at:], uint32(len(b.b)-at))
	b.steps = append(b.steps, step{doing: "begin"})
}

// message begins one of nf_tables; send ends it.
func (b *batch) message(kind, flags uint16, doing string) {
	b.begun = len(b.b)
	b.b = appendHeader(b.b, kind, unix.NLM_F_REQUEST|flags, 0, b.family, 0)
	b.steps = append(b.steps, step{doing: doing})
}

func (b *batch) send() {
	binary.NativeEndian.PutUint32(b.b[b.begun:], uint32(len(b.b)-b.begun))
}

// bytes adds an attribute.
func (b *batch) bytes(kind uint16, v []byte) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(4+len(v)))
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = append(b.b, v...)
	b.pad()
}

func (b *batch) pad() {
	for len(b.b)%4 != 0 {
		b.b = append(b.b, 0)
	}
}

// text adds a string, which ends in a zero.
func (b *batch) text(kind uint16, s string) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(5+len(s)))
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = append(b.b, s...)
	b.b = append(b.b, 0)
	b.pad()
}

func (b *batch) u8(kind uint16, v uint8) { b.bytes(kind, []byte{v}) }

func (b *batch) u16(kind uint16, v uint16) {
	b.bytes(kind, binary.BigEndian.AppendUint16(nil, v))
}

func (b *batch) u32(kind uint16, v uint32) {
	b.b = binary.NativeEndian.AppendUint16(b.b, 8)
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = binary.BigEndian.AppendUint32(b.b, v)
}

func (b *batch) u64(kind uint16, v uint64) {
	b.b = binary.NativeEndian.AppendUint16(b.b, 12)
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = binary.BigEndian.AppendUint64(b.b, v)
}

// open begins an attribute that holds others, and close ends it.
func (b *batch) open(kind uint16) (at int) {
	at = len(b.b)
	b.b = binary.NativeEndian.AppendUint16(b.b, 0)
	b.b = binary.NativeEndian.AppendUint16(b.b, kind|unix.NLA_F_NESTED)
	return at
}

func (b *batch) close(at int) {
	binary.NativeEndian.PutUint16(b.b[at:], uint16(len(b.b)-at))
}

// data adds a value as the kernel holds it.
func (b *batch) data(kind uint16, v []byte) {
	at := b.open(kind)
	b.bytes(unix.NFTA_DATA_VALUE, v)
	b.close(at)
}

// freshTable makes an empty table, whatever there was before.
func (b *batch) freshTable(owned bool) {
	b.emptyTable()
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "add the table")
	b.text(unix.NFTA_TABLE_NAME, b.table)
	if owned {
		b.u32(unix.NFTA_TABLE_FLAGS, nftTableFOwner)
	}
	b.send()
}

// emptyTable removes the table if there is one: it is made first, so that the
// removal finds one.
func (b *batch) emptyTable() {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "find the table")
	b.text(unix.NFTA_TABLE_NAME, b.table)
	b.send()
	b.message(unix.NFT_MSG_DELTABLE, 0, "remove the table as it was")
	b.text(unix.NFTA_TABLE_NAME, b.table)
	b.send()
}

func (b *batch) helper(h *Helper) {
	b.message(unix.NFT_MSG_NEWOBJ, unix.NLM_F_CREATE, "add helper "+h.Name)
	b.text(unix.NFTA_OBJ_TABLE, b.table)
	b.text(unix.NFTA_OBJ_NAME, h.Name)
	b.u32(unix.NFTA_OBJ_TYPE, nftObjectCtHelper)
	at := b.open(unix.NFTA_OBJ_DATA)
	b.text(unix.NFTA_CT_HELPER_NAME, h.Type)
	b.u8(unix.NFTA_CT_HELPER_L4PROTO, h.Proto)
	b.close(at)
	b.send()
}

func (b *batch) dropHelper(name string) {
	b.message(unix.NFT_MSG_DELOBJ, 0, "remove helper "+name)
	b.text(unix.NFTA_OBJ_TABLE, b.table)
	b.text(unix.NFTA_OBJ_NAME, name)
	b.u32(unix.NFTA_OBJ_TYPE, nftObjectCtHelper)
	b.send()
}

// chain adds a chain without its rules.
func (b *batch) chain(c *Chain) error {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, "add chain "+c.Name)
	b.text(unix.NFTA_CHAIN_TABLE, b.table)
	b.text(unix.NFTA_CHAIN_NAME, c.Name)
	if h := c.Hook; h != nil {
		num, ok := hooks[h.Hook]
		if !ok {
			return fmt.Errorf("chain %s: there is no hook %q", c.Name, h.Hook)
		}
		policy := uint32(verdictAccept)
		if h.Drop {
			policy = verdictDrop
		}
		b.text(unix.NFTA_CHAIN_TYPE, h.Type)
		b.u32(unix.NFTA_CHAIN_POLICY, policy)
		at := b.open(unix.NFTA_CHAIN_HOOK)
		b.u32(unix.NFTA_HOOK_HOOKNUM, num)
		b.u32(unix.NFTA_HOOK_PRIORITY, uint32(int32(h.Priority)))
		b.close(at)
	}
	b.send()
	return nil
}

// hooks are those of linux/netfilter.h, enum nf_inet_hooks.
var hooks = map[string]uint32{"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

func (b *batch) flushChain(name string) {
	b.message(unix.NFT_MSG_DELRULE, 0, "flush chain "+name)
	b.text(unix.NFTA_RULE_TABLE, b.table)
	b.text(unix.NFTA_RULE_CHAIN, name)
	b.send()
}

func (b *batch) dropChain(name string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, "remove chain "+name)
	b.text(unix.NFTA_CHAIN_TABLE, b.table)
	b.text(unix.NFTA_CHAIN_NAME, name)
	b.send()
}

// commentData adds userdata with a comment, as nft writes it.
func commentData(to []byte, s string) []byte {
	s = fitQuotes(s)
	to = append(to, udataComment, byte(len(s)+1))
	to = append(to, s...)
	return append(to, 0)
}

func udata32(to []byte, kind byte, v uint32) []byte {
	to = append(to, kind, 4)
	return binary.NativeEndian.AppendUint32(to, v)
}
