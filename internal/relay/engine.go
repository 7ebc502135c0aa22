package relay

import "fairlead"

// The engines: event loops for pairs of sockets, and goroutines for everything
// else. Which one carries a forward is chosen by what it needs, and told.
const (
	engineLoops      = "loops"
	engineGoroutines = "goroutines"
)

// offLoops is why event loops cannot carry a forward's TCP connections, "" where
// they can.
func offLoops(f *fairlead.Forward) string {
	p := &f.Policy
	switch {
	case f.At.Unix != "":
		return "unix sockets"
	case f.Via != "":
		return "via"
	case p.TLS.Terminates() || p.TLS.Originates():
		return "TLS"
	case limitsBandwidth(p):
		return "bandwidth"
	}
	for i := range f.To {
		if f.To[i].Unix != "" {
			return "unix sockets"
		}
	}
	return ""
}

// engineText is what carries the rule's connections and sessions, for people.
func (r *Relay) engineText(ru *rule) string {
	tcp := ru.f.At.Net&fairlead.TCP != 0
	switch why := offLoops(ru.f); {
	case !r.engine.ready():
		return "goroutines"
	case tcp && ru.f.Policy.Engine == engineGoroutines:
		return "goroutines, as it says"
	case tcp && why != "":
		return "goroutines, because of " + why
	}
	return "event loops"
}
