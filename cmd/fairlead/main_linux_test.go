package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

var (
	update = flag.Bool("update", false, "write the golden files anew")
	soak   = flag.Bool("soak", false, "run the long variants, some minutes each")
)

// bin is the directory of the program under test, and of the small programs
// that stand around it. Every user may read it.
var bin string

// The tests run the program as a process, as a shell or a service manager
// does. The test binary itself is the other programs, by the name it is
// called with.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "nobody":
		nobody()
	case "limited":
		limited()
	case "activated":
		activated()
	case "crowd":
		crowd()
	case "housed":
		housed()
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "fairlead-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	self, err := os.Executable()
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	for _, name := range []string{"nobody", "limited", "activated", "crowd", "housed"} {
		if err == nil {
			err = os.Symlink(self, filepath.Join(dir, name))
		}
	}
	if err == nil {
		err = build(filepath.Join(dir, "fairlead"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func build(to string, flags ...string) error {
	args := append([]string{"build", "-o", to}, flags...)
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %v\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// raced is the program with the race detector in it.
func raced(t testing.TB) string {
	t.Helper()
	path, err := buildRaced()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildRaced = sync.OnceValues(func() (string, error) {
	path := filepath.Join(bin, "fairlead-race")
	return path, build(path, "-race")
})

// nobody runs a program as a user without any right: nobody PROGRAM ARGS...
func nobody() {
	must(syscall.Setgroups(nil))
	must(syscall.Setgid(65534))
	must(syscall.Setuid(65534))
	become(os.Args[1:])
}

// limited runs a program that may have n descriptors: limited N PROGRAM ARGS...
func limited() {
	n, err := strconv.ParseUint(os.Args[1], 10, 32)
	must(err)
	must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}))
	become(os.Args[2:])
}

// activated runs a program as a service manager does that passes it N sockets,
// from descriptor 3 on: activated N PROGRAM ARGS...
func activated() {
	must(os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())))
	must(os.Setenv("LISTEN_FDS", os.Args[1]))
	become(os.Args[2:])
}

// become replaces this process by a program.
func become(args []string) {
	path, err := exec.LookPath(args[0])
	must(err)
	must(syscall.Exec(path, args, os.Environ()))
}

func must(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(125)
	}
}
