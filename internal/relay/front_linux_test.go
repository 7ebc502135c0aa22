package relay_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/relay"
)

// nginx serves plain HTTP and, at the next port, TLS; it answers with the name
// that it was asked for.
func nginx(t *testing.T) (plain, secure string) {
	t.Helper()
	program := lab.NeedTool(t, "nginx")
	dir := t.TempDir()
	cert := certificate()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := lab.FreePorts(t, nil, parseAddr("127.0.0.1"), 2)
	plain = first.String()
	secure = fmt.Sprintf("127.0.0.1:%d", first.Port()+1)
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr crit;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen %[2]s; return 200 "plain $host"; }
  server { listen %[3]s ssl; ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; return 200 "secure $ssl_server_name"; }
}
`, dir, plain, secure)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(t, "nginx listens", func() bool {
		c, err := net.Dial("tcp", secure)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return plain, secure
}

// output is what a client program prints.
func output(t *testing.T, stdin string, words ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, lab.NeedTool(t, words[0]), words[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, _ := cmd.Output() // what it printed tells more than its exit code
	return string(out)
}

// curl, openssl and ssh, each at its server behind one port.
func TestProgramsFindTheirServersBehindOnePort(t *testing.T) {
	lab.NeedTool(t, "curl")
	lab.NeedTool(t, "openssl")
	lab.NeedTool(t, "ssh")
	plain, secure := nginx(t)
	app := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		c := tls.Server(v.Conn, &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2"}})
		if c.HandshakeContext(t.Context()) == nil {
			fmt.Fprintf(c, "app %s %s", c.ConnectionState().ServerName, c.ConnectionState().NegotiatedProtocol)
			c.Close()
		}
	})
	banners := make(chan string, 1)
	door := lab.Serve(t, lab.At{}, func(v *lab.Visit) {
		line, _ := bufio.NewReader(v.Conn).ReadString('\n')
		banners <- line
	})
	rest := bannerPeer(t, "220 mail.example.net")
	r := newRelay(t, relay.Config{})
	// Programs may be slow to begin; one that never does waits as long.
	f := mixed(t, 3*time.Second, to(door.Address, protocol("ssh")), to(secure, sni("www.example.net")), to(app.Address, sni("*.example.net")),
		to(plain, httpHost("www.example.net", "127.0.0.1")), to(rest.Address))
	r.Apply(t.Context(), []*fairlead.Forward{f})
	port := f.At.Ports.String()

	curl := []string{"curl", "-sk", "--max-time", "10", "--resolve", "www.example.net:" + port + ":127.0.0.1"}
	for _, c := range []struct{ got, want string }{
		{output(t, "", append(curl, "http://www.example.net:"+port+"/")...), "plain www.example.net"},
		{output(t, "", append(curl, "http://127.0.0.1:"+port+"/")...), "plain 127.0.0.1"},
		{output(t, "", append(curl, "https://www.example.net:"+port+"/")...), "secure www.example.net"},
		{output(t, "GET / HTTP/1.0\r\n\r\n", "openssl", "s_client", "-quiet", "-connect", "127.0.0.1:"+port, "-servername", "www.example.net"), "secure www.example.net"},
		{output(t, "", "openssl", "s_client", "-quiet", "-connect", "127.0.0.1:"+port, "-servername", "a.example.net", "-alpn", "h2"), "app a.example.net h2"},
	} {
		if !strings.HasSuffix(strings.TrimSpace(c.got), c.want) {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
	output(t, "", "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", port, "127.0.0.1", "true")
	select {
	case line := <-banners:
		if !strings.HasPrefix(line, "SSH-2.0-") {
			t.Errorf("the ssh server heard %q", line)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody came to the ssh server")
	}
	silent := dial(t, entryOf(f))
	if line, err := io.ReadAll(silent); string(line) != "220 mail.example.net" {
		t.Errorf("a mail client heard %q (%v)", line, err)
	}
}
