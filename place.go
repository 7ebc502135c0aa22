package fairlead

import (
	"context"
	"net"
	"net/netip"
)

// A Place is a point in the network to dial from and to listen at: this host,
// the far side of an SSH connection or of a tunnel, an upstream proxy. Places
// nest: one is built on the DialContext of another, so that a chain of them
// needs no type of its own.
//
// A method that makes no sense at a place (listening at an upstream proxy)
// returns an error that matches [errors.ErrUnsupported]. Both methods may be
// called concurrently; what they return belongs to the caller, who closes it.
type Place interface {
	// DialContext connects to address, "host:port" for the networks tcp and
	// udp, a path for unix. Names are resolved where the place is.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Listen listens at address in the same notation.
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// A Flow is one conversation that wants carrying.
type Flow struct {
	Client netip.AddrPort // who came; zero for a unix socket's client
	Local  netip.AddrPort // the address and port they asked
	Conn   net.Conn       // toward the client, never wrapped
	Head   []byte         // bytes a front read from Conn that belong to the target
	Dest   string         // host:port that the client named; "" means the forward's own target
	User   string         // who the front authenticated, if anyone

	// Reply tells the client how the dial went, before any byte of the
	// target. It is nil where the client's protocol has no such answer.
	Reply func(dial error) error
}

// A Carry takes a flow to its target and returns when the flow is over. It
// owns f.Conn and closes it.
type Carry func(ctx context.Context, f *Flow)

// A Front speaks the client's language on a fresh connection and calls carry
// once for every flow that the client asks for. It returns when the client is
// done; what carry did not take over, the front closes.
type Front func(ctx context.Context, c net.Conn, carry Carry) error
