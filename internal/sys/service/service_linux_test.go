package service

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary play a part instead of running tests.
const childEnv = "SERVICE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "sockets":
		tellSockets()
	case "journal":
		fmt.Println(InJournal())
	default:
		os.Exit(m.Run())
	}
}

// manager is a notify socket as a service manager has it.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return c
}

func told(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestManagerIsTold(t *testing.T) {
	for _, name := range []string{
		filepath.Join(t.TempDir(), "notify"),
		fmt.Sprintf("@fairlead-test-notify-%d", os.Getpid()),
	} {
		c := manager(t, name)
		for _, tt := range []struct {
			say  func() error
			want string
		}{
			{func() error { return Ready("12 forwards") }, "READY=1\nSTATUS=12 forwards"},
			{func() error { return Ready("") }, "READY=1"},
			{func() error { return Status("11 ok, 1 broken") }, "STATUS=11 ok, 1 broken"},
			{func() error { return Status("broken:\nMAINPID=1\r\n") }, "STATUS=broken: MAINPID=1"},
			{Alive, "WATCHDOG=1"},
			{Stopping, "STOPPING=1"},
		} {
			if err := tt.say(); err != nil {
				t.Fatal(err)
			}
			if got := told(t, c); got != tt.want {
				t.Errorf("%s was told %q, want %q", name, got, tt.want)
			}
		}
	}
}

func TestReloadingCarriesTheMonotonicTime(t *testing.T) {
	c := manager(t, filepath.Join(t.TempDir(), "notify"))
	before := monotonic(t)
	if err := Reloading(); err != nil {
		t.Fatal(err)
	}
	after := monotonic(t)
	got := told(t, c)
	m := regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=([0-9]+)$`).FindStringSubmatch(got)
	if m == nil {
		t.Fatalf("told %q", got)
	}
	if usec, err := strconv.ParseInt(m[1], 10, 64); err != nil || usec < before || usec > after {
		t.Errorf("MONOTONIC_USEC=%s is not between %d and %d", m[1], before, after)
	}
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano() / 1000
}

func TestOutsideAServiceNothingHappens(t *testing.T) {
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "JOURNAL_STREAM"} {
		t.Setenv(name, "") // so that it is put back
		os.Unsetenv(name)
	}
	for _, say := range []func() error{
		func() error { return Ready("x") }, Reloading, Stopping, Alive, func() error { return Status("x") },
	} {
		if err := say(); err != nil {
			t.Error(err)
		}
	}
	if d, ok := Watchdog(); d != 0 || ok {
		t.Errorf("Watchdog() = %v, %v", d, ok)
	}
	if fs := PassedSockets(); fs != nil {
		t.Errorf("PassedSockets() = %v", fs)
	}
	if InJournal() {
		t.Error("InJournal() without a journal")
	}
}

func TestManagerThatIsGoneIsAnError(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if err := Ready(""); err == nil {
		t.Error("no error")
	}
}

func TestWatchdogWantsHalfOfTheLimit(t *testing.T) {
	own := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		usec, pid string
		want      time.Duration
		ok        bool
	}{
		{"30000000", own, 15 * time.Second, true},
		{"30000000", "", 15 * time.Second, true},
		{"30000000", "1", 0, false}, // for another process
		{"0", own, 0, false},
		{"-5", own, 0, false},
		{"soon", own, 0, false},
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		if d, ok := Watchdog(); d != tt.want || ok != tt.ok {
			t.Errorf("usec %s pid %s: %v, %v, want %v, %v", tt.usec, tt.pid, d, ok, tt.want, tt.ok)
		}
	}
}

// given is what a child found among its passed sockets.
type given struct {
	Names, Addrs []string
	CloseOnExec  bool
	Environment  []string // what is left of LISTEN_*
	Again        int
}

func tellSockets() {
	g := given{CloseOnExec: true}
	for _, f := range PassedSockets() {
		g.Names = append(g.Names, f.Name())
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		g.CloseOnExec = g.CloseOnExec && err == nil && flags&unix.FD_CLOEXEC != 0
		ln, err := net.FileListener(f)
		if err != nil {
			g.Addrs = append(g.Addrs, err.Error())
			continue
		}
		g.Addrs = append(g.Addrs, ln.Addr().String())
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		if v, ok := os.LookupEnv(name); ok {
			g.Environment = append(g.Environment, name+"="+v)
		}
	}
	g.Again = len(PassedSockets())
	json.NewEncoder(os.Stdout).Encode(g)
}

func TestPassedSocketsArriveWithTheirNames(t *testing.T) {
	var files []*os.File
	var addrs []string
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, addrs = append(files, f), append(addrs, ln.Addr().String())
	}
	child := func(pid string) given {
		t.Helper()
		// The shell knows the process id before the program runs.
		cmd := exec.Command("/bin/sh", "-c", "LISTEN_PID="+pid+` exec "$0"`, self(t))
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childEnv+"=sockets", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:", "LISTEN_PIDFDID=1")
		cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var g given
		if err := json.Unmarshal(out, &g); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return g
	}

	g := child("$$")
	if want := []string{"web", "LISTEN_FD_4"}; fmt.Sprint(g.Names) != fmt.Sprint(want) {
		t.Errorf("names %q, want %q", g.Names, want)
	}
	if fmt.Sprint(g.Addrs) != fmt.Sprint(addrs) {
		t.Errorf("sockets %q, want %q", g.Addrs, addrs)
	}
	if !g.CloseOnExec {
		t.Error("a passed socket stays open on exec")
	}
	if len(g.Environment) > 0 || g.Again > 0 {
		t.Errorf("left for children: %q, found again: %d", g.Environment, g.Again)
	}
	if g := child("1"); len(g.Names) > 0 || len(g.Environment) > 0 {
		t.Errorf("sockets meant for another process: %+v", g)
	}
}

func TestJournalIsKnownByStandardError(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(w.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	stream := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	for _, tt := range []struct {
		stream string
		stderr io.Writer
		want   string
	}{
		{stream, w, "true\n"},
		{stream, nil, "false\n"}, // redirected since
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), w, "false\n"},
		{stream + ":9", w, "false\n"},
		{"", w, "false\n"},
		{"journal", w, "false\n"},
	} {
		cmd := exec.Command(self(t))
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childEnv+"=journal", "JOURNAL_STREAM="+tt.stream)
		cmd.Stderr = tt.stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != tt.want {
			t.Errorf("JOURNAL_STREAM=%q: %s, want %s", tt.stream, out, tt.want)
		}
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
