package relay

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"fairlead"
)

// optionProblem is why a word that is a socket's option cannot be kept.
func optionProblem(word string, err error) *fairlead.Problem {
	var p *fairlead.Problem
	name, _, _ := strings.Cut(word, " ")
	switch {
	case errors.Is(err, os.ErrPermission) && name == "congestion":
		control := strings.TrimPrefix(word, "congestion ")
		p = fairlead.Problemf(fairlead.CodePrivilege, "%q needs a privilege: the system does not allow %s to everybody", word, control).
			Note("why", "it is not in net.ipv4.tcp_allowed_congestion_control, and this process has no CAP_NET_ADMIN").
			Fix("allow it to everybody", "sudo sysctl -w net.ipv4.tcp_allowed_congestion_control=\"$(sysctl -n net.ipv4.tcp_allowed_congestion_control) "+control+"\"")
	case errors.Is(err, os.ErrPermission):
		p = fairlead.Problemf(fairlead.CodePrivilege, "%q needs a privilege that this process does not have", word).
			Note("why", "the right to it is CAP_NET_RAW, or CAP_NET_ADMIN (mark before Linux 5.17: only that)").
			Fix("give the service CAP_NET_RAW, in AmbientCapabilities= and CapabilityBoundingSet=", "sudo systemctl edit fairlead").
			Fix("or run it as root", "")
	case errors.Is(err, errors.ErrUnsupported):
		p = fairlead.Problemf(fairlead.CodeCannotHonour, "this system has nothing for %q", word)
	case name == "congestion" && errors.Is(err, syscall.ENOENT):
		p = fairlead.Problemf(fairlead.CodeCannotHonour, "the kernel has no congestion control %q", strings.TrimPrefix(word, "congestion ")).
			Fix("see which there are", "sysctl net.ipv4.tcp_available_congestion_control").
			Fix("load it", "sudo modprobe tcp_"+strings.TrimPrefix(word, "congestion "))
	default:
		p = fairlead.Problemf(fairlead.CodeTargetFailed, "%q cannot be kept: %v", word, cause(err))
	}
	p.Err = err
	return p
}

// noSource says that no source is of the target's family.
func noSource(to netip.Addr, said string) *fairlead.Problem {
	family := "IPv6"
	if to.Is4() {
		family = "IPv4"
	}
	return fairlead.Problemf(fairlead.CodeNoSource, "%s is an %s address, and \"source %s\" has none of that family", to, family, said).
		Fix("add one to the sources", "source "+said+", ADDRESS")
}

func noInterface(said string, err error) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface of those in \"source %s\"", said).
		Fix("see which there are", "ip -brief link")
	p.Err = err
	return p
}

// spentProblem says that connections have used up all ports of the sources, or
// that none of the sources is an address of this host any more.
func spentProblem(said string, to netip.AddrPort, err error) *fairlead.Problem {
	var gone []string
	for word := range strings.SplitSeq(said, ",") {
		if a, aerr := netip.ParseAddr(word); aerr == nil && !isLocal(a.WithZone("")) {
			gone = append(gone, a.String())
		}
	}
	if n := len(gone); n > 0 && !slices.ContainsFunc(strings.Split(said, ","), func(w string) bool { return !slices.Contains(gone, w) }) {
		p := notOurs(gone)
		p.Err = err
		return p
	}
	p := fairlead.Problemf(fairlead.CodeNoSourcePort, "no port is left to connect to %s from %s", to, strings.ReplaceAll(said, ",", ", ")).
		Fix("add another address of this host", "source "+strings.ReplaceAll(said, ",", ", ")+", ADDRESS").
		Fix("widen the range of ports", "sudo sysctl -w net.ipv4.ip_local_port_range='1024 65535'")
	p.Err = err
	return p
}

// notOurs says that sources are not addresses of this host.
func notOurs(addrs []string) *fairlead.Problem {
	verb := "is not an address"
	if len(addrs) > 1 {
		verb = "are not addresses"
	}
	return fairlead.Problemf(fairlead.CodeNotOurAddress, "%s %s of this machine, and nothing can set out from there", strings.Join(addrs, ", "), verb).
		Fix("see which there are", "ip -brief address")
}
