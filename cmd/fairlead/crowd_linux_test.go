package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// crowd is an echo and its many clients, in a process of their own, which has
// its own limit of descriptors. It prints the echo's address, reads how many
// clients are to come and through which address, lets each exchange a byte,
// says so, and holds all of them until its input ends.
func crowd() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go echoAll(ln)
	fmt.Println(ln.Addr())
	in := bufio.NewReader(os.Stdin)
	var n int
	var address string
	_, err = fmt.Fscanln(in, &n, &address)
	must(err)
	clients := make([]net.Conn, n)
	for i := range clients {
		clients[i], err = net.Dial("tcp", address)
		must(err)
		must(exchange(clients[i]))
	}
	fmt.Println("idle")
	io.Copy(io.Discard, in)
	for _, c := range clients {
		c.Close()
	}
	os.Exit(0)
}

func echoAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		must(err)
		go func() {
			defer c.Close()
			buf := make([]byte, 16)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				c.Write(buf[:n])
			}
		}()
	}
}

// TestIdleConnectionsAreCheap holds thousands of connections that do nothing:
// two descriptors each, and under 10 KiB of the process's memory.
func TestIdleConnectionsAreCheap(t *testing.T) {
	lab.CheckLeaks(t)
	n := 8000
	if *soak {
		n = 10000
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if room := int(min(limit.Max, 1<<20)-500) / 2; room < n {
		t.Logf("%d connections instead of %d: the limit of descriptors is %d", room, n, limit.Max)
		n = room
	}

	cmd := exec.Command(filepath.Join(bin, "crowd"))
	cmd.Stderr = os.Stderr
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
		cmd.Wait()
	})
	said := bufio.NewReader(out)
	echo, err := said.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}

	at := freePort(t)
	v := spec{}.up(t, "web: forward "+at+" to "+strings.TrimSpace(echo)+"\n")
	lab.Transfers(t, lab.Transfer{Network: "tcp", Address: at, Seed: 1}, 8, 1<<20)
	eventually(t, "the first connections are gone", func() bool { return len(v.sockets()) == 0 })
	all, pipes := v.descriptors()
	before, memory := all-pipes, v.memory()

	fmt.Fprintln(in, strconv.Itoa(n), at)
	if line, err := said.ReadString('\n'); line != "idle\n" {
		t.Fatalf("the crowd says %q, %v", line, err)
	}
	all, pipes = v.descriptors()
	if held := all - pipes - before; held != 2*n {
		t.Errorf("%d idle connections hold %d descriptors, want %d", n, held, 2*n)
	}
	each := (v.memory() - memory) / int64(n)
	t.Logf("%d idle connections: %d bytes of memory each", n, each)
	if each >= 10<<10 {
		t.Errorf("an idle connection costs %d bytes of memory, want less than 10 KiB", each)
	}
	if f := v.forward("web"); f.Counters.Active != int64(n) {
		t.Errorf("status counts %d connections, want %d", f.Counters.Active, n)
	}

	in.Close()
	eventually(t, "the connections are gone", func() bool {
		all, pipes := v.descriptors()
		return all-pipes == before && v.forward("web").Counters.Active == 0
	})
}
