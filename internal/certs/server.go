// Package certs keeps the certificates of forwards that speak TLS. It reads
// them from files and refuses what cannot serve, takes up files that change,
// gets certificates from ACME authorities, and says in an operator's words why
// a handshake failed.
//
// It makes no handshakes and carries nothing: the relay asks it for the
// tls.Config of a connection. It starts no goroutine of its own, but for those
// with which package autocert renews what an authority gave, and which nobody
// can stop; whoever has a Server or a Client calls Look every few seconds.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// A Server is what a forward shows its clients. Its methods may be called
// concurrently.
type Server struct {
	words fairlead.TLS
	base  tls.Config // has the keys of session tickets, which live on through new files
	now   atomic.Pointer[tls.Config]
	acme  *authority // nil: certificates are in files only

	mu    sync.Mutex // guards the rest
	files files
	read  material
	fault *fairlead.Problem // of the files as they are now, while older ones serve
}

// A material is what a Server's files hold.
type material struct {
	certs   []tls.Certificate
	clients *x509.CertPool // nil: no certificate is asked for
	exposed []string       // keys that every user may read
}

// NewServer reads the files that w names. What it gets from an ACME authority
// it keeps below the directory state; without one, names to get certificates
// for are refused. The error is a *fairlead.Problem.
func NewServer(w *fairlead.TLS, state string) (*Server, error) {
	s := &Server{words: *w}
	if len(w.ACME) > 0 {
		var err error
		if s.acme, err = newAuthority(w, state); err != nil {
			return nil, err
		}
	}
	s.files.watch(w.ClientCA)
	for _, c := range w.Certs {
		s.files.watch(c.Cert, c.Key)
	}
	s.files.note(time.Now())
	read, err := readMaterial(w)
	if err != nil {
		return nil, err
	}
	s.read = read
	s.now.Store(s.config(read))
	s.base = tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.configFor}
	return s, nil
}

// SameServer reports whether two forwards show their clients the same, so that
// a Server can be handed on.
func SameServer(a, b *fairlead.TLS) bool {
	return slices.Equal(a.Certs, b.Certs) && a.ClientCA == b.ClientCA && slices.Equal(a.ALPN, b.ALPN) &&
		slices.Equal(a.ACME, b.ACME) && a.ACMEDirectory == b.ACMEDirectory && a.ACMEEmail == b.ACMEEmail && a.ACMECA == b.ACMECA
}

// Config is for tls.Server. It stays the same for the Server's life; what
// changes is found at each handshake.
func (s *Server) Config() *tls.Config { return &s.base }

func (s *Server) config(m material) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: s.words.ALPN, Certificates: m.certs}
	if m.clients != nil {
		c.ClientCAs, c.ClientAuth = m.clients, tls.RequireAndVerifyClientCert
	}
	if s.acme != nil {
		c.GetCertificate = s.acme.certificate
	}
	return c
}

func (s *Server) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if s.acme != nil && isChallenge(hello.SupportedProtos) {
		return s.acme.challenge, nil
	}
	return s.now.Load(), nil
}

// Look reads the files again if they changed. Files that cannot serve leave
// those before in service.
func (s *Server) Look(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.files.changed(now) {
		return
	}
	read, err := readMaterial(&s.words)
	if err != nil {
		s.fault = outdated(err)
		return
	}
	s.fault, s.read = nil, read
	s.now.Store(s.config(read))
}

// Lacks reports whether no handshake can succeed, as no certificate at all
// could be got, or whether some cannot. What was not tried yet does not count.
func (s *Server) Lacks() (all, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacks()
}

func (s *Server) lacks() (all, some bool) {
	if s.acme == nil {
		return false, false
	}
	failed, got := s.acme.lacking()
	return failed > 0 && got == 0 && len(s.read.certs) == 0, failed > 0
}

// Problem is what an operator should know of the certificates, or nil. It is
// a warning, unless Lacks tells that no handshake can succeed.
func (s *Server) Problem(now time.Time) *fairlead.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all, _ := s.lacks(); all {
		if p := s.acme.problem(now); p != nil { // it may have come just now
			p.Warning = false
			return p
		}
	}
	if s.fault != nil {
		return s.fault
	}
	for i, c := range s.read.certs {
		if p := expiry(c.Leaf, "the certificate in "+s.words.Certs[i].Cert, now); p != nil {
			return p
		}
	}
	if s.acme != nil {
		if p := s.acme.problem(now); p != nil {
			return p
		}
	}
	return exposed(s.read.exposed)
}

func readMaterial(w *fairlead.TLS) (m material, err error) {
	for _, c := range w.Certs {
		pair, open, err := readPair(c.Cert, c.Key)
		if err != nil {
			return m, err
		}
		m.certs = append(m.certs, pair)
		if open != "" {
			m.exposed = append(m.exposed, open)
		}
	}
	if w.ClientCA != "" {
		if m.clients, err = readPool(w.ClientCA); err != nil {
			return m, err
		}
	}
	return m, nil
}
