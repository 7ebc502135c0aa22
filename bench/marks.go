package main

import (
	"errors"
	"strings"
)

// between puts text between the marks of a document: what a run writes into a
// document goes between two of one name.
func between(document, name, text string) (string, error) {
	begin, end := "<!-- "+name+": begin -->", "<!-- "+name+": end -->"
	head, rest, ok := strings.Cut(document, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", errors.New("there are no marks " + begin + " and " + end)
	}
	return head + begin + "\n" + strings.TrimRight(text, "\n") + "\n" + end + tail, nil
}
