package control

import (
	"sync"
	"sync/atomic"

	"fairlead"
)

// A Feed hands events on to whoever reads /v1/events. Its zero value is ready
// and has no readers. Its methods may be called concurrently.
//
// It stands between carriers and sockets, so it never waits: a reader has room
// for 512 events, and one that falls further behind is cut off and told so.
type Feed struct {
	busy atomic.Bool // there are readers; without any, Tell costs one load

	mu      sync.Mutex // guards readers
	readers map[*reader]bool
}

const (
	readerRoom = 512
	maxReaders = 32
)

// A reader is one subscription. The Feed closes events when it cuts the reader
// off.
type reader struct {
	events chan fairlead.Event
}

// Heard reports whether there is anybody to tell.
func (f *Feed) Heard() bool { return f.busy.Load() }

// Tell is a fairlead.Watch.
func (f *Feed) Tell(e fairlead.Event) {
	if !f.busy.Load() {
		return
	}
	if e.Conn != nil {
		c := *e.Conn // the carrier's own goes on to count
		e.Conn = &c
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers {
		select {
		case r.events <- e:
		default:
			f.forget(r)
			close(r.events)
		}
	}
}

// subscribe adds a reader; nil: there are too many.
func (f *Feed) subscribe() *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.readers) >= maxReaders {
		return nil
	}
	if f.readers == nil {
		f.readers = map[*reader]bool{}
	}
	r := &reader{make(chan fairlead.Event, readerRoom)}
	f.readers[r] = true
	f.busy.Store(true)
	return r
}

// leave ends a subscription, also one that was cut off.
func (f *Feed) leave(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(r)
}

func (f *Feed) forget(r *reader) {
	delete(f.readers, r)
	f.busy.Store(len(f.readers) > 0)
}
