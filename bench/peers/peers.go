package peers

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Route is where a forwarder listens and where it has to forward to.
type Route struct {
	Listen, To netip.AddrPort
	UDP        bool
}

// Tools are the programs and the place for configurations.
type Tools struct {
	Dir      string // for files; ordinary users can read it
	Fairlead string // path of the program
	Self     string // path of this program, which is the plain Go forwarder too
}

// A Peer is one forwarder in one configuration.
type Peer struct {
	Name    string   // of the -peers flag and the tables
	Says    string   // what the configuration is, in words
	Program string   // what has to be installed
	UDP     bool     // whether it forwards datagrams
	PerConn int      // descriptors that one process needs for each connection, those in reserve included; 0 for a process each
	Version []string // the call that prints the version

	command func(t Tools, r Route) ([]string, error)
}

// Direct is the name of the plain route, without a forwarder.
const Direct = "direct"

// Fairlead is the name of the one that is measured.
const Fairlead = "fairlead"

// All are the peers, in the order of the tables.
var All = []Peer{
	{Name: "haproxy-tuned", Says: "2 threads, listener per thread, splice-request and splice-response, pipes of 1 MiB, buffers of 64 KiB",
		Program: "haproxy", PerConn: 2, Version: []string{"haproxy", "-v"}, command: haproxy(true)},
	{Name: "haproxy", Says: "as people write it: splice-auto, everything else as it comes",
		Program: "haproxy", PerConn: 4, Version: []string{"haproxy", "-v"}, command: haproxy(false)},
	{Name: "nginx", Says: "stream, 2 workers, reuseport, buffers of 256 KiB",
		Program: "nginx", UDP: true, PerConn: 2, Version: []string{"nginx", "-v"}, command: nginx},
	{Name: "socat", Says: "fork, buffers of 256 KiB",
		Program: "socat", UDP: true, PerConn: 0, Version: []string{"socat", "-V"}, command: socat},
	{Name: "rinetd", Says: "as it comes",
		Program: "rinetd", PerConn: 2, Version: []string{"rinetd", "-v"}, command: rinetd},
	{Name: "go", Says: "io.Copy in two goroutines per connection; ReadFrom and Write with a goroutine per UDP session",
		UDP: true, PerConn: 6, command: plainGo},
}

// Find is the peer of a name.
func Find(name string) (Peer, bool) {
	for _, p := range All {
		if p.Name == name {
			return p, true
		}
	}
	return Peer{}, false
}

// Missing is the error that the peer's program is not there, or nil.
func (p Peer) Missing() error {
	if p.Program == "" {
		return nil
	}
	if _, err := exec.LookPath(p.Program); err != nil {
		return fmt.Errorf("%s is not installed (on Debian, make bench as root installs it): %w", p.Program, err)
	}
	if p.Program == "nginx" {
		if _, err := os.Stat(streamModule); err != nil {
			return fmt.Errorf("nginx has no stream module (on Debian: libnginx-mod-stream): %w", err)
		}
	}
	return nil
}

// Command writes the peer's configuration and returns its call.
func (p Peer) Command(t Tools, r Route) ([]string, error) { return p.command(t, r) }

// Ask returns what the peer's program says of its version, in one line.
func (p Peer) Ask() string {
	if len(p.Version) == 0 {
		return ""
	}
	out, _ := exec.Command(p.Version[0], p.Version[1:]...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.ContainsAny(line, "0123456789") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func haproxy(tuned bool) func(Tools, Route) ([]string, error) {
	return func(t Tools, r Route) ([]string, error) {
		global, options, bind := "# nothing", "option splice-auto", ""
		if tuned {
			global = "maxconn 9500\n  nbthread 2\n  tune.pipesize 1048576\n  tune.bufsize 65536\n  maxpipes 256"
			options, bind = "option splice-request\n  option splice-response", " shards by-thread"
		}
		file, err := t.write("haproxy", r, fmt.Sprintf(`global
  %s
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  %s
listen bench
  bind %v%s
  server target %v
`, global, options, r.Listen, bind, r.To))
		return []string{"haproxy", "-db", "-f", file}, err
	}
}

const streamModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

func nginx(t Tools, r Route) ([]string, error) {
	udp, more, timeout := "", "backlog=4096", "1h"
	if r.UDP {
		udp, more, timeout = "udp", "", "20s"
	}
	pid := t.file("nginx", r, "pid")
	file, err := t.write("nginx", r, fmt.Sprintf(`load_module %s;
worker_processes 2;
worker_rlimit_nofile 20000;
daemon off;
pid %s;
error_log stderr;
events { worker_connections 19000; }
stream {
  access_log off;
  tcp_nodelay on;
  server {
    listen %v %s reuseport %s;
    proxy_pass %v;
    proxy_buffer_size 256k;
    proxy_timeout %s;
    proxy_half_close on;
  }
}
`, streamModule, pid, r.Listen, udp, more, r.To, timeout))
	return []string{"nginx", "-e", "stderr", "-c", file}, err
}

func socat(_ Tools, r Route) ([]string, error) {
	if r.UDP {
		return []string{"socat", "-T", "10", fmt.Sprintf("UDP4-LISTEN:%d,bind=%v,fork,reuseaddr", r.Listen.Port(), r.Listen.Addr()), fmt.Sprintf("UDP4:%v", r.To)}, nil
	}
	return []string{"socat", "-b262144",
		fmt.Sprintf("TCP4-LISTEN:%d,bind=%v,fork,reuseaddr,nodelay,backlog=4096", r.Listen.Port(), r.Listen.Addr()),
		fmt.Sprintf("TCP4:%v,nodelay", r.To)}, nil
}

func rinetd(t Tools, r Route) ([]string, error) {
	file, err := t.write("rinetd", r, fmt.Sprintf("%v %d %v %d\n", r.Listen.Addr(), r.Listen.Port(), r.To.Addr(), r.To.Port()))
	return []string{"rinetd", "-f", "-c", file}, err
}

func plainGo(t Tools, r Route) ([]string, error) {
	network := "tcp"
	if r.UDP {
		network = "udp"
	}
	return []string{t.Self, "plain", network, r.Listen.String(), r.To.String()}, nil
}

// FairleadVersion is what fairlead says of its version.
func FairleadVersion(t Tools) string {
	out, err := exec.Command(t.Fairlead, "version").Output()
	line, _, _ := strings.Cut(string(out), "\n")
	if err != nil || line == "" {
		return "fairlead of unknown version"
	}
	return line
}

// FairleadCommand is the call of fairlead with one forward and what words are
// added to it.
func FairleadCommand(t Tools, r Route, words ...string) []string {
	return append([]string{t.Fairlead, "forward", listens(r), "to", r.To.String()}, words...)
}

// FairleadMany is the call of fairlead with n forwards: that of r, and others
// at the ports behind it.
func FairleadMany(t Tools, r Route, n int) ([]string, error) {
	var b strings.Builder
	network := ""
	if r.UDP {
		network = "/udp"
	}
	for i := range n {
		fmt.Fprintf(&b, "f%d: forward %v%s to %v\n", i, netip.AddrPortFrom(r.Listen.Addr(), r.Listen.Port()+uint16(i)), network, r.To)
	}
	file, err := t.write("fairlead-many", r, b.String())
	return []string{t.Fairlead, "up", "-c", file, "--socket", t.file("fairlead-many", r, "sock")}, err
}

func (t Tools) file(name string, r Route, ext string) string {
	network := "tcp"
	if r.UDP {
		network = "udp"
	}
	return filepath.Join(t.Dir, fmt.Sprintf("%s-%s-%d.%s", name, network, r.Listen.Port(), ext))
}

func (t Tools) write(name string, r Route, text string) (string, error) {
	path := t.file(name, r, "conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return path, nil
}
