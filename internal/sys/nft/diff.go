package nft

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

func diff(old, t *Table) (ch Change, ok bool) {
	ch = Change{Family: t.Family, Table: t.Name}
	if old.Family != t.Family || old.Name != t.Name || old.Owned != t.Owned {
		return Change{}, false
	}
	if !ch.helpers(old.Helpers, t.Helpers) || !ch.sets(old.Sets, t.Sets) || !ch.chains(old.Chains, t.Chains) {
		return Change{}, false
	}
	return ch, true
}

// byName are the things of a list by their names.
func byName[T any](list []T, name func(*T) string) map[string]*T {
	m := make(map[string]*T, len(list))
	for i := range list {
		m[name(&list[i])] = &list[i]
	}
	return m
}

func (ch *Change) helpers(old, want []Helper) (ok bool) {
	name := func(h *Helper) string { return h.Name }
	had, has := byName(old, name), byName(want, name)
	for _, h := range want {
		was := had[h.Name]
		if was == nil {
			ch.AddHelpers = append(ch.AddHelpers, h)
		} else if *was != h {
			return false
		}
	}
	for _, h := range old {
		if has[h.Name] == nil {
			ch.DropHelpers = append(ch.DropHelpers, h.Name)
		}
	}
	return true
}

func (ch *Change) sets(old, want []Set) (ok bool) {
	name := func(s *Set) string { return s.Name }
	had, has := byName(old, name), byName(want, name)
	for i := range want {
		s := &want[i]
		was := had[s.Name]
		if was == nil {
			ch.AddSets = append(ch.AddSets, *s)
			continue
		}
		if !was.sameForm(s) {
			return false
		}
		ch.elements(was, s)
	}
	for i := range old {
		if has[old[i].Name] == nil {
			ch.DropSets = append(ch.DropSets, old[i].Name)
		}
	}
	return true
}

// sameForm reports whether the sets differ in nothing but their elements.
func (s *Set) sameForm(t *Set) bool {
	return slices.Equal(s.Key, t.Key) && slices.Equal(s.Data, t.Data) && s.Verdicts == t.Verdicts &&
		s.Interval == t.Interval && s.Dynamic == t.Dynamic && s.Counted == t.Counted && s.Size == t.Size &&
		(s.Timed || s.Timeout > 0) == (t.Timed || t.Timeout > 0) && s.Timeout == t.Timeout
}

// elements notes which elements go and which come. An element that becomes
// another goes and comes in the same transaction: packets see one or the other.
func (ch *Change) elements(old, want *Set) {
	olds, wants := differing(old.Elements, want.Elements, want.Timeout)
	if len(olds)+len(wants) == 0 {
		return
	}
	had := make(map[string]*Element, len(olds))
	for i := range olds {
		had[olds[i].key()] = &olds[i]
	}
	var drop, add []Element
	kept := make(map[string]bool, len(wants))
	for i := range wants {
		e := &wants[i]
		k := e.key()
		was := had[k]
		if kept[k] = true; was != nil {
			if was.same(e, want.Timeout) {
				continue
			}
			drop = append(drop, *was)
		}
		add = append(add, *e)
	}
	for i := range olds {
		// What rules added is theirs to end.
		if e := &olds[i]; !kept[e.key()] && !want.Dynamic {
			drop = append(drop, *e)
		}
	}
	if len(drop) > 0 {
		ch.Drop = append(ch.Drop, Elements{want.Name, drop})
	}
	if len(add) > 0 {
		ch.Add = append(ch.Add, Elements{want.Name, add})
	}
}

// differing leaves out what two lists begin and end with alike: that is nearly
// all where one list was made from the other's wishes but for a few, and costs no
// map of all elements.
func differing(olds, wants []Element, ofSet time.Duration) (o, w []Element) {
	alike := func(a, b *Element) bool { return slices.Equal(a.Key, b.Key) && a.same(b, ofSet) }
	n := 0
	for n < len(olds) && n < len(wants) && alike(&olds[n], &wants[n]) {
		n++
	}
	olds, wants = olds[n:], wants[n:]
	n = 0
	for n < len(olds) && n < len(wants) && alike(&olds[len(olds)-1-n], &wants[len(wants)-1-n]) {
		n++
	}
	return olds[:len(olds)-n], wants[:len(wants)-n]
}

// key is what tells the elements of a set apart.
func (e *Element) key() string {
	var room [96]byte
	b := room[:0]
	for _, r := range e.Key {
		b = append(append(b, r.First...), r.last()...)
	}
	return string(b)
}

// same reports whether two elements of one key are alike, but for what the
// kernel changes in them: what they counted, and what is left of their time. A
// timeout that is the set's is none of their own.
func (e *Element) same(t *Element, ofSet time.Duration) bool {
	return slices.Equal(e.Data, t.Data) && e.Verdict == t.Verdict && (e.Comment == t.Comment || fitQuotes(e.Comment) == fitQuotes(t.Comment)) &&
		cmp.Or(e.Timeout, ofSet) == cmp.Or(t.Timeout, ofSet)
}

func (ch *Change) chains(old, want []Chain) (ok bool) {
	name := func(c *Chain) string { return c.Name }
	had, has := byName(old, name), byName(want, name)
	for i := range want {
		c := &want[i]
		was := had[c.Name]
		switch {
		case was == nil:
			ch.AddChains = append(ch.AddChains, *c)
		case (was.Hook == nil) != (c.Hook == nil), c.Hook != nil && !was.Hook.same(c.Hook):
			return false
		case !slices.EqualFunc(was.Rules, c.Rules, sameRule):
			ch.Refill = append(ch.Refill, *c)
		}
	}
	for i := range old {
		if has[old[i].Name] == nil {
			ch.DropChains = append(ch.DropChains, old[i].Name)
		}
	}
	return true
}

func (h *Hook) same(t *Hook) bool {
	return h.Type == t.Type && h.Hook == t.Hook && h.Priority == t.Priority && h.Drop == t.Drop && slices.Equal(h.Devices, t.Devices)
}

// sameRule reports whether two rules say the same, whatever they counted, and
// whether they were written here or read from the kernel.
func sameRule(a, b Rule) bool { return a.meaning() == b.meaning() }

// meaning is the rule's text in the one form that all of the same meaning have.
func (r Rule) meaning() string {
	plain := Rule{Exprs: slices.Clone(withoutImplied(r.Exprs)), Comment: r.Comment}
	for i, e := range plain.Exprs {
		plain.Exprs[i] = bare(e)
	}
	return plain.Text()
}

// defaultBurst is what nft, and the kernel, take where no burst is named.
const defaultBurst = 5

func bare(e Expr) Expr {
	switch e := e.(type) {
	case Counter:
		return Counter{}
	case Limit:
		if e.Burst == 0 {
			e.Burst = defaultBurst
		}
		return e
	case Is:
		if anyRange(e.Values) {
			e.Values = mergedRanges(e.Values)
		} else {
			e.Values = slices.SortedFunc(slices.Values(e.Values), func(a, b Range) int { return strings.Compare(string(a.First), string(b.First)) })
		}
		return e
	case DNAT:
		if e.Choose != nil {
			c := *e.Choose
			c.Elements = slices.SortedFunc(slices.Values(c.Elements), func(a, b Element) int { return strings.Compare(a.key(), b.key()) })
			e.Choose = &c
		}
		return e
	case Masquerade:
		if e.Last == e.First {
			e.Last = 0
		}
		return e
	case Update:
		with := make([]Expr, len(e.With))
		for i := range e.With {
			with[i] = bare(e.With[i])
		}
		e.With = with
		return e
	}
	return e
}
