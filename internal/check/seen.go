package check

import (
	"slices"
	"strings"

	"fairlead/internal/sys/nft"
	"fairlead/internal/wire/packet"
)

// The chains of the probe's own table, in the order in which a packet comes by.
// Those at the end of a hook have a priority behind all that others may have.
const (
	chainBegins   = "begins"   // where the trace of the probe begins
	chainBack     = "back"     // where that of an answer from elsewhere begins
	chainAnswered = "answered" // where that of an answer from this host begins
	chainRouted   = "routed"   // the forward hook is reached
	chainLocal    = "local"    // the input hook is reached
	chainTaken    = "taken"    // the end of the input hook: this host takes it
	chainLeft     = "left"     // the end of the postrouting hook: it leaves
)

// A sight is one step of a packet in a chain, with the packet as it was when it
// entered the base chain.
type sight struct {
	nft.TraceEvent
	base   string // the base chain of this traversal
	packet packet.Packet
}

// A passage is the way of one packet through this host.
type passage struct {
	back       bool
	connection uint32 // as connection tracking numbers it; 0: not known
	steps      []sight
}

// station is the packet as it came by one of the probe's own chains, nil when
// it did not.
func (p *passage) station(chain string) *sight {
	if p == nil {
		return nil
	}
	for i := range p.steps {
		if s := &p.steps[i]; s.base == chain && strings.HasPrefix(s.Table, probeTable) {
			return s
		}
	}
	return nil
}

// drop is the step that ended the packet's way, nil when none did; our own end
// for answers does not count.
func (p *passage) drop() *sight {
	if p == nil {
		return nil
	}
	for i := range p.steps {
		s := &p.steps[i]
		if strings.HasPrefix(s.Table, probeTable) {
			continue
		}
		if s.Verdict == "drop" || s.Verdict == "stolen" || s.Verdict == "queue" {
			return s
		}
	}
	return nil
}

// rewritten is the first step at which a NAT rule took hold, nil without one.
func (p *passage) rewritten(after string) *sight {
	var last *sight
	for i := range p.steps {
		s := &p.steps[i]
		if s.base == after && strings.HasPrefix(s.Table, probeTable) {
			break
		}
		if !strings.HasPrefix(s.Table, probeTable) && s.Kind == nft.TraceRule && s.Verdict == "accept" {
			last = s
		}
	}
	return last
}

// seen is what a probe showed.
type seen struct {
	a        *attempt
	passages []*passage
	byID     map[uint32]*passage
	lost     bool // steps are missing

	// Of a client on this host: what its connect came to.
	connected bool
	err       error
}

// told takes in one event.
func (s *seen) told(e nft.TraceEvent) {
	if e.Kind == 0 {
		s.lost = true
		return
	}
	pkt, entered := packet.Read(e.NetworkHeader, e.TransportHeader)
	p := s.byID[e.ID]
	if p == nil {
		if p = s.passageOf(&e, &pkt, entered); p == nil {
			return // traced for somebody else
		}
		if s.byID == nil {
			s.byID = map[uint32]*passage{}
		}
		s.byID[e.ID] = p
	}
	if e.HasCt {
		p.connection = e.CtID
	}
	if len(p.steps) >= maxSteps {
		return
	}
	x := sight{TraceEvent: e}
	if entered {
		x.packet, x.base = pkt, e.Chain
	} else if n := len(p.steps); n > 0 {
		x.packet, x.base = p.steps[n-1].packet, p.steps[n-1].base
	}
	p.steps = append(p.steps, x)
}

// passageOf is the way that an event with a number not yet known belongs to: a
// new one, or one of those that are known, since the kernel makes the number
// from parts of the packet's state that a bridge or a translation may change.
func (s *seen) passageOf(e *nft.TraceEvent, pkt *packet.Packet, entered bool) *passage {
	if !strings.HasPrefix(e.Table, probeTable) || !entered {
		return nil
	}
	back := false
	switch e.Chain {
	case chainBack, chainAnswered:
		back = true
		fallthrough
	case chainBegins:
		p := &passage{back: back}
		s.passages = append(s.passages, p)
		return p
	}
	if back = pkt.Dst.Addr() == s.a.src.Addr(); e.HasCt {
		back = e.CtReply
	}
	for _, p := range slices.Backward(s.passages) {
		switch {
		case p.back != back:
		case e.HasCt && p.connection != 0:
			if e.CtID == p.connection {
				return p
			}
		case pkt.Src.Port() == s.a.src.Port() || pkt.Dst.Port() == s.a.src.Port():
			return p
		}
	}
	return nil
}

// maxSteps bounds what is kept of one packet's way.
const maxSteps = 4096

// there is the way of the probe that came furthest, nil when none was seen.
func (s *seen) there() *passage { return s.best(false) }

// answer is the way of the target's answer, nil when none was seen.
func (s *seen) answer() *passage { return s.best(true) }

func (s *seen) best(back bool) *passage {
	var best *passage
	far := -1
	for _, p := range s.passages {
		if p.back != back || back && redirect(p.steps[0].packet) {
			continue
		}
		n := 0
		for i, chain := range []string{chainBegins, chainRouted, chainLocal, chainTaken, chainLeft} {
			if p.station(chain) != nil {
				n = i
			}
		}
		if n > far {
			best, far = p, n
		}
	}
	return best
}

// redirect reports whether p only says that there is a shorter way (ICMP
// redirect): that is no answer.
func redirect(p packet.Packet) bool {
	return p.Proto == packet.ICMP && p.Type == 5 || p.Proto == packet.ICMPv6 && p.Type == 137
}

// settled reports whether more waiting would teach nothing.
func (s *seen) settled() bool {
	if a := s.answer(); a != nil {
		return a.drop() != nil || a.station(chainLeft) != nil || a.station(chainTaken) != nil
	}
	t := s.there()
	return t != nil && t.drop() != nil
}

// reached reports whether the probe came as far as a target that may remember
// it.
func (s *seen) reached() bool {
	t := s.there()
	return t.station(chainLeft) != nil || t.station(chainTaken) != nil
}

// isMine reports whether a table is fairlead's: the service's or that of
// a run in the foreground.
func isMine(table, name string) bool {
	return table == name || strings.HasPrefix(table, name+"-") || strings.HasPrefix(table, name+"_")
}
