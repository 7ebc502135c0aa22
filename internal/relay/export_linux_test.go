package relay

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Left tells what the relay still holds or counts, "" when it is nothing but
// its listening sockets.
func (r *Relay) Left() string {
	r.mu.Lock()
	rules, entries := r.current(), len(r.entries)
	r.mu.Unlock()
	s := ""
	if n := r.table.len(); n != 0 {
		s += fmt.Sprintf("%d connections in the table; ", n)
	}
	if n := r.budget.inUse(); n != entries {
		s += fmt.Sprintf("%d descriptors of the budget for %d listeners; ", n, entries)
	}
	for _, ru := range rules {
		s += ru.left()
	}
	for i := range r.crowd.shards {
		sh := &r.crowd.shards[i]
		sh.mu.Lock()
		if len(sh.held) > 0 {
			s += fmt.Sprintf("descriptors held by %v; ", sh.held)
		}
		sh.mu.Unlock()
	}
	return s
}

func (ru *rule) left() (s string) {
	if n := ru.meter.Active.Load(); n != 0 {
		s += fmt.Sprintf("%s: %d active; ", ru.f.Name, n)
	}
	ru.counts.Lock()
	defer ru.counts.Unlock()
	if n := ru.active.Load(); n != 0 || len(ru.sources) != 0 || ru.queue.n != 0 {
		s += fmt.Sprintf("%s: %d counted, sources %v, %d wait; ", ru.f.Name, n, ru.sources, ru.queue.n)
	}
	return s
}

// OnLoops is how many connections event loops have carried.
func (r *Relay) OnLoops() (n int64) {
	for _, l := range r.engine.loops {
		n += l.carried.Load()
	}
	return n
}

// Over is how many connections have ended and wait for their last bytes.
func (r *Relay) Over() (n int) {
	for _, c := range r.table.all() {
		switch c := c.(type) {
		case *conn:
			if c.over.Load() {
				n++
			}
		case *pair:
			if c.dying.Load() {
				n++
			}
		}
	}
	return n
}

// KeepaliveOf is the silence after which the client of the only connection is
// asked whether it lives; 0 is never.
func (r *Relay) KeepaliveOf() (d time.Duration) {
	read := func(fd uintptr) {
		if on, _ := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE); on != 0 {
			idle, _ := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
			d = time.Duration(idle) * time.Second
		}
	}
	for _, c := range r.table.all() {
		switch c := c.(type) {
		case *conn:
			rawConn(c.client).Control(read)
		case *pair:
			read(uintptr(c.fd[0]))
		}
	}
	return d
}

// Pause has the event loops of UDP do nothing until resume is called.
func (r *Relay) Pause() (resume func()) {
	gate := make(chan struct{})
	for _, l := range r.udp.loops {
		paused := make(chan struct{})
		l.do(func() { close(paused); <-gate })
		<-paused
	}
	return func() { close(gate) }
}
