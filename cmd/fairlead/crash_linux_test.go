package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/config"
	"fairlead/internal/lab"
)

// TestServiceIsBackAfterKill kills the service the hard way. The next one
// replaces what was left without help, and its end leaves nothing.
func TestServiceIsBackAfterKill(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	at, dir := freePort(t), newDir(t)
	write(t, filepath.Join(dir, "fairlead.conf"), fmt.Sprintf(
		"tcp: forward %s to %s\nunix: forward unix:%s/front.sock to %s\n", at, echo.Address, dir, echo.Address))

	best := time.Hour
	for range 5 {
		v := spec{}.upIn(t, dir)
		live := dial(t, at)
		if err := exchange(live); err != nil {
			t.Fatal(err)
		}
		v.kill()
		for _, left := range []string{"c.sock", "front.sock"} {
			if _, err := os.Stat(filepath.Join(dir, left)); err != nil {
				t.Fatalf("nothing was left for the next service to replace: %v", err)
			}
		}
		began := time.Now()
		v = spec{}.upUnready(t, dir)
		eventually(t, "the forward is back", func() bool {
			c, err := net.Dial("tcp", at)
			if err != nil {
				return false
			}
			defer c.Close()
			return exchange(c) == nil
		})
		best = min(best, time.Since(began))
		v.says(` is up`)
		c, err := net.Dial("unix", filepath.Join(dir, "front.sock"))
		if err != nil {
			t.Fatal(err)
		}
		if err := exchange(c); err != nil {
			t.Error(err)
		}
		c.Close()
		if n := len(v.status().Forwards); n != 2 {
			t.Errorf("status has %d forwards, want 2", n)
		}
		v.signal(syscall.SIGTERM)
		v.ends(exitOK)
		if left := files(t, dir); !slices.Equal(left, []string{"fairlead.conf"}) {
			t.Errorf("the service leaves %q behind", left)
		}
	}
	// The best of five: the machine may be busy with something else.
	if best > time.Second {
		t.Errorf("the forward was back after %v, want one second at most", best)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestKilledWriteLeavesOldFileOrNew kills add and rm at random moments. The
// file is always the one before or the one after.
func TestKilledWriteLeavesOldFileOrNew(t *testing.T) {
	lab.CheckLeaks(t)
	dir := newDir(t)
	conf := filepath.Join(dir, "fairlead.conf")
	text := strings.Repeat("# a comment that makes the file longer than one block\n", 2000) +
		"web: forward 127.0.0.1:28080 to 10.0.0.1:80\n"
	write(t, conf, text)

	n := 100
	if *soak {
		n = 3000
	}
	// How long a whole write takes, for moments within it.
	began := time.Now()
	run := func() *process {
		args := []string{"add", "forward", "127.0.0.1:28081", "to", "10.0.0.1:81", "--name", "new"}
		if before, _ := os.ReadFile(conf); bytes.Contains(before, []byte("\nnew:")) {
			args = []string{"rm", "new"}
		}
		return spec{}.start(t, append(args, "-c", conf, "--socket", filepath.Join(dir, "none"))...)
	}
	run().ends(exitOK)
	whole := time.Since(began)
	run().ends(exitOK)

	killed, changed := 0, 0
	for range n {
		before, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		p := run()
		moment := time.NewTimer(time.Duration(rand.Int64N(int64(whole))))
		select {
		case <-moment.C:
			p.kill()
			killed++
		case <-p.done:
		}
		moment.Stop()
		after, err := os.ReadFile(conf)
		if err != nil {
			t.Fatal(err)
		}
		file, problems := config.Parse(conf, after)
		if len(problems) > 0 || len(file.Forwards) < 1 || len(file.Forwards) > 2 {
			t.Fatalf("the file is broken: %v", problems)
		}
		if bytes.Equal(before, after) {
			continue
		}
		changed++
		if diff := len(after) - len(before); diff != len(after)-len(text) && diff != len(text)-len(before) {
			t.Fatalf("the file went from %d bytes to %d, which is neither the old nor the new", len(before), len(after))
		}
	}
	t.Logf("%d of %d were killed, %d changed the file", killed, n, changed)
	if killed == 0 {
		t.Error("none was killed in time")
	}
	// What the last killed one left beside the file, the next writer takes.
	run().ends(exitOK)
	for _, name := range files(t, dir) {
		if name != "fairlead.conf" {
			t.Errorf("%s was left behind", name)
		}
	}
}
