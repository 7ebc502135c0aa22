package config

import (
	"net/netip"
	"slices"
	"time"

	"fairlead"
)

// A Modifier is one word of the grammar with what may follow it. The table of
// them is the only place that knows which there are: parser, printer, JSON,
// schema, completion and manual read it.
type Modifier struct {
	Word    string
	Value   string          // what follows, "" for nothing
	Kinds   []fairlead.Kind // the kinds it goes with
	Help    string          // one line without a full stop
	Choices []string        // words that may follow; nil: any of Value's form

	kinds     kindSet
	field     field
	list      bool // may be said several times
	noDefault bool // has no place among the defaults
	index     int
}

// A field is where in a forward a modifier's value lives, and how it is read
// and written.
type field interface {
	// parse reads the value from the tokens behind word and sets it, or notes
	// a problem. It leaves the parser behind what it understood.
	parse(p *parser, m *Modifier, word token, f *fairlead.Forward) bool
	said(f *fairlead.Forward) bool
	copy(to, from *fairlead.Forward)
	// print appends the modifier as often as it is said, each time with a
	// blank before it.
	print(b []byte, word string, f *fairlead.Forward) []byte
}

var (
	frontWords    = []string{"socks", "http", "sni", "http-host", "alpn", "protocol", "original"}
	protocolWords = []string{"ssh", "tls", "http", "other"}
	byWords       = []string{"auto", "relay", "kernel"}
	engineWords   = []string{"auto", "loops", "goroutines"}
	policyWords   = []string{"failover", "round-robin", "least-conn", "random", "source-hash"}
	algWords      = []string{"ftp", "tftp", "sip", "irc", "pptp", "h323", "amanda"}
	firewallWords = []string{"docker", "ufw", "firewalld"}
)

// modifiers is the table, in the order in which a sentence is printed.
var modifiers = finish([]Modifier{
	{Word: "opens", Value: "PORTS", Help: "ports that outgoing traffic opens", kinds: isTrigger, noDefault: true,
		field: opensField{}},
	{Word: "via", Value: "PLACE", Help: "the place to dial from", kinds: proxies, noDefault: true,
		field: viaField{}},
	{Word: "from", Value: "CIDR", Help: "clients that may use the target before it, or the forward", kinds: everyKind, noDefault: true, list: true,
		field: fromField{}},
	{Word: "sni", Value: "NAME", Help: "server names of TLS that lead to the target before it", kinds: isForward | isLocal | isRemote, noDefault: true, list: true,
		field: conditionField{func(t *fairlead.Target) *[]string { return &t.SNI }, readName}},
	{Word: "http-host", Value: "NAME", Help: "hosts of HTTP that lead to the target before it", kinds: isForward | isLocal | isRemote, noDefault: true, list: true,
		field: conditionField{func(t *fairlead.Target) *[]string { return &t.HTTPHost }, readHost}},
	{Word: "alpn", Value: "NAME", Help: "protocols within TLS that lead to the target before it", kinds: isForward | isLocal | isRemote, noDefault: true, list: true,
		field: conditionField{func(t *fairlead.Target) *[]string { return &t.ALPN }, readALPN}},
	{Word: "protocol", Value: "ssh|tls|http|other", Help: "protocols that lead to the target before it", Choices: protocolWords, kinds: isForward | isLocal | isRemote, noDefault: true, list: true,
		field: conditionField{func(t *fairlead.Target) *[]string { return &t.Protocol }, readProtocol}},
	{Word: "weight", Value: "N", Help: "share of the target before it, 1 to 1000 (1)", kinds: isForward | isLocal | isRemote | isNAT, noDefault: true, list: true,
		field: weightField{}},
	{Word: "backup", Help: "the target before it is used only when no other is up", kinds: isForward | isLocal | isRemote | isNAT, noDefault: true, list: true,
		field: targetFlag{at: func(t *fairlead.Target) *bool { return &t.Backup }}},
	{Word: "resolve", Value: "all", Help: "every address of the name before it is a target of its own, followed as DNS changes", Choices: []string{"all"}, kinds: isForward | isLocal | isRemote, noDefault: true, list: true,
		field: resolveField{}},
	{Word: "drain", Help: "no new connections for the target before it; those it has go on", kinds: isForward | isLocal | isRemote | isNAT, noDefault: true, list: true,
		field: targetFlag{at: func(t *fairlead.Target) *bool { return &t.Drain }}},
	{Word: "deny", Value: "CIDR", Help: "clients that may not", kinds: everyKind, list: true,
		field: prefixes(func(f *fairlead.Forward) *[]netip.Prefix { return &f.Policy.Deny })},
	{Word: "max-conns", Value: "N", Help: "connections at a time", kinds: proxies | servers | isNAT | isOpen,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.MaxConns }}},
	{Word: "max-conns-per-source", Value: "N", Help: "connections at a time from one address", kinds: proxies | servers | isNAT | isOpen,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.MaxConnsPerSource }}},
	{Word: "rate", Value: "N/s", Help: "new connections a second", kinds: proxies | servers | isNAT | isOpen,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.Rate }, unit: "/s"}},
	{Word: "rate-per-source", Value: "N/s", Help: "new connections a second from one address", kinds: proxies | servers | isNAT | isOpen,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.RatePerSource }, unit: "/s"}},
	{Word: "queue", Value: "DURATION", Help: "how long a client waits for its turn when a limit on connections is reached", kinds: proxies | servers,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.Queue }}},
	{Word: "max-queue", Value: "N", Help: "clients that wait at a time (an eighth of the descriptors, at most 1024)", kinds: proxies | servers,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.MaxQueue }}},
	{Word: "schedule", Value: "[DAYS] HH:MM-HH:MM", Help: "when new connections are let in, as in mon-fri 08:00-18:00, sat 10:00-14:00", kinds: proxies | servers,
		field: scheduleField{}},
	{Word: "by", Value: "CARRIER", Help: "who carries it", Choices: byWords, kinds: isForward | isNAT,
		field: choice(func(f *fairlead.Forward) *string { return &f.Policy.By })},
	{Word: "engine", Value: "ENGINE", Help: "what in this process carries it: loops serve many connections in one goroutine each core", Choices: engineWords, kinds: isForward | isLocal | isRemote,
		field: choice(func(f *fairlead.Forward) *string { return &f.Policy.Engine })},
	{Word: "front", Value: "LANGUAGE", Help: "what the clients speak before a target is known", Choices: frontWords, kinds: proxies,
		field: choice(func(f *fairlead.Forward) *string { return &f.Policy.Front })},
	{Word: "accept-proxy", Value: "CIDR", Help: "senders whose PROXY protocol header is believed", kinds: proxies, list: true,
		field: prefixes(func(f *fairlead.Forward) *[]netip.Prefix { return &f.Policy.AcceptProxy })},
	{Word: "proxy-protocol", Value: "v1|v2", Help: "tell the target who the client is", Choices: []string{"v1", "v2"}, kinds: isForward | isLocal | isRemote,
		field: versionField{}},
	{Word: "tls-cert", Value: "FILE", Help: "speak TLS with the clients: a certificate and its chain", kinds: securable, noDefault: true, list: true,
		field: certField{}},
	{Word: "tls-key", Value: "FILE", Help: "key of the tls-cert before it, where that file has none", kinds: securable, noDefault: true, list: true,
		field: certKeyField{}},
	{Word: "tls-client-ca", Value: "FILE", Help: "clients must show a certificate of this authority", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.ClientCA }}},
	{Word: "tls-alpn", Value: "NAME", Help: "protocols offered to clients within TLS, the preferred first", kinds: securable,
		field: textsField{at: func(f *fairlead.Forward) *[]string { return &f.Policy.TLS.ALPN }, check: isALPN}},
	{Word: "tls-acme", Value: "NAME", Help: "speak TLS with the clients: get the certificate for NAME from an ACME authority", kinds: securable, noDefault: true, list: true,
		field: textsField{at: func(f *fairlead.Forward) *[]string { return &f.Policy.TLS.ACME }, check: isACMEName, each: true}},
	{Word: "acme-directory", Value: "URL", Help: "the ACME authority (Let's Encrypt)", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.ACMEDirectory }, check: isHTTPS}},
	{Word: "acme-email", Value: "ADDRESS", Help: "where the ACME authority reaches you", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.ACMEEmail }, check: isMail}},
	{Word: "acme-ca", Value: "FILE", Help: "roots to trust at the ACME directory", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.ACMECA }}},
	{Word: "target-tls", Value: "[verify|insecure]", Help: "speak TLS with the targets; insecure: without proof of who they are", Choices: []string{fairlead.TargetVerify, fairlead.TargetInsecure}, kinds: securable,
		field: targetTLSField{}},
	{Word: "target-name", Value: "NAME", Help: "the name asked for and verified, instead of the target's host", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.TargetName }, check: isServerName}},
	{Word: "target-ca", Value: "FILE", Help: "authorities that may sign the target's certificate, instead of the system's", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.TargetCA }}},
	{Word: "target-cert", Value: "FILE", Help: "our certificate, for targets that demand one", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.TargetCert }}},
	{Word: "target-key", Value: "FILE", Help: "its key, where that file has none", kinds: securable,
		field: textField{at: func(f *fairlead.Forward) *string { return &f.Policy.TLS.TargetKey }}},
	{Word: "source", Value: "ADDRESS|INTERFACE|keep", Help: "where connections to the target set out from, several in turn; keep: the target sees the client's own address", kinds: proxies | isNAT | isHelper,
		field: sourceField{}},
	{Word: "mark", Value: "N", Help: "firewall mark of what goes to the target", kinds: proxies | isNAT,
		field: markField{}},
	{Word: "dscp", Value: "N|NAME", Help: "class of the packets to both sides: 0 to 63, ef, af11 to af43, cs0 to cs7", kinds: proxies,
		field: dscpField{}},
	{Word: "congestion", Value: "auto|off|NAME", Help: "congestion control; auto: local legs do without pacing where the host paces (BBR)", kinds: proxies,
		field: congestionField{}},
	{Word: "mode", Value: "OCTAL", Help: "who may use the unix socket that is listened at (600)", kinds: isForward | isLocal,
		field: modeField{}},
	{Word: "masquerade", Help: "the target sees this host as the client", kinds: isNAT,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.Masquerade })},
	{Word: "claim", Help: "take the address listened at, when nobody has it", kinds: isNAT,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.Claim })},
	{Word: "alg", Value: "PROTOCOL", Help: "follow the ports that this protocol agrees upon", Choices: algWords, kinds: isNAT | isOpen,
		field: choice(func(f *fairlead.Forward) *string { return &f.Policy.ALG })},
	{Word: "allow-in", Value: "FIREWALL", Help: "let it through a firewall that is not ours", Choices: firewallWords, kinds: isForward | isNAT | isOpen | isTrigger | isShare,
		field: choice(func(f *fairlead.Forward) *string { return &f.Policy.AllowIn })},
	{Word: "publish", Help: "map it on the router in front as well", kinds: isForward | isNAT | isOpen | isLocal | isDynamic | servers,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.Publish })},
	{Word: "unguarded", Help: "leave the filter toward the WAN to others", kinds: isShare,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.Unguarded })},
	{Word: "last-wins", Help: "the host that asked last has the opened ports, not the first one", kinds: isTrigger,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.LastWins })},
	{Word: "log", Help: "a line in the kernel's log for each new connection", kinds: isNAT,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.Log })},
	{Word: "policy", Value: "ORDER", Help: "which of several targets comes next", Choices: policyWords, kinds: isForward | isLocal | isRemote | isNAT,
		field: choice(func(f *fairlead.Forward) *string { return &f.Policy.Choose })},
	{Word: "slow-start", Value: "DURATION", Help: "time in which a target that came back grows to its share", kinds: isForward | isLocal | isRemote | isNAT,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.SlowStart }}},
	{Word: "check", Value: "tcp|http [PATH]|[send TEXT] expect TEXT|off [rise N] [fall N] [every DURATION]", Help: "ask each target regularly whether it serves", Choices: checkWords, kinds: isForward | isLocal | isRemote | isNAT,
		field: checkField{}},
	{Word: "greet", Value: "DURATION", Help: "time for a client to say what it asks for (3s)", kinds: proxies,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.Greet }}},
	{Word: "connect", Value: "DURATION", Help: "bound of the dial as a whole", kinds: proxies,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.Connect }}},
	{Word: "idle", Value: "DURATION|off", Help: "end what is silent both ways", kinds: proxies | servers | isNAT | isTrigger | isHelper,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.Idle }, off: true}},
	{Word: "requests", Value: "N", Help: "datagrams of a UDP client after which its next one begins another session", kinds: isForward,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.Requests }}},
	{Word: "replies", Value: "N|none", Help: "answers to each datagram of a UDP client; with the last one its session ends", kinds: isForward,
		field: count{at: func(f *fairlead.Forward) *int { return &f.Policy.Replies }, none: fairlead.NoReplies}},
	{Word: "linger", Value: "DURATION|off", Help: "bound of the surviving direction of a half-closed connection", kinds: proxies,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.Linger }, off: true}},
	{Word: "max-lifetime", Value: "DURATION", Help: "end connections that are older", kinds: proxies | servers,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.MaxLifetime }}},
	{Word: "keepalive", Value: "DURATION|off", Help: "silence after which a peer is asked whether it lives", kinds: proxies | servers | isTrigger,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.Keepalive }, off: true}},
	{Word: "for", Value: "DURATION", Help: "life of the forward, of a mapping or of an opened port", kinds: everyKind, noDefault: true,
		field: duration{at: func(f *fairlead.Forward) *time.Duration { return &f.Policy.For }}},
	{Word: "bandwidth", Value: "SIZE/s [up|down]", Help: "bytes a second, each way or as in 10MB/s up, 1MB/s down", kinds: proxies | servers | isNAT,
		field: bandwidthField(func(f *fairlead.Forward) *fairlead.Bandwidth { return &f.Policy.Bandwidth })},
	{Word: "bandwidth-per-conn", Value: "SIZE/s [up|down]", Help: "the same for each connection", kinds: proxies | servers,
		field: bandwidthField(func(f *fairlead.Forward) *fairlead.Bandwidth { return &f.Policy.BandwidthPerConn })},
	{Word: "bandwidth-per-source", Value: "SIZE/s [up|down]", Help: "the same for all connections from one address", kinds: proxies | servers,
		field: bandwidthField(func(f *fairlead.Forward) *fairlead.Bandwidth { return &f.Policy.BandwidthPerSource })},
	{Word: "pac", Value: "[kill-switch]", Help: "serve /proxy.pac on the same port; kill-switch: never around the proxy", Choices: []string{"kill-switch"}, kinds: isDynamic, noDefault: true,
		field: pacField{}},
	{Word: "option-82", Help: "tell DHCP servers by which interface a client came (RFC 3046)", kinds: isHelper,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Policy.Circuit })},
	{Word: "on", Value: "INTERFACE|ADDRESS", Help: "where it serves", kinds: isRouter | isTrigger | servers, noDefault: true,
		field: onField{}},
	{Word: "key", Value: "FILE", Help: "the relay's own key", kinds: isTunnel, noDefault: true,
		field: keyField{}},
	{Word: "disabled", Help: "written down, not carried", kinds: everyKind, noDefault: true,
		field: flag(func(f *fairlead.Forward) *bool { return &f.Disabled })},
	{Word: "user", Value: "NAME password|keys FILE", Help: "who may use it: dynamic with a password, sshd with keys", kinds: isDynamic | isSSHD, noDefault: true, list: true,
		field: userField{}},
	{Word: "agent", Value: "NAME key KEY", Help: "a tunnel's other end that may come", kinds: isTunnel, noDefault: true, list: true,
		field: userField{agent: true}},
	{Word: "may", Value: "listen|dial WHAT", Help: "what the user before it may do", Choices: []string{"listen", "dial"}, kinds: isDynamic | servers, noDefault: true, list: true,
		field: mayField{}},
})

func finish(table []Modifier) []Modifier {
	for i := range table {
		table[i].index = i
		table[i].Kinds = table[i].kinds.list()
	}
	return table
}

// Modifiers are all modifiers, in the order in which a sentence is printed.
func Modifiers() []Modifier { return slices.Clone(modifiers) }

// byWord finds a modifier. It is filled once, after the table.
var byWord = func() map[string]*Modifier {
	m := make(map[string]*Modifier, len(modifiers))
	for i := range modifiers {
		m[modifiers[i].Word] = &modifiers[i]
	}
	return m
}()

// wordsFor are the modifiers that go with a set of kinds.
func wordsFor(s kindSet) (words []string) {
	for i := range modifiers {
		if modifiers[i].kinds&s != 0 {
			words = append(words, modifiers[i].Word)
		}
	}
	return words
}
