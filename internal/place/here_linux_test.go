package place

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"fairlead"
)

// fullListener listens at address and accepts nothing, and its queue is full:
// Linux drops what else wants to connect, as a firewall would.
func fullListener(t *testing.T, family int, at unix.Sockaddr) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if family == unix.AF_INET6 {
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err := unix.Bind(fd, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	filler, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(filler) })
	if err := unix.Connect(filler, name); err != nil {
		t.Fatal(err)
	}
	return fd
}

func tcpPort(t *testing.T, fd int) int {
	t.Helper()
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return name.Port
	case *unix.SockaddrInet6:
		return name.Port
	}
	t.Fatalf("a %T", name)
	return 0
}

func TestADeadIPv6DoesNotStallALiveIPv4(t *testing.T) {
	s := newNameServer(t)
	s.set("web.test", records{addrs: []string{"::1", "127.0.0.1"}, ttl: 60})
	h, d := newHere(t, s)
	live := listen(t, "127.0.0.1:0")
	fullListener(t, unix.AF_INET6, &unix.SockaddrInet6{Port: portOf(live), Addr: netip.IPv6Loopback().As16()})
	address := fmt.Sprintf("web.test:%d", portOf(live))
	four := fmt.Sprintf("127.0.0.1:%d", portOf(live))

	dial := func() (time.Duration, string, []string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		c, err := h.DialContext(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return time.Since(began), c.RemoteAddr().String(), d.read()
	}
	addrs, err := h.Resolve(t.Context(), "web.test")
	if err != nil || len(addrs) != 2 {
		t.Fatal(addrs, err)
	}
	if addrs[0].Is4() {
		t.Skip("this host prefers IPv4, so that the dead address is not the first")
	}
	before := descriptors(t)
	took, to, dialed := dial()
	if took > time.Second || took < stagger || to != four || len(dialed) != 2 {
		t.Errorf("the first dial took %v and reached %s, tried %v", took, to, dialed)
	}
	took, to, dialed = dial()
	if took > stagger/2 || to != four || len(dialed) != 1 {
		t.Errorf("the second dial took %v and reached %s, tried %v", took, to, dialed)
	}
	after := descriptors(t)
	for deadline := time.Now().Add(5 * time.Second); after > before && time.Now().Before(deadline); after = descriptors(t) {
		<-time.After(time.Millisecond) // the loser is closed behind the winner's back
	}
	if after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestASilentTargetIsToldWithTheTimeThatWasWaited(t *testing.T) {
	h, _ := newHere(t, nil)
	fd := fullListener(t, unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	address := fmt.Sprintf("127.0.0.1:%d", tcpPort(t, fd))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := h.DialContext(ctx, "tcp", address)
	wantProblem(t, err, fairlead.CodeTargetSilent, address+" does not answer (1 s)", context.DeadlineExceeded, fairlead.DialTimeout)
}

func TestAUnixSocketWithAFullQueueIsWaitedFor(t *testing.T) {
	tries := make(chan struct{}, 1000)
	h := New(Config{Control: func(string, string, syscall.RawConn) error {
		tries <- struct{}{}
		return nil
	}})
	t.Cleanup(h.Close)
	path := t.TempDir() + "/s"
	fd := fullListener(t, unix.AF_UNIX, &unix.SockaddrUnix{Name: path})

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := h.DialContext(ctx, "unix", path)
	p := wantProblem(t, err, fairlead.CodeTargetSilent, "unix:"+path+" does not answer ("+waited(err)+")", errAgain, fairlead.DialTimeout)
	if len(p.Notes) != 1 {
		t.Errorf("notes: %v", p.Notes)
	}

	for len(tries) > 0 {
		<-tries
	}
	dialed := make(chan error)
	go func() {
		c, err := h.DialContext(t.Context(), "unix", path)
		if err == nil {
			c.Close()
		}
		dialed <- err
	}()
	<-tries
	<-tries // the first one has failed
	accepted, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(accepted)
	if err := <-dialed; err != nil {
		t.Errorf("after room was made: %v", err)
	}
}

// waited is the time that a message says in brackets.
func waited(err error) string {
	var ms int
	what := err.Error()
	for i := range what {
		if what[i] == '(' {
			fmt.Sscanf(what[i:], "(%d ms)", &ms)
		}
	}
	return fmt.Sprintf("%d ms", ms)
}

func TestOutOfDescriptorsIsOurTroubleAndNotTheTargets(t *testing.T) {
	s := newNameServer(t)
	s.set("web.test", records{addrs: []string{"127.0.0.1"}, ttl: 60})
	h, _ := newHere(t, s)
	ln := listen(t, "127.0.0.1:0")

	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	// A descriptor that something else in this process gives back just now
	// would do, so that it is tried until there was none.
	var dialed, lookedUp error
	for range 100 {
		next, err := unix.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(next)
		low := was
		low.Cur = uint64(next)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
			t.Fatal(err)
		}
		var c net.Conn
		c, dialed = h.DialContext(t.Context(), "tcp", ln.Addr().String())
		h, _ = newHere(t, s) // without what it remembers
		_, lookedUp = h.Resolve(t.Context(), "web.test")
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
		if dialed != nil && lookedUp != nil {
			break
		}
		if c != nil {
			c.Close()
		}
	}
	wantProblem(t, dialed, fairlead.CodeNoDescriptors, "cannot connect to "+ln.Addr().String()+": out of file descriptors", unix.EMFILE, fairlead.NoDescriptors)
	wantProblem(t, lookedUp, fairlead.CodeNoDescriptors, "cannot look up web.test: out of file descriptors", unix.EMFILE, fairlead.NoDescriptors)
}

// inNamespace runs test on a thread with a network of its own, which ends with
// the thread.
func inNamespace(t *testing.T, test func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			test()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestATargetWithoutARouteIsUnreachable(t *testing.T) {
	h, _ := newHere(t, nil)
	inNamespace(t, func() {
		_, err := h.DialContext(t.Context(), "tcp", "10.0.0.4:80")
		wantProblem(t, err, fairlead.CodeTargetUnreachable, "10.0.0.4:80 cannot be reached (network is unreachable)", unix.ENETUNREACH, fairlead.Unreachable)
	})
}

func TestScopedAddressesAreDialedOnTheirInterface(t *testing.T) {
	h, _ := newHere(t, nil)
	inNamespace(t, func() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Error(err)
			return
		}
		address, err := netlink.ParseAddr("fe80::1/64")
		if err != nil {
			t.Error(err)
			return
		}
		address.Flags = unix.IFA_F_NODAD
		for _, err := range []error{netlink.LinkSetUp(lo), netlink.AddrAdd(lo, address)} {
			if err != nil {
				t.Error(err)
				return
			}
		}
		ln, err := h.Listen(t.Context(), "tcp", "[fe80::1%lo]:0")
		if err != nil {
			t.Error(err)
			return
		}
		defer ln.Close()
		// The kernel makes the address's route a moment after the address.
		for limit := time.After(10 * time.Second); ; {
			c, err := h.DialContext(t.Context(), "tcp", fmt.Sprintf("[fe80::1%%lo]:%d", ln.Addr().(*net.TCPAddr).Port))
			if err == nil {
				c.Close()
				return
			}
			select {
			case <-limit:
				t.Error(err)
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
}
