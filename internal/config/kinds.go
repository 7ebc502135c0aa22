package config

import (
	"slices"

	"fairlead"
)

// A KindHelp says how sentences of one kind are written.
type KindHelp struct {
	Kind   fairlead.Kind
	Syntax string // what follows the kind, before the modifiers
	Help   string // one line without a full stop

	listen need // a spot behind the kind
	on     need // a spot behind "on"
	ports  bool // the spot has ports
	target need
	many   bool // several targets
	// The spot is on this host, so that it excludes others there.
	here bool
	bit  kindSet
}

// A need says whether a part of a sentence may or must be there.
type need uint8

const (
	no need = iota
	may
	must
)

// A kindSet is a set of kinds.
type kindSet uint16

const (
	isForward kindSet = 1 << iota
	isNAT
	isOpen
	isLocal
	isRemote
	isDynamic
	isMap
	isRouter
	isTrigger
	isHelper
	isShare
	isSSHD
	isTunnel

	everyKind = isTunnel<<1 - 1
	proxies   = isForward | isLocal | isRemote | isDynamic // conversations in this process
	securable = isForward | isLocal | isRemote             // whose clients and targets may speak TLS
	servers   = isSSHD | isTunnel
)

// kinds is the table of kinds, in the order of fairlead.Kinds.
var kinds = []KindHelp{
	{Kind: fairlead.KindForward, Syntax: "LISTEN to TARGET{, TARGET}", Help: "a proxy in this process: TCP, UDP and unix sockets, no privilege needed",
		listen: must, ports: true, target: must, many: true, here: true, bit: isForward},
	{Kind: fairlead.KindNAT, Syntax: "LISTEN to TARGET{, TARGET}", Help: "port forwarding in this gateway's kernel, the source address kept",
		listen: must, ports: true, target: must, many: true, here: true, bit: isNAT},
	{Kind: fairlead.KindOpen, Syntax: "LISTEN [to TARGET]", Help: "a pinhole in the firewall, without translation",
		listen: must, ports: true, target: may, bit: isOpen},
	{Kind: fairlead.KindLocal, Syntax: "LISTEN to TARGET{, TARGET} via PLACE", Help: "listen here, dial from a place (ssh -L)",
		listen: must, ports: true, target: must, many: true, here: true, bit: isLocal},
	{Kind: fairlead.KindRemote, Syntax: "PLACE:PORTS to TARGET{, TARGET}", Help: "listen at a place, dial from here (ssh -R)",
		listen: must, ports: true, target: must, many: true, bit: isRemote},
	{Kind: fairlead.KindDynamic, Syntax: "LISTEN [via PLACE]", Help: "a proxy whose clients name the target (ssh -D)",
		listen: must, ports: true, here: true, bit: isDynamic},
	{Kind: fairlead.KindMap, Syntax: "[PLACE:]PORTS [to self[:PORT]]", Help: "ask the router in front of this host for a mapping",
		listen: must, ports: true, target: may, bit: isMap},
	{Kind: fairlead.KindRouter, Syntax: "on INTERFACE", Help: "be such a router: UPnP, NAT-PMP and PCP for a LAN",
		on: must, bit: isRouter},
	{Kind: fairlead.KindTrigger, Syntax: "PORTS opens PORTS [for DURATION] [on INTERFACE]", Help: "outgoing traffic opens ports for the host that sent it",
		listen: must, on: may, ports: true, bit: isTrigger},
	{Kind: fairlead.KindHelper, Syntax: "INTERFACE:[GROUP:]PORTS/udp to TARGET{, TARGET}", Help: "broadcasts become unicasts to a server elsewhere (UDP helper address)",
		listen: must, ports: true, target: must, many: true, bit: isHelper},
	{Kind: fairlead.KindShare, Syntax: "lan to wan", Help: "be a LAN's gateway: shared address, and a guard toward the WAN",
		listen: must, target: must, bit: isShare},
	{Kind: fairlead.KindSSHD, Syntax: "on LISTEN", Help: "serve SSH clients that forward",
		on: must, ports: true, here: true, bit: isSSHD},
	{Kind: fairlead.KindTunnel, Syntax: "on LISTEN", Help: "serve agents of our own tunnel",
		on: must, ports: true, here: true, bit: isTunnel},
}

// Kinds is how sentences of each kind are written, in the order in which help
// lists them.
func Kinds() []KindHelp { return slices.Clone(kinds) }

func kindOf(word string) *KindHelp {
	for i := range kinds {
		if string(kinds[i].Kind) == word {
			return &kinds[i]
		}
	}
	return nil
}

var kindWords = func() (words []string) {
	for i := range kinds {
		words = append(words, string(kinds[i].Kind))
	}
	return words
}()

func (s kindSet) list() (list []fairlead.Kind) {
	for i := range kinds {
		if kinds[i].bit&s != 0 {
			list = append(list, kinds[i].Kind)
		}
	}
	return list
}

// A Directive is a line of the file that is no forward.
type Directive struct {
	Word   string
	Syntax string // what follows the word
	Help   string // one line without a full stop
}

var directives = []Directive{
	{"wan", "INTERFACE{, INTERFACE}", "what \"wan\" means; default: the interfaces of the default routes"},
	{"lan", "INTERFACE{, INTERFACE}", "what \"lan\" means; default: the others that have private addresses"},
	{"place", "NAME TYPE [ADDRESS] [option ...]", "a point in the network to dial from and to listen at"},
	{"defaults", "{ modifier ... }", "modifiers for every forward that does not say them itself"},
	{"include", "GLOB", "more files, relative to this one"},
	{"registry", "etcd URL{, URL}", "where several relays share their claims"},
	{"version", "1", "the version of the grammar; may be left out"},
}

// Directives are the lines of a file that are no forwards.
func Directives() []Directive { return slices.Clone(directives) }

var directiveWords = func() (words []string) {
	for _, d := range directives {
		words = append(words, d.Word)
	}
	return words
}()
