package main

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/lab"
)

// TestTermLetsTransfersEnd asserts the order of an orderly end: new
// connections are refused at once, and a live transfer is completed.
func TestTermLetsTransfersEnd(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	at := freePort(t)
	for _, run := range []struct {
		name  string
		start func(t *testing.T) *process
	}{
		{"service", func(t *testing.T) *process {
			return spec{}.up(t, "web: forward "+at+" to "+echo.Address+"\n").process
		}},
		{"forward", func(t *testing.T) *process {
			p := spec{}.start(t, "forward", at, "to", echo.Address)
			p.says("Ctrl-C ends it")
			return p
		}},
	} {
		t.Run(run.name, func(t *testing.T) {
			p := run.start(t)
			c := dial(t, at)
			if err := exchange(c); err != nil {
				t.Fatal(err)
			}
			p.signal(syscall.SIGTERM)
			eventually(t, "new connections are refused", func() bool {
				c, err := net.Dial("tcp", at)
				if err == nil {
					c.Close()
				}
				return isRefused(err)
			})
			if err := (lab.Transfer{Seed: 5, Size: 4 << 20}).Over(c); err != nil {
				t.Errorf("the live transfer was disturbed: %v", err)
			}
			p.ends(exitOK)
		})
	}
}

// TestSecondSignalEndsAtOnce cuts what is live, with a reset.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	lab.CheckLeaks(t)
	echo := lab.Serve(t, lab.At{}, lab.Echo)
	for _, test := range []struct {
		name          string
		first, second syscall.Signal
		service       bool
		code          int
	}{
		{"service TERM", syscall.SIGTERM, syscall.SIGTERM, true, exitOK},
		{"service INT", syscall.SIGINT, syscall.SIGINT, true, exitOK},
		{"forward TERM", syscall.SIGTERM, syscall.SIGTERM, false, exitOK},
		{"forward INT", syscall.SIGINT, syscall.SIGINT, false, exitInterrupted},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := freePort(t)
			var p *process
			if test.service {
				p = spec{}.up(t, "web: forward "+at+" to "+echo.Address+"\n").process
			} else {
				p = spec{}.start(t, "forward", at, "to", echo.Address)
				p.says("Ctrl-C ends it")
			}
			c := dial(t, at)
			if err := exchange(c); err != nil {
				t.Fatal(err)
			}
			p.signal(test.first)
			eventually(t, "new connections are refused", func() bool {
				c, err := net.Dial("tcp", at)
				if err == nil {
					c.Close()
				}
				return isRefused(err)
			})
			if err := exchange(c); err != nil {
				t.Fatalf("the first signal cut the connection: %v", err)
			}
			began := time.Now()
			p.signal(test.second)
			p.ends(test.code)
			if took := time.Since(began); took > drainTime/2 {
				t.Errorf("it took %v", took)
			}
			c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Read(make([]byte, 1)); !isReset(err) && err != io.EOF {
				t.Errorf("the client's end is %v", err)
			}
		})
	}
}
