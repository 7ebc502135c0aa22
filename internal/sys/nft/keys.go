package nft

import "fmt"

// A kind is a data type of nft(8): how values of it are written, and the number
// by which nft knows it (src/datatype.h there; linux/netfilter/nf_tables.h only
// carries it). Sets bear it so that nft lists them as they were meant.
type kind uint8

const (
	kindVerdict     kind = 1
	kindNFProto     kind = 2
	kindInteger     kind = 4
	kindIPv4        kind = 7
	kindIPv6        kind = 8
	kindEther       kind = 9
	kindEthertype   kind = 10
	kindInetProto   kind = 12
	kindInetService kind = 13
	kindICMPType    kind = 14
	kindMark        kind = 19
	kindIfindex     kind = 20
	kindCtState     kind = 26
	kindCtDirection kind = 27
	kindCtStatus    kind = 28
	kindICMPv6Type  kind = 29
	kindFibType     kind = 38
	kindIfname      kind = 41
)

// size is how many bytes a value of the kind has.
func (k kind) size() int {
	switch k {
	case kindNFProto, kindInetProto, kindICMPType, kindICMPv6Type, kindCtDirection:
		return 1
	case kindInetService, kindEthertype:
		return 2
	case kindEther:
		return 6
	case kindIPv6, kindIfname:
		return 16
	}
	return 4
}

// hostOrder reports whether the kernel keeps values of the kind as numbers of
// its own byte order; a Value is in network order all the same.
func (k kind) hostOrder() bool {
	switch k {
	case kindMark, kindIfindex, kindCtState, kindCtStatus, kindFibType, kindInteger:
		return true
	}
	return false
}

// A key is what is known of a Key.
type key struct {
	text string
	kind kind
}

var keys = [...]key{
	IIFName:         {"iifname", kindIfname},
	OIFName:         {"oifname", kindIfname},
	L4Proto:         {"meta l4proto", kindInetProto},
	NFProto:         {"meta nfproto", kindNFProto},
	Mark:            {"meta mark", kindMark},
	NFTrace:         {"meta nftrace", kindInteger},
	IPSaddr:         {"ip saddr", kindIPv4},
	IPDaddr:         {"ip daddr", kindIPv4},
	IP6Saddr:        {"ip6 saddr", kindIPv6},
	IP6Saddr64:      {"ip6 saddr & ffff:ffff:ffff:ffff::", kindIPv6},
	IP6Daddr:        {"ip6 daddr", kindIPv6},
	Sport:           {"th sport", kindInetService},
	Dport:           {"th dport", kindInetService},
	ICMPType:        {"icmp type", kindICMPType},
	ICMPv6Type:      {"icmpv6 type", kindICMPv6Type},
	CtState:         {"ct state", kindCtState},
	CtStatus:        {"ct status", kindCtStatus},
	CtDirection:     {"ct direction", kindCtDirection},
	CtOrigIPSaddr:   {"ct original ip saddr", kindIPv4},
	CtOrigIPDaddr:   {"ct original ip daddr", kindIPv4},
	CtOrigIP6Saddr:  {"ct original ip6 saddr", kindIPv6},
	CtOrigIP6Daddr:  {"ct original ip6 daddr", kindIPv6},
	CtOrigSport:     {"ct original proto-src", kindInetService},
	CtOrigDport:     {"ct original proto-dst", kindInetService},
	FibDaddrType:    {"fib daddr type", kindFibType},
	FibDaddrIIFType: {"fib daddr . iif type", kindFibType},
	FibSaddrType:    {"fib saddr type", kindFibType},
	FibSaddrOIF:     {"fib saddr . iif oif", kindIfindex},
}

func (k Key) known() bool { return k > 0 && int(k) < len(keys) }

func (k Key) info() key {
	if !k.known() {
		return key{text: fmt.Sprintf("key%d", k), kind: kindInteger}
	}
	return keys[k]
}

var types = [...]struct {
	text string
	kind kind
}{
	IPv4Addr:    {"ipv4_addr", kindIPv4},
	IPv6Addr:    {"ipv6_addr", kindIPv6},
	InetProto:   {"inet_proto", kindInetProto},
	InetService: {"inet_service", kindInetService},
	IfName:      {"ifname", kindIfname},
	NFProtoType: {"nf_proto", kindNFProto},
	MarkType:    {"mark", kindMark},
}

func (t Type) known() bool { return t > 0 && int(t) < len(types) }

// String is nft(8)'s name of the type.
func (t Type) String() string {
	if !t.known() {
		return fmt.Sprintf("type%d", uint8(t))
	}
	return types[t].text
}

func (t Type) kind() kind {
	if !t.known() {
		return kindInteger
	}
	return types[t].kind
}

func kindsOf[T interface{ kind() kind }](of []T) []kind {
	kinds := make([]kind, len(of))
	for i, t := range of {
		kinds[i] = t.kind()
	}
	return kinds
}

func (k Key) kind() kind { return k.info().kind }
