package relay

import (
	"fairlead"
)

// Fits tells whether the relay can carry f: a forward of kind "forward" with
// targets, under a policy that it knows to keep.
func (r *Relay) Fits(f *fairlead.Forward) error {
	if f.Kind != fairlead.KindForward {
		return fairlead.Problemf(fairlead.CodeCannotCarry, "this version cannot carry %s yet", f.Kind)
	}
	if _, err := r.cfg.Place(f.Via); err != nil {
		return err
	}
	if len(f.To) == 0 {
		return fairlead.Problemf(fairlead.CodeIncomplete, "forward needs a target: forward %s to HOST:PORT", f.At.String())
	}
	if f.At.Unix == "" && len(f.At.Ports) == 0 {
		return fairlead.Problemf(fairlead.CodeIncomplete, "forward needs a port to listen at")
	}
	for i := range f.To {
		t := &f.To[i]
		switch {
		case t.Unix == "" && len(t.Ports) == 0 && f.At.Unix != "":
			return fairlead.Problemf(fairlead.CodeIncomplete, "the target %s needs a port: the listening unix socket has none", t.Dest())
		case t.Unix != "" && f.At.Net&fairlead.UDP != 0:
			return fairlead.Problemf(fairlead.CodeCannotHonour, "a unix socket carries streams, and %s asks for UDP", f.At.String())
		case f.At.Unix != "" && t.Ports.Len() > 1:
			return fairlead.Problemf(fairlead.CodeRangeMismatch, "a unix socket leads to one port, and %s has several", t.Dest())
		}
	}
	if word := notYet(f); word != "" {
		return fairlead.Problemf(fairlead.CodeCannotHonour, "this version cannot carry forward with %q yet", word)
	}
	return nil
}

// notYet is the first condition of f that the relay would not keep.
func notYet(f *fairlead.Forward) string {
	p := &f.Policy
	for _, c := range []struct {
		said bool
		word string
	}{
		{p.By != "" && p.By != "auto" && p.By != Name, "by " + p.By},
		{p.Rate > 0, "rate"},
		{p.Bandwidth > 0, "bandwidth"},
		{p.Front != "", "front " + p.Front},
		{len(p.AcceptProxy) > 0, "accept-proxy"},
		{p.ProxyProtocol > 0, "proxy-protocol"},
		{p.Source != "", "source"},
		{p.Mark != 0, "mark"},
		{p.Masquerade, "masquerade"},
		{p.Claim, "claim"},
		{p.ALG != "", "alg"},
		{p.AllowIn != "", "allow-in"},
		{p.Publish, "publish"},
		{p.Choose != "" && p.Choose != "failover", "policy " + p.Choose},
		{p.Check.How != "" && p.Check.How != "off", "check " + p.Check.How},
		{p.PAC != "", "pac"},
		{len(p.Users) > 0, "user"},
	} {
		if c.said {
			return c.word
		}
	}
	for i := range f.To {
		if len(f.To[i].SNI) > 0 {
			return "sni"
		}
	}
	return ""
}
