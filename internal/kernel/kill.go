package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"fairlead"
	"fairlead/internal/sys/conntrack"
	"fairlead/internal/sys/nft"
)

// Forgetting a connection does not end it: its next packet is let in and
// translated anew while the rule is there (nf_conntrack_tcp_loose), or goes to
// somebody who never heard of it. So a killed connection is refused first: each
// packet of either end is answered with a reset that the end believes, as it
// answers its own packet. Then it is forgotten, and then both ends are given
// cause to send a packet, so that idle connections end at once too.
//
// What refuses is a table of its own, there only while something is killed: in
// the big table it would cost every packet a look.

// killedFor is for how long packets of a killed connection are refused, by
// default. A new one between the same ports is refused as long.
const killedFor = 15 * time.Second

// killBatch is how many connections are killed in one transaction.
const killBatch = 1024

// An end that has not answered is provoked again when a round is over; after
// the last one its next packet ends it. TCP answers what is out of order no
// oftener than every half second (Linux: tcp_invalid_ratelimit), so a quicker
// second round would be in vain where only the answer was lost.
const (
	killRounds = 2
	killRound  = 550 * time.Millisecond
	killPoll   = 10 * time.Millisecond
)

// Kill ends the connections that m selects: those of TCP with a reset to both
// ends, at once; what comes of those of UDP is dropped for some seconds. It
// says how many there were.
func (k *Kernel) Kill(m fairlead.Match) int {
	if m == (fairlead.Match{}) || k.ctx.Err() != nil {
		return 0
	}
	client := m.Client.Unmap().WithZone("")
	var matched []*conntrack.Entry
	err := k.flows(k.ctx, func(e *conntrack.Entry, o *owner) bool {
		if (m.ID == "" || m.ID == idText(e.ID)) && (m.Forward == "" || m.Forward == o.key.name) &&
			(!m.Client.IsValid() || client == e.Original.Src.Addr().Unmap()) {
			matched = append(matched, new(*e))
		}
		return true
	})
	n := 0
	if err == nil {
		err = k.inside(func() (err error) {
			n, err = k.end(matched)
			return err
		})
	}
	if err != nil {
		k.trouble(k.notKilled(err))
	}
	return n
}

// end ends connections and says how many.
func (k *Kernel) end(entries []*conntrack.Entry) (n int, err error) {
	for batch := range slices.Chunk(entries, killBatch) {
		tuples := make([]conntrack.Tuple, 0, 2*len(batch))
		for _, e := range batch {
			tuples = append(tuples, e.Original, e.Reply)
		}
		if err := k.killing.refuse(tuples, k.killing.life); err != nil {
			return n, err
		}
		if err := conntrack.Delete(batch...); err != nil {
			return n, err
		}
		n += len(batch)
	}
	idle := slices.DeleteFunc(slices.Clone(entries), func(e *conntrack.Entry) bool { return e.Original.Proto != protoTCP })
	for round := 0; round < killRounds && len(idle) > 0; round++ {
		if err := provoke(probesOf(idle)); err != nil {
			return n, err
		}
		idle = k.killing.unanswered(k.ctx, idle, killRound)
	}
	return n, nil
}

// notKilled is why connections live on, or do so until their next packet.
func (k *Kernel) notKilled(err error) *fairlead.Problem {
	var silent *silentError
	if errors.As(err, &silent) {
		p := fairlead.Problemf(fairlead.CodeKillWaits, "killed connections that are idle end with their next packet: %v", silent.cause)
		p.Warning = true
		return p.Fix("give the service the right", "systemctl edit fairlead   # [Service] AmbientCapabilities=CAP_NET_RAW beside the others")
	}
	p := k.refused(err)
	if p.Code == fairlead.CodeKernelRefused {
		p = fairlead.Problemf(fairlead.CodeNotKilled, "not all connections that were to be killed are: %v", err)
		p.Err = err
	}
	return p
}

// A silentError says why the ends of connections could not be provoked.
type silentError struct{ cause error }

func (e *silentError) Error() string { return e.cause.Error() }
func (e *silentError) Unwrap() error { return e.cause }

// killing is the table that refuses packets of killed connections.
type killing struct {
	table  string
	inside func(func() error) error
	life   time.Duration // killedFor
	wg     *sync.WaitGroup
	ctx    context.Context // ends with the carrier

	mu    sync.Mutex // guards the rest
	conn  *nft.Conn  // nil while nothing is refused
	until time.Time  // when the last element ends
}

// killedSuffix ends the name of the table that refuses, behind that of the
// carrier's own.
const killedSuffix = "-killed"

// The sets of the table, whose keys are source, protocol, source port,
// destination and its port, as a packet has them before translation.
const (
	killed4 = "killed4"
	killed6 = "killed6"
)

// killTable refuses what is in its sets.
//
//   - Connections that are established are not looked up: those in the sets
//     have been forgotten.
//   - The resets and the provoking packets that this host sends to an end, from
//     the other's address, are not tracked. Tracked they would be the first of a
//     new connection.
//   - Such a packet to an end on this host comes in again by the loopback
//     interface, still as untracked.
func killTable(name string) *nft.Table {
	const priority = -190 // behind connection tracking (-200) and before translation (-100)
	rules := []nft.Rule{{Exprs: []nft.Expr{nft.Has{Key: nft.CtState, Mask: nft.StateNew | nft.StateInvalid, Not: true}, nft.Accept}}}
	var reverse []nft.Rule
	for _, f := range []struct {
		set      string
		src, dst nft.Key
	}{{killed4, nft.IPSaddr, nft.IPDaddr}, {killed6, nft.IP6Saddr, nft.IP6Daddr}} {
		in := nft.In{Keys: []nft.Key{f.src, nft.L4Proto, nft.Sport, f.dst, nft.Dport}, Set: f.set}
		rules = append(rules,
			nft.Rule{Exprs: []nft.Expr{isProto(protoTCP), in, nft.Reject{With: "tcp reset"}}},
			nft.Rule{Exprs: []nft.Expr{isProto(protoUDP), in, nft.Drop}})
		reverse = append(reverse, nft.Rule{Exprs: []nft.Expr{
			isProto(protoTCP), nft.In{Keys: []nft.Key{f.dst, nft.L4Proto, nft.Dport, f.src, nft.Sport}, Set: f.set}, nft.Notrack{},
		}})
	}
	set := func(name string, addr nft.Type) nft.Set {
		return nft.Set{Name: name, Key: []nft.Type{addr, nft.InetProto, nft.InetService, addr, nft.InetService}, Timed: true, Counted: true}
	}
	return &nft.Table{
		Family: nft.Inet, Name: name, Owned: true,
		Sets: []nft.Set{set(killed4, nft.IPv4Addr), set(killed6, nft.IPv6Addr)},
		Chains: []nft.Chain{
			{Name: marker},
			{Name: "untracked", Hook: &nft.Hook{Type: "filter", Hook: "output", Priority: nft.Raw}, Rules: reverse},
			{Name: "came", Hook: &nft.Hook{Type: "filter", Hook: "prerouting", Priority: priority}, Rules: rules},
			{Name: "sent", Hook: &nft.Hook{Type: "filter", Hook: "output", Priority: priority}, Rules: rules},
		},
	}
}

func isProto(p uint8) nft.Is {
	return nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(p))}}
}

// refuse has packets of these tuples refused for a while: it is to be called
// in the carrier's network namespace.
func (g *killing) refuse(tuples []conntrack.Tuple, life time.Duration) error {
	sets := []nft.Elements{{Set: killed4}, {Set: killed6}}
	for _, t := range tuples {
		i := 0
		if t.Src.Addr().Is6() {
			i = 1
		}
		sets[i].Elements = append(sets[i].Elements, nft.Element{Key: keyOfTuple(t), Timeout: life})
	}
	sets = slices.DeleteFunc(sets, func(e nft.Elements) bool { return len(e.Elements) == 0 })
	if len(sets) == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.ctx.Err(); err != nil {
		return err
	}
	if g.conn == nil {
		conn, err := nft.Open()
		if err != nil {
			return err
		}
		t := killTable(g.table)
		for _, e := range sets {
			s := slices.IndexFunc(t.Sets, func(s nft.Set) bool { return s.Name == e.Set })
			t.Sets[s].Elements = e.Elements
		}
		if err := conn.Replace(t); err != nil {
			conn.Close()
			return err
		}
		g.conn, g.until = conn, time.Now().Add(life)
		g.wg.Go(g.leave)
	} else if err := g.conn.Change(nft.Change{Family: nft.Inet, Table: g.table, Add: sets}); err != nil {
		return err
	}
	if end := time.Now().Add(life); end.After(g.until) {
		g.until = end
	}
	return nil
}

func keyOfTuple(t conntrack.Tuple) []nft.Range {
	return []nft.Range{
		nft.One(nft.Addr(t.Src.Addr())), nft.One(nft.Byte(t.Proto)), nft.One(nft.Port(t.Src.Port())),
		nft.One(nft.Addr(t.Dst.Addr())), nft.One(nft.Port(t.Dst.Port())),
	}
}

// leave takes the table away when nothing is refused any more, or the carrier
// ends. Where the process does not come to that, the kernel does: the table
// belongs to the connection.
func (g *killing) leave() {
	for {
		g.mu.Lock()
		wait := time.Until(g.until)
		if wait <= 0 || g.ctx.Err() != nil {
			g.inside(func() error { return g.conn.Delete(nft.Inet, g.table) })
			g.conn.Close()
			g.conn, g.until = nil, time.Time{}
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		select {
		case <-g.ctx.Done():
		case <-time.After(wait):
		}
	}
}

// unanswered waits until each of the connections' ends has sent something,
// which was answered with a reset, but not longer than patience, and returns
// the connections of which an end has not.
func (g *killing) unanswered(ctx context.Context, entries []*conntrack.Entry, patience time.Duration) []*conntrack.Entry {
	end := time.Now().Add(patience)
	pause := killPoll
	for len(entries) > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause *= 2
		met, err := g.met()
		if err != nil {
			return entries // what becomes of them is not to be seen
		}
		entries = slices.DeleteFunc(entries, func(e *conntrack.Entry) bool {
			return met[keyText(keyOfTuple(e.Original))] && met[keyText(keyOfTuple(e.Reply))]
		})
		if time.Now().After(end) {
			break
		}
	}
	return entries
}

// met are the keys of elements that packets were refused by.
func (g *killing) met() (map[string]bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn == nil {
		return nil, errors.New("nothing is refused any more")
	}
	met := map[string]bool{}
	for _, name := range []string{killed4, killed6} {
		s, err := g.conn.ReadSet(nft.Inet, g.table, name)
		if err != nil {
			return nil, err
		}
		if s == nil {
			return nil, fmt.Errorf("the table %s is gone", g.table)
		}
		for i := range s.Elements {
			if s.Elements[i].Count.Packets > 0 {
				met[keyText(s.Elements[i].Key)] = true
			}
		}
	}
	return met, nil
}

// A probe is a packet that an end of a connection answers, sent from the
// other's address, as the end knows it.
type probe struct {
	from, to netip.AddrPort
	syn      bool // without ACK
}

// probesOf are one packet to each end. A SYN that comes for a connection that
// is established is answered with an ACK, whatever its number (RFC 9293,
// 3.10.7.4; RFC 5961, section 4), and no end takes it for one that belongs to the
// connection, so that nothing need be known of its numbers. A firewall before an
// end lets pass what its own connection tracking may think of as a repetition:
// toward the target a SYN, toward the client a SYN with ACK.
func probesOf(entries []*conntrack.Entry) []probe {
	probes := make([]probe, 0, 2*len(entries))
	for _, e := range entries {
		probes = append(probes,
			probe{from: e.Original.Dst, to: e.Original.Src},
			probe{from: e.Reply.Dst, to: e.Reply.Src, syn: true})
	}
	return probes
}
