package fairlead

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Kind is the first word of a sentence.
type Kind string

// The kinds of forward.
const (
	KindForward Kind = "forward" // a proxy in this process
	KindNAT     Kind = "nat"     // address translation in the kernel
	KindOpen    Kind = "open"    // a pinhole without translation
	KindLocal   Kind = "local"   // ssh -L: listen here, dial at a place
	KindRemote  Kind = "remote"  // ssh -R: listen at a place, dial here
	KindDynamic Kind = "dynamic" // ssh -D: the client names the target
	KindMap     Kind = "map"     // ask the router in front of us
	KindRouter  Kind = "router"  // be such a router
	KindTrigger Kind = "trigger" // outgoing traffic opens incoming ports
	KindHelper  Kind = "helper"  // broadcasts become unicasts
	KindShare   Kind = "share"   // be a LAN's gateway
	KindSSHD    Kind = "sshd"    // serve SSH clients
	KindTunnel  Kind = "tunnel"  // serve agents of our own tunnel
)

// Kinds are all kinds, in the order in which help lists them.
var Kinds = []Kind{
	KindForward, KindNAT, KindOpen, KindLocal, KindRemote, KindDynamic,
	KindMap, KindRouter, KindTrigger, KindHelper, KindShare, KindSSHD, KindTunnel,
}

// A Forward is one wish: plain data, compared by meaning, shared between
// goroutines and therefore never changed once it has been handed on.
type Forward struct {
	Name  string
	Owner Owner
	Kind  Kind

	At    Spot        // where traffic enters
	Opens []PortGroup // trigger: what the outgoing traffic opens
	To    []Target    // empty when the client or the kind names the target
	Via   string      // the place dialed from; "" is this host

	Policy   Policy
	Disabled bool
	Expires  time.Time // zero: never

	Expr   string // the sentence, in canonical words, without the name
	Source Pos    // where it was written
}

// Life is how long the forward lasts from the moment it was wished; 0: for good.
// What "for" says of a trigger is how long its openings outlast their traffic.
func (f *Forward) Life() time.Duration {
	if f.Kind == KindTrigger {
		return 0
	}
	return f.Policy.For
}

// An Owner is whoever wished a forward. What an owner asked for, only the same
// owner may change or drop.
type Owner struct {
	Kind OwnerKind
	ID   string // tells owners of one kind apart: a session, a client's address
}

// An OwnerKind says how a wish arrived.
type OwnerKind string

// The kinds of owner. An operator's wish stands above those that arrive over
// the network.
const (
	OwnerFile    OwnerKind = "file"
	OwnerCommand OwnerKind = "command" // a one-shot run
	OwnerAPI     OwnerKind = "api"
)

func (o Owner) String() string {
	if o.ID == "" {
		return string(o.Kind)
	}
	return string(o.Kind) + ":" + o.ID
}

// A Pos is a place in a text that somebody wrote.
type Pos struct {
	File string // "" for the command line
	Line int    // from 1; 0 when unknown
	Col  int    // in bytes, from 1
}

func (p Pos) String() string {
	file := p.File
	if file == "" {
		file = "command line"
	}
	if p.Line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d:%d", file, p.Line, p.Col)
}

// A Network is the set of transport protocols that a spot listens for.
type Network uint8

// The networks, to be combined with |.
const (
	TCP Network = 1 << iota
	UDP
)

func (n Network) String() string {
	switch n {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case TCP | UDP:
		return "tcp+udp"
	}
	return ""
}

// Each calls do with "tcp" and "udp", as far as n has them.
func (n Network) Each(do func(network string)) {
	if n&TCP != 0 {
		do("tcp")
	}
	if n&UDP != 0 {
		do("udp")
	}
}

// Ports is an inclusive range of ports, 1 to 65535, First ≤ Last.
type Ports struct {
	First, Last uint16
}

// Len is how many ports the range has.
func (p Ports) Len() int { return int(p.Last) - int(p.First) + 1 }

func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return strconv.Itoa(int(p.First)) + "-" + strconv.Itoa(int(p.Last))
}

// A PortList is ranges in the order written; they do not overlap.
type PortList []Ports

// Len is how many ports the list has.
func (l PortList) Len() int {
	n := 0
	for _, p := range l {
		n += p.Len()
	}
	return n
}

// At is the i-th port of the list, counted from 0 in the order written.
func (l PortList) At(i int) uint16 {
	for _, p := range l {
		if i < p.Len() {
			return p.First + uint16(i)
		}
		i -= p.Len()
	}
	panic("fairlead: port index out of range")
}

func (l PortList) String() string {
	s := make([]string, len(l))
	for i, p := range l {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}

// A PortGroup is ports with their network, as in "113/tcp".
type PortGroup struct {
	Ports PortList
	Net   Network
}

func (g PortGroup) String() string { return g.Ports.String() + "/" + g.Net.String() }

// A Spot is where traffic enters. At most one of Any, Addr, Where and Unix is
// set; none of them means the loopback addresses of both families.
type Spot struct {
	Any   bool       // ":8080", every address of both families
	Addr  netip.Addr // one address; "::" means every address, as for Any
	Where string     // "wan", "lan", an interface, or the name of a place
	Group netip.Addr // helper: a multicast group that is joined at Where, instead of broadcasts
	Unix  string     // path of a unix socket; Ports is empty and Net is TCP
	Ports PortList   // empty for kinds that enter at a whole interface
	Net   Network
}

// Loopback reports whether only programs on this host reach the spot.
func (s *Spot) Loopback() bool {
	if s.Unix != "" || s.Addr.IsValid() && s.Addr.Unmap().IsLoopback() {
		return true
	}
	return !s.Any && !s.Addr.IsValid() && s.Where == ""
}

// Host is the part before the ports as written in a sentence, without its
// colon: "" for loopback, "*" for every address.
func (s *Spot) Host() string {
	switch {
	case s.Any:
		return "*"
	case s.Addr.Is6():
		return "[" + s.Addr.String() + "]"
	case s.Addr.IsValid():
		return s.Addr.String()
	case s.Group.Is6():
		return s.Where + ":[" + s.Group.String() + "]"
	case s.Group.IsValid():
		return s.Where + ":" + s.Group.String()
	}
	return s.Where
}

// String is the spot as written in a sentence, with its network unless that is
// TCP, which need not be named.
func (s *Spot) String() string {
	if s.Unix != "" {
		return "unix:" + s.Unix
	}
	host := s.Host()
	if len(s.Ports) == 0 {
		return host
	}
	ports := s.Ports.String()
	if s.Net != TCP {
		ports += "/" + s.Net.String()
	}
	switch host {
	case "":
		return ports
	case "*":
		return ":" + ports
	}
	return host + ":" + ports
}

// A Target is where a forward leads, and for whom.
type Target struct {
	Host  string         // name, address without brackets, or "self"; "" with Unix
	Ports PortList       // empty: the port that was listened at
	Unix  string         // path of a unix socket
	From  []netip.Prefix // clients it is meant for; empty: all that no other target claims

	// What the client asks for, where it must be one of these. Each kind that
	// is set must be met; a target without any takes the rest.
	SNI      []string // server names of TLS in lower case, or "*.example.net"
	HTTPHost []string // hosts of a first request of HTTP, likewise, or addresses without brackets
	ALPN     []string // protocols offered within TLS
	Protocol []string // "ssh", "tls", "http", "other"

	Weight  int    // its share among the others, 1 to 1000; 0: not said, which is 1
	Backup  bool   // only while none of the others that are none is up
	Drain   bool   // no new connections; those it has go on
	Resolve string // "all": every address of the name is a target of its own; "": one of them is dialed
}

// Conditional reports whether t depends on what the client asks for.
func (t *Target) Conditional() bool {
	return len(t.SNI)+len(t.HTTPHost)+len(t.ALPN)+len(t.Protocol) > 0
}

// Port is the port to dial for the i-th of the spot's ports.
func (t *Target) Port(at PortList, i int) uint16 {
	switch {
	case len(t.Ports) == 0:
		return at.At(i)
	case t.Ports.Len() == 1:
		return t.Ports[0].First
	}
	return t.Ports.At(i)
}

// Service reports whether the target is a DNS service record, as in
// "_sip._tcp.example.net" (RFC 2782): its records name hosts, ports, priorities
// and weights. With a port it is the name of a host.
func (t *Target) Service() bool {
	if len(t.Ports) > 0 || !strings.HasPrefix(t.Host, "_") {
		return false
	}
	_, rest, _ := strings.Cut(t.Host, ".")
	proto, name, _ := strings.Cut(rest, ".")
	return name != "" && (strings.EqualFold(proto, "_tcp") || strings.EqualFold(proto, "_udp"))
}

// Dest is the target as written in a sentence, without its conditions.
func (t *Target) Dest() string {
	if t.Unix != "" {
		return "unix:" + t.Unix
	}
	host := t.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if len(t.Ports) == 0 {
		return host
	}
	return host + ":" + t.Ports.String()
}
