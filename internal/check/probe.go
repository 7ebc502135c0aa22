package check

import (
	"net/netip"
	"slices"

	"fairlead/internal/sys/nft"
	"fairlead/internal/wire/packet"
)

// probeTable is how the names of probes' own tables begin.
const probeTable = "flprobe"

// An attempt is the packet that is followed.
type attempt struct {
	proto    uint8 // packet.TCP or packet.UDP
	src, dst netip.AddrPort
	link     string // by which it comes in; "": it begins on this host
	payload  []byte
}

// first and last are the priorities before and behind all others.
const (
	veryFirst = -450
	veryLast  = 1<<31 - 2
)

// table marks the attempt and the answers to it, shows how far they come, and
// keeps answers from an address that was only borrowed.
func (a *attempt) table(name string) *nft.Table {
	t := &nft.Table{Family: nft.IPv4, Name: name, Owned: true}
	saddr, daddr, osaddr, odaddr := nft.IPSaddr, nft.IPDaddr, nft.CtOrigIPSaddr, nft.CtOrigIPDaddr
	if a.dst.Addr().Is6() {
		t.Family = nft.IPv6
		saddr, daddr, osaddr, odaddr = nft.IP6Saddr, nft.IP6Daddr, nft.CtOrigIP6Saddr, nft.CtOrigIP6Daddr
	}
	is := func(k nft.Key, v nft.Value) nft.Expr { return nft.Is{Key: k, Values: []nft.Range{nft.One(v)}} }
	proto := is(nft.L4Proto, nft.Byte(a.proto))
	trace := nft.SetKey{Key: nft.NFTrace, Value: 1}

	begin := []nft.Expr{is(daddr, nft.Addr(a.dst.Addr())), proto, is(nft.Sport, nft.Port(a.src.Port())), is(nft.Dport, nft.Port(a.dst.Port()))}
	beginHook := "output"
	if a.link != "" {
		beginHook = "prerouting"
		begin = append([]nft.Expr{is(nft.IIFName, nft.Name(a.link)), is(saddr, nft.Addr(a.src.Addr()))}, begin...)
	}
	begin = append(begin, trace)
	// The connection as the client sees it, whatever is rewritten: also of what
	// an ICMP error tells about it.
	ends := []nft.Expr{is(odaddr, nft.Addr(a.dst.Addr()))}
	if a.link != "" {
		ends = append(ends, is(osaddr, nft.Addr(a.src.Addr())))
	}
	ports := []nft.Expr{is(nft.CtOrigDport, nft.Port(a.dst.Port())), is(nft.CtOrigSport, nft.Port(a.src.Port()))}
	reply := slices.Concat([]nft.Expr{proto, is(nft.CtDirection, nft.Byte(1))}, ends, ports)
	related := slices.Concat([]nft.Expr{
		nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(packet.ICMP)), nft.One(nft.Byte(packet.ICMPv6))}},
		nft.Has{Key: nft.CtState, Mask: nft.StateRelated},
	}, ends, ports)
	then := func(match []nft.Expr, do nft.Expr) nft.Rule { return nft.Rule{Exprs: append(slices.Clip(match), do)} }
	answers := []nft.Rule{then(reply, trace), then(related, trace)}

	const tracked = -199 // behind connection tracking's own place
	hook := func(name, at string, priority int, rules ...nft.Rule) {
		t.Chains = append(t.Chains, nft.Chain{Name: name, Hook: &nft.Hook{Type: "filter", Hook: at, Priority: priority}, Rules: rules})
	}
	hook(chainBegins, beginHook, veryFirst, nft.Rule{Exprs: begin})
	hook(chainBack, "prerouting", tracked, answers...)
	hook(chainAnswered, "output", tracked, answers...)
	hook(chainRouted, "forward", veryFirst)
	hook(chainLocal, "input", veryFirst)
	hook(chainTaken, "input", veryLast)
	if a.link == "" {
		hook(chainLeft, "postrouting", veryLast)
	} else {
		hook(chainLeft, "postrouting", veryLast,
			then(reply, nft.Drop), then(related, nft.Drop))
	}
	return t
}

// syn is the attempt's first packet, rst the one that takes it back.
func (a *attempt) packets(seq uint32) (first, rst []byte, err error) {
	p := packet.Packet{Proto: a.proto, Src: a.src, Dst: a.dst, Flags: packet.SYN, Seq: seq}
	if a.proto == packet.UDP {
		first, err = p.Append(nil, a.payload)
		return first, nil, err
	}
	if first, err = p.Append(nil, nil); err != nil {
		return nil, nil, err
	}
	p.Flags, p.Seq = packet.RST, seq+1
	rst, err = p.Append(nil, nil)
	return first, rst, err
}
