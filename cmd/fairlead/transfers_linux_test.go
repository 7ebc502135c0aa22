package main

import (
	"regexp"
	"strings"
	"syscall"
	"testing"

	"fairlead/internal/lab"
)

// TestTransfersArriveIntact is the program's main job: many connections at
// once, sizes up to 8 MiB, stalls, and the client's end before the echo's.
// Afterwards nothing is left in the process.
func TestTransfersArriveIntact(t *testing.T) {
	for _, user := range []struct {
		name   string
		before []string
	}{
		{"as this user", nil},
		{"as nobody", []string{"nobody"}}, // who may own 64 large pipes only, pipe(7)
	} {
		t.Run(user.name, func(t *testing.T) {
			if user.before != nil {
				lab.NeedRoot(t)
			}
			lab.CheckLeaks(t)
			echo := lab.Serve(t, lab.At{}, lab.Echo)
			at := freePort(t)
			p := spec{before: user.before}.start(t, "forward", at, "to", echo.Address)
			p.says("Ctrl-C ends it")
			carries(t, at)
			eventually(t, "the first connection is gone", func() bool { return len(p.sockets()) == 0 })
			before, pipesBefore := p.descriptors()

			n, limit := 200, int64(8<<20)
			if *soak {
				n, limit = 1000, 64<<20
			}
			for left := n; left > 0; left -= 200 {
				lab.Transfers(t, lab.Transfer{Network: "tcp", Address: at, Seed: uint64(left), Stalls: true}, 200, limit)
			}

			eventually(t, "the process holds no connection and the descriptors of before", func() bool {
				all, pipes := p.descriptors()
				return len(p.sockets()) == 0 && all-pipes == before-pipesBefore
			})
			if _, pipes := p.descriptors(); pipes-pipesBefore > 64 {
				t.Errorf("it keeps %d more ends of pipes, want at most 64", pipes-pipesBefore)
			}
			p.signal(syscall.SIGINT)
			p.ends(exitInterrupted)
			if out := p.stdout.String(); out != "" {
				t.Errorf("stdout has %q", out)
			}
		})
	}
}

// TestNoGoroutineIsLeftOfTransfers compares with a process that has carried
// one connection only.
func TestNoGoroutineIsLeftOfTransfers(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	after := func(n int) int {
		at := freePort(t)
		p := spec{env: []string{"GOTRACEBACK=all"}}.start(t, "forward", at, "to", echo.Address)
		p.says("Ctrl-C ends it")
		lab.Transfers(t, lab.Transfer{Network: "tcp", Address: at, Seed: 1}, n, 64<<10)
		eventually(t, "the connections are gone", func() bool { return len(p.sockets()) == 0 })
		p.signal(syscall.SIGQUIT) // the runtime prints all goroutines, and ends
		p.ends(2)
		return strings.Count(regexp.MustCompile(`(?m)^goroutine \d+ .*:$`).ReplaceAllString(p.stderr.String(), "\x00"), "\x00")
	}
	one, many := after(1), after(100)
	if one == 0 || many > one+2 { // a timer or a probe may be under way
		t.Errorf("%d goroutines after 100 connections, %d after one", many, one)
	}
}
