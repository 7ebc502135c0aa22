package kernel

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// ftpServer runs a real server on h, which serves one file.
func ftpServer(t *testing.T, h *lab.Host, port int) (content string) {
	t.Helper()
	lab.NeedTool(t, "vsftpd")
	// The root directory of strangers may not be one that they can write to.
	dir, err := os.MkdirTemp("/var/tmp", "fairlead-ftp-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	content = strings.Repeat("what the file holds\n", 20000)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o444); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	conf := filepath.Join(t.TempDir(), "vsftpd.conf")
	text := fmt.Sprintf(`listen=NO
listen_ipv6=YES
listen_port=%d
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root=%s
secure_chroot_dir=%s
run_as_launching_user=NO
ftp_username=daemon
seccomp_sandbox=NO
isolate_network=NO
connect_from_port_20=YES
xferlog_enable=NO
`, port, dir, empty)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t, "vsftpd", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := h.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
		if err == nil {
			c.Close()
			return content
		}
		if time.Now().After(end) {
			t.Fatalf("vsftpd does not listen: %v", err)
		}
	}
}

// fetch gets the file with lftp, and says whether that worked.
func fetch(t *testing.T, h *lab.Host, at, settings, content string) error {
	t.Helper()
	lab.NeedTool(t, "lftp")
	// lftp would hide a wrong address of the server by mending it.
	script := "set net:max-retries 1; set net:timeout 4; set net:persist-retries 0; set ftp:fix-pasv-address no; set ssl:verify-certificate no; " +
		"set ftp:ssl-allow no; " + settings + "; cat file; bye"
	cmd := h.Command(t, "lftp", "--norc", "-c", "open ftp://"+at+"; "+script)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	if err == nil && string(out) != content {
		err = fmt.Errorf("%d bytes came, and not those of the file (%d)", len(out), len(content))
	}
	return err
}

func TestFTPWorksThroughAPortOfAnotherNumber(t *testing.T) {
	g := newTown(t, "nat wan:2121 to "+lab.Inside4+":21 alg ftp", "nat wan:2122 to "+lab.Inside4+":21",
		"nat wan:2123 to ["+lab.Inside6+"]:21 alg ftp", "share lan to wan")
	content := ftpServer(t, g.Inside, 21)
	four, six := lab.WAN4+":2121", "["+lab.WAN6+"]:2123"
	for _, how := range []struct{ name, at, settings string }{
		{"passive", four, "set ftp:passive-mode true; set ftp:prefer-epsv no"},
		{"extended passive", four, "set ftp:passive-mode true; set ftp:prefer-epsv yes"},
		{"active", four, "set ftp:passive-mode false"},
		{"passive by IPv6", six, "set ftp:passive-mode true"},
		{"active by IPv6", six, "set ftp:passive-mode false"},
	} {
		t.Run(how.name, func(t *testing.T) {
			if err := fetch(t, g.Outside, how.at, how.settings, content); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("not without alg", func(t *testing.T) {
		if err := fetch(t, g.Outside, lab.WAN4+":2122", "set ftp:passive-mode true; set ftp:prefer-epsv no", content); err == nil {
			t.Error("a forward that does not say alg has its connections read")
		}
	})
}

func TestFTPOfThisHostWorksThroughAnotherPort(t *testing.T) {
	g := newTown(t, "nat wan:2121 to self:21 alg ftp", "share lan to wan")
	content := ftpServer(t, g.Gateway.Gateway, 21)
	for _, settings := range []string{"set ftp:passive-mode true; set ftp:prefer-epsv no", "set ftp:passive-mode false"} {
		if err := fetch(t, g.Outside, lab.WAN4+":2121", settings, content); err != nil {
			t.Errorf("%s: %v", settings, err)
		}
	}
}
