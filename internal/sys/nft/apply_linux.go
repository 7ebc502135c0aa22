package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"
	"syscall"

	"golang.org/x/sys/unix"
)

func (c conn) replace(t *Table) error {
	if err := t.check(); err != nil {
		return fmt.Errorf("load table %s %s: %w", t.Family, t.Name, err)
	}
	err := c.transact(t.Family, t.Name, func(b *batch) error {
		b.freshTable(t.Owned)
		return b.contents(t)
	})
	if err != nil {
		return fmt.Errorf("load table %s %s: %w", t.Family, t.Name, err)
	}
	return nil
}

// contents adds what a table holds, in an order in which each thing finds what
// it names.
func (b *batch) contents(t *Table) error {
	for i := range t.Chains {
		if err := b.chain(&t.Chains[i]); err != nil {
			return err
		}
	}
	for i := range t.Helpers {
		b.helper(&t.Helpers[i])
	}
	for i := range t.Sets {
		b.set(&t.Sets[i])
	}
	for i := range t.Chains {
		if err := b.rules(&t.Chains[i]); err != nil {
			return err
		}
	}
	return nil
}

// set adds a set with its elements.
func (b *batch) set(s *Set) {
	f := s.form()
	id := b.addSet(&f)
	b.shapes[s.Name] = shapeOf(s)
	b.elements(s, &f, id, s.Elements, false, true)
}

func (c conn) change(ch Change) error {
	if ch.Empty() {
		return nil
	}
	err := ch.check()
	if err == nil {
		err = c.transact(ch.Family, ch.Table, func(b *batch) error { return c.changes(b, &ch) })
	}
	if err != nil {
		return fmt.Errorf("change table %s %s: %w", ch.Family, ch.Table, err)
	}
	return nil
}

// changes writes a change: what is new first, then what uses it, and last what
// nothing uses any more.
func (c conn) changes(b *batch, ch *Change) error {
	forms, err := c.forms(ch)
	if err != nil {
		return err
	}
	for name, s := range forms {
		b.shapes[name] = shapeOf(s)
	}
	for i := range ch.AddChains {
		if err := b.chain(&ch.AddChains[i]); err != nil {
			return err
		}
	}
	for i := range ch.AddHelpers {
		b.helper(&ch.AddHelpers[i])
	}
	for i := range ch.Refill {
		b.flushChain(ch.Refill[i].Name)
	}
	for _, name := range ch.DropChains {
		b.flushChain(name)
	}
	for _, e := range ch.Drop {
		f := forms[e.Set].form()
		if b.plain && forms[e.Set].Timed {
			// What has ended by itself cannot be deleted. Adding what is there
			// already changes nothing.
			b.elements(forms[e.Set], &f, 0, e.Elements, false, false)
		}
		b.elements(forms[e.Set], &f, 0, e.Elements, true, false)
	}
	for i := range ch.AddSets {
		b.set(&ch.AddSets[i])
	}
	for _, e := range ch.Add {
		f := forms[e.Set].form()
		b.elements(forms[e.Set], &f, 0, e.Elements, false, false)
	}
	for _, chains := range [][]Chain{ch.AddChains, ch.Refill} {
		for i := range chains {
			if err := b.rules(&chains[i]); err != nil {
				return err
			}
		}
	}
	for _, name := range ch.DropSets {
		b.dropSet(name)
	}
	for _, name := range ch.DropChains {
		b.dropChain(name)
	}
	for _, name := range ch.DropHelpers {
		b.dropHelper(name)
	}
	return nil
}

// forms are the sets of a change that are there already, without their
// elements, as the kernel has them.
func (c conn) forms(ch *Change) (map[string]*Set, error) {
	fresh := map[string]bool{}
	for i := range ch.AddSets {
		fresh[ch.AddSets[i].Name] = true
	}
	forms := map[string]*Set{}
	need := func(name string) error {
		if fresh[name] || forms[name] != nil {
			return nil
		}
		s, err := c.form(ch.Family, ch.Table, name)
		if err != nil {
			return fmt.Errorf("look at set %s: %w", name, err)
		}
		forms[name] = s
		return nil
	}
	for _, lists := range [][]Elements{ch.Drop, ch.Add} {
		for _, e := range lists {
			if err := need(e.Set); err != nil {
				return nil, err
			}
			if err := forms[e.Set].checkElements(e.Elements); err != nil {
				return nil, err
			}
		}
	}
	for _, chains := range [][]Chain{ch.AddChains, ch.Refill} {
		for _, chain := range chains {
			for _, r := range chain.Rules {
				for _, name := range r.sets() {
					if err := need(name); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	return forms, nil
}

// sets are the named sets whose form a rule has to know.
func (r *Rule) sets() (names []string) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case In:
			names = append(names, e.Set)
		case VMap:
			names = append(names, e.Map)
		case DNAT:
			if e.Map != "" {
				names = append(names, e.Map)
			}
		}
	}
	return names
}

// form is a set of the kernel's without its elements.
func (c conn) form(f Family, table, name string) (*Set, error) {
	b := &batch{}
	b.text(unix.NFTA_SET_TABLE, table)
	b.text(unix.NFTA_SET_NAME, name)
	var s *Set
	err := c.socket.askHeld(unix.NFT_MSG_GETSET, 0, f, b.b, func(r reply) error {
		s = decodeSet(f, r.attrs).set
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errors.New("nf_tables did not answer")
	}
	return s, nil
}

func (c conn) delete(f Family, name string) error {
	err := c.transact(f, name, func(b *batch) error {
		b.emptyTable()
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete table %s %s: %w", f, name, err)
	}
	return nil
}

// transact has the kernel do what write writes, all of it or nothing.
func (c conn) transact(f Family, table string, write func(*batch) error) error {
	s := c.socket
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.transactHeld(f, table, write)
	if r, ok := errors.AsType[*refusal](err); ok && r.step.destroys && r.errno == unix.EINVAL && !s.plain {
		s.plain = true // this kernel does not know that message
		err = s.transactHeld(f, table, write)
	}
	return err
}

func (s *socket) transactHeld(f Family, table string, write func(*batch) error) error {
	b := newBatch(f, table)
	b.plain = s.plain
	if err := write(b); err != nil {
		return err
	}
	msgs, err := b.finish()
	if err != nil {
		return err
	}
	first := s.seq + 1
	s.seq += uint32(len(b.steps))
	b.number(first)
	if err := s.send(msgs); err != nil {
		return err
	}
	return s.outcome(b, first)
}

// number gives the messages their numbers, from first on.
func (b *batch) number(first uint32) {
	n := first
	for at := 0; at < len(b.b); n++ {
		binary.NativeEndian.PutUint32(b.b[at+8:], n)
		at += int(binary.NativeEndian.Uint32(b.b[at:])+3) &^ 3
	}
}

// outcome reads what the kernel says to a batch. Errors come in the order of
// the messages; only the last message is answered when it went well.
func (s *socket) outcome(b *batch, first uint32) error {
	var failed error
	more, answered := 0, false
	lost, err := s.receive(func(h *unix.NlMsghdr, body []byte) bool {
		i := int(int32(h.Seq - first))
		if h.Type != unix.NLMSG_ERROR || len(body) < 4 || i < 0 || i >= len(b.steps) {
			return false
		}
		answered = true
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(body)))
		if errno == 0 {
			return false
		}
		if failed != nil {
			more++
			return false
		}
		failed = b.failure(i, errno, extended(h, body))
		return false
	})
	switch {
	case err != nil:
		return err
	case failed != nil && more > 0:
		return fmt.Errorf("%w (and %d more)", failed, more)
	case failed != nil:
		return failed
	case !answered && lost:
		return errors.New("the kernel's answer was lost: what it did is not known")
	case !answered:
		return errors.New("nf_tables did not answer")
	}
	return nil
}

// failure is the error that message i of the batch met.
func (b *batch) failure(i int, errno syscall.Errno, x extra) error {
	if i == 0 {
		switch errno {
		case unix.EPERM:
			return errNoRight
		case unix.EOPNOTSUPP, unix.EINVAL:
			return errNoTables
		}
		return &refusal{"all of it together", errno, &b.steps[0]}
	}
	st := &b.steps[i]
	doing := st.doing
	if st.set != nil && x.offset > 0 {
		// The offset is that of the element at fault.
		if n := sort.SearchInts(st.at, x.offset+1); n > 0 {
			doing += " the element " + st.set.elementText(&st.elements[n-1])
		}
	}
	if errno == unix.EPERM {
		return fmt.Errorf("%s: %w", doing, ErrOwned)
	}
	if x.text != "" {
		doing += ": " + x.text
	}
	return &refusal{doing, errno, st}
}

// A refusal is an error of the kernel's in words that fit.
type refusal struct {
	doing string
	errno syscall.Errno
	step  *step
}

func (r *refusal) Error() string {
	words := r.errno.Error()
	switch r.errno {
	case unix.ENOENT:
		words = "there is none, or it names something that is not there"
	case unix.EEXIST:
		words = "there is one already, of another form"
	case unix.EBUSY:
		words = "it is in use"
	case unix.EOPNOTSUPP:
		words = "this kernel cannot do that"
	case unix.EMLINK:
		words = "chains call each other too deeply, or in a circle"
	case unix.ENFILE:
		words = "the set is full"
	case unix.EAFNOSUPPORT:
		words = "this kernel does not have that family"
	}
	return r.doing + ": " + words
}

func (r *refusal) Unwrap() error { return r.errno }

// extra is what the kernel adds to an error.
type extra struct {
	offset int    // of the attribute at fault, from the message's begin; 0 unknown
	text   string // in the kernel's words
}

// extended reads what follows an error (netlink(7), NETLINK_EXT_ACK).
func extended(h *unix.NlMsghdr, body []byte) (x extra) {
	if h.Flags&unix.NLM_F_ACK_TLVS == 0 || len(body) < 4+unix.SizeofNlMsghdr {
		return extra{}
	}
	at := 4 + unix.SizeofNlMsghdr
	if h.Flags&unix.NLM_F_CAPPED == 0 {
		at = 4 + int(min(binary.NativeEndian.Uint32(body[4:]), 1<<30)+3)&^3
	}
	for at+4 <= len(body) {
		n, kind := int(binary.NativeEndian.Uint16(body[at:])), binary.NativeEndian.Uint16(body[at+2:])
		if n < 4 || at+n > len(body) {
			break
		}
		v := body[at+4 : at+n]
		switch {
		case kind == unix.NLMSGERR_ATTR_OFFS && len(v) == 4:
			x.offset = int(min(binary.NativeEndian.Uint32(v), 1<<30))
		case kind == unix.NLMSGERR_ATTR_MSG && len(v) > 0:
			x.text = string(v[:len(v)-1])
		}
		at += (n + 3) &^ 3
	}
	return x
}
