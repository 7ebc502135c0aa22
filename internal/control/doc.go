// Package control is the talk between a running service and whoever asks it
// something: JSON over HTTP on a unix socket, the server and the client of it.
//
// It decides nothing: a Backend answers and acts, and who may speak at all is
// the socket's mode and group. It is no web server; a browser has no business
// here and is turned away.
//
//	GET  /v1/status    Status: who runs, with which file, and how each forward stands
//	GET  /v1/conns     Conns: the live connections
//	GET  /v1/events    Event after Event, one to a line, until the reader leaves
//	GET  /v1/version   Version
//	POST /v1/reload    ReloadRequest → Reload
//	POST /v1/kill      KillRequest → Kill
//
// Paths match exactly. Every document says which it is ("schema") and later
// versions only add fields. What fails is answered with an Error document and
// a fitting HTTP status. A POST carries application/json of at most 64 KiB
// without fields that are unknown here: a condition that an old service does
// not know must not be left out of a kill.
package control
