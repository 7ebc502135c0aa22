package certs

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
)

// A Client is how a forward speaks TLS with its targets: whom it trusts, and
// what it shows. Its methods may be called concurrently.
type Client struct {
	words fairlead.TLS
	now   atomic.Pointer[credentials]

	mu    sync.Mutex // guards the rest
	files files
	fault *fairlead.Problem
}

// Credentials are what a Client's files hold.
type credentials struct {
	roots    *x509.CertPool // nil: the system's
	own      *tls.Certificate
	exposed  string                 // a key that every user may read
	sessions tls.ClientSessionCache // of what these files proved
}

// sessionsKept is for how many names of targets a session is remembered.
const sessionsKept = 64

// NewClient reads the files that w names. The error is a *fairlead.Problem.
func NewClient(w *fairlead.TLS) (*Client, error) {
	c := &Client{words: *w}
	c.files.watch(w.TargetCA, w.TargetCert, w.TargetKey)
	c.files.note(time.Now())
	read, err := readCredentials(w)
	if err != nil {
		return nil, err
	}
	c.now.Store(read)
	return c, nil
}

// SameClient reports whether two forwards speak TLS with their targets in the
// same way, so that a Client can be handed on.
func SameClient(a, b *fairlead.TLS) bool {
	return a.Target == b.Target && a.TargetName == b.TargetName && a.TargetCA == b.TargetCA &&
		a.TargetCert == b.TargetCert && a.TargetKey == b.TargetKey
}

// Config is for a connection to a target at host, to which protocols are
// offered. It sets wanting when the target asks for a certificate and there is
// none to show.
func (c *Client) Config(host string, protocols []string, wanting *bool) *tls.Config {
	now := c.now.Load()
	t := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         c.Name(host),
		NextProtos:         protocols,
		RootCAs:            now.roots,
		ClientSessionCache: now.sessions,
		InsecureSkipVerify: c.words.Target == fairlead.TargetInsecure, // because the sentence says so
	}
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if now.own != nil {
			return now.own, nil // also where the target names other authorities: its refusal says more
		}
		*wanting = true
		return new(tls.Certificate), nil
	}
	return t
}

// Name is who the target at host has to prove to be.
func (c *Client) Name(host string) string {
	if c.words.TargetName != "" {
		return c.words.TargetName
	}
	return host
}

// Look reads the files again if they changed. Files that cannot serve leave
// those before in service.
func (c *Client) Look(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.files.changed(now) {
		return
	}
	read, err := readCredentials(&c.words)
	if err != nil {
		c.fault = outdated(err)
		return
	}
	c.fault = nil
	c.now.Store(read)
}

// Problem is what an operator should know of the certificates, a warning, or
// nil.
func (c *Client) Problem(now time.Time) *fairlead.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	read := c.now.Load()
	if c.fault != nil {
		return c.fault
	}
	if read.own != nil {
		if p := expiry(read.own.Leaf, "our certificate for the targets in "+c.words.TargetCert, now); p != nil {
			return p
		}
	}
	if read.exposed != "" {
		return exposed([]string{read.exposed})
	}
	return nil
}

func readCredentials(w *fairlead.TLS) (*credentials, error) {
	c := &credentials{sessions: tls.NewLRUClientSessionCache(sessionsKept)}
	if w.TargetCA != "" {
		var err error
		if c.roots, err = readPool(w.TargetCA); err != nil {
			return nil, err
		}
	}
	if w.TargetCert != "" {
		pair, open, err := readPair(w.TargetCert, w.TargetKey)
		if err != nil {
			return nil, err
		}
		c.own, c.exposed = &pair, open
	}
	return c, nil
}
