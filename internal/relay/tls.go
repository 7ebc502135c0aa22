package relay

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"fairlead"
	"fairlead/internal/certs"
	"fairlead/internal/sys/sock"
)

// handshakeTime bounds a TLS handshake with a client, and one with a target
// where the sentence sets no bound for dials.
const handshakeTime = 10 * time.Second

// certificateTick is how often certificates are looked at.
const certificateTick = time.Second

// secure reads what the rule needs to speak TLS, or takes it over from the
// rule before. Without it the rule does not listen: what was meant to be
// secured is never carried plain.
func (ru *rule) secure(was *rule, state string) {
	w := &ru.f.Policy.TLS
	if w.Terminates() {
		if was != nil && was.server != nil && certs.SameServer(w, &was.f.Policy.TLS) {
			ru.server = was.server
		} else if s, err := certs.NewServer(w, state); err == nil {
			ru.server = s
		} else {
			ru.unsecured = fairlead.AsProblem(err)
		}
	}
	if w.Originates() {
		if was != nil && was.client != nil && certs.SameClient(w, &was.f.Policy.TLS) {
			ru.client = was.client
		} else if c, err := certs.NewClient(w); err == nil {
			ru.client = c
		} else {
			ru.unsecured = fairlead.AsProblem(err)
		}
	}
	ru.lookAtCertificates(time.Now())
}

// CheckTLS reads the files that f needs to speak TLS, and returns the
// *fairlead.Problem that would keep it from being carried. State is as in
// Config.
func CheckTLS(f *fairlead.Forward, state string) error {
	ru := &rule{f: f}
	if ru.secure(nil, state); ru.unsecured != nil {
		return ru.unsecured
	}
	return nil
}

func (ru *rule) lookAtCertificates(now time.Time) {
	if ru.server != nil {
		ru.server.Look(now)
	}
	if ru.client != nil {
		ru.client.Look(now)
	}
}

// certificateProblem is what should be known of the rule's certificates, a
// warning but where there is none at all, or nil.
func (ru *rule) certificateProblem(now time.Time) *fairlead.Problem {
	if ru.server != nil {
		if p := ru.server.Problem(now); p != nil {
			return p
		}
	}
	if ru.client != nil {
		return ru.client.Problem(now)
	}
	return nil
}

// withoutCertificates adds to s what the rule's certificates make of it: who
// has none to show lets nobody in.
func (ru *rule) withoutCertificates(s *fairlead.Status) {
	p := ru.certificateProblem(time.Now())
	if s.Problem == nil {
		s.Problem = p
	}
	if ru.server == nil || s.State == fairlead.Disabled {
		return
	}
	switch all, some := ru.server.Lacks(); {
	case all:
		s.State, s.Problem = fairlead.Broken, p
	case some && s.State != fairlead.Broken:
		s.State = fairlead.Partial
	}
}

// keepCertificates takes up certificates whose files change, gets those that
// an authority gives, and tells of trouble with them.
func (r *Relay) keepCertificates() {
	t := time.NewTicker(certificateTick)
	defer t.Stop()
	told := map[*rule]string{}
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-t.C:
			tell := map[*rule]string{}
			for _, ru := range r.current() {
				if ru.server == nil && ru.client == nil {
					continue
				}
				ru.lookAtCertificates(now)
				if ru.server != nil && ru.server.Wants(now) {
					r.wg.Go(func() { ru.server.Obtain(r.ctx) })
				}
				p := ru.certificateProblem(now)
				if p == nil {
					continue
				}
				tell[ru] = p.What
				if told[ru] != p.What {
					r.tellOf(fairlead.Event{Kind: fairlead.EventTrouble, Forward: ru.f.Name, Text: p.What, Problem: p}, nil)
				}
			}
			told = tell
		}
	}
}

// seal speaks TLS with a client, before anything is known of what it wants. It
// notes in o what the client asked for. The connection returned is the one to
// carry on with. With a reason the client is to be turned away; what it was
// told in TLS is on its way.
func (r *Relay) seal(ru *rule, c net.Conn, o *origin) (net.Conn, fairlead.Reason, *fairlead.Problem) {
	source := sourceKey(o.client.Addr())
	if !r.handshakes.enter(source) {
		return c, fairlead.Limited, nil
	}
	defer r.handshakes.leave(source)
	ctx, cancel := context.WithTimeout(r.ctx, handshakeTime)
	defer cancel()
	s := newSealed(c)
	s.Conn = tls.Server(s.wire, ru.server.Config())
	if err := s.HandshakeContext(ctx); err != nil {
		if r.ctx.Err() != nil {
			return c, fairlead.Shutdown, nil
		}
		parting(c)
		return c, fairlead.NoTLS, certs.ClientTrouble(err, s.ConnectionState().ServerName)
	}
	state := s.ConnectionState()
	if certs.IsChallenge(&state) {
		parting(c)
		return c, fairlead.ClientClosed, nil
	}
	s.wire.open = true
	o.asked.name = state.ServerName
	if state.NegotiatedProtocol != "" {
		o.asked.alpn = []string{state.NegotiatedProtocol}
		o.spoken = o.asked.alpn
	}
	return s, "", nil
}

// parting closes c so that an alert which was sent arrives: a reset would
// overtake it.
func parting(c net.Conn) {
	closeWrite(c)
	c.Close()
}

// greetTarget begins the conversation with a freshly dialed target: it tells
// in plain text who the client is, speaks TLS with the target where the rule
// says so, and passes on what the client has said already. It owns c; what it
// returns is the connection to carry on with.
func (r *Relay) greetTarget(ctx context.Context, ru *rule, t *target, c net.Conn, o *origin) (net.Conn, error) {
	first := o.head
	if ru.client != nil {
		first = nil
	}
	if err := ru.introduce(c, o, first); err != nil {
		sock.Abort(c)
		return nil, err
	}
	if ru.client == nil {
		return c, nil
	}
	s, err := r.sealTarget(ctx, ru, t, c, o.spoken)
	if err != nil {
		return nil, err
	}
	if len(o.head) > 0 {
		if _, err := s.Write(o.head); err != nil {
			sock.Abort(s)
			return nil, certs.TargetTrouble(err, t.t.Dest(), ru.client.Name(t.serverName()), false)
		}
	}
	return s, nil
}

// sealTarget speaks TLS with a target, to which it offers protocols. It owns c,
// and aborts it when that fails.
func (r *Relay) sealTarget(ctx context.Context, ru *rule, t *target, c net.Conn, protocols []string) (*sealed, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	keepalive(c, ru.f.Policy.Keepalive)
	host := t.serverName()
	s := newSealed(c)
	s.Conn = tls.Client(s.wire, ru.client.Config(host, protocols, &s.wanting))
	if err := s.HandshakeContext(ctx); err != nil {
		sock.Abort(c)
		return nil, certs.TargetTrouble(err, t.t.Dest(), ru.client.Name(host), s.wanting)
	}
	s.wire.open = true
	return s, nil
}

// serverName is who the target has to prove to be, unless the sentence names
// somebody else.
func (t *target) serverName() string {
	if t.t.Host == "self" || t.t.Unix != "" {
		return "localhost"
	}
	return t.host()
}

// remark listens to whether a target goes on without the certificate that it
// asked for. In TLS 1.3 it says so only after the handshake.
func (s *sealed) remark(ru *rule, t *target) error {
	if !s.wanting {
		return nil
	}
	s.SetReadDeadline(time.Now().Add(remarkTime))
	defer s.SetReadDeadline(time.Time{})
	_, err := s.Read(make([]byte, 1))
	if p := certs.Refusal(err, t.t.Dest(), ru.client.Name(t.serverName())); p != nil {
		return p
	}
	return nil
}

// remarkTime is how long a check waits for that.
const remarkTime = time.Second

// complain notes that a target ended the connection because it does not accept
// who we are, which in TLS 1.3 it says only after the handshake.
func (c *conn) complain(err error) {
	if c.rule.client == nil {
		return
	}
	if p := certs.Refusal(err, c.to.t.Dest(), c.rule.client.Name(c.to.serverName())); p != nil {
		c.r.saw(c.to, p)
	}
}

// A sealed is a socket with TLS on it. Read and Write pass plain bytes; what
// else the relay does to a connection, it does to the socket.
type sealed struct {
	*tls.Conn
	wire    *wire
	wanting bool // the target asked for a certificate, and we have none
}

func newSealed(c net.Conn) *sealed { return &sealed{wire: &wire{Conn: c, raw: rawConn(c)}} }

// Close closes the socket and says nothing: a clean end was said by CloseWrite.
func (s *sealed) Close() error { return s.wire.Conn.Close() }

// CloseWrite ends the stream with a close_notify, as RFC 8446 section 6.1 has
// it, and leaves the other direction open. Versions before 1.3 know no half of
// a connection, and most programs treat them as if they did.
func (s *sealed) CloseWrite() error {
	if err := s.Conn.CloseWrite(); err != nil {
		return err
	}
	return closeWrite(s.wire.Conn)
}

// SetLinger lets the connection end with a reset.
func (s *sealed) SetLinger(sec int) error {
	if c, ok := s.wire.Conn.(interface{ SetLinger(sec int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}

// SyscallConn is the socket's.
func (s *sealed) SyscallConn() (syscall.RawConn, error) {
	if s.wire.raw == nil {
		return nil, syscall.ENOTSUP
	}
	return s.wire.raw, nil
}

func isSealed(c net.Conn) bool {
	_, ok := c.(*sealed)
	return ok
}

// A wire is a socket as package crypto/tls sees it. It makes three things
// different. The package takes the end of a TCP stream for the end of the
// TLS stream when it falls between two records (crypto/tls/conn.go,
// readRecordOrCCS), so that whoever can send a FIN could cut a message short;
// here it is an error. It gives a close_notify five seconds to be taken by the
// socket, and a slow reader needs longer; here it waits. And it waits for
// bytes with a buffer in hand; here it need not.
type wire struct {
	net.Conn
	raw  syscall.RawConn // nil: it has no descriptor
	open bool            // the handshake is over
	wait bool            // Read answers errAgain where it would wait; the pump's

	// Of a read, used by its goroutine alone.
	b    []byte
	n    int
	err  error
	once func(fd uintptr) bool
}

func (w *wire) Read(b []byte) (n int, err error) {
	if w.wait {
		n, err = w.tryRead(b)
	} else {
		n, err = w.Conn.Read(b)
	}
	if err == io.EOF && w.open {
		err = errTruncated
	}
	return n, err
}

// SetWriteDeadline does nothing; see wire. Whoever ends the connection ends
// the wait.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// errTruncated is the end of a TCP stream without that of the TLS stream in it.
var errTruncated = &truncated{}

type truncated struct{}

func (*truncated) Error() string { return "the connection ended in the middle of the TLS stream" }

// errAgain is a read that would have to wait. Package crypto/tls goes on after
// an error that is temporary.
var errAgain net.Error = &again{}

type again struct{}

func (*again) Error() string   { return "nothing to read at the moment" }
func (*again) Timeout() bool   { return true }
func (*again) Temporary() bool { return true }

// handshakes counts those under way, so that strangers who begin one and never
// end it cost no more than a bounded amount of memory, and one source leaves
// room for others.
type handshakes struct {
	most int // of all; an eighth of it from one source

	mu      sync.Mutex // guards the rest
	all     int
	sources map[netip.Addr]int
}

// A handshake of somebody who means no good can hold 64 KiB, package
// crypto/tls's bound of a message.
const mostHandshakes = 2048

func newHandshakes(descriptors int64) handshakes {
	return handshakes{most: int(min(max(descriptors/4, 16), mostHandshakes)), sources: map[netip.Addr]int{}}
}

func (h *handshakes) enter(source netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= h.most || h.sources[source] >= max(h.most/8, 8) && source.IsValid() {
		return false
	}
	h.all++
	h.sources[source]++
	return true
}

func (h *handshakes) leave(source netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all--
	if h.sources[source]--; h.sources[source] == 0 {
		delete(h.sources, source)
	}
}

// fitsTLS refuses sentences that leave open what TLS needs to know.
func fitsTLS(f *fairlead.Forward) error {
	w := &f.Policy.TLS
	for i := range f.To {
		t := &f.To[i]
		switch {
		case w.Target == fairlead.TargetVerify && t.Unix != "" && w.TargetName == "":
			return fairlead.Problemf(fairlead.CodeIncomplete, "the target %s has no name that its certificate could prove", t.Dest()).
				Fix("say which it has", "target-name NAME")
		case w.Terminates() && len(t.ALPN) > 0 && len(w.ALPN) == 0:
			return fairlead.Problemf(fairlead.CodeIncomplete, "no protocol is offered to clients, and the target %s is for some of them", t.Dest()).
				Fix("offer them", "tls-alpn "+t.ALPN[0])
		}
	}
	return nil
}
