package talk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
)

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
