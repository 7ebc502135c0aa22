package nft

import (
	"net/netip"
	"time"
)

// An Expr is one part of a rule: something that must match, or something that
// is done. The types of this file are all there are.
type Expr interface{ expr() }

// A Key is something of a packet, or of its connection, that can be compared
// and looked up.
type Key uint8

// The keys.
const (
	IIFName         Key = iota + 1 // meta iifname
	OIFName                        // meta oifname
	L4Proto                        // meta l4proto
	NFProto                        // meta nfproto: 2 for IPv4, 10 for IPv6
	Mark                           // meta mark
	NFTrace                        // meta nftrace; only to be Set
	IPSaddr                        // ip saddr
	IPDaddr                        // ip daddr
	IP6Saddr                       // ip6 saddr
	IP6Saddr64                     // ip6 saddr & ffff:ffff:ffff:ffff::, its /64
	IP6Daddr                       // ip6 daddr
	Sport                          // th sport
	Dport                          // th dport
	ICMPType                       // icmp type
	ICMPv6Type                     // icmpv6 type
	CtState                        // ct state, a bit mask
	CtStatus                       // ct status, a bit mask
	CtDirection                    // ct direction: 0 original, 1 reply
	CtOrigIPSaddr                  // ct original ip saddr
	CtOrigIPDaddr                  // ct original ip daddr
	CtOrigIP6Saddr                 // ct original ip6 saddr
	CtOrigIP6Daddr                 // ct original ip6 daddr
	CtOrigSport                    // ct original proto-src, after L4Proto
	CtOrigDport                    // ct original proto-dst, after L4Proto
	FibDaddrType                   // fib daddr type: 2 is local (rtnetlink(7), RTN_LOCAL)
	FibDaddrIIFType                // fib daddr . iif type
	FibSaddrType                   // fib saddr type
	FibSaddrOIF                    // fib saddr . iif oif: 0 when the way back leaves by another interface
)

// Bits of CtState and CtStatus, as in linux/netfilter/nf_conntrack_common.h.
const (
	StateInvalid     = 1
	StateEstablished = 2
	StateRelated     = 4
	StateNew         = 8
	StatusConfirmed  = 8 // its first packet has passed
	StatusSNAT       = 0x10
	StatusDNAT       = 0x20
)

// RouteLocal is what FibDaddrType is for an address of this host.
const RouteLocal = 2

// Is matches when the key is one of Values, or within one of the ranges; with
// Not, when it is none of them.
type Is struct {
	Key    Key
	Values []Range
	Not    bool
}

// Has matches when the key has any of the bits of Mask.
type Has struct {
	Key  Key
	Mask uint32
	Not  bool // none of the bits
}

// In matches when the keys together are an element of a named set.
type In struct {
	Keys []Key
	Set  string
	Not  bool
}

// A Verdict ends a rule. Return, Jump and Goto are those of nft(8).
type Verdict struct {
	Do    string // "accept", "drop", "return", "jump", "goto"; "" is none
	Chain string // jump and goto
}

// Accept and Drop are the verdicts that need no chain.
var (
	Accept = Verdict{Do: "accept"}
	Drop   = Verdict{Do: "drop"}
)

// Jump calls a chain; Goto does not come back to this one.
func Jump(chain string) Verdict { return Verdict{Do: "jump", Chain: chain} }

// Goto goes on in a chain and does not come back.
func Goto(chain string) Verdict { return Verdict{Do: "goto", Chain: chain} }

// VMap does what a named map of verdicts says for the keys; where it says
// nothing the rule ends.
type VMap struct {
	Keys []Key
	Map  string
}

// DNAT rewrites the destination. Exactly one of Addr (with or without Port),
// Port alone, Map and Choose says to what. A rule with a port has matched
// L4Proto before.
type DNAT struct {
	Family Family // IPv4 or IPv6; Inet for Port alone, which keeps the address
	Addr   netip.Addr
	Port   uint16

	// Keys are looked up in the named Map, whose data is an address, or an
	// address and a port.
	Keys []Key
	Map  string

	Choose *Choose
}

// Choose is a map without a name: what it leads to is an address, or an
// address and a port.
type Choose struct {
	By  By     // what is looked up
	Key Key    // ByKey
	Mod uint32 // ByTurn, ByChance and BySource: the keys are 0 to Mod-1

	// Elements are disjoint, one component to each key. For a number it is a
	// Value of four bytes in network order.
	Elements []Element
}

// A By is what a Choose is made by.
type By uint8

// The ways to choose.
const (
	ByKey    By = iota
	ByTurn      // numgen inc mod
	ByChance    // numgen random mod
	BySource    // jhash ip saddr (or ip6 saddr) mod
)

// SNAT rewrites the source to Addr.
type SNAT struct {
	Family Family
	Addr   netip.Addr
}

// Masquerade rewrites the source to an address of the interface by which the
// packet leaves. With First the ports are taken from First to Last.
type Masquerade struct {
	First, Last uint16
}

// Reject drops and says so to the sender.
type Reject struct {
	With string // "tcp reset", "port-unreachable", "admin-prohibited" (icmpx)
}

// Limit matches while there are not more than Rate in each Per (time.Second,
// time.Minute, time.Hour), Burst allowed beyond it; with Over, only what is
// beyond.
type Limit struct {
	Rate  uint64
	Per   time.Duration
	Burst uint32
	Over  bool
}

// ConnCount matches while not more than N connections are open, counted for
// the rule, or for the element when it stands in an Update; with Over, only
// beyond.
type ConnCount struct {
	N    uint32
	Over bool
}

// Update adds an element to a named set that is Dynamic, or renews it, and
// matches when With does.
type Update struct {
	Op      string // "add", "update", "delete"
	Set     string
	Keys    []Key
	Timeout time.Duration
	With    []Expr // Limit, ConnCount or Counter; nil for none

	// DataKeys are what a map gets for the key.
	DataKeys []Key
}

// Counter counts what comes as far.
type Counter struct{ Count }

// Log tells of the packet: to the netlink group when there is one, else to the
// kernel's own log.
type Log struct {
	Prefix string
	Group  int // -1: the kernel's own log
}

// Set writes a key of the packet: Mark or NFTrace.
type SetKey struct {
	Key   Key
	Value uint32
}

// UseHelper gives the connection a helper of the table.
type UseHelper struct{ Name string }

// Notrack leaves the packet out of connection tracking.
type Notrack struct{}

// Unknown is a part of a rule that was read and is none of the above. It is
// never loaded.
type Unknown struct {
	Name string // in words, as far as it is understood
}

func (Unknown) expr()    {}
func (Is) expr()         {}
func (Has) expr()        {}
func (In) expr()         {}
func (Verdict) expr()    {}
func (VMap) expr()       {}
func (DNAT) expr()       {}
func (SNAT) expr()       {}
func (Masquerade) expr() {}
func (Reject) expr()     {}
func (Limit) expr()      {}
func (ConnCount) expr()  {}
func (Update) expr()     {}
func (Counter) expr()    {}
func (Log) expr()        {}
func (SetKey) expr()     {}
func (UseHelper) expr()  {}
func (Notrack) expr()    {}
