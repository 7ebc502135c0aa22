//go:build !unix

package relay

import (
	"errors"
	"syscall"
)

const rawPumps = false

func (p *pump) runRaw() (side, error) { return p.runCopy() }

func (p *pump) awaitError() error { return nil }

// Kinds of failure, as Winsock names them (WSAECONNABORTED, WSAECONNRESET,
// WSAETIMEDOUT, WSAEHOSTUNREACH).
func isReset(err error) bool {
	return errors.Is(err, syscall.Errno(10053)) || errors.Is(err, syscall.Errno(10054))
}

func isVanished(err error) bool {
	return errors.Is(err, syscall.Errno(10060)) || errors.Is(err, syscall.Errno(10065))
}
