//go:build !windows

package place

import "syscall"

// What connect(2) and socket(2) say.
const (
	errRefused     = syscall.ECONNREFUSED
	errTimedOut    = syscall.ETIMEDOUT
	errNetUnreach  = syscall.ENETUNREACH
	errHostUnreach = syscall.EHOSTUNREACH
	errNetDown     = syscall.ENETDOWN
	errHostDown    = syscall.EHOSTDOWN
	errNoAddress   = syscall.EADDRNOTAVAIL
	errProtoType   = syscall.EPROTOTYPE
	errAgain       = syscall.EAGAIN
	errTooManyHere = syscall.EMFILE
	errTooManyAll  = syscall.ENFILE
)
