package kernel

import (
	"net/netip"
	"slices"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// A world is what compile has to know of this host and what is around it.
// compile asks nobody else: the same wishes in the same world are the same
// table.
type world struct {
	table    string
	owned    bool
	wan, lan []string
	addrs    map[string][]netip.Prefix // of each interface, by name
	resolved map[string][]netip.Addr   // of the names of targets, as far as known; the first of each family is used
	listens  []Listener                // of this process: a share's guard lets them be reached
	held     []Listener                // of other programs on this host, as far as known: a guard says whom it shuts off
	claims   map[netip.Addr]error      // of those that forwards claim, how they stand; nil: it is ours
	lent     map[netip.Addr]bool       // addresses of this host that it has by a claim
	guarded  []string                  // interfaces that a guard of ours stands before until now
	now      time.Time                 // for what expires
}

// A part is what one forward became.
type part struct {
	f       *fairlead.Forward
	problem *fairlead.Problem // a warning when the forward is carried all the same
	bound   []string          // "203.0.113.1:80/tcp"
	targets []netip.AddrPort  // the first port's, of each target and family
	entries []entry
	memory  *memory // a trigger's
}

// An entry is one listening port, or range of them, and what it leads to, as
// counters and connections are told apart by it.
type entry struct {
	proto uint8
	at    netip.Addr // what clients ask for; invalid: any address of this host
	ports fairlead.Ports
}

// A plan is a table, and what of it belongs to whom.
type plan struct {
	table *nft.Table
	parts []part // one for each forward, in their order
	world *world // in which it was made

	accounts map[account]int // index into parts
}

// compile says which table carries exactly want in w. A forward that cannot be
// carried has a part with a problem, and nothing in the table.
func compile(want []*fairlead.Forward, w *world) *plan {
	c := &compiler{
		w: w, want: want, parts: make([]part, len(want)),
		setNamed: map[string]*nft.Set{}, chainNamed: map[string]*nft.Chain{},
		names: map[string]bool{}, taken: map[spot][]span{}, accounts: map[account]int{},
		traits: map[traitAt]*known{}, counting: map[countersKey]*counters{},
	}
	for i, f := range want {
		c.parts[i].f = f
	}
	c.hooks()
	c.translate()
	c.gateway()
	c.redirects()
	c.hiding()
	c.helping()
	return c.plan()
}

// The base chains. Their names are hooks' names where one chain hangs there:
// nft(8) has words of its own for most shorter ones.
const (
	chainPre     = "prerouting"  // nat
	chainOut     = "output"      // nat
	chainPost    = "postrouting" // nat
	chainIn      = "input"       // filter
	chainForward = "forward"     // filter
	chainSent    = "sent"        // filter output
	chainLanded  = "landed"      // nat input
)

// hooks makes the base chains. The nat chains and the rule with a ct status
// are there whatever is forwarded: without them the kernel unhooks address
// translation, and connections break that were set up by forwards since gone.
func (c *compiler) hooks() {
	c.hook(chainPre, nft.Hook{Type: "nat", Hook: "prerouting", Priority: nft.DstNAT})
	c.hook(chainOut, nft.Hook{Type: "nat", Hook: "output", Priority: nft.DstNAT})
	c.hook(chainPost, nft.Hook{Type: "nat", Hook: "postrouting", Priority: nft.SrcNAT})
	c.hook(chainForward, nft.Hook{Type: "filter", Hook: "forward", Priority: nft.Filter})
	c.chain(chainAccount)
	c.rule(chainForward, translated, nft.Jump(chainAccount))
	c.chain(chainSource)
	c.rule(chainPost, translated, nft.Jump(chainSource))
}

// translated matches packets of connections whose destination was rewritten.
var translated = nft.Has{Key: nft.CtStatus, Mask: nft.StatusDNAT}

// A compiler is a table in the making. Sets and chains are made when they are
// first asked for, so that the table has only those that are used.
type compiler struct {
	w     *world
	want  []*fairlead.Forward
	parts []part // of want, by index

	sets       []*nft.Set
	setNamed   map[string]*nft.Set
	chains     []*nft.Chain
	chainNamed map[string]*nft.Chain
	helpers    []nft.Helper

	names    map[string]bool // bases of the forwards' own chains
	taken    map[spot][]span // ports of each spot, ascending
	accounts map[account]int
	traits   map[traitAt]*known
	counting map[countersKey]*counters

	triggered []*trigger
}

// set is the set of that name, made like one.
func (c *compiler) set(name string, like nft.Set) *nft.Set {
	s := c.setNamed[name]
	if s == nil {
		s = &like
		s.Name = name
		c.sets = append(c.sets, s)
		c.setNamed[name] = s
	}
	return s
}

// put adds an element to a set that may become large.
func put(s *nft.Set, e nft.Element) {
	if n := len(s.Elements); n == cap(s.Elements) {
		s.Elements = slices.Grow(s.Elements, max(4, n)) // append grows by a quarter only
	}
	s.Elements = append(s.Elements, e)
}

// has reports whether a set was made.
func (c *compiler) has(name string) bool { return c.setNamed[name] != nil }

// hook makes a base chain, unless it is there.
func (c *compiler) hook(name string, h nft.Hook) *nft.Chain {
	ch := c.chain(name)
	ch.Hook = &h
	return ch
}

// chain is the chain of that name.
func (c *compiler) chain(name string) *nft.Chain {
	ch := c.chainNamed[name]
	if ch == nil {
		ch = &nft.Chain{Name: name}
		c.chains = append(c.chains, ch)
		c.chainNamed[name] = ch
	}
	return ch
}

// rule appends a rule to a chain.
func (c *compiler) rule(chain string, exprs ...nft.Expr) {
	ch := c.chain(chain)
	ch.Rules = append(ch.Rules, nft.Rule{Exprs: exprs})
}

// fail says that want[i] is not carried. The first reason stays.
func (c *compiler) fail(i int, p *fairlead.Problem) {
	if was := c.parts[i].problem; was == nil || was.Warning {
		c.parts[i].problem = p
	}
}

// warn notes what is only half of a success, unless there is worse.
func (c *compiler) warn(i int, p *fairlead.Problem) {
	if c.parts[i].problem == nil {
		p.Warning = true
		c.parts[i].problem = p
	}
}

// failed reports whether want[i] is not carried.
func (c *compiler) failed(i int) bool {
	p := c.parts[i].problem
	return p != nil && !p.Warning
}

// plan is what was made. Chains without a hook stand before those that have
// one, and after those that they are led to from: nft(8) reads either order.
func (c *compiler) plan() *plan {
	t := &nft.Table{Family: nft.Inet, Name: c.w.table, Owned: c.w.owned, Helpers: c.helpers}
	t.Sets = make([]nft.Set, len(c.sets))
	for i, s := range c.sets {
		t.Sets[i] = *s
	}
	slices.SortStableFunc(c.chains, func(a, b *nft.Chain) int { return hooked(b) - hooked(a) })
	t.Chains = make([]nft.Chain, len(c.chains))
	for i, ch := range c.chains {
		t.Chains[i] = *ch
	}
	return &plan{table: t, parts: c.parts, accounts: c.accounts}
}

func hooked(ch *nft.Chain) int {
	if ch.Hook != nil {
		return 1
	}
	return 0
}
