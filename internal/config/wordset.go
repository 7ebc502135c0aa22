package config

import "math/bits"

// A wordSet is a set of modifiers, by their place in the table.
type wordSet [2]uint64

// everyWord is all that the table has.
var everyWord = func() (s wordSet) {
	for i := range modifiers {
		s.add(i)
	}
	return s
}()

func (s *wordSet) add(i int)             { s[i/64] |= 1 << (i % 64) }
func (s wordSet) has(i int) bool         { return s[i/64]&(1<<(i%64)) != 0 }
func (s wordSet) with(t wordSet) wordSet { return wordSet{s[0] | t[0], s[1] | t[1]} }
func (s wordSet) empty() bool            { return s == wordSet{} }

// each calls do with the places of the set's words, in the order of the table.
func (s wordSet) each(do func(i int)) {
	for n, part := range s {
		for ; part != 0; part &= part - 1 {
			do(64*n + bits.TrailingZeros64(part))
		}
	}
}
