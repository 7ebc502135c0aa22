package kernel

import (
	"net/netip"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// A world is what compile has to know of this host and what is around it.
// compile asks nobody else: the same wishes in the same world are the same
// table.
type world struct {
	table    string
	owned    bool
	wan, lan []string
	addrs    map[string][]netip.Prefix // of each interface, by name
	resolved map[string][]netip.Addr   // of the names of targets, as far as known
	listens  []Listener                // of this process: a share's guard lets them be reached
	held     []Listener                // of other programs on this host, as far as known: a guard says whom it shuts off
	now      time.Time                 // for what expires
}

// A part is what one forward became.
type part struct {
	f       *fairlead.Forward
	problem *fairlead.Problem // a warning when the forward is carried all the same
	bound   []string          // "203.0.113.1:80/tcp"
	targets []netip.AddrPort
	entries []entry
}

// An entry is one listening port, or range of them, and what it leads to, as
// counters and connections are told apart by it.
type entry struct {
	proto uint8
	at    netip.Addr // what clients ask for
	ports fairlead.Ports
}

// A plan is a table, and what of it belongs to whom.
type plan struct {
	table *nft.Table
	parts []part // one for each forward, in their order
}

// compile says which table carries exactly want in w. A forward that cannot be
// carried has a part with a problem, and nothing in the table.
func compile(want []*fairlead.Forward, w *world) *plan {
	return &plan{table: &nft.Table{Family: nft.Inet, Name: w.table, Owned: w.owned}, parts: make([]part, len(want))}
}
