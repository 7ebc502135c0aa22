package load

import (
	"net/netip"
	"time"
)

// A Kind is what a client does.
type Kind string

// The kinds of orders.
const (
	Bulk     Kind = "bulk"     // N connections upload as fast as they can
	Requests Kind = "requests" // N connections ask and wait, Size bytes each way
	Connects Kind = "connects" // N at a time connect, ask once, close
	Idle     Kind = "idle"     // N connections ask once and then do nothing
	Packets  Kind = "packets"  // N sockets send datagrams one way
	Check    Kind = "check"    // a transfer must arrive whole; with a Size of 0 it ends with half-close
)

// An Order is what a client shall do. It connects, warms up, prints "ready",
// begins to count at "go", ends at "stop" and prints a Result.
type Order struct {
	Kind    Kind
	To      netip.AddrPort
	N       int           // connections or sockets, 1 to 20000
	Size    int           // bytes of a request or a datagram
	Warm    time.Duration // from the last connection to "ready"
	Rate    int           // datagrams per second altogether; 0 is as many as go
	Train   int           // datagrams per send (UDP_SEGMENT); 0 and 1 are single ones
	Sources []netip.Addr  // local addresses, used in turn; empty is the system's choice
	Bound   time.Duration // after which the client gives up; 0 is two minutes
}

// A Result is what the client saw between "go" and "stop". Times are in
// microseconds.
type Result struct {
	Error     string `json:",omitempty"` // the first one; the order has failed
	Errors    int64
	Ops       int64   // requests answered, connections served, datagrams sent
	Seconds   float64 // between go and stop
	P50       float64
	P99       float64
	P999      float64
	Connected float64 // seconds that it took to connect all
}

// Counters is what a server has taken in since it began. It answers each line
// on its standard input with them.
type Counters struct {
	At      int64 // nanoseconds, of the server's own clock
	Bytes   int64 // of uploads
	Ops     int64 // answered requests
	Conns   int64 // accepted connections
	Packets int64 // datagrams, those of a train one by one
	Payload int64 // bytes in them
}
