package nft

import (
	"cmp"
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
