package nft

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Text is the table in nft(8)'s words, as "nft -f" of nft 1.0.6 and later takes
// it.
func (t *Table) Text() string {
	var w text
	w.line("table %s %s {", t.Family, t.Name)
	w.depth++
	if t.Owned {
		w.line("flags owner")
	}
	for i := range t.Helpers {
		w.helper(&t.Helpers[i])
	}
	for i := range t.Sets {
		w.set(&t.Sets[i])
	}
	for i := range t.Chains {
		w.chain(&t.Chains[i])
	}
	w.depth--
	w.line("}")
	return w.String()
}

// Text is the rule in nft(8)'s words.
func (r *Rule) Text() string {
	words := make([]string, 0, len(r.Exprs)+1)
	for _, e := range r.Exprs {
		words = append(words, exprText(e))
	}
	if r.Comment != "" {
		words = append(words, "comment "+quoted(r.Comment))
	}
	return strings.Join(words, " ")
}

// String is nft(8)'s name of the family.
func (f Family) String() string {
	switch f {
	case Inet:
		return "inet"
	case IPv4:
		return "ip"
	case ARP:
		return "arp"
	case Netdev:
		return "netdev"
	case Bridge:
		return "bridge"
	case IPv6:
		return "ip6"
	}
	return fmt.Sprintf("family%d", uint8(f))
}

// text is lines that are indented.
type text struct {
	strings.Builder
	depth int
}

func (w *text) line(format string, args ...any) {
	for range w.depth {
		w.WriteByte('\t')
	}
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

func (w *text) helper(h *Helper) {
	w.line("ct helper %s {", h.Name)
	w.depth++
	w.line("type %s protocol %s", quoted(h.Type), protoText(h.Proto))
	w.depth--
	w.line("}")
}

func (w *text) set(s *Set) {
	w.line("%s %s {", s.word(), s.Name)
	w.depth++
	w.line("type %s", s.typeText())
	if s.Size > 0 {
		w.line("size %d", s.Size)
	}
	if flags := s.flagText(); flags != "" {
		w.line("flags %s", flags)
	}
	if s.Timeout > 0 {
		w.line("timeout %s", spanText(s.Timeout))
	}
	if s.Counted {
		w.line("counter")
	}
	if len(s.Elements) > 0 {
		w.line("elements = {")
		w.depth++
		for i := range s.Elements {
			w.line("%s,", s.elementText(&s.Elements[i]))
		}
		w.depth--
		w.line("}")
	}
	w.depth--
	w.line("}")
}

func (w *text) chain(c *Chain) {
	w.line("chain %s {", c.Name)
	w.depth++
	if h := c.Hook; h != nil {
		policy := "accept"
		if h.Drop {
			policy = "drop"
		}
		w.line("type %s hook %s priority %d; policy %s;", h.Type, h.Hook, h.Priority, policy)
	}
	for i := range c.Rules {
		w.line("%s", c.Rules[i].Text())
	}
	w.depth--
	w.line("}")
}

// isMap reports whether the set leads to something.
func (s *Set) isMap() bool { return len(s.Data) > 0 || s.Verdicts }

func (s *Set) word() string {
	if s.isMap() {
		return "map"
	}
	return "set"
}

func (s *Set) typeText() string {
	key := typesText(s.Key)
	switch {
	case s.Verdicts:
		return key + " : verdict"
	case len(s.Data) > 0:
		return key + " : " + typesText(s.Data)
	}
	return key
}

func typesText(types []Type) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	return strings.Join(names, " . ")
}

func (s *Set) flagText() string {
	var flags []string
	if s.Interval {
		flags = append(flags, "interval")
	}
	if s.Dynamic {
		flags = append(flags, "dynamic")
	}
	if s.Timed {
		flags = append(flags, "timeout")
	}
	return strings.Join(flags, ",")
}

func (s *Set) elementText(e *Element) string {
	return elementText(kindsOf(s.Key), kindsOf(s.Data), e)
}

func elementText(key, data []kind, e *Element) string {
	var b strings.Builder
	b.WriteString(rangesText(key, e.Key))
	if e.Count != (Count{}) {
		b.WriteString(" " + countText(e.Count))
	}
	if e.Timeout > 0 {
		b.WriteString(" timeout " + spanText(e.Timeout))
		if e.Expires > 0 {
			b.WriteString(" expires " + spanText(e.Expires))
		}
	}
	if e.Comment != "" {
		b.WriteString(" comment " + quoted(e.Comment))
	}
	switch {
	case e.Verdict.Do != "":
		b.WriteString(" : " + exprText(e.Verdict))
	case len(e.Data) > 0:
		b.WriteString(" : ")
		for i, v := range e.Data {
			if i > 0 {
				b.WriteString(" . ")
			}
			b.WriteString(valueText(at(data, i), v))
		}
	}
	return b.String()
}

// at is the kind of component i; what has more components than it should is
// refused elsewhere.
func at(kinds []kind, i int) kind {
	if i < len(kinds) {
		return kinds[i]
	}
	return kindInteger
}

func rangesText(kinds []kind, ranges []Range) string {
	parts := make([]string, len(ranges))
	for i, r := range ranges {
		parts[i] = rangeText(at(kinds, i), r, true)
	}
	return strings.Join(parts, " . ")
}

// rangeText is a range; where prefixes is true, one that is a prefix of
// addresses is written so. nft loads both alike in sets, and only there.
func rangeText(k kind, r Range, prefixes bool) string {
	first := valueText(k, r.First)
	if r.one() {
		return first
	}
	if prefixes && (k == kindIPv4 || k == kindIPv6) {
		if n, ok := prefixLen(r); ok {
			return first + "/" + strconv.Itoa(n)
		}
	}
	if k == kindInetProto {
		k = kindICMPType // nft reads a name with a hyphen in it
		first = valueText(k, r.First)
	}
	return first + "-" + valueText(k, r.Last)
}

func (r Range) one() bool { return r.Last == "" || r.Last == r.First }

// last is the range's last value.
func (r Range) last() Value {
	if r.Last == "" {
		return r.First
	}
	return r.Last
}

// prefixLen is how many bits all values of the range begin with, when the
// range is exactly those.
func prefixLen(r Range) (n int, ok bool) {
	if len(r.First) != len(r.Last) {
		return 0, false
	}
	tail := false
	for i := range len(r.First) {
		a, b := r.First[i], r.Last[i]
		if tail {
			if a != 0 || b != 0xff {
				return 0, false
			}
			continue
		}
		if a == b {
			n += 8
			continue
		}
		same := bits.LeadingZeros8(a ^ b)
		mask := byte(0xff) >> same
		if a&mask != 0 || b&mask != mask {
			return 0, false
		}
		n += same
		tail = true
	}
	return n, true
}

// number is a value as the number that it is.
func (v Value) number() uint32 {
	var b [4]byte
	copy(b[max(0, 4-len(v)):], v)
	return binary.BigEndian.Uint32(b[:])
}

func valueText(k kind, v Value) string {
	if len(v) != k.size() {
		return "0x" + hex.EncodeToString([]byte(v))
	}
	n := v.number()
	switch k {
	case kindIPv4, kindIPv6:
		a, _ := netip.AddrFromSlice([]byte(v))
		return addrText(a)
	case kindIfname:
		return quoted(strings.TrimRight(string(v), "\x00"))
	case kindInetProto:
		return protoText(uint8(n))
	case kindNFProto:
		switch n {
		case 2:
			return "ipv4"
		case 10:
			return "ipv6"
		}
	case kindMark:
		return fmt.Sprintf("0x%08x", n)
	case kindCtState:
		return bitsText(n, stateBits)
	case kindCtStatus:
		return bitsText(n, statusBits)
	case kindCtDirection:
		switch n {
		case 0:
			return "original"
		case 1:
			return "reply"
		}
	case kindFibType:
		if int(n) < len(routeTypes) {
			return routeTypes[n]
		}
	}
	return strconv.FormatUint(uint64(n), 10)
}

// addrText writes an address as nft reads it: nft takes no 4-in-6 form apart.
func addrText(a netip.Addr) string { return a.String() }

// routeTypes are those of rtnetlink(7), by nft's names.
var routeTypes = [...]string{"unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"}

type bit struct {
	mask uint32
	text string
}

var (
	stateBits = []bit{{StateInvalid, "invalid"}, {StateEstablished, "established"}, {StateRelated, "related"}, {StateNew, "new"}, {64, "untracked"}}

	statusBits = []bit{{1, "expected"}, {2, "seen-reply"}, {4, "assured"}, {8, "confirmed"}, {StatusSNAT, "snat"}, {StatusDNAT, "dnat"}, {0x200, "dying"}}
)

// bitsText is names with commas, or a number where one of the bits has none.
func bitsText(n uint32, of []bit) string {
	var names []string
	rest := n
	for _, b := range of {
		if rest&b.mask != 0 {
			names = append(names, b.text)
			rest &^= b.mask
		}
	}
	if rest != 0 || n == 0 {
		return fmt.Sprintf("0x%x", n)
	}
	return strings.Join(names, ",")
}

var protocols = map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}

func protoText(p uint8) string {
	if name, ok := protocols[p]; ok {
		return name
	}
	return strconv.Itoa(int(p))
}

// quoted puts a text in quotation marks. nft knows no way to write such a mark,
// or a line's end, within: fitQuotes has replaced them.
func quoted(s string) string { return `"` + fitQuotes(s) + `"` }

// fitQuotes replaces what cannot stand in a text of nft's. The messages carry
// the same, so that a listing can be loaded again.
func fitQuotes(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < ' ', r == 0x7f:
			return ' '
		}
		return r
	}, s)
}

// spanText is a time as nft writes it, 1h30m or 500ms.
func spanText(d time.Duration) string {
	if d < time.Millisecond {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	return b.String()
}

func countText(c Count) string { return fmt.Sprintf("counter packets %d bytes %d", c.Packets, c.Bytes) }
