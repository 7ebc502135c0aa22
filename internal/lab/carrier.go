package lab

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead"
)

// A Subject is what [TestCarrier] examines: a carrier, or a whole program
// around one.
type Subject struct {
	// Start makes a fresh one that carries nothing yet. It is called once for
	// each case.
	Start func(t *testing.T) Running

	Kind fairlead.Kind // of the forwards; "" is forward
	By   string        // their Policy.By

	// What it does not carry is not asked of it.
	NoTCP, NoUDP, NoUnix bool

	// Kernel says that packets are led on and that nothing accepts before the
	// target does: a client's own connect is then refused or silent.
	Kernel bool

	// Untracked says that it does not know its live connections.
	Untracked bool

	// Lacks names cases that do not apply, each with the reason.
	Lacks map[string]string

	Stage Stage
}

// Running is a subject at work.
type Running struct {
	// Apply makes it carry exactly want, and returns a status for each in the
	// same order, as [fairlead.Carrier] does.
	Apply func(t *testing.T, want ...*fairlead.Forward) []fairlead.Status
	// Stop ends it with all its connections; the suite calls it once.
	Stop func(t *testing.T)
	// Tracker is nil for a subject that is Untracked.
	Tracker fairlead.Tracker
	// PID is the process whose memory counts; 0 is this one.
	PID int
}

// A Stage is where clients, subject and targets stand. The zero Stage is this
// process's own loopback.
type Stage struct {
	Client  *Host
	Clients []netip.Addr // three addresses of Client
	Entry   *Host        // where the subject runs
	Entries []netip.Addr // three addresses of Entry that Client reaches
	Target  *Host
	At      netip.Addr // the address of Target that the subject reaches
}

// Carrier is the Subject for carriers that run in this process. To stop it, it
// gets an empty Apply and then, if it has one, a Close; one that is a
// fairlead.Tracker is tracked.
func Carrier(start func(t *testing.T) fairlead.Carrier) Subject {
	return Subject{Start: func(t *testing.T) Running {
		c := start(t)
		run := Running{
			Apply: func(t *testing.T, want ...*fairlead.Forward) []fairlead.Status {
				t.Helper()
				for _, f := range want {
					if err := c.Fits(f); err != nil {
						t.Fatalf("Fits(%s): %v", f.Expr, err)
					}
				}
				return c.Apply(t.Context(), want)
			},
			Stop: func(t *testing.T) {
				t.Helper()
				c.Apply(context.Background(), nil)
				switch c := c.(type) {
				case interface{ Close() }:
					c.Close()
				case io.Closer:
					if err := c.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				}
			},
		}
		run.Tracker, _ = c.(fairlead.Tracker)
		return run
	}}
}

// TestCarrier runs the conformance suite: one subtest for each case, one after
// the other, each with a fresh subject, each followed by a check that nothing
// listens any more and nothing is left behind. It must not run beside other
// tests of its process. Under -short it moves less data.
func TestCarrier(t *testing.T, s Subject) {
	s.Stage.complete()
	known := map[string]bool{}
	for _, c := range carrierCases {
		known[c.name] = true
		switch {
		case c.needs&overTCP != 0 && s.NoTCP, c.needs&overUDP != 0 && s.NoUDP, c.needs&overUnix != 0 && s.NoUnix,
			c.needs&tracked != 0 && s.Untracked, c.needs&accepting != 0 && s.Kernel,
			c.needs&loopback != 0 && s.Stage.Client != nil:
			continue
		}
		if reason, lacks := s.Lacks[c.name]; lacks {
			t.Logf("%s is not asked: %s", c.name, reason)
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			CheckLeaks(t)
			c.run(newScene(t, s))
		})
	}
	for name := range s.Lacks {
		if !known[name] {
			t.Errorf("Lacks names %q, which is no case", name)
		}
	}
}

// A need is what a case asks of its subject.
type need uint

const (
	overTCP need = 1 << iota
	overUDP
	overUnix
	tracked
	accepting // an entry that accepts before it dials
	loopback  // the zero Stage
)

type carrierCase struct {
	name  string
	needs need
	run   func(*scene)
}

var carrierCases = []carrierCase{
	{"echo", overTCP, echoSizes},
	{"server-first", overTCP, serverFirst},
	{"half-close", overTCP, halfClose},
	{"one-byte-segments", overTCP, oneByteSegments},
	{"transfers", overTCP, transfers},
	{"families", overTCP | loopback, families},
	{"refused", overTCP, refused},
	{"target-resets", overTCP, targetResets},
	{"client-resets", overTCP, clientResets},
	{"never-reads", overTCP, neverReads},
	{"slow-reader", overTCP, slowReader},
	{"linger", overTCP | accepting, linger},
	{"idle", overTCP | accepting, idle},
	{"connect-timeout", overTCP | accepting, connectTimeout},
	{"conns", overTCP | tracked, connsList},
	{"kill", overTCP | tracked, kill},
	{"meter", overTCP, meter},
	{"reload", overTCP, reload},
	{"changed-target", overTCP, changedTarget},
	{"removed", overTCP, removed},
	{"taken-port", overTCP | accepting, takenPort},
	{"ranges", overTCP, ranges},
	{"who", overTCP, who},
	{"stop", overTCP | accepting, stopCuts},
	{"udp-echo", overUDP, udpEcho},
	{"udp-clients", overUDP, udpClients},
	{"udp-repeat", overUDP, udpRepeat},
	{"udp-zero-length", overUDP, udpZeroLength},
	{"udp-asked-address", overUDP, udpAskedAddress},
	{"udp-refused", overUDP, udpRefused},
	{"udp-cap", overUDP | accepting, udpCap},
	{"udp-idle", overUDP | tracked, udpIdle},
	{"udp-reload", overUDP, udpReload},
	{"udp-who", overUDP, udpWho},
	{"unix", overUnix, unixSockets},
	{"unix-stale", overUnix | accepting, unixStale},
}

func (g *Stage) complete() {
	if len(g.Clients) == 0 {
		g.Clients = loopbacks()
	}
	if len(g.Entries) == 0 {
		g.Entries = loopbacks()
	}
	if !g.At.IsValid() {
		g.At = loopbacks()[0]
	}
}

func loopbacks() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
}

// A scene is one case in play: a subject at work, and what the case needs to
// act on it. Its methods belong on the test's goroutine, except where they
// return errors.
type scene struct {
	*testing.T
	sub  Subject
	at   Stage
	run  Running
	stop func()

	applied []*fairlead.Forward // all there ever were, for the check at the end
}

func newScene(t *testing.T, sub Subject) *scene {
	t.Helper()
	s := &scene{T: t, sub: sub, at: sub.Stage}
	s.run = sub.Start(t)
	stopped := false
	s.stop = func() {
		t.Helper()
		if !stopped {
			stopped = true
			s.run.Stop(t)
		}
	}
	t.Cleanup(func() {
		t.Helper()
		s.stop()
		s.nothingListens()
	})
	if s.run.Tracker == nil && !sub.Untracked {
		t.Fatal("the subject has no Tracker, and does not say that it is Untracked")
	}
	return s
}

// apply applies forwards all of which must be carried.
func (s *scene) apply(want ...*fairlead.Forward) []fairlead.Status {
	s.Helper()
	got := s.try(want...)
	for i, st := range got {
		switch {
		case st.Problem != nil && !st.Problem.Warning:
			s.Fatalf("Apply: %s: %v", want[i].Name, st.Problem)
		case st.State == fairlead.Broken, st.State == fairlead.Partial:
			s.Fatalf("Apply: %s is %s", want[i].Name, st.State)
		}
	}
	return got
}

// try applies forwards that may fail.
func (s *scene) try(want ...*fairlead.Forward) []fairlead.Status {
	s.Helper()
	s.applied = append(s.applied, want...)
	got := s.run.Apply(s.T, want...)
	if len(got) != len(want) {
		s.Fatalf("Apply returned %d statuses for %d forwards", len(got), len(want))
	}
	for i, st := range got {
		if st.Forward == nil || st.Forward.Name != want[i].Name {
			s.Fatalf("Apply: status %d is not that of %s", i, want[i].Name)
		}
	}
	return got
}

// entry is an address and port at which the subject can listen.
func (s *scene) entry() netip.AddrPort { return s.entries(1) }

// entries is the first of n neighbouring ports like entry.
func (s *scene) entries(n int) netip.AddrPort {
	s.Helper()
	return FreePorts(s, s.at.Entry, s.at.Entries[0], n)
}

// forward is a wish in the subject's kind.
func (s *scene) forward(name string, at fairlead.Spot, to ...fairlead.Target) *fairlead.Forward {
	kind := s.sub.Kind
	if kind == "" {
		kind = fairlead.KindForward
	}
	f := &fairlead.Forward{
		Name:   name,
		Owner:  fairlead.Owner{Kind: fairlead.OwnerFile},
		Kind:   kind,
		At:     at,
		To:     to,
		Policy: fairlead.Policy{By: s.sub.By},
		Source: fairlead.Pos{File: "lab.conf", Line: 1 + len(s.applied), Col: 1},
	}
	dests := make([]string, len(to))
	for i := range to {
		dests[i] = to[i].Dest()
		for _, from := range to[i].From {
			dests[i] += " from " + from.String()
		}
	}
	f.Expr = string(kind) + " " + at.String() + " to " + strings.Join(dests, ", ")
	return f
}

// tcp is a forward of one TCP port.
func (s *scene) tcp(name string, at netip.AddrPort, to string) *fairlead.Forward {
	return s.forward(name, spot(fairlead.TCP, at, 1), target(to))
}

// udp is a forward of one UDP port.
func (s *scene) udp(name string, at netip.AddrPort, to string) *fairlead.Forward {
	return s.forward(name, spot(fairlead.UDP, at, 1), target(to))
}

// with is f under a policy that change has changed.
func with(f *fairlead.Forward, change func(*fairlead.Policy)) *fairlead.Forward {
	change(&f.Policy)
	return f
}

// patient is f with bounds that do not matter even where many transfers share
// a machine that is busy otherwise.
func (s *scene) patient(f *fairlead.Forward) *fairlead.Forward {
	if s.sub.Kernel {
		return f
	}
	return with(f, func(p *fairlead.Policy) { p.Connect, p.Linger = time.Minute, time.Minute })
}

// again is a copy of f as a second reading of the file would make it.
func again(f *fairlead.Forward) *fairlead.Forward {
	g := *f
	g.To = append([]fairlead.Target(nil), f.To...)
	g.Source.Line++
	return &g
}

// spot is n neighbouring ports.
func spot(network fairlead.Network, at netip.AddrPort, n int) fairlead.Spot {
	return fairlead.Spot{Addr: at.Addr(), Ports: ports(at.Port(), n), Net: network}
}

func ports(first uint16, n int) fairlead.PortList {
	return fairlead.PortList{{First: first, Last: first + uint16(n) - 1}}
}

// target is the target at an address and port, or at a path.
func target(address string) fairlead.Target {
	if strings.HasPrefix(address, "/") {
		return fairlead.Target{Unix: address}
	}
	ap := netip.MustParseAddrPort(address)
	return fairlead.Target{Host: ap.Addr().String(), Ports: ports(ap.Port(), 1)}
}

// serve starts a peer where targets stand.
func (s *scene) serve(do Behaviour) *Peer {
	s.Helper()
	return Serve(s, s.targetAt(), do)
}

func (s *scene) serveUDP(answer Answer) *UDPPeer {
	s.Helper()
	return ServeUDP(s, s.targetAt(), answer)
}

func (s *scene) targetAt() At {
	return At{Host: s.at.Target, Address: netip.AddrPortFrom(s.at.At, 0).String()}
}

// refusing is an address among the targets where nothing listens.
func (s *scene) refusing() netip.AddrPort {
	s.Helper()
	return FreePorts(s, s.at.Target, s.at.At, 1)
}

// connect connects as one of the three clients.
func (s *scene) connect(client int, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	c, err := s.at.Client.DialFrom(ctx, network, s.at.Clients[client], address)
	if err == nil {
		c.SetDeadline(time.Now().Add(2 * patience)) // nothing in a case takes so long
	}
	return c, err
}

// dial connects the first client for the rest of the case.
func (s *scene) dial(at netip.AddrPort) *net.TCPConn {
	s.Helper()
	return s.dialAs(0, at)
}

func (s *scene) dialAs(client int, at netip.AddrPort) *net.TCPConn {
	s.Helper()
	c, err := s.connect(client, "tcp", at.String())
	if err != nil {
		s.Fatalf("connect to the subject: %v", err)
	}
	s.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// dialUDP is a connected socket: it takes replies only from the address asked.
func (s *scene) dialUDP(client int, at netip.AddrPort) *net.UDPConn {
	s.Helper()
	c, err := s.connect(client, "udp", at.String())
	if err != nil {
		s.Fatalf("udp socket of a client: %v", err)
	}
	s.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// transfer is a transfer through the subject by the first client.
func (s *scene) transfer(at netip.AddrPort, seed uint64) Transfer {
	return Transfer{From: s.at.Client, Local: s.at.Clients[0], Network: "tcp", Address: at.String(), Seed: seed}
}

// echoes says hello through c, which must lead to an echo.
func echoes(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("the echo is not what was sent")
	}
	return nil
}

func (s *scene) echoes(c net.Conn) {
	s.Helper()
	if err := echoes(c, "hello through "+c.RemoteAddr().String()); err != nil {
		s.Fatalf("echo: %v", err)
	}
}

// says connects as a client and returns what the target says until its end.
func (s *scene) says(client int, network, address string) (string, error) {
	c, err := s.connect(client, network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	return string(text), err
}

// mustSay fails the test unless the target at the end is the one called want.
func (s *scene) mustSay(client int, at netip.AddrPort, want string) {
	s.Helper()
	got, err := s.says(client, "tcp", at.String())
	if err != nil || got != want {
		s.Fatalf("%s leads to %q (%v), want %q", at, got, err, want)
	}
}

// mustTurnAway fails the test unless a client meets a reset or a refusal, and
// nothing of a target.
func (s *scene) mustTurnAway(client int, at netip.AddrPort) {
	s.Helper()
	got, err := s.says(client, "tcp", at.String())
	if got != "" || !isReset(err) {
		s.Fatalf("%s answers client %s with %q and %v, want a reset", at, s.at.Clients[client], got, err)
	}
}

// mustReset reads c until it ends, which must be by a reset, and returns what
// came before it.
func (s *scene) mustReset(c net.Conn) []byte {
	s.Helper()
	got, err := io.ReadAll(c)
	switch {
	case err == nil:
		s.Errorf("a clean end after %d bytes, want a reset", len(got))
	case !isReset(err):
		s.Errorf("%v after %d bytes, want a reset", err, len(got))
	}
	return got
}

// mustEnd reads c until it ends, cleanly or not.
func (s *scene) mustEnd(c net.Conn) {
	s.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, readerOnly{c}); isTimeout(err) {
		s.Errorf("the connection did not end within %v", patience)
	}
}

// mustEOF reads c until its clean end, and returns what came before it.
func (s *scene) mustEOF(c net.Conn) []byte {
	s.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		s.Errorf("%v after %d bytes, want a clean end", err, len(got))
	}
	return got
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED)
}

// mustEndSending ends the client's direction.
func (s *scene) mustEndSending(c HalfCloser) {
	s.Helper()
	if err := c.CloseWrite(); err != nil {
		s.Fatalf("end the sending side: %v", err)
	}
}

// eventually polls for what becomes visible a little later.
func (s *scene) eventually(what string, done func() bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			s.Fatalf("still not so after %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond) // polling, with an end
	}
}

// nothingListens checks that every entry there ever was is free again.
func (s *scene) nothingListens() {
	s.Helper()
	seen := map[string]bool{}
	for _, f := range s.applied {
		at := f.At
		if at.Unix != "" {
			if _, err := os.Lstat(at.Unix); err == nil && !seen[at.Unix] {
				s.Errorf("after Stop the socket %s is still there", at.Unix)
			}
			seen[at.Unix] = true
			continue
		}
		for i := range at.Ports.Len() {
			for _, addr := range s.addresses(&at) {
				at.Net.Each(func(network string) {
					address := netip.AddrPortFrom(addr, at.Ports.At(i)).String()
					if !seen[network+address] && s.occupied(network, address) {
						s.Errorf("after Stop something listens at %s/%s", address, network)
					}
					seen[network+address] = true
				})
			}
		}
	}
}

func (s *scene) addresses(at *fairlead.Spot) []netip.Addr {
	switch {
	case at.Addr.IsValid():
		return []netip.Addr{at.Addr}
	case at.Any:
		return s.at.Entries
	}
	return s.at.Entries[:1]
}

// occupied tries to listen itself, as the next program would.
func (s *scene) occupied(network, address string) bool {
	ctx := context.Background() // the test's own is over during cleanup
	if network == "udp" {
		pc, err := s.at.Entry.ListenPacket(ctx, network, address)
		if err == nil {
			pc.Close()
		}
		return errors.Is(err, syscall.EADDRINUSE)
	}
	ln, err := s.at.Entry.Listen(ctx, network, address)
	if err == nil {
		ln.Close()
	}
	return errors.Is(err, syscall.EADDRINUSE)
}
