package kernel

import (
	"slices"
	"time"

	"fairlead/internal/sys/nft"
)

// A table is adopted simply by being read: what a crashed service left, or one
// that was told to end less than half a minute ago, is the old table of the
// next change. What is told here is which of the old elements live on in the
// new ones.

// sameEnd is how far two ends of an element's life may differ and be the same:
// each was counted from the moment of an Apply.
const sameEnd = 2 * time.Second

// alike reports whether the tables lead the same things to the same, whatever
// the times at which elements end.
func alike(old, t *nft.Table) bool {
	ch, ok := nft.Diff(timeless(old), timeless(t))
	return ok && ch.Empty()
}

// timeless is t with elements that never end.
func timeless(t *nft.Table) *nft.Table {
	end := *t
	end.Sets = slices.Clone(t.Sets)
	for i := range end.Sets {
		s := &end.Sets[i]
		s.Elements = slices.Clone(s.Elements)
		for j := range s.Elements {
			s.Elements[j].Timeout, s.Elements[j].Expires = 0, 0
		}
	}
	return &end
}

// hold takes the end of life from the old elements, as they were since ago, to
// those of t that are the same and end, as far as anybody can tell, at the same
// moment, so that an Apply does not renew them in vain. It returns old without
// those that have ended.
func hold(old, t *nft.Table, ago time.Duration) *nft.Table {
	old = survivors(old, ago)
	sets := byName(old)
	for i := range t.Sets {
		s := &t.Sets[i]
		was := sets[s.Name]
		if !s.Timed || was == nil {
			continue
		}
		var elements map[string]*nft.Element
		for j := range s.Elements {
			e := &s.Elements[j]
			if e.Timeout == 0 {
				continue
			}
			e.Expires = e.Timeout
			if elements == nil {
				elements = byKeyOf(was)
			}
			o := elements[keyText(e.Key)]
			if o == nil || o.Timeout == 0 {
				continue
			}
			if d := left(*o, ago) - e.Timeout; -sameEnd < d && d < sameEnd {
				e.Timeout, e.Expires = o.Timeout, left(*o, ago)
			}
		}
	}
	return old
}

// survivors is t without the elements that have ended since: the kernel has
// taken them out. t itself stays, because others read it.
func survivors(t *nft.Table, ago time.Duration) *nft.Table {
	rest := *t
	rest.Sets = slices.Clone(t.Sets)
	for i := range rest.Sets {
		s := &rest.Sets[i]
		over := func(e nft.Element) bool { return e.Timeout > 0 && left(e, ago) <= 0 }
		if s.Timed && slices.ContainsFunc(s.Elements, over) {
			s.Elements = slices.DeleteFunc(slices.Clone(s.Elements), over)
		}
	}
	return &rest
}

// left is how long an element has to live that was seen so long ago.
func left(e nft.Element, ago time.Duration) time.Duration {
	if e.Expires == 0 {
		return e.Timeout - ago
	}
	return e.Expires - ago
}

// carry writes what the kernel's elements have counted into those of t that
// take their place. Counts of elements that go are added to another of the same
// set that the same forward has, so that what a forward counted only grows.
func (k *Kernel) carry(conn *nft.Conn, old, t *nft.Table) {
	for i := range t.Sets {
		s := &t.Sets[i]
		if !s.Counted {
			continue
		}
		var now *nft.Set
		err := k.inside(func() (err error) {
			now, err = conn.ReadSet(t.Family, t.Name, s.Name)
			return err
		})
		if err != nil || now == nil {
			continue // a set that is new
		}
		elements := byKeyOf(now)
		heirs := map[string]*nft.Element{} // of a forward, by its name: a new element
		for j := range s.Elements {
			e := &s.Elements[j]
			text := keyText(e.Key)
			if o := elements[text]; o != nil {
				e.Count = o.Count
				delete(elements, text)
			} else if heirs[e.Comment] == nil {
				heirs[e.Comment] = e
			}
		}
		for _, gone := range elements {
			if heir := heirs[gone.Comment]; heir != nil && gone.Comment != "" {
				heir.Count.Packets += gone.Count.Packets
				heir.Count.Bytes += gone.Count.Bytes
			}
		}
	}
}

// carryChange is carry for a change: what is not touched keeps its counts in the
// kernel, so that only those of elements that go are asked for.
func carryChange(conn *nft.Conn, old *nft.Table, ch *nft.Change) {
	sets := byName(old)
	for _, drop := range ch.Drop {
		s := sets[drop.Set]
		i := slices.IndexFunc(ch.Add, func(e nft.Elements) bool { return e.Set == drop.Set })
		if s == nil || !s.Counted || i < 0 {
			continue
		}
		gone, err := countsOf(conn, ch.Family, ch.Table, s, drop.Elements)
		if err != nil {
			continue // they begin anew; meters go on
		}
		left := make(map[string]nft.Element, len(gone))
		for _, e := range gone {
			left[keyText(e.Key)] = e
		}
		heirs := map[string]*nft.Element{}
		for j := range ch.Add[i].Elements {
			e := &ch.Add[i].Elements[j]
			text := keyText(e.Key)
			if o, ok := left[text]; ok {
				e.Count = o.Count
				delete(left, text)
			} else if heirs[e.Comment] == nil {
				heirs[e.Comment] = e
			}
		}
		for _, e := range left {
			if heir := heirs[e.Comment]; heir != nil && e.Comment != "" {
				heir.Count.Packets += e.Count.Packets
				heir.Count.Bytes += e.Count.Bytes
			}
		}
	}
}

// fewElements is up to how many elements are asked for one by one; to list a
// whole set of ten thousand costs as much as some hundreds.
const fewElements = 200

// countsOf are these elements of s with what they counted.
func countsOf(conn *nft.Conn, f nft.Family, table string, s *nft.Set, elements []nft.Element) ([]nft.Element, error) {
	counted := slices.Clone(elements)
	if !s.Interval && len(elements) <= fewElements {
		counts, err := conn.Counts(f, table, s, elements)
		if err != nil {
			return nil, err
		}
		for i := range counted {
			counted[i].Count = counts[i]
		}
		return counted, nil
	}
	now, err := conn.ReadSet(f, table, s.Name)
	if err != nil {
		return nil, err
	}
	found := byKeyOf(now)
	for i := range counted {
		counted[i].Count = nft.Count{}
		if e := found[keyText(counted[i].Key)]; e != nil {
			counted[i].Count = e.Count
		}
	}
	return counted, nil
}

func byName(t *nft.Table) map[string]*nft.Set {
	m := make(map[string]*nft.Set, len(t.Sets))
	for i := range t.Sets {
		m[t.Sets[i].Name] = &t.Sets[i]
	}
	return m
}

func byKeyOf(s *nft.Set) map[string]*nft.Element {
	m := make(map[string]*nft.Element, len(s.Elements))
	for i := range s.Elements {
		m[keyText(s.Elements[i].Key)] = &s.Elements[i]
	}
	return m
}

// keyText is a key to look up by; components have fixed lengths.
func keyText(key []nft.Range) string {
	var b []byte
	for _, r := range key {
		b = append(b, r.First...)
		last := r.Last
		if last == "" {
			last = r.First
		}
		b = append(b, last...)
	}
	return string(b)
}
