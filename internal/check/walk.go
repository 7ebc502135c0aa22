package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/sys/inject"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/wire/packet"
)

// A walk is one attempt on its way through this host.
type walk struct {
	c    *Config
	q    *Question
	r    *Report
	host *host

	from netip.Addr     // the client
	link string         // by which its packets come in; "": from this host
	at   netip.AddrPort // what it asks for
	i    int            // which of the spot's ports that is

	seen  *seen
	asked []flow // to be forgotten
}

// The steps.
const (
	stepClient    = "client"
	stepArrives   = "arrives"
	stepRewritten = "rewritten"
	stepOwn       = "own rules"
	stepOther     = "other rules"
	stepRoute     = "route"
	stepListener  = "listener"
	stepAdmission = "admission"
	stepTarget    = "target"
	stepBack      = "way back"
)

func (w *walk) explain(ctx context.Context) *Report {
	f, r := w.q.Forward, w.r
	if w.q.carriedByKernel() {
		r.Target = targetText(f, 0)
	}
	if p := w.enter(); p != nil {
		if p.Code == fairlead.CodeUntested {
			return r.untested(p)
		}
		return r.broken(p)
	}
	if p := w.arrives(); p != nil {
		return r.broken(p)
	}
	a := &attempt{proto: packet.TCP, dst: w.at, link: w.link}
	if r.Network == "udp" {
		a.proto, a.payload = packet.UDP, datagram(w.targetPort())
	}
	a.src = netip.AddrPortFrom(w.from, somePort())
	defer func() { forget(w.asked...) }()
	seen, err := follow(ctx, a, w.c.patience())
	if errors.Is(err, inject.ErrNoCarrier) {
		last := &r.Steps[len(r.Steps)-1]
		last.Mark, last.Evidence = Bad, w.link+" has no carrier"
		return r.broken(fairlead.Problemf(fairlead.CodeNoInterface, "nothing comes in by %s: it has no carrier", w.link).
			Note("why", "its cable is out, or its other end is down").
			Fix("see its state", "ip link show dev "+w.link))
	}
	if err != nil {
		if w.q.carriedByKernel() {
			return w.blind(err)
		}
		return w.relayBlind(ctx, err)
	}
	w.seen = seen
	if w.q.carriedByKernel() {
		return w.judgeKernel(ctx)
	}
	return w.judgeRelay(ctx)
}

// enter settles who asks for what.
func (w *walk) enter() *fairlead.Problem {
	f := w.q.Forward
	for port := w.q.Port; port != 0; {
		if w.i = indexOf(f.At.Ports, port); w.i < 0 {
			return fairlead.Problemf(fairlead.CodeNoSuchForward, "the forward does not listen at port %d, only at %s", port, f.At.Ports)
		}
		break
	}
	if len(f.At.Ports) == 0 {
		return fairlead.Problemf(fairlead.CodeUntested, "a forward of kind %s has no port that a client could ask for", f.Kind)
	}
	e, p := w.host.spot(f, family(f, w.q.From), w.q.From)
	if p != nil {
		w.r.add(stepClient, Skipped, clientText(w.q.From), "")
		w.r.add(stepArrives, Bad, f.At.String(), p.What)
		return p
	}
	if f.Kind == fairlead.KindOpen && len(f.To) > 0 {
		// A pinhole: the client asks the host behind it.
		if a, err := netip.ParseAddr(f.To[0].Host); err == nil {
			e.at = a
		}
	}
	w.from, w.link = w.q.From, e.link
	if w.from.IsValid() {
		w.link = w.host.comesBy(w.from, e)
	} else if w.from = w.host.stranger(f, e); !w.from.IsValid() {
		return fairlead.Problemf(fairlead.CodeUntested, "%v", errNoClient).Fix("say which client is meant", "fairlead explain "+w.asks("ADDRESS"))
	}
	w.at = netip.AddrPortFrom(e.at, f.At.Ports.At(w.i))
	w.r.At, w.r.From = w.at, netip.AddrPortFrom(w.from, 0)
	return nil
}

func indexOf(list fairlead.PortList, port uint16) int {
	for i := range list.Len() {
		if list.At(i) == port {
			return i
		}
	}
	return -1
}

func clientText(from netip.Addr) string {
	if !from.IsValid() {
		return "a client"
	}
	return from.String()
}

// again are the words behind "explain" that ask the same question.
func (w *walk) again() string {
	if !w.q.From.IsValid() {
		return w.asks("")
	}
	return w.asks(w.q.From.String())
}

// asks are the words behind "explain" that ask about the client; about a
// stranger, where it is "". A forward that is written nowhere is asked about by
// its sentence, in which "from" is a word of its own.
func (w *walk) asks(client string) string {
	f := w.q.Forward
	if w.q.Edit != "" {
		if client == "" {
			return f.Name
		}
		return f.Name + " from " + client
	}
	if client == "" {
		return config.Sentence(f)
	}
	return config.Sentence(f) + " --client " + client
}

// arrives tells whether the client's packets come here at all.
func (w *walk) arrives() *fairlead.Problem {
	f, r := w.q.Forward, w.r
	if w.link == "" {
		r.add(stepClient, OK, w.from.String(), "this host itself")
		r.add(stepArrives, OK, w.at.String(), "without leaving this host")
		return nil
	}
	r.add(stepClient, OK, w.from.String(), "a probe in its name, inside this kernel")
	what := w.link + " " + w.at.String()
	if i := w.host.named(w.link); i != nil && !i.Up {
		r.add(stepArrives, Bad, what, w.link+" is down")
		return fairlead.Problemf(fairlead.CodeNoInterface, "%s is down, so that nothing comes in by it", w.link).
			Fix("bring it up", "ip link set "+w.link+" up")
	}
	owner := w.host.owner(w.at.Addr())
	near := w.host.near(w.at.Addr())
	switch {
	case f.Kind == fairlead.KindOpen && len(f.To) > 0:
		r.add(stepArrives, OK, what, "for a host behind this one")
	case owner == nil && w.at.Addr().IsLoopback():
		r.add(stepArrives, Bad, what, "loopback")
		return fairlead.Problemf(fairlead.CodeTurnedAway, "only programs on this host reach %s", w.at)
	case owner == nil && f.Policy.Claim:
		r.add(stepArrives, OK, what, "claimed by this host")
	case owner == nil && near != nil && w.q.Flows == 0:
		return w.lostAddress(what, near)
	case owner == nil:
		r.add(stepArrives, OK, what, "not this host's address: clients have to be led here by a route")
	default:
		evidence := "an address of " + owner.Name
		if private(w.at.Addr()) && contains(w.host.wan, owner.Name) && contains(w.host.wan, w.link) {
			evidence += ", a private one"
			r.Notes = append(r.Notes, fmt.Sprintf("%s is a private address: a router in front of this host translates, and has to forward %d/%s, too", w.at.Addr(), w.at.Port(), r.Network))
		}
		r.add(stepArrives, OK, what, evidence)
	}
	return nil
}

// lostAddress tells of an address that nobody finds here.
func (w *walk) lostAddress(what string, near *netmon.Interface) *fairlead.Problem {
	f := w.q.Forward
	var have string
	for _, a := range near.Addrs {
		if a.Is4() == w.at.Addr().Is4() && !a.IsLinkLocalUnicast() {
			have = a.String()
			break
		}
	}
	w.r.add(stepArrives, Bad, what, "no address of this host; "+near.Name+" has "+have)
	p := fairlead.Problemf(fairlead.CodeAddressGone, "%s is not an address of this machine: %s has %s", w.at.Addr(), near.Name, have)
	p.Note("why", "clients ask on that link who has %s, and this host does not answer", w.at.Addr())
	g := *f
	g.At.Addr, g.At.Where = netip.Addr{}, near.Name
	switch {
	case contains(w.host.wan, near.Name) && len(w.host.wan) == 1:
		g.At.Where = "wan"
	case contains(w.host.lan, near.Name) && len(w.host.lan) == 1:
		g.At.Where = "lan"
	}
	return p.Fix("name the interface: the forward follows its addresses", w.q.rewrite(&g))
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// private reports whether a is one that the Internet does not lead to.
func private(a netip.Addr) bool {
	return a.IsPrivate() || netip.MustParsePrefix("100.64.0.0/10").Contains(a)
}

// blind is the end of a walk that could not follow a packet.
func (w *walk) blind(err error) *Report {
	var p *fairlead.Problem
	switch {
	case errors.Is(err, os.ErrPermission):
		p = fairlead.Problemf(fairlead.CodeUntested, "a packet cannot be followed by this user").
			Note("why", "%v", err).Fix("ask as root", "sudo fairlead explain "+w.again())
	case errors.Is(err, errors.ErrUnsupported):
		p = fairlead.Problemf(fairlead.CodeUntested, "a packet cannot be followed on this system").Note("why", "%v", err)
	default:
		p = fairlead.Problemf(fairlead.CodeUntested, "a packet could not be followed").Note("why", "%v", err)
	}
	p.Err = err
	for _, step := range []string{stepRewritten, stepOther, stepRoute, stepTarget, stepBack} {
		w.r.add(step, Unknown, "", "")
	}
	return w.r.untested(p)
}

// targetPort is the port of the first target.
func (w *walk) targetPort() uint16 {
	if f := w.q.Forward; len(f.To) > 0 && f.To[0].Unix == "" {
		return f.To[0].Port(f.At.Ports, w.i)
	}
	return w.at.Port()
}

// datagram is what a UDP service of the port would answer, where such a thing
// is known and does no harm; else nothing, which is the least that can be sent.
func datagram(port uint16) []byte {
	switch port {
	case 53: // a question for the root's name servers (RFC 1035)
		return []byte{0x66, 0x6c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	case 123: // a client's request (RFC 5905)
		return append([]byte{0x23}, make([]byte, 47)...)
	}
	return nil
}

// targetText is the i-th port's target in words.
func targetText(f *fairlead.Forward, i int) string {
	if len(f.To) == 0 {
		return ""
	}
	t := f.To[0]
	if t.Unix == "" && len(f.At.Ports) > 0 {
		t.Ports = fairlead.PortList{{First: t.Port(f.At.Ports, i), Last: t.Port(f.At.Ports, i)}}
	}
	return t.Dest()
}
