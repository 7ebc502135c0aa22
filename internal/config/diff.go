package config

import (
	"fairlead"
)

// A Change is what differs between two configurations for one name.
type Change struct {
	Op       byte // '+', '-' or '~'
	Name     string
	Old, New string // sentences; "" for a forward that is not there
}

// String is the change as one line, two for a changed sentence.
func (c Change) String() string {
	switch c.Op {
	case '+':
		return "+ " + c.Name + ": " + c.New
	case '-':
		return "- " + c.Name + ": " + c.Old
	}
	return "~ " + c.Name + ": " + c.Old + "\n  " + c.Name + ": " + c.New
}

// Diff is what has to be done to get from the old forwards to the new ones, by
// name: first what goes, in the old order, then what comes or changes, in the
// new one. Where in a file a forward stands is no difference.
func Diff(old, new []*fairlead.Forward) []Change {
	was := make(map[string]string, len(old))
	for _, f := range old {
		was[f.Name] = Sentence(f)
	}
	is := make(map[string]bool, len(new))
	for _, f := range new {
		is[f.Name] = true
	}
	var changes []Change
	for _, f := range old {
		if !is[f.Name] {
			changes = append(changes, Change{'-', f.Name, was[f.Name], ""})
		}
	}
	for _, f := range new {
		s := Sentence(f)
		switch o, ok := was[f.Name]; {
		case !ok:
			changes = append(changes, Change{'+', f.Name, "", s})
		case o != s:
			changes = append(changes, Change{'~', f.Name, o, s})
		}
	}
	return changes
}
