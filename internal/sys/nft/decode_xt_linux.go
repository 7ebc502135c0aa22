package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// The matches and targets of iptables that people meet most, in nft's words.
// The layouts are those of linux/netfilter/xt_*.h, nf_nat.h and ipt_REJECT.h.

// xtComment is the text of a comment.
func xtComment(e RawXT) (string, bool) {
	if !e.Match || e.Name != "comment" {
		return "", false
	}
	return cString(e.Info[:min(len(e.Info), 256)]), true
}

func fromSlice(b []byte) (netip.Addr, bool) { return netip.AddrFromSlice(b) }

func (m *meaning) understandXT(e RawXT) {
	b := e.Info
	own16 := func(at int) uint16 { return binary.NativeEndian.Uint16(b[at:]) }
	own32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	switch {
	case e.Match && e.Name == "conntrack" && e.Rev >= 2 && len(b) >= 156 && own16(148)&^1 == 0 && own16(146) == 1:
		if m.ctState(uint32(own16(150)), own16(148) == 1) {
			return
		}
	case e.Match && e.Name == "state" && len(b) >= 4:
		if m.ctState(own32(0), false) {
			return
		}
	case e.Match && e.Name == "addrtype" && e.Rev == 1 && len(b) >= 8 && own32(4)&^uint32(3) == 0:
		var words []string
		for i, side := range []string{"saddr", "daddr"} {
			if types := own16(2 * i); types != 0 {
				words = append(words, fmt.Sprintf("fib %s type %s%s", side, pick(own32(4)&(1<<i) != 0, "!= ", ""), addrTypes(types)))
			}
		}
		m.unknown("%s", strings.Join(words, " "))
		return
	case e.Match && (e.Name == "tcp" || e.Name == "udp") && len(b) >= 8:
		words := []string{}
		inverted := b[len(b)-1] // of udp: it is padded
		if e.Name == "tcp" && len(b) >= 12 {
			inverted = b[11]
		} else if e.Name == "udp" && len(b) >= 9 {
			inverted = b[8]
		}
		for i, side := range []string{"sport", "dport"} {
			first, last := own16(4*i), own16(4*i+2)
			if first == 0 && last == 0xffff {
				continue
			}
			ports := fmt.Sprint(first)
			if last != first {
				ports += fmt.Sprint("-", last)
			}
			words = append(words, fmt.Sprintf("%s %s %s%s", e.Name, side, pick(inverted&(1<<i) != 0, "!= ", ""), ports))
		}
		if len(words) > 0 {
			m.unknown("%s", strings.Join(words, " "))
			return
		}
	case e.Match && e.Name == "multiport" && e.Rev == 1 && len(b) >= 48 && b[1] <= 15:
		m.unknown("%s", m.multiport(b))
		return
	case !e.Match && e.Name == "MARK" && e.Rev == 2 && len(b) >= 8 && own32(4) == ^uint32(0):
		m.add(SetKey{Mark, own32(0)})
		return
	case !e.Match && e.Name == "MASQUERADE":
		m.unknown("masquerade%s", compatRange(b, false))
		return
	case !e.Match && e.Name == "REDIRECT":
		m.unknown("redirect%s", compatRange(b, false))
		return
	case !e.Match && (e.Name == "DNAT" || e.Name == "SNAT"):
		if to := m.natRange(e); to != "" {
			m.unknown("%s%s", strings.ToLower(e.Name), to)
			return
		}
	case !e.Match && e.Name == "REJECT" && len(b) >= 4:
		with := "icmp " + indexed([]string{"net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable", "echo-reply", "net-prohibited", "host-prohibited", "tcp reset", "admin-prohibited"}, own32(0), "code")
		if m.network == IPv6 {
			with = "icmpv6 " + indexed([]string{"no-route", "admin-prohibited", "not-neighbour", "addr-unreachable", "port-unreachable", "echo-reply", "tcp reset"}, own32(0), "code")
		}
		if strings.HasSuffix(with, "tcp reset") {
			m.add(Reject{With: rejectReset})
			return
		}
		m.unknown("reject with %s", with)
		return
	case !e.Match && e.Name == "LOG" && len(b) >= 32:
		m.add(Log{Prefix: cString(b[2:32]), Group: -1})
		return
	}
	m.unknown("xt %s %s", pick(e.Match, "match", "target"), quoted(e.Name))
}

// ctState reads the states of iptables' conntrack match: those of the
// connection in the order of enum ip_conntrack_info, and two for translations.
func (m *meaning) ctState(bits uint32, not bool) bool {
	const snat, dnat, untracked = 1 << 6, 1 << 7, 1 << 8
	var has Has
	switch {
	case bits == dnat || bits == snat:
		has = Has{Key: CtStatus, Mask: uint32(pick(bits == dnat, StatusDNAT, StatusSNAT))}
	case bits&(snat|dnat) == 0 && bits&^uint32(untracked|0xf) == 0 && bits != 0:
		has = Has{Key: CtState, Mask: bits & 0xf} // the same numbers as nft's
		if bits&untracked != 0 {
			has.Mask |= 64
		}
	default:
		return false
	}
	has.Not = not
	m.add(has)
	return true
}

// multiport reads an xt_multiport_v1: up to 15 ports, of which one may begin a
// range that the next ends.
func (m *meaning) multiport(b []byte) string {
	port := func(i int) uint16 { return binary.NativeEndian.Uint16(b[2+2*i:]) }
	var ports []string
	for i := 0; i < int(b[1]); i++ {
		s := fmt.Sprint(port(i))
		if b[32+i] != 0 && i+1 < int(b[1]) {
			i++
			s += fmt.Sprint("-", port(i))
		}
		ports = append(ports, s)
	}
	proto := pick(m.transport == 0, "th", protoText(uint8(m.transport)))
	which := indexed([]string{"sport", "dport", "sport or dport"}, uint32(b[0]), "port")
	return fmt.Sprintf("%s %s %s{ %s }", proto, which, pick(b[47] != 0, "!= ", ""), strings.Join(ports, ", "))
}

func addrTypes(bits uint16) string {
	var names []string
	for i := range 16 {
		if bits&(1<<i) == 0 {
			continue
		}
		names = append(names, indexed(routeTypes[:], uint32(i), "type"))
	}
	if len(names) == 1 {
		return names[0]
	}
	return "{ " + strings.Join(names, ", ") + " }"
}

// compatRange is " to 192.0.2.1:80-90" of an nf_nat_ipv4_multi_range_compat,
// which has one range.
func compatRange(b []byte, v6 bool) string {
	if len(b) < 20 {
		return ""
	}
	return rangeTo(binary.NativeEndian.Uint32(b[4:]), b[8:12], b[12:16], b[16:18], b[18:20])
}

// natRange is that of either revision.
func (m *meaning) natRange(e RawXT) string {
	if e.Rev == 0 && m.network != IPv6 {
		return compatRange(e.Info, false)
	}
	if len(e.Info) < 40 {
		return ""
	}
	size := pick(m.network == IPv6, 16, 4)
	b := e.Info
	return rangeTo(binary.NativeEndian.Uint32(b), b[4:4+size], b[20:20+size], b[36:38], b[38:40])
}

// rangeTo writes what flags say there is: 1 addresses, 2 ports.
func rangeTo(flags uint32, first, last, from, to []byte) string {
	s := ""
	if flags&1 != 0 {
		a, _ := fromSlice(first)
		z, _ := fromSlice(last)
		s = a.String()
		if a.Is6() && flags&2 != 0 {
			s = "[" + s + "]"
		}
		if z != a {
			s += "-" + z.String()
		}
	}
	if flags&2 != 0 {
		p, q := binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to)
		s += fmt.Sprint(":", p)
		if q != p {
			s += fmt.Sprint("-", q)
		}
	}
	if s == "" {
		return natFlags(flags)
	}
	return " to " + s + natFlags(flags)
}
