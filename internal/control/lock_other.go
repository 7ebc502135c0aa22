//go:build !unix

package control

import (
	"errors"
	"syscall"
)

// lock does nothing: there is no flock here, and of two services that start at
// the same moment the later one may take the socket of the other.
func lock(string) (unlock func(), err error) { return func() {}, nil }

// wsaeConnRefused is WSAECONNREFUSED, which package syscall does not name.
const wsaeConnRefused = syscall.Errno(10061)

// nobodyListens reports whether a dial found a socket without a listener.
func nobodyListens(err error) bool { return errors.Is(err, wsaeConnRefused) }
