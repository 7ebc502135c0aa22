package kernel

import "fairlead/internal/sys/nft"

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
