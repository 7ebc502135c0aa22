package nft

import "context"

// A Conn speaks to the nftables of the network namespace in which it was
// opened. Its methods may be called concurrently. Tables that are Owned vanish
// when it is closed.
type Conn struct {
	own conn
}

// Open opens a connection. Without CAP_NET_ADMIN it opens, and what it is
// asked then fails with an error that matches [os.ErrPermission]; where the
// kernel has no nf_tables the error matches [errors.ErrUnsupported].
func Open() (*Conn, error) {
	c, err := open()
	if err != nil {
		return nil, err
	}
	return &Conn{own: c}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.own.close() }

// Replace loads t in place of the table of its name, if there is one, in one
// transaction: packets see the old table or the new one, and connections that
// are translated stay so. The error names what the kernel refused, and nothing
// is changed then; it matches [ErrOwned] when the table that is there belongs to
// another process.
func (c *Conn) Replace(t *Table) error { return c.own.replace(t) }

// A Change is what makes one version of a table into another.
type Change struct {
	Family Family
	Table  string

	AddSets    []Set   // with their elements
	AddChains  []Chain // with their rules
	Refill     []Chain // chains that get other rules
	AddHelpers []Helper
	Drop       []Elements
	Add        []Elements
	DropChains []string
	DropSets   []string

	DropHelpers []string
}

// Elements are some of one set.
type Elements struct {
	Set      string
	Elements []Element
}

// Diff is the change that makes old into t, which have the same family and
// name. ok is false where that takes a Replace: another hook of a chain, another
// type of a set. What was counted and what is left of a timeout are no difference. The
// elements of a set that is Dynamic are added to and never dropped: rules made
// them.
func Diff(old, t *Table) (ch Change, ok bool) { return diff(old, t) }

// Empty reports whether the change does nothing.
func (c *Change) Empty() bool {
	return len(c.AddSets)+len(c.AddChains)+len(c.Refill)+len(c.AddHelpers)+len(c.Drop)+len(c.Add)+len(c.DropChains)+len(c.DropSets) == 0
}

// Change changes a table in one transaction; see Replace for errors. What is to
// be added must not be there already with other data, and what is dropped need
// not be there any more: its time may have ended.
func (c *Conn) Change(ch Change) error { return c.own.change(ch) }

// Delete removes a table; one that is not there is no error.
func (c *Conn) Delete(f Family, name string) error { return c.own.delete(f, name) }

// Read is the table as the kernel has it, nil when there is none: its sets with
// all elements, what is left of their time and what they counted, and its chains
// with as many rules as there are. Rules are read as far as they are understood:
// an expression that is not known is an Unknown.
func (c *Conn) Read(f Family, name string) (*Table, error) { return c.own.read(f, name) }

// ReadSet is a set with its elements.
func (c *Conn) ReadSet(f Family, table, set string) (*Set, error) {
	return c.own.readSet(f, table, set)
}

// Counts is what these elements of a set have counted, in their order; s says
// what the set is, and its own elements do not matter. An element that is not
// there has counted nothing. It costs what these cost, however many others there
// are. A set of ranges does not tell single elements: that is an error.
func (c *Conn) Counts(f Family, table string, s *Set, elements []Element) ([]Count, error) {
	return c.own.counts(f, table, s, elements)
}

// ReadAll is all tables, with their owners, read at one moment. Of a set with
// more than most elements none are read (it is Partial); most 0 reads all.
func (c *Conn) ReadAll(most int) ([]*Table, error) { return c.own.readAll(most) }

// RuleText is one rule in nft(8)'s words as far as they go; what has no words is
// named in brackets. It is for people, not to be loaded.
func (c *Conn) RuleText(f Family, table, chain string, handle uint64) (string, error) {
	return c.own.ruleText(f, table, chain, handle)
}

// A Listed is a table that somebody loaded.
type Listed struct {
	Family Family
	Name   string
	Owner  uint32 // netlink port of its owner; 0: none
}

// Tables are all tables there are.
func (c *Conn) Tables() ([]Listed, error) { return c.own.tables() }

// ID is this connection's netlink port, by which its own changes are known
// among those that Watch tells of.
func (c *Conn) ID() uint32 { return c.own.id() }

// A Notice says that a table was changed.
type Notice struct {
	Family Family
	Table  string
	By     uint32 // netlink port of who did it
	PID    int    // its process, 0 when the kernel does not say
	Name   string // the process's name
	Lost   bool   // notices were lost: anything may have changed
}

// Watch calls told for each transaction and table until ctx ends; told runs on
// Watch's own goroutine. It calls ready once it listens. The kernel says nothing
// of a table that goes with its owner, of elements that end with their time, and
// of those that rules add.
func Watch(ctx context.Context, ready func(), told func(Notice)) error {
	return watch(ctx, ready, told)
}
