package control

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"fairlead"
)

func TestActorIsTheCallingProcess(t *testing.T) {
	d := newDesk()
	if _, err := Dial(serve(t, Config{Backend: d})).Reload(soon(t), false); err != nil {
		t.Fatal(err)
	}
	if got, want := d.said(), fmt.Sprintf("uid %d pid %d reloads, dry false", os.Getuid(), os.Getpid()); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOnlyTheGroupMayUseTheSocket(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("FAIRLEAD_NO_SKIP") != "" {
			t.Fatal("needs root to become another user (FAIRLEAD_NO_SKIP is set, so this is a failure)")
		}
		t.Skip("needs root to become another user; run the tests with sudo")
	}
	const uid, gid = 64123, 64124 // nobody's
	group, groupID := someGroup(t)

	// A place that the other user can reach, and a copy of this program there.
	dir, err := os.MkdirTemp("", "fairlead")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "control.test")
	copyFile(t, "/proc/self/exe", program)

	run := filepath.Join(dir, "run") // made by Listen, for the group
	path := filepath.Join(run, "control.sock")
	l, err := Listen(path, group)
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk()
	s := New(Config{Backend: d})
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	defer func() {
		s.Shutdown(soon(t))
		<-ended
	}()
	call := func(groups ...uint32) string {
		t.Helper()
		cmd := exec.CommandContext(soon(t), program)
		cmd.Env = []string{dialEnv + "=" + path}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if got, want := call(), fmt.Sprintf("code %q\n", fairlead.CodeNotAllowed); got != want {
		t.Errorf("a stranger: %s, want %s", got, want)
	}
	if err := os.Chmod(run, 0o755); err != nil { // now the socket's own mode alone decides
		t.Fatal(err)
	}
	if got, want := call(), fmt.Sprintf("code %q\n", fairlead.CodeNotAllowed); got != want {
		t.Errorf("a stranger who reaches the socket: %s, want %s", got, want)
	}
	if d.said() != "" {
		t.Errorf("a stranger got through: %s", d.said())
	}
	if err := os.Chmod(run, 0o750); err != nil {
		t.Fatal(err)
	}
	if got := call(groupID); got != "code \"\"\n" {
		t.Errorf("a member of the group: %s", got)
	}
	if got := d.said(); !strings.HasPrefix(got, fmt.Sprintf("uid %d pid ", uid)) {
		t.Errorf("the actor: %q", got)
	}
}

// someGroup is a group of this machine other than root's.
func someGroup(t *testing.T) (string, uint32) {
	t.Helper()
	for _, name := range []string{"daemon", "bin", "nogroup", "nobody", "users"} {
		if g, err := user.LookupGroup(name); err == nil {
			if n, err := strconv.ParseUint(g.Gid, 10, 32); err == nil && n != 0 {
				return name, uint32(n)
			}
		}
	}
	t.Fatal("this machine has none of the usual groups")
	return "", 0
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	r, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(w, r)
	if err2 := w.Close(); err == nil {
		err = err2
	}
	if err != nil {
		t.Fatal(err)
	}
}
