package peers

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// NAT is the name of fairlead's forwards in the kernel.
const NAT = "nat"

// NFT is the name of the same by hand: one rule of nftables, and nothing else.
const NFT = "nft"

// NATCommand is the call of fairlead with one forward in the kernel.
func NATCommand(t Tools, r Route) []string {
	return []string{t.Fairlead, "nat", listens(r), "to", r.To.String()}
}

// A NATService is the service with forwards in the kernel: that of a route, and
// others at the ports behind it.
type NATService struct {
	Tools  Tools
	Route  Route
	Count  int
	File   string
	Socket string
}

// NewNATService has n forwards; name is part of its files' names.
func NewNATService(t Tools, name string, r Route, n int) NATService {
	return NATService{Tools: t, Route: r, Count: n, File: t.file(name, r, "conf"), Socket: t.file(name, r, "sock")}
}

// Write writes its file. A forward of a number in moved is at that port instead.
func (s NATService) Write(moved map[int]uint16) error {
	var b strings.Builder
	for i := range s.Count {
		r := s.Route
		r.Listen = s.At(i)
		if port, ok := moved[i]; ok {
			r.Listen = netip.AddrPortFrom(r.Listen.Addr(), port)
		}
		fmt.Fprintf(&b, "f%d: nat %s to %v\n", i, listens(r), r.To)
	}
	if err := os.WriteFile(s.File, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write the forwards: %w", err)
	}
	return nil
}

// At is where forward i listens.
func (s NATService) At(i int) netip.AddrPort {
	return netip.AddrPortFrom(s.Route.Listen.Addr(), s.Route.Listen.Port()+uint16(i))
}

// Command is a call of fairlead for this service.
func (s NATService) Command(words ...string) []string {
	return append(append([]string{s.Tools.Fairlead}, words...), "-c", s.File, "--socket", s.Socket)
}

// NFTCommand loads the one rule.
func NFTCommand(t Tools, r Route) ([]string, error) {
	network := "tcp"
	if r.UDP {
		network = "udp"
	}
	file, err := t.write(NFT, r, fmt.Sprintf(`table ip byhand {
  chain in {
    type nat hook prerouting priority -100;
    ip daddr %v %s dport %d dnat to %v
  }
}
`, r.Listen.Addr(), network, r.Listen.Port(), r.To))
	return []string{"nft", "-f", file}, err
}

func listens(r Route) string {
	if r.UDP {
		return r.Listen.String() + "/udp"
	}
	return r.Listen.String()
}
