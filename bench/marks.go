package main

import (
	"errors"
	"strings"
)

// What a run writes into a document goes between these marks.
const (
	beginMark = "<!-- bench: begin -->"
	endMark   = "<!-- bench: end -->"
)

// between puts text between the marks of a document.
func between(document, text string) (string, error) {
	head, rest, ok := strings.Cut(document, beginMark)
	_, tail, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return "", errors.New("there are no marks " + beginMark + " and " + endMark)
	}
	return head + beginMark + "\n" + strings.TrimRight(text, "\n") + "\n" + endMark + tail, nil
}
