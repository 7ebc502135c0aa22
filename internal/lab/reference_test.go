package lab

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"fairlead"
)

// A reference is the plainest carrier that passes the suite: two goroutines
// for each connection, one for each UDP session. With a fault it does one
// thing wrong, for the suite to find.
type reference struct {
	fault  fault
	host   *Host // where it runs
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup

	// mu guards the fields below.
	mu      sync.Mutex
	entries map[string]*refEntry
	meters  map[string]*fairlead.Meter
	live    map[*refConn]bool
	nextID  int
	kept    []*os.File   // faultLeak
	cache   [][]byte     // faultBuffer
	swapped atomic.Int64 // faultFlip: bytes until the next one is flipped
}

// A fault is something a reference does wrong.
type fault string

const (
	sound              fault = ""
	closesBoth         fault = "closes both sides at the first end"
	forgetsEnd         fault = "does not carry the client's end"
	resetAsEnd         fault = "turns a reset into an end"
	refusalAsEnd       fault = "ends the client cleanly when the target refuses"
	flipsByte          fault = "flips a byte in a megabyte"
	swapsConns         fault = "gives a client the data of another"
	dropsTail          fault = "loses what is in hand when the end comes"
	leaksDescriptor    fault = "leaves a descriptor open"
	leaksGoroutine     fault = "leaves a goroutine running"
	leaksProcess       fault = "leaves a process running"
	buffersAll         fault = "takes from the client without limit"
	noLinger           fault = "has no bound for half-closed connections"
	lingerTotal        fault = "bounds the surviving direction as a whole"
	noIdle             fault = "has no idle bound"
	noConnectTimeout   fault = "has no bound for the dial"
	reloadCuts         fault = "cuts connections when its forward goes"
	reloadRebinds      fault = "listens anew when a forward changes"
	keepsOldTarget     fault = "keeps the old target"
	keepsListening     fault = "keeps listening for a forward that is gone"
	rangeToFirst       fault = "leads a range to its first port"
	ignoresWho         fault = "lets everybody in"
	miscounts          fault = "does not count the bytes of the target"
	killsAll           fault = "kills by any match of all"
	killsSoftly        fault = "kills with an end instead of a reset"
	failsAll           fault = "gives up all for one taken port"
	stopLeaves         fault = "leaves connections at Stop"
	dropsEmpty         fault = "drops empty datagrams"
	truncates          fault = "cuts datagrams to 8 KiB"
	oneReply           fault = "takes one answer for each datagram"
	wrongSource        fault = "answers from any address"
	refusalIsDeath     fault = "stops a UDP entry at an ICMP error"
	evictsOldest       fault = "evicts the oldest session"
	noEviction         fault = "has no cap on sessions"
	sessionsEverlast   fault = "never ends a UDP session"
	reloadForgetsUDP   fault = "forgets UDP sessions at a reload"
	sharesSession      fault = "has one session for all clients"
	stealsSocket       fault = "takes the socket of a live program"
	leavesSocket       fault = "leaves its socket files"
	staysDownAfterFail fault = "does not try a taken port again"
)

// A refEntry is one thing listened at.
type refEntry struct {
	network, address string
	close            func()
	rule             atomic.Pointer[refRule]

	mu       sync.Mutex // guards the fields below
	sessions map[sessionKey]*refSession
	used     *list.List // of *refSession, the least recently used first
}

// A refRule is what holds for connections that begin now.
type refRule struct {
	f *fairlead.Forward
	i int // which of the spot's ports
	m *fairlead.Meter
}

func newReference(fault fault) *reference {
	r := &reference{fault: fault, entries: map[string]*refEntry{}, meters: map[string]*fairlead.Meter{}, live: map[*refConn]bool{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *reference) Name() string                 { return "reference" }
func (r *reference) Fits(*fairlead.Forward) error { return nil }
func (r *reference) Report() []fairlead.Status    { return nil }
func (r *reference) count(m *int64, n int)        { atomic.AddInt64(m, int64(n)) }
func (r *reference) ended(c *refConn)             { r.mu.Lock(); delete(r.live, c); r.mu.Unlock() }
func (r *reference) connsNow() (all []*refConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.live {
		all = append(all, c)
	}
	return all
}

func (r *reference) Close() error {
	r.Apply(context.Background(), nil)
	if r.fault == stopLeaves {
		return nil
	}
	r.cancel()
	for _, c := range r.connsNow() {
		c.reset()
	}
	r.wg.Wait()
	return nil
}

func (r *reference) Apply(_ context.Context, want []*fairlead.Forward) []fairlead.Status {
	keep := map[string]bool{}
	rules := make([]map[string]*refRule, len(want))
	for n, f := range want {
		r.mu.Lock()
		m := r.meters[f.Name]
		if m == nil {
			m = &fairlead.Meter{}
			r.meters[f.Name] = m
		}
		r.mu.Unlock()
		rules[n] = map[string]*refRule{}
		for key, i := range spotKeys(&f.At) {
			rules[n][key] = &refRule{f, i, m}
			keep[key] = true
		}
	}
	for key, e := range r.entries {
		switch {
		case r.fault == keepsListening && len(want) > 0:
		case !keep[key]:
			e.close()
			delete(r.entries, key)
			if r.fault == reloadCuts {
				for _, c := range r.connsNow() {
					c.reset()
				}
			}
		case r.fault == reloadForgetsUDP:
			e.forget()
		}
	}
	status := make([]fairlead.Status, len(want))
	failed := false
	for n, f := range want {
		status[n] = fairlead.Status{Forward: f, State: fairlead.Listening, By: r.Name(), Meter: r.meters[f.Name]}
		for key, rule := range rules[n] {
			e := r.entries[key]
			if e != nil && r.fault == reloadRebinds && !reflect.DeepEqual(e.rule.Load().f.To, f.To) {
				e.close()
				e = nil
			}
			if e == nil {
				var err error
				if failed && r.fault == failsAll {
					err = errors.New("another forward failed")
				} else {
					e, err = r.listen(key, rule)
				}
				if err != nil {
					failed = true
					status[n].State = fairlead.Broken
					status[n].Problem = &fairlead.Problem{Code: fairlead.CodeListenFailed, What: err.Error(), Err: err}
					if r.fault == staysDownAfterFail {
						r.entries[key] = &refEntry{close: func() {}}
					}
					continue
				}
				r.entries[key] = e
			}
			if r.fault != keepsOldTarget || e.rule.Load() == nil {
				e.rule.Store(rule)
			}
		}
	}
	return status
}

// spotKeys are "network address" with the index of the port.
func spotKeys(at *fairlead.Spot) map[string]int {
	keys := map[string]int{}
	if at.Unix != "" {
		keys["unix "+at.Unix] = 0
		return keys
	}
	hosts := []string{at.Addr.String()}
	switch {
	case at.Any:
		hosts = []string{"0.0.0.0", "::"}
	case !at.Addr.IsValid():
		hosts = []string{"127.0.0.1", "::1"}
	}
	for i := range at.Ports.Len() {
		for _, host := range hosts {
			at.Net.Each(func(network string) {
				family := "4"
				if netip.MustParseAddr(host).Is6() {
					family = "6"
				}
				keys[network+family+" "+net.JoinHostPort(host, fmt.Sprint(at.Ports.At(i)))] = i
			})
		}
	}
	return keys
}

func (r *reference) listen(key string, rule *refRule) (*refEntry, error) {
	e := &refEntry{sessions: map[sessionKey]*refSession{}, used: list.New()}
	fmt.Sscan(key, &e.network, &e.address)
	e.rule.Store(rule)
	switch e.network {
	case "udp4", "udp6":
		pc, err := r.host.ListenPacket(r.ctx, e.network, e.address)
		if err != nil {
			return nil, err
		}
		e.close = func() { pc.Close() }
		r.wg.Go(func() { r.receive(e, newRefSocket(pc, e.network)) })
	default:
		ln, err := r.listenStream(e.network, e.address)
		if err != nil {
			return nil, err
		}
		e.close = func() { ln.Close() }
		r.wg.Go(func() { r.accept(e, ln) })
	}
	return e, nil
}

func (r *reference) listenStream(network, address string) (net.Listener, error) {
	ln, err := r.host.Listen(r.ctx, network, address)
	if network == "unix" && errors.Is(err, syscall.EADDRINUSE) {
		c, derr := net.Dial(network, address)
		if derr == nil {
			c.Close()
		}
		if derr != nil || r.fault == stealsSocket {
			os.Remove(address)
			ln, err = r.host.Listen(r.ctx, network, address)
		}
	}
	if u, ok := ln.(*net.UnixListener); ok && r.fault == leavesSocket {
		u.SetUnlinkOnClose(false)
	}
	return ln, err
}

func (r *reference) accept(e *refEntry, ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.carry(e.rule.Load(), c) })
	}
}

// choose is the address to dial for a client, "" for none.
func (r *reference) choose(rule *refRule, client netip.Addr) (network, address string) {
	covers := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(client) })
	}
	if r.fault == ignoresWho {
		covers = func([]netip.Prefix) bool { return false }
	}
	if covers(rule.f.Policy.Deny) {
		return "", ""
	}
	pick := -1
	for n, to := range rule.f.To {
		if covers(to.From) {
			pick = n
			break
		}
		if (len(to.From) == 0 || r.fault == ignoresWho) && pick < 0 {
			pick = n
		}
	}
	if pick < 0 {
		return "", ""
	}
	to := rule.f.To[pick]
	if to.Unix != "" {
		return "unix", to.Unix
	}
	i := rule.i
	if r.fault == rangeToFirst {
		i = 0
	}
	return "tcp", net.JoinHostPort(to.Host, fmt.Sprint(to.Port(rule.f.At.Ports, i)))
}

// dial dials from the host; names are those of this process's resolver.
func (r *reference) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = r.host.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// A refConn is a live connection, or a session.
type refConn struct {
	r              *reference
	rule           *refRule
	client, target net.Conn
	info           fairlead.Conn // but for the counts
	in, out        int64         // atomic
	touched        atomic.Int64
	half           atomic.Pointer[string]
	halfAt         atomic.Int64
	cut            func()
}

func (c *refConn) reset() { c.cut() }

func (r *reference) track(c *refConn, network, client, local, target string) {
	c.r = r
	c.touched.Store(time.Now().UnixNano())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nextID++
	c.info = fairlead.Conn{ID: fmt.Sprint(r.nextID), Forward: c.rule.f.Name, Network: network,
		Client: client, Local: local, Target: target, Began: time.Now()}
	r.live[c] = true
}

func (r *reference) carry(rule *refRule, client net.Conn) {
	defer client.Close()
	from, _ := netip.ParseAddrPort(client.RemoteAddr().String())
	network, address := r.choose(rule, from.Addr().Unmap())
	if address == "" {
		ResetConn(client)
		return
	}
	connect := rule.f.Policy.Connect
	if connect <= 0 {
		connect = 5 * time.Second
	}
	if r.fault == noConnectTimeout {
		connect = time.Hour
	}
	ctx, cancel := context.WithTimeout(r.ctx, connect)
	target, err := r.dial(ctx, network, address)
	cancel()
	if err != nil {
		if r.fault == refusalAsEnd {
			client.Close()
		}
		ResetConn(client)
		return
	}
	defer target.Close()
	name := client.RemoteAddr().String()
	if !from.IsValid() {
		name = "unix"
	}
	c := &refConn{rule: rule, client: client, target: target}
	c.cut = func() {
		if r.fault == killsSoftly {
			client.Close()
			target.Close()
		}
		ResetConn(client)
		ResetConn(target)
	}
	r.track(c, network, name, client.LocalAddr().String(), target.RemoteAddr().String())
	defer r.ended(c)
	rule.m.Flows.Add(1)
	rule.m.Active.Add(1)
	defer rule.m.Active.Add(-1)
	if r.ctx.Err() != nil {
		c.reset()
		return
	}
	if r.fault == leaksDescriptor {
		f, _ := os.Open(os.DevNull)
		r.mu.Lock()
		r.kept = append(r.kept, f)
		r.mu.Unlock()
	}
	if r.fault == leaksProcess {
		exec.Command("sleep", "3").Start()
	}
	if r.fault == leaksGoroutine {
		go func() { select {} }()
	}
	var both sync.WaitGroup
	both.Go(func() { c.pump(target, client, "client", &c.in, &rule.m.In) })
	both.Go(func() { c.pump(client, target, "target", &c.out, &rule.m.Out) })
	both.Wait()
}

// pump copies one direction to its end, and then ends it on the other side.
func (c *refConn) pump(dst, src net.Conn, side string, count *int64, meter *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		c.arm(src)
		n, err := src.Read(buf)
		if n > 0 && !(c.r.fault == miscounts && side == "target") {
			atomic.AddInt64(count, int64(n))
			meter.Add(int64(n))
		}
		if n > 0 {
			c.touched.Store(time.Now().UnixNano())
			if c.r.fault == dropsTail && n%2 == 1 && n > 1000 {
				n--
			}
			if werr := c.write(dst, buf[:n]); werr != nil && err == nil {
				err = werr
			}
		}
		switch {
		case err == nil:
		case err == io.EOF && c.r.fault == closesBoth:
			c.client.Close()
			c.target.Close()
			return
		case err == io.EOF && c.r.fault == forgetsEnd && side == "client":
			return
		case err == io.EOF:
			c.half.CompareAndSwap(nil, &side)
			c.halfAt.Store(time.Now().UnixNano())
			c.touched.Store(time.Now().UnixNano())
			c.arm(dst) // the other direction may be waiting without a bound
			dst.(HalfCloser).CloseWrite()
			return
		case isTimeout(err) && !c.expired():
		case c.r.fault == resetAsEnd:
			c.client.Close()
			c.target.Close()
			return
		default:
			c.reset()
			return
		}
	}
}

func (c *refConn) write(dst net.Conn, p []byte) error {
	switch c.r.fault {
	case flipsByte:
		if c.r.swapped.Add(int64(len(p)))%(1<<20) < int64(len(p)) {
			p[0] ^= 1
		}
	case swapsConns:
		c.r.mu.Lock()
		if len(p) == 32<<10 {
			if len(c.r.cache) > 0 {
				copy(p, c.r.cache[0])
			}
			c.r.cache = [][]byte{bytes.Clone(p)}
		}
		c.r.mu.Unlock()
	case buffersAll:
		if dst == c.target {
			c.r.mu.Lock()
			c.r.cache = append(c.r.cache, bytes.Clone(p))
			c.r.mu.Unlock()
			dst.SetWriteDeadline(time.Now().Add(time.Millisecond))
			if _, err := dst.Write(p); err != nil && !isTimeout(err) {
				return err
			}
			return nil
		}
	}
	_, err := dst.Write(p)
	return err
}

// bound is how long silence may last now; 0 is for ever.
func (c *refConn) bound() time.Duration {
	bound := max(c.rule.f.Policy.Idle, 0)
	if c.r.fault == noIdle {
		bound = 0
	}
	if c.half.Load() != nil && c.r.fault != noLinger {
		bound = 30 * time.Second
		if c.rule.f.Policy.Linger > 0 {
			bound = c.rule.f.Policy.Linger
		}
	}
	return bound
}

func (c *refConn) since() time.Time {
	if c.r.fault == lingerTotal && c.half.Load() != nil {
		return time.Unix(0, c.halfAt.Load())
	}
	return time.Unix(0, c.touched.Load())
}

func (c *refConn) arm(src net.Conn) {
	if bound := c.bound(); bound > 0 {
		src.SetReadDeadline(c.since().Add(bound))
	}
}

func (c *refConn) expired() bool {
	bound := c.bound()
	return bound > 0 && time.Since(c.since()) >= bound
}

func (r *reference) Conns() []fairlead.Conn {
	var list []fairlead.Conn
	for _, c := range r.connsNow() {
		info := c.info
		info.In, info.Out = atomic.LoadInt64(&c.in), atomic.LoadInt64(&c.out)
		if half := c.half.Load(); half != nil {
			info.Half = *half
		}
		list = append(list, info)
	}
	return list
}

func (r *reference) Kill(m fairlead.Match) int {
	if m == (fairlead.Match{}) {
		return 0
	}
	n := 0
	for _, c := range r.connsNow() {
		from, _ := netip.ParseAddrPort(c.info.Client)
		id, forward, client := c.info.ID == m.ID, c.info.Forward == m.Forward, from.Addr() == m.Client
		match := (id || m.ID == "") && (forward || m.Forward == "") && (client || !m.Client.IsValid())
		if r.fault == killsAll {
			match = id || forward || client
		}
		if match {
			c.reset()
			n++
		}
	}
	return n
}

// A refSocket is a UDP socket that knows which address was asked.
type refSocket struct {
	conn *net.UDPConn
	v4   *ipv4.PacketConn
	v6   *ipv6.PacketConn
}

func newRefSocket(c *net.UDPConn, network string) *refSocket {
	s := &refSocket{conn: c}
	if network == "udp4" {
		s.v4 = ipv4.NewPacketConn(c)
		s.v4.SetControlMessage(ipv4.FlagDst, true)
	} else {
		s.v6 = ipv6.NewPacketConn(c)
		s.v6.SetControlMessage(ipv6.FlagDst, true)
	}
	return s
}

func (s *refSocket) read(p []byte) (n int, from netip.AddrPort, asked net.IP, err error) {
	var addr net.Addr
	if s.v4 != nil {
		var cm *ipv4.ControlMessage
		n, cm, addr, err = s.v4.ReadFrom(p)
		if cm != nil {
			asked = cm.Dst
		}
	} else {
		var cm *ipv6.ControlMessage
		n, cm, addr, err = s.v6.ReadFrom(p)
		if cm != nil {
			asked = cm.Dst
		}
	}
	if err == nil {
		from = addr.(*net.UDPAddr).AddrPort()
	}
	return n, from, asked, err
}

func (s *refSocket) write(p []byte, to netip.AddrPort, from net.IP) {
	if s.v4 != nil {
		s.v4.WriteTo(p, &ipv4.ControlMessage{Src: from}, net.UDPAddrFromAddrPort(to))
	} else {
		s.v6.WriteTo(p, &ipv6.ControlMessage{Src: from}, net.UDPAddrFromAddrPort(to))
	}
}

type sessionKey struct{ client, local netip.AddrPort }

type refSession struct {
	refConn
	key      sessionKey
	upstream *net.UDPConn
	place    *list.Element
}

func (e *refEntry) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sessions {
		s.upstream.Close()
	}
}

func (r *reference) receive(e *refEntry, sock *refSocket) {
	defer e.forget()
	port := netip.MustParseAddrPort(sock.conn.LocalAddr().String()).Port()
	buf := make([]byte, 1<<16)
	for {
		n, from, asked, err := sock.read(buf)
		if err != nil {
			return
		}
		if n == 0 && r.fault == dropsEmpty {
			continue
		}
		if r.fault == truncates {
			n = min(n, 8<<10)
		}
		if r.fault == wrongSource {
			asked = nil
		}
		addr, _ := netip.AddrFromSlice(asked)
		key := sessionKey{netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), netip.AddrPortFrom(addr.Unmap(), port)}
		if r.fault == sharesSession {
			key = sessionKey{}
		}
		s := r.session(e, key, from, asked, sock)
		if s == nil {
			continue
		}
		s.touched.Store(time.Now().UnixNano())
		atomic.AddInt64(&s.in, int64(n))
		if _, err := s.upstream.Write(buf[:n]); err != nil && r.fault == refusalIsDeath {
			sock.conn.Close()
		}
	}
}

// session finds or makes the client's session, and makes it the most recently
// used.
func (r *reference) session(e *refEntry, key sessionKey, from netip.AddrPort, asked net.IP, sock *refSocket) *refSession {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := e.sessions[key]; s != nil {
		if r.fault != evictsOldest {
			e.used.MoveToBack(s.place)
		}
		return s
	}
	rule := e.rule.Load()
	_, address := r.choose(rule, from.Addr().Unmap())
	if address == "" {
		return nil
	}
	if limit := rule.f.Policy.MaxConns; limit > 0 && len(e.sessions) >= limit && r.fault != noEviction {
		e.used.Front().Value.(*refSession).drop(e)
	}
	c, err := r.dial(r.ctx, "udp", address)
	if err != nil {
		return nil
	}
	s := &refSession{key: key, upstream: c.(*net.UDPConn)}
	s.rule, s.cut = rule, func() { c.Close() }
	r.track(&s.refConn, "udp", from.String(), key.local.String(), address)
	s.place = e.used.PushBack(s)
	e.sessions[key] = s
	r.wg.Go(func() { r.answer(e, s, from, asked, sock) })
	return s
}

// drop is called with e.mu held.
func (s *refSession) drop(e *refEntry) {
	s.upstream.Close()
	s.r.ended(&s.refConn)
	if e.sessions[s.key] == s {
		delete(e.sessions, s.key)
		e.used.Remove(s.place)
	}
}

func (r *reference) answer(e *refEntry, s *refSession, to netip.AddrPort, asked net.IP, sock *refSocket) {
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		s.drop(e)
	}()
	idle := 60 * time.Second
	if s.rule.f.Policy.Idle > 0 && r.fault != sessionsEverlast {
		idle = s.rule.f.Policy.Idle
	}
	buf := make([]byte, 1<<16)
	for {
		s.upstream.SetReadDeadline(time.Unix(0, s.touched.Load()).Add(idle))
		n, err := s.upstream.Read(buf)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			if r.fault == refusalIsDeath {
				sock.conn.Close()
			}
			continue
		case isTimeout(err) && time.Since(time.Unix(0, s.touched.Load())) < idle:
			continue
		case err != nil:
			return
		}
		s.touched.Store(time.Now().UnixNano())
		atomic.AddInt64(&s.out, int64(n))
		if n == 0 && r.fault == dropsEmpty {
			continue
		}
		sock.write(buf[:n], to, asked)
		if r.fault == oneReply {
			s.upstream.SetReadDeadline(time.Now().Add(time.Millisecond))
			for {
				if _, err := s.upstream.Read(buf); err != nil {
					break
				}
			}
		}
	}
}

func TestReferencePassesTheSuite(t *testing.T) {
	TestCarrier(t, Carrier(func(*testing.T) fairlead.Carrier { return newReference(sound) }))
}
