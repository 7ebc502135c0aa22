package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// A manager is the side of sd_notify(3) that is told.
type manager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(newDir(t), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &manager{t, path, c}
}

// hears waits for a message with a line that is wanted, and returns it. Signs
// of life and mere status may come between.
func (m *manager) hears(line string) string {
	m.t.Helper()
	want := regexp.MustCompile("(?m)^" + line + "$")
	m.conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 4096)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("the manager does not hear %q: %v", line, err)
		}
		msg := string(buf[:n])
		if want.MatchString(msg) {
			return msg
		}
		for l := range strings.Lines(msg) {
			if !strings.HasPrefix(l, "STATUS=") && !strings.HasPrefix(l, "WATCHDOG=1") {
				m.t.Fatalf("the manager hears %q where %q is due", msg, line)
			}
		}
	}
}

func TestServiceManagerIsTold(t *testing.T) {
	lab.CheckLeaks(t)
	m := newManager(t)
	at := freePort(t)
	dir := newDir(t)
	conf := filepath.Join(dir, "fairlead.conf")
	write(t, conf, "web: forward "+at+" to 127.0.0.1:9\n")
	v := spec{env: []string{"NOTIFY_SOCKET=" + m.path, "WATCHDOG_USEC=200000"}}.upUnready(t, dir)

	m.hears("READY=1")
	if _, err := net.Dial("tcp", at); isRefused(err) {
		t.Error("it says that it is ready and does not listen")
	}
	v.status()
	m.hears("WATCHDOG=1")
	m.hears("WATCHDOG=1")

	v.signal(syscall.SIGHUP)
	m.hears("MONOTONIC_USEC=[0-9]+") // in the message of RELOADING=1, sd_notify(3)
	m.hears("READY=1")

	write(t, conf, "broken\n")
	v.signal(syscall.SIGHUP)
	if msg := m.hears("RELOADING=1"); !strings.Contains(msg, "MONOTONIC_USEC=") {
		t.Errorf("%q has no time", msg)
	}
	m.hears("READY=1")
	if v.status().FileError == nil {
		t.Error("ready again, and status has no file_error")
	}

	v.signal(syscall.SIGTERM)
	m.hears("STOPPING=1")
	v.ends(exitOK)
}

// TestPassedSocketsAreUsed starts the service as a socket unit does.
func TestPassedSocketsAreUsed(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	at := freePort(t)
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	passed, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	waiting := dial(t, at) // before the service runs

	v := spec{before: []string{"activated", "1"}, files: []*os.File{passed}}.up(t, "web: forward "+at+" to "+echo.Address+"\n")
	passed.Close()
	if err := exchange(waiting); err != nil {
		t.Errorf("the connection that waited in the passed socket: %v", err)
	}
	carries(t, at)
	if f := v.forward("web"); f.State != "passing" || f.Error != nil {
		t.Errorf("web is %s, %v", f.State, f.Error)
	}
}
