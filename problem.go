package fairlead

import (
	"errors"
	"fmt"
)

// A Code names a kind of trouble for good: it is printed with every message,
// has a page of its own ("fairlead help FL-101"), and is never reused.
type Code string

// A Problem is trouble told to an operator: what happened, where, why as far
// as it was seen, and at most three ways out, the safest first. It is an
// error, and data; how it looks on a terminal is decided where it is printed.
type Problem struct {
	Code    Code
	Warning bool   // the work goes on
	What    string // one sentence without a full stop
	At      *Excerpt
	Notes   []Note
	Fixes   []Fix

	Err error // the cause, for errors.Is; may be nil
}

// A Note adds evidence under a short label: by, in, why, note.
type Note struct {
	Label string
	Text  string
}

// A Fix is a way out: what it does, and the command or the words that do it.
type Fix struct {
	Text    string
	Command string // may be empty
}

// An Excerpt is a piece of text with the part that is meant.
type Excerpt struct {
	Pos   Pos
	Text  string // the whole line
	Width int    // bytes meant, from Pos.Col; at least 1
	Hint  string // stands behind the mark: did you mean "hairpin"?
}

// Problemf is a Problem of that code whose What is formatted.
func Problemf(code Code, format string, args ...any) *Problem {
	return &Problem{Code: code, What: fmt.Sprintf(format, args...)}
}

func (p *Problem) Error() string { return p.What }

func (p *Problem) Unwrap() error { return p.Err }

// Note adds evidence to p and returns it.
func (p *Problem) Note(label, format string, args ...any) *Problem {
	p.Notes = append(p.Notes, Note{label, fmt.Sprintf(format, args...)})
	return p
}

// Fix adds a way out to p and returns it.
func (p *Problem) Fix(text, command string) *Problem {
	p.Fixes = append(p.Fixes, Fix{text, command})
	return p
}

// AsProblem is err as a Problem: itself when it is one, else one of
// CodeFailed that says what err says. It is nil for a nil error.
func AsProblem(err error) *Problem {
	if err == nil {
		return nil
	}
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return &Problem{Code: CodeFailed, What: err.Error(), Err: err}
}
