package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fairlead/internal/control"
	"fairlead/internal/lab"
)

// patience is how long something may take that is not measured: long enough
// for a busy machine, and an end for what hangs.
const patience = 30 * time.Second

// A process is a running program under test. It is killed with its test.
type process struct {
	t              testing.TB
	cmd            *exec.Cmd
	stdout, stderr *transcript
	done           chan struct{} // closed when it has ended
}

// A spec is how a program is started. The zero spec runs fairlead as this user
// and in this environment.
type spec struct {
	before []string // words before the program's: nobody, limited 64, ...
	path   string   // "" is fairlead
	env    []string // added to the environment
	files  []*os.File
	host   *lab.Host
}

func (s spec) start(t testing.TB, args ...string) *process {
	t.Helper()
	path := s.path
	if path == "" {
		path = filepath.Join(bin, "fairlead")
	}
	words := append(append(s.before[:len(s.before):len(s.before)], path), args...)
	if len(s.before) > 0 {
		words[0] = filepath.Join(bin, words[0])
	}
	cmd := s.host.Command(t, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "NOTIFY_SOCKET=", "LC_ALL=C.UTF-8", "COLUMNS=200")
	cmd.Env = append(cmd.Env, s.env...)
	cmd.ExtraFiles = s.files
	p := &process{t: t, cmd: cmd.Cmd, stdout: newTranscript(), stderr: newTranscript(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s said at last:\n%s", strings.Join(args, " "), p.stderr.tail())
		}
	})
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the end and asserts the exit code.
func (p *process) ends(code int) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%v still runs after %v", p.cmd.Args, patience)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("%v ended with %v, want exit code %d", p.cmd.Args, p.cmd.ProcessState, code)
	}
}

// kill ends the process the hard way and waits for that.
func (p *process) kill() {
	p.t.Helper()
	p.cmd.Process.Kill()
	<-p.done
}

// says waits until the process has written something to stderr that matches.
func (p *process) says(pattern string) {
	p.t.Helper()
	p.saysAfter(0, pattern)
}

// saysAfter is says for what is written after the first so many bytes; see
// transcript.mark.
func (p *process) saysAfter(mark int, pattern string) {
	p.t.Helper()
	w := p.stderr.await(mark, regexp.MustCompile(pattern))
	defer p.stderr.forget(w)
	select {
	case <-w.found:
	case <-p.done:
		select {
		case <-w.found:
		default:
			p.t.Fatalf("%v ended (%v) without saying %q", p.cmd.Args, p.cmd.ProcessState, pattern)
		}
	case <-time.After(patience):
		p.t.Fatalf("%v does not say %q", p.cmd.Args, pattern)
	}
}

// descriptors counts those that the process has, and how many of them are ends
// of pipes: the program keeps a small stock of pipes for splicing.
func (p *process) descriptors() (all, pipes int) {
	p.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed since
		}
		all++
		if strings.HasPrefix(to, "pipe:") {
			pipes++
		}
	}
	return all, pipes
}

// sockets are the process's connections, by what the system says of them;
// listening sockets are left out.
func (p *process) sockets() []string {
	p.t.Helper()
	own := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid()))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.Trim(to[len("socket:"):], "[]")] = true
		}
	}
	var list []string
	for _, table := range []string{"tcp", "tcp6"} {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.pid(), table))
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && own[f[9]] && f[3] != "0A" { // LISTEN
				list = append(list, line)
			}
		}
	}
	return list
}

// memory is what the process has in memory that no file backs, in bytes
// (proc_pid_status(5), RssAnon).
func (p *process) memory() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return kib << 10
		}
	}
	p.t.Fatal("no RssAnon in /proc/PID/status")
	panic("unreachable")
}

// cpu is the time that the process has computed (proc_pid_stat(5), utime and
// stime, in ticks of a hundredth of a second).
func (p *process) cpu() time.Duration {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int
	for _, s := range f[11:13] {
		n, err := strconv.Atoi(s)
		if err != nil {
			p.t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// A transcript is what a process has written.
type transcript struct {
	mu    sync.Mutex // guards the rest
	text  []byte
	waits map[*wait]bool
}

type wait struct {
	from    int // the first byte not yet looked at
	pattern *regexp.Regexp
	found   chan struct{}
}

func newTranscript() *transcript { return &transcript{waits: map[*wait]bool{}} }

// Write is for the process.
func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	for w := range s.waits {
		s.look(w)
	}
	return len(p), nil
}

// look looks at the lines that are new to w.
func (s *transcript) look(w *wait) {
	if w.pattern.Match(s.text[w.from:]) {
		close(w.found)
		delete(s.waits, w)
	}
	w.from = max(w.from, bytes.LastIndexByte(s.text, '\n')+1)
}

// await waits for a match in one line after the first mark bytes.
func (s *transcript) await(mark int, pattern *regexp.Regexp) *wait {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &wait{mark, pattern, make(chan struct{})}
	s.waits[w] = true
	s.look(w)
	return w
}

func (s *transcript) forget(w *wait) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waits, w)
}

// mark is how much was written so far.
func (s *transcript) mark() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.text)
}

func (s *transcript) count(pattern string) int {
	return len(regexp.MustCompile(pattern).FindAllString(s.String(), -1))
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// tail is the last lines.
func (s *transcript) tail() string {
	lines := strings.SplitAfter(s.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "")
}

// A unit is a running "fairlead up" with a directory of its own.
type unit struct {
	*process
	dir, conf, socket string
	client            *control.Client
}

// newDir is a short directory, as a unix socket's path has to be, that every
// user may enter.
func newDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fl")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// up starts a service on a file with this text and waits until it is ready.
func (s spec) up(t testing.TB, text string) *unit {
	t.Helper()
	dir := newDir(t)
	conf := filepath.Join(dir, "fairlead.conf")
	write(t, conf, text)
	return s.upIn(t, dir)
}

// upIn starts a service in a directory where one was before.
func (s spec) upIn(t testing.TB, dir string) *unit {
	t.Helper()
	v := s.upUnready(t, dir)
	v.says(` is up`)
	return v
}

func (s spec) upUnready(t testing.TB, dir string) *unit {
	t.Helper()
	v := &unit{dir: dir, conf: filepath.Join(dir, "fairlead.conf"), socket: filepath.Join(dir, "c.sock")}
	v.client = control.Dial(v.socket)
	v.process = s.start(t, "up", "--config", v.conf, "--socket", v.socket)
	return v
}

// status is what the service says of itself.
func (v *unit) status() *control.Status {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := v.client.Status(ctx)
	if err != nil {
		v.t.Fatalf("status: %v", err)
	}
	return st
}

// forward is the status of one forward.
func (v *unit) forward(name string) control.Forward {
	v.t.Helper()
	for _, f := range v.status().Forwards {
		if f.Name == name {
			return f
		}
	}
	v.t.Fatalf("status has no forward %q", name)
	panic("unreachable")
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// eventually polls, with an end, for what no event tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

var loopback = netip.MustParseAddr("127.0.0.1")

// freePort is a port of 127.0.0.1, as an address.
func freePort(t testing.TB) string {
	t.Helper()
	return lab.FreePorts(t, nil, loopback, 1).String()
}

func dial(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// exchange sends a byte to an echo and takes it back.
func exchange(c net.Conn) error {
	c.SetDeadline(time.Now().Add(patience))
	defer c.SetDeadline(time.Time{})
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// carries asserts that a connection to address is carried to an echo.
func carries(t testing.TB, address string) {
	t.Helper()
	x := lab.Transfer{Network: "tcp", Address: address, Seed: 7, Size: 1000}
	if err := x.Run(t.Context()); err != nil {
		t.Fatalf("%s does not carry: %v", address, err)
	}
}

func isReset(err error) bool   { return errors.Is(err, syscall.ECONNRESET) }
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
