package nft

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fairlead/internal/lab"
)

// small is a table with one map of ports.
func small(name string, ports ...uint16) *Table {
	s := Set{Name: "ports", Key: []Type{InetService}, Data: []Type{IPv4Addr}, Timed: true}
	for _, p := range ports {
		s.Elements = append(s.Elements, Element{Key: []Range{One(Port(p))}, Data: []Value{Number(0x0a000001)}})
	}
	return &Table{Family: Inet, Name: name, Sets: []Set{s}}
}

func TestTheKernelsErrorsNameWhatFailed(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	loaded := small("t", 1, 2, 3)
	loaded.Chains = []Chain{{Name: "used"}, {Name: "user", Rules: []Rule{{Exprs: []Expr{Jump("used")}}}},
		{Name: "in", Hook: &Hook{Type: "filter", Hook: "input"}, Rules: []Rule{{Exprs: []Expr{Jump("user")}}}}}
	if err := c.Replace(loaded); err != nil {
		t.Fatal(err)
	}
	element := func(port uint16, to uint32) Element {
		return Element{Key: []Range{One(Port(port))}, Data: []Value{Number(to)}}
	}
	change := func(f func(*Change)) func() error {
		ch := Change{Family: Inet, Table: "t"}
		f(&ch)
		return func() error { return c.Change(ch) }
	}
	for name, x := range map[string]struct {
		do    func() error
		words string
		is    error
	}{
		"an element that is there": {change(func(ch *Change) {
			ch.Add = []Elements{{"ports", []Element{element(7, 1), element(2, 99), element(8, 1)}}}
		}), "add to map ports the element 2 : 0.0.0.99: ", os.ErrExist},
		"a set that is not there": {change(func(ch *Change) {
			ch.Add = []Elements{{"other", []Element{element(7, 1)}}}
		}), "look at set other: ", unix.ENOENT},
		"a chain that is called": {change(func(ch *Change) { ch.DropChains = []string{"used"} }), "remove chain used: it is in use", unix.EBUSY},
		"a chain that is not there": {change(func(ch *Change) {
			ch.Refill = []Chain{{Name: "user", Rules: []Rule{{Exprs: []Expr{Jump("nowhere")}}}}}
		}), "add to chain user the rule jump nowhere: ", unix.ENOENT},
		"a circle": {change(func(ch *Change) {
			ch.Refill = []Chain{{Name: "used", Rules: []Rule{{Exprs: []Expr{Jump("user")}}}}}
		}), "call each other", unix.EMLINK},
		"a table that is not there": {func() error {
			return c.Change(Change{Family: Inet, Table: "u", DropSets: []string{"s"}})
		}, "change table inet u: remove set s: ", unix.ENOENT},
		"a hook that is not there": {func() error {
			return c.Replace(&Table{Family: Inet, Name: "t", Chains: []Chain{{Name: "c", Hook: &Hook{Type: "nat", Hook: "forward"}}}})
		}, "add chain c: ", unix.EOPNOTSUPP},
	} {
		err := x.do()
		if err == nil || !errors.Is(err, x.is) || !strings.Contains(err.Error(), x.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := c.Read(Inet, "t")
	if err != nil {
		t.Fatal(err)
	}
	if inOrder(got) != inOrder(loaded) {
		t.Errorf("refused changes left\n%s", got.Text())
	}
}

func TestTheElementAtFaultIsNamedInALargeList(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	ports := make([]uint16, 0, 40_000)
	for p := range uint16(40_000) {
		ports = append(ports, p)
	}
	table := small("t", ports...)
	table.Sets[0].Elements = append(table.Sets[0].Elements, Element{Key: []Range{One(Port(33_333))}, Data: []Value{Number(5)}})
	err := c.Replace(table)
	if want := "the element 33333 : 0.0.0.5"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, and not %q", err, want)
	}
	// What was left of the answers is no answer to the next question.
	if err := c.Replace(small("t", ports...)); err != nil {
		t.Error(err)
	}
	set, err := c.ReadSet(Inet, "t", "ports")
	if err != nil || len(set.Elements) != len(ports) {
		t.Errorf("%d elements, %v", len(set.Elements), err)
	}
}

func TestManyErrorsAreOne(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	if err := c.Replace(small("t")); err != nil {
		t.Fatal(err)
	}
	ch := Change{Family: Inet, Table: "t"}
	for range 50_000 {
		ch.DropChains = append(ch.DropChains, "none")
	}
	err := c.Change(ch)
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "flush chain none") || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("%v", err)
	}
	if err := c.Replace(small("t", 1)); err != nil {
		t.Error(err)
	}
}

func TestWhatDoesNotFitIsRefusedBeforeTheKernelIsAsked(t *testing.T) {
	key := []Range{One(Port(1))}
	set := func(s Set) *Table { s.Name = "s"; return &Table{Family: Inet, Name: "t", Sets: []Set{s}} }
	rule := func(e ...Expr) *Table {
		return &Table{Family: Inet, Name: "t", Chains: []Chain{{Name: "c", Rules: []Rule{{Exprs: e}}}}}
	}
	for words, table := range map[string]*Table{
		"are not written":              {Family: Bridge, Name: "t"},
		"has no name":                  {Family: Inet},
		`chain fwd: that is a word`:    {Family: Inet, Name: "t", Chains: []Chain{{Name: "fwd"}}},
		`"a b": a name is of`:          {Family: Inet, Name: "a b"},
		"no type that can be":          set(Set{Key: []Type{OtherType}}),
		"one to five":                  set(Set{}),
		"has 2 components, not 1":      set(Set{Key: []Type{InetService}, Elements: []Element{{Key: []Range{{}, {}}}}}),
		"has 1 bytes, not 2":           set(Set{Key: []Type{InetService}, Elements: []Element{{Key: []Range{One(Byte(1))}}}}),
		"it is a range":                set(Set{Key: []Type{InetService}, Elements: []Element{{Key: []Range{{Port(1), Port(2)}}}}}),
		"before it begins":             set(Set{Key: []Type{InetService}, Interval: true, Elements: []Element{{Key: []Range{{Port(2), Port(1)}}}}}),
		"it has a timeout":             set(Set{Key: []Type{InetService}, Elements: []Element{{Key: key, Timeout: 1}}}),
		"the set does not count":       set(Set{Key: []Type{InetService}, Elements: []Element{{Key: key, Count: Count{1, 1}}}}),
		"leads to 1 components, not 0": set(Set{Key: []Type{InetService}, Elements: []Element{{Key: key, Data: []Value{Port(1)}}}}),
		"verdicts belong":              set(Set{Key: []Type{InetService}, Elements: []Element{{Key: key, Verdict: Drop}}}),
		"no more than 127 bytes":       set(Set{Key: []Type{InetService}, Elements: []Element{{Key: key, Comment: strings.Repeat("x", 128)}}}),
		"compares with no value":       rule(Is{Key: L4Proto}),
		"chooses among nothing":        rule(DNAT{Family: IPv4, Choose: &Choose{}}),
		"there is no set none":         rule(In{Keys: []Key{Mark}, Set: "none"}),
		"nothing of ip6":               rule(Is{Key: IPSaddr, Values: []Range{One(Addr(ip4))}}, Is{Key: IP6Saddr, Values: []Range{One(Addr(ip6))}}),
		"nothing of icmp":              rule(Is{Key: L4Proto, Values: []Range{One(Byte(6))}}, Is{Key: ICMPType, Values: []Range{One(Byte(8))}}),
		"has no bits":                  rule(Has{Key: IPSaddr, Mask: 1}),
		`no verdict "stay"`:            rule(Verdict{Do: "stay"}),
		"is no address of ip":          rule(SNAT{Family: IPv4, Addr: ip6}),
		"cannot be loaded":             rule(Unknown{Name: "x"}),
		"cannot be looked at":          rule(Is{Key: NFTrace, Values: []Range{One(Number(1))}}),
		"ip saddr cannot be set":       rule(SetKey{Key: IPSaddr}),
		"no limit is":                  rule(Limit{Rate: 1, Per: time.Millisecond}),
		`no reject with "a sigh"`:      rule(Reject{With: "a sigh"}),
		`cannot be made to "mend"`:     rule(Update{Op: "mend", Set: "s"}),
		"cannot hold accept":           rule(Update{Op: "add", Set: "s", Keys: []Key{Mark}, With: []Expr{Accept}}),
	} {
		b := newBatch(table.Family, table.Name)
		err := table.check()
		if err == nil {
			err = b.contents(table)
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", words, err)
		}
	}
}

func TestATableWithAnOwnerGoesWithIt(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.NewNet(t).Host("one")
	owner, other := opened(t, h), opened(t, h)
	owned := small("t", 1)
	owned.Owned = true
	if err := owner.Replace(owned); err != nil {
		t.Fatal(err)
	}
	if err := owner.Replace(owned); err != nil {
		t.Errorf("the owner replaces it: %v", err)
	}
	if err := owner.Change(Change{Family: Inet, Table: "t", DropSets: []string{"ports"}}); err != nil {
		t.Errorf("the owner changes it: %v", err)
	}
	for name, err := range map[string]error{
		"replace": other.Replace(small("t", 2)),
		"change":  other.Change(Change{Family: Inet, Table: "t", AddChains: []Chain{{Name: "c"}}}),
		"delete":  other.Delete(Inet, "t"),
	} {
		if !errors.Is(err, ErrOwned) {
			t.Errorf("somebody else may %s it: %v", name, err)
		}
	}
	list, err := other.Tables()
	if err != nil || len(list) != 1 || list[0].Owner != owner.ID() || owner.ID() == 0 {
		t.Errorf("tables %v, %v; the owner is %d", list, err, owner.ID())
	}
	owner.Close()
	// The kernel ends it from the closing socket's own work, a moment later.
	for end := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		if list, err := other.Tables(); err != nil || len(list) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the table is there without its owner")
		}
	}
}

func TestATableThatIsNotThereIsDeleted(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	for range 2 {
		if err := c.Delete(Inet, "none"); err != nil {
			t.Error(err)
		}
	}
	if list, err := c.Tables(); err != nil || len(list) != 0 {
		t.Errorf("left are %v, %v", list, err)
	}
}

func TestWithoutTheRightItSaysSo(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.NewNet(t).Host("one")
	var replaced, read, opening error
	err := h.Do(func() error {
		// The right is this thread's alone; the thread ends with its goroutine.
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			done <- func() error {
				head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
				var data [2]unix.CapUserData
				if err := unix.Capget(&head, &data[0]); err != nil {
					return err
				}
				data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
				if err := unix.Capset(&head, &data[0]); err != nil {
					return err
				}
				var c *Conn
				if c, opening = Open(); opening != nil {
					return nil
				}
				defer c.Close()
				replaced = c.Replace(small("t", 1))
				_, read = c.Tables()
				return nil
			}()
		}()
		return <-done
	})
	if err != nil {
		t.Fatal(err)
	}
	if opening != nil {
		t.Errorf("it does not open: %v", opening)
	}
	for _, err := range []error{replaced, read} {
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("without the right: %v", err)
		}
	}
}

func TestATimeoutCanBeChanged(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	timeouts := func() (list []time.Duration) {
		set, err := c.ReadSet(Inet, "t", "ports")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range set.Elements {
			list = append(list, e.Timeout)
		}
		return list
	}
	before := small("t", 1)
	if err := c.Replace(before); err != nil {
		t.Fatal(err)
	}
	for _, timeout := range []time.Duration{time.Hour, 30 * time.Second, 0, time.Minute} {
		for _, whole := range []bool{false, true} {
			after := small("t", 1)
			after.Sets[0].Elements[0].Timeout = timeout
			var err error
			if ch, ok := Diff(before, after); whole {
				err = c.Replace(after)
			} else if !ok {
				t.Fatal("no change does it")
			} else {
				err = c.Change(ch)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := timeouts(); len(got) != 1 || got[0] != timeout {
				t.Errorf("timeouts %v, wanted %v (whole table %v)", got, timeout, whole)
			}
			before = after
		}
	}
}

func TestElementsThatEndedByThemselvesAreNoError(t *testing.T) {
	lab.NeedRoot(t)
	for _, plain := range []bool{false, true} {
		c := opened(t, lab.NewNet(t).Host("one"))
		c.own.plain = plain
		old := small("t", 1, 2)
		old.Sets[0].Elements[0].Timeout = time.Millisecond
		if err := c.Replace(old); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); ; {
			set, err := c.ReadSet(Inet, "t", "ports")
			if err != nil {
				t.Fatal(err)
			}
			if len(set.Elements) == 1 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the element is still there")
			}
		}
		ch, _ := Diff(old, small("t", 2, 3))
		if err := c.Change(ch); err != nil {
			t.Errorf("plain %v: %v", plain, err)
		}
		set, err := c.ReadSet(Inet, "t", "ports")
		if err != nil || len(set.Elements) != 2 {
			t.Errorf("plain %v: %v, %v", plain, set, err)
		}
	}
}

func TestAnElementKeepsWhatIsLeftOfItsTime(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	table := small("t", 1)
	e := &table.Sets[0].Elements[0]
	e.Timeout, e.Expires = time.Hour, time.Minute
	if err := c.Replace(table); err != nil {
		t.Fatal(err)
	}
	set, err := c.ReadSet(Inet, "t", "ports")
	if err != nil {
		t.Fatal(err)
	}
	if e := set.Elements[0]; e.Timeout != time.Hour || e.Expires > time.Minute || e.Expires < 30*time.Second {
		t.Errorf("timeout %v, left %v", e.Timeout, e.Expires)
	}
}

func TestManyMaySpeakAtOnce(t *testing.T) {
	lab.NeedRoot(t)
	c := opened(t, lab.NewNet(t).Host("one"))
	var wg sync.WaitGroup
	for i := range uint16(8) {
		wg.Go(func() {
			name := fmt.Sprint("t", i)
			for range 20 {
				if err := c.Replace(small(name, i, i+100)); err != nil {
					t.Error(err)
				}
				if set, err := c.ReadSet(Inet, name, "ports"); err != nil || len(set.Elements) != 2 {
					t.Errorf("%v, %v", set, err)
				}
			}
		})
	}
	wg.Wait()
}
