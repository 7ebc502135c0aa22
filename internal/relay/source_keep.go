package relay

import (
	"net/netip"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// keepTries is how many sockets are tried to keep a client: with its own port,
// and with one that the system chooses.
const keepTries = 2

// A keeping is what becomes of a client's address toward a target.
type keeping int

const (
	kept       keeping = iota
	keptPlain          // it has none, or it is this host's own: the host's is as good
	keptOther          // it is of the other family than the target
	keptBeside         // the target is on this host, and would answer around us
)

// keeps tells whether a client's address can be kept toward a target.
func keeps(client, to netip.Addr) keeping {
	switch {
	case !client.IsValid():
		return keptPlain
	case client.Is4() != to.Is4():
		return keptOther
	case client.IsLoopback() || client.IsLinkLocalUnicast():
		return keptPlain
	case isLocal(to):
		if isLocal(client) {
			return keptPlain
		}
		return keptBeside
	}
	return kept
}

// keepClient binds the socket to the client's address, so that the target sees
// it (IP_TRANSPARENT, ip(7)).
func (s start) keepClient(fd int, to netip.Addr, stream bool, try int) error {
	client := netip.AddrPortFrom(s.client.Addr().Unmap(), s.client.Port())
	switch keeps(client.Addr(), to) {
	case keptPlain:
		return nil
	case keptOther:
		s.r.trouble(fairlead.CodeNoSource, s.ru.f.Name+": "+client.Addr().String()+" cannot be kept toward "+to.String()+
			", which is of the other family: the target sees this host's address")
		return nil
	case keptBeside:
		return fairlead.Problemf(fairlead.CodeNoSource, "%s is on this host, and there the address of %s cannot be kept", to, client.Addr()).
			Fix("tell the target who the client is instead", "proxy-protocol v2")
	}
	if try > 0 {
		client = netip.AddrPortFrom(client.Addr(), 0)
	}
	if err := sock.BindSource(fd, client, true, stream); err != nil {
		if sockErr := optionProblem("source keep", err); sockErr.Code != fairlead.CodeTargetFailed {
			return sockErr
		}
		return err
	}
	return nil
}
