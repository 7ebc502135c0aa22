package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"
)

// An At is where a peer stands. The zero At is TCP at 127.0.0.1, at a port
// that the system chooses.
type At struct {
	Host    *Host
	Network string // "" is tcp; unix
	Address string // "" is 127.0.0.1:0; a path for unix
}

// A Peer serves one behaviour at one address until it is stopped or its test
// ends; either takes its connections along.
type Peer struct {
	Network string
	Address string         // as it is dialed
	Port    netip.AddrPort // the same; zero for unix

	visits  chan Visit
	closing chan struct{}
	stop    func()
}

// A Visit is one connection to a peer, as the peer saw it. One over which no
// byte came is not reported: it may have been a test whether the peer is there.
type Visit struct {
	Conn    net.Conn
	Closing <-chan struct{} // is closed when the peer stops

	Bytes int64             // received
	Sum   [sha256.Size]byte // of what was received, by those who reckon it
	Err   error             // how receiving ended; nil: the client's clean end
	Sent  error             // what went wrong in sending
}

// A Behaviour is what a peer does with a connection. It returns when it is
// done; the connection is closed after it.
type Behaviour func(v *Visit)

// Serve starts a peer.
func Serve(t testing.TB, at At, do Behaviour) *Peer {
	t.Helper()
	if at.Network == "" {
		at.Network = "tcp"
	}
	if at.Address == "" {
		at.Address = "127.0.0.1:0"
	}
	ln, err := at.Host.Listen(t.Context(), at.Network, at.Address)
	if err != nil {
		t.Fatalf("lab: peer: %v", err)
	}
	p := &Peer{
		Network: at.Network,
		Address: ln.Addr().String(),
		visits:  make(chan Visit, 1<<14),
		closing: make(chan struct{}),
	}
	p.Port, _ = netip.ParseAddrPort(p.Address)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.serve(ln, do)
	}()
	p.stop = sync.OnceFunc(func() {
		close(p.closing)
		ln.Close()
		<-done
	})
	t.Cleanup(p.stop)
	return p
}

// Stop ends the peer and its connections, and waits for them.
func (p *Peer) Stop() { p.stop() }

// Visit returns the next visit that has ended, and fails the test when
// there is none for too long.
func (p *Peer) Visit(t testing.TB) Visit {
	t.Helper()
	select {
	case v := <-p.visits:
		return v
	case <-time.After(patience):
		t.Fatalf("no connection to the peer at %s ended within %v", p.Address, patience)
		panic("unreachable")
	}
}

// Visited reports whether a visit has ended that Visit did not return.
func (p *Peer) Visited() bool { return len(p.visits) > 0 }

func (p *Peer) serve(ln net.Listener, do Behaviour) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.Accept()
		if err != nil {
			return // only when it was closed: a lab has descriptors enough
		}
		wg.Go(func() { p.host(c, do) })
	}
}

func (p *Peer) host(c net.Conn, do Behaviour) {
	left := make(chan struct{})
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		select {
		case <-p.closing:
			c.SetDeadline(time.Unix(1, 0))
		case <-left:
		}
	}()
	v := Visit{Conn: c, Closing: p.closing}
	do(&v)
	close(left)
	<-cut
	c.Close()
	if v.Bytes > 0 {
		p.visits <- v
	}
}

// Echo sends back what arrives as it arrives, and its end after the client's.
func Echo(v *Visit) {
	buf := make([]byte, 32<<10)
	for {
		n, err := v.Conn.Read(buf)
		v.Bytes += int64(n)
		if n > 0 {
			if _, v.Sent = v.Conn.Write(buf[:n]); v.Sent != nil {
				v.Err = err
				return
			}
		}
		if err != nil {
			v.Err = notEOF(err)
			return
		}
	}
}

// EchoAfterEOF takes everything up to the client's end and only then sends it
// back: whoever loses the half-closed state loses the answer.
func EchoAfterEOF(v *Visit) {
	var all []byte
	all, v.Err = io.ReadAll(v.Conn)
	v.Bytes += int64(len(all))
	if v.Err == nil {
		_, v.Sent = v.Conn.Write(all)
	}
}

// Sink takes everything, answers nothing and closes after the client's end.
func Sink(v *Visit) { v.drain(0) }

// HoldOpen takes everything and then neither sends nor closes.
func HoldOpen(v *Visit) {
	v.drain(0)
	<-v.Closing
}

// NeverRead accepts, and no more than that.
func NeverRead(v *Visit) {
	shrink(v.Conn)
	<-v.Closing
}

// SlowRead is Sink at about so many bytes a second.
func SlowRead(rate int) Behaviour {
	return func(v *Visit) {
		shrink(v.Conn)
		v.drain(rate)
	}
}

// ServerFirst sends the banner and its own end before it reads a byte, and
// then takes what the client sends, like Sink.
func ServerFirst(banner []byte) Behaviour {
	return func(v *Visit) {
		if _, v.Sent = v.Conn.Write(banner); v.Sent == nil {
			v.Sent = v.Conn.(HalfCloser).CloseWrite()
		}
		v.drain(0)
	}
}

// Greeted waits for the client's first byte and then behaves like next.
func Greeted(next Behaviour) Behaviour {
	return func(v *Visit) {
		n, err := v.Conn.Read(make([]byte, 1))
		if v.Bytes += int64(n); err != nil {
			v.Err = notEOF(err)
			return
		}
		next(v)
	}
}

// Banner sends text and closes; it tells targets apart.
func Banner(text string) Behaviour {
	return func(v *Visit) {
		if _, v.Sent = io.WriteString(v.Conn, text); v.Sent == nil {
			v.Sent = v.Conn.(HalfCloser).CloseWrite()
		}
		v.drain(0)
	}
}

// Source sends size bytes of the stream, and then its end. A negative size is
// without end.
func Source(s Stream, size int64) Behaviour {
	return func(v *Visit) {
		buf := make([]byte, 32<<10)
		for off := int64(0); off != size; {
			p := buf
			if size >= 0 {
				p = buf[:min(int64(len(buf)), size-off)]
			}
			s.ReadAt(p, off)
			n, err := v.Conn.Write(p)
			if off += int64(n); err != nil {
				v.Sent = err
				return
			}
		}
		v.Sent = v.Conn.(HalfCloser).CloseWrite()
		v.drain(0)
	}
}

// Drip takes everything up to the client's end, then sends n bytes, one each
// time the interval has passed, and closes.
func Drip(n int, interval time.Duration) Behaviour {
	return func(v *Visit) {
		v.drain(0)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for range n {
			select {
			case <-tick.C:
			case <-v.Closing:
				return
			}
			if _, v.Sent = v.Conn.Write([]byte{'.'}); v.Sent != nil {
				return
			}
		}
	}
}

// Reset sends the first size bytes of the stream, takes n bytes from the
// client (or up to its end), and then resets the connection.
func Reset(s Stream, size int, n int64) Behaviour {
	return func(v *Visit) {
		if _, v.Sent = v.Conn.Write(s.Bytes(size)); v.Sent != nil {
			return
		}
		got, err := io.CopyN(io.Discard, readerOnly{v.Conn}, n)
		v.Bytes += got
		v.Err = notEOF(err)
		ResetConn(v.Conn)
	}
}

// ResetConn closes a TCP connection with a reset instead of an end.
func ResetConn(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// drain receives until the end and reckons the sum; a rate above 0 is bytes
// per second.
func (v *Visit) drain(rate int) {
	sum := sha256.New()
	buf := make([]byte, 16<<10)
	var began time.Time
	for {
		n, err := v.Conn.Read(buf)
		sum.Write(buf[:n])
		v.Bytes += int64(n)
		if err != nil {
			v.Err = notEOF(err)
			v.Sum = [sha256.Size]byte(sum.Sum(nil))
			return
		}
		if rate > 0 {
			if began.IsZero() {
				began = time.Now()
			}
			due := time.Duration(float64(v.Bytes) / float64(rate) * float64(time.Second))
			select {
			case <-time.After(due - time.Since(began)):
			case <-v.Closing:
			}
		}
	}
}

// shrink makes the kernel hold little for a reader that does not read.
func shrink(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetReadBuffer(32 << 10)
	}
}

// readerOnly hides that a connection can be spliced from: splicing would leave
// pipes in a pool, and they look like a leak.
type readerOnly struct{ io.Reader }

func notEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// Refused returns an address at which nothing listens, so that a connection
// there is refused and a datagram is answered by an ICMP error.
func Refused(t testing.TB, at At) string {
	t.Helper()
	addr := netip.MustParseAddr("127.0.0.1")
	if at.Address != "" {
		addr = netip.MustParseAddr(at.Address)
	}
	return FreePorts(t, at.Host, addr, 1).String()
}

// FreePorts returns addr with the first of n neighbouring ports that were free
// for TCP and UDP, in both families, a moment ago. They lie below the ports
// that the system hands out by itself, so that no outgoing connection takes
// them, and are not returned twice.
func FreePorts(t testing.TB, h *Host, addr netip.Addr, n int) netip.AddrPort {
	t.Helper()
	for range 1000 {
		first := 10000 + rand.IntN(22000-n)
		if portsTaken.take(first, n) && portsFree(t.Context(), h, first, n) {
			return netip.AddrPortFrom(addr, uint16(first))
		}
	}
	t.Fatalf("lab: found no %d free ports between 10000 and 32000", n)
	panic("unreachable")
}

func portsFree(ctx context.Context, h *Host, first, n int) bool {
	for port := first; port < first+n; port++ {
		address := ":" + strconv.Itoa(port)
		ln, err := h.Listen(ctx, "tcp", address)
		if err != nil {
			return false
		}
		ln.Close()
		pc, err := h.ListenPacket(ctx, "udp", address)
		if err != nil {
			return false
		}
		pc.Close()
	}
	return true
}

// portsTaken are the ports this process has handed out.
var portsTaken portSet

type portSet struct {
	mu   sync.Mutex
	used map[int]bool
}

func (s *portSet) take(first, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = map[int]bool{}
	}
	for port := first; port < first+n; port++ {
		if s.used[port] {
			return false
		}
	}
	for port := first; port < first+n; port++ {
		s.used[port] = true
	}
	return true
}

// BlackHole returns an address that accepts no connection and refuses none: a
// listener whose queue is full, where Linux drops what comes.
func BlackHole(t testing.TB, at At) string {
	t.Helper()
	if at.Address == "" {
		at.Address = "127.0.0.1:0"
	}
	ln, err := at.Host.Listen(t.Context(), "tcp", at.Address)
	if err != nil {
		t.Fatalf("lab: black hole: %v", err)
	}
	t.Cleanup(func() { ln.Close() })
	if err := shortenQueue(ln.(*net.TCPListener)); err != nil {
		lacking(t, "needs a full queue: "+err.Error())
	}
	for range 16 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		c, err := at.Host.DialContext(ctx, "tcp", ln.Addr().String())
		cancel()
		if err != nil {
			if !isTimeout(err) && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("lab: black hole: %v", err)
			}
			return ln.Addr().String()
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatalf("lab: the queue of %s takes connections without end", ln.Addr())
	panic("unreachable")
}

// patience is how long a test waits for what has to happen. Only a test that
// is about to fail waits so long.
var patience = 10 * time.Second
