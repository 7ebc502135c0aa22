package lab

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A NameServer answers DNS questions about what its test has set, over UDP on
// loopback, until the test ends. It knows nothing of other names. Its methods
// may be called concurrently.
type NameServer struct {
	At netip.AddrPort

	mu    sync.Mutex // guards the rest
	zone  map[string][]dnsmessage.Resource
	fails bool
}

// ServeNames starts a name server that knows no names.
func ServeNames(t testing.TB) *NameServer {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &NameServer{At: c.LocalAddr().(*net.UDPAddr).AddrPort(), zone: map[string][]dnsmessage.Resource{}}
	var serving sync.WaitGroup
	serving.Go(func() { s.serve(c) })
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
	})
	return s
}

// Addrs makes these the addresses of name, for ttl seconds.
func (s *NameServer) Addrs(name string, ttl uint32, addrs ...string) {
	var list []dnsmessage.Resource
	for _, text := range addrs {
		a := netip.MustParseAddr(text)
		r := dnsmessage.Resource{Header: header(name, ttl)}
		if a.Is4() {
			r.Header.Type, r.Body = dnsmessage.TypeA, &dnsmessage.AResource{A: a.As4()}
		} else {
			r.Header.Type, r.Body = dnsmessage.TypeAAAA, &dnsmessage.AAAAResource{AAAA: a.As16()}
		}
		list = append(list, r)
	}
	s.set(name, list)
}

// A ServiceRecord is what a NameServer says about one host of a service.
type ServiceRecord struct {
	Host                   string
	Port, Priority, Weight uint16
}

// Services makes these the hosts of the service name, for ttl seconds.
func (s *NameServer) Services(name string, ttl uint32, hosts ...ServiceRecord) {
	var list []dnsmessage.Resource
	for _, h := range hosts {
		r := dnsmessage.Resource{Header: header(name, ttl), Body: &dnsmessage.SRVResource{
			Target: dnsName(h.Host), Port: h.Port, Priority: h.Priority, Weight: h.Weight,
		}}
		r.Header.Type = dnsmessage.TypeSRV
		list = append(list, r)
	}
	s.set(name, list)
}

// Fail has every question answered with SERVFAIL, or as before.
func (s *NameServer) Fail(fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = fails
}

func (s *NameServer) set(name string, list []dnsmessage.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[strings.ToLower(name)+"."] = list
}

func header(name string, ttl uint32) dnsmessage.ResourceHeader {
	return dnsmessage.ResourceHeader{Name: dnsName(name), Class: dnsmessage.ClassINET, TTL: ttl}
}

func dnsName(name string) dnsmessage.Name {
	return dnsmessage.MustNewName(strings.TrimSuffix(name, ".") + ".")
}

func (s *NameServer) serve(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		if reply, err := s.answer(m.ID, m.Questions[0]).Pack(); err == nil {
			c.WriteTo(reply, from)
		}
	}
}

func (s *NameServer) answer(id uint16, q dnsmessage.Question) *dnsmessage.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: true, Authoritative: true}, Questions: []dnsmessage.Question{q}}
	list, known := s.zone[strings.ToLower(q.Name.String())]
	switch {
	case s.fails:
		m.RCode = dnsmessage.RCodeServerFailure
	case !known || len(list) == 0:
		m.RCode = dnsmessage.RCodeNameError
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		return m
	}
	for _, r := range list {
		if r.Header.Type == q.Type {
			m.Answers = append(m.Answers, r)
		}
	}
	return m
}
