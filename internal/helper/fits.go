package helper

import (
	"net/netip"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/wire/dhcp"
)

// Fits returns nil for a forward of kind helper that can be carried as it
// stands.
func (h *Helper) Fits(f *fairlead.Forward) error {
	if p := fits(f); p != nil {
		return p
	}
	return nil
}

func fits(f *fairlead.Forward) *fairlead.Problem {
	if f.Kind != fairlead.KindHelper {
		return fairlead.Problemf(fairlead.CodeCannotCarry, "a helper does not carry %s", f.Kind)
	}
	refuse := func(format string, args ...any) *fairlead.Problem {
		return fairlead.Problemf(fairlead.CodeCannotHonour, format, args...)
	}
	ports := f.At.Ports.String() + "/udp"
	switch {
	case f.At.Net != fairlead.UDP:
		return refuse("helper passes on UDP only")
	case len(f.At.Ports) == 0:
		return fairlead.Problemf(fairlead.CodeIncomplete, "helper needs ports to hear at: helper lan:%d/udp", dhcp.ServerPort)
	case f.At.Addr.IsMulticast():
		return refuse("a group is joined at an interface, and %s names none", f.At.String()).
			Fix("name it", "helper lan:"+f.At.String()+" to ...")
	case f.At.Where == "":
		return refuse("what is sent to all is heard at an interface, and %s names none", f.At.String()).
			Fix("name it", "helper lan:"+ports+" to ...")
	case f.At.Where == "lo":
		return refuse("lo is where this host talks to itself: nobody sends to all there")
	case len(f.To) == 0:
		return fairlead.Problemf(fairlead.CodeIncomplete, "helper needs a target: helper %s to HOST", f.At.String())
	case f.At.Ports.Len() > maxPorts:
		return fairlead.Problemf(fairlead.CodeTooManyPorts, "helper hears at %d ports of an interface at most, and these are %d", maxPorts, f.At.Ports.Len())
	case f.At.Ports.Len() > 1 && hasPort(f, dhcp.ServerPort6):
		return refuse("port %d is DHCPv6's, whose servers have other addresses than those of the other ports", dhcp.ServerPort6).
			Fix("give it a sentence of its own", "helper "+f.At.Where+":547/udp to ...")
	case f.At.Ports.Len() == 1 && hasPort(f, dhcp.ClientPort):
		return refuse("port %d is where clients hear; what they ask goes to port %d, and a relay brings the answers back by itself", dhcp.ClientPort, dhcp.ServerPort).
			Fix("relay what they ask", "helper "+f.At.Where+":67/udp to ...")
	case f.At.Group.IsValid() && hasPort(f, dhcp.ServerPort):
		return refuse("DHCP for IPv4 knows broadcasts and no groups").Fix("leave it out", "helper "+f.At.Where+":"+ports+" to ...")
	case f.At.Group.IsValid() && hasPort(f, dhcp.ServerPort6):
		return refuse("the groups of DHCPv6 are joined by themselves").Fix("leave it out", "helper "+f.At.Where+":"+ports+" to ...")
	case f.At.Group.Is6():
		return refuse("%s is a group of IPv6, and this version passes those of IPv4 on, and DHCPv6", f.At.Group)
	}
	for i := range f.To {
		if p := fitsTarget(f, &f.To[i]); p != nil {
			return p
		}
	}
	p := &f.Policy
	plain := slices.ContainsFunc(f.At.Ports, func(r fairlead.Ports) bool {
		for n := int(r.First); n <= int(r.Last); n++ {
			if n != dhcp.ServerPort && n != dhcp.ClientPort && n != dhcp.ServerPort6 {
				return true
			}
		}
		return false
	})
	switch {
	case p.By != "" && p.By != "auto" && p.By != Name:
		return refuse("helper is carried by itself, not by %q", p.By)
	case p.Source != "" && p.Source != "keep":
		return refuse("\"source %s\": a helper takes this host's address on the way to the target, or keeps the sender's", p.Source).
			Fix("keep the sender's", "source keep")
	case p.Source != "" && !plain:
		return refuse("\"source\" means nothing to DHCP: its clients have no address yet, and servers answer the relay").Fix("take it out", "")
	case p.Idle != 0 && (!plain || p.Source == "keep"):
		return refuse("\"idle\" is the end of sessions, and this has none").Fix("take it out", "")
	case p.Circuit && !hasPort(f, dhcp.ServerPort):
		return refuse("\"option-82\" is of DHCP for IPv4, and %s does not have port %d", f.At.String(), dhcp.ServerPort).Fix("take it out", "")
	case len(p.Deny) > 0 && !plain:
		return refuse("\"deny\" names clients by address, and those of DHCP have none yet").Fix("take it out", "")
	}
	return nil
}

func fitsTarget(f *fairlead.Forward, t *fairlead.Target) *fairlead.Problem {
	refuse := func(format string, args ...any) *fairlead.Problem {
		return fairlead.Problemf(fairlead.CodeCannotHonour, format, args...)
	}
	a, err := netip.ParseAddr(t.Host)
	switch {
	case t.Unix != "" || t.Service() || t.Conditional() || t.Resolve != "" || t.Weight != 0 || t.Backup || t.Drain:
		return refuse("a helper sends to each of its targets, and %s is not simply a host", t.Dest())
	case t.Host == "self" || t.Host == "localhost":
		return refuse("programs on this host hear what is sent to all by themselves: %s needs no helper", t.Host)
	case err == nil && a.IsLoopback():
		return refuse("%s is this host, where programs hear what is sent to all by themselves", t.Host)
	case err == nil && wants6(f) && !a.Is6():
		return refuse("servers of DHCPv6 have addresses of IPv6, and %s is none", t.Host)
	case err == nil && !wants6(f) && !a.Is4():
		return refuse("what is sent to all by IPv4 goes to servers by IPv4, and %s is an address of IPv6", t.Host)
	case len(t.From) > 0 && (hasPort(f, dhcp.ServerPort) || hasPort(f, dhcp.ServerPort6)):
		return refuse("\"from\" names clients by address, and those of DHCP have none yet").
			Fix("give other ports a sentence of their own", strings.TrimSpace("helper "+f.At.Where+":67/udp to "+t.Dest()))
	}
	return nil
}

// maxPorts bounds the sockets of one sentence: there are two or more for each
// port and interface.
const maxPorts = 256

func hasPort(f *fairlead.Forward, port uint16) bool {
	return slices.ContainsFunc(f.At.Ports, func(r fairlead.Ports) bool { return r.First <= port && port <= r.Last })
}

// wants6 reports whether targets are addressed by IPv6.
func wants6(f *fairlead.Forward) bool { return hasPort(f, dhcp.ServerPort6) || f.At.Group.Is6() }
