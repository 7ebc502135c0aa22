package place

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) {
	// Package net makes the state of its resolver at the first lookup. That
	// must not happen inside a test's bubble of time.
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("nobody is asked")
	}}
	r.LookupHost(context.Background(), "warm.test")
	goleak.VerifyTestMain(m)
}

// A nameServer answers DNS questions on loopback over UDP and TCP.
type nameServer struct {
	at  netip.AddrPort
	udp net.PacketConn
	tcp net.Listener
	all sync.WaitGroup

	// mu guards these.
	mu     sync.Mutex
	zone   map[string]records // by lower-case name without the last dot
	asked  map[string]int     // by name
	silent map[dnsmessage.Type]bool
	order  bool       // the reply about IPv4 waits for the question about IPv6
	first  func()     // sends the reply that waits
	held   []net.Conn // TCP
}

// records is what a nameServer says about one name.
type records struct {
	rcode    dnsmessage.RCode
	addrs    []string
	ttl      uint32
	cname    string // chain of one before the addresses
	cnameTTL uint32
	negative uint32 // of the SOA, for an empty answer; 0: no SOA
	overTCP  bool   // UDP replies are truncated
	silence  bool
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	s := &nameServer{zone: map[string]records{}, asked: map[string]int{}, silent: map[dnsmessage.Type]bool{}}
	for range 20 {
		var err error
		if s.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if s.udp, err = net.ListenPacket("udp", s.tcp.Addr().String()); err == nil {
			break
		}
		s.tcp.Close()
	}
	if s.udp == nil {
		t.Fatal("no port is free for both UDP and TCP")
	}
	s.at = s.tcp.Addr().(*net.TCPAddr).AddrPort()
	s.all.Go(s.serveUDP)
	s.all.Go(s.serveTCP)
	t.Cleanup(func() {
		s.udp.Close()
		s.tcp.Close()
		s.mu.Lock()
		for _, c := range s.held {
			c.Close()
		}
		s.mu.Unlock()
		s.all.Wait()
	})
	return s
}

func (s *nameServer) set(name string, r records) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = r
}

// mute leaves questions of these types unanswered.
func (s *nameServer) mute(types ...dnsmessage.Type) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range types {
		s.silent[t] = true
	}
}

// holdIPv4 makes the next reply about IPv4 wait for the question about IPv6.
func (s *nameServer) holdIPv4() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.order = true
}

// questions is how often the addresses of name were asked for: twice a lookup.
func (s *nameServer) questions(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[name]
}

func (s *nameServer) serveUDP() {
	b := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFrom(b)
		if err != nil {
			return
		}
		m, kind := s.reply(b[:n], false)
		send := func() {
			if m != nil {
				s.udp.WriteTo(m, from)
			}
		}
		s.mu.Lock()
		switch {
		case s.order && kind == dnsmessage.TypeA && s.first == nil:
			s.first = send
			send = func() {}
		case s.order && kind == dnsmessage.TypeAAAA:
			if s.first != nil {
				s.first()
			}
			s.order = false
		}
		s.mu.Unlock()
		send()
	}
}

func (s *nameServer) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.held = append(s.held, c)
		s.mu.Unlock()
		s.all.Go(func() { s.talk(c) })
	}
}

func (s *nameServer) talk(c net.Conn) {
	defer c.Close()
	var length [2]byte
	for {
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		m, _ := s.reply(b, true)
		if m == nil {
			continue
		}
		m = append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)
		for len(m) > 0 { // in pieces, as networks do
			n := min(len(m), 700)
			if _, err := c.Write(m[:n]); err != nil {
				return
			}
			m = m[n:]
		}
	}
}

// reply is the answer to query, nil for none, and what kind of records it asks.
func (s *nameServer) reply(query []byte, tcp bool) ([]byte, dnsmessage.Type) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil, 0
	}
	q, err := p.Question()
	if err != nil {
		return nil, 0
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[name]++
	r, known := s.zone[name]
	if !known {
		r = records{rcode: dnsmessage.RCodeNameError}
	}
	if r.silence || s.silent[q.Type] {
		return nil, q.Type
	}
	return build(h.ID, q, r, r.overTCP && !tcp), q.Type
}

// build is the reply that says r.
func build(id uint16, q dnsmessage.Question, r records, truncated bool) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: id, Response: true, RecursionAvailable: true, RCode: r.rcode, Truncated: truncated,
	})
	b.EnableCompression()
	b.StartQuestions()
	b.Question(q)
	owner := q.Name
	b.StartAnswers()
	if !truncated {
		if r.cname != "" {
			target := dnsmessage.MustNewName(r.cname + ".")
			b.CNAMEResource(dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: r.cnameTTL}, dnsmessage.CNAMEResource{CNAME: target})
			owner = target
		}
		for _, text := range r.addrs {
			a := netip.MustParseAddr(text)
			rh := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: r.ttl}
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				b.AResource(rh, dnsmessage.AResource{A: a.As4()})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
		}
	}
	if r.negative > 0 {
		b.StartAuthorities()
		root := dnsmessage.MustNewName("test.")
		b.SOAResource(dnsmessage.ResourceHeader{Name: root, Class: dnsmessage.ClassINET, TTL: 86400},
			dnsmessage.SOAResource{NS: root, MBox: root, MinTTL: r.negative})
	}
	m, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return m
}
