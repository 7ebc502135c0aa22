package config

import (
	"bytes"
	"slices"
	"strings"

	"fairlead"
)

// Rewrite changes the entry of the forward old so that it says new. Where the
// entry has a block, only the lines that say something else are touched, and
// comments stay; where that cannot be done line by line, the whole entry is
// replaced as by Replace, as it is when old says nothing.
func Rewrite(text []byte, name string, old, new *fairlead.Forward) ([]byte, []*fairlead.Problem) {
	e, p := findEntry(text, name)
	if p != nil {
		return nil, p
	}
	if e.lines > 1 && old.Kind != "" {
		if out, ok := rewriteBlock(text, e, old, new); ok {
			return accept(text, out)
		}
	}
	return Replace(text, name, Sentence(new))
}

// rewriteBlock is Rewrite for an entry with a block of one modifier a line.
func rewriteBlock(text []byte, e *textEntry, old, new *fairlead.Forward) ([]byte, bool) {
	brace := -1
	for i := range e.toks {
		if t := &e.toks[i]; t.text == "{" && !t.quoted {
			brace = i
			break
		}
		if e.toks[i].modifier {
			return nil, false // some of it stands before the block
		}
	}
	if brace < 0 {
		return nil, false
	}
	open := bytes.IndexByte(text[e.toks[brace].off:], '\n')
	if open < 0 {
		return nil, false
	}
	open += int(e.toks[brace].off) + 1
	block := string(text[open:e.tokensEnd])
	for i := range modifiers {
		m := &modifiers[i]
		switch m.field.(type) {
		case fromField, conditionField:
			continue // they stand with the targets
		}
		was, is := blockLine(m, old), blockLine(m, new)
		if was == is {
			continue
		}
		var ok bool
		if block, ok = changeLine(block, m, is); !ok {
			return nil, false
		}
	}
	head := Sentence(&fairlead.Forward{Kind: new.Kind, At: new.At, To: new.To})
	same := head == Sentence(&fairlead.Forward{Kind: old.Kind, At: old.At, To: old.To})
	if !same && slices.ContainsFunc(e.toks[brace:], ofHead) {
		return nil, false // the block says some of it
	}
	var out []byte
	out = append(out, text[:e.sentence]...)
	if same {
		out = append(out, text[e.sentence:open]...)
	} else {
		out = append(append(out, head...), ' ')
		out = append(out, text[e.toks[brace].off:open]...)
	}
	out = append(append(out, block...), text[e.tokensEnd:]...)
	return out, true
}

// ofHead reports whether a line of a block begins with what is printed before
// the block: targets and their words.
func ofHead(t token) bool {
	m := byWord[t.text]
	return t.first && !t.quoted && (t.text == "to" || m != nil && m.ofTarget())
}

// blockLine is a modifier as a line of a block, "" when f does not say it.
func blockLine(m *Modifier, f *fairlead.Forward) string {
	if !m.field.said(f) {
		return ""
	}
	return strings.TrimSpace(string(m.field.print(nil, m.Word, f)))
}

// changeLine puts what a modifier says now into its line of a block, a new
// line before the closing brace, or takes the line out. It is false where the
// block does not have one modifier a line.
func changeLine(block string, m *Modifier, is string) (string, bool) {
	lines := strings.SplitAfter(block, "\n")
	indent := "    "
	for i, line := range lines {
		words := strings.TrimLeft(line, " \t")
		if first, _, _ := strings.Cut(strings.TrimRight(words, "\r\n"), " "); first != m.Word {
			if words != "" && words[0] != '}' && words[0] != '#' && strings.TrimSpace(words) != "" {
				indent = line[:len(line)-len(words)]
			}
			continue
		}
		if m.list || strings.ContainsAny(words, "{}\"") {
			return "", false
		}
		if is == "" {
			lines[i] = ""
		} else {
			rest := words
			end := strings.IndexByte(rest, '#')
			if end < 0 {
				end = len(strings.TrimRight(rest, " \t\r\n"))
			} else {
				end = len(strings.TrimRight(rest[:end], " \t"))
			}
			lines[i] = line[:len(line)-len(words)] + is + rest[end:]
		}
		return strings.Join(lines, ""), true
	}
	last := len(lines) - 1
	if last < 0 || strings.TrimSpace(lines[last]) != "}" || is == "" {
		return "", false
	}
	lines[last] = indent + is + "\n" + lines[last]
	return strings.Join(lines, ""), true
}
