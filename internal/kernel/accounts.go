package kernel

import (
	"strings"

	"fairlead/internal/sys/nft"
)

// chainAccount counts what belongs to a forward; chainSource rewrites where it
// comes from.
const (
	chainAccount = "account"
	chainSource  = "source"
)

// An account is an element that counts, by its set and its first key.
type account struct {
	set      string
	at, port nft.Value
}

// account says whose element of a set that counts e is, as an index into
// parts; ok is false where it is nobody's any more.
func (p *plan) account(set string, e nft.Element) (i int, ok bool) {
	i, ok = p.accounts[accountOf(set, e.Key)]
	return i, ok
}

func accountOf(set string, key []nft.Range) account {
	a := account{set: set}
	switch len(key) {
	case 1:
		a.port = key[0].First
	case 2:
		a.at, a.port = key[0].First, key[1].First
	}
	return a
}

// A tally says what the elements of a set count.
type tally uint8

// The tallies. A packet is counted once at most in each.
const (
	flows  tally = iota // packets are connections: those that were led on
	in                  // what went from clients to targets
	out                 // what went back
	turned              // packets are connections that were turned away

	tallies
)

// tallyOf says what a set counts, by the end of its name; ok is false for a set
// that counts nothing of a forward.
func tallyOf(set string) (what tally, ok bool) {
	for t, end := range [tallies]string{"_flows", "_in", "_out", "_turned"} {
		if strings.HasSuffix(set, end) {
			return tally(t), true
		}
	}
	return 0, false
}
