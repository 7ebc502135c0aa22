package config

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"fairlead"
)

// A node is one value of a JSON text, with where it stands: encoding/json
// knows no positions, takes duplicate names and lets unknown ones pass.
type node struct {
	kind    byte   // { [ " 0 (number) t (true) f (false) n (null)
	text    string // of strings, unescaped; of numbers, as written
	off     int32
	end     int32
	members []member
	items   []*node
	path    string // "forwards[3].idle"
}

type member struct {
	name  string
	key   *node
	value *node
}

// token is the node's text as a word that is never one of the grammar.
func (n *node) token() token {
	t := token{text: n.text, off: n.off, end: n.end, quoted: true}
	if n.kind == '"' && int(n.end-n.off) == len(n.text)+2 {
		t.off, t.end = n.off+1, n.end-1
	}
	return t
}

// word is a word of the grammar, shown where the node stands.
func (n *node) word(text string) token {
	t := n.token()
	return token{text: text, off: t.off, end: t.end}
}

// member is the value of a name, nil without it.
func (n *node) member(name string) *node {
	for i := range n.members {
		if n.members[i].name == name {
			return n.members[i].value
		}
	}
	return nil
}

const maxJSONDepth = 16

// A jsonParser reads a JSON text (RFC 8259) into nodes. The first error ends
// it.
type jsonParser struct {
	src  *source
	list *problems
	pos  int
}

func (j *jsonParser) fail(off int, format string, args ...any) *node {
	end := min(off+1, len(j.src.text))
	j.list.add(fairlead.CodeJSON, j.src, token{off: int32(off), end: int32(end)}, format, args...)
	return nil
}

func (j *jsonParser) blank() {
	for j.pos < len(j.src.text) && strings.IndexByte(" \t\r\n", j.src.text[j.pos]) >= 0 {
		j.pos++
	}
}

// document reads the whole text.
func (j *jsonParser) document() *node {
	n := j.value("", 0)
	if n == nil {
		return nil
	}
	if j.blank(); j.pos < len(j.src.text) {
		return j.fail(j.pos, "something stands behind the end of the JSON")
	}
	return n
}

func (j *jsonParser) value(path string, depth int) *node {
	j.blank()
	if j.pos >= len(j.src.text) {
		return j.fail(len(j.src.text), "the JSON ends in the middle")
	}
	if depth > maxJSONDepth {
		return j.fail(j.pos, "the JSON is nested too deep")
	}
	n := &node{off: int32(j.pos), path: path}
	ok := true
	switch c := j.src.text[j.pos]; {
	case c == '{':
		n.kind = '{'
		ok = j.object(n, depth)
	case c == '[':
		n.kind = '['
		ok = j.array(n, depth)
	case c == '"':
		n.kind = '"'
		n.text, ok = j.string()
	case c == '-' || digit(c):
		n.kind = '0'
		begin := j.pos
		for j.pos < len(j.src.text) && strings.IndexByte("+-.eE0123456789", j.src.text[j.pos]) >= 0 {
			j.pos++
		}
		n.text = j.src.text[begin:j.pos]
		if !json.Valid([]byte(n.text)) {
			return j.fail(begin, "%s is not a number", shown(n.text))
		}
	default:
		for _, word := range [...]string{"true", "false", "null"} {
			if strings.HasPrefix(j.src.text[j.pos:], word) {
				n.kind, n.text = word[0], word
				j.pos += len(word)
			}
		}
		if n.kind == 0 {
			return j.fail(j.pos, "this is not JSON")
		}
	}
	if !ok {
		return nil
	}
	n.end = int32(j.pos)
	return n
}

func (j *jsonParser) object(n *node, depth int) bool {
	j.pos++
	names := map[string]bool{}
	for first := true; ; first = false {
		j.blank()
		if first && j.at('}') {
			return true
		}
		if j.pos >= len(j.src.text) || j.src.text[j.pos] != '"' {
			j.fail(j.pos, "the name of a field is missing")
			return false
		}
		key := &node{kind: '"', off: int32(j.pos)}
		var ok bool
		if key.text, ok = j.string(); !ok {
			return false
		}
		key.end = int32(j.pos)
		if names[key.text] {
			j.fail(int(key.off), "the field %s is said twice", shown(key.text))
			return false
		}
		names[key.text] = true
		if j.blank(); !j.at(':') {
			j.fail(j.pos, "a colon is missing")
			return false
		}
		path := key.text
		if n.path != "" {
			path = n.path + "." + path
		}
		value := j.value(path, depth+1)
		if value == nil {
			return false
		}
		n.members = append(n.members, member{key.text, key, value})
		j.blank()
		switch {
		case j.at('}'):
			return true
		case !j.at(','):
			j.fail(j.pos, "a comma or } is missing")
			return false
		}
	}
}

func (j *jsonParser) array(n *node, depth int) bool {
	j.pos++
	for first := true; ; first = false {
		j.blank()
		if first && j.at(']') {
			return true
		}
		item := j.value(n.path+"["+itoa(len(n.items))+"]", depth+1)
		if item == nil {
			return false
		}
		n.items = append(n.items, item)
		j.blank()
		switch {
		case j.at(']'):
			return true
		case !j.at(','):
			j.fail(j.pos, "a comma or ] is missing")
			return false
		}
	}
}

// at takes a byte if it is next.
func (j *jsonParser) at(c byte) bool {
	if j.pos < len(j.src.text) && j.src.text[j.pos] == c {
		j.pos++
		return true
	}
	return false
}

// string reads a string. What may not stand in a file of sentences may not
// stand here either, escaped or not.
func (j *jsonParser) string() (string, bool) {
	begin := j.pos
	plain := true
	for j.pos++; ; j.pos++ {
		if j.pos >= len(j.src.text) || j.src.text[j.pos] == '\n' {
			j.fail(begin, "a string is not closed")
			return "", false
		}
		if j.src.text[j.pos] == '"' {
			break
		}
		if j.src.text[j.pos] == '\\' {
			plain = false
			j.pos++
		}
	}
	j.pos++
	text := j.src.text[begin+1 : j.pos-1]
	if i := badCharacter(text + " "); i >= 0 {
		j.list.badCharacter(j.src, begin+1+i)
		return "", false
	}
	if plain {
		return text, true
	}
	var out string
	if err := json.Unmarshal([]byte(j.src.text[begin:j.pos]), &out); err != nil {
		j.fail(begin, "a string has an escape that JSON does not know")
		return "", false
	}
	if badCharacter(out+" ") >= 0 || strings.ContainsRune(out, utf8.RuneError) {
		j.list.add(fairlead.CodeBadCharacter, j.src, token{off: int32(begin), end: int32(j.pos)}, "the string has a character that does not belong into a file")
		return "", false
	}
	return out, true
}
