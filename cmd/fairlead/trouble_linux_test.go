package main

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// TestBackendThatNeverReadsCostsNothing asserts that the client is held up,
// and that the program keeps none of what it cannot pass on.
func TestBackendThatNeverReadsCostsNothing(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	deaf := lab.Serve(t, lab.At{}, lab.NeverRead)
	good, bad := freePort(t), freePort(t)
	v := spec{}.up(t, "good: forward "+good+" to "+echo.Address+"\nbad: forward "+bad+" to "+deaf.Address+"\n")
	// Both ways of copying have been used before.
	lab.Transfers(t, lab.Transfer{Network: "tcp", Address: good, Seed: 1}, 8, 4<<20)
	before := v.memory()

	c := dial(t, bad)
	sent, chunk := 0, make([]byte, 64<<10)
	for {
		c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(chunk)
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if sent > 64<<20 {
			t.Fatal("the client does not stall within 64 MiB")
		}
	}
	grew := v.memory() - before
	t.Logf("the client stalled after %d KiB; the process has %d KiB more", sent>>10, grew>>10)
	if grew >= 1<<20 {
		t.Errorf("it costs %d bytes of memory, want less than 1 MiB", grew)
	}
	carries(t, good)
}

func TestResetsAreCarried(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	resetting := lab.Serve(t, lab.At{}, lab.Reset(1, 1000, 1))
	toEcho, toResetting, toNobody := freePort(t), freePort(t), freePort(t)
	spec{}.up(t, "echo: forward "+toEcho+" to "+echo.Address+
		"\nresetting: forward "+toResetting+" to "+resetting.Address+
		"\nnobody: forward "+toNobody+" to "+lab.Refused(t, lab.At{})+"\n")

	t.Run("refused target resets the client", func(t *testing.T) {
		c, err := net.Dial("tcp", toNobody)
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			_, err = io.Copy(io.Discard, c)
		}
		if !isReset(err) {
			t.Errorf("the client's end is %v, want a reset", err)
		}
	})
	t.Run("the target's reset reaches the client", func(t *testing.T) {
		c := dial(t, toResetting)
		c.SetDeadline(time.Now().Add(patience))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); !isReset(err) {
			t.Errorf("the client's end is %v, want a reset", err)
		}
	})
	t.Run("the client's reset reaches the target", func(t *testing.T) {
		c := dial(t, toEcho)
		if err := exchange(c); err != nil {
			t.Fatal(err)
		}
		lab.ResetConn(c)
		if v := echo.Visit(t); !isReset(v.Err) {
			t.Errorf("the target's end is %v, want a reset", v.Err)
		}
	})
}

// TestOutOfDescriptors asserts that the listener lives, the log stays quiet,
// the processor idle and the control socket open, and that service resumes.
func TestOutOfDescriptors(t *testing.T) {
	for _, test := range []struct {
		name string
		s    spec
		then func(t *testing.T, v *unit)
	}{
		{"limit at start", spec{before: []string{"limited", "128"}}, nil},
		// The relay does not know of this one: accept fails with EMFILE.
		{"limit lowered later", spec{}, func(t *testing.T, v *unit) {
			all, _ := v.descriptors()
			limit := unix.Rlimit{Cur: uint64(all + 40), Max: uint64(all + 40)}
			if err := unix.Prlimit(v.pid(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab.CheckLeaks(t)
			echo := lab.Serve(t, lab.At{}, lab.Echo)
			at := freePort(t)
			began := time.Now()
			v := test.s.up(t, "web: forward "+at+" to "+echo.Address+" connect 2s\n")
			if test.then != nil {
				test.then(t, v)
			}
			const clients = 100
			var conns []net.Conn
			for i := range clients {
				// Each from an address of its own: one alone would be refused what is not its share.
				from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i))}}
				c, err := from.Dial("tcp", at)
				if err != nil {
					t.Fatalf("connection %d: %v", len(conns), err)
				}
				defer c.Close()
				conns = append(conns, c)
			}
			v.says(`level=WARN.*FL-120`)

			// Two seconds of it, for the processor's time.
			cpu, since := v.cpu(), time.Now()
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for range 10 {
				<-tick.C
				if test.then == nil { // where the limit is known, a reserve is kept
					v.status()
				}
			}
			if used, all := v.cpu()-cpu, time.Since(since); used > all/5 {
				t.Errorf("it computes %v of %v while it is out of descriptors", used, all)
			}
			if lines, most := v.stderr.count(`level=WARN.*FL-120`), 1+int(time.Since(began)/(10*time.Second)); lines > most {
				t.Errorf("%d lines in the log about descriptors, want at most %d:\n%s", lines, most, v.stderr)
			}

			// The last few have waited all the while.
			waited := conns[clients-4:]
			for _, c := range conns[:clients-4] {
				c.Close()
			}
			for _, c := range waited {
				if err := exchange(c); err != nil {
					t.Errorf("a connection that waited was not served: %v", err)
				}
			}
			carries(t, at)
			v.status()
			if strings.Contains(v.stderr.String(), "panic") {
				t.Error("it panicked")
			}
		})
	}
}
