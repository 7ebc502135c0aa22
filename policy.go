package fairlead

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A Policy is the conditions under which a forward is carried. Every field's
// zero value means that the sentence says nothing about it; what then holds is
// the carrier's to say. A carrier that cannot honour a field says so in Fits.
type Policy struct {
	// Who.
	Allow             []netip.Prefix // kinds without a target; empty: everybody
	Deny              []netip.Prefix
	MaxConns          int           // at a time
	MaxConnsPerSource int           // at a time, from one address (IPv6: one /64)
	Rate              int           // new connections a second
	RatePerSource     int           // the same from one address (IPv6: one /64)
	Queue             time.Duration // how long a client waits for its turn when a limit above is reached; 0: not at all
	MaxQueue          int           // clients that wait at a time
	Schedule          []Window      // when new connections are let in; empty: always

	// How.
	By            string // "", "auto", "relay", "kernel"
	Engine        string // "", "auto", "loops", "goroutines"
	Front         string // "", "socks", "http", "sni", "original", …
	AcceptProxy   []netip.Prefix
	ProxyProtocol int    // 0, 1 or 2
	Source        string // "", "keep", or addresses and interfaces with commas between
	Mark          uint32
	DSCP          DSCP
	Congestion    string // "", "auto", "off", or the name of an algorithm
	Masquerade    bool
	Claim         bool
	ALG           string
	AllowIn       string
	Publish       bool
	Unguarded     bool
	LastWins      bool   // trigger: the host that asked last has the ports, not the first
	Log           bool   // a line in the kernel's log for each new connection
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

	// UDP sessions.
	Requests int // datagrams of a client after which its next one begins another session
	Replies  int // answers to each of them; when all have come the session ends. NoReplies: none is expected

	// Bytes a second: of the forward, of each connection, and of one address
	// (IPv6: one /64) together.
	Bandwidth, BandwidthPerConn, BandwidthPerSource Bandwidth

	// Kinds of their own.
	PAC     string // "", "on", "kill-switch" (dynamic)
	Circuit bool   // helper: DHCP servers are told the client's interface (option 82)
	KeyFile string // tunnel: the relay's own key
	Users   []User
}

// NoReplies says that a target does not answer, as one that collects logs.
const NoReplies = -1

// Off as a duration switches a limit off that would hold otherwise.
const Off time.Duration = -1

// A Bandwidth is bytes a second for each direction by itself, 0 for no limit.
type Bandwidth struct {
	Up   int64 // from clients to targets
	Down int64 // from targets to clients
}

// A Window is a time of the day, in the time zone of the machine, on some days
// of the week.
type Window struct {
	Days     uint8 // bit 0 is Sunday, as in time.Weekday; never 0
	From, To int   // minutes since midnight, To ≤ 1440; To < From lasts into the next day
}

// EveryDay are the Days of a window that names none.
const EveryDay uint8 = 1<<7 - 1

// String is the window as written in a sentence, always with its days:
// "mon-fri 08:00-18:00".
func (w Window) String() string {
	return fmt.Sprintf("%s %02d:%02d-%02d:%02d", dayList(w.Days), w.From/60, w.From%60, w.To/60, w.To%60)
}

// dayList is days from Monday on, three or more in a row as a range.
func dayList(set uint8) string {
	names := [...]string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	has := func(i int) bool { return i < len(names) && set&(1<<((i+1)%7)) != 0 }
	var list []string
	for i := 0; i < len(names); i++ {
		if !has(i) {
			continue
		}
		last := i
		for has(last + 1) {
			last++
		}
		if last-i < 2 {
			list = append(list, names[i])
			continue
		}
		list = append(list, names[i]+"-"+names[last])
		i = last
	}
	return strings.Join(list, ",")
}

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
