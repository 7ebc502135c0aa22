package nft

import (
	"net/netip"
	"time"
)

var (
	ip4 = netip.MustParseAddr("192.0.2.1")
	ip6 = netip.MustParseAddr("2001:db8::1")
)

func span(from, to string) Range {
	return Range{Addr(netip.MustParseAddr(from)), Addr(netip.MustParseAddr(to))}
}

func ports(from, to uint16) Range { return Range{Port(from), Port(to)} }

// everyForm is a table with each form that a set, an element and an expression
// has.
func everyForm() *Table {
	tcp, udp := One(Byte(6)), One(Byte(17))
	a4 := func(s string) Range { return One(Addr(netip.MustParseAddr(s))) }
	v := func(s string) Value { return Addr(netip.MustParseAddr(s)) }
	l4tcp := Is{Key: L4Proto, Values: []Range{tcp}}
	l4both := Is{Key: L4Proto, Values: []Range{tcp, udp}}
	rules := func(lists ...[]Expr) []Rule {
		var rules []Rule
		for _, l := range lists {
			rules = append(rules, Rule{Exprs: l})
		}
		return rules
	}
	e := func(exprs ...Expr) []Expr { return exprs }
	is := func(k Key, values ...Range) Is { return Is{Key: k, Values: values} }
	not := func(i Is) Is { i.Not = true; return i }
	num := func(n uint32) Range { return One(Number(n)) }

	matches := rules(
		e(is(IIFName, One(Name("eth0")))),
		e(not(is(OIFName, One(Name("eth0"))))),
		e(is(IIFName, One(Name("eth0")), One(Name("eth1")))),
		e(is(L4Proto, tcp)),
		e(l4both, is(Dport, One(Port(80)))),
		e(is(L4Proto, Range{Byte(6), Byte(17)})),
		e(is(NFProto, One(Byte(10)))),
		e(is(Mark, num(0x10))),
		e(not(is(Mark, num(0x10), num(0x20000)))),
		e(is(Mark, Range{Number(1), Number(300)})),
		e(not(is(Mark, Range{Number(1), Number(300)}))),
		e(is(Mark, Range{Number(1), Number(300)}, num(0x20000))),
		e(is(IPSaddr, a4("192.0.2.1"))),
		e(not(is(IPDaddr, a4("192.0.2.1")))),
		e(is(IPSaddr, span("10.0.0.0", "10.255.255.255"))),
		e(not(is(IPSaddr, span("10.0.0.1", "10.0.0.9")))),
		e(is(IPSaddr, a4("192.0.2.1"), a4("198.51.100.7"))),
		e(is(IPSaddr, span("10.0.0.0", "10.255.255.255"), span("192.0.2.3", "192.0.2.9"), a4("192.0.2.30"))),
		e(not(is(IPSaddr, span("0.0.0.0", "9.255.255.255"), span("192.0.2.3", "255.255.255.255")))),
		e(is(IP6Saddr, a4("2001:db8::1"))),
		e(is(IP6Daddr, span("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), a4("fe80::1"))),
		e(is(IP6Daddr, span("2001:db8::5", "2001:db8::7"))),
		e(l4tcp, is(Sport, ports(1024, 65535))),
		e(l4tcp, is(Dport, ports(80, 90), One(Port(443)))),
		e(is(ICMPType, One(Byte(8)))),
		e(is(ICMPv6Type, One(Byte(1)), One(Byte(2)), Range{Byte(128), Byte(129)})),
		e(is(CtState, num(StateNew))),
		e(Has{Key: CtState, Mask: StateEstablished | StateRelated}, Accept),
		e(Has{Key: CtState, Mask: StateInvalid, Not: true}),
		e(Has{Key: CtStatus, Mask: StatusDNAT}),
		e(Has{Key: CtStatus, Mask: StatusDNAT | StatusSNAT, Not: true}),
		e(Has{Key: Mark, Mask: 0x10}),
		e(Has{Key: Mark, Mask: 0xff00, Not: true}),
		e(is(CtDirection, One(Byte(0)))),
		e(is(CtDirection, One(Byte(1)))),
		e(is(CtOrigIPSaddr, a4("192.0.2.1"))),
		e(is(CtOrigIPDaddr, span("10.0.0.0", "10.255.255.255"))),
		e(is(CtOrigIP6Saddr, a4("2001:db8::1"))),
		e(not(is(CtOrigIP6Daddr, a4("2001:db8::1")))),
		e(l4tcp, is(CtOrigSport, One(Port(80)))),
		e(l4tcp, is(CtOrigDport, ports(5000, 5003))),
		e(l4both, is(CtOrigDport, One(Port(80)), One(Port(443)))),
		e(is(FibDaddrType, num(RouteLocal))),
		e(is(FibDaddrType, num(RouteLocal), num(3))),
		e(not(is(FibDaddrIIFType, num(RouteLocal)))),
		e(is(FibSaddrType, num(1))),
		e(is(FibSaddrOIF, num(0))),
		e(not(is(FibSaddrOIF, num(0)))),
		e(In{Keys: []Key{IPSaddr}, Set: "nets"}, Drop),
		e(In{Keys: []Key{IPSaddr}, Set: "nets", Not: true}, Drop),
		e(In{Keys: []Key{IP6Saddr}, Set: "nets6"}, Accept),
		e(In{Keys: []Key{Dport}, Set: "portset"}, Accept),
		e(In{Keys: []Key{Mark}, Set: "marks"}, Accept),
		e(In{Keys: []Key{IIFName, OIFName}, Set: "pairs"}),
		e(In{Keys: []Key{IP6Daddr, L4Proto, Dport}, Set: "pinholes"}, Accept),
		e(In{Keys: []Key{IPSaddr, Sport, IPDaddr, Dport}, Set: "kill4"}),
		e(l4tcp, In{Keys: []Key{CtOrigIPDaddr, CtOrigDport}, Set: "count"}),
		e(l4tcp, In{Keys: []Key{CtOrigIP6Daddr, CtOrigDport}, Set: "count6"}),
		e(is(NFProto, One(Byte(2))), is(IPSaddr, a4("192.0.2.1"))),
		e(is(IPSaddr, a4("192.0.2.1")), is(IPDaddr, a4("192.0.2.2"))),
		e(l4tcp, is(IPSaddr, a4("192.0.2.1")), is(Dport, One(Port(5)))),
		e(VMap{Keys: []Key{L4Proto, Dport}, Map: "special"}),
		e(VMap{Keys: []Key{IIFName, L4Proto, Dport}, Map: "specials"}),
		e(VMap{Keys: []Key{IPDaddr, L4Proto, Dport}, Map: "addrspecial"}),
		e(Jump("leaf")),
		e(Goto("leaf")),
		e(Verdict{Do: "return"}),
	)
	matches = append(matches, Rule{Exprs: e(Counter{Count{3, 4}}, Accept), Comment: "a comment"}, Rule{Exprs: e(Counter{}), Comment: `with "marks" ü`})

	addrs := func(keys ...uint32) (list []Element) {
		for i, k := range keys {
			list = append(list, Element{Key: []Range{num(k)}, Data: []Value{v("10.0.0.1"), Port(uint16(80 + i))}})
		}
		return list
	}
	nat := rules(
		e(l4tcp, DNAT{Family: IPv4, Addr: ip4, Port: 80}),
		e(DNAT{Family: IPv4, Addr: ip4}),
		e(is(NFProto, One(Byte(2))), DNAT{Family: IPv4, Addr: ip4}),
		e(l4both, DNAT{Family: IPv6, Addr: ip6, Port: 80}),
		e(DNAT{Family: IPv6, Addr: ip6}),
		e(l4both, DNAT{Family: Inet, Port: 8080}),
		e(DNAT{Family: IPv4, Keys: []Key{IPDaddr, L4Proto, Dport}, Map: "addr_dnat4"}),
		e(is(FibDaddrType, num(RouteLocal)), DNAT{Family: IPv4, Keys: []Key{IIFName, L4Proto, Dport}, Map: "wan_dnat4"}),
		e(is(NFProto, One(Byte(10))), DNAT{Family: IPv6, Keys: []Key{L4Proto, Dport}, Map: "all_dnat6"}),
		e(DNAT{Family: IPv4, Keys: []Key{IPDaddr, L4Proto, Dport}, Map: "addr_range4"}),
		e(DNAT{Family: IPv6, Keys: []Key{IP6Daddr, L4Proto, Dport}, Map: "addr_range6"}),
		e(l4tcp, DNAT{Family: IPv4, Choose: &Choose{By: ByTurn, Mod: 2, Elements: addrs(0, 1)}}),
		e(l4tcp, DNAT{Family: IPv4, Choose: &Choose{By: ByChance, Mod: 2, Elements: addrs(0, 1)}}),
		e(l4tcp, DNAT{Family: IPv4, Choose: &Choose{By: BySource, Mod: 2, Elements: addrs(0, 1)}}),
		e(l4tcp, DNAT{Family: IPv4, Choose: &Choose{By: BySource, Mod: 7, Elements: []Element{
			{Key: []Range{{Number(0), Number(3)}}, Data: []Value{v("10.0.0.1"), Port(80)}},
			{Key: []Range{{Number(4), Number(6)}}, Data: []Value{v("10.0.0.2"), Port(80)}},
		}}}),
		e(DNAT{Family: IPv4, Choose: &Choose{By: ByTurn, Mod: 2, Elements: []Element{
			{Key: []Range{num(0)}, Data: []Value{v("10.0.0.1")}},
			{Key: []Range{num(1)}, Data: []Value{v("10.0.0.2")}},
		}}}),
		e(DNAT{Family: IPv6, Choose: &Choose{By: BySource, Mod: 2, Elements: []Element{
			{Key: []Range{num(0)}, Data: []Value{v("2001:db8::1")}},
			{Key: []Range{num(1)}, Data: []Value{v("2001:db8::2")}},
		}}}),
		e(l4both, DNAT{Family: IPv6, Choose: &Choose{By: ByTurn, Mod: 2, Elements: []Element{
			{Key: []Range{num(0)}, Data: []Value{v("2001:db8::1"), Port(80)}},
			{Key: []Range{num(1)}, Data: []Value{v("2001:db8::2"), Port(81)}},
		}}}),
		e(l4tcp, DNAT{Family: IPv4, Choose: &Choose{Key: IPSaddr, Elements: []Element{
			{Key: []Range{span("10.0.0.0", "10.255.255.255")}, Data: []Value{v("10.0.0.1"), Port(80)}},
			{Key: []Range{span("11.0.0.0", "255.255.255.255")}, Data: []Value{v("10.0.0.2"), Port(80)}},
		}}}),
		e(DNAT{Family: IPv6, Choose: &Choose{Key: IP6Saddr, Elements: []Element{
			{Key: []Range{span("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff")}, Data: []Value{v("2001:db8::1")}},
			{Key: []Range{span("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}, Data: []Value{v("2001:db8::2")}},
		}}}),
		e(DNAT{Family: IPv4, Choose: &Choose{Key: IPSaddr, Elements: []Element{
			{Key: []Range{a4("10.0.0.8")}, Data: []Value{v("10.0.0.1")}},
			{Key: []Range{a4("10.0.0.9")}, Data: []Value{v("10.0.0.2")}},
		}}}),
		e(l4tcp, DNAT{Family: IPv4, Choose: &Choose{Key: Mark, Elements: []Element{
			{Key: []Range{num(1)}, Data: []Value{v("10.0.0.1"), Port(80)}},
			{Key: []Range{num(700)}, Data: []Value{v("10.0.0.2"), Port(80)}},
		}}}),
		e(DNAT{Family: IPv4, Choose: &Choose{Key: IIFName, Elements: []Element{
			{Key: []Range{One(Name("eth0"))}, Data: []Value{v("10.0.0.1")}},
			{Key: []Range{One(Name("eth1"))}, Data: []Value{v("10.0.0.2")}},
		}}}),
	)
	post := rules(
		e(SNAT{Family: IPv4, Addr: ip4}),
		e(SNAT{Family: IPv6, Addr: ip6}),
		e(Masquerade{}),
		e(is(NFProto, One(Byte(2))), Masquerade{}),
		e(l4both, Masquerade{First: 1024, Last: 2047}),
	)
	filter := rules(
		e(Reject{With: "tcp reset"}),
		e(l4tcp, Reject{With: "tcp reset"}),
		e(Reject{With: "port-unreachable"}),
		e(Reject{With: "admin-prohibited"}),
		e(Reject{With: "host-unreachable"}),
		e(Reject{With: "no-route"}),
		e(Limit{Rate: 10, Per: time.Second}),
		e(Limit{Rate: 10, Per: time.Minute, Burst: 3}),
		e(Limit{Rate: 10, Per: time.Hour, Burst: 3, Over: true}),
		e(ConnCount{N: 3}),
		e(ConnCount{N: 3, Over: true}, Drop),
		e(Has{Key: CtState, Mask: StateNew}, Update{Op: "add", Set: "conns", Keys: []Key{IPSaddr}, With: e(ConnCount{N: 3, Over: true})}, Drop),
		e(Update{Op: "update", Set: "seen", Keys: []Key{IPSaddr}, Timeout: 3 * time.Second, With: e(Limit{Rate: 10, Per: time.Second, Burst: 7, Over: true})}, Drop),
		e(Update{Op: "update", Set: "seen", Keys: []Key{IPDaddr}, Timeout: 1500 * time.Millisecond, With: e(Counter{})}),
		e(Update{Op: "update", Set: "trigger", Keys: []Key{NFProto}, Timeout: 3 * time.Second, DataKeys: []Key{IPSaddr}}),
		e(Update{Op: "add", Set: "triggered", Keys: []Key{IPSaddr, L4Proto, Dport}, Timeout: 3 * time.Second, DataKeys: []Key{IPDaddr, Sport}}),
		e(Update{Op: "delete", Set: "seen", Keys: []Key{IPSaddr}}),
		e(Update{Op: "update", Set: "seen6", Keys: []Key{IP6Saddr64}, With: e(Limit{Rate: 10, Per: time.Second, Burst: 7})}, Drop),
		e(Log{Prefix: "hello ", Group: -1}),
		e(Log{Prefix: "hello ", Group: 3}),
		e(Log{Group: -1}),
		e(Log{Group: 0}),
		e(SetKey{Mark, 0x20}),
		e(SetKey{NFTrace, 1}),
	)
	helpers := rules(
		e(Has{Key: CtState, Mask: StateNew}, l4tcp, is(Dport, One(Port(2121))), UseHelper{"ftp-std"}),
		e(Notrack{}),
	)
	key3 := []Type{IPv4Addr, InetProto, InetService}
	return &Table{
		Family: Inet, Name: "every",
		Helpers: []Helper{{"ftp-std", "ftp", 6}, {"tftp-std", "tftp", 17}},
		Sets: []Set{
			{Name: "nets", Key: []Type{IPv4Addr}, Interval: true, Elements: []Element{
				{Key: []Range{span("10.0.0.0", "10.255.255.255")}}, {Key: []Range{a4("192.0.2.1")}},
				{Key: []Range{span("192.0.2.2", "192.0.2.9")}, Comment: "some hosts"}, {Key: []Range{span("240.0.0.0", "255.255.255.255")}},
			}},
			{Name: "nets6", Key: []Type{IPv6Addr}, Interval: true, Timed: true, Elements: []Element{
				{Key: []Range{span("2001:db8::", "2001:db8::ff")}, Timeout: time.Hour}, {Key: []Range{a4("2001:db8:5::1")}, Comment: "six"},
			}},
			{Name: "portset", Key: []Type{InetService}, Interval: true, Elements: []Element{
				{Key: []Range{ports(0, 5)}}, {Key: []Range{One(Port(80))}}, {Key: []Range{ports(1000, 2000)}}, {Key: []Range{ports(2001, 65535)}},
			}},
			{Name: "marks", Key: []Type{MarkType}, Elements: []Element{{Key: []Range{num(5)}}, {Key: []Range{num(0x10000)}, Comment: "far"}}},
			{Name: "pairs", Key: []Type{IfName, IfName}, Elements: []Element{
				{Key: []Range{One(Name("lan")), One(Name("lan"))}}, {Key: []Range{One(Name("wan")), One(Name("wan"))}}}},
			{Name: "pinholes", Key: []Type{IPv6Addr, InetProto, InetService}, Interval: true, Timed: true, Elements: []Element{
				{Key: []Range{a4("2001:db8::5"), tcp, ports(80, 90)}, Timeout: time.Minute, Comment: "id=17"},
				{Key: []Range{span("2001:db8:1::", "2001:db8:1::ffff"), udp, One(Port(53))}},
			}},
			{Name: "kill4", Key: []Type{IPv4Addr, InetService, IPv4Addr, InetService}, Timed: true, Timeout: 30 * time.Second, Elements: []Element{
				{Key: []Range{a4("10.0.0.1"), One(Port(5)), a4("10.0.0.2"), One(Port(6))}},
			}},
			{Name: "count", Key: []Type{IPv4Addr, InetService}, Counted: true, Elements: []Element{
				{Key: []Range{a4("10.0.0.1"), One(Port(5))}, Count: Count{7, 900}, Comment: "web"},
				{Key: []Range{a4("10.0.0.1"), One(Port(6))}},
			}},
			{Name: "count6", Key: []Type{IPv6Addr, InetService}, Counted: true, Interval: true, Elements: []Element{
				{Key: []Range{a4("2001:db8::1"), ports(5, 9)}, Count: Count{1, 1 << 40}},
			}},
			{Name: "conns", Key: []Type{IPv4Addr}, Dynamic: true, Size: 1000},
			{Name: "seen6", Key: []Type{IPv6Addr}, Dynamic: true, Timed: true, Size: 65535, Timeout: time.Minute},
			{Name: "seen", Key: []Type{IPv4Addr}, Dynamic: true, Timed: true, Size: 65535, Timeout: time.Minute},
			{Name: "trigger", Key: []Type{NFProtoType}, Data: []Type{IPv4Addr}, Dynamic: true, Timed: true, Size: 16},
			{Name: "triggered", Key: key3, Data: []Type{IPv4Addr, InetService}, Dynamic: true, Timed: true, Size: 16},
			{Name: "addr_dnat4", Key: key3, Data: []Type{IPv4Addr, InetService}, Timed: true, Elements: []Element{
				{Key: []Range{a4("192.0.2.1"), tcp, One(Port(80))}, Data: []Value{v("10.0.0.1"), Port(8080)}},
				{Key: []Range{a4("192.0.2.1"), udp, One(Port(80))}, Data: []Value{v("10.0.0.1"), Port(8080)}, Timeout: 30 * time.Minute, Comment: "web"},
			}},
			{Name: "wan_dnat4", Key: []Type{IfName, InetProto, InetService}, Data: []Type{IPv4Addr, InetService}, Elements: []Element{
				{Key: []Range{One(Name("wan")), tcp, One(Port(80))}, Data: []Value{v("10.0.0.1"), Port(8080)}},
			}},
			{Name: "all_dnat6", Key: []Type{InetProto, InetService}, Data: []Type{IPv6Addr, InetService}, Elements: []Element{
				{Key: []Range{tcp, One(Port(80))}, Data: []Value{v("2001:db8::1"), Port(8080)}},
			}},
			{Name: "addr_range4", Key: key3, Data: []Type{IPv4Addr}, Interval: true, Elements: []Element{
				{Key: []Range{a4("192.0.2.1"), tcp, ports(9000, 9010)}, Data: []Value{v("10.0.0.1")}},
				{Key: []Range{span("198.51.100.0", "198.51.100.127"), tcp, ports(1, 9)}, Data: []Value{v("10.0.0.2")}},
			}},
			{Name: "addr_range6", Key: []Type{IPv6Addr, InetProto, InetService}, Data: []Type{IPv6Addr}, Interval: true, Elements: []Element{
				{Key: []Range{a4("2001:db8::1"), tcp, ports(9000, 9010)}, Data: []Value{v("2001:db8::2")}},
			}},
			{Name: "special", Key: []Type{InetProto, InetService}, Verdicts: true, Elements: []Element{
				{Key: []Range{tcp, One(Port(80))}, Verdict: Jump("leaf")},
				{Key: []Range{tcp, One(Port(81))}, Verdict: Goto("leaf"), Comment: "far"},
				{Key: []Range{tcp, One(Port(82))}, Verdict: Drop},
				{Key: []Range{tcp, One(Port(83))}, Verdict: Accept},
				{Key: []Range{tcp, One(Port(84))}, Verdict: Verdict{Do: "return"}},
			}},
			{Name: "specials", Key: []Type{IfName, InetProto, InetService}, Verdicts: true, Interval: true, Elements: []Element{
				{Key: []Range{One(Name("wan")), tcp, ports(80, 90)}, Verdict: Jump("leaf")},
			}},
			{Name: "addrspecial", Key: key3, Verdicts: true, Interval: true, Elements: []Element{
				{Key: []Range{a4("192.0.2.1"), tcp, ports(80, 90)}, Verdict: Jump("leaf")},
			}},
			{Name: "turn", Key: []Type{IPv4Addr}, Data: []Type{IPv4Addr, InetService}, Interval: true, Elements: []Element{
				{Key: []Range{span("10.0.0.0", "10.255.255.255")}, Data: []Value{v("10.0.0.1"), Port(80)}, Comment: "ten"},
				{Key: []Range{span("11.0.0.0", "11.0.0.5")}, Data: []Value{v("10.0.0.2"), Port(80)}},
			}},
		},
		Chains: []Chain{
			{Name: "leaf", Rules: rules(e(Drop))},
			{Name: "empty"},
			{Name: "matches", Rules: matches},
			{Name: "pre", Hook: &Hook{Type: "nat", Hook: "prerouting", Priority: DstNAT}, Rules: nat},
			{Name: "out", Hook: &Hook{Type: "nat", Hook: "output", Priority: DstNAT}},
			{Name: "post", Hook: &Hook{Type: "nat", Hook: "postrouting", Priority: SrcNAT}, Rules: post},
			{Name: "in", Hook: &Hook{Type: "filter", Hook: "input", Priority: Filter, Drop: true}, Rules: filter},
			{Name: "raw", Hook: &Hook{Type: "filter", Hook: "prerouting", Priority: Raw}, Rules: helpers},
			{Name: "killed", Hook: &Hook{Type: "filter", Hook: "output", Priority: -190}},
			{Name: "route", Hook: &Hook{Type: "route", Hook: "output", Priority: Mangle}},
		},
	}
}
