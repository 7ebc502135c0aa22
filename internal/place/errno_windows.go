package place

import "golang.org/x/sys/windows"

// What connect and socket of Winsock say. The constants of package syscall
// that have the names of POSIX are made up and never returned by a socket.
const (
	errRefused     = windows.WSAECONNREFUSED
	errTimedOut    = windows.WSAETIMEDOUT
	errNetUnreach  = windows.WSAENETUNREACH
	errHostUnreach = windows.WSAEHOSTUNREACH
	errNetDown     = windows.WSAENETDOWN
	errHostDown    = windows.WSAEHOSTDOWN
	errNoAddress   = windows.WSAEADDRNOTAVAIL
	errProtoType   = windows.WSAEPROTOTYPE
	errAgain       = windows.WSAEWOULDBLOCK
	errTooManyHere = windows.WSAEMFILE
	errTooManyAll  = windows.WSAENOBUFS
)
