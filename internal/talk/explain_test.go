package talk

import (
	"testing"

	"fairlead"
)

func TestExplanationsKeepTheirForm(t *testing.T) {
	const command = "iptables -I FORWARD -p tcp -m conntrack --ctstate DNAT --ctorigdstport 25565 -j ACCEPT"
	steps := []ExplainedStep{
		{"client", "198.51.100.2", "ok", "a probe in its name, inside this kernel"},
		{"arrives", "wan0 203.0.113.1:25565", "ok", "an address of wan0"},
		{"rewritten", "to 192.168.1.20:25565", "ok", "table inet fairlead, chain addr4"},
		{"own rules", "accept", "ok", ""},
		{"other rules", "drop", "bad", "table ip filter, chain FORWARD, policy drop"},
		{"route", "", "skipped", ""},
		{"target", "192.168.1.20:25565", "unknown", "UDP does not say\x1b[31m"},
	}
	problem := fairlead.Problemf(fairlead.CodeForeignDrop, "packets for %q are dropped by a rule that is not fairlead's", "minecraft").
		Note("by", "table ip filter, chain FORWARD, policy drop  (docker)").
		Fix("let this forward through", command)
	golden(t, "explain", []string{command}, func(p *Printer) {
		p.Explain(Explanation{Question: "198.51.100.2 does not get through minecraft (203.0.113.1:25565/tcp to 192.168.1.20:25565)", Steps: steps, Problem: problem})
	})
	golden(t, "explain-works", nil, func(p *Printer) {
		p.Explain(Explanation{
			Question: "198.51.100.2 gets through web (203.0.113.1:80/tcp)", Steps: steps[:2], Verdict: "it works",
			Notes: []string{"10.0.0.2 is a private address: a router in front of this host translates, and has to forward 80/tcp, too"},
		})
	})
}
