package relay

import (
	"net/netip"
	"strings"

	"fairlead"
	"fairlead/internal/sys/sock"
)

// What of the words about the way out this system or the place cannot keep, as
// conditions want it. At another place than this host, its sockets are its own.

func sourceNotKept(f *fairlead.Forward) string {
	said := f.Policy.Source
	switch {
	case said == "":
		return ""
	case f.Via != "":
		return "source and via"
	case said == "keep" && !sock.Departs:
		return "source keep"
	case said == "keep":
		return ""
	}
	for word := range strings.SplitSeq(said, ",") {
		_, err := netip.ParseAddr(word)
		switch {
		case err == nil && !sock.Binds,
			err != nil && !sock.Departs,
			word == "wan", word == "lan": // each may be several interfaces, and others tomorrow
			return "source " + word
		}
	}
	return ""
}

func markNotKept(f *fairlead.Forward) string {
	return optionNotKept(f, "mark", f.Policy.Mark != 0, sock.Departs)
}

func dscpNotKept(f *fairlead.Forward) string {
	return optionNotKept(f, "dscp", f.Policy.DSCP != "", sock.Binds)
}

func congestionNotKept(f *fairlead.Forward) string {
	name := f.Policy.Congestion
	return optionNotKept(f, "congestion "+name, name != "" && name != "auto" && name != congestionOff, sock.Departs)
}

func optionNotKept(f *fairlead.Forward, word string, said, able bool) string {
	switch {
	case said && f.Via != "":
		return word + " and via"
	case said && !able:
		return word
	}
	return ""
}
