package kernel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"fairlead/internal/sys/nft"
)

// A drop in any table is final: what fairlead's own table accepts, another
// program's may still throw away. This file and foreign_*.go follow a packet
// that was thought up through the rules of the others, as the kernel runs
// them, and say whether it would come through. What they cannot know is taken
// as "may be", and an answer is given only where it is the same either way.

// An imagined packet is the first of a connection, as the filters of a hook
// see it: its destination is translated already. Fields that are not set are
// not known, and an answer holds for all that they may be.
type imagined struct {
	hook     string // "forward" or "input"
	v6       bool
	proto    uint8 // 6 or 17
	iif, oif string
	src, dst netip.Addr
	sport    uint16
	dport    uint16

	// translated says that the destination was rewritten; asked and askedPort
	// are what it was before.
	translated bool
	asked      netip.Addr
	askedPort  uint16
}

// A fate is what becomes of a packet.
type fate uint8

const (
	passes fate = iota
	drops
	perhaps // it depends on something that is not known
)

func (f fate) String() string {
	switch f {
	case passes:
		return "passes"
	case drops:
		return "drops"
	}
	return "perhaps"
}

// A culprit is a base chain that drops a packet, or may.
type culprit struct {
	family nft.Family
	table  string
	owned  bool   // by a program that lets nobody else change it
	base   string // the chain that the packet entered
	chain  string // the chain of the rule, or base for its policy
	rule   uint64 // its handle; 0: the policy
	xt     bool   // iptables-nft keeps the table
	sure   bool   // false: it depends on something that is not known
	why    string // what is not known
	by     string // "docker", "ufw", "firewalld", …: who seems to have made it; "" unknown
}

// String names table and chain: "table ip filter, chain FORWARD, policy drop".
func (b culprit) String() string {
	s := fmt.Sprintf("table %s %s, chain %s", familyWord(b.family), b.table, b.chain)
	if b.rule == 0 {
		return s + ", policy drop"
	}
	return fmt.Sprintf("%s, rule %d", s, b.rule)
}

func familyWord(f nft.Family) string {
	switch f {
	case nft.Inet:
		return "inet"
	case nft.IPv4:
		return "ip"
	case nft.IPv6:
		return "ip6"
	}
	return fmt.Sprintf("family-%d", f)
}

// A verdict is a fate, and who is to blame where it is not passes: those that
// drop first, each in the order in which packets meet them.
type verdict struct {
	fate     fate
	culprits []culprit
}

// An others is the rules of the others at one moment.
type others struct {
	tables []*otherTable
	marks  bool // some rule writes a packet's mark, so that it is not known
	ctmark bool // likewise a connection's
}

type otherTable struct {
	*nft.Table
	chains map[string]*nft.Chain
	sets   map[string]*nft.Set
	by     string
}

// othersOf are the tables that were read, without our own.
func othersOf(tables []*nft.Table, ours string) *others {
	f := &others{}
	for _, t := range tables {
		if t.Family == nft.Inet && t.Name == ours {
			continue
		}
		if t.Family != nft.Inet && t.Family != nft.IPv4 && t.Family != nft.IPv6 {
			continue
		}
		ft := &otherTable{Table: t, chains: map[string]*nft.Chain{}, sets: map[string]*nft.Set{}}
		for i := range t.Chains {
			ft.chains[t.Chains[i].Name] = &t.Chains[i]
		}
		for i := range t.Sets {
			ft.sets[t.Sets[i].Name] = &t.Sets[i]
		}
		for i := range t.Anonymous {
			ft.sets[t.Anonymous[i].Name] = &t.Anonymous[i]
		}
		f.tables = append(f.tables, ft)
		marks, ctmark := writesMarks(t)
		f.marks, f.ctmark = f.marks || marks, f.ctmark || ctmark
	}
	return f
}

// A base is a base chain that a packet meets.
type base struct {
	table *otherTable
	chain *nft.Chain
}

// bases are the base chains at a hook that see packets of the family, in the
// order in which they do.
func (f *others) bases(hook string, v6 bool) []base {
	var list []base
	for _, t := range f.tables {
		if t.Family == nft.IPv4 && v6 || t.Family == nft.IPv6 && !v6 {
			continue
		}
		for i := range t.Chains {
			if c := &t.Chains[i]; c.Hook != nil && c.Hook.Hook == hook && c.Hook.Type != "nat" {
				list = append(list, base{t, c})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b base) int { return cmp.Compare(a.chain.Hook.Priority, b.chain.Hook.Priority) })
	return list
}

// program says which program seems to have made a table, by the names of its
// chains.
func (t *otherTable) program(hook string) string {
	switch {
	case t.Name == "firewalld":
		return "firewalld"
	case t.Name == "fw4":
		return "fw4"
	case t.Family == nft.Inet:
		return ""
	}
	docker := t.chains["DOCKER-USER"] != nil && hook == "forward"
	ufw := false
	for name := range t.chains {
		ufw = ufw || strings.HasPrefix(name, "ufw-") || strings.HasPrefix(name, "ufw6-")
	}
	switch {
	case docker:
		return "docker"
	case ufw:
		return "ufw"
	}
	return ""
}

// iptables reports whether the table is one of those that iptables-nft keeps.
// Native rules in such a table make iptables refuse it.
func (t *otherTable) iptables() bool {
	return t.Family != nft.Inet && slices.Contains([]string{"filter", "mangle", "raw", "security"}, t.Name) &&
		(t.chains["FORWARD"] != nil || t.chains["INPUT"] != nil || t.chains["PREROUTING"] != nil || t.chains["OUTPUT"] != nil)
}
