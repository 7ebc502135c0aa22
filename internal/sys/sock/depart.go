package sock

import (
	"fmt"
	"net/netip"
)

// What a socket can be told before it connects: where it sets out from, and how
// its packets are treated on the way. Each of these functions takes a socket
// that has not connected yet, as a descriptor of the caller's, and may be called
// concurrently for different ones. Where the system has no such thing the error
// matches [errors.ErrUnsupported]; what it refuses is told in its own words
// around the errno.

// BindSource has the socket set out from an address. With port 0 the port is
// chosen when it connects, so that one port can serve for many targets
// (IP_BIND_ADDRESS_NO_PORT, ip(7)); with another one exactly that port is taken,
// also when a connection that has ended holds it still. foreign allows an address
// that is not this host's (IP_TRANSPARENT), which needs CAP_NET_ADMIN or
// CAP_NET_RAW. An address that is not ours is EADDRNOTAVAIL, a port that is
// taken EADDRINUSE.
func BindSource(fd int, from netip.AddrPort, foreign, stream bool) error {
	return bindSource(fd, from, foreign, stream)
}

// BindDevice has the socket use one interface only (SO_BINDTODEVICE, socket(7)).
// One that does not exist is ENODEV.
func BindDevice(fd int, name string) error { return bindDevice(fd, name) }

// SetMark gives the socket's packets a firewall mark (SO_MARK, socket(7)), which
// needs CAP_NET_ADMIN or CAP_NET_RAW.
func SetMark(fd int, mark uint32) error { return setMark(fd, mark) }

// SetDSCP gives the socket's packets a differentiated services code point, 0 to
// 63 (RFC 2474). It may be set on listeners as well: what they accept inherits
// it.
func SetDSCP(fd int, v6 bool, dscp int) error {
	if dscp < 0 || dscp > 63 {
		return fmt.Errorf("a code point of %d is not between 0 and 63", dscp)
	}
	return setDSCP(fd, v6, dscp)
}

// SetCongestion chooses the congestion control of a TCP socket, connected or not
// (TCP_CONGESTION, tcp(7)). One that the kernel does not have is ENOENT; one that
// is not in net.ipv4.tcp_allowed_congestion_control needs CAP_NET_ADMIN, and is
// EPERM without.
func SetCongestion(fd int, name string) error { return setCongestion(fd, name) }

// Congestion is the congestion control that new TCP sockets have.
func Congestion() (string, error) {
	var name string
	err := Try(false, func(fd int) (err error) {
		name, err = congestion(fd)
		return err
	})
	return name, err
}

// Try calls do with a fresh TCP socket that is closed afterwards: what is
// refused to it would be refused to a connection.
func Try(v6 bool, do func(fd int) error) error { return try(v6, do) }
