package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
	"fairlead/internal/sys/holder"
)

// TestScripts runs the command lines of testdata/script and holds what they
// print, where they print it, and how they end. Beside testscript's own
// commands there are:
//
//	ports NAME...             sets variables to free ports of 127.0.0.1
//	echo NAME                 starts an echo, and sets the variable to its address
//	exits CODE PROGRAM...     runs a program that ends with that code
//	listening ADDRESS         waits until somebody listens there; ! until nobody does
//	until PATTERN PROGRAM...  runs a program until its stdout or stderr matches
//	carries ADDRESS           a connection there is carried to an echo; ! is refused or reset
//	hold NAME ADDRESS         opens a connection through a forward and keeps it
//	held NAME                 it is still carried; ! it was reset
//	signal NAME PROGRAM...    signals background programs with these words
//
// Each script has its own control socket, configuration, home and run
// directory below $WORK.
func TestScripts(t *testing.T) {
	lab.CheckLeaks(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUpScript,
		Condition: func(c string) (bool, error) {
			if c == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", c)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ports":     scriptPorts,
			"echo":      scriptEcho,
			"exits":     scriptExits,
			"listening": scriptListening,
			"until":     scriptUntil,
			"carries":   scriptCarries,
			"hold":      scriptHold,
			"held":      scriptHeld,
			"signal":    scriptSignal,
		},
	})
}

// scriptTest is under which a script finds its testing.TB.
type scriptTest struct{}

func setUpScript(e *testscript.Env) error {
	e.Values[scriptTest{}] = e.T().(testing.TB)
	for _, dir := range []string{filepath.Dir(e.WorkDir), e.WorkDir} { // for nobody
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	for _, v := range [][2]string{
		{"PATH", bin + ":" + os.Getenv("PATH")},
		{"HOME", e.WorkDir + "/home"},
		{"FAIRLEAD_SOCKET", e.WorkDir + "/c.sock"},
		{"FAIRLEAD_CONFIG", e.WorkDir + "/fairlead.conf"},
		{"LC_ALL", "C.UTF-8"},
		{"COLUMNS", "120"},
	} {
		e.Setenv(v[0], v[1])
	}
	return nil
}

func tb(ts *testscript.TestScript) testing.TB { return ts.Value(scriptTest{}).(testing.TB) }

func scriptPorts(ts *testscript.TestScript, neg bool, args []string) {
	for _, name := range args {
		ts.Setenv(name, strconv.Itoa(int(lab.FreePorts(tb(ts), nil, loopback, 1).Port())))
	}
}

func scriptEcho(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(args[0], lab.Serve(tb(ts), lab.At{}, lab.Echo).Address)
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func scriptListening(ts *testscript.TestScript, neg bool, args []string) {
	at, err := netip.ParseAddrPort(args[0])
	ts.Check(err)
	poll(ts, args[0]+" as wanted", func() bool {
		all, err := holder.Listening("tcp")
		ts.Check(err)
		return all.At(at) != neg
	})
}

func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	poll(ts, fmt.Sprintf("%q from %v", args[0], args[1:]), func() bool {
		ts.Exec(args[1], args[2:]...)
		return pattern.MatchString(ts.ReadFile("stdout")+ts.ReadFile("stderr")) != neg
	})
}

func scriptCarries(ts *testscript.TestScript, neg bool, args []string) {
	err := lab.Transfer{Network: "tcp", Address: args[0], Seed: 3, Size: 5000}.Run(context.Background())
	if (err != nil) != neg {
		ts.Fatalf("%s: %v", args[0], err)
	}
	if neg && !isReset(err) && !isRefused(err) && !errors.Is(err, unix.EPIPE) {
		ts.Fatalf("%s ended in another way: %v", args[0], err)
	}
}

// held are the connections that scripts hold, by script and name.
var held sync.Map

func scriptHold(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.Dial("tcp", args[1])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	ts.Check(exchange(c))
	held.Store(ts.Getenv("WORK")+args[0], c)
}

func scriptHeld(ts *testscript.TestScript, neg bool, args []string) {
	v, ok := held.Load(ts.Getenv("WORK") + args[0])
	if !ok {
		ts.Fatalf("no connection is held as %s", args[0])
	}
	c := v.(net.Conn)
	if !neg {
		ts.Check(exchange(c))
		return
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, make([]byte, 1)); !isReset(err) {
		ts.Fatalf("the connection ended with %v, want a reset", err)
	}
}

func scriptSignal(ts *testscript.TestScript, neg bool, args []string) {
	for _, cmd := range ts.BackgroundCmds() {
		if strings.Contains(strings.Join(cmd.Args, " "), strings.Join(args[1:], " ")) {
			ts.Check(cmd.Process.Signal(unix.SignalNum("SIG" + args[0])))
			if args[0] == "STOP" { // so that it can be ended
				ts.Defer(func() { cmd.Process.Signal(unix.SIGCONT) })
			}
		}
	}
}

func poll(ts *testscript.TestScript, what string, is func() bool) {
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			ts.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond) // polling, with an end
	}
}
