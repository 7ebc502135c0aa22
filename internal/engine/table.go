package engine

import (
	"cmp"
	"reflect"
	"slices"
	"time"

	"fairlead"
)

// A table is the wishes in the order of wishing. It is plain data: it has no
// lock and reads no clock.
type table struct {
	list []*wish
	by   map[key]*wish
	seq  uint64
}

// A key tells wishes apart.
type key struct {
	owner fairlead.Owner
	name  string
}

func keyOf(f *fairlead.Forward) key { return key{f.Owner, f.Name} }

// A wish is what one owner asked for under one name.
type wish struct {
	given *fairlead.Forward // our copy, never changed, with Expires set
	seq   uint64            // when the spot was claimed; among equals the lower one holds it
	made  time.Time         // Policy.For counts from here
	lease time.Time         // end of what Ask granted; zero: none
	until time.Time         // end that the forward itself named; zero: none

	// set tells a wish of Replace. When its time is over it stays in the table
	// as spent, lest the next reload of the same sentence begin a new life.
	set   bool
	spent bool

	choice choice
	rival  *fairlead.Problem // the spot is held by another
	fresh  bool              // no Apply has seen it as it is now
	last   fairlead.Status   // of the last Apply
}

// A choice is the carrier of a wish, or why there is none.
type choice struct {
	made    bool
	carrier int
	because string // why that carrier, where the sentence says "by auto"
	problem *fairlead.Problem
}

func newTable() table { return table{by: map[key]*wish{}} }

// put makes, renews or changes a wish.
func (t *table) put(now time.Time, owner fairlead.Owner, f *fairlead.Forward, ttl time.Duration, set bool) *wish {
	given := *f
	given.Owner = owner
	k := keyOf(&given)
	w := t.by[k]
	if w == nil {
		w = &wish{made: now, fresh: true}
		t.by[k] = w
		t.list = append(t.list, w)
	}
	changed := w.given == nil || !same(w.given, &given) || w.spent && !set
	if changed && (w.given == nil || w.spent || !reflect.DeepEqual(w.given.At, given.At)) {
		t.seq++ // a new spot is claimed behind those who hold it
		w.seq = t.seq
	}
	if changed {
		w.made, w.fresh, w.spent = now, true, false
		w.choice, w.rival, w.last = choice{}, nil, fairlead.Status{}
	}
	w.set, w.until, w.lease = set, f.Expires, time.Time{}
	if ttl > 0 {
		w.lease = now.Add(ttl)
	}
	given.Expires = w.expiry(given.Life())
	if changed || w.given.Source != given.Source || w.given.Expr != given.Expr || !w.given.Expires.Equal(given.Expires) {
		w.given = &given
	}
	w.spent = w.spent && w.over(now)
	return w
}

// expiry is the first of the wish's ends.
func (w *wish) expiry(life time.Duration) time.Time {
	ends := []time.Time{w.lease, w.until}
	if life > 0 {
		ends = append(ends, w.made.Add(life))
	}
	var first time.Time
	for _, end := range ends {
		if !end.IsZero() && (first.IsZero() || end.Before(first)) {
			first = end
		}
	}
	return first
}

// over reports whether the wish has ended at now.
func (w *wish) over(now time.Time) bool {
	return !w.given.Expires.IsZero() && !now.Before(w.given.Expires)
}

// same reports whether two forwards mean the same, wherever they were written
// and whenever they end. The comparison is by reflection so that a field added
// to Forward cannot be forgotten here.
func same(a, b *fairlead.Forward) bool {
	if a == b {
		return true
	}
	x, y := *a, *b
	x.Source, x.Expr, x.Expires = y.Source, y.Expr, y.Expires
	return reflect.DeepEqual(&x, &y)
}

// replace makes want all that the owner wishes, in that order.
func (t *table) replace(now time.Time, owner fairlead.Owner, want []*fairlead.Forward) {
	at := slices.IndexFunc(t.list, func(w *wish) bool { return w.given.Owner == owner })
	if at < 0 {
		at = len(t.list)
	}
	keep := make(map[string]bool, len(want))
	for _, f := range want {
		keep[f.Name] = true
	}
	t.remove(func(w *wish) bool { return w.given.Owner == owner && !keep[w.given.Name] })
	mine := make([]*wish, len(want))
	for i, f := range want {
		mine[i] = t.put(now, owner, f, 0, true)
	}
	t.list = slices.DeleteFunc(t.list, func(w *wish) bool { return w.given.Owner == owner })
	t.list = slices.Insert(t.list, min(at, len(t.list)), mine...)
}

// drop takes back the owner's wish of that name, "" all, and says whether
// there was one that had not ended by itself.
func (t *table) drop(owner fairlead.Owner, name string) bool {
	live := false
	t.remove(func(w *wish) bool {
		gone := w.given.Owner == owner && (name == "" || w.given.Name == name)
		live = live || gone && !w.spent
		return gone
	})
	return live
}

func (t *table) remove(gone func(*wish) bool) {
	t.list = slices.DeleteFunc(t.list, func(w *wish) bool {
		if gone(w) {
			delete(t.by, keyOf(w.given))
			return true
		}
		return false
	})
}

// expire ends what is over at now and says whether there was any.
func (t *table) expire(now time.Time) bool {
	ended := false
	for _, w := range t.list {
		if !w.spent && w.over(now) {
			w.spent, w.fresh, ended = true, true, true
		}
	}
	if ended {
		t.remove(func(w *wish) bool { return w.spent && !w.set })
	}
	return ended
}

// nextExpiry is when the next wish ends; zero: none will.
func (t *table) nextExpiry() time.Time {
	var next time.Time
	for _, w := range t.list {
		if end := w.given.Expires; !w.spent && !end.IsZero() && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return next
}

// A question is a wish whose carrier is to be chosen, and how it read when the
// question was put.
type question struct {
	w *wish
	f *fairlead.Forward
}

// unchosen are the wishes without a carrier; again: also those that no carrier
// would take.
func (t *table) unchosen(again bool) []question {
	var open []question
	for _, w := range t.list {
		if w.given.Disabled || w.spent {
			continue
		}
		if !w.choice.made || again && w.choice.problem != nil {
			open = append(open, question{w, w.given})
		}
	}
	return open
}

// settle decides who holds each spot, and returns what each carrier is to
// carry. Wishes that came after the questions were put wait for the next time.
func (t *table) settle(carriers int) [][]*fairlead.Forward {
	var claims []*wish
	for _, w := range t.list {
		if w.rival = nil; w.wanted() {
			claims = append(claims, w)
		}
	}
	slices.SortFunc(claims, func(a, b *wish) int {
		return cmp.Or(cmp.Compare(rank(a.given.Owner), rank(b.given.Owner)), cmp.Compare(a.seq, b.seq))
	})
	held := newHolders()
	for _, w := range claims {
		if winner := held.claim(w); winner != nil {
			w.rival = overlap(w.given, winner.given)
		}
	}
	want := make([][]*fairlead.Forward, carriers)
	for _, w := range t.list {
		if w.wanted() && w.rival == nil {
			want[w.choice.carrier] = append(want[w.choice.carrier], w.given)
		}
	}
	return want
}

// wanted reports whether some carrier could carry the wish now.
func (w *wish) wanted() bool {
	return !w.spent && !w.given.Disabled && w.choice.made && w.choice.problem == nil
}

// rank orders owners: an operator's wish stands above those that arrive over
// the network.
func rank(o fairlead.Owner) int {
	switch o.Kind {
	case fairlead.OwnerFile, fairlead.OwnerCommand, fairlead.OwnerAPI:
		return 0
	}
	return 1
}

// applied notes what became of f, unless something else is wished by now.
func (t *table) applied(f *fairlead.Forward, s fairlead.Status) {
	if w := t.by[keyOf(f)]; w != nil && same(w.given, f) {
		w.last, w.fresh = s, false
	}
}
