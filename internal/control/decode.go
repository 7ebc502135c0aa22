package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	maxBody  = 64 << 10
	maxDepth = 8 // our requests have one level
)

// decode reads one JSON object into v, and nothing else: no second value, no
// key twice, no key unknown to v, no deep nesting, no broken UTF-8. An empty
// body leaves v as it is.
func decode(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if !utf8.Valid(body) {
		return errors.New("the body is not UTF-8")
	}
	if err := checkShape(body); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &kind):
		return fmt.Errorf("%s cannot be a JSON %s", kind.Field, kind.Value)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// checkShape finds what package json would let pass.
func checkShape(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	type level struct {
		object  bool
		wantKey bool
		keys    map[string]bool
	}
	var levels []level
	for n := 0; ; n++ {
		t, err := d.Token()
		if err == io.EOF && len(levels) == 0 && n > 0 {
			return nil
		}
		if err != nil {
			return errors.New("the body is not JSON")
		}
		if n == 0 && t != json.Delim('{') {
			return errors.New("the body is not a JSON object")
		}
		if n > 0 && len(levels) == 0 {
			return errors.New("something follows the JSON object")
		}
		if top := len(levels) - 1; top >= 0 && levels[top].object {
			l := &levels[top]
			if key, ok := t.(string); ok && l.wantKey {
				// Package json matches keys without regard to case.
				folded := strings.ToLower(key)
				if l.keys[folded] {
					return fmt.Errorf("the key %q stands there twice", key)
				}
				l.keys[folded] = true
				l.wantKey = false
				continue
			}
			l.wantKey = true
		}
		switch t {
		case json.Delim('{'):
			levels = append(levels, level{true, true, map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
		}
		if len(levels) > maxDepth {
			return fmt.Errorf("the body is nested more than %d deep", maxDepth)
		}
	}
}
