package engine

import (
	"context"
	"time"

	"fairlead"
)

var _ fairlead.Desk = (*Engine)(nil)

// Ask wishes f in the name of f.Owner for ttl (0: until dropped) and waits
// until a carrier was asked for it. A wish that cannot be carried is a Status
// with a Problem and no error; it stays in the table and is tried again.
//
// Asking again for the same owner and name renews the lease, or changes the
// wish when it reads differently. Policy.For counts from when the wish was
// first made in its present words. When ctx ends while a carrier is busy, the
// wish stands all the same, and the error is ctx's.
func (e *Engine) Ask(ctx context.Context, f *fairlead.Forward, ttl time.Duration) (fairlead.Status, error) {
	if f.Name == "" {
		return fairlead.Status{}, fairlead.Problemf(fairlead.CodeBadName, "a wish needs a name")
	}
	if ttl < 0 {
		return fairlead.Status{}, fairlead.Problemf(fairlead.CodeBadValue, "%q cannot be wished for %s", f.Name, ttl)
	}
	err := e.change(ctx, func() error {
		e.table.put(time.Now(), f.Owner, f, ttl, false)
		return nil
	})
	if err != nil {
		return fairlead.Status{}, err
	}
	for _, r := range e.rows() {
		if keyOf(r.Forward) == keyOf(f) {
			return r.Status, nil
		}
	}
	return fairlead.Status{}, fairlead.Problemf(fairlead.CodeNoSuchForward, "%q was taken back, or its time was over, before it was carried", f.Name)
}

// Drop takes back the owner's wish of that name, "" all of them, and waits
// until its carrier let it go. A name that the owner does not wish is an error,
// having nothing to drop under "" is none.
func (e *Engine) Drop(ctx context.Context, owner fairlead.Owner, name string) error {
	return e.change(ctx, func() error {
		if !e.table.drop(owner, name) && name != "" {
			return fairlead.Problemf(fairlead.CodeNoSuchForward, "%s has no forward %q", owner, name)
		}
		return nil
	})
}

// Replace makes want all that the owner wishes: what is missing is dropped,
// what reads as before is not touched, and keeps the life that Policy.For gave
// it, even when that is over. It waits for the carriers and returns a status
// for each of want, in the same order; a forward whose time is over is
// Disabled there, and is not in Status. Other owners' wishes stay, whatever
// their names. Two forwards of one name are an error, and then nothing changes.
func (e *Engine) Replace(ctx context.Context, owner fairlead.Owner, want []*fairlead.Forward) ([]fairlead.Status, error) {
	names := make(map[string]bool, len(want))
	for _, f := range want {
		switch {
		case f.Name == "":
			return nil, fairlead.Problemf(fairlead.CodeBadName, "a wish needs a name")
		case names[f.Name]:
			return nil, fairlead.Problemf(fairlead.CodeTwice, "two forwards are named %q", f.Name)
		}
		names[f.Name] = true
	}
	err := e.change(ctx, func() error {
		e.table.replace(time.Now(), owner, want)
		return nil
	})
	if err != nil {
		return nil, err
	}
	now := map[string]fairlead.Status{}
	for _, r := range e.rows() {
		if r.Forward.Owner == owner {
			now[r.Forward.Name] = r.Status
		}
	}
	out := make([]fairlead.Status, len(want))
	for i, f := range want {
		s, ok := now[f.Name]
		if !ok {
			p := fairlead.Problemf(fairlead.CodeTimeOver, "the time of %q is over", f.Name)
			p.Warning = true
			s = fairlead.Status{Forward: f, State: fairlead.Disabled, Problem: p}
		}
		out[i] = s
	}
	return out, nil
}

// change edits the table and waits until all of the edit is carried out.
func (e *Engine) change(ctx context.Context, edit func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.mu.Lock()
	if e.closed || e.over() {
		e.mu.Unlock()
		return errStopped
	}
	if err := edit(); err != nil {
		e.mu.Unlock()
		return err
	}
	e.changes++
	mine := e.changes
	e.rouse()
	for e.done < mine {
		passed := e.passed
		e.mu.Unlock()
		select {
		case <-passed:
		case <-e.ended:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
		e.mu.Lock()
	}
	e.mu.Unlock()
	return nil
}

func (e *Engine) over() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}
