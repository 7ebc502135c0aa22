package config

import "slices"

// services are names that may stand for ports. The table is fixed, so that a
// sentence means the same on every machine; it has the usual services of the
// registry of IANA ("Service Name and Transport Protocol Port Number
// Registry") and of daily use.
var services = map[string]uint16{
	"ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "whois": 43, "domain": 53, "dns": 53,
	"bootps": 67, "bootpc": 68, "tftp": 69, "gopher": 70, "finger": 79, "http": 80, "kerberos": 88,
	"pop3": 110, "sunrpc": 111, "ident": 113, "nntp": 119, "ntp": 123, "netbios-ns": 137,
	"netbios-dgm": 138, "netbios-ssn": 139, "imap": 143, "snmp": 161, "snmptrap": 162, "bgp": 179,
	"irc": 194, "ldap": 389, "https": 443, "smb": 445, "microsoft-ds": 445, "submissions": 465,
	"isakmp": 500, "syslog": 514, "printer": 515, "rtsp": 554, "submission": 587, "ipp": 631,
	"ldaps": 636, "domain-s": 853, "rsync": 873, "ftps": 990, "imaps": 993, "pop3s": 995, "socks": 1080,
	"openvpn": 1194, "ms-sql-s": 1433, "radius": 1812, "mqtt": 1883, "nfs": 2049, "svn": 3690,
	"mysql": 3306, "rdp": 3389, "ms-wbt-server": 3389, "stun": 3478, "turn": 3478, "ipsec-nat-t": 4500,
	"sip": 5060, "sips": 5061, "xmpp-client": 5222, "mdns": 5353, "postgresql": 5432, "postgres": 5432,
	"amqp": 5672, "vnc": 5900, "x11": 6000, "redis": 6379, "http-alt": 8080, "secure-mqtt": 8883,
	"minecraft": 25565, "mongodb": 27017, "wireguard": 51820,
}

var serviceWords = func() (words []string) {
	for w := range services {
		words = append(words, w)
	}
	slices.Sort(words)
	return words
}()
