package talk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"

	"fairlead"
)

// ProblemJSON is a problem for programs: the same facts as on the terminal,
// unwrapped and not cut. Fields are only ever added.
type ProblemJSON struct {
	Code     string     `json:"code"`
	Severity string     `json:"severity"` // "error" or "warning"
	Text     string     `json:"text"`
	At       *AtJSON    `json:"at,omitempty"`
	Notes    []NoteJSON `json:"notes"`
	Fixes    []FixJSON  `json:"fixes"`
}

// AtJSON is an excerpt. Line and col count from 1; col and width are bytes.
// A col of 0 means the whole line; an empty file is the command line.
type AtJSON struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Col      int    `json:"col"`
	Width    int    `json:"width"`
	LineText string `json:"line_text"`
	Hint     string `json:"hint,omitempty"`
}

// NoteJSON is evidence under its label.
type NoteJSON struct {
	Label string `json:"label"`
	Text  string `json:"text"`
}

// FixJSON is a way out. Argv is there when the command is a single one that
// can be executed without a shell.
type FixJSON struct {
	Text    string   `json:"text"`
	Command string   `json:"command,omitempty"`
	Argv    []string `json:"argv,omitempty"`
}

// JSONOf is p for programs; p is not nil.
func JSONOf(p *fairlead.Problem) ProblemJSON {
	j := ProblemJSON{
		Code:     string(p.Code),
		Severity: "error",
		Text:     p.What,
		Notes:    make([]NoteJSON, 0, len(p.Notes)),
		Fixes:    make([]FixJSON, 0, len(p.Fixes)),
	}
	if p.Warning {
		j.Severity = "warning"
	}
	if at := p.At; at != nil {
		j.At = &AtJSON{at.Pos.File, at.Pos.Line, at.Pos.Col, at.Width, at.Text, at.Hint}
	}
	for _, n := range p.Notes {
		j.Notes = append(j.Notes, NoteJSON(n))
	}
	for _, f := range p.Fixes {
		j.Fixes = append(j.Fixes, FixJSON{f.Text, f.Command, argv(f.Command)})
	}
	return j
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

// JSON prints v on standard output as one indented document.
func (p *Printer) JSON(v any) error { return p.json(v, "  ") }

// JSONLine prints v on standard output as one line, for --watch.
func (p *Printer) JSONLine(v any) error { return p.json(v, "") }

func (p *Printer) json(v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return p.give(inertJSON(b.String()))
}

// inertJSON escapes what the encoder leaves to the terminal: DEL, the C1
// controls, bidirectional formatting. All of it stands inside of strings, so
// the document means the same.
func inertJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r >= ' ' && r < 0x7f || r > 0x7f && visible(r):
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
