package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/wire/sniff"
)

// defaultGreet is how long a client may take to say what it asks for, where
// the sentence says nothing. Whoever waits for the server to speak first waits
// as long.
const defaultGreet = 3 * time.Second

// An asked is what a client asks for, as far as a target depends on it.
type asked struct {
	protocol string   // a word of package sniff; "" where nobody wanted to know
	name     string   // server name of TLS; "" for none
	alpn     []string // protocols offered within TLS, in the client's order
	host     string   // of HTTP; "" for none
	odd      error    // why the TLS hello has no name and no protocols
}

// what is the name asked for, for people.
func (a *asked) what() string {
	if a.name != "" {
		return a.name
	}
	return a.host
}

// facts are things about a client that a target may depend on.
type facts uint8

// The facts, the one that says most about a client last.
const (
	protocolFact facts = 1 << iota
	alpnFact
	hostFact
	nameFact
)

// greet learns what the client asks for, when its target depends on that, and
// returns the targets for it. It notes in o what it learnt, and what it read
// of c, which belongs to the target. It waits for no byte when all of targets
// take every client. With a reason the client is to be turned away.
//
// The connection returned is the one to carry on with: c itself, or what c
// became.
func (r *Relay) greet(ru *rule, c net.Conn, o *origin, targets []*target) (net.Conn, []*target, fairlead.Reason, *fairlead.Problem) {
	wanted := wants(targets)
	if ru.server != nil {
		var why fairlead.Reason
		var p *fairlead.Problem
		if c, why, p = r.seal(ru, c, o); why != "" {
			return c, nil, why, p
		}
		wanted &^= nameFact | alpnFact // of TLS within TLS nobody asks
	}
	if wanted == 0 && ru.server == nil {
		return c, targets, "", nil
	}
	if wanted != 0 {
		if why, p := r.hear(ru, c, o, wanted); why != "" {
			return c, nil, why, p
		}
	}
	targets, why := route(targets, o.client.Addr(), &o.asked)
	if why == fairlead.NoMatch {
		return c, nil, why, noMatch(o)
	}
	return c, targets, why, nil
}

// hear reads from c until what is wanted is known.
func (r *Relay) hear(ru *rule, c net.Conn, o *origin, wanted facts) (fairlead.Reason, *fairlead.Problem) {
	g := &guest{id: r.table.next(), rule: ru, c: c, from: o.client, at: o.local, began: time.Now()}
	c.SetReadDeadline(g.began.Add(ru.greeting))
	defer g.heard()
	// It is either in the table or among those served, for who counts both.
	r.table.add(g)
	r.serving.Add(-1)
	defer r.table.remove(g)
	defer r.serving.Add(1)
	known := error(sniff.ErrShort)
	for {
		if len(o.head) == cap(o.head) {
			o.head = slices.Grow(o.head, max(1024, 3*len(o.head)))
		}
		n, err := c.Read(o.head[len(o.head):min(cap(o.head), sniff.Limit)])
		o.head = o.head[:len(o.head)+n]
		g.in.Store(int64(len(o.head)))
		if n > 0 {
			known = o.asked.learn(o.head, n, wanted)
		}
		ended := g.why()
		switch {
		case ended != "":
			return ended, nil
		case known == nil:
			return "", nil
		case known != sniff.ErrShort:
			return fairlead.NoGreeting, badGreeting(o, known)
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
			if o.asked.settle(o.head) {
				return "", nil
			}
			return fairlead.NoGreeting, badGreeting(o, known)
		case err == errTruncated, isReset(err):
			return fairlead.ClientReset, nil
		case isVanished(err):
			return fairlead.ClientVanished, nil
		default:
			return fairlead.Failed, fairlead.AsProblem(err)
		}
	}
}

// A guest is a client that is heard and has no target yet. It is in the table,
// to be seen and ended there; the goroutine that hears it does the rest.
type guest struct {
	id       uint64
	rule     *rule
	c        net.Conn
	from, at netip.AddrPort // the client and the address that it asked; zero for unix sockets
	began    time.Time
	in       atomic.Int64

	mu    sync.Mutex // guards the rest
	ended fairlead.Reason
	over  bool // it is a guest no more
}

func (g *guest) number() uint64 { return g.id }

func (g *guest) describe() fairlead.Conn {
	return fairlead.Conn{
		ID: idText(g.id), Forward: g.rule.f.Name, Network: g.c.LocalAddr().Network(),
		Client: endText(g.from, g.c.RemoteAddr()), Local: endText(g.at, g.c.LocalAddr()),
		Began: g.began, In: g.in.Load(),
	}
}

func (g *guest) matches(m fairlead.Match) bool {
	return g.why() == "" && matches(m, g.id, g.rule.f.Name, g.from.Addr())
}

func (g *guest) kill() { g.end(fairlead.Killed) }
func (g *guest) shut() { g.end(fairlead.Shutdown) }

// end wakes the goroutine that hears it.
func (g *guest) end(why fairlead.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended == "" && !g.over {
		g.ended = why
		g.c.SetReadDeadline(time.Unix(1, 0))
	}
}

// why is the reason for which somebody has ended it.
func (g *guest) why() fairlead.Reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ended
}

// heard gives its connection back to the goroutine that carries on.
func (g *guest) heard() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.c.SetReadDeadline(time.Time{})
}

// look does nothing: its time is bounded by that of hearing it.
func (g *guest) look(time.Time) {}

// learn takes from the first bytes of a client what is wanted; the last fresh
// of them are new. Like the functions of package sniff it answers ErrShort
// until more bytes make no difference.
//
// Who sends a hello that cannot be read has asked for nothing, and goes where
// everybody may go who names nothing. A request of HTTP that cannot be read is
// an error: it may hold secrets that are meant for one target only.
func (a *asked) learn(head []byte, fresh int, wanted facts) error {
	if a.protocol == "" {
		var err error
		if a.protocol, err = sniff.Protocol(head); err != nil {
			return err
		}
	}
	switch {
	case a.protocol == sniff.TLS && wanted&(nameFact|alpnFact) != 0:
		h, err := sniff.ClientHello(head)
		if err == sniff.ErrShort {
			return err
		}
		a.name, a.alpn, a.odd = h.Name, h.ALPN, err
	case a.protocol == sniff.HTTP && wanted&hostFact != 0:
		// A head ends with a line. Not to look before one does bounds what a
		// client costs that sends its head byte by byte.
		if len(head) < sniff.Limit && bytes.IndexByte(head[len(head)-fresh:], '\n') < 0 {
			return sniff.ErrShort
		}
		h, err := sniff.HTTPHead(head)
		if err != nil {
			return err
		}
		a.host = h.Host
	}
	return nil
}

// settle decides about a client that says no more. One that has said nothing
// may wait for its server, and has no protocol that could be told; one that
// stopped within a hello or a head is not to be understood.
func (a *asked) settle(head []byte) bool {
	if a.protocol == "" {
		a.protocol = sniff.Other
	}
	return a.protocol == sniff.Other
}

// noMatch is why a client that asks for something unknown is turned away.
func noMatch(o *origin) *fairlead.Problem {
	asks := "speaks " + o.asked.protocol
	switch a := &o.asked; {
	case len(o.head) == 0:
		asks = "says nothing"
	case a.odd != nil:
		asks = "sends no hello that can be read: " + a.odd.Error()
	case a.what() != "":
		asks = "asks for " + a.what()
	}
	return fairlead.Problemf(fairlead.CodeNoMatch, "no target takes %s, who %s", endText(o.client, nil), asks)
}

// badGreeting is why a client that is not understood is turned away.
func badGreeting(o *origin, err error) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeGreeting, "%s did not say what it asks for: %v", endText(o.client, nil), err)
	p.Err = err
	return p
}
