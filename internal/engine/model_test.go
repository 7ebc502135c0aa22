package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

// A naive is the table as one would write it on paper: every question is
// answered by looking at everything.
type naive struct {
	entries []*entry
	clock   int
}

type entry struct {
	owner       fairlead.Owner
	name        string
	kind        fairlead.Kind
	host        string // "", "*" or an address
	port        uint16
	last        uint16
	life        time.Duration
	off         bool
	claimed     int
	made, lease time.Time
	fromFile    bool
	dead        bool
}

func (e *entry) reads(o *entry) bool {
	return e.kind == o.kind && e.spot() == o.spot() && e.life == o.life && e.off == o.off
}

func (e *entry) spot() string { return fmt.Sprint(e.host, " ", e.port, " ", e.last) }

func (e *entry) end() time.Time {
	end := e.lease
	if e.life > 0 && (end.IsZero() || e.made.Add(e.life).Before(end)) {
		end = e.made.Add(e.life)
	}
	return end
}

func (n *naive) find(owner fairlead.Owner, name string) int {
	return slices.IndexFunc(n.entries, func(e *entry) bool { return e.owner == owner && e.name == name })
}

func (n *naive) expire() {
	n.entries = slices.DeleteFunc(n.entries, func(e *entry) bool {
		if end := e.end(); !end.IsZero() && !time.Now().Before(end) {
			e.dead = true
		}
		return e.dead && !e.fromFile
	})
}

func (n *naive) put(x entry, ttl time.Duration) {
	x.made, x.lease = time.Now(), time.Time{}
	if ttl > 0 {
		x.lease = time.Now().Add(ttl)
	}
	n.clock++
	x.claimed = n.clock
	i := n.find(x.owner, x.name)
	if i < 0 {
		n.entries = append(n.entries, &x)
		return
	}
	old := n.entries[i]
	if old.reads(&x) {
		x.made, x.dead = old.made, old.dead
	}
	if old.spot() == x.spot() && !(old.dead && !x.dead) {
		x.claimed = old.claimed
	}
	n.entries[i] = &x
}

func (n *naive) replace(want []entry) {
	at := slices.IndexFunc(n.entries, func(e *entry) bool { return e.owner == file })
	var mine []*entry
	for _, x := range want {
		n.put(x, 0)
		mine = append(mine, n.entries[n.find(file, x.name)])
	}
	if at < 0 {
		at = len(n.entries) - len(want)
	}
	n.entries = slices.DeleteFunc(n.entries, func(e *entry) bool { return e.owner == file })
	n.entries = slices.Insert(n.entries, at, mine...)
}

func (n *naive) drop(owner fairlead.Owner, name string) {
	n.entries = slices.DeleteFunc(n.entries, func(e *entry) bool {
		return e.owner == owner && (name == "" || e.name == name)
	})
}

func (e *entry) live() bool { return !e.dead && !e.off && e.kind == fairlead.KindForward }

func (e *entry) before(o *entry) bool {
	if (e.owner == file) != (o.owner == file) {
		return e.owner == file
	}
	return e.claimed < o.claimed
}

func (e *entry) meets(o *entry) bool {
	if e.port > o.last || o.port > e.last {
		return false
	}
	return e.host == o.host || e.host == "*" || o.host == "*" ||
		e.host == "" && o.host == "127.0.0.1" || o.host == "" && e.host == "127.0.0.1"
}

// wins: nobody who wins and stands before e wants the same.
func (n *naive) wins(e *entry) bool {
	for _, o := range n.entries {
		if o != e && o.live() && o.before(e) && o.meets(e) && n.wins(o) {
			return false
		}
	}
	return true
}

func (n *naive) status() (all, carried string) {
	var lines, carry []string
	for _, e := range n.entries {
		if e.dead {
			continue
		}
		state := "listening"
		switch {
		case e.off:
			state = "disabled"
		case e.kind != fairlead.KindForward:
			state = "broken FL-310"
		case !n.wins(e):
			state = "broken FL-303"
		default:
			carry = append(carry, e.name)
		}
		text := e.owner.String() + "/" + e.name + " " + state
		if end := e.end(); !end.IsZero() {
			text += end.Format(" until 15:04:05")
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, "\n"), strings.Join(carry, " ")
}

func (e *entry) forward() *fairlead.Forward {
	f := fwd(e.owner, e.name, e.port)
	f.Kind, f.Disabled, f.Policy.For = e.kind, e.off, e.life
	f.At.Any, f.At.Ports[0].Last = e.host == "*", e.last
	if e.host == "127.0.0.1" {
		f.At.Addr = loopback4
	}
	return f
}

func TestRandomOperationsAgainstANaiveTable(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { compare(t, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func compare(t *testing.T, r *rand.Rand) {
	m := &memory{name: "relay", fits: func(f *fairlead.Forward) error {
		if f.Kind != fairlead.KindForward {
			return fairlead.Problemf(fairlead.CodeCannotCarry, "not this kind")
		}
		return nil
	}}
	e := run(t, Config{Carriers: []fairlead.Carrier{m}})
	n := &naive{}
	pick := func(owner fairlead.Owner, name string) entry {
		x := entry{owner: owner, name: name, kind: fairlead.KindForward, fromFile: owner == file}
		x.host = []string{"", "*", "127.0.0.1"}[r.IntN(3)]
		x.port = uint16(1 + r.IntN(4))
		x.last = x.port
		if r.IntN(4) == 0 {
			x.last = x.port + uint16(r.IntN(100)) // sometimes more than manyPorts
		}
		if r.IntN(6) == 0 {
			x.life = time.Duration(1+r.IntN(3)) * time.Minute
		}
		x.off = r.IntN(8) == 0
		if r.IntN(8) == 0 {
			x.kind = fairlead.KindNAT
		}
		return x
	}
	owners := []fairlead.Owner{lanA, lanB, {Kind: "trigger"}}
	var lately []entry
	for step := range 150 {
		var op string
		switch k := r.IntN(10); {
		case k < 4:
			x := pick(owners[r.IntN(3)], fmt.Sprint("n", r.IntN(3)))
			if len(lately) > 0 && r.IntN(3) == 0 {
				x = lately[r.IntN(len(lately))] // the same words again
			}
			lately = append(lately, x)
			ttl := time.Duration(r.IntN(3)) * 90 * time.Second
			op = fmt.Sprintf("ask %s/%s %s life %v off %v for %v", x.owner, x.name, x.spot(), x.life, x.off, ttl)
			n.put(x, ttl)
			ask(t, e, x.forward(), ttl)
		case k < 5:
			owner, name := owners[r.IntN(3)], []string{"", "n0", "n1", "n2"}[r.IntN(4)]
			op = fmt.Sprintf("drop %s/%s", owner, name)
			n.drop(owner, name)
			_ = e.Drop(ctx, owner, name) // an error when there is none
		case k < 8:
			var want []entry
			for _, i := range r.Perm(4)[:r.IntN(5)] {
				name := fmt.Sprint("f", i)
				x := pick(file, name)
				if old := n.find(file, name); old >= 0 && r.IntN(3) > 0 {
					x = *n.entries[old]
					x.dead = false
				}
				want = append(want, x)
			}
			op = fmt.Sprintf("replace by %d", len(want))
			n.replace(want)
			var fs []*fairlead.Forward
			for _, x := range want {
				fs = append(fs, x.forward())
			}
			replace(t, e, fs...)
		default:
			d := time.Duration(r.IntN(120)) * time.Second
			op = fmt.Sprintf("%v pass", d)
			time.Sleep(d)
			n.expire()
			synctest.Wait()
		}
		var lines []string
		for _, s := range e.Status() {
			text := s.Forward.Owner.String() + "/" + line(s)
			if !s.Forward.Expires.IsZero() {
				text += s.Forward.Expires.Format(" until 15:04:05")
			}
			lines = append(lines, text)
		}
		wantAll, wantCarried := n.status()
		if got := strings.Join(lines, "\n"); got != wantAll {
			t.Fatalf("step %d, %s:\n%s\nwant:\n%s", step, op, got, wantAll)
		}
		if got := sorted(m.carried()); got != sorted(wantCarried) { // another order alone is no reason to apply
			t.Fatalf("step %d, %s: carried %q, want %q", step, op, got, wantCarried)
		}
	}
}

func sorted(words string) string {
	w := strings.Fields(words)
	slices.Sort(w)
	return strings.Join(w, " ")
}
