package kernel

import (
	"net/netip"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// A pair is a LAN's interface and a WAN's, by which the LAN goes out.
type pair struct{ lan, wan string }

// fitsShare refuses what a share cannot be, or cannot keep.
func fitsShare(f *fairlead.Forward) *fairlead.Problem {
	if f.At.Where == "" || len(f.To) == 0 {
		return fairlead.Problemf(fairlead.CodeIncomplete, "share needs the two sides of a gateway: share lan to wan")
	}
	for i := range f.To {
		switch t := &f.To[i]; {
		case t.Unix != "" || t.Host == "self" || isAddr(t.Host):
			return fairlead.Problemf(fairlead.CodeBadValue, "%s is no side of a gateway: share lan to wan, or to an interface", t.Dest())
		case len(t.From) > 0:
			return cannot("from", "is for forwards; a share lets a whole LAN out")
		case t.Host == f.At.Where:
			return fairlead.Problemf(fairlead.CodeNoWay, "share %s to %s leads back to where it came from", f.At.Where, t.Host)
		}
	}
	switch p := &f.Policy; {
	case len(p.Deny) > 0:
		return cannot("deny", "is for forwards; a share lets a whole LAN out")
	case p.For != 0:
		return cannot("for", "would end the guard while the WAN is still there")
	}
	return nil
}

// cannot is the Problem of a word that is not kept.
func cannot(word, why string) *fairlead.Problem {
	return fairlead.Problemf(fairlead.CodeCannotHonour, "%q %s", word, why).Fix("take it out", "")
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// side is the interfaces that a word stands for.
func (w *world) side(where string) []string {
	switch where {
	case "wan":
		return w.wan
	case "lan":
		return w.lan
	}
	return []string{where}
}

// pairsOf are the ways out that f opens: each of its LANs by each of its WANs.
func pairsOf(f *fairlead.Forward, w *world) (list []pair, problem *fairlead.Problem) {
	var wans []string
	for i := range f.To {
		names := w.side(f.To[i].Host)
		if len(names) == 0 {
			return nil, noSide(f.To[i].Host)
		}
		wans = append(wans, names...)
	}
	lans := w.side(f.At.Where)
	if len(lans) == 0 {
		return nil, noSide(f.At.Where)
	}
	for _, lan := range lans {
		for _, wan := range wans {
			if way := (pair{lan, wan}); lan != wan && !slices.Contains(list, way) {
				list = append(list, way)
			}
		}
	}
	if len(list) == 0 {
		return nil, fairlead.Problemf(fairlead.CodeNoWay, "%s and %s are the same interface, %s", f.At.Where, f.To[0].Host, lans[0])
	}
	return list, nil
}

// noSide tells that this host has no interface on a side.
func noSide(where string) *fairlead.Problem {
	why := "no other interface with a private address"
	if where == "wan" {
		why = "no default route"
	}
	return fairlead.Problemf(fairlead.CodeNoInterface, "this machine has no %s interface: %s", where, why).
		Fix("name it in the file", where+" eth0")
}

// shareText is what f came to: "lan0 goes out by wan0 as 203.0.113.1".
func shareText(pairs []pair, w *world) (list []string) {
	for _, p := range pairs {
		var as []string
		for _, net := range w.addrs[p.wan] {
			if a := net.Addr(); a.Is4() {
				as = append(as, a.String())
			}
		}
		text := p.lan + " goes out by " + p.wan
		if len(as) > 0 {
			// The kernel takes the first that fits the next router.
			text += " as " + strings.Join(as, " or ")
		}
		list = append(list, text)
	}
	return list
}

// lacks tells what of a share's two sides is not there yet. Its rules are
// loaded all the same: they go by names.
func (w *world) lacks(pairs []pair) *fairlead.Problem {
	for _, p := range pairs {
		for _, name := range []string{p.lan, p.wan} {
			if _, ok := w.addrs[name]; !ok {
				problem := fairlead.Problemf(fairlead.CodeNoInterface, "there is no interface %q on this machine now", name)
				problem.Warning = true
				return problem.Note("note", "what comes and goes by it is guarded and translated from its first packet on")
			}
		}
	}
	for _, p := range pairs {
		if !slices.ContainsFunc(w.addrs[p.wan], func(net netip.Prefix) bool { return net.Addr().Is4() }) {
			problem := fairlead.Problemf(fairlead.CodeNoInterface, "%s has no IPv4 address to share now", p.wan)
			problem.Warning = true
			return problem
		}
	}
	return nil
}

// Ports that translated connections of the LAN set out from.
//
// A packet from the WAN belongs to a connection of the LAN when its addresses and
// ports are those to which an answer would go. So whoever in the LAN holds the
// source port 80 on the shared address, toward a host of his choice, gets what
// that host sends to port 80, forward or not ("port shadow", CVE-2021-3773).
// Linux moves source ports below 16384 away by itself, and only where the other
// port is above 32768.
//
// Therefore a port at which something of ours is reached never becomes a source
// port: who comes with one is given a port of the free stretch, and where the
// kernel, because a port is in use, happened upon a port of ours, the
// packet is dropped, and the client's next try finds another.

// usual are the ports to give out when nothing of them is ours: the same that
// this host's own programs get (ip(7), ip_local_port_range).
var usual = fairlead.Ports{First: 32768, Last: 60999}

// fewest is how many ports a stretch must have to be given out.
const fewest = 1024

// A portSet is ports of one protocol.
type portSet [1024]uint64

func (s *portSet) add(list ...fairlead.Ports) {
	for _, r := range list {
		for n := int(r.First); n <= int(r.Last); n++ {
			s[n>>6] |= 1 << (n & 63)
		}
	}
}

func (s *portSet) has(n int) bool { return s[n>>6]&(1<<(n&63)) != 0 }

// ranges are the ports of s, the longest runs that there are.
func (s *portSet) ranges() (list []fairlead.Ports) {
	for n := 1; n <= 65535; n++ {
		if !s.has(n) {
			continue
		}
		first := n
		for n < 65535 && s.has(n+1) {
			n++
		}
		list = append(list, fairlead.Ports{First: uint16(first), Last: uint16(n)})
	}
	return list
}

// free is the stretch of ports, none of them in s, that is given out: of the
// usual ports the longest, else of all from 1024 on. ok is false when none is
// long enough.
func (s *portSet) free() (best fairlead.Ports, ok bool) {
	for _, within := range []fairlead.Ports{usual, {First: 1024, Last: 65535}} {
		length := 0
		for n := int(within.First); n <= int(within.Last); n++ {
			if s.has(n) {
				continue
			}
			first := n
			for n < int(within.Last) && !s.has(n+1) {
				n++
			}
			if n-first+1 > length {
				length = n - first + 1
				best = fairlead.Ports{First: uint16(first), Last: uint16(n)}
			}
		}
		if length >= fewest {
			return best, true
		}
	}
	return best, false
}

// masquerades are the rules that share an address, and the set of the ports
// that are kept out of it. cramped are the protocols of which no free stretch is
// left.
func masquerades(tcp, udp *portSet) (post, shadow []nft.Rule, kept nft.Set, cramped []string) {
	kept = nft.Set{Name: setOurs, Key: []nft.Type{nft.InetProto, nft.InetService}, Interval: true}
	out := nft.In{Keys: []nft.Key{nft.IIFName, nft.OIFName}, Set: setShared}
	v4 := isByte(nft.NFProto, byte(nft.IPv4))
	ours := nft.In{Keys: []nft.Key{nft.L4Proto, nft.Sport}, Set: setOurs}
	for _, p := range []struct {
		name  string
		proto uint8
		ports *portSet
	}{{"tcp", protoTCP, tcp}, {"udp", protoUDP, udp}} {
		list := p.ports.ranges()
		if len(list) == 0 {
			continue
		}
		free, ok := p.ports.free()
		if !ok {
			cramped = append(cramped, p.name)
			continue
		}
		for _, r := range list {
			kept.Elements = append(kept.Elements, nft.Element{Key: []nft.Range{nft.One(nft.Byte(p.proto)), portRange(r)}})
		}
		// Who has a port of the stretch keeps it, or where it is in use gets
		// another one of it: most programs' ports are there to begin with.
		within := nft.Is{Key: nft.Sport, Values: []nft.Range{portRange(free)}}
		for _, which := range []nft.Expr{ours, within} {
			post = append(post, nft.Rule{Exprs: []nft.Expr{v4, out, isByte(nft.L4Proto, p.proto), which,
				nft.Masquerade{First: free.First, Last: free.Last}}})
		}
	}
	post = append(post, nft.Rule{Exprs: []nft.Expr{v4, out, nft.Masquerade{}}})
	shadow = []nft.Rule{{Exprs: []nft.Expr{nft.Has{Key: nft.CtState, Mask: nft.StateNew}, v4, out, ours, nft.Drop}}}
	return post, shadow, kept, cramped
}

func portRange(r fairlead.Ports) nft.Range {
	if r.First == r.Last {
		return nft.One(nft.Port(r.First))
	}
	return nft.Range{First: nft.Port(r.First), Last: nft.Port(r.Last)}
}
