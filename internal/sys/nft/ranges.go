package nft

import (
	"bytes"
	"slices"
	"strings"
)

// anyRange reports whether one of the values is a range.
func anyRange(values []Range) bool {
	return slices.ContainsFunc(values, func(r Range) bool { return !r.one() })
}

// mergedRanges is the same values with those in one range that follow each other, or
// overlap, as nft does in sets without a name.
func mergedRanges(values []Range) []Range {
	values = slices.Clone(values)
	slices.SortFunc(values, func(a, b Range) int { return strings.Compare(string(a.First), string(b.First)) })
	var out []Range
	for _, r := range values {
		if len(out) > 0 {
			before := &out[len(out)-1]
			next, more := successor(before.last())
			if !more || string(r.First) <= string(next) {
				before.Last = max(before.last(), r.last())
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// successor is the value after v; ok is false after the last one there is.
func successor(v Value) (next []byte, ok bool) {
	next = []byte(v)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, true
		}
	}
	return bytes.Clone(next), false
}
