package nft

import (
	"net/netip"
	"time"
)

// A Family says which packets a table sees.
type Family uint8

// The families, as in linux/netfilter.h.
const (
	Inet   Family = 1 // IPv4 and IPv6
	IPv4   Family = 2
	ARP    Family = 3
	Netdev Family = 5
	Bridge Family = 7
	IPv6   Family = 10
)

// A Table is what a table holds.
type Table struct {
	Family Family
	Name   string

	// Owned has the kernel remove the table when the Conn that loaded it is
	// closed or its process ends, however that comes about, and lets nobody
	// else change it (NFT_TABLE_F_OWNER, Linux 5.12).
	Owned bool

	// Owner is the netlink port of the owner of a table that was read; 0: none.
	Owner uint32

	Helpers []Helper
	Sets    []Set // before the chains, whose rules name them
	Chains  []Chain

	// Anonymous are the sets without a name of their own that rules hold; they
	// are only read, for the Raw of the rules.
	Anonymous []Set
}

// A Helper is a connection tracking helper, "ftp" of TCP, that rules give to
// connections by its name in the table.
type Helper struct {
	Name  string
	Type  string // ftp, tftp, sip, as the kernel calls it
	Proto uint8  // unix.IPPROTO_TCP or unix.IPPROTO_UDP
}

// A Chain is rules. With a Hook it is a base chain, which packets reach by
// themselves.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// A Hook is where a base chain is hung up.
type Hook struct {
	Type     string // "filter", "nat", "route"
	Hook     string // "prerouting", "input", "forward", "output", "postrouting"
	Priority int
	Drop     bool // the policy; else accept

	Devices []string // only read: of an ingress or egress hook
}

// Priorities of base chains, by the names that nft(8) has for them.
const (
	Raw    = -300
	Mangle = -150
	DstNAT = -100
	Filter = 0
	SrcNAT = 100
)

// A Rule is expressions from left to right; the first that does not match ends
// the rule.
type Rule struct {
	Exprs   []Expr
	Comment string // up to 127 bytes, "" for none

	Handle uint64    // only read: its number in the table
	Raw    []RawExpr // only read: the rule as the kernel runs it
}

// A Set is a named set, or a map when it has Data or is Verdicts.
type Set struct {
	Name string
	Key  []Type
	Data []Type // what a map leads to; nil for a set
	// Verdicts makes it a map that leads to verdicts.
	Verdicts bool

	Interval bool // keys are ranges
	Dynamic  bool // rules add elements
	Timed    bool // elements may have a timeout
	Counted  bool // each element counts what matched it
	Size     int  // most elements; 0: no bound
	Timeout  time.Duration

	Elements []Element

	Objects bool // only read: a map that leads to objects of the table
	Partial bool // only read: there are more Elements, which were left out
}

// A Type is that of one component of a key or of data.
type Type uint8

// The types, by nft(8)'s names.
const (
	IPv4Addr    Type = iota + 1 // ipv4_addr
	IPv6Addr                    // ipv6_addr
	InetProto                   // inet_proto
	InetService                 // inet_service
	IfName                      // ifname
	NFProtoType                 // nf_proto
	MarkType                    // mark
	OtherType                   // only read: what is none of these, of any length
)

// A Value is one component of a key or of data, in network order and as long
// as its Type is. Values compare with ==.
type Value string

// Addr is an address as a value, of four or of sixteen bytes.
func Addr(a netip.Addr) Value { return Value(a.Unmap().AsSlice()) }

// Port is a port as a value.
func Port(p uint16) Value { return Value([]byte{byte(p >> 8), byte(p)}) }

// Byte is a protocol, or another value of one byte.
func Byte(b uint8) Value { return Value([]byte{b}) }

// Number is a mark, or another value of four bytes.
func Number(n uint32) Value {
	return Value([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// Name is an interface's name as a value, padded as the kernel does.
func Name(s string) Value {
	b := make([]byte, 16)
	copy(b[:15], s)
	return Value(b)
}

// A Range is an inclusive range of values; Last is "" where it is one value.
type Range struct {
	First, Last Value
}

// One is the range of one value.
func One(v Value) Range { return Range{First: v} }

// An Element is one of a set or map.
type Element struct {
	Key     []Range // as many as the set's Key has types; only read: none in the element for all other keys
	Data    []Value // a map's
	Verdict Verdict // of a map of verdicts
	Timeout time.Duration
	Expires time.Duration // what is left of the timeout; 0 when it is loaded: all of it
	Comment string
	Count   Count // of a set that is Counted

	Object string // only read: of a map of Objects
}

// A Count is what passed.
type Count struct {
	Packets, Bytes uint64
}
