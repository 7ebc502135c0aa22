package fairlead

import (
	"net/netip"
	"time"
)

// A Policy is the conditions under which a forward is carried. Every field's
// zero value means that the sentence says nothing about it; what then holds is
// the carrier's to say. A carrier that cannot honour a field says so in Fits.
type Policy struct {
	// Who.
	Allow             []netip.Prefix // kinds without a target; empty: everybody
	Deny              []netip.Prefix
	MaxConns          int // at a time
	MaxConnsPerSource int // at a time, from one address (IPv6: one /64)
	Rate              int // new connections a second

	// How.
	By            string // "", "auto", "relay", "kernel"
	Front         string // "", "socks", "http", "sni", "original", …
	AcceptProxy   []netip.Prefix
	ProxyProtocol int // 0, 1 or 2
	Source        string
	Mark          uint32
	Masquerade    bool
	Claim         bool
	ALG           string
	AllowIn       string
	Publish       bool
	Unguarded     bool
	SocketMode    uint32 // permission bits of a unix socket listened at; 0: 0600

	TLS TLS

	// Which of several targets.
	Choose    string // "", "failover", "round-robin", …
	Check     Check
	SlowStart time.Duration // until a target that came back has its whole share

	// Time. Durations are > 0 when set.
	Greet       time.Duration // for a client to say what it asks for, where a target depends on it
	Connect     time.Duration // for the dial as a whole
	Idle        time.Duration // without a byte either way
	Linger      time.Duration // for the surviving direction of a half-closed connection
	MaxLifetime time.Duration
	Keepalive   time.Duration // silence after which a peer is asked whether it lives
	For         time.Duration // life of the forward itself
	Bandwidth   int64         // bytes a second

	// Kinds of their own.
	PAC     string // "", "on", "kill-switch" (dynamic)
	KeyFile string // tunnel: the relay's own key
	Users   []User
}

// Off as a duration switches a limit off that would hold otherwise.
const Off time.Duration = -1

// A Check asks a target regularly whether it serves.
type Check struct {
	How    string // "", "off", "tcp", "http", "expect"
	Path   string // http: what to ask for; "": "/"
	Send   string // expect: the bytes that are sent first; "": none
	Expect string // expect: the bytes that have to come in the answer
	Rise   int    // good answers in a row until a target that was down is up; 0: not said
	Fall   int    // failures in a row until one that was up is down; 0: not said
	Every  time.Duration
}

// A User may use a forward that asks who comes, within grants.
type User struct {
	Agent  bool // "agent NAME key KEY" rather than "user NAME …"
	Name   string
	Secret string // "password", "keys" or "key"
	Value  string // a file, or the key itself
	May    []Grant
}

// A Grant allows one user to listen or to dial somewhere.
type Grant struct {
	Verb string // "listen" or "dial"
	What string // PORTS[/udp], ADDR:PORT, CIDR:PORTS, NAME:PORT or unix:PATH
}
