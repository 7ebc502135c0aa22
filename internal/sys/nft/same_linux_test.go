package nft

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// compareSets compares sets whose elements have any order, and what is left of
// whose time is about what it was.
func compareSets(t *testing.T, got, want *Table) {
	t.Helper()
	ignore := gocmp.Options{
		cmpopts.IgnoreFields(Element{}, "Expires"),
		cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b Element) bool { return slices.CompareFunc(a.Key, b.Key, compareRanges) < 0 }),
	}
	if diff := gocmp.Diff(want.Sets, got.Sets, ignore); diff != "" {
		t.Errorf("sets (-wanted +read):\n%s", diff)
	}
	for _, s := range got.Sets {
		for _, e := range s.Elements {
			timed := e.Timeout > 0 || s.Timeout > 0
			if timed != (e.Expires > 0) || e.Timeout > 0 && e.Expires > e.Timeout {
				t.Errorf("set %s: an element expires in %v, its timeout is %v and the set's %v", s.Name, e.Expires, e.Timeout, s.Timeout)
			}
		}
	}
}

func compareRanges(a, b Range) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// compareRules compares chains and helpers, where it makes no difference whether
// a rule says what nft puts there by itself.
func compareRules(t *testing.T, got, want *Table) {
	t.Helper()
	if diff := gocmp.Diff(want.Helpers, got.Helpers); diff != "" {
		t.Errorf("helpers (-wanted +read):\n%s", diff)
	}
	same := gocmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})}
	if diff := gocmp.Diff(plainChains(want.Chains), plainChains(got.Chains), same); diff != "" {
		t.Errorf("chains (-wanted +read):\n%s", diff)
	}
}

func plainChains(chains []Chain) []Chain {
	chains = slices.Clone(chains)
	for i := range chains {
		chains[i].Rules = slices.Clone(chains[i].Rules)
		for k := range chains[i].Rules {
			r := &chains[i].Rules[k]
			r.Handle, r.Raw, r.Exprs, r.Comment = 0, nil, plain(r.Exprs), fitQuotes(r.Comment)
		}
	}
	return chains
}

func plain(list []Expr) []Expr {
	list = slices.Clone(withoutImplied(list))
	for i, e := range list {
		switch e := e.(type) {
		case Limit:
			if e.Burst == 0 {
				e.Burst = 5 // nft's
				list[i] = e
			}
		case Is:
			e.Values = merged(e.Values)
			list[i] = e
		case Update:
			e.With = plain(e.With)
			list[i] = e
		}
	}
	return list
}

// merged are the values with those joined that lie side by side, as nft does.
func merged(values []Range) []Range {
	values = slices.Clone(values)
	slices.SortFunc(values, compareRanges)
	all := values[:1]
	for _, r := range values[1:] {
		last := &all[len(all)-1]
		below := []byte(r.First)
		before(below)
		if last.last() != Value(below) {
			all = append(all, r)
			continue
		}
		last.Last = r.last()
	}
	return all
}
