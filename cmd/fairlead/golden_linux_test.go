package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// A look is one way in which the program's texts are held. With colour the
// program has a terminal of that width; without, pipes and COLUMNS.
type look struct {
	name    string
	columns uint16
	colour  bool
}

var looks = []look{
	{"80 columns", 80, false},
	{"120 columns", 120, false},
	{"80 columns, colour", 80, true},
	{"120 columns, colour", 120, true},
}

// run runs a command with both outputs in the look, and returns them. When
// seen is not nil, the command is ended by SIGTERM as soon as it matches.
func (l look) run(t *testing.T, cmd *lab.Command, seen *regexp.Regexp) string {
	t.Helper()
	out := newTranscript()
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm", "NO_COLOR=", "COLUMNS=", "FAIRLEAD_SOCKET=", "FAIRLEAD_CONFIG=")
	read := make(chan error, 1)
	if l.colour {
		master, slave := terminal(t, l.columns)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		defer master.Close()
		defer slave.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		slave.Close()
		go func() {
			_, err := io.Copy(writerOnly{out}, master) // until EIO: nobody has the terminal open
			read <- err
		}()
	} else {
		cmd.Env = append(cmd.Env, "COLUMNS="+strconv.Itoa(int(l.columns)))
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		read <- nil
	}
	if seen != nil {
		w := out.await(0, seen)
		eventually(t, "the text is there", func() bool {
			select {
			case <-w.found:
				return true
			default:
				return false
			}
		})
		cmd.Process.Signal(syscall.SIGTERM)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := <-read; err != nil && !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	return strings.ReplaceAll(out.String(), "\r\n", "\n")
}

// writerOnly hides what else a transcript might be to io.Copy.
type writerOnly struct{ io.Writer }

// terminal is a pseudo-terminal, pty(7).
func terminal(t *testing.T, columns uint16) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	raw, err := master.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0),
				unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
			if err == nil {
				n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
			}
		}), err)
	}
	if err == nil {
		slave, err = os.OpenFile(filepath.Join("/dev/pts", strconv.Itoa(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		t.Fatal(err)
	}
	return master, slave
}

// golden compares what make prints in each look with a file of testdata, after
// replacing what differs from run to run.
func golden(t *testing.T, name string, change *strings.Replacer, make func(l look) string) {
	t.Helper()
	var all strings.Builder
	for _, l := range looks {
		text := make(l)
		if strings.Contains(text, "\x1b") != l.colour {
			t.Errorf("%s: colour is %v in\n%s", l.name, !l.colour, text)
		}
		if change != nil {
			text = change.Replace(text)
		}
		text = varying.ReplaceAllStringFunc(text, func(s string) string {
			for i, group := range varying.FindStringSubmatch(s)[1:] {
				if group != "" {
					return strings.Replace(s, group, instead[i], 1)
				}
			}
			return s
		})
		// Visible escapes keep the files readable and reviewable.
		all.WriteString("==== " + l.name + "\n" + strings.ReplaceAll(text, "\x1b", "<ESC>"))
	}
	file := filepath.Join("testdata", "golden", name+".golden")
	if *update {
		write(t, file, all.String())
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(all.String(), "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// varying is what differs from run to run and from machine to machine, each
// in a group of its own, and instead what stands for it.
var (
	varying = regexp.MustCompile(`pid (\d+)|user ([a-z]+),|of uid (\d+)|for (\d+ (?:ms|s|min)\b)|from ([0-9a-f.:]+\d)\)`)
	instead = []string{"4411", "somebody", "1000", "0 s", "192.0.2.53"}
)

// TestMistakesHaveGoldenTexts holds what validate says of each file in
// testdata/mistakes.
func TestMistakesHaveGoldenTexts(t *testing.T) {
	lab.CheckLeaks(t)
	dir := newDir(t)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "mistakes"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "line-too-long.conf"), "web: forward 8080 to 10.0.0.1:80 # "+strings.Repeat("x", 70000)+"\n")
	said := ""
	for _, name := range files(t, dir) {
		base := strings.TrimSuffix(name, filepath.Ext(name))
		t.Run(base, func(t *testing.T) {
			golden(t, filepath.Join("mistakes", base), nil, func(l look) string {
				var h *lab.Host
				cmd := h.Command(t, filepath.Join(bin, "fairlead"), "validate", name)
				cmd.Dir = dir
				text := l.run(t, cmd, nil)
				said += text
				if code := cmd.ProcessState.ExitCode(); code != exitConfig && base != "not-carried" {
					t.Errorf("exit code %d, want %d", code, exitConfig)
				}
				return text
			})
		})
	}
	// Every mistake that can be made in a file has its text.
	for _, code := range []string{
		"FL-220", "FL-301", "FL-302", "FL-303", "FL-304", "FL-305", "FL-306", "FL-307", "FL-308", "FL-309", "FL-310",
		"FL-312", "FL-313", "FL-314", "FL-315", "FL-316", "FL-317", "FL-318", "FL-319", "FL-320", "FL-321",
	} {
		if !strings.Contains(said, code) {
			t.Errorf("no file in testdata/mistakes leads to %s", code)
		}
	}
}

// TestTroubleHasGoldenTexts holds what else goes wrong at a start.
func TestTroubleHasGoldenTexts(t *testing.T) {
	lab.CheckLeaks(t)
	program := filepath.Join(bin, "fairlead")
	var here *lab.Host

	t.Run("port in use", func(t *testing.T) {
		at := freePort(t)
		p := spec{}.start(t, "forward", at, "to", "127.0.0.1:9")
		p.says("Ctrl-C ends it")
		golden(t, "port-in-use", ports(at), func(l look) string {
			return l.run(t, here.Command(t, program, "forward", at, "to", "127.0.0.1:9"), nil)
		})
	})
	t.Run("port half in use", func(t *testing.T) {
		at := freePort(t)
		p := spec{}.start(t, "forward", at, "to", "127.0.0.1:9")
		p.says("Ctrl-C ends it")
		_, port, _ := net.SplitHostPort(at)
		golden(t, "port-half-in-use", ports(at), func(l look) string {
			return l.run(t, here.Command(t, program, "forward", port, "to", "127.0.0.1:9", "--strict"), nil)
		})
	})
	t.Run("port below 1024", func(t *testing.T) {
		host := lab.NewNet(t).Host("here") // where the limit is that of a fresh system
		golden(t, "port-below-1024", strings.NewReplacer(program, "/usr/bin/fairlead"), func(l look) string {
			cmd := host.Command(t, filepath.Join(bin, "nobody"), program, "forward", ":80", "to", "192.168.1.10")
			text := l.run(t, cmd, nil)
			if code := cmd.ProcessState.ExitCode(); code != exitPermission {
				t.Errorf("exit code %d, want %d", code, exitPermission)
			}
			return text
		})
	})
	t.Run("name not found", func(t *testing.T) {
		at := freePort(t)
		golden(t, "name-not-found", ports(at), func(l look) string {
			return l.run(t, here.Command(t, program, "forward", at, "to", "db.invalid:5432"), regexp.MustCompile(`FL-21`))
		})
	})
	t.Run("target refuses", func(t *testing.T) {
		at := freePort(t)
		target := lab.Refused(t, lab.At{})
		golden(t, "target-refuses", strings.NewReplacer(portOf(at), "28080", portOf(target), "29000"), func(l look) string {
			return l.run(t, here.Command(t, program, "forward", at, "to", target), regexp.MustCompile(`FL-20`))
		})
	})
	t.Run("unreadable file", func(t *testing.T) {
		lab.NeedRoot(t)
		dir := newDir(t)
		conf := filepath.Join(dir, "fairlead.conf")
		write(t, conf, "web: forward 8080 to 10.0.0.1:80\n")
		if err := os.Chmod(conf, 0); err != nil {
			t.Fatal(err)
		}
		golden(t, "unreadable-file", nil, func(l look) string {
			cmd := here.Command(t, filepath.Join(bin, "nobody"), program, "validate", "fairlead.conf")
			cmd.Dir = dir
			return l.run(t, cmd, nil)
		})
	})
	t.Run("no file", func(t *testing.T) {
		golden(t, "no-file", nil, func(l look) string {
			return l.run(t, here.Command(t, program, "up", "-c", "/etc/fairlead/nosuch/fairlead.conf"), nil)
		})
	})
	t.Run("no service", func(t *testing.T) {
		golden(t, "no-service", nil, func(l look) string {
			return l.run(t, here.Command(t, program, "status", "--socket", "/run/nosuch/control.sock"), nil)
		})
	})
	t.Run("second service", func(t *testing.T) {
		v := spec{}.up(t, "")
		golden(t, "second-service", strings.NewReplacer(v.socket, "/run/fairlead/c.sock", strconv.Itoa(v.pid()), "4411"), func(l look) string {
			return l.run(t, here.Command(t, program, "up", "-c", v.conf, "--socket", v.socket), nil)
		})
	})
	t.Run("shell arrow", func(t *testing.T) {
		golden(t, "shell-arrow", nil, func(l look) string {
			return l.run(t, here.Command(t, program, "forward", ":8080", "-"), nil)
		})
	})
	t.Run("no kind yet", func(t *testing.T) {
		golden(t, "no-kind-yet", nil, func(l look) string {
			return l.run(t, here.Command(t, program, "map", "51820/udp"), nil)
		})
	})
}

// ports makes a port, which differs each time, and the one after it the same.
func ports(address string) *strings.Replacer {
	port := portOf(address)
	n, _ := strconv.Atoi(port)
	return strings.NewReplacer(port, "28080", strconv.Itoa(n+1), "28081")
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
