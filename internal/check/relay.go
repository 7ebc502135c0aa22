package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"fairlead"
	"fairlead/internal/place"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/wire/packet"
)

// judgeRelay says what the trace of a packet means that a process of this host
// is to take, and goes on from there to the target.
func (w *walk) judgeRelay(ctx context.Context) *Report {
	there := w.seen.there()
	if there == nil && w.link != "" {
		return w.neverSeen()
	}
	entry := there.station(chainLocal)
	if drop := there.drop(); drop != nil {
		if isMine(drop.Table, w.q.Table) {
			w.r.add(stepOwn, Bad, "drop", place1(drop))
			w.wouldBe(stepListener, stepAdmission, stepTarget)
			return w.ownDrop(drop)
		}
		w.r.add(stepOther, Bad, "drop", place1(drop))
		w.wouldBe(stepListener, stepAdmission, stepTarget)
		return w.r.broken(w.foreignDrop(drop, there, true, false))
	}
	switch {
	case w.link == "":
	case entry == nil && there.station(chainRouted) != nil:
		w.r.add(stepOther, Bad, "led away", "to "+there.station(chainRouted).packet.Dst.String())
		w.wouldBe(stepListener, stepAdmission, stepTarget)
		return w.r.broken(w.ledAway(there))
	case entry == nil:
		return w.lostBeforeListener()
	case entry.packet.Dst != w.at:
		w.r.add(stepOther, Bad, "led away", "to "+entry.packet.Dst.String())
		w.wouldBe(stepListener, stepAdmission, stepTarget)
		return w.r.broken(w.ledAway(there))
	case there.station(chainTaken) == nil:
		return w.vanished("in the input hook")
	}
	w.r.add(stepOther, OK, "accept", "")
	return w.listener(ctx)
}

// ledAway: another program's address translation takes the packet first.
func (w *walk) ledAway(p *passage) *fairlead.Problem {
	problem := fairlead.Problemf(fairlead.CodeInUse, "packets for %s are led elsewhere before they reach a listener", w.at)
	if s := p.rewritten(chainRouted); s != nil {
		problem.Note("by", "%s", place1(s))
	}
	return problem.Note("why", "a rule of address translation holds the port: a container's published port, or a forward of the kernel").
		Fix("listen at another port", w.q.rewrite(otherSpot(w.q.Forward)))
}

// otherSpot is f at the next port.
func otherSpot(f *fairlead.Forward) *fairlead.Forward {
	g := *f
	p := f.At.Ports[0]
	if len(f.To) > 0 && len(f.To[0].Ports) == 0 { // its port was the one listened at
		g.To = append([]fairlead.Target(nil), f.To...)
		for i := range g.To {
			if len(g.To[i].Ports) == 0 {
				g.To[i].Ports = f.At.Ports
			}
		}
	}
	n := p.First + 8000
	if n < p.First || n < 1024 {
		n = 8000
	}
	g.At.Ports = fairlead.PortList{{First: n, Last: n}}
	return &g
}

// lostBeforeListener: it came in, and reached neither a rule nor the host.
func (w *walk) lostBeforeListener() *Report {
	_, err := netmon.RouteOf(w.from, w.at.Addr(), w.link)
	if errors.Is(err, netmon.ErrSource) {
		return w.lostInRouting(w.at)
	}
	return w.vanished("behind prerouting")
}

// listener tells whether a program took the connection at the port, and is the
// right one.
func (w *walk) listener(ctx context.Context) *Report {
	var holders []Holder
	if w.c.Holders != nil {
		holders = w.c.Holders(w.r.Network, w.at)
	}
	by := ""
	if len(holders) > 0 {
		by = holders[0].Text
	}
	refused := false
	switch a := w.seen.answer(); {
	case w.link == "":
		refused = place.ReasonOf(w.seen.err) == fairlead.Refused
	case a != nil:
		refused = refusal(a.steps[0].packet)
	}
	// What the service says is wrong comes first: it has seen who has the port.
	if p := w.q.Problem; p != nil && !p.Warning && strings.HasPrefix(string(p.Code), "FL-1") && p.Code != fairlead.CodeOutsideSchedule {
		w.r.add(stepListener, Bad, w.at.String(), p.What)
		w.wouldBe(stepAdmission, stepTarget)
		return w.r.broken(w.q.told(p))
	}
	switch {
	case refused || len(holders) == 0 && w.seen.answer() == nil && !w.seen.connected:
		w.r.add(stepListener, Bad, w.at.String(), "nobody listens there")
		w.wouldBe(stepAdmission, stepTarget)
		return w.r.broken(w.notCarried())
	case !w.q.Running:
		// Somebody listens; is it us?
		w.r.add(stepListener, Bad, w.at.String(), "another program listens there: "+by)
		w.wouldBe(stepAdmission, stepTarget)
		p := fairlead.Problemf(fairlead.CodeInUse, "%s/%s is already in use", w.at, w.r.Network).Note("by", "%s", by)
		if len(holders) > 0 && holders[0].Unit != "" {
			return w.r.broken(p.Fix("stop the other program", "systemctl stop "+holders[0].Unit))
		}
		return w.r.broken(p.Fix("another port", w.q.rewrite(otherSpot(w.q.Forward))))
	case w.link != "" && w.r.Network == "tcp" && w.seen.answer() == nil:
		w.r.add(stepListener, Bad, w.at.String(), "it does not answer")
		w.wouldBe(stepAdmission, stepTarget)
		return w.r.broken(fairlead.Problemf(fairlead.CodeListenFailed, "the listener at %s does not answer", w.at).
			Note("why", "the packet was taken by this host, and no answer left: the queue of new connections may be full (/proc/net/netstat, ListenOverflows)"))
	}
	evidence := "a listener answers"
	if w.r.Network == "udp" {
		evidence = "it is listened at"
	}
	if by != "" {
		evidence += ": " + by
	}
	w.r.add(stepListener, OK, w.at.String(), evidence)
	if a := w.seen.answer(); w.link != "" && a != nil {
		if drop := a.drop(); drop != nil {
			w.r.add(stepBack, Bad, "drop", place1(drop))
			w.wouldBe(stepAdmission, stepTarget)
			if isMine(drop.Table, w.q.Table) {
				return w.ownDrop(drop)
			}
			return w.r.broken(w.foreignDrop(drop, a, true, true))
		}
	}
	return w.admission(ctx)
}

// admission evaluates the sentence's own conditions for the client.
func (w *walk) admission(ctx context.Context) *Report {
	f := w.q.Forward
	p := fairlead.Problemf(fairlead.CodeTurnedAway, "%s may not use this forward", w.from)
	w.conditions(p, f)
	if len(p.Fixes) > 0 {
		w.r.add(stepAdmission, Bad, "turned away", p.Notes[len(p.Notes)-1].Text)
		w.wouldBe(stepTarget)
		return w.r.broken(p)
	}
	var words []string
	if n := f.Policy.MaxConns; n > 0 {
		words = append(words, fmt.Sprintf("%d of %d connections", w.q.Active, n))
	}
	if len(f.Policy.AcceptProxy) > 0 {
		words = append(words, "who comes is what its PROXY protocol header says")
	}
	w.r.add(stepAdmission, OK, "let in", strings.Join(words, ", "))
	return w.dialTargets(ctx)
}

// dialTargets dials what is meant for the client, as the relay would.
func (w *walk) dialTargets(ctx context.Context) *Report {
	f, r := w.q.Forward, w.r
	if len(f.To) == 0 {
		r.add(stepTarget, Unknown, "the client names it", "")
		r.Outcome = Works
		return r
	}
	pl, err := w.c.Place(f.Via)
	if err != nil {
		r.add(stepTarget, Bad, "via "+f.Via, err.Error())
		return r.broken(fairlead.AsProblem(err))
	}
	targets := meantFor(f, w.from)
	var first *fairlead.Problem
	up := 0
	for _, t := range targets {
		if t.Drain {
			r.add(stepTarget, Skipped, t.Dest(), "drained")
			continue
		}
		if t.Service() {
			r.add(stepTarget, Unknown, t.Dest(), "a service record, whose hosts are not tried here")
			continue
		}
		network, to := r.Network, w.dialed(t)
		if t.Unix != "" {
			network = "unix"
		}
		r.Target = to
		began := time.Now()
		dial, cancel := context.WithTimeout(ctx, w.c.patience())
		c, err := pl.DialContext(dial, network, to)
		cancel()
		if err != nil {
			p := w.dialProblem(ctx, t, to, err)
			r.add(stepTarget, Bad, to, p.What)
			if first == nil {
				first = p
			}
			continue
		}
		if network == "udp" && (w.seen.connected || w.seen.answer() != nil) {
			r.add(stepTarget, OK, to, "an answer came to the probe")
			up++
			c.Close()
			continue
		}
		if network == "udp" {
			r.add(stepTarget, Unknown, to, "whether anybody is there, UDP does not say")
			c.Close()
			continue
		}
		up++
		r.add(stepTarget, OK, to, fmt.Sprintf("it answers, in %.1f ms", float64(time.Since(began).Microseconds())/1000))
		if tc, ok := c.(*net.TCPConn); ok {
			tc.SetLinger(0)
			w.asked = append(w.asked, flow{packet.TCP, tc.LocalAddr().(*net.TCPAddr).AddrPort(), tc.RemoteAddr().(*net.TCPAddr).AddrPort()})
		}
		c.Close()
	}
	switch {
	case up > 0 && first == nil:
		r.Outcome = Works
	case up > 0: // some of several: a client gets through
		r.Outcome = Works
		r.Notes = append(r.Notes, first.What)
	case first != nil:
		return r.broken(first)
	case r.Network == "udp":
		return r.untested(fairlead.Problemf(fairlead.CodeUntested, "the forward takes datagrams and has a way to %s; whether that answers, UDP does not say", r.Target).
			Note("why", "a service answers only what it understands"))
	case allDrained(targets):
		return r.broken(fairlead.Problemf(fairlead.CodeAllDrained, "every target is drained").
			Fix("take one back", "fairlead drain --undo "+w.q.Forward.Name+" "+targets[0].Dest()))
	default:
		return r.untested(fairlead.Problemf(fairlead.CodeUntested, "its targets could not be tried"))
	}
	return r
}

func allDrained(targets []*fairlead.Target) bool {
	for _, t := range targets {
		if !t.Drain {
			return false
		}
	}
	return len(targets) > 0
}

// dialed is the address that is dialed for a target.
func (w *walk) dialed(t *fairlead.Target) string {
	if t.Unix != "" {
		return t.Unix
	}
	host := t.Host
	if host == "self" {
		host = "127.0.0.1"
		if w.at.Addr().Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(t.Port(w.q.Forward.At.Ports, w.i)))
}

// dialProblem is what a failed dial means, with what can be seen of the target.
func (w *walk) dialProblem(ctx context.Context, t *fairlead.Target, to string, err error) *fairlead.Problem {
	at, perr := netip.ParseAddrPort(to)
	if perr != nil || w.r.Network != "tcp" || w.q.Forward.Via != "" {
		return fairlead.AsProblem(err)
	}
	switch place.ReasonOf(err) {
	case fairlead.Refused:
		return w.refused(ctx, at, w.host != nil && w.host.mine(at.Addr()))
	case fairlead.DialTimeout, fairlead.Unreachable:
		if i := w.host.near(at.Addr()); i != nil {
			if gone(ctx, i, at.Addr()) {
				return w.targetDown(at, i)
			}
			return w.targetFirewall(at, "")
		}
	}
	return fairlead.AsProblem(err)
}

// relayBlind is the walk of somebody who may not follow packets: a connection
// as any program on this host makes it.
func (w *walk) relayBlind(ctx context.Context, err error) *Report {
	evidence := "not seen"
	if errors.Is(err, os.ErrPermission) {
		evidence = "not seen: that takes root"
	}
	w.r.add(stepOther, Unknown, "", evidence)
	if w.link != "" {
		w.r.Notes = append(w.r.Notes, "firewalls on this host were not looked at: "+err.Error())
	}
	w.seen = &seen{}
	if w.r.Network == "tcp" {
		dial, cancel := context.WithTimeout(ctx, w.c.patience())
		defer cancel()
		w.link, w.seen.err = "", w.connect(dial, w.at)
		w.seen.connected = w.seen.err == nil
	}
	return w.listener(ctx)
}

// explainUnix is the walk of a forward that listens at a unix socket.
func explainUnix(ctx context.Context, c *Config, q *Question, r *Report) *Report {
	f := q.Forward
	w := &walk{c: c, q: q, r: r, host: &host{}}
	r.add(stepClient, OK, "a program on this host", "")
	conn, err := (&net.Dialer{Timeout: c.patience()}).DialContext(ctx, "unix", f.At.Unix)
	if err != nil {
		r.add(stepListener, Bad, f.At.String(), err.Error())
		w.wouldBe(stepTarget)
		if errors.Is(err, os.ErrPermission) {
			return r.broken(fairlead.Problemf(fairlead.CodeTurnedAway, "this user may not connect to %s", f.At.Unix).
				Fix("let its group in", q.words("mode 0660")))
		}
		return r.broken(w.notCarried())
	}
	conn.Close()
	r.add(stepListener, OK, f.At.String(), "a listener answers")
	return w.dialTargets(ctx)
}
