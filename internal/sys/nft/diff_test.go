package nft

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A maker makes tables that all have the same base chains, so that a change
// leads from each to each.
type maker struct{ *rand.Rand }

func (m maker) table() *Table {
	t := &Table{Family: Inet, Name: "anything"}
	chains := []string{"a", "b", "c", "d"}
	chains = chains[:1+m.IntN(len(chains))]
	for _, form := range []Set{
		{Name: "hash", Key: []Type{IPv4Addr, InetProto, InetService}, Data: []Type{IPv4Addr, InetService}, Timed: true},
		{Name: "spans", Key: []Type{InetProto, InetService}, Data: []Type{IPv4Addr}, Interval: true, Timed: true},
		{Name: "ports", Key: []Type{InetService}, Interval: true},
		{Name: "nets", Key: []Type{IPv4Addr}, Data: []Type{IPv4Addr}, Interval: true},
		{Name: "special", Key: []Type{InetProto, InetService}, Verdicts: true},
		{Name: "specials", Key: []Type{IPv4Addr, InetService}, Verdicts: true, Interval: true},
		{Name: "count", Key: []Type{IPv4Addr, InetService}, Counted: true},
		{Name: "names", Key: []Type{IfName, IfName}, Timed: true, Timeout: time.Hour},
		{Name: "marks", Key: []Type{MarkType}},
		{Name: "markspans", Key: []Type{MarkType}, Interval: true},
	} {
		if m.IntN(5) == 0 {
			continue
		}
		s := form
		for slot := range 12 {
			if m.IntN(2) == 0 {
				s.Elements = append(s.Elements, m.element(&s, slot, chains))
			}
		}
		m.Shuffle(len(s.Elements), func(i, k int) { s.Elements[i], s.Elements[k] = s.Elements[k], s.Elements[i] })
		t.Sets = append(t.Sets, s)
	}
	for i, name := range chains {
		t.Chains = append(t.Chains, Chain{Name: name, Rules: m.rules(t, chains[:i])})
	}
	t.Chains = append(t.Chains,
		Chain{Name: "pre", Hook: &Hook{Type: "nat", Hook: "prerouting", Priority: DstNAT}, Rules: m.rules(t, chains)},
		Chain{Name: "forward", Hook: &Hook{Type: "filter", Hook: "forward", Drop: true}, Rules: m.rules(t, chains)})
	for i := range t.Sets {
		if s := &t.Sets[i]; s.Verdicts && m.IntN(2) == 0 {
			keys := map[string][]Key{"special": {L4Proto, Dport}, "specials": {IPDaddr, Dport}}[s.Name]
			forward := &t.Chains[len(t.Chains)-1]
			forward.Rules = append(forward.Rules, Rule{Exprs: []Expr{VMap{Keys: keys, Map: s.Name}}})
		}
		if s := &t.Sets[i]; (s.Name == "hash" || s.Name == "spans") && m.IntN(2) == 0 {
			keys := map[string][]Key{"hash": {IPDaddr, L4Proto, Dport}, "spans": {L4Proto, Dport}}[s.Name]
			pre := &t.Chains[len(t.Chains)-2]
			pre.Rules = append(pre.Rules, Rule{Exprs: []Expr{Is{Key: NFProto, Values: []Range{One(Byte(2))}}, DNAT{Family: IPv4, Keys: keys, Map: s.Name}}})
		}
	}
	if m.IntN(2) == 0 {
		t.Helpers = append(t.Helpers, Helper{"ftp", "ftp", 6})
	}
	return t
}

// element is one that no element of another slot overlaps.
func (m maker) element(s *Set, slot int, chains []string) Element {
	var e Element
	for i, typ := range s.Key {
		n := uint32(slot * 100)
		var first, last Value
		value := func(n uint32) Value {
			switch typ {
			case IPv4Addr:
				return Number(0x0a000000 + n)
			case InetService:
				return Port(uint16(n))
			case IfName:
				return Name(fmt.Sprintf("eth%d", n))
			case MarkType:
				return Number(n * 3)
			}
			return Byte(6)
		}
		if i > 0 && typ != InetService {
			n = 0
		}
		first = value(n)
		if s.Interval && typ != InetProto && m.IntN(3) > 0 {
			first, last = value(n+uint32(m.IntN(3))), value(n+3+uint32(m.IntN(97)))
			if slot == 11 && len(s.Key) == 1 && m.IntN(2) == 0 {
				last = Value(strings.Repeat("\xff", len(first)))
			}
		}
		e.Key = append(e.Key, Range{first, last})
	}
	for _, typ := range s.Data {
		if typ == IPv4Addr {
			e.Data = append(e.Data, Number(0xc0000200+m.Uint32N(3)))
		} else {
			e.Data = append(e.Data, Port(uint16(80+m.IntN(2))))
		}
	}
	if s.Verdicts {
		e.Verdict = []Verdict{Accept, Drop, Jump(chains[0]), Goto(chains[m.IntN(len(chains))])}[m.IntN(4)]
	}
	if s.Timed && m.IntN(3) == 0 {
		e.Timeout = time.Duration(1+m.IntN(2)) * time.Hour
	}
	if m.IntN(6) == 0 {
		e.Comment = fmt.Sprintf("slot %d", slot)
	}
	if s.Counted {
		e.Count = Count{uint64(slot), uint64(slot) * 1000}
	}
	return e
}

// rules use what there is, and call only the chains named.
func (m maker) rules(t *Table, chains []string) (rules []Rule) {
	tcp := Is{Key: L4Proto, Values: []Range{One(Byte(6))}}
	uses := map[string]Rule{
		"ports":     {Exprs: []Expr{tcp, In{Keys: []Key{Dport}, Set: "ports"}, Drop}},
		"count":     {Exprs: []Expr{tcp, In{Keys: []Key{CtOrigIPDaddr, CtOrigDport}, Set: "count"}}},
		"names":     {Exprs: []Expr{In{Keys: []Key{IIFName, OIFName}, Set: "names", Not: true}, Counter{}, Drop}},
		"marks":     {Exprs: []Expr{In{Keys: []Key{Mark}, Set: "marks"}, Accept}},
		"markspans": {Exprs: []Expr{In{Keys: []Key{Mark}, Set: "markspans"}, Accept}},
	}
	for i := range t.Sets {
		if r, ok := uses[t.Sets[i].Name]; ok && m.IntN(2) == 0 {
			rules = append(rules, r)
		}
	}
	for _, c := range chains {
		if m.IntN(3) == 0 {
			rules = append(rules, Rule{Exprs: []Expr{Is{Key: IPSaddr, Values: []Range{One(Number(m.Uint32N(3)))}}, Jump(c)}, Comment: "call"})
		}
	}
	return rules
}

// applied is what a change leaves of a table.
func applied(t *Table, ch Change) *Table {
	out := *t
	gone := func(names []string) func(string) bool {
		return func(name string) bool { return slices.Contains(names, name) }
	}
	out.Sets = nil
	for _, s := range t.Sets {
		if gone(ch.DropSets)(s.Name) {
			continue
		}
		s.Elements = slices.Clone(s.Elements)
		for _, d := range ch.Drop {
			for _, e := range d.Elements {
				if d.Set == s.Name {
					s.Elements = slices.DeleteFunc(s.Elements, func(have Element) bool { return have.key() == e.key() })
				}
			}
		}
		for _, a := range ch.Add {
			if a.Set == s.Name {
				s.Elements = append(s.Elements, a.Elements...)
			}
		}
		out.Sets = append(out.Sets, s)
	}
	out.Sets = append(out.Sets, ch.AddSets...)
	out.Chains = slices.DeleteFunc(slices.Clone(t.Chains), func(c Chain) bool { return gone(ch.DropChains)(c.Name) })
	for _, c := range ch.Refill {
		for i := range out.Chains {
			if out.Chains[i].Name == c.Name {
				out.Chains[i].Rules = c.Rules
			}
		}
	}
	out.Chains = append(out.Chains, ch.AddChains...)
	out.Helpers = slices.DeleteFunc(slices.Clone(t.Helpers), func(h Helper) bool { return gone(ch.DropHelpers)(h.Name) })
	out.Helpers = append(out.Helpers, ch.AddHelpers...)
	return &out
}

// inOrder is the table with its things in an order, as text, which is all that
// may differ between two ways to it.
func inOrder(t *Table) string {
	out := *t
	out.Sets = slices.SortedFunc(slices.Values(t.Sets), func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for i := range out.Sets {
		s := &out.Sets[i]
		s.Elements = slices.SortedFunc(slices.Values(s.Elements), func(a, b Element) int { return strings.Compare(a.key(), b.key()) })
		for k := range s.Elements {
			if s.Elements[k].Timeout == s.Timeout {
				s.Elements[k].Timeout = 0
			}
			s.Elements[k].Expires, s.Elements[k].Count = 0, Count{}
		}
	}
	out.Chains = slices.SortedFunc(slices.Values(t.Chains), func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	text := out.Text()
	for _, c := range out.Chains {
		for _, r := range c.Rules {
			text = strings.ReplaceAll(text, r.Text()+"\n", r.meaning()+"\n")
		}
	}
	return text
}

func TestDiffLeadsFromOneTableToTheOther(t *testing.T) {
	for seed := range uint64(2000) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		old, want := m.table(), m.table()
		ch, ok := Diff(old, want)
		if !ok {
			t.Fatalf("seed %d: no change leads from\n%s\nto\n%s", seed, old.Text(), want.Text())
		}
		if diff := cmp.Diff(inOrder(want), inOrder(applied(old, ch))); diff != "" {
			t.Fatalf("seed %d: wanted (-), changed (+):\n%s", seed, diff)
		}
		if ch, ok := Diff(want, want); !ok || !ch.Empty() {
			t.Fatalf("seed %d: a table differs from itself by\n%+v", seed, ch)
		}
	}
}

func TestOtherFormsTakeAReplace(t *testing.T) {
	base := func() *Table {
		return &Table{Family: Inet, Name: "t",
			Sets:    []Set{{Name: "s", Key: []Type{IPv4Addr}}},
			Chains:  []Chain{{Name: "in", Hook: &Hook{Type: "filter", Hook: "input"}}, {Name: "own"}},
			Helpers: []Helper{{"h", "ftp", 6}}}
	}
	for name, other := range map[string]func(*Table){
		"owner":         func(t *Table) { t.Owned = true },
		"key":           func(t *Table) { t.Sets[0].Key = []Type{IPv6Addr} },
		"data":          func(t *Table) { t.Sets[0].Data = []Type{IPv6Addr} },
		"ranges":        func(t *Table) { t.Sets[0].Interval = true },
		"timed":         func(t *Table) { t.Sets[0].Timed = true },
		"counted":       func(t *Table) { t.Sets[0].Counted = true },
		"size":          func(t *Table) { t.Sets[0].Size = 5 },
		"priority":      func(t *Table) { t.Chains[0].Hook.Priority = 5 },
		"policy":        func(t *Table) { t.Chains[0].Hook.Drop = true },
		"another hook":  func(t *Table) { t.Chains[1].Hook = &Hook{Type: "filter", Hook: "output"} },
		"no hook":       func(t *Table) { t.Chains[0].Hook = nil },
		"other helper":  func(t *Table) { t.Helpers[0].Type = "tftp" },
		"another table": func(t *Table) { t.Name = "u" },
	} {
		want := base()
		other(want)
		if ch, ok := Diff(base(), want); ok {
			t.Errorf("%s: a change does it: %+v", name, ch)
		}
	}
}

func TestWhatWasCountedIsNoDifference(t *testing.T) {
	one := func(c Count) *Table {
		return &Table{Family: Inet, Name: "t",
			Sets: []Set{{Name: "s", Key: []Type{InetService}, Counted: true, Timed: true, Elements: []Element{
				{Key: []Range{One(Port(80))}, Count: c, Timeout: time.Hour, Expires: time.Duration(c.Packets) * time.Second}}}},
			Chains: []Chain{{Name: "c", Rules: []Rule{{Exprs: []Expr{Counter{c}, Accept}}}}}}
	}
	if ch, ok := Diff(one(Count{7, 8}), one(Count{})); !ok || !ch.Empty() {
		t.Errorf("the difference is %+v", ch)
	}
}

func TestOnlyWhatChangedIsChanged(t *testing.T) {
	table := func(port uint16) *Table {
		s := Set{Name: "s", Key: []Type{InetService}, Data: []Type{InetService}}
		for i := range uint16(1000) {
			s.Elements = append(s.Elements, Element{Key: []Range{One(Port(i))}, Data: []Value{Port(i)}})
		}
		s.Elements[500].Data[0] = Port(port)
		return &Table{Family: Inet, Name: "t", Sets: []Set{s}}
	}
	ch, ok := Diff(table(1), table(2))
	key := []Range{One(Port(500))}
	want := Change{Family: Inet, Table: "t",
		Drop: []Elements{{"s", []Element{{Key: key, Data: []Value{Port(1)}}}}},
		Add:  []Elements{{"s", []Element{{Key: key, Data: []Value{Port(2)}}}}}}
	if diff := cmp.Diff(want, ch, cmpopts.EquateEmpty()); !ok || diff != "" {
		t.Error(diff)
	}
}
