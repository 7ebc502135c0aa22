package nft

import (
	"fmt"
	"testing"

	"fairlead/internal/lab"
)

// manyForwards is a table of so many forwards of one port each, and a tenth of
// them again as ranges.
func manyForwards(n int) *Table {
	key := []Type{IPv4Addr, InetProto, InetService}
	hash := Set{Name: "addr_dnat4", Key: key, Data: []Type{IPv4Addr, InetService}, Timed: true}
	spans := Set{Name: "addr_range4", Key: key, Data: []Type{IPv4Addr}, Interval: true, Timed: true}
	count := Set{Name: "count", Key: []Type{IPv4Addr, InetService}, Counted: true}
	for i := range n {
		at := One(Number(0xc0000200 + uint32(i/50000)))
		port := uint16(1000 + i%50000)
		hash.Elements = append(hash.Elements, Element{Key: []Range{at, One(Byte(6)), One(Port(port))}, Data: []Value{Number(0x0a000000 + uint32(i)), Port(80)}})
		count.Elements = append(count.Elements, Element{Key: []Range{at, One(Port(port))}, Count: Count{uint64(i), 1}})
		if i%10 == 0 {
			spans.Elements = append(spans.Elements, Element{Key: []Range{at, One(Byte(17)), {Port(port), Port(port + 5)}}, Data: []Value{Number(0x0a000000 + uint32(i))}})
		}
	}
	return &Table{Family: Inet, Name: "many", Sets: []Set{hash, spans, count}, Chains: []Chain{
		{Name: "pre", Hook: &Hook{Type: "nat", Hook: "prerouting", Priority: DstNAT}, Rules: []Rule{
			{Exprs: []Expr{DNAT{Family: IPv4, Keys: []Key{IPDaddr, L4Proto, Dport}, Map: "addr_dnat4"}}},
			{Exprs: []Expr{DNAT{Family: IPv4, Keys: []Key{IPDaddr, L4Proto, Dport}, Map: "addr_range4"}}},
		}},
	}}
}

func BenchmarkReplace(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			lab.NeedRoot(b)
			c := opened(b, lab.NewNet(b).Host("one"))
			t := manyForwards(n)
			for b.Loop() {
				if err := c.Replace(t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkChangeOneOf(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			lab.NeedRoot(b)
			c := opened(b, lab.NewNet(b).Host("one"))
			t := manyForwards(n)
			if err := c.Replace(t); err != nil {
				b.Fatal(err)
			}
			e := t.Sets[0].Elements[n/2]
			for i := 0; b.Loop(); i++ {
				other := e
				other.Data = []Value{e.Data[0], Port(uint16(i))}
				err := c.Change(Change{Family: Inet, Table: "many",
					Drop: []Elements{{"addr_dnat4", []Element{e}}},
					Add:  []Elements{{"addr_dnat4", []Element{other}}}})
				if err != nil {
					b.Fatal(err)
				}
				e = other
			}
		})
	}
}

// Ranges with several components are kept in a structure that the kernel copies
// for a change, so that this one grows with their number.
func BenchmarkChangeOneRangeOf(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			lab.NeedRoot(b)
			c := opened(b, lab.NewNet(b).Host("one"))
			t := manyForwards(10 * n)
			if err := c.Replace(t); err != nil {
				b.Fatal(err)
			}
			e := t.Sets[1].Elements[n/2]
			for i := 0; b.Loop(); i++ {
				other := e
				other.Data = []Value{Number(uint32(i))}
				err := c.Change(Change{Family: Inet, Table: "many",
					Drop: []Elements{{"addr_range4", []Element{e}}},
					Add:  []Elements{{"addr_range4", []Element{other}}}})
				if err != nil {
					b.Fatal(err)
				}
				e = other
			}
		})
	}
}

func BenchmarkDiff(b *testing.B) {
	old, t := manyForwards(10_000), manyForwards(10_000)
	t.Sets[0].Elements[5000].Data = []Value{t.Sets[0].Elements[5000].Data[0], Port(1)}
	for b.Loop() {
		if ch, ok := Diff(old, t); !ok || len(ch.Add) != 1 {
			b.Fatal(ch)
		}
	}
}
