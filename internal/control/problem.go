package control

import (
	"strings"

	"fairlead"
)

// A Problem is a fairlead.Problem.
type Problem struct {
	Code     string   `json:"code"`
	Severity string   `json:"severity"` // error or warning
	Text     string   `json:"text"`
	At       *Excerpt `json:"at,omitempty"`
	Notes    []Note   `json:"notes,omitempty"`
	Fixes    []Fix    `json:"fixes,omitempty"`
}

// An Excerpt is a line of a file; col and width count bytes, line and col from 1.
type Excerpt struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Col      int    `json:"col"`
	Width    int    `json:"width"`
	LineText string `json:"line_text"`
	Hint     string `json:"hint,omitempty"`
}

// A Note is evidence under its label.
type Note struct {
	Label string `json:"label"`
	Text  string `json:"text"`
}

// A Fix is a way out. Argv is there when the command is a single one that can
// be executed without a shell.
type Fix struct {
	Text    string   `json:"text"`
	Command string   `json:"command,omitempty"`
	Argv    []string `json:"argv,omitempty"`
}

// ProblemOf is p as a document; nil for nil.
func ProblemOf(p *fairlead.Problem) *Problem {
	if p == nil {
		return nil
	}
	j := &Problem{Code: string(p.Code), Severity: "error", Text: p.What}
	if p.Warning {
		j.Severity = "warning"
	}
	if at := p.At; at != nil {
		j.At = &Excerpt{at.Pos.File, at.Pos.Line, at.Pos.Col, at.Width, at.Text, at.Hint}
	}
	for _, n := range p.Notes {
		j.Notes = append(j.Notes, Note(n))
	}
	for _, f := range p.Fixes {
		j.Fixes = append(j.Fixes, Fix{f.Text, f.Command, argv(f.Command)})
	}
	return j
}

// Problem is j as the program's own words have it; nil for nil.
func (j *Problem) Problem() *fairlead.Problem {
	if j == nil {
		return nil
	}
	p := &fairlead.Problem{Code: fairlead.Code(j.Code), Warning: j.Severity == "warning", What: j.Text}
	if at := j.At; at != nil {
		p.At = &fairlead.Excerpt{Pos: fairlead.Pos{File: at.File, Line: at.Line, Col: at.Col}, Text: at.LineText, Width: at.Width, Hint: at.Hint}
	}
	for _, n := range j.Notes {
		p.Notes = append(p.Notes, fairlead.Note(n))
	}
	for _, f := range j.Fixes {
		p.Fixes = append(p.Fixes, fairlead.Fix{Text: f.Text, Command: f.Command})
	}
	return p
}

// argv splits a command as a POSIX shell would, nil when more than splitting
// is needed: operators, expansions, comments, open quotes. Nil too for a line
// of the file ("web: forward …"), which is no command.
func argv(command string) []string {
	var words []string
	var word strings.Builder
	open, quote := false, rune(0)
	escaped := false
	for _, r := range command {
		switch {
		case escaped:
			if quote == '"' && !strings.ContainsRune("$`\"\\", r) {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case quote == '\'' && r != '\'', quote == '"' && !strings.ContainsRune("\"\\$`", r):
			word.WriteRune(r)
		case quote != 0 && r == quote:
			quote = 0
		case r == '\\':
			open, escaped = true, true
		case quote == 0 && (r == '\'' || r == '"'):
			open, quote = true, r
		case r == ' ' || r == '\t':
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		case strings.ContainsRune("|&;<>()$`*?{}!\n\r…", r),
			!open && (r == '#' || r == '~'):
			return nil
		default:
			open = true
			word.WriteRune(r)
		}
	}
	if quote != 0 || escaped {
		return nil
	}
	if open {
		words = append(words, word.String())
	}
	if len(words) > 0 && strings.HasSuffix(words[0], ":") {
		return nil
	}
	return words
}
