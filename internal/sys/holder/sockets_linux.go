package holder

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A socket is a row of one of the kernel's lists.
type socket struct {
	local     bound
	port      uint16
	path      string // unix sockets only
	inode     uint64
	uid       int // who made it; -1 when the list does not tell
	connected bool
}

// Socket states as include/net/tcp_states.h numbers them; UDP borrows two.
const (
	established = 1
	timeWait    = 6
	closed      = 7 // for UDP: bound and not connected
	listen      = 10
	newSynRecv  = 12
	boundOnly   = 13 // neither listening nor connected; asked for only
)

// all are the states of sockets that have an owner.
const all = uint32(1<<(boundOnly+1)-2) &^ (1<<timeWait | 1<<newSynRecv)

// listens are the states of sockets that wait for somebody.
var listens = map[string]uint32{"tcp": 1 << listen, "udp": 1 << closed}

// procNet is of the thread, as its network namespace may be its own.
const procNet = "/proc/thread-self/net/"

// inetSockets are the tcp or udp sockets of both families that have that
// local port, any for 0, and one of states.
func inetSockets(proto string, port uint16, states uint32) ([]socket, error) {
	var list []socket
	keep := func(s socket) {
		if s.port == port || port == 0 {
			list = append(list, s)
		}
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if diag(family, proto, port, states, keep) == nil {
			continue
		}
		// No sock_diag in this kernel or sandbox. The text lists are longer
		// to read, and do not tell which sockets are restricted to v6.
		name := proto
		if family == unix.AF_INET6 {
			name += "6"
		}
		f, err := os.Open(procNet + name)
		if errors.Is(err, fs.ErrNotExist) && family == unix.AF_INET6 {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Listeners come first in the list of TCP sockets, and connections
		// may be a million.
		err = parseInet(f, states, proto == "tcp" && states == listens["tcp"], keep)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Sizes of struct inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	diagReqSize = 56
	diagMsgSize = 72
	diagV6Only  = 11 // INET_DIAG_SKV6ONLY
)

// diag lists sockets by sock_diag(7).
func diag(family uint8, proto string, port uint16, states uint32, keep func(socket)) error {
	b := make([]byte, diagReqSize)
	b[0] = family
	b[1] = unix.IPPROTO_TCP
	if proto == "udp" {
		b[1] = unix.IPPROTO_UDP
	}
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.BigEndian.PutUint16(b[8:], port)
	req := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.AddRawData(b)
	// Kept only when the list is whole, else the fall-back would double it.
	var list []socket
	err := req.ExecuteIter(unix.NETLINK_INET_DIAG, unix.SOCK_DIAG_BY_FAMILY, func(m []byte) bool {
		if s, ok := parseDiag(m); ok {
			list = append(list, s)
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return err
	}
	for _, s := range list {
		keep(s)
	}
	return nil
}

// parseDiag reads a struct inet_diag_msg and the attributes behind it.
func parseDiag(b []byte) (s socket, ok bool) {
	if len(b) < diagMsgSize {
		return s, false
	}
	family, state := b[0], b[1]
	switch family {
	case unix.AF_INET:
		s.local.addr = netip.AddrFrom4([4]byte(b[8:]))
	case unix.AF_INET6:
		s.local.addr = netip.AddrFrom16([16]byte(b[8:])).Unmap()
	default:
		return s, false
	}
	s.port = binary.BigEndian.Uint16(b[4:])
	s.uid = int(binary.NativeEndian.Uint32(b[64:]))
	s.inode = uint64(binary.NativeEndian.Uint32(b[68:]))
	s.connected = state != listen && state != closed
	for b = b[diagMsgSize:]; len(b) >= unix.SizeofNlAttr; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == diagV6Only && size > unix.SizeofNlAttr {
			s.local.v6only = b[unix.SizeofNlAttr] != 0
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return s, true
}

// parseInet reads /proc/net/tcp, tcp6, udp or udp6 (proc_pid_net(5)) and
// passes on the rows that have one of states. With head it ends at the first
// that has not. Rows that make no sense are left out.
func parseInet(r io.Reader, states uint32, head bool, keep func(socket)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), 64<<10)
	for title := true; lines.Scan(); title = false {
		if title {
			continue
		}
		// sl local remote st queues timer retransmits uid timeout inode …
		words := strings.Fields(lines.Text())
		if len(words) < 10 {
			continue
		}
		local, ok := parseAddr(words[1])
		state, err1 := strconv.ParseUint(words[3], 16, 8)
		uid, err2 := strconv.ParseUint(words[7], 10, 31)
		inode, err3 := strconv.ParseUint(words[9], 10, 64)
		if !ok || err1 != nil || err2 != nil || err3 != nil {
			continue
		}
		if state > 31 || states&(1<<state) == 0 {
			if head {
				return nil
			}
			continue
		}
		keep(socket{
			local:     bound{addr: local.Addr()},
			port:      local.Port(),
			uid:       int(uid),
			inode:     inode,
			connected: state != listen && state != closed,
		})
	}
	return lines.Err()
}

// parseAddr reads "0100007F:1F90": words of the address as this machine keeps
// numbers, and the port as people write them.
func parseAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	n, err1 := strconv.ParseUint(port, 16, 16)
	b, err2 := hex.DecodeString(host)
	if err1 != nil || err2 != nil || len(port) != 4 || (len(b) != 4 && len(b) != 16) {
		return netip.AddrPort{}, false
	}
	for w := b; len(w) > 0; w = w[4:] {
		binary.NativeEndian.PutUint32(w, binary.BigEndian.Uint32(w))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// unixSockets are the unix sockets that have a name and somebody waiting.
func unixSockets() ([]socket, error) {
	f, err := os.Open(procNet + "unix")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []socket
	err = parseUnix(f, func(s socket) { list = append(list, s) })
	return list, err
}

// parseUnix reads /proc/net/unix. The connections that a listener accepted
// bear its name too and are left out; datagram sockets have no such state.
// Names stand there as they are: one with a line end in it can make up a row.
func parseUnix(r io.Reader, keep func(socket)) error {
	const acceptCon = 1 << 16 // __SO_ACCEPTCON
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), 64<<10)
	for lines.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path
		var words [7]string
		rest := lines.Text()
		for i := range words {
			words[i], rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
		}
		flags, err1 := strconv.ParseUint(words[3], 16, 32)
		kind, err2 := strconv.ParseUint(words[4], 16, 16)
		inode, err3 := strconv.ParseUint(words[6], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil || rest == "" {
			continue
		}
		if flags&acceptCon == 0 && kind != unix.SOCK_DGRAM {
			continue
		}
		keep(socket{path: rest, inode: inode, uid: -1})
	}
	return lines.Err()
}
