package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// reads is how often a rule set is read that changes meanwhile.
const reads = 12

// again calls f until nothing changed while it read, and waits a little longer
// each time: who changes a firewall changes much of it at once.
func again(f func() error) (err error) {
	pause := time.Millisecond
	for range reads {
		if err = f(); !errors.Is(err, errInterrupted) {
			return err
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
	return err
}

// steady calls f and says errInterrupted when the rule set was another one after it
// than before it. A part that is gone is the same.
func (s *socket) steady(f func() error) error {
	before, err := s.generation()
	if err != nil {
		return err
	}
	failed := f()
	after, err := s.generation()
	if err != nil {
		return err
	}
	if before != after {
		return errInterrupted
	}
	return failed
}

// generation is the number of the rule set, which each transaction raises.
func (s *socket) generation() (id uint32, err error) {
	err = s.ask(unix.NFT_MSG_GETGEN, 0, 0, nil, func(r reply) error {
		a := attributes(r.attrs)
		id = a.u32(unix.NFTA_GEN_ID)
		return nil
	})
	return id, err
}

// list asks for a list and calls f for each of it; the bytes are f's until it
// returns.
func (s *socket) list(kind uint8, family Family, attrs []byte, f func(family Family, body []byte)) error {
	return s.ask(kind, unix.NLM_F_DUMP, family, attrs, func(r reply) error {
		f(r.family, r.attrs)
		return nil
	})
}

func (c conn) tables() (list []Listed, err error) {
	err = again(func() error {
		list = nil
		return c.socket.tables(func(t Listed) { list = append(list, t) })
	})
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	return list, nil
}

func (s *socket) tables(f func(Listed)) error {
	return s.list(unix.NFT_MSG_GETTABLE, 0, nil, func(family Family, body []byte) {
		f(decodeTable(family, body))
	})
}

func (c conn) read(f Family, name string) (t *Table, err error) {
	var tables []*Table
	err = again(func() error {
		return c.socket.steady(func() (err error) {
			tables, err = c.socket.ruleset(&placed{f, name}, 0)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read table %s %s: %w", f, name, err)
	}
	if len(tables) == 0 {
		return nil, nil
	}
	return tables[0], nil
}

func (c conn) readAll(most int) (tables []*Table, err error) {
	err = again(func() error {
		return c.socket.steady(func() (err error) {
			tables, err = c.socket.ruleset(nil, most)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the tables of nftables: %w", err)
	}
	return tables, nil
}

func (c conn) readSet(f Family, table, name string) (set *Set, err error) {
	err = again(func() error {
		return c.socket.steady(func() error {
			var l *layout
			err := c.socket.sets(&placed{f, table}, func(found *layout) {
				if found.set.Name == name {
					l = found
				}
			})
			switch {
			case err != nil:
				return err
			case l == nil:
				return fmt.Errorf("no set of that name: %w", unix.ENOENT)
			}
			if err := c.socket.elements(l, 0); err != nil {
				return err
			}
			done := l.done()
			set = &done
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read set %s of table %s %s: %w", name, f, table, err)
	}
	return set, nil
}

func (c conn) counts(f Family, table string, s *Set, elements []Element) ([]Count, error) {
	form := s.form()
	if form.ranges() {
		return nil, fmt.Errorf("read elements of set %s of table %s %s: it has ranges", s.Name, f, table)
	}
	if err := s.checkElements(elements); err != nil {
		return nil, err
	}
	counts := make([]Count, len(elements))
	b := &batch{}
	for i := range elements {
		b.b = b.b[:0]
		b.text(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		b.text(unix.NFTA_SET_ELEM_LIST_SET, s.Name)
		list := b.open(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		b.element(&form, &elements[i], true)
		b.close(list)
		err := c.socket.ask(unix.NFT_MSG_GETSETELEM, 0, f, b.b, func(r reply) error {
			a := attributes(r.attrs)
			each(a[unix.NFTA_SET_ELEM_LIST_ELEMENTS], func(_ int, e []byte) {
				a := attributes(e)
				counts[i] = countOf(&a)
			})
			return nil
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("read an element of set %s of table %s %s: %w", s.Name, f, table, err)
		}
	}
	return counts, nil
}

func (c conn) ruleText(f Family, table, chain string, handle uint64) (string, error) {
	var tables []*Table
	err := again(func() error {
		return c.socket.steady(func() (err error) {
			tables, err = c.socket.ruleset(&placed{f, table}, mostListed)
			return err
		})
	})
	if err != nil {
		return "", fmt.Errorf("read rule %d of chain %s in table %s %s: %w", handle, chain, f, table, err)
	}
	for _, t := range tables {
		for _, c := range t.Chains {
			for i := range c.Rules {
				if c.Name == chain && c.Rules[i].Handle == handle {
					return c.Rules[i].Words(), nil
				}
			}
		}
	}
	return "", fmt.Errorf("no rule %d in chain %s of table %s %s: %w", handle, chain, f, table, unix.ENOENT)
}

// mostListed bounds the sets that are read for the text of a rule.
const mostListed = 256

// ruleset reads one table, or all when only is nil; none where it is not there.
// Of a set with more than most elements (0: no bound) none are kept.
func (s *socket) ruleset(only *placed, most int) ([]*Table, error) {
	var order []*Table
	tables := map[placed]*Table{}
	err := s.tables(func(l Listed) {
		at := placed{l.Family, l.Name}
		if only == nil || at == *only {
			t := &Table{Family: l.Family, Name: l.Name, Owned: l.Owner != 0, Owner: l.Owner}
			order, tables[at] = append(order, t), t
		}
	})
	if err != nil || len(order) == 0 {
		return nil, err
	}
	var family Family // of which the lists are
	if only != nil {
		family = only.family
	}

	var sets []*layout
	err = s.sets(only, func(l *layout) {
		if tables[l.at] != nil {
			sets = append(sets, l)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, l := range sets {
		if err := s.elements(l, most); err != nil {
			return nil, err
		}
		t := tables[l.at]
		if l.anonymous {
			t.Anonymous = append(t.Anonymous, l.done())
		} else {
			t.Sets = append(t.Sets, l.done())
		}
	}

	err = s.list(unix.NFT_MSG_GETOBJ, family, nil, func(f Family, body []byte) {
		if at, h, ok := decodeHelper(f, body); ok && tables[at] != nil {
			tables[at].Helpers = append(tables[at].Helpers, h)
		}
	})
	if err != nil {
		return nil, err
	}

	type chainAt struct {
		placed
		chain string
	}
	chains := map[chainAt]int{}
	err = s.list(unix.NFT_MSG_GETCHAIN, family, nil, func(f Family, body []byte) {
		at, c := decodeChain(f, body)
		if t := tables[at]; t != nil {
			chains[chainAt{at, c.Name}] = len(t.Chains)
			t.Chains = append(t.Chains, c)
		}
	})
	if err != nil {
		return nil, err
	}
	var narrow []byte
	if only != nil {
		narrow = appendString(nil, unix.NFTA_RULE_TABLE, only.table)
	}
	err = s.list(unix.NFT_MSG_GETRULE, family, narrow, func(f Family, body []byte) {
		at, name, rule := decodeRule(f, body)
		if n, ok := chains[chainAt{at, name}]; ok {
			c := &tables[at].Chains[n]
			c.Rules = append(c.Rules, rule)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, t := range order {
		t.understand()
	}
	return order, nil
}

// sets calls f for each set of a table, or of all.
func (s *socket) sets(only *placed, f func(*layout)) error {
	var family Family
	var narrow []byte
	if only != nil {
		family, narrow = only.family, appendString(nil, unix.NFTA_SET_TABLE, only.table)
	}
	return s.list(unix.NFT_MSG_GETSET, family, narrow, func(f2 Family, body []byte) {
		f(decodeSet(f2, body))
	})
}

// elements reads those of a set; where there are more than most it keeps none.
func (s *socket) elements(l *layout, most int) error {
	narrow := appendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, l.at.table)
	narrow = appendString(narrow, unix.NFTA_SET_ELEM_LIST_SET, l.set.Name)
	n, parts := 0, 0
	err := s.list(unix.NFT_MSG_GETSETELEM, l.at.family, narrow, func(_ Family, body []byte) {
		parts++
		if l.set.Partial {
			return
		}
		if n += l.add(body); most > 0 && n > most {
			l.set.Elements, l.half, l.set.Partial = nil, nil, true
		}
	})
	if err != nil || parts < 2 {
		return err
	}
	// The kernel lists a hash in parts and goes on by the number of elements that
	// it has listed. While the hash grows, which it does by and by after a large
	// transaction, their order changes: some come twice, and then others not at
	// all. What rules add meanwhile has the same effect, and never ends.
	if twice := l.dropRepeated(); twice && !l.set.Dynamic {
		return errInterrupted
	}
	return nil
}

// appendString adds an attribute that is a string.
func appendString(b []byte, kind uint16, s string) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(s)+1))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(append(b, s...), 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}
