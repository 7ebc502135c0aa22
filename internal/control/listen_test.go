package control

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead"
)

// stranger is a socket whose owner gives every caller the same answer.
func stranger(t *testing.T, answer string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stranger.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			io.WriteString(c, answer)
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return path
}

func TestSocketHasItsMode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "fairlead")
	path := filepath.Join(dir, "control.sock")
	l, err := Listen(path, "no such group")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantMode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		wantMode = 0o750
	}
	for name, want := range map[string]fs.FileMode{dir: wantMode, path: 0o660} {
		if info, err := os.Lstat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("the directory has %v, %v", names, err)
	}
}

func TestDirectoryOfOthersIsLeftAsItIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "control.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// killed leaves a socket behind as kill -9 does.
func killed(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestSocketOfAKilledServiceIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	killed(t, path)
	if _, err := Dial(path).Version(soon(t)); codeOf(err) != fairlead.CodeNoService {
		t.Errorf("asking at a dead socket: %v", err)
	}
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestLiveServiceIsNamed(t *testing.T) {
	d := newDesk()
	path := serve(t, Config{Backend: d})
	for range 3 {
		_, err := Listen(path, "")
		if codeOf(err) != fairlead.CodeServiceRunning {
			t.Fatalf("%v", err)
		}
		if p := fairlead.AsProblem(err); !strings.Contains(p.What, path) || len(p.Fixes) == 0 {
			t.Errorf("%+v", p)
		}
	}
	if _, err := Dial(path).Version(soon(t)); err != nil {
		t.Errorf("the live service suffered: %v", err)
	}
}

func TestWhatIsNoSocketIsNeverTouched(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, "dead.sock")
	killed(t, dead)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dead, link); err != nil {
		t.Fatal(err)
	}
	loose := filepath.Join(dir, "loose")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), loose); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, link, loose, dir} {
		if l, err := Listen(path, ""); codeOf(err) != fairlead.CodePathInUse {
			t.Errorf("%s: %v, %v", path, l, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if b, err := os.ReadFile(plain); err != nil || string(b) != "precious" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := Listen(filepath.Join(plain, "control.sock"), ""); codeOf(err) != fairlead.CodeListenFailed {
		t.Errorf("below a file: %v", err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 120)), ""); codeOf(err) != fairlead.CodeListenFailed {
		t.Errorf("too long a name: %v", err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*.lock")); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

func TestOfServicesThatStartTogetherOneWins(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "control.sock")
		killed(t, path)
		var mu sync.Mutex // guards won
		var won []net.Listener
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := Listen(path, "")
				if err != nil {
					if codeOf(err) != fairlead.CodeServiceRunning {
						t.Errorf("%v: %v", err, fairlead.AsProblem(err).Notes)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				won = append(won, l)
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d services at one socket", len(won))
		}
		won[0].Close()
	}
}

func TestNoServiceAndNoAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	_, err := Dial(path).Status(soon(t))
	p := fairlead.AsProblem(err)
	if codeOf(err) != fairlead.CodeNoService || !strings.Contains(p.What, path) || len(p.Fixes) < 2 || p.Fixes[0].Command != "fairlead up" {
		t.Errorf("%+v", p)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cause is lost: %v", p.Err)
	}
	l, err := Listen(path, "") // and nobody serves
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(path).Status(ctx); codeOf(err) != fairlead.CodeNoService || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
