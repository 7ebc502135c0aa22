package kernel

import (
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// maxSources is how many addresses one limit keeps in mind. When there are
// more, who is not among them is refused rather than let in uncounted.
const maxSources = 65536

// rateMemory is how long an address is remembered after its last connection by
// a limit on the rate. Its burst is what a second allows, so that whoever is
// forgotten could have made as many by then.
const rateMemory = 2 * time.Second

// limited reports whether new connections are counted, or told of.
func limited(p *fairlead.Policy) bool {
	return p.MaxConns+p.MaxConnsPerSource+p.Rate+p.RatePerSource > 0 || p.Log
}

// limit makes the chain that r's new connections pass before they are led to a
// target. They do so once: chains of translation see first packets only. One
// chain for all ports and targets is one limit for the forward.
func (c *compiler) limit(r *route) {
	p := &r.f.Policy
	if r.limits != "" || !limited(p) {
		return
	}
	r.limits = r.base + "/limits"
	c.chain(r.limits)
	c.refuse()
	// Those of one source come first: who has had enough takes nothing away
	// from the others.
	if p.RatePerSource > 0 {
		c.perSource(r, "rate", nft.Set{Timed: true, Timeout: rateMemory}, "update",
			nft.Limit{Rate: uint64(p.RatePerSource), Per: time.Second, Burst: uint32(p.RatePerSource)})
	}
	if p.MaxConnsPerSource > 0 {
		c.perSource(r, "conns", nft.Set{}, "add", nft.ConnCount{N: uint32(p.MaxConnsPerSource)})
	}
	if p.Rate > 0 {
		c.rule(r.limits, nft.Limit{Rate: uint64(p.Rate), Per: time.Second, Burst: uint32(p.Rate), Over: true}, nft.Goto(chainRefuse))
	}
	if p.MaxConns > 0 {
		c.rule(r.limits, nft.ConnCount{N: uint32(p.MaxConns), Over: true}, nft.Goto(chainRefuse))
	}
	if p.Log {
		c.rule(r.limits, nft.Log{Prefix: logPrefix(r.f), Group: -1})
	}
}

// perSource appends a limit for each source by itself: a chain whose rules
// return while there is room. It does not end in a rule that refuses what is
// over the limit, because a set that is full adds nothing and matches nothing.
func (c *compiler) perSource(r *route, what string, like nft.Set, op string, with nft.Expr) {
	chain := r.base + "/" + what
	for _, fam := range families {
		if !r.reachable[fam.index()] {
			continue
		}
		like.Key, like.Dynamic, like.Size = []nft.Type{fam.typ}, true, maxSources
		set := c.set(chain+fam.digit, like)
		c.rule(chain, nft.Update{Op: op, Set: set.Name, Keys: []nft.Key{fam.saddr64}, With: []nft.Expr{with}}, nft.Verdict{Do: "return"})
	}
	c.rule(chain, nft.Goto(chainRefuse))
	c.rule(r.limits, nft.Jump(chain))
}
