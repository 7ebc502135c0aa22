package kernel

import (
	"net/netip"
	"time"

	"fairlead/internal/sys/nft"
)

// What ICMP a guard lets in. Errors about connections that are known are
// "related" and come in with them, ICMPv6's packet too big among them; errors
// about none are dropped as invalid (RFC 6092, REC-10). What is
// left is asked for by nobody and needed all the same.

// Types of ICMP (RFC 792) and of ICMPv6 (IANA's icmpv6-parameters).
const (
	icmpEcho = 8

	icmp6Echo           = 128
	icmp6ListenerQuery  = 130 // to 132 done: MLD (RFC 2710)
	icmp6ListenerDone   = 132
	icmp6RouterSolicit  = 133 // to 136 neighbour advertisement (RFC 4861)
	icmp6NeighborAdvert = 136
	icmp6InverseSolicit = 141 // RFC 3122
	icmp6InverseAdvert  = 142
	icmp6ListenerReport = 143 // MLDv2 (RFC 3810)
	icmp6CertSolicit    = 148 // secure neighbour discovery (RFC 3971)
	icmp6CertAdvert     = 149
	icmp6RouterAnnounce = 151 // to 153: multicast router discovery (RFC 4286)
	icmp6RouterEnd      = 153
)

// echoes is how many requests a second a guard lets in: enough for everybody
// who measures, too few to load a line.
const echoes = 200

// pings lets echo requests of the types in, so many a second.
func pings(proto uint8, key nft.Key, kind byte) nft.Rule {
	return nft.Rule{Exprs: []nft.Expr{
		isByte(nft.L4Proto, proto),
		isByte(key, kind),
		nft.Limit{Rate: echoes, Per: time.Second, Burst: echoes},
		nft.Accept,
	}}
}

// icmpToSelf is what this host needs to be a neighbour of the WAN (RFC 4890
// section 4.4.1). Neighbour discovery checks by itself that it comes from the
// link (a hop limit of 255); multicast listeners' messages come from link-local
// addresses only, or from none.
func icmpToSelf() []nft.Rule {
	v6 := isByte(nft.L4Proto, protoICMPv6)
	return []nft.Rule{
		pings(protoICMP, nft.ICMPType, icmpEcho),
		pings(protoICMPv6, nft.ICMPv6Type, icmp6Echo),
		{Exprs: []nft.Expr{v6, nft.Is{Key: nft.ICMPv6Type, Values: []nft.Range{
			byteRange(icmp6RouterSolicit, icmp6NeighborAdvert),
			byteRange(icmp6InverseSolicit, icmp6InverseAdvert),
			byteRange(icmp6CertSolicit, icmp6CertAdvert),
		}}, nft.Accept}},
		{Exprs: []nft.Expr{v6, nft.Is{Key: nft.ICMPv6Type, Values: []nft.Range{
			byteRange(icmp6ListenerQuery, icmp6ListenerDone),
			byteRange(icmp6ListenerReport, icmp6ListenerReport),
			byteRange(icmp6RouterAnnounce, icmp6RouterEnd),
		}}, fromLink(netip.IPv6Unspecified()), nft.Accept}},
		// Queries of IPv4's groups (RFC 3376): without an answer they end.
		{Exprs: []nft.Expr{isByte(nft.L4Proto, protoIGMP), nft.Accept}},
	}
}

// icmpThrough is what comes in for hosts of the LAN besides errors: by IPv6 they
// may be asked whether they are there (RFC 4890 section 4.3.1). By IPv4 nobody
// outside knows their addresses.
func icmpThrough() []nft.Rule {
	return []nft.Rule{pings(protoICMPv6, nft.ICMPv6Type, icmp6Echo)}
}

// fromLink matches packets of hosts of the same link, which no router passes on
// (RFC 4291 section 2.5.6), or from one of others.
func fromLink(others ...netip.Addr) nft.Is {
	is := nft.Is{Key: nft.IP6Saddr, Values: []nft.Range{prefixRange(netip.MustParsePrefix("fe80::/10"))}}
	for _, a := range others {
		is.Values = append(is.Values, nft.One(nft.Addr(a)))
	}
	return is
}

// isByte matches a key of one byte.
func isByte(key nft.Key, b byte) nft.Is {
	return nft.Is{Key: key, Values: []nft.Range{nft.One(nft.Byte(b))}}
}

func byteRange(first, last byte) nft.Range {
	if first == last {
		return nft.One(nft.Byte(first))
	}
	return nft.Range{First: nft.Byte(first), Last: nft.Byte(last)}
}
