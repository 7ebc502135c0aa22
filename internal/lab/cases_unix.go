package lab

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"fairlead"
)

// The cases about unix sockets on either side.

// socketPath is a path for a socket, short enough for sockaddr_un's 108 bytes.
func (s *scene) socketPath(name string) string {
	s.Helper()
	path := filepath.Join(s.TempDir(), name)
	if len(path) > 100 {
		s.Fatalf("the path %s is too long for a socket", path)
	}
	return path
}

func unixSockets(s *scene) {
	tcpPeer, unixPeer := s.serve(EchoAfterEOF), Serve(s, At{Host: s.at.Target, Network: "unix", Address: s.socketPath("target")}, EchoAfterEOF)
	tcpEcho, unixEcho := s.serve(Echo), Serve(s, At{Host: s.at.Target, Network: "unix", Address: s.socketPath("echo")}, Echo)
	for i, way := range []struct {
		from         string
		after, every *Peer
	}{
		{"tcp", tcpPeer, tcpEcho}, {"tcp", unixPeer, unixEcho}, {"unix", tcpPeer, tcpEcho}, {"unix", unixPeer, unixEcho},
	} {
		if s.sub.NoTCP && (way.from == "tcp" || way.after.Network == "tcp") {
			continue
		}
		var spots [2]fairlead.Spot
		var address [2]string
		for j, name := range []string{"in", "busy"} {
			if way.from == "unix" {
				address[j] = s.socketPath(name)
				spots[j] = fairlead.Spot{Unix: address[j], Net: fairlead.TCP}
				continue
			}
			at := s.entry()
			address[j], spots[j] = at.String(), spot(fairlead.TCP, at, 1)
		}
		s.apply(
			s.patient(s.forward("after", spots[0], target(way.after.Address))),
			s.patient(s.forward("every", spots[1], target(way.every.Address))),
		)
		x := Transfer{From: s.at.Client, Network: way.from, Address: address[0], Seed: uint64(300 + i), Size: 1<<20 + 3}
		if err := x.Run(s.Context()); err != nil {
			s.Fatalf("%s to %s, half-closed: %v", way.from, way.after.Network, err)
		}
		x.Address, x.Stalls = address[1], true
		n := 20
		if testing.Short() {
			n = 8
		}
		Transfers(s, x, n, 2<<20)
	}

	// Nobody at the path: the client's connection ends, whatever it is called.
	gone, at := s.socketPath("nobody"), s.socketPath("in")
	s.try(s.forward("gone", fairlead.Spot{Unix: at, Net: fairlead.TCP}, target(gone)))
	if got, err := s.says(0, "unix", at); got != "" || isTimeout(err) {
		s.Errorf("got %q (%v) from a target that is not there", got, err)
	}
	if s.sub.NoTCP {
		return
	}
	entry := s.entry()
	s.try(s.tcp("gone", entry, gone))
	s.mustTurnAway(0, entry)
}

func unixStale(s *scene) {
	echo := Serve(s, At{Host: s.at.Target, Network: "unix", Address: s.socketPath("echo")}, Echo)
	path := s.socketPath("in")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		s.Fatal(err)
	}
	defer ln.Close()
	f := s.forward("in", fairlead.Spot{Unix: path, Net: fairlead.TCP}, target(echo.Address))

	// Somebody listens there.
	if got := s.try(f); got[0].State != fairlead.Broken || got[0].Problem == nil {
		s.Errorf("the socket is in use, and the forward is %s with %v", got[0].State, got[0].Problem)
	}
	probe, err := net.Dial("unix", path)
	if err != nil {
		s.Fatalf("the socket of another program was taken away: %v", err)
	}
	probe.Close()

	// Somebody did.
	ln.SetUnlinkOnClose(false)
	ln.Close()
	s.apply(f)
	c, err := s.connect(0, "unix", path)
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	s.echoes(c)

	// Removed, it leaves no file; the connection lives on.
	s.apply()
	if late, err := s.connect(0, "unix", path); err == nil {
		late.Close()
		s.Error("the entry of a removed forward still accepts")
	} else if !errors.Is(err, syscall.ENOENT) {
		s.Errorf("after the forward was removed: %v, want that there is no file", err)
	}
	s.echoes(c)
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		s.Fatal(err)
	}
	if rest, err := io.ReadAll(c); err != nil || !bytes.Equal(rest, nil) {
		s.Errorf("at the end: %q and %v", rest, err)
	}
}
