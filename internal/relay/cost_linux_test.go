package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"fairlead"
	"fairlead/internal/lab"
	"fairlead/internal/place"
	"fairlead/internal/relay"
)

// childTarget makes the test binary a forwarder to that address, so that what
// is measured is a process that does nothing else.
const childTarget = "FAIRLEAD_TEST_RELAY_TO"

func TestMain(m *testing.M) {
	if to := os.Getenv(childTarget); to != "" {
		runChild(to)
		return
	}
	os.Exit(m.Run())
}

func runChild(to string) {
	here := place.New(place.Config{})
	defer here.Close()
	cfg := relay.Config{Place: func(string) (fairlead.Place, error) { return here, nil }}
	shorten(&cfg)
	r := relay.New(cfg)
	port := func() uint16 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		defer ln.Close()
		return uint16(ln.Addr().(*net.TCPAddr).Port)
	}()
	host, p, _ := strings.Cut(to, ":")
	target, _ := strconv.Atoi(p)
	r.Apply(context.Background(), []*fairlead.Forward{{
		Name: "child", Kind: fairlead.KindForward,
		At: fairlead.Spot{Addr: parseAddr("127.0.0.1"), Ports: fairlead.PortList{{First: port, Last: port}}, Net: fairlead.TCP},
		To: []fairlead.Target{{Host: host, Ports: fairlead.PortList{{First: uint16(target), Last: uint16(target)}}}},
	}})
	fmt.Println(port)
	io.Copy(io.Discard, os.Stdin) // until the parent is done
	r.Close()
}

func TestIdleConnectionCostsTwoDescriptorsAndUnderTenKiB(t *testing.T) {
	if raceEnabled {
		t.Log("memory is measured without the race detector; only descriptors count here")
	}
	const n = 3000
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go echoAll(ln)
	entry, pid := startChild(t, ln.Addr().String(), nil)
	open := func(n int) []net.Conn {
		conns := make([]net.Conn, n)
		for i := range conns {
			c, err := net.Dial("tcp", entry)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			conns[i] = c
		}
		return conns
	}
	for _, c := range open(20) { // what the first connections cost once
		defer c.Close()
	}
	fds, rss := holdings(t, pid)
	for _, c := range open(n) {
		defer c.Close()
	}
	fds2, rss2 := holdings(t, pid)
	perFD, perKiB := float64(fds2-fds)/n, float64(rss2-rss)/n
	t.Logf("%d idle connections: %.2f descriptors and %.1f KiB each", n, perFD, perKiB)
	if perFD > 2.01 {
		t.Errorf("an idle connection holds %.2f descriptors, want 2", perFD)
	}
	if !raceEnabled && perKiB >= 10 {
		t.Errorf("an idle connection costs %.1f KiB, want under 10", perKiB)
	}
}

// startChild forwards to an address in a process of its own, which ends with
// the test, and returns where it listens.
func startChild(t *testing.T, to string, as *syscall.SysProcAttr) (entry string, pid int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childTarget+"="+to)
	cmd.SysProcAttr = as
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the forwarder ended with %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strings.TrimSpace(line), cmd.Process.Pid
}

// A user without privileges may own 64 large pipes; what is beyond goes
// through buffers, and every byte arrives either way.
func TestTransfersOfAnUnprivilegedUserArriveWhole(t *testing.T) {
	lab.NeedRoot(t) // to become somebody else
	lab.CheckLeaks(t)
	n, limit := 200, int64(8<<20)
	if testing.Short() {
		n, limit = 100, 1<<20
	}
	peer := lab.Serve(t, lab.At{}, lab.Echo)
	entry, _ := startChild(t, peer.Address, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}})
	lab.Transfers(t, lab.Transfer{Network: "tcp", Address: entry, Seed: 7, Stalls: true}, n, limit)
}

func echoAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() { io.Copy(c, c); c.Close() }()
	}
}

// holdings is how many descriptors and KiB of memory a process has.
func holdings(t *testing.T, pid int) (fds, kib int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs Linux: /proc tells what a process holds")
	}
	d, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("VmRSS:"))
	kib, err = strconv.Atoi(strings.Fields(string(rest))[0])
	if err != nil {
		t.Fatal(err)
	}
	return len(d), kib
}
