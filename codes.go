package fairlead

// The codes. Hundreds: 1 listening, 2 targets, 3 sentences and files, 6 the
// kernel and its packets, 8 the service, 9 the rest. A test asserts that each has a page in Pages.
const (
	CodeInUse         Code = "FL-101"
	CodeInUseByOther  Code = "FL-102"
	CodeHalfBound     Code = "FL-103"
	CodePathInUse     Code = "FL-104"
	CodeNotOurAddress Code = "FL-105"
	CodeNoInterface   Code = "FL-106"
	CodeTooManyPorts  Code = "FL-107"
	CodeListenFailed  Code = "FL-108"
	CodeLowPort       Code = "FL-110"
	CodePrivilege     Code = "FL-111"
	CodeNoDescriptors Code = "FL-120"
	CodeTurnedAway    Code = "FL-121"
	CodeProxyHeader   Code = "FL-122"
	CodeGreeting      Code = "FL-123"
	CodeNoMatch       Code = "FL-124"
	CodeNoRest        Code = "FL-125"
	CodeBeingSetUp    Code = "FL-130"
	CodeTimeOver      Code = "FL-131"

	CodeOutsideSchedule Code = "FL-132"
	CodeCertificate     Code = "FL-140"
	CodeCertExpires     Code = "FL-141"
	CodeCertOld         Code = "FL-142"
	CodeKeyOpen         Code = "FL-143"
	CodeNoHandshake     Code = "FL-144"
	CodeACME            Code = "FL-145"

	CodeTargetRefuses     Code = "FL-201"
	CodeTargetSilent      Code = "FL-202"
	CodeTargetUnreachable Code = "FL-203"
	CodeNoSocket          Code = "FL-204"
	CodeTargetFailed      Code = "FL-205"
	CodeNoSourcePort      Code = "FL-206"
	CodeNoSource          Code = "FL-207"
	CodeSourceLost        Code = "FL-208"
	CodeNameUnknown       Code = "FL-210"
	CodeNameFamily        Code = "FL-211"
	CodeNameServer        Code = "FL-212"
	CodeLoop              Code = "FL-220"
	CodeAllDrained        Code = "FL-221"
	CodeTargetTLS         Code = "FL-230"
	CodeTargetUntrusted   Code = "FL-231"
	CodeTargetOtherName   Code = "FL-232"
	CodeTargetExpired     Code = "FL-233"
	CodeTargetPlain       Code = "FL-234"
	CodeTargetWantsCert   Code = "FL-235"

	CodeUnknownWord   Code = "FL-301"
	CodeUnknownKind   Code = "FL-302"
	CodeOverlap       Code = "FL-303"
	CodeShellArrow    Code = "FL-304"
	CodeAmbiguousIPv6 Code = "FL-305"
	CodeBadPort       Code = "FL-306"
	CodeSyntax        Code = "FL-307"
	CodeBadValue      Code = "FL-308"
	CodeTwice         Code = "FL-309"
	CodeCannotCarry   Code = "FL-310"
	CodeCannotHonour  Code = "FL-311"
	CodeUnknownPlace  Code = "FL-312"
	CodeBlock         Code = "FL-313"
	CodeInclude       Code = "FL-314"
	CodeBadCharacter  Code = "FL-315"
	CodeTooLarge      Code = "FL-316"
	CodeBadName       Code = "FL-317"
	CodeRangeMismatch Code = "FL-318"
	CodeWrongKind     Code = "FL-319"
	CodeIncomplete    Code = "FL-320"
	CodeJSON          Code = "FL-321"
	CodeUnreadable    Code = "FL-330"
	CodeUnwritable    Code = "FL-331"
	CodeNoFile        Code = "FL-332"
	CodeChangedBehind Code = "FL-333"

	CodeForeignDrop   Code = "FL-601"
	CodeForwardingOff Code = "FL-602"
	CodeNoHairpin     Code = "FL-603"
	CodeNoWayBack     Code = "FL-604"
	CodeReversePath   Code = "FL-605"
	CodeNoNFTables    Code = "FL-606"
	CodeLoopbackNAT   Code = "FL-607"
	CodeAddressGone   Code = "FL-609"
	CodeNoFirewall    Code = "FL-610"
	CodeNotAllowedIn  Code = "FL-611"
	CodeNoReload      Code = "FL-612"
	CodeRepaired      Code = "FL-620"
	CodeUnwatched     Code = "FL-621"
	CodeKernelRefused Code = "FL-622"
	CodeForeignTable  Code = "FL-623"
	CodeNotPutBack    Code = "FL-624"
	CodeNotKilled     Code = "FL-625"
	CodeKillWaits     Code = "FL-626"
	CodeNotFlushed    Code = "FL-627"
	CodeNotCarried    Code = "FL-630"
	CodeUntested      Code = "FL-631"
	CodeShutOff       Code = "FL-640"
	CodeNothingToOpen Code = "FL-641"
	CodeNoWay         Code = "FL-642"
	CodeHides         Code = "FL-643"
	CodeClaim         Code = "FL-650"
	CodeTriggerTaken  Code = "FL-660"
	CodeKeepalive     Code = "FL-661"

	CodeNoRelayAddress Code = "FL-670"
	CodeGoesRound      Code = "FL-671"
	CodeFlood          Code = "FL-672"
	CodeNotAsked       Code = "FL-673"
	CodeBadMessage     Code = "FL-674"
	CodeNotExpressed   Code = "FL-680"
	CodePartOfClients  Code = "FL-681"
	CodeNoAnchor       Code = "FL-682"
	CodeNoPacketFilter Code = "FL-683"
	CodeFilterRefused  Code = "FL-684"

	CodeNoService      Code = "FL-801"
	CodeNoSuchForward  Code = "FL-803"
	CodeNoSuchConn     Code = "FL-804"
	CodeServiceRunning Code = "FL-805"
	CodeNotAllowed     Code = "FL-806"
	CodeReloadFailed   Code = "FL-807"
	CodeAPI            Code = "FL-808"
	CodeNotInstallable Code = "FL-810"
	CodeInTheWay       Code = "FL-811"
	CodeInstallFailed  Code = "FL-812"
	CodeUsage          Code = "FL-901"
	CodeFailed         Code = "FL-999"
)

// A Page explains a code at length, for "fairlead help CODE" and the manual.
type Page struct {
	Code  Code
	Title string
	Text  string // paragraphs separated by empty lines
}

// Pages are the pages of all codes, in the order of the codes.
var Pages = []Page{
	{CodeInUse, "an address and port are already in use",
		`Another socket listens at the address and port that a forward wants. Where the system lets us look, the message names the process that holds it, its user, its unit and its container.

Ways out: another port, another address of this machine, or stopping the other program. The forward is not lost: a service tries again by itself and takes the port when it is free.`},
	{CodeInUseByOther, "a port is in use by another user's program",
		`The port is taken, and the program that holds it belongs to a user into whose processes we may not look. Run the same command with sudo to have it named.`},
	{CodeHalfBound, "a port is free in one address family only",
		`A bare port and ":PORT" listen on IPv4 and IPv6. Here one of them is taken by another program, so that a client that connects to "localhost" may reach that program and not this forward.

The forward listens where it can and is reported as partial. Name one family to say that this is what you want: 127.0.0.1:8080 or [::1]:8080.`},
	{CodePathInUse, "a unix socket is in use",
		`A program listens at that path already. A socket file that a killed program left behind is replaced without asking; this one answered, so it is alive. A file that is no socket is never replaced.`},
	{CodeNotOurAddress, "the address does not belong to this machine",
		`A program can listen only at addresses of its own machine. The address may have changed (a new DHCP lease, a new WAN address), or its interface may be down. Name the interface instead of the address, "wan:443", and the forward follows it. The same holds for "source": nothing can set out from an address of another machine.

The forward is tried again by itself when addresses change.`},
	{CodeNoInterface, "there is no such interface",
		`The word before the port is neither an address, nor "wan" or "lan", nor a declared place, nor the name of an interface of this machine; or "source" names an interface that is not there. When the interface appears later, the forward begins by itself.`},
	{CodeTooManyPorts, "a port range needs more descriptors than there are",
		`A forward in user space needs one socket for each port and family. The limit of open files of this process (ulimit -n, LimitNOFILE= in a unit) does not allow so many. Raise the limit, or make the range smaller.`},
	{CodeListenFailed, "listening failed",
		`The system refused to listen at the address for a reason that has no page of its own; the message has its words.`},
	{CodeLowPort, "ports below 1024 need a privilege",
		`On Linux a program without privileges may listen only at ports from net.ipv4.ip_unprivileged_port_start up, by default 1024.

1. Run it as a service: the unit gives the program that one right (AmbientCapabilities=CAP_NET_BIND_SERVICE) and no other.

2. Give the right to the program file: sudo setcap cap_net_bind_service=+ep FILE. It has to be repeated after each upgrade, and then anybody who runs the file has it.

3. Listen at a high port, and let the router or the kernel lead the low one there.`},
	{CodePrivilege, "a forward needs a privilege",
		`Kinds nat, open and share, and whatever is "by kernel", change nftables, which is CAP_NET_ADMIN's. The unit in packaging/systemd has it; in a container it takes "--cap-add NET_ADMIN" and, where the container's host is the gateway, "--network host". Without it a process can carry the forward: kind "forward", or "by auto", which looks for itself.

For a forward by a process: a word of it needs a right that this process does not have: "mark" and "source keep" are CAP_NET_ADMIN's (or CAP_NET_RAW's; of kind helper CAP_NET_RAW's alone, as is its relay of DHCP), "congestion NAME" is CAP_NET_ADMIN's where the system does not allow the algorithm to everybody. The forward is not carried without what its sentence says.

1. Give the service the right: "systemctl edit fairlead", with AmbientCapabilities= and CapabilityBoundingSet= that have CAP_NET_RAW beside CAP_NET_BIND_SERVICE. That is enough for source keep, and from Linux 5.17 on for mark. CAP_NET_ADMIN would do as well, and may change the whole network configuration.

2. Run it with sudo.`},
	{CodeNoDescriptors, "the program is out of file descriptors",
		`Each forwarded connection needs two descriptors. When the limit is reached, listeners stay open, new connections wait in the kernel's queue, and service resumes when descriptors are free. One address may hold seven eighths of them: what is more waits for a moment, and is refused (crowded) when too many wait, so that others are served at once. Raise the limit with ulimit -n or LimitNOFILE=, or bound the connections with max-conns.`},
	{CodeTurnedAway, "clients are turned away in numbers",
		`Many clients of a forward were turned away within a second: their addresses may not use it, or a limit on connections is reached. Each of the first ones is told by itself, the rest as a number, so that a flood of clients is no flood of lines.`},
	{CodeProxyHeader, "a sender did not introduce its client",
		`The forward says "accept-proxy" for the address that connected, so a PROXY protocol header has to come first, within five seconds. It did not come, or it is malformed. Have the sender (HAProxy: send-proxy-v2, nginx: proxy_protocol on) send one, or take its address out of accept-proxy. Whether a header is there is never guessed: anybody could then say that he is somebody else.`},
	{CodeGreeting, "a client did not say what it asks for",
		`The forward chooses among its targets by what the client says first (sni, http-host, alpn or protocol). This one stopped within its TLS hello or its HTTP request, or sent a request that is longer than 16 KiB or that two readers could understand differently. It is never guessed what was meant: a client could then be let in under one name and served under another.

How long a client may take is set with "greet" (3 seconds). A client that says nothing at all, because its server speaks first, goes to the targets of "protocol other", or else to those that take the rest. A TLS client whose hello cannot be read is one that names nothing.`},
	{CodeNoMatch, "no target takes what a client asks for",
		`Every target of the forward has a condition (sni, http-host, alpn or protocol), and the client met none of them: it asks for another name, speaks another protocol, or waits for the server to speak first. It is reset.

A target without a condition takes the rest: forward :443 to web:443 sni www.example.net, other:443`},
	{CodeNoRest, "no target takes the rest",
		`Every target of the forward has a condition (sni, http-host, alpn or protocol), so that clients who meet none of them are reset: those that ask for another name or for none, and those whose server speaks first. That may be what is wanted. A target without a condition takes them.`},
	{CodeBeingSetUp, "the forward is being set up",
		`The forward was wished a moment ago and is not listened at yet. It follows by itself.`},
	{CodeTimeOver, "the forward's time is over",
		`The forward was wished "for" a time, counted from when it was first made, and that time has passed. Change its sentence, or take "for" out, to begin anew.`},
	{CodeOutsideSchedule, "the forward is outside its schedule",
		`The sentence says when new connections are let in ("schedule mon-fri 08:00-18:00"), in the time zone of the machine, and this is another time. The forward listens and turns new clients away; connections that it has live on. It follows the clock by itself.`},
	{CodeCertificate, "a certificate or its key cannot be used",
		`A file that the sentence names for TLS cannot be read, is no PEM file, or does not belong to the others: the key is another certificate's, or a file of authorities holds no certificate. The forward does not listen until the files are right; it looks again by itself.

A certificate's file holds the certificate and behind it those of the authorities between it and a root. The key may stand in the same file, or in one that "tls-key" (or "target-key") names. Keys with a password are not supported.`},
	{CodeCertExpires, "a certificate has expired or soon will",
		`Clients refuse an expired certificate. Renew it; the new files are taken up within seconds, without a restart and without cutting a connection. It is told from 14 days before the end on, for certificates with a short life from the last quarter of it.`},
	{CodeCertOld, "new certificate files are broken, the old certificate stays in service",
		`The files changed, and what is in them now cannot be used. Connections go on with what was read before. Between the moments at which a certificate and its key are replaced this is told in vain; it goes away when both are there.`},
	{CodeKeyOpen, "a private key can be read by every user of this machine",
		`Whoever can read the key can pretend to be this service. Take the right away with chmod, and have the key renewed if strangers use this machine.`},
	{CodeNoHandshake, "a client did not come to a TLS connection",
		`The client sent something else than TLS, did not finish the handshake within ten seconds, offered no version from 1.2 on or no protocol that "tls-alpn" names, did not accept the certificate, or did not show one of its own that "tls-client-ca" demands. The message has what was seen. Nothing of such a client reaches a target.`},
	{CodeACME, "the ACME authority gave no certificate",
		`The authority checks that the name leads here by connecting to port 443 of its addresses (challenge TLS-ALPN-01), so this forward has to be reached there: directly, or through routers and forwards that pass the connection on as it is. The message has the authority's words. Trouble with the directory itself is told as that: "acme-directory" names it, and "acme-ca" the roots to trust there. While there is no certificate at all, nobody gets in and the forward is broken. It is tried again with growing pauses; authorities limit how often one may fail.`},

	{CodeTargetRefuses, "the target refuses connections",
		`The target's machine answered with a reset: it is up, and nothing listens at that port (or its firewall rejects). Clients see the same: their connections are reset.

Start the service, or correct the target's port. The forward stays active; while it is broken the target is asked again now and then.`},
	{CodeTargetSilent, "the target does not answer",
		`No answer came within the connect timeout: the machine is off, the address is wrong, or a firewall drops the packets without a word.`},
	{CodeTargetUnreachable, "the target cannot be reached",
		`The system has no route to the target, or a router on the way said that it cannot deliver.`},
	{CodeNoSocket, "there is no unix socket at the path",
		`The target is a unix socket and the path does not exist, is no socket, or may not be entered by this user.`},
	{CodeTargetFailed, "connecting to the target failed",
		`The target could not be reached for a reason that has no page of its own; the message has the system's words.`},
	{CodeNoSourcePort, "no port is left to connect from",
		`A connection is told from others by both addresses and both ports. Toward one address and port of a target, one address of this host has as many connections as net.ipv4.ip_local_port_range has ports, by default 28,232, and those that ended a minute ago count still.

Ways out: several addresses of this host, "source 192.0.2.10, 192.0.2.11", which are used in turn; several addresses or ports of the target; a wider net.ipv4.ip_local_port_range.

The target stays in service: others may reach it. The message also comes where this host has no address at all of the target's family.`},
	{CodeNoSource, "the source cannot be used for this target",
		`The forward says from which address or interface its targets are connected to, and none of these fits the target: an IPv4 address cannot connect to an IPv6 target, nor the other way round. No connection is made from another address than those that the sentence names.

Name an address of each family that the targets have, "source 192.0.2.10, 2001:db8::10", or an interface, which has both.

With "source keep" it says that the client's address cannot be kept: the target is on this host, and a client's address from elsewhere can be kept only toward other machines; or the target is of the other family than the client; or the client's address is link-local. The client is refused, and the target stays in service for others. Give the target an address of each family that clients have, or tell it who the client is with the PROXY protocol ("proxy-protocol v2").`},
	{CodeSourceLost, "answers to kept addresses do not come back",
		`With "source keep" the target sees the client's own address and answers to it. That answer has to come to this host, and this host has to take it for its own although it is not its address. A connection from this host's address reached the target, and one from the client's address had no answer; or the rules that take answers in are missing here.

Three things are needed, and fairlead changes none of them by itself: routes and firewalls are the administrator's. The message prints the exact commands.

1. Here, packets of such connections are marked, by an nftables rule that knows the socket they belong to: "socket transparent 1".

2. Here, marked packets are delivered to this host instead of being forwarded: "ip rule add fwmark" and "ip route add local default dev lo", each for IPv4 and for IPv6.

3. On the target, the route to the clients leads through this host: its default route, or a route of its own to the clients' network.

They last until the next start of the machine; put them where your system keeps its network configuration. Where a target's routes cannot be changed, tell it who the client is with the PROXY protocol instead.`},
	{CodeNameUnknown, "a name has no address",
		`The resolver says that the name does not exist, or has no addresses. Names are looked up anew for each connection as their time to live demands, so that the forward begins to work when the name appears. While a lookup fails, the last good addresses are used.`},
	{CodeNameFamily, "a name has no address of the family that is needed",
		`The name has addresses, but none of the family (IPv4 or IPv6) that this forward can use.`},
	{CodeNameServer, "the name server does not answer",
		`The lookup failed on the way: the name server is unreachable or in trouble. This says nothing about whether the name exists. It is tried again.`},
	{CodeLoop, "a forward leads to itself",
		`The target is an address and port at which the same forward listens. Each connection would open another one, without end.`},
	{CodeAllDrained, "every target is drained",
		`The sentence has "drain" behind each of its targets: none of them gets new connections, so that clients are refused. Those that are connected go on. "fairlead drain --undo NAME TARGET" takes a target back.`},
	{CodeTargetTLS, "the TLS handshake with the target failed",
		`The target accepted the connection, and no TLS connection came about for a reason that has no page of its own; the message has what was seen. Clients are reset, as when the target refuses.`},
	{CodeTargetUntrusted, "the target's certificate is signed by nobody that is trusted here",
		`The certificate was issued by an authority that this machine does not know, often the organisation's own, or it is signed by itself. Have the authority's certificate in a file, and name that with "target-ca". A certificate that is signed by itself is its own authority.

"target-tls insecure" asks for no proof at all: whoever sits between here and the target can then read and change everything.`},
	{CodeTargetOtherName, "the target's certificate is for another name",
		`The name that was asked for, the target's host unless "target-name" says another, is not among the names in its certificate. Say one of those with "target-name", if that is who the target is supposed to be.`},
	{CodeTargetExpired, "the target's certificate is not valid at this time",
		`It has expired, or is not valid yet. Have it renewed on the target. When many certificates seem to have expired, look at this machine's clock.`},
	{CodeTargetPlain, "the target does not speak TLS",
		`The first bytes of the target were no TLS. Perhaps another of its ports speaks TLS, or the protocol begins in plain text and turns to TLS later (STARTTLS), which a forwarder cannot do for it. Without "target-tls" the forward speaks with it in plain text.`},
	{CodeTargetWantsCert, "the target demands a client certificate",
		`The target accepts only clients that prove who they are (mutual TLS). Name our certificate with "target-cert" and its key with "target-key"; it has to be signed by an authority that the target trusts.`},

	{CodeUnknownWord, "unknown modifier or directive",
		`A word in the sentence is not one that the grammar knows. "fairlead help grammar" lists them all.`},
	{CodeUnknownKind, "unknown kind of forward",
		`A sentence begins with its kind: forward, nat, open, local, remote, dynamic, map, router, trigger, helper, share, sshd or tunnel.`},
	{CodeOverlap, "two forwards listen at the same place",
		`Two sentences want the same address, port and protocol, or one wants every address and the other one of them. Order decides nothing in the file, so one of them has to change.`},
	{CodeShellArrow, "the shell took the arrow",
		`"->" and "=>" are redirections to a shell: the words behind them never arrived, and an empty file of that name may have been made. The separator is the word "to".`},
	{CodeAmbiguousIPv6, "an IPv6 address needs brackets",
		`In 2001:db8::10:443 nobody can tell the address from the port. Write [2001:db8::10]:443.`},
	{CodeBadPort, "not a port",
		`Ports are the decimal numbers 1 to 65535, ranges of them (8000-8010), lists (80,443), or names of services (https).`},
	{CodeSyntax, "the sentence does not parse",
		`The words do not stand in an order that the grammar knows: NAME: KIND LISTEN to TARGET [modifier ...]. "fairlead help grammar" has all of it.`},
	{CodeBadValue, "a modifier's value is wrong",
		`Durations are written 500ms, 2s, 5m, 1h or 2d; sizes 64KB, 10MB/s or 1GiB; addresses 10.0.0.0/8 or 2001:db8::/32; counts as whole numbers.`},
	{CodeTwice, "something is said twice",
		`A name stands for one forward or place, and a modifier is given once.`},
	{CodeCannotCarry, "this version cannot carry this kind",
		`The sentence is right and is kept, but the part of the program that would carry it does not exist in this version. Nothing pretends to forward: the state is "broken" until a version can.`},
	{CodeCannotHonour, "a modifier cannot be honoured",
		`The sentence is right, but the carrier that would carry it cannot do what this modifier asks, or the modifier means nothing for this forward, as "mode" where no unix socket is listened at. It is refused as a whole rather than carried without the condition.`},
	{CodeUnknownPlace, "unknown place",
		`"via" names a place that no line declares: place NAME ssh user@host, place NAME fairlead host:port, place NAME router auto.`},
	{CodeBlock, "braces do not match",
		`A block opens with a brace at the end of a line, holds one modifier a line, and closes with a brace on a line of its own.`},
	{CodeInclude, "an include cannot be followed",
		`An included file is missing, unreadable, includes itself, lies too deep, or may be written by everybody.`},
	{CodeBadCharacter, "a character does not belong into the file",
		`The file is UTF-8 text without NUL and control characters, and without the invisible characters that reverse the direction of writing.`},
	{CodeTooLarge, "the file is too large",
		`A file may have 16 MiB, a line 64 KiB, a block 1000 lines. Nothing of a file beyond that is read.`},
	{CodeBadName, "not a name",
		`Names begin with a letter and consist of letters, digits, "-", "_" and ".", at most 63 of them. The first words of the grammar are no names.`},
	{CodeRangeMismatch, "port ranges of different length",
		`A range is led to a range of the same length, port by port, or to one single port.`},
	{CodeWrongKind, "a modifier does not go with this kind",
		`The modifier exists, but has no meaning for this kind of forward.`},
	{CodeIncomplete, "something is missing",
		`The sentence ends before everything that its kind needs was said.`},
	{CodeJSON, "the JSON does not describe a configuration",
		`The schema is printed by "fairlead adapt --schema". Unknown fields are errors.`},
	{CodeUnreadable, "a file cannot be read",
		`The file does not exist, or this user may not read it. A service that runs keeps what it has.`},
	{CodeUnwritable, "a file cannot be written",
		`The change was not made. The old file is as it was: a new one is written beside it first and takes its place only when it is whole.`},
	{CodeNoFile, "no configuration file",
		`The file is searched at --config, $FAIRLEAD_CONFIG, then /etc/fairlead/fairlead.conf for root and $XDG_CONFIG_HOME/fairlead/fairlead.conf for others. The current directory is not searched.`},
	{CodeChangedBehind, "the file was changed meanwhile",
		`Somebody else wrote the file between reading and writing it. Nothing was written; try again.`},

	{CodeForeignDrop, "another firewall drops the packets",
		`A packet that a forward leads passes every table at each hook, not fairlead's alone. An accept ends only the rules of the chain that it stands in; a drop, in whatever table, ends the packet. So fairlead's accept cannot help where the firewall of Docker, ufw, firewalld or of the administrator drops what it does not know.

"fairlead explain NAME" sends a packet the same way and names the table, the chain and the rule or policy that dropped it. The rule that lets it through belongs there: by that program's own interface, as "allow-in docker" (ufw, firewalld) asks for, or by the command that is printed. Tables that iptables keeps are edited by iptables alone: rules that nft puts there make iptables fail.`},
	{CodeForwardingOff, "this host does not forward packets",
		`The target is another machine, and this host passes no packets of that family on: the parameter net.ipv4.ip_forward (IPv6: net.ipv6.conf.all.forwarding) is 0, as it is on machines that are no routers. The table is loaded, and clients get no answer until it is switched on.

It is not switched on unasked: it makes this host a router for everybody whose packets reach it. "fairlead install --forwarding" switches it on, also for the next start of the machine, and "fairlead uninstall" puts back what was there before. Switch it on, and guard the host ("share lan to wan" has a guard), or have a process carry the forward, which needs no forwarding: kind "forward".

With IPv6 forwarding on, a host takes no default route from router advertisements any more, unless net.ipv6.conf.INTERFACE.accept_ra is 2. "fairlead install --forwarding" sets that where such a route leads.`},
	{CodeNoHairpin, "clients on the target's own network get no answer",
		`Client and target are neighbours. The packet comes here, is led to the target with the client's address as its source, and the target answers its neighbour directly. The client asked another address and throws that answer away.

For such clients the source has to be rewritten, so that the answer comes back here (hairpin). A forward of kind nat does so by itself, unless the sentence says "source keep". A name that the LAN's own DNS answers with the target's address avoids the detour.`},
	{CodeNoWayBack, "the target's answers do not come back through this host",
		`The packet reached the target with the client's address as its source. The target answers other questions of this host, and nothing of it came back for the client: its default route leads past this host, so that the answer arrives with the target's address and nobody knows it; or its own firewall takes packets from its neighbours only.

1. "masquerade": the source becomes this host's, and the answer comes back by itself. The target then sees this host as its only client.

2. A route to the clients through this host on the target. It keeps seeing the clients' addresses.

3. Kind "forward" with "proxy-protocol", for services that understand it: the connection is this host's, and the client's address is told in it.`},
	{CodeReversePath, "the check of the reverse path drops the packets",
		`With rp_filter = 1 (strict, RFC 3704) the kernel throws a packet away that came in by another interface than the one by which it would send the answer. That is how hosts with several WANs or asymmetric routes lose packets without a word. The counter is IPReversePathFilter in /proc/net/netstat.

rp_filter = 2 (loose) accepts the source if any route leads back to it. The value in force is the larger one of "all" and of the interface. Or mend the route: policy routing sends answers out where the question came in.`},
	{CodeNoNFTables, "the kernel has no nf_tables with address translation",
		`Kinds nat, open and share are rules of nftables. This kernel has no nf_tables, or its module is not loaded and may not be loaded from here, as in a container: load nf_tables and nft_chain_nat on the host. Sandboxed kernels have neither.

Kind "forward" needs nothing of this: a process carries it.`},
	{CodeLoopbackNAT, "address translation does not cross loopback",
		`Loopback addresses, 127.0.0.1 and ::1, mean "this host" to every host. The kernel drops packets from outside that ask for one, and packets to the outside that come from one, so that a kernel forward cannot lead clients from elsewhere to a loopback address, nor programs that connect to this host's loopback address to another host.

A port of this host is led to another with "self": "nat wan:80 to self:8080" rewrites the port alone, and what listens there has to listen at the address that was asked for, or at every one. What listens at loopback only is reached by a process: "forward wan:80 to 127.0.0.1:8080".

The sysctl route_localnet would switch the rule off for a whole interface, for everybody on that network and every program that trusts in loopback. fairlead does not touch it.`},
	{CodeAddressGone, "the address is not this machine's any more",
		`The sentence names an address that no interface of this host has, on a network that one of them is in: clients there ask for it, and nobody answers. Usually the provider or a DHCP server gave out another one. Name the interface, "wan:443": the forward then follows its addresses. Or have the host take the address with "claim".`},
	{CodeNoFirewall, "the firewall of allow-in is not there",
		`"allow-in" asks another program's firewall, Docker, ufw or firewalld, to let the forward through. That program is not installed, does not run, or is switched off, so that there is nothing to ask. Where it is not there, it drops nothing, either: the forward works unless another message says otherwise. It is asked again when rules change on this machine. If the program is not used here, take "allow-in" out.`},
	{CodeNotAllowedIn, "the firewall of allow-in did not do what it was asked",
		`The program that was asked to let the forward through answered with an error, did not answer in time, or takes no more rules; the message has its words. The commands are those that its manual gives: iptables for Docker's chain DOCKER-USER, ufw, and firewall-cmd. Other forwards are not disturbed, and it is asked again at the next change.`},
	{CodeNoReload, "firewalld would have to be reloaded, and has unsaved changes",
		`firewalld takes rules of another program in a policy of its own, and a policy begins with a reload. A reload throws away what was changed at run time and not saved, perhaps by another program; fairlead does not do that to it. Save the changes or reload firewalld yourself, and the forward is let through by itself. This is needed once: later forwards come and go without a reload.`},
	{CodeRepaired, "the table was changed by somebody else, and put right",
		`Another program removed the table of fairlead or changed it: usually "nft flush ruleset", which the start or the reload of a firewall does (systemctl reload nftables). It was loaded again at once. Connections that were established go on, because the kernel remembers them beyond the table; packets that came in between may have been lost.

The message names the program where the kernel tells. If it comes again and again, have that program leave tables of others alone: a firewall's file is to flush and fill its own tables, not the whole rule set.`},
	{CodeUnwatched, "changes by others are not seen",
		`The kernel's notices about tables of nftables cannot be read, so a table that somebody else removes is put right only with the next change or reload. It is tried again every few seconds.`},
	{CodeKernelRefused, "the kernel refused the table",
		`The transaction that was to load the forwards was refused as a whole; what was loaded before goes on. The message has the kernel's words. "fairlead plan" prints what would be loaded.`},
	{CodeForeignTable, "a table of that name is somebody else's",
		`fairlead keeps its rules in a table of its own with a mark in it. The table of that name has no mark: somebody else made it, and it is not touched. Remove it if it is nobody's, or give this instance another name with a control socket of its own.`},
	{CodeNotPutBack, "something could not be put back as it was found",
		`A kernel parameter, an address or a rule of another firewall was changed because a forward asked for it, and undoing that failed. It is remembered in the state directory; "fairlead clean" tries again and says what is left.`},
	{CodeNotKilled, "connections that were to be killed live on",
		`To end a connection, its packets are refused for some seconds by a small table of nftables (fairlead…-killed), and the kernel's connection tracking is made to forget it. One of the two failed; the message has the kernel's words. What is told to be killed was.`},
	{CodeKillWaits, "killed connections end with their next packet only",
		`Both ends of a killed connection are reset when they send something. So that idle ones end at once, both are sent a packet that they have to answer, which takes CAP_NET_RAW. Without that right an idle end learns of its end when it next sends; nothing gets through in any case.`},
	{CodeNotFlushed, "UDP connections of a changed forward could not be forgotten",
		`The kernel remembers where the packets of a UDP client went, and goes on so as long as they come. When a forward changes, what is remembered of it has to be forgotten (through nf_conntrack_netlink), and that failed. Clients that pause for two minutes are led right; others may go on to the old target.`},
	{CodeNotCarried, "nothing carries the forward",
		`A packet of a client was followed, and no rule or listener of fairlead took hold of it: the forward is written down and no service runs, or it is disabled, or its table was taken away.`},
	{CodeUntested, "whether it works could not be tested",
		`Following a packet needs root, nftables with its trace, and /dev/net/tun. A UDP service answers only what it understands, so that silence proves nothing. The message says what stood in the way, and the exit code is 7.`},
	{CodeShutOff, "a guard shuts programs on this host off from the WAN",
		`"share lan to wan" guards the WAN side: from there comes in what answers, what is forwarded and what has a pinhole. Programs of this host that listen for everybody are reached by the LAN as before, and by the WAN no longer. The message names them, as far as they could be seen.

Where one of them is meant to be reached from outside, the SSH server you came by perhaps, open its port: "open wan:22 to self". Connections that are there when the guard comes go on, so that there is time for it. "unguarded" behind the share leaves the filter to others.`},
	{CodeNothingToOpen, "a pinhole has nothing to open",
		`"open" makes a hole in the guard of a share. Where no share guards that side, packets come in anyway as far as fairlead is concerned. What another firewall on this host drops stays dropped: a pinhole of ours cannot allow what a rule of theirs forbids.`},
	{CodeNoWay, "a share or a pinhole leads nowhere",
		`The sentence is right, and what it leads to cannot be reached that way: both sides of a share are the same interface, a pinhole leads to an address that the Internet does not know, or its clients speak another version of IP than its target. The message says which. Where an address has to be rewritten, "nat" does that.`},
	{CodeHides, "a program on this host has the same port",
		`The kernel leads packets on before a socket sees them, so a forward and a program may have the same port. From elsewhere only the forward is reached; the program is not told, and sees its clients stay away. Think of port 22: a forward of it takes the way to this host's own sshd.

If the program is still to be reached, take another port for the forward, or an address that the program does not need. A forward to "self" leads to another port of this host and has the same effect on what listens at the first one.`},
	{CodeClaim, "an address could not be claimed",
		`A forward with "claim" takes the address that it listens at, when nobody has it: the neighbours are asked first (RFC 5227; for IPv6 by the kernel, RFC 4862), which takes some seconds, then the interface gets the address, and they are told. The address has a life of thirty seconds that is renewed as long as the forward is carried, so that the kernel takes it away when this program is killed.

Where somebody has the address, it is left to him. Either take one that is free, or leave the address to its owner and lead the clients here by a route on each of them; the other ports of the address then stay where they are. Interfaces without ARP, such as tunnels, have no neighbours that could be asked.`},
	{CodeTriggerTaken, "a trigger opens ports that are something else's",
		`A port at which a forward, a pinhole or a listener of this host is reached from outside stays with that, whoever triggers: otherwise a host of the LAN could take it away by sending one packet. The trigger opens its other ports; where none is left it is not carried. Name other ports, or end what has them.`},
	{CodeKeepalive, "a trigger's ports are not held open",
		`"keepalive" of a trigger sends a few bytes on behalf of the host that has its ports, which takes CAP_NET_RAW, and renews the kernel's memory of that host. One of the two failed; the message has the kernel's words. The ports close when their time without traffic is over.`},

	{CodeNoRelayAddress, "an interface has no address to relay DHCP from",
		`A relay of DHCP writes the address of the interface by which a client asked into the request (giaddr; for IPv6 the link-address): by it the server knows which network the client is on, and answers there. An interface without such an address, or with a link-local one only, cannot stand for a network. Give it an address of the network whose clients it is to serve; the forward then begins by itself.`},
	{CodeGoesRound, "a datagram goes round",
		`A helper passed a datagram on, and it came back: two helpers have each other's networks as their targets, or a target is a broadcast address of the very network that is heard. It was dropped, and so are those that follow; the others pass.

A datagram is known again by its content and by its hop limit, which each helper lowers by one: the same with a lower one has come round. So has one that comes more than ten times a second. Let the target be the server's own address rather than one of all hosts there.`},
	{CodeFlood, "a sender sends more than is passed on",
		`Broadcasts are rare where all is well. From one sender a hundred datagrams a second are passed on (bursts of two hundred), and from all senders of one forward a thousand, so that nobody on the network can make this host shout at the targets. What was too much is counted as dropped.`},
	{CodeNotAsked, "an answer came from somebody who was not asked",
		`Only the addresses of the sentence's targets are believed. A server with several addresses may answer from another one than it was asked at: name that one as the target. It may as well be somebody on the network who wants to be taken for the server.`},
	{CodeBadMessage, "a message of DHCP is not passed on",
		`The message is broken, or it is one that a relay must not pass on: it passed more than four relays already (DHCPv6: eight), it carries an option 82 although it comes from a client (RFC 3046 section 2.1), it claims to come from this relay itself, or it is an answer where questions are expected. The message says which. It was dropped and counted.`},
	{CodeNotExpressed, "the packet filter cannot express the forward",
		`On FreeBSD, OpenBSD and macOS kinds nat, open and share are rules of pf or ipfw. Those filters know less than nftables: what they cannot do exactly as the sentence says is refused as a whole, and no rule of it is loaded. The message says which word it is.

A process can carry most of it: kind "forward". "fairlead plan --for pf" (openbsd-pf, ipfw) says beforehand what would be loaded and what is refused, on any system.`},
	{CodePartOfClients, "only clients who come in by that interface are led",
		`ipfw translates addresses at one interface, IPv4 only: who comes in there from outside is led to the target. Who asks for the same address from the LAN, by IPv6, or on this host itself reaches this host. With pf, and with nftables on Linux, clients of the LAN are led, too. A name that the LAN's own DNS answers with the target's address serves them.`},
	{CodeNoAnchor, "pf.conf has no anchor for fairlead",
		`fairlead loads rules of pf into anchors of its own, fairlead/…, and changes no rule of others. pf looks into an anchor only where its main rules say so. They belong into pf.conf: on FreeBSD and macOS nat-anchor "fairlead/*" and rdr-anchor "fairlead/*" among the translations and anchor "fairlead/*" among the filter rules, on OpenBSD anchor "fairlead/*" alone, before rules with "quick" that would decide first. Then "pfctl -f /etc/pf.conf".`},
	{CodeNoPacketFilter, "no packet filter is in use",
		`Kinds nat, open and share are carried by pf or ipfw on this system. Neither is switched on, or this user may not use it: both need root. Switch one on (pfctl -e, service pf start, service ipfw start), or have a process carry the forward: kind "forward".`},
	{CodeFilterRefused, "the packet filter refused the rules",
		`pfctl or ipfw answered with an error, and what was loaded before goes on. The message has its words. "fairlead plan" prints what would be loaded.`},

	{CodeNoService, "no service answers",
		`Nothing answers at the control socket. Start the service with "fairlead up", or name its socket with --socket.`},
	{CodeNoSuchForward, "there is no forward of that name",
		`"fairlead status" lists the names.`},
	{CodeNoSuchConn, "no connection matches",
		`"fairlead conns" lists the live connections. What was meant may have ended meanwhile.`},
	{CodeServiceRunning, "a service runs already",
		`Another service answers at the same control socket. Stop it, or give this one a socket of its own with --socket.`},
	{CodeNotAllowed, "the control socket may not be used by this user",
		`The socket belongs to the service's user and its group. Join the group, or use sudo.`},
	{CodeReloadFailed, "the reload changed nothing",
		`The file has errors, so the service keeps what it had. The errors are listed; "fairlead validate" shows them as well.`},
	{CodeAPI, "the service answered with an error",
		`The service did not understand or could not do what was asked. An old service and a new command may not know the same words: compare "fairlead version".`},
	{CodeNotInstallable, "this cannot be installed as a service",
		`The unit names the program by the path that it has, and runs it with rights over the network for as long as the machine runs. So it has to be at a place that lasts, that the service can see (it does not see /home, /root and /tmp), and where nobody but root can put another program in its stead: /usr/local/bin, or where a package puts it. The same holds for the file of forwards.

On a machine without systemd there is nothing to install: have its own service manager run "fairlead up", as root or with the capabilities that the unit in packaging/systemd gives.`},
	{CodeInTheWay, "a file is there already, and says something else",
		`"fairlead install" would write this file, and somebody else has written another one at its place. Nothing was changed. With --force it is replaced, and "fairlead uninstall" puts the old one back.`},
	{CodeInstallFailed, "a step of installing or uninstalling failed",
		`Of an installation nothing is left: the steps that were done before this one were undone, unless the message says otherwise. What "fairlead uninstall" could not do is remembered, and done when it is run again.`},
	{CodeUsage, "the command was not understood",
		`"fairlead help" lists the commands, "fairlead help COMMAND" explains one.`},
	{CodeFailed, "something else failed",
		`The message has the system's words; there is no page of its own for it.`},
}

// PageOf is the page of a code.
func PageOf(code Code) (Page, bool) {
	for _, p := range Pages {
		if p.Code == code {
			return p, true
		}
	}
	return Page{}, false
}
