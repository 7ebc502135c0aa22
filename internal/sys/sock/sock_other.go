//go:build !linux

package sock

import (
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Inherits says that accepted connections have their listener's keepalive.
const Inherits = false

// fionread is FIONREAD of the BSDs' <sys/filio.h>: how much can be read.
const fionread = 0x4004667f

func setListenerKeepalive(fd int, k net.KeepAliveConfig) error { return nil }

func setPacketInfo(fd int, v6 bool) error { return nil }

// PacketInfoSize is how many bytes of control data a datagram brings.
var PacketInfoSize = 0

// PacketInfo knows nothing on this system: answers leave from the address
// that the routing table chooses.
func PacketInfo(oob []byte) (asked netip.Addr, ifindex int) { return }

// SourceInfo is empty on this system.
func SourceInfo(from netip.Addr, ifindex int) []byte { return nil }

// Health is what the kernel knows of a TCP connection without asking the peer.
type Health struct {
	Failed  bool          // reset, or given up; not: closed in order with data still to be read
	Unacked bool          // the peer owes acknowledgements
	Silent  time.Duration // since its last acknowledgement
}

// Look knows nothing on this system; keepalive finds the dead.
func Look(c syscall.RawConn) (h Health, ok bool) { return }

// Unsent knows nothing on this system.
func Unsent(c syscall.RawConn) int { return 0 }
