package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// sealing has a forward show a certificate.
func sealing(cert, key string) func(*fairlead.Forward) {
	return func(f *fairlead.Forward) {
		f.Policy.TLS.Certs = append(f.Policy.TLS.Certs, fairlead.Certificate{Cert: cert, Key: key})
	}
}

// dialTLS is a client that trusts ca and asks for name.
func dialTLS(t testing.TB, address string, c *tls.Config) (*tls.Conn, error) {
	t.Helper()
	s := tls.Client(dial(t, address), c)
	if err := s.HandshakeContext(t.Context()); err != nil {
		return nil, err
	}
	return s, nil
}

func mustDialTLS(t testing.TB, address string, c *tls.Config) *tls.Conn {
	t.Helper()
	s, err := dialTLS(t, address, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClientsAreSpokenTLSWithAndHalfCloseIsCarried(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	peer := lab.Serve(t, lab.At{}, lab.EchoAfterEOF)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := mustDialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test"})
	if s := c.ConnectionState(); s.Version != tls.VersionTLS13 || s.CurveID != tls.X25519MLKEM768 {
		t.Errorf("version %x, key exchange %v", s.Version, s.CurveID)
	}
	sent := bytes.Repeat([]byte("half-close "), 50_000)
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back (%v)", len(got), len(sent), err)
	}
	if _, err := dialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
}

func TestTheCertificateIsTheOneForTheNameAskedFor(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	certA, keyA := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	certB, keyB := ca.Issue(t, "b", lab.Leaf{Names: []string{"*.b.test"}})
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(certA, keyA), sealing(certB, keyB))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for name, want := range map[string]string{"a.test": "a.test", "x.b.test": "*.b.test", "c.test": "a.test", "": "a.test"} {
		c := mustDialTLS(t, entryOf(f), &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != want {
			t.Errorf("%q is shown the certificate of %s", name, got)
		}
	}
}

// The end of the TCP stream alone is no end of the TLS stream: whoever can
// send a FIN could otherwise cut a message short.
func TestATruncatedStreamIsAReset(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	ended := make(chan error, 1)
	peer := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		_, err := io.ReadAll(v.Conn)
		ended <- err
	})
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	c := mustDialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test"})
	c.Write([]byte("half of a mess"))
	c.NetConn().(*net.TCPConn).CloseWrite()
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the target saw %v, and not a reset", err)
	}
	if b, err := io.ReadAll(c.NetConn()); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %q and %v", b, err)
	}
	eventually(t, "a client's reset", func() bool { return ev.ended(fairlead.ClientReset) })

	// From a target.
	server := tlsServer(t, cert, key, func(c *tls.Conn) {
		c.Write([]byte("half of an answ"))
		c.NetConn().(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c.NetConn())
	})
	g := wish(t, "out", fairlead.TCP, server, originating(ca.File, "a.test"), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{g})
	b, err := io.ReadAll(dial(t, entryOf(g)))
	if string(b) != "half of an answ" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("of a truncated answer the client saw %q and %v", b, err)
	}
	eventually(t, "a target's reset", func() bool { return ev.ended(fairlead.TargetReset) })

	// From a target that leaves so when the client is done, as many do.
	leaving := tlsServer(t, cert, key, func(c *tls.Conn) {
		io.Copy(io.Discard, c)
		c.NetConn().Close()
	})
	h := wish(t, "left", fairlead.TCP, leaving, originating(ca.File, "a.test"), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{h})
	for range 20 {
		d := dial(t, entryOf(h))
		d.CloseWrite()
		if b, err := io.ReadAll(d); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("of an end without that of TLS the client saw %q and %v", b, err)
		}
	}
	eventually(t, "the ends of all", func() bool {
		return ev.count(func(e fairlead.Event) bool { return isEnd(e) && e.Forward == "left" }) == 20
	})
	if n := ev.count(func(e fairlead.Event) bool {
		return isEnd(e) && e.Forward == "left" && e.Reason != fairlead.ClientClosed
	}); n > 0 {
		t.Errorf("of 20 connections that their clients closed, %d are told to have ended otherwise", n)
	}
}

// hears is what a client hears that says nothing. It may be reset before it
// knows that it is connected.
func hears(address string) ([]byte, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return io.ReadAll(c)
}

// originating has a forward speak TLS with its targets.
func originating(ca, name string) func(*fairlead.Forward) {
	return func(f *fairlead.Forward) {
		f.Policy.TLS.Target, f.Policy.TLS.TargetCA, f.Policy.TLS.TargetName = fairlead.TargetVerify, ca, name
	}
}

// tlsServer serves TLS at an address of its own until the test ends.
func tlsServer(t testing.TB, cert, key string, do func(*tls.Conn), change ...func(*tls.Config)) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}}
	for _, c := range change {
		c(cfg)
	}
	return lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		c := tls.Server(v.Conn, cfg)
		if c.HandshakeContext(context.Background()) == nil {
			do(c)
		}
	}).Address
}

func echoTLS(c *tls.Conn) {
	io.Copy(c, c)
	c.CloseWrite()
}

func TestTargetsAreSpokenTLSWith(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	us, ourKey := ca.Issue(t, "us", lab.Leaf{Subject: "us"})
	server := tlsServer(t, cert, key, echoTLS, func(c *tls.Config) {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	})
	r := newRelay(t, relay.Config{})
	f := wish(t, "out", fairlead.TCP, server, originating(ca.File, "a.test"), func(f *fairlead.Forward) {
		f.Policy.TLS.TargetCert, f.Policy.TLS.TargetKey = us, ourKey
		f.Policy.Check = fairlead.Check{How: "tcp", Every: time.Second}
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for range 3 { // the later ones resume a session
		c := dial(t, entryOf(f))
		sent := bytes.Repeat([]byte("to a target "), 30_000)
		go func() {
			c.Write(sent)
			c.CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d of %d bytes came back (%v)", len(got), len(sent), err)
		}
	}
	if s := r.Report()[0]; s.State != fairlead.Passing {
		t.Errorf("%s: %v", s.State, s.Problem)
	}
}

// Each kind of trouble with a target's certificate has its code and a way out,
// and counts as a failed dial: the next target serves.
func TestTroubleWithATargetsCertificateIsExplained(t *testing.T) {
	lab.CheckLeaks(t)
	ca, other := lab.NewAuthority(t, "ca"), lab.NewAuthority(t, "another ca")
	good, goodKey := ca.Issue(t, "good", lab.Leaf{Names: []string{"a.test"}})
	old, oldKey := ca.Issue(t, "old", lab.Leaf{Names: []string{"a.test"}, From: time.Now().Add(-48 * time.Hour), Until: time.Now().Add(-24 * time.Hour)})
	plain := lab.Serve(t, lab.At{}, lab.Banner("220 plain text\r\n")).Address
	silent := lab.Serve(t, lab.At{}, lab.HoldOpen).Address
	serve := func(cert, key string, change ...func(*tls.Config)) string {
		return tlsServer(t, cert, key, echoTLS, change...)
	}
	next := serve(good, goodKey)
	for name, c := range map[string]struct {
		target string
		tls    func(*fairlead.TLS)
		code   fairlead.Code
		fix    string
	}{
		"an authority that is not known": {serve(good, goodKey), func(w *fairlead.TLS) { w.TargetCA = other.File }, fairlead.CodeTargetUntrusted, "target-ca FILE"},
		"another name":                   {serve(good, goodKey), func(w *fairlead.TLS) { w.TargetName = "b.test" }, fairlead.CodeTargetOtherName, "target-name a.test"},
		"the target's own address":       {serve(good, goodKey), func(w *fairlead.TLS) { w.TargetName = "" }, fairlead.CodeTargetOtherName, "target-name a.test"},
		"expired":                        {serve(old, oldKey), nil, fairlead.CodeTargetExpired, ""},
		"plain text":                     {plain, nil, fairlead.CodeTargetPlain, "target-tls"},
		"silence":                        {silent, nil, fairlead.CodeTargetSilent, ""},
		"a certificate of ours in 1.2": {serve(good, goodKey, func(c *tls.Config) {
			c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12
		}), nil, fairlead.CodeTargetWantsCert, "target-cert FILE target-key FILE"},
		"a certificate of ours in 1.3": {serve(good, goodKey, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }), nil,
			fairlead.CodeTargetWantsCert, "target-cert FILE target-key FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelay(t, relay.Config{})
			f := wish(t, "out", fairlead.TCP, c.target, originating(ca.File, "a.test"), func(f *fairlead.Forward) {
				f.Policy.Connect = time.Second
				if c.tls != nil {
					c.tls(&f.Policy.TLS)
				}
			})
			r.Apply(t.Context(), []*fairlead.Forward{f})
			b, err := hears(entryOf(f))
			if len(b) > 0 || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client saw %q and %v", b, err)
			}
			var p *fairlead.Problem
			eventually(t, "a problem of the target", func() bool { p = r.Report()[0].Targets[0].Problem; return p != nil })
			if p.Code != c.code || !p.Warning {
				t.Errorf("got %s %s", p.Code, p.What)
			}
			fix := ""
			if len(p.Fixes) > 0 {
				fix = p.Fixes[0].Command
			}
			if fix != c.fix {
				t.Errorf("the way out is %q", fix)
			}
			if c.tls != nil || strings.HasSuffix(name, "1.3") {
				return
			}
			// With another target that is all right.
			to := netip.MustParseAddrPort(next)
			f.To = append(f.To, fairlead.Target{Host: to.Addr().String(), Ports: fairlead.PortList{{First: to.Port(), Last: to.Port()}}})
			f = &fairlead.Forward{Name: f.Name, Kind: f.Kind, At: f.At, To: f.To, Policy: f.Policy, Expr: f.Expr + " and another"}
			r.Apply(t.Context(), []*fairlead.Forward{f})
			conn := dial(t, entryOf(f))
			conn.Write([]byte("hello"))
			conn.CloseWrite()
			if b, err := io.ReadAll(conn); string(b) != "hello" {
				t.Errorf("the next target was not used: %q %v", b, err)
			}
		})
	}
}

func TestClientsThatMustShowACertificate(t *testing.T) {
	lab.CheckLeaks(t)
	ca, other := lab.NewAuthority(t, "ca"), lab.NewAuthority(t, "another ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	load := func(a *lab.Authority) tls.Certificate {
		pair, err := tls.LoadX509KeyPair(a.Issue(t, "me", lab.Leaf{Subject: "me"}))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), unchecked, func(f *fairlead.Forward) { f.Policy.TLS.ClientCA = ca.File })
	r.Apply(t.Context(), []*fairlead.Forward{f})
	says := func(own ...tls.Certificate) error {
		c, err := dialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test",
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(own) == 0 {
					return new(tls.Certificate), nil
				}
				return &own[0], nil // whatever authorities are asked for
			}})
		if err != nil {
			return err
		}
		c.Write([]byte("x"))
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	if err := says(load(ca)); err != nil {
		t.Errorf("who shows a certificate is turned away: %v", err)
	}
	if err := says(); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("who shows none is told %v", err)
	}
	if err := says(load(other)); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("who shows another authority's is told %v", err)
	}
	eventually(t, "both told", func() bool {
		return ev.count(func(e fairlead.Event) bool {
			return e.Reason == fairlead.NoTLS && e.Problem.Code == fairlead.CodeNoHandshake
		}) == 2
	})
	eventually(t, "one visit", func() bool { return len(r.Conns()) <= 1 })
}

// Who breaks the handshake off is told as that, with what was asked for: the
// name is what tells an operator which certificate is missed.
func TestAClientThatBreaksOffTheHandshakeIsTold(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	told := func(text string) {
		t.Helper()
		eventually(t, text, func() bool {
			return ev.count(func(e fairlead.Event) bool { return e.Problem != nil && strings.Contains(e.Problem.What, text) }) == 1
		})
	}
	if _, err := dialTLS(t, entryOf(f), &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "one.test"}); err == nil {
		t.Fatal("a client without roots was content")
	}
	told(`broke off the TLS handshake, as it does not accept our certificate: tls: bad certificate; it asked for "one.test"`)
	c := dial(t, entryOf(f))
	s := tls.Client(c, &tls.Config{ServerName: "two.test", InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error {
		c.Close()
		return errors.New("away")
	}})
	if err := s.HandshakeContext(t.Context()); err == nil {
		t.Fatal("the handshake came about")
	}
	told(`broke off the TLS handshake: it closed the connection; it asked for "two.test"`)
}

// What a client says that never comes to TLS reaches no target.
func TestStrangersToTLSAreTurnedAway(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), unchecked, func(f *fairlead.Forward) { f.Policy.TLS.ALPN = []string{"h2"} })
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for name, text := range map[string]string{"HTTP": "GET / HTTP/1.1\r\n\r\n", "half a hello": "\x16\x03\x01\x02\x00\x01\x00", "nothing": ""} {
		c := dial(t, entryOf(f))
		c.Write([]byte(text))
		c.CloseWrite()
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := dialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test", NextProtos: []string{"imap"}}); err == nil {
		t.Error("a protocol was spoken that is not offered")
	}
	eventually(t, "four turned away", func() bool {
		return ev.count(func(e fairlead.Event) bool { return e.Reason == fairlead.NoTLS }) == 4
	})
	if peer.Visited() {
		t.Error("a stranger reached the target")
	}
}

// Certificates are replaced while clients come and go, and none of them fails.
func TestNewCertificatesAreTakenUpUnderLoad(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	leaf := lab.Leaf{Names: []string{"a.test"}}
	cert, key := ca.Issue(t, "a", leaf)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	serial := func() (string, error) {
		c, err := tls.Dial("tcp", entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test"})
		if err != nil {
			return "", err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return "", err
		}
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := serial(); err != nil {
					t.Errorf("a client failed: %v", err)
					return
				}
			}
		})
	}
	live := mustDialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "a.test"})
	for i := range 3 {
		was, err := serial()
		if err != nil {
			t.Fatal(err)
		}
		ca.Issue(t, "a", leaf)
		if i == 1 {
			r.Apply(t.Context(), []*fairlead.Forward{f}) // as a reload does
		}
		eventually(t, "the new certificate", func() bool { now, _ := serial(); return now != was && now != "" })
	}
	// A broken one is told and changes nothing.
	was, _ := serial()
	os.WriteFile(cert, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600)
	var p *fairlead.Problem
	eventually(t, "a warning", func() bool { p = r.Report()[0].Problem; return p != nil })
	if p.Code != fairlead.CodeCertOld || !p.Warning || r.Report()[0].State != fairlead.Passing {
		t.Errorf("got %s %s", p.Code, p.What)
	}
	if now, err := serial(); now != was {
		t.Errorf("with broken files the certificate is %s and was %s (%v)", now, was, err)
	}
	ca.Issue(t, "a", leaf)
	eventually(t, "no warning", func() bool { return r.Report()[0].Problem == nil })
	close(stop)
	clients.Wait()
	live.Write([]byte("x"))
	if _, err := io.ReadFull(live, make([]byte, 1)); err != nil {
		t.Errorf("a connection did not live through it: %v", err)
	}
}

func TestFilesThatCannotServeKeepTheForwardFromListening(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	_, otherKey := ca.Issue(t, "b", lab.Leaf{Names: []string{"b.test"}})
	soon, soonKey := ca.Issue(t, "soon", lab.Leaf{Names: []string{"a.test"}, From: time.Now().Add(-60 * 24 * time.Hour), Until: time.Now().Add(72 * time.Hour)})
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	r := newRelay(t, relay.Config{})
	for name, c := range map[string]struct {
		change func(*fairlead.Forward)
		code   fairlead.Code
		what   string
		state  fairlead.State
	}{
		"missing":         {sealing(cert+".not", key), fairlead.CodeCertificate, "cannot be read: no such file", fairlead.Broken},
		"another's key":   {sealing(cert, otherKey), fairlead.CodeCertificate, "is not the one of the certificate", fairlead.Broken},
		"no key":          {sealing(cert, ""), fairlead.CodeCertificate, "holds no key", fairlead.Broken},
		"no certificate":  {sealing(key, key), fairlead.CodeCertificate, "holds no certificate", fairlead.Broken},
		"no authority":    {func(f *fairlead.Forward) { sealing(cert, key)(f); f.Policy.TLS.ClientCA = key }, fairlead.CodeCertificate, "holds no certificate of an authority", fairlead.Broken},
		"target's":        {originating(key, ""), fairlead.CodeCertificate, "holds no certificate of an authority", fairlead.Broken},
		"no state":        {func(f *fairlead.Forward) { f.Policy.TLS.ACME = []string{"a.test"} }, fairlead.CodeACME, "there is no directory", fairlead.Broken},
		"soon to be over": {sealing(soon, soonKey), fairlead.CodeCertExpires, "expires soon", fairlead.Listening},
	} {
		f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, c.change)
		f.Expr += " " + name
		s := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
		if s.Problem == nil || s.Problem.Code != c.code || !strings.Contains(s.Problem.What, c.what) || s.State != c.state {
			t.Errorf("%s: %s %v", name, s.State, s.Problem)
		}
		if (c.state == fairlead.Broken) != (len(s.Bound) == 0) {
			t.Errorf("%s: bound to %v", name, s.Bound)
		}
		if err := relay.CheckTLS(f, ""); (err != nil) != (c.state == fairlead.Broken) {
			t.Errorf("%s: the check says %v", name, err)
		}
	}
	// It begins by itself when the files are right.
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, sealing(cert, otherKey))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	b, err := os.ReadFile(key)
	if err == nil {
		err = os.WriteFile(otherKey, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
	if len(s.Bound) != 1 || s.Problem != nil && s.Problem.Code != fairlead.CodeKeyOpen {
		t.Errorf("%s %v", s.State, s.Problem)
	}
	os.Chmod(otherKey, 0o644) // whatever the umask is
	eventually(t, "a warning of an open key", func() bool {
		p := r.Report()[0].Problem
		return p != nil && p.Code == fairlead.CodeKeyOpen
	})
}

// The headers of the PROXY protocol stand before TLS on either side.
func TestHeadersStandBeforeTLS(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	peer := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		var head []byte
		for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\n")); head = append(head, b...) {
			if _, err := v.Conn.Read(b); err != nil {
				return
			}
		}
		c := tls.Server(v.Conn, &tls.Config{Certificates: []tls.Certificate{pair}})
		body, err := io.ReadAll(c)
		fmt.Fprintf(c, "%s%s %v", head, body, err)
		c.CloseWrite()
	})
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), originating(ca.File, "a.test"), func(f *fairlead.Forward) {
		f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		f.Policy.ProxyProtocol = 1
		f.Policy.Check = fairlead.Check{How: "tcp", Every: 100 * time.Millisecond}
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	raw := dial(t, entryOf(f))
	raw.Write([]byte("PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n"))
	c := tls.Client(raw, &tls.Config{RootCAs: ca.Pool, ServerName: "a.test"})
	c.Write([]byte("hello"))
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if want := "PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\nhello <nil>"; string(got) != want || err != nil {
		t.Errorf("got %q (%v)\nwant %q", got, err, want)
	}
	eventually(t, "a check that passes", func() bool { return r.Report()[0].Targets[0].Up })
}

// A client that begins a handshake and never ends it is held no longer than
// the bound, and others are served meanwhile.
func TestOneSourceCannotHoldAllHandshakes(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	var ev events
	r := newRelay(t, relay.Config{Descriptors: 600, Watch: ev.watch})
	f := wish(t, "web", fairlead.TCP, peer.Address, sealing(cert, key), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{f})
	for range 60 {
		if c, err := net.Dial("tcp", entryOf(f)); err == nil { // one too many may be reset before it is connected
			defer c.Close()
		}
	}
	eventually(t, "a source that is at its limit", func() bool { return ev.ended(fairlead.Limited) })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	raw, err := d.DialContext(t.Context(), "tcp", entryOf(f))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{RootCAs: ca.Pool, ServerName: "a.test"})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Errorf("another source: %v", err)
	}
}

// Real programs on both sides.
func TestOpenSSLAndCurlArePeers(t *testing.T) {
	openssl, curl := lab.NeedTool(t, "openssl"), lab.NeedTool(t, "curl")
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	mine, myKey := ca.Issue(t, "me", lab.Leaf{Subject: "me"})

	// openssl as the target: it demands our certificate and answers HTTP.
	at := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 1)
	server := exec.CommandContext(t.Context(), openssl, "s_server", "-accept", at.String(), "-cert", cert, "-key", key,
		"-Verify", "1", "-verify_return_error", "-CAfile", ca.File, "-www", "-quiet")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	r := newRelay(t, relay.Config{})
	f := wish(t, "both", fairlead.TCP, at.String(), sealing(cert, key), originating(ca.File, "a.test"), unchecked, func(f *fairlead.Forward) {
		f.Policy.TLS.ClientCA = ca.File
		f.Policy.TLS.ALPN = []string{"http/1.1"}
		f.Policy.TLS.TargetCert, f.Policy.TLS.TargetKey = mine, myKey
	})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	_, port, _ := net.SplitHostPort(entryOf(f))
	ask := func(more ...string) (string, error) {
		args := append([]string{"-sS", "--max-time", "20", "--cacert", ca.File, "--resolve", "a.test:" + port + ":127.0.0.1"}, more...)
		out, err := exec.CommandContext(t.Context(), curl, append(args, "https://a.test:"+port+"/")...).CombinedOutput()
		return string(out), err
	}
	eventually(t, "openssl serves", func() bool {
		out, err := ask("--cert", mine, "--key", myKey)
		return err == nil && strings.Contains(out, "s_server")
	})
	if out, err := ask(); err == nil || !strings.Contains(out, "certificate required") {
		t.Errorf("curl without a certificate: %v %s", err, out)
	}

	// openssl as the client, of 1.2 and 1.3, that waits for the server to end.
	peer := lab.Serve(t, lab.At{}, lab.Banner("from the server first"))
	g := wish(t, "first", fairlead.TCP, peer.Address, sealing(cert, key), unchecked)
	r.Apply(t.Context(), []*fairlead.Forward{f, g})
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		c := exec.CommandContext(t.Context(), openssl, "s_client", "-connect", entryOf(g), "-servername", "a.test", version,
			"-CAfile", ca.File, "-verify_return_error", "-quiet", "-ign_eof")
		c.Stdin = strings.NewReader("hello\n")
		out, err := c.Output()
		if err != nil || !strings.Contains(string(out), "from the server first") {
			t.Errorf("s_client %s: %v %s", version, err, out)
		}
	}
}

// HAProxy on both sides: it introduces its clients and speaks TLS with us, and
// we do both with it.
func TestHAProxyIsAPeerOnBothSides(t *testing.T) {
	haproxy := lab.NeedTool(t, "haproxy")
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test"}})
	mine, myKey := ca.Issue(t, "me", lab.Leaf{Subject: "me"})
	both := func(cert, key string) string { // HAProxy wants both in a file
		c, err := os.ReadFile(cert)
		if err != nil {
			t.Fatal(err)
		}
		k, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		path := cert + ".both"
		if err := os.WriteFile(path, append(c, k...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	peer := lab.Serve(t, lab.At{}, lab.EchoAfterEOF)
	at := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 2)
	entry, exit := at.Port(), at.Port()+1
	f := wish(t, "both", fairlead.TCP, fmt.Sprintf("127.0.0.1:%d", exit), sealing(cert, key), originating(ca.File, "a.test"), unchecked, func(f *fairlead.Forward) {
		f.Policy.AcceptProxy = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		f.Policy.ProxyProtocol = 2
		f.Policy.TLS.ClientCA = ca.File
		f.Policy.TLS.TargetCert, f.Policy.TLS.TargetKey = mine, myKey
	})
	config := fmt.Sprintf(`
defaults
  mode tcp
  timeout connect 10s
  timeout client 20s
  timeout server 20s
listen in
  bind 127.0.0.1:%d
  server f %s ssl verify required ca-file %s sni str(a.test) verifyhost a.test crt %s send-proxy-v2
listen out
  bind 127.0.0.1:%d accept-proxy ssl crt %s verify required ca-file %s
  server p %s
`, entry, entryOf(f), ca.File, both(mine, myKey), exit, both(cert, key), ca.File, peer.Address)
	file := cert + ".cfg"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	run := exec.Command(haproxy, "-db", "-f", file)
	run.Stdout, run.Stderr = &out, &out
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		run.Process.Kill()
		run.Wait()
		if t.Failed() {
			t.Logf("haproxy: %s", &out)
		}
	})
	var ev events
	r := newRelay(t, relay.Config{Watch: ev.watch})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	eventually(t, "haproxy listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", entry))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	c := dial(t, fmt.Sprintf("127.0.0.1:%d", entry))
	sent := bytes.Repeat([]byte("through two of them "), 50_000)
	go func() {
		c.Write(sent)
		c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back (%v)", len(got), len(sent), err)
	}
	if n := ev.count(func(e fairlead.Event) bool {
		return e.Kind == fairlead.EventOpen && e.Conn.Client == c.LocalAddr().String()
	}); n != 1 {
		t.Error("the client that HAProxy introduced is not the one that is told")
	}
}

// The name, the protocol and, once it is decrypted, the HTTP host of a client
// lead it to its target.
func TestWhatAClientAsksForWithinTLSLeadsIt(t *testing.T) {
	lab.CheckLeaks(t)
	ca := lab.NewAuthority(t, "ca")
	cert, key := ca.Issue(t, "a", lab.Leaf{Names: []string{"a.test", "b.test", "c.test", "d.test"}})
	answers := func(text string) *lab.Peer {
		return lab.Serve(t, lab.At{}, func(v *lab.Visit) {
			b, _ := io.ReadAll(v.Conn)
			fmt.Fprintf(v.Conn, "%s %s", text, b)
		})
	}
	target := func(text string, c fairlead.Target) fairlead.Target {
		at := netip.MustParseAddrPort(answers(text).Address)
		c.Host, c.Ports = at.Addr().String(), fairlead.PortList{{First: at.Port(), Last: at.Port()}}
		return c
	}
	r := newRelay(t, relay.Config{})
	f := wish(t, "web", fairlead.TCP, "127.0.0.1:1", sealing(cert, key), unchecked, func(f *fairlead.Forward) {
		f.Policy.TLS.ALPN = []string{"x", "y"}
		f.To = []fairlead.Target{
			target("by name", fairlead.Target{SNI: []string{"a.test"}}),
			target("by host", fairlead.Target{HTTPHost: []string{"www.c.test"}}),
			target("by protocol", fairlead.Target{ALPN: []string{"y"}}),
			target("rest", fairlead.Target{}),
		}
	})
	if err := r.Fits(f); err != nil {
		t.Fatal(err)
	}
	r.Apply(t.Context(), []*fairlead.Forward{f})
	const http = "GET / HTTP/1.1\r\nHost: www.c.test\r\n\r\n"
	for _, c := range []struct{ name, protocol, says, want string }{
		{"a.test", "", "hello", "by name hello"},
		{"b.test", "y", "hello", "by protocol hello"},
		{"c.test", "", http, "by host " + http},
		{"d.test", "x", "hello", "rest hello"},
	} {
		cfg := &tls.Config{RootCAs: ca.Pool, ServerName: c.name}
		if c.protocol != "" {
			cfg.NextProtos = []string{c.protocol}
		}
		s := mustDialTLS(t, entryOf(f), cfg)
		s.Write([]byte(c.says))
		s.CloseWrite()
		if got, err := io.ReadAll(s); string(got) != c.want || err != nil {
			t.Errorf("%s: got %q (%v)", c.name, got, err)
		}
	}
	f.Policy.TLS.ALPN = nil
	if p := fairlead.AsProblem(r.Fits(f)); p == nil || p.Code != fairlead.CodeIncomplete {
		t.Errorf("conditions on a protocol that is not offered: %v", p)
	}
}
