package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"fairlead"
)

// An authority gets certificates from an ACME authority (RFC 8555), which it
// convinces by TLS-ALPN-01 (RFC 8737) at the forward's own port. Strangers
// cannot make it ask for anything: names are those of the sentence, and only
// Obtain asks.
type authority struct {
	names     []string
	directory string
	manager   *autocert.Manager
	challenge *tls.Config // shown to the authority when it asks

	mu    sync.Mutex      // guards the rest
	until context.Context // connections to the authority end with it; nil: by themselves
	got   map[string]*x509.Certificate
	last  map[string]error // of the last try; nil: not tried
	busy  bool
	tries int
	next  time.Time // of the next try
}

// Pauses between tries, each twice the last.
const (
	firstPause = 30 * time.Second
	lastPause  = 6 * time.Hour
)

func newAuthority(w *fairlead.TLS, state string) (*authority, error) {
	if state == "" {
		return nil, fairlead.Problemf(fairlead.CodeACME, "there is no directory to keep certificates in, and tls-acme needs one")
	}
	a := &authority{
		names: w.ACME, directory: w.ACMEDirectory,
		got: map[string]*x509.Certificate{}, last: map[string]error{},
	}
	if a.directory == "" {
		a.directory = acme.LetsEncryptURL
	}
	u, err := url.Parse(a.directory)
	if err != nil {
		return nil, fairlead.Problemf(fairlead.CodeACME, "%q is not the address of an ACME directory", a.directory)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // it is asked twice a year
	transport.DialContext = a.dial
	if w.ACMECA != "" {
		roots, err := readPool(w.ACMECA)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS, // "tls-acme" says so
		Email:      w.ACMEEmail,
		HostPolicy: autocert.HostWhitelist(a.names...),
		// An authority for tests must not leave certificates for the real one.
		Cache: autocert.DirCache(filepath.Join(state, "acme", strings.ReplaceAll(u.Host, ":", "_"))),
		Client: &acme.Client{
			DirectoryURL: a.directory,
			UserAgent:    "fairlead",
			HTTPClient:   &http.Client{Transport: transport, Timeout: time.Minute},
		},
	}
	a.challenge = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{acme.ALPNProto},
		GetCertificate: a.manager.GetCertificate, SessionTicketsDisabled: true,
	}
	return a, nil
}

// dial connects to the authority. The manager takes no context for an order, so
// that it is the connections that end early with Obtain's.
func (a *authority) dial(ctx context.Context, network, address string) (net.Conn, error) {
	a.mu.Lock()
	until := a.until
	a.mu.Unlock()
	if until == nil { // the manager renews by itself
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(until, cancel)()
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		context.AfterFunc(until, func() { c.Close() })
	}
	return c, err
}

// isChallenge reports whether who offers these protocols is an ACME authority
// that wants its challenge answered.
func isChallenge(protocols []string) bool {
	return len(protocols) == 1 && protocols[0] == acme.ALPNProto
}

// IsChallenge reports whether a connection was an authority's question, which
// the handshake has answered.
func IsChallenge(s *tls.ConnectionState) bool { return s.NegotiatedProtocol == acme.ALPNProto }

// certificate is the one for the name that the client asks for, or for the
// first where it asks for none. It does not wait for one that is still to be
// got. For other names it is nil, and the certificates in files count.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		name = a.names[0]
	}
	if !slices.Contains(a.names, name) {
		return nil, nil
	}
	a.mu.Lock()
	got := a.got[name]
	a.mu.Unlock()
	if got == nil {
		return nil, fmt.Errorf("there is no certificate for %s yet", name)
	}
	return a.find(name)
}

// find has the manager find a certificate, or get one. Its key is always
// ECDSA, which every client of TLS 1.2 knows; otherwise a client could have a
// second one ordered.
func (a *authority) find(name string) (*tls.Certificate, error) {
	return a.manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName:       name,
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
		SupportedCurves:  []tls.CurveID{tls.CurveP256},
		CipherSuites:     []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	})
}

// Wants reports whether certificates are to be got now; the caller then calls
// Obtain.
func (s *Server) Wants(now time.Time) bool {
	if s.acme == nil {
		return false
	}
	a := s.acme
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy || now.Before(a.next) {
		return false
	}
	a.busy = true
	return true
}

// Obtain gets certificates that are missing, and looks at those that are
// there. It takes as long as the authority does, five minutes at most for each
// name, and ends early with ctx, when the authority is asked next at the latest.
func (s *Server) Obtain(ctx context.Context) {
	a := s.acme
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	a.until = ctx
	a.mu.Unlock()
	missing := 0
	for _, name := range a.names {
		if ctx.Err() != nil {
			break
		}
		cert, err := a.find(name)
		var leaf *x509.Certificate
		if err == nil {
			if leaf = cert.Leaf; leaf == nil {
				leaf, err = x509.ParseCertificate(cert.Certificate[0])
			}
		}
		a.mu.Lock()
		a.last[name] = err
		if err == nil {
			a.got[name] = leaf
		} else if a.got[name] == nil {
			missing++
		}
		a.mu.Unlock()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy, a.until = false, nil
	if missing == 0 {
		a.tries, a.next = 0, time.Now().Add(time.Hour) // the manager renews by itself; this sees it
		return
	}
	a.next = time.Now().Add(min(firstPause<<min(a.tries, 16), lastPause))
	a.tries++
}

func (a *authority) problem(now time.Time) *fairlead.Problem {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range a.names {
		if leaf := a.got[name]; leaf != nil {
			if p := expiry(leaf, "the certificate for "+name, now); p != nil {
				return p
			}
			continue
		}
		err := a.last[name]
		if err == nil {
			return warning(fairlead.CodeACME, "the certificate for %s is being got from %s", name, a.directory)
		}
		p := a.refusal(name, err)
		p.Warning = true
		p.Note("from", "%s", a.directory)
		p.Note("next", "tried again at %s", a.next.UTC().Format(time.TimeOnly+" MST"))
		p.Err = err
		return p
	}
	return nil
}

// lacking counts the names for which no certificate could be got, and those
// that have one.
func (a *authority) lacking() (failed, got int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range a.names {
		switch {
		case a.got[name] != nil:
			got++
		case a.last[name] != nil:
			failed++
		}
	}
	return failed, got
}

// refusal is why there is no certificate for name. Trouble on the way to the
// directory, and a directory that is none, have nothing to do with who is
// reached under the name.
func (a *authority) refusal(name string, err error) *fairlead.Problem {
	because := func(format string, args ...any) *fairlead.Problem {
		return fairlead.Problemf(fairlead.CodeACME, "there is no certificate for %s: "+format, append([]any{name}, args...)...)
	}
	other := func(p *fairlead.Problem) *fairlead.Problem {
		return p.Fix("name the directory of an ACME authority", "acme-directory URL")
	}
	var said *acme.Error
	var proof *acme.AuthorizationError
	var order *acme.OrderError
	var way *url.Error
	switch {
	case errors.As(err, &proof):
		return a.unproven(because, name, proof)
	case errors.As(err, &order) && order.Problem != nil:
		return because("the authority gave up the order: %s", words(order.Problem))
	case errors.As(err, &order):
		return because("the authority gave up the order, which is %s", order.Status)
	case errors.As(err, &said) && !strings.HasPrefix(said.ProblemType, errorType):
		return other(because("the directory answers as no ACME authority does: HTTP status %d", said.StatusCode))
	case errors.As(err, &said) && said.ProblemType == errorType+"rateLimited":
		return because("the authority has been asked too often: %s", words(said)).
			Fix("wait: it is tried again by itself", "")
	case errors.As(err, &said) && said.ProblemType == errorType+"externalAccountRequired":
		return other(because("the authority wants an account that was made before, and fairlead brings none"))
	case errors.As(err, &said):
		return because("the authority refuses: %s", words(said))
	case errors.As(err, &way):
		return a.unreached(because, other, way.Err)
	case isNoJSON(err), strings.Contains(err.Error(), "RFC 8555"):
		return other(because("what the directory answers is not the directory of an ACME authority (RFC 8555)"))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return because("the authority did not come to an end in time")
	}
	return because("%v", err)
}

// errorType begins the names of errors of RFC 8555, section 6.7.
const errorType = "urn:ietf:params:acme:error:"

// unproven is why the authority does not believe that the name leads here.
func (a *authority) unproven(because func(string, ...any) *fairlead.Problem, name string, err *acme.AuthorizationError) *fairlead.Problem {
	text := "it did not say why"
	for _, e := range err.Errors {
		var said *acme.Error
		if errors.As(e, &said) {
			text = words(said)
		}
	}
	return because("the authority could not see that it leads here: %s", text).
		Fix("have port 443 of the addresses of "+name+" lead here", "")
}

// unreached is what came between here and the directory.
func (a *authority) unreached(because func(string, ...any) *fairlead.Problem, other func(*fairlead.Problem) *fairlead.Problem, err error) *fairlead.Problem {
	var unknown x509.UnknownAuthorityError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &unknown):
		return because("the certificate of the directory is signed by nobody that is trusted here").
			Fix("have the certificate of its authority in a file, and name it", "acme-ca FILE")
	case errors.As(err, &verify):
		return other(because("the certificate of the directory is not accepted: %s", strings.TrimPrefix(verify.Err.Error(), "x509: ")))
	case errors.As(err, &record):
		return other(because("the directory does not speak TLS"))
	case errors.As(err, &dns):
		return other(because("the directory's host %s cannot be looked up: %s", dns.Name, dns.Err))
	case errors.Is(err, syscall.ECONNREFUSED):
		return other(because("the directory refuses connections"))
	case errors.As(err, &timeout) && timeout.Timeout():
		return because("the directory does not answer").
			Fix("let connections out to it, or name another", "acme-directory URL")
	case errors.As(err, &op) && op.Op == "dial":
		return because("the directory cannot be reached: %v", plainCause(op.Err)).
			Fix("let connections out to it, or name another", "acme-directory URL")
	case errors.As(err, &op):
		return other(because("the connection to the directory broke off: %v", plainCause(op.Err)))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return other(because("the directory ended the connection without an answer"))
	case errors.Is(err, context.Canceled):
		return because("it was broken off, as the program ends")
	}
	return other(because("the directory does not speak HTTP as an ACME authority does"))
}

func isNoJSON(err error) bool {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &kind) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// words are those of the authority, in one line of bounded length.
func words(e *acme.Error) string {
	text := strings.Join(strings.Fields(e.Detail), " ")
	if text == "" {
		text = strings.TrimPrefix(e.ProblemType, errorType)
	}
	const most = 300
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}
