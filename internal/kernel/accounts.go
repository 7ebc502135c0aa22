package kernel

import (
	"strings"

	"fairlead/internal/sys/nft"
)

// chainAccount counts the packets of translated connections for the forward
// that they belong to, which is known by what was asked for.
const chainAccount = "account"

// An account is the elements that count one thing each of the same packets, by
// what the names of their sets have in common and their first key.
type account struct {
	set      string
	at, port nft.Value // at is "" where any address of this host was asked for
}

// account says whose element of a set that counts e is, as an index into
// parts; ok is false where it is nobody's any more.
func (p *plan) account(set string, e nft.Element) (i int, ok bool) {
	what, ok := tallyOf(set)
	if !ok {
		return 0, false
	}
	i, ok = p.accounts[accountOf(strings.TrimSuffix(set, ends[what]), e.Key)]
	return i, ok
}

func accountOf(set string, key []nft.Range) account {
	a := account{set: set}
	switch len(key) {
	case 1:
		a.port = key[0].First
	case 2:
		a.at, a.port = key[0].First, key[1].First
	}
	return a
}

// key is the first key of the account's elements.
func (a *account) key() []nft.Range {
	if a.at == "" {
		return []nft.Range{nft.One(a.port)}
	}
	return []nft.Range{nft.One(a.at), nft.One(a.port)}
}

// A tally says what the elements of a set count.
type tally uint8

// The tallies. A packet is counted once at most in each.
const (
	flows  tally = iota // packets are connections: those that were led on
	in                  // what went from clients to targets
	out                 // what went back
	turned              // packets are connections that were turned away

	tallies
)

// tallyOf says what a set counts, by the end of its name; ok is false for a set
// that counts nothing of a forward.
func tallyOf(set string) (what tally, ok bool) {
	for t, end := range ends {
		if strings.HasSuffix(set, end) {
			return tally(t), true
		}
	}
	return 0, false
}

// ends are what the names of sets that count end in.
var ends = [tallies]string{"_flows", "_in", "_out", "_turned"}

// accountSets is what the names of sets that count the same packets begin with.
// fam is nil for those of any address.
func accountSets(proto uint8, fam *family, wide bool) string {
	name := "acct_"
	if wide {
		name = "accts_"
	}
	name += protoName(proto)
	if fam == nil {
		return name + "_any"
	}
	return name + fam.digit
}

// accountsOf makes the elements that count what belongs to r.
func (c *compiler) accountsOf(r *route) {
	for n := range r.doors {
		d := &r.doors[n]
		switch {
		case d.group == byIface: // known by its addresses
		case d.group == byAny:
			c.accountElements(r, d, nil)
		case r.takes(familyOf(d.addr)):
			c.accountElements(r, d, familyOf(d.addr))
		}
	}
}

func (c *compiler) accountElements(r *route, d *door, fam *family) {
	for _, proto := range protos(r.f.At.Net) {
		for _, ports := range d.all(proto, r.f.At.Ports) {
			like := nft.Set{Key: []nft.Type{nft.InetService}, Counted: true, Interval: ports.First < ports.Last}
			key := []nft.Range{portRange(ports)}
			if fam != nil {
				like.Key = []nft.Type{fam.typ, nft.InetService}
				key = []nft.Range{nft.One(nft.Addr(d.addr)), portRange(ports)}
			}
			a := c.counters(proto, fam, like.Interval)
			c.accounts[accountOf(a.name, key)] = r.i
			for what := range tallies {
				if what == turned && !r.special {
					continue
				}
				if a.sets[what] == nil {
					a.sets[what] = c.set(a.name+ends[what], like)
				}
				put(a.sets[what], nft.Element{Key: key, Comment: r.f.Name})
			}
		}
	}
}

// counters are the sets that count the same packets, as far as they were made.
type counters struct {
	name string // what theirs begin with
	sets [tallies]*nft.Set
}

// A countersKey tells counters apart.
type countersKey struct {
	proto uint8
	fam   *family
	wide  bool
}

func (c *compiler) counters(proto uint8, fam *family, wide bool) *counters {
	id := countersKey{proto, fam, wide}
	a := c.counting[id]
	if a == nil {
		a = &counters{name: accountSets(proto, fam, wide)}
		c.counting[id] = a
	}
	return a
}

// accountRules makes the rules that count: a packet has its address's account,
// or that of any address.
func (c *compiler) accountRules() {
	for what := range tallies {
		for _, proto := range []uint8{protoTCP, protoUDP} {
			for _, fam := range []*family{ipv4, ipv6, nil} {
				for _, wide := range []bool{false, true} {
					name := accountSets(proto, fam, wide) + ends[what]
					if !c.has(name) {
						continue
					}
					keys := []nft.Key{nft.CtOrigDport}
					if fam != nil {
						keys = []nft.Key{fam.origDaddr, nft.CtOrigDport}
					}
					c.rule(chainAccount+ends[what], nft.Is{Key: nft.L4Proto, Values: []nft.Range{nft.One(nft.Byte(proto))}},
						nft.In{Keys: keys, Set: name}, nft.Verdict{Do: "return"})
				}
			}
		}
	}
	if c.chainNamed[chainAccount+ends[in]] == nil {
		return
	}
	for _, way := range []struct {
		direction byte
		what      tally
	}{{0, in}, {1, out}} {
		c.rule(chainAccount, nft.Is{Key: nft.CtDirection, Values: []nft.Range{nft.One(nft.Byte(way.direction))}}, nft.Goto(chainAccount+ends[way.what]))
	}
	// What a program on this host sends to itself passes both ways out and in,
	// and is counted on its way out.
	fromOutside := nft.Is{Key: nft.IIFName, Values: ifnames([]string{"lo"}), Not: true}
	c.hook(chainIn, nft.Hook{Type: "filter", Hook: "input", Priority: nft.Filter})
	c.rule(chainIn, fromOutside, translated, nft.Jump(chainAccount))
	c.hook(chainSent, nft.Hook{Type: "filter", Hook: "output", Priority: nft.Filter})
	c.rule(chainSent, translated, nft.Jump(chainAccount))
	// Chains of translation see a connection's first packet alone. It leaves this
	// host, or it has landed. That counts before the source is rewritten.
	c.rule(chainSource, nft.Jump(chainAccount+ends[flows]))
	c.hook(chainLanded, nft.Hook{Type: "nat", Hook: "input", Priority: nft.SrcNAT})
	c.rule(chainLanded, fromOutside, translated, nft.Jump(chainAccount+ends[flows]))
}
