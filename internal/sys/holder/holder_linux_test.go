package holder

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary play a part instead of running tests: what
// it does, in which network, and where.
const childEnv = "HOLDER_TEST_CHILD"

func TestMain(m *testing.M) {
	words := strings.Fields(os.Getenv(childEnv))
	if len(words) == 0 {
		os.Exit(m.Run())
	}
	if err := play(words); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// play holds a socket until standard input ends, or looks for one.
func play(words []string) error {
	switch do, network, at := words[0], words[1], words[2]; {
	case do == "find":
		found, err := Find(network, netip.MustParseAddrPort(at))
		fmt.Println(found)
		return err
	case do == "lose":
		return lose(network, at)
	case do == "inherited": // as descriptor 3
		fmt.Println("ready")
	case strings.HasPrefix(network, "udp"):
		c, err := net.ListenPacket(network, at)
		if err != nil {
			return err
		}
		defer c.Close()
		fmt.Println(c.LocalAddr())
	default:
		ln, err := net.Listen(network, at)
		if err != nil {
			return err
		}
		defer ln.Close()
		fmt.Println(ln.Addr())
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// child starts the test binary in that part and gives its first line. It ends
// with the test.
func child(t *testing.T, part string, files ...*os.File) (pid int, line string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childEnv+"="+part)
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("child %q: %v", part, err)
		}
	})
	line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "error:") {
		t.Fatalf("child %q: %v %s", part, err, line)
	}
	return cmd.Process.Pid, strings.TrimSuffix(line, "\n")
}

func addrPort(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// one is the only holder found.
func one(t *testing.T, found []Holder, err error) Holder {
	t.Helper()
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	return found[0]
}

func TestFindNamesTheProcess(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp", "udp"} {
		pid, line := child(t, "hold "+network+" 127.0.0.1:0")
		at := addrPort(t, line)
		wildcard4 := netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port())
		wildcard6 := netip.AddrPortFrom(netip.IPv6Unspecified(), at.Port())
		for _, ask := range []struct {
			network string
			at      netip.AddrPort
		}{
			{network, at}, {network + "4", at}, {network, wildcard4}, {network, wildcard6},
			{network, netip.AddrPortFrom(netip.Addr{}, at.Port())},
			{network, netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), at.Port())},
		} {
			found, err := Find(ask.network, ask.at)
			h := one(t, found, err)
			if h.PID != pid || h.UID != os.Geteuid() || h.User != me.Username || h.Name != "holder.test" || h.Connected || h.Nobody {
				t.Errorf("%s %s: %+v, want pid %d of %s", ask.network, ask.at, h, pid, me.Username)
			}
			if h.Age < 0 || h.Age > 5*time.Minute {
				t.Errorf("the child runs for %v", h.Age)
			}
		}
		for _, ask := range []struct {
			network string
			at      netip.AddrPort
		}{
			{network, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())},
			{network, netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())},
			{network + "6", wildcard6},
		} {
			if found, err := Find(ask.network, ask.at); err != nil || len(found) != 0 {
				t.Errorf("%s %s: found %v, %v", ask.network, ask.at, found, err)
			}
		}
	}
}

func TestWildcardOfBothFamiliesHoldsV4UnlessRestricted(t *testing.T) {
	v4 := func(at netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
	}
	for _, tt := range []struct {
		network string
		held    bool
	}{{"tcp", true}, {"tcp6", false}, {"udp", true}, {"udp6", false}} { // package net restricts with the 6
		pid, line := child(t, "hold "+tt.network+" [::]:0")
		at := addrPort(t, line)
		network := tt.network[:3]
		if err := diag(unix.AF_INET6, network, at.Port(), all, func(socket) {}); err != nil {
			skip(t, "this kernel has no sock_diag: "+err.Error())
		}
		found, err := Find(network, v4(at))
		if err != nil || (len(found) > 0) != tt.held {
			t.Errorf("%s: found %v, %v", tt.network, found, err)
		}
		listens, err := Listening(network)
		if err != nil {
			t.Fatal(err)
		}
		if got := listens.At(v4(at)); got != tt.held {
			t.Errorf("%s: listening on v4: %v", tt.network, got)
		}
		if !listens.At(netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())) {
			t.Errorf("%s: not listening on v6", tt.network)
		}
		found, err = Find(network, at)
		if h := one(t, found, err); h.PID != pid {
			t.Errorf("%s: found %v", tt.network, h)
		}
	}
}

func TestBothListsOfTheKernelAgree(t *testing.T) {
	for _, tt := range []struct {
		network, at string
		family      uint8
	}{
		{"tcp", "127.0.0.1:0", unix.AF_INET}, {"tcp6", "[::1]:0", unix.AF_INET6},
		{"udp", "127.0.0.1:0", unix.AF_INET}, {"udp6", "[::1]:0", unix.AF_INET6},
	} {
		_, line := child(t, "hold "+tt.network+" "+tt.at)
		at := addrPort(t, line)
		proto := tt.network[:3]
		var fromDiag, fromText []socket
		if err := diag(tt.family, proto, at.Port(), listens[proto], func(s socket) { fromDiag = append(fromDiag, s) }); err != nil {
			skip(t, "this kernel has no sock_diag: "+err.Error())
		}
		f, err := os.Open(procNet + tt.network)
		if err != nil {
			t.Fatal(err)
		}
		err = parseInet(f, listens[proto], proto == "tcp", func(s socket) {
			if s.port == at.Port() {
				fromText = append(fromText, s)
			}
		})
		f.Close()
		for i := range fromDiag {
			fromDiag[i].local.v6only = false // which the text does not tell
		}
		if err != nil || len(fromText) != 1 || !slices.Equal(fromDiag, fromText) {
			t.Errorf("%s: %+v and %+v, %v", line, fromDiag, fromText, err)
		}
	}
}

func TestServicesAreThoseWhoListen(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		var at netip.AddrPort
		if network == "tcp" {
			ln, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			at = netip.MustParseAddrPort(ln.Addr().String())
		} else {
			pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer pc.Close()
			at = netip.MustParseAddrPort(pc.LocalAddr().String())
		}
		list, err := Services(network)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(s Service) bool { return s.At == at })
		if i < 0 || list[i].Holder.PID != os.Getpid() {
			t.Errorf("%s: %v is not among %v as ours", network, at, list)
		}
	}
}

func TestListeningIsNotMereConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tt := range []struct {
		at   string
		want bool
	}{
		{ln.Addr().String(), true},
		{strings.Replace(ln.Addr().String(), "127.0.0.1", "0.0.0.0", 1), true}, // dials loopback
		{strings.Replace(ln.Addr().String(), "127.0.0.1", "127.0.0.2", 1), false},
		{strings.Replace(ln.Addr().String(), "127.0.0.1", "[::1]", 1), false},
		{c.LocalAddr().String(), false},
	} {
		all, err := Listening("tcp")
		if err != nil {
			t.Fatal(err)
		}
		if got := all.At(addrPort(t, tt.at)); got != tt.want {
			t.Errorf("%s: %v", tt.at, got)
		}
	}

	found, err := Find("tcp", addrPort(t, c.LocalAddr().String()))
	if h := one(t, found, err); h.PID != os.Getpid() || !h.Connected {
		t.Errorf("the connection's port: %+v", h)
	}
	ln.Close()
	if all, err := Listening("tcp"); err != nil || all.At(addrPort(t, ln.Addr().String())) {
		t.Errorf("closed: %v, %v", all, err)
	}
}

func TestParentIsNamedBeforeItsWorkers(t *testing.T) {
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
	child(t, "inherited - -", f)
	found, err := Find("tcp", addrPort(t, ln.Addr().String()))
	if h := one(t, found, err); h.PID != os.Getpid() {
		t.Errorf("found %v", h)
	}
}

func TestFindPathNamesTheProcess(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.sock")
	pid, _ := child(t, "hold unix "+path)
	byLink := filepath.Join(t.TempDir(), "run")
	if err := os.Symlink(dir, byLink); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(byLink, "a.sock")} {
		found, err := FindPath(p)
		if h := one(t, found, err); h.PID != pid {
			t.Errorf("%s: %v, want pid %d", p, h, pid)
		}
	}

	// What a listener accepted has its name too and is not the holder.
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	found, err := FindPath(path)
	one(t, found, err)

	abstract := "@fairlead-holder-test-" + strconv.Itoa(os.Getpid())
	pid, _ = child(t, "hold unix "+abstract)
	found, err = FindPath(abstract)
	if h := one(t, found, err); h.PID != pid {
		t.Errorf("%s: %v, want pid %d", abstract, h, pid)
	}

	left := filepath.Join(dir, "left.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	for _, p := range []string{left, filepath.Join(dir, "never"), abstract + "x"} {
		if found, err := FindPath(p); err != nil || len(found) > 0 {
			t.Errorf("%s: %v, %v", p, found, err)
		}
	}
}

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("FAIRLEAD_NO_SKIP") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func TestOtherUsersProcessIsOnlyAUser(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root to become another user")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// By this path the other user needs no right to the binary's directory.
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childEnv+"=find tcp "+ln.Addr().String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if want := "[a program of user root]\n"; err != nil || string(out) != want {
		t.Errorf("got %s, %v, want %s", out, err, want)
	}
}

func TestSocketOfNoProcessIsSaidToBeSo(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root to make a PID namespace")
	}
	// In a PID namespace of its own the child sees every process.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", childEnv+"=lose tcp 127.0.0.1:0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if want := "[the kernel itself, or a process in another PID namespace]\n"; err != nil || string(out) != want {
		t.Errorf("got %s, %v, want %s", out, err, want)
	}
}

// lose looks for a socket that no process has: its descriptor is under way
// between two sockets.
func lose(network, at string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		return err
	}
	f, err := ln.(*net.TCPListener).File()
	ln.Close()
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0)
	f.Close()
	if err != nil {
		return err
	}
	found, err := Find(network, netip.MustParseAddrPort(ln.Addr().String()))
	fmt.Println(found)
	return err
}

func TestNothingFoundIsNoError(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := addrPort(t, ln.Addr().String())
	ln.Close()
	if found, err := Find("tcp", at); err != nil || found != nil {
		t.Errorf("found %v, %v", found, err)
	}
	if found, err := FindPath("/proc/self/mem/x"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that cannot be: %v, %v", found, err)
	}
}
