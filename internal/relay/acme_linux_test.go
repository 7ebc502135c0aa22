package relay_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// pebble is an ACME authority for tests (github.com/letsencrypt/pebble), which
// asks its questions at tlsPort of 127.0.0.1 whatever the name. It returns the
// address of its directory, the file of the root of its web server, and what
// fetches the root of its certificates.
func pebble(t *testing.T, tlsPort uint16) (directory, rootFile string, root func() *x509.CertPool) {
	t.Helper()
	program, names := lab.NeedTool(t, "pebble"), lab.NeedTool(t, "pebble-challtestsrv")
	ca := lab.NewAuthority(t, "pebble's web server")
	cert, key := ca.Issue(t, "pebble", lab.Leaf{Names: []string{"127.0.0.1"}})
	base := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 4)
	at := func(i uint16) string { return fmt.Sprintf("127.0.0.1:%d", base.Port()+i) }
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": at(0), "managementListenAddress": at(1), "certificate": cert, "privateKey": key,
		"httpPort": 5002, "tlsPort": tlsPort,
	}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pebble.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*exec.Cmd{
		exec.Command(names, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", at(2), "-management", at(3),
			"-http01", "", "-https01", "", "-tlsalpn01", ""),
		exec.Command(program, "-config", file, "-dnsserver", at(2)),
	} {
		c.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Process.Kill()
			c.Wait()
		})
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool}, DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	directory = "https://" + at(0) + "/dir"
	eventually(t, "pebble serves", func() bool {
		r, err := client.Get(directory)
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})
	return directory, ca.File, func() *x509.CertPool {
		pool := x509.NewCertPool()
		r, err := client.Get("https://" + at(1) + "/roots/0")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || !pool.AppendCertsFromPEM(b) {
			t.Fatalf("pebble's root: %v %q", err, b)
		}
		return pool
	}
}

func TestACertificateIsGotFromAnACMEAuthority(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	clients := lab.NewAuthority(t, "clients")
	mine, err := tls.LoadX509KeyPair(clients.Issue(t, "me", lab.Leaf{Subject: "me"}))
	if err != nil {
		t.Fatal(err)
	}
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, func(f *fairlead.Forward) {
		f.Policy.TLS.ACME = []string{"www.fairlead.test", "fairlead.test"}
		f.Policy.TLS.ACMEEmail = "ops@fairlead.test"
		f.Policy.TLS.ClientCA = clients.File // which the authority does not belong to
	})
	directory, rootFile, root := pebble(t, f.At.Ports[0].First)
	f.Policy.TLS.ACMEDirectory, f.Policy.TLS.ACMECA = directory, rootFile
	state := t.TempDir()
	r := newRelay(t, relay.Config{State: state})
	s := r.Apply(t.Context(), []*fairlead.Forward{f})[0]
	if s.Problem == nil || s.Problem.Code != fairlead.CodeACME || !s.Problem.Warning || len(s.Bound) != 1 {
		t.Errorf("before there is a certificate: %s %v", s.State, s.Problem)
	}
	eventually(t, "certificates", func() bool {
		s = r.Report()[0]
		return s.Problem == nil
	})
	pool := root()
	serial := ""
	for _, name := range f.Policy.TLS.ACME {
		c := mustDialTLS(t, entryOf(f), &tls.Config{RootCAs: pool, ServerName: name, Certificates: []tls.Certificate{mine}})
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		serial = c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	if _, err := dialTLS(t, entryOf(f), &tls.Config{RootCAs: pool, ServerName: "other.test"}); err == nil {
		t.Error("a certificate was shown for another name")
	}
	// Another life of the program finds what was got.
	again := newRelay(t, relay.Config{State: state})
	r.Apply(t.Context(), nil)
	again.Apply(t.Context(), []*fairlead.Forward{f})
	eventually(t, "the certificate that was kept", func() bool { return again.Report()[0].Problem == nil })
	c := mustDialTLS(t, entryOf(f), &tls.Config{RootCAs: pool, ServerName: "fairlead.test", Certificates: []tls.Certificate{mine}})
	if got := c.ConnectionState().PeerCertificates[0].SerialNumber.String(); got != serial {
		t.Errorf("it got another certificate: %s, not %s", got, serial)
	}
	if info, err := os.Stat(filepath.Join(state, "acme")); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("the directory of keys: %v %v", info.Mode(), err)
	}
}

// A directory that is none is told as that, with what would mend it, and the
// forward that has no certificate to show is broken.
func TestAnACMEDirectoryThatGivesNothingIsTold(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	page := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	trusted := func(h http.HandlerFunc) (string, string) {
		s := httptest.NewTLSServer(h)
		t.Cleanup(s.Close)
		file := filepath.Join(t.TempDir(), "root.pem")
		root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := os.WriteFile(file, root, 0o600); err != nil {
			t.Fatal(err)
		}
		return s.URL, file
	}
	for name, c := range map[string]struct {
		at        func() (directory, root string)
		says, fix string
	}{
		"not there": {func() (string, string) { return "https://" + lab.Refused(t, lab.At{}) + "/dir", "" }, "refuses connections", "acme-directory URL"},
		"a stranger": {func() (string, string) {
			url, _ := trusted(page(200, "{}"))
			return url, ""
		}, "signed by nobody that is trusted here", "acme-ca FILE"},
		"plain": {func() (string, string) {
			return "https://" + lab.Serve(t, lab.At{}, lab.Banner("SSH-2.0-x\r\n")).Address, ""
		}, "does not speak TLS", "acme-directory URL"},
		"no such page":   {func() (string, string) { return trusted(page(404, "<html>no</html>")) }, "HTTP status 404", "acme-directory URL"},
		"a page":         {func() (string, string) { return trusted(page(200, "<html>hello</html>")) }, "not the directory of an ACME authority", "acme-directory URL"},
		"something else": {func() (string, string) { return trusted(page(200, "{}")) }, "not the directory of an ACME authority", "acme-directory URL"},
		"a refusal": {func() (string, string) {
			return trusted(page(403, `{"type":"urn:ietf:params:acme:error:unauthorized","detail":"not today"}`))
		}, "the authority refuses: not today", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, func(f *fairlead.Forward) {
				f.Policy.TLS.ACME = []string{"www.fairlead.test"}
				f.Policy.TLS.ACMEDirectory, f.Policy.TLS.ACMECA = c.at()
			})
			r := newRelay(t, relay.Config{State: t.TempDir()})
			r.Apply(t.Context(), []*fairlead.Forward{f})
			var s fairlead.Status
			eventually(t, "a problem", func() bool {
				s = r.Report()[0]
				return s.Problem != nil && s.Problem.Code == fairlead.CodeACME && s.Problem.Err != nil
			})
			fix := ""
			if len(s.Problem.Fixes) > 0 {
				fix = s.Problem.Fixes[0].Command
			}
			if s.State != fairlead.Broken || s.Problem.Warning || !strings.Contains(s.Problem.What, c.says) || fix != c.fix {
				t.Errorf("got %s: %s, %q\n(%v)", s.State, s.Problem.What, fix, s.Problem.Err)
			}
			if _, err := dialTLS(t, entryOf(f), &tls.Config{InsecureSkipVerify: true, ServerName: "www.fairlead.test"}); err == nil {
				t.Error("a connection came about without a certificate")
			}
		})
	}
}

// Where other certificates serve, the forward is partial.
func TestACertificateThatIsMissingLeavesTheOthers(t *testing.T) {
	lab.CheckLeaks(t)
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	ca := lab.NewAuthority(t, "files")
	cert, key := ca.Issue(t, "other", lab.Leaf{Names: []string{"other.test"}})
	f := wish(t, "web", fairlead.TCP, peer.Address, unchecked, func(f *fairlead.Forward) {
		f.Policy.TLS.Certs = []fairlead.Certificate{{Cert: cert, Key: key}}
		f.Policy.TLS.ACME = []string{"www.fairlead.test"}
		f.Policy.TLS.ACMEDirectory = "https://" + lab.Refused(t, lab.At{}) + "/dir"
	})
	r := newRelay(t, relay.Config{State: t.TempDir()})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	eventually(t, "partial", func() bool {
		s := r.Report()[0]
		return s.State == fairlead.Partial && s.Problem != nil && s.Problem.Code == fairlead.CodeACME
	})
	mustDialTLS(t, entryOf(f), &tls.Config{RootCAs: ca.Pool, ServerName: "other.test"})
}

// An authority that never answers keeps nobody from ending.
func TestTheRelayClosesWhileAnACMEAuthorityIsAsked(t *testing.T) {
	lab.CheckLeaks(t)
	var asked atomic.Int64
	authority := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		<-r.Context().Done()
	}))
	t.Cleanup(authority.Close)
	rootFile := filepath.Join(t.TempDir(), "root.pem")
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate().Raw})
	if err := os.WriteFile(rootFile, root, 0o600); err != nil {
		t.Fatal(err)
	}
	f := wish(t, "web", fairlead.TCP, lab.Refused(t, lab.At{}), unchecked, func(f *fairlead.Forward) {
		f.Policy.TLS.ACME = []string{"www.fairlead.test"}
		f.Policy.TLS.ACMEDirectory, f.Policy.TLS.ACMECA = authority.URL, rootFile
	})
	r := newRelay(t, relay.Config{State: t.TempDir()})
	r.Apply(t.Context(), []*fairlead.Forward{f})
	eventually(t, "the authority is asked", func() bool { return asked.Load() > 0 })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.Close()
	}()
	eventually(t, "the relay has closed", func() bool {
		select {
		case <-closed:
			return true
		default:
			return false
		}
	})
}
