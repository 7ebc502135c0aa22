package relay

import (
	"container/list"
	"net/netip"

	"fairlead"
)

// A queue is clients that wait for their turn: those of one source in the
// order in which they came, and the sources in turns. It has no lock of its
// own; whose it is guards it.
type queue struct {
	n     int
	lines map[netip.Addr]*line
	turns list.List // of *line, the next one first
}

// A line is who waits of one source.
type line struct {
	source  netip.Addr
	waiting list.List // of *ticket
	turn    *list.Element
}

// A ticket is one client's place in a queue.
type ticket struct {
	ready chan struct{}   // closed when it is its turn, or will never be
	why   fairlead.Reason // after ready: "" when it was let in
	line  *line
	at    *list.Element // nil when it does not wait any more
}

// join gives a client of source the last place of its line. Where most wait
// already, it takes that of the last in the longest line, which is dismissed
// for the reason, if that line is longer than its own would be; otherwise the
// answer is nil.
func (q *queue) join(source netip.Addr, most int, full fairlead.Reason) *ticket {
	l := q.lines[source]
	if q.n >= most {
		longest := q.longest()
		own := 0
		if l != nil {
			own = l.waiting.Len()
		}
		if longest == nil || longest.waiting.Len() <= own+1 {
			return nil
		}
		q.dismiss(longest.waiting.Back().Value.(*ticket), full)
	}
	if l == nil {
		l = &line{source: source}
		l.turn = q.turns.PushBack(l)
		if q.lines == nil {
			q.lines = map[netip.Addr]*line{}
		}
		q.lines[source] = l
	}
	t := &ticket{ready: make(chan struct{}), line: l}
	t.at = l.waiting.PushBack(t)
	q.n++
	return t
}

func (q *queue) longest() (longest *line) {
	for _, l := range q.lines {
		if longest == nil || l.waiting.Len() > longest.waiting.Len() {
			longest = l
		}
	}
	return longest
}

// dismiss ends t's waiting for a reason, "" to let it in. It is false when
// that has happened before.
func (q *queue) dismiss(t *ticket, why fairlead.Reason) bool {
	if t.at == nil {
		return false
	}
	t.line.waiting.Remove(t.at)
	t.at = nil
	if q.n--; t.line.waiting.Len() == 0 {
		q.turns.Remove(t.line.turn)
		delete(q.lines, t.line.source)
	}
	t.why = why
	close(t.ready)
	return true
}

// dismissAll empties the queue.
func (q *queue) dismissAll(why fairlead.Reason) {
	for e := q.turns.Front(); e != nil; e = q.turns.Front() {
		q.dismiss(e.Value.(*line).waiting.Front().Value.(*ticket), why)
	}
}

// A ruling is whether a client of a source may enter now.
type ruling int

const (
	mayEnter ruling = iota
	notThisSource
	nobody
)

// advance lets in who may, in turns. The ruling on a source counts in who it
// lets enter.
func (q *queue) advance(on func(source netip.Addr) ruling) {
	for e := q.turns.Front(); e != nil; {
		l := e.Value.(*line)
		next := e.Next()
		switch on(l.source) {
		case nobody:
			return
		case mayEnter:
			q.turns.MoveToBack(e)
			q.dismiss(l.waiting.Front().Value.(*ticket), "")
			if next == nil {
				next = q.turns.Front() // it was the last, and may be again
			}
		}
		e = next
	}
}
