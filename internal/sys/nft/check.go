package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrOwned is what a change of a table matches that belongs to another process
// (see Table.Owned).
var ErrOwned = errors.New("the table belongs to another process, which alone may change it")

// Bounds of linux/netfilter/nf_tables.h and of nft's own userdata.
const (
	longestName    = 255
	longestComment = 127
)

// check refuses what could not be said correctly in messages or in text.
func (t *Table) check() error {
	if err := checkFamily(t.Family); err != nil {
		return err
	}
	if err := checkName("table", t.Name); err != nil {
		return err
	}
	for i := range t.Helpers {
		if err := checkName("helper", t.Helpers[i].Name); err != nil {
			return err
		}
	}
	for i := range t.Sets {
		if err := t.Sets[i].check(); err != nil {
			return err
		}
	}
	for i := range t.Chains {
		if err := t.Chains[i].check(); err != nil {
			return err
		}
	}
	return nil
}

// check is that of a table, as far as a change shows it.
func (ch *Change) check() error {
	return (&Table{Family: ch.Family, Name: ch.Table, Helpers: ch.AddHelpers, Sets: ch.AddSets, Chains: slices.Concat(ch.AddChains, ch.Refill)}).check()
}

func checkFamily(f Family) error {
	switch f {
	case Inet, IPv4, IPv6:
		return nil
	}
	return fmt.Errorf("tables of family %s are not written", f)
}

// checkName refuses names that nft could not read back from its own listing.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("a %s has no name", what)
	}
	if len(name) > longestName {
		return fmt.Errorf("%s %s: a name has no more than %d bytes", what, name, longestName)
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == '.':
		case i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '/'):
		default:
			return fmt.Errorf("%s %q: a name is of letters, digits, and _ . - / after the first", what, name)
		}
	}
	if slices.Contains(reserved, name) {
		return fmt.Errorf("%s %s: that is a word of nft's", what, name)
	}
	return nil
}

// reserved are the words that nft 1.0.6 does not take as the name of a chain or
// a set, found by trying. The kernel does, but what nft lists then cannot be
// loaded again.
var reserved = strings.Fields(`
	accept add ah all and arp auto-merge bridge chain comment comp constant continue counter cpu create
	ct day dccp define delete describe device devices dnat drop dst dup dynamic ecn element elements eq
	esp ether exists expires export exthdr fib flags flow flush frag fwd gc-interval ge goto gt handle
	hbh hook hour ibriport ibrname icmp icmpv6 igmp iif iifgroup iifname iiftype import include index
	inet insert interval ip ip6 ipsec jhash jump le limit list log lshift lt map mark masquerade meta
	meter mh missing monitor ne netdev nftrace not notrack numgen obriport obrname oif oifgroup oifname
	oiftype or osf policy position priority queue quota random redefine redirect reject rename replace
	reset return rshift rt rt0 rt2 rtclassid rule ruleset sctp secmark set size skgid snat socket srh
	symhash synproxy table tcp th timeout tproxy type typeof udp udplite undefine vlan vmap xor xt`)

func (c *Chain) check() error {
	if err := checkName("chain", c.Name); err != nil {
		return err
	}
	for i := range c.Rules {
		if err := c.Rules[i].check(); err != nil {
			return fmt.Errorf("chain %s, rule %d (%s): %w", c.Name, i+1, c.Rules[i].Text(), err)
		}
	}
	return nil
}

func (r *Rule) check() error {
	if err := checkComment(r.Comment); err != nil {
		return err
	}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case Is:
			if len(e.Values) == 0 {
				return errors.New("it compares with no value")
			}
			for _, v := range e.Values {
				if err := checkRange(e.Key.kind(), v); err != nil {
					return err
				}
			}
		case DNAT:
			if err := e.check(); err != nil {
				return err
			}
		case Log:
			if len(e.Prefix) > longestComment {
				return fmt.Errorf("the prefix of a log has no more than %d bytes", longestComment)
			}
		}
	}
	return nil
}

func (e *DNAT) check() error {
	c := e.Choose
	if c == nil {
		return nil
	}
	if len(c.Elements) == 0 {
		return errors.New("it chooses among nothing")
	}
	if e.Family != IPv4 && e.Family != IPv6 {
		return errors.New("a choice is among addresses of IPv4 or of IPv6")
	}
	data := c.dataKinds(e.Family)
	for i := range c.Elements {
		if err := checkElement([]kind{c.kind()}, data, true, &c.Elements[i]); err != nil {
			return err
		}
		if e := &c.Elements[i]; e.Timeout != 0 || e.Verdict.Do != "" || e.Count != (Count{}) {
			return errors.New("a choice leads to addresses, and nothing else")
		}
	}
	return nil
}

func checkComment(s string) error {
	if len(s) > longestComment {
		return fmt.Errorf("a comment has no more than %d bytes: %q", longestComment, s)
	}
	return nil
}

func (s *Set) check() error {
	if err := checkName(s.word(), s.Name); err != nil {
		return err
	}
	for _, list := range [][]Type{s.Key, s.Data} {
		for _, t := range list {
			if !t.known() {
				return fmt.Errorf("%s %s: %s is no type that can be loaded", s.word(), s.Name, t)
			}
		}
	}
	switch {
	case len(s.Key) == 0 || len(s.Key) > 5 || len(s.Data) > 5:
		return fmt.Errorf("%s %s: a key has one to five components", s.word(), s.Name)
	case s.Verdicts && len(s.Data) > 0:
		return fmt.Errorf("map %s: it leads to verdicts or to data, not to both", s.Name)
	}
	return s.checkElements(s.Elements)
}

// checkElements refuses elements that do not fit the set.
func (s *Set) checkElements(elements []Element) error {
	key, data := kindsOf(s.Key), kindsOf(s.Data)
	for i := range elements {
		e := &elements[i]
		err := checkElement(key, data, s.Interval, e)
		if err == nil {
			err = s.checkExtras(e)
		}
		if err != nil {
			return fmt.Errorf("%s %s, element %s: %w", s.word(), s.Name, s.elementText(e), err)
		}
	}
	return nil
}

func (s *Set) checkExtras(e *Element) error {
	switch {
	case e.Timeout > 0 && !s.Timed && s.Timeout == 0:
		return errors.New("it has a timeout, and the set's elements have none")
	case s.Verdicts != (e.Verdict.Do != ""):
		return errors.New("verdicts belong into a map of verdicts, and nothing else does")
	case e.Count != (Count{}) && !s.Counted:
		return errors.New("it has a count, and the set does not count")
	}
	return nil
}

func checkElement(key, data []kind, ranges bool, e *Element) error {
	if len(e.Key) != len(key) {
		return fmt.Errorf("its key has %d components, not %d", len(e.Key), len(key))
	}
	for i, r := range e.Key {
		if err := checkRange(key[i], r); err != nil {
			return err
		}
		if !ranges && !r.one() {
			return errors.New("it is a range, and the set has single values")
		}
	}
	if len(e.Data) != len(data) {
		return fmt.Errorf("it leads to %d components, not %d", len(e.Data), len(data))
	}
	for i, v := range e.Data {
		if len(v) != data[i].size() {
			return fmt.Errorf("it leads to a value of %d bytes, not %d", len(v), data[i].size())
		}
	}
	return checkComment(e.Comment)
}

func checkRange(k kind, r Range) error {
	for _, v := range []Value{r.First, r.last()} {
		if len(v) != k.size() {
			return fmt.Errorf("%s has %d bytes, not %d", valueText(k, v), len(v), k.size())
		}
	}
	if r.last() < r.First {
		return fmt.Errorf("%s ends before it begins", rangeText(k, r, false))
	}
	return nil
}
