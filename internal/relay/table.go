package relay

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// tracked is a live connection or session as the table knows it.
type tracked interface {
	number() uint64
	describe() fairlead.Conn
	matches(m fairlead.Match) bool
	kill()
	shut()
	look(now time.Time) // the janitor's visit
}

func (c *conn) number() uint64 { return c.id }

// A table holds what is live.
type table struct {
	last atomic.Uint64 // identifier given last

	mu     sync.Mutex // guards the rest
	conns  map[uint64]tracked
	closed bool
}

func (t *table) next() uint64 { return t.last.Add(1) }

// add enters c. A table that is closed ends it at once.
func (t *table) add(c tracked) {
	t.mu.Lock()
	t.conns[c.number()] = c
	closed := t.closed
	t.mu.Unlock()
	if closed {
		c.shut()
	}
}

func (t *table) remove(c tracked) {
	t.mu.Lock()
	delete(t.conns, c.number())
	t.mu.Unlock()
}

func (t *table) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
}

func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

// all is what is live, oldest first.
func (t *table) all() []tracked {
	all := t.gather(nil)
	slices.SortFunc(all, func(a, b tracked) int { return cmp.Compare(a.number(), b.number()) })
	return all
}

// gather appends what is live to into, in no order.
func (t *table) gather(into []tracked) []tracked {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		into = append(into, c)
	}
	return into
}

func matches(m fairlead.Match, id uint64, forward string, client netip.Addr) bool {
	return (m.ID == "" || m.ID == idText(id)) &&
		(m.Forward == "" || m.Forward == forward) &&
		(!m.Client.IsValid() || m.Client.Unmap().WithZone("") == client.WithZone(""))
}
