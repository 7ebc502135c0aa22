//go:build !linux

package helper

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
)

type opening struct {
	at     netip.AddrPort
	link   string
	group  int
	shared bool
	peer   netip.AddrPort
}

var errSystem = fmt.Errorf("helper needs sockets of Linux that belong to one interface, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)

type socket struct{}

func openSocket(opening) (*socket, error)                { return nil, errSystem }
func (*socket) close()                                   {}
func (*socket) receive(func(*arrival))                   {}
func (*socket) send([]byte, netip.AddrPort, uint8) error { return errSystem }

type rawSocket struct{}

func openRaw() (*rawSocket, error)               { return nil, errSystem }
func (*rawSocket) send([]byte, netip.Addr) error { return errSystem }
func (*rawSocket) close()                        {}

type frameSocket struct{}

func openFrames() (*frameSocket, error)             { return nil, errSystem }
func (*frameSocket) send([]byte, int, []byte) error { return errSystem }
func (*frameSocket) close()                         {}
