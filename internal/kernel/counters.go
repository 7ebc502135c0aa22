package kernel

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// counting is when and what the kernel's elements were last read.
type counting struct {
	mu    sync.Mutex // guards the rest, and is held while the kernel is asked
	when  time.Time
	spent time.Duration
}

// Figures may be that old, since a status may be asked for by several at a time,
// and older where there are very many: reading them takes a hundredth of the time
// at most, but they are never older than the latest.
const (
	countEvery  = 250 * time.Millisecond
	countShare  = 100
	countLatest = 10 * time.Second
)

// recount reads the counters of what is carried into the meters, unless that was
// done a moment ago, or cost too much to be done again yet; now does it in any
// case.
func (k *Kernel) recount(now bool) {
	k.counting.mu.Lock()
	defer k.counting.mu.Unlock()
	begun := time.Now()
	if !now && begun.Sub(k.counting.when) < max(countEvery, min(countShare*k.counting.spent, countLatest)) {
		return
	}
	k.countInto(nil)
	k.counting.when = time.Now()
	k.counting.spent = k.counting.when.Sub(begun)
}

// recountChanged reads the counters of those forwards whose sentence is another
// one in want: what went by until now is no sign of how the new one does.
func (k *Kernel) recountChanged(want []*fairlead.Forward) {
	changed := k.reworded(want)
	if len(changed) == 0 {
		return
	}
	k.counting.mu.Lock()
	defer k.counting.mu.Unlock()
	k.countInto(changed)
}

// countInto reads the counters of all that is carried, or only of those
// forwards, into the meters. The counting's lock is held.
func (k *Kernel) countInto(only map[*fairlead.Forward]bool) {
	list, p := *k.carried.Load(), k.counted.Load()
	if len(list) == 0 || p == nil {
		return
	}
	var parts []bool
	if only != nil {
		parts = make([]bool, len(p.parts))
		for i := range p.parts {
			parts[i] = only[p.parts[i].f]
		}
	}
	sums := make([]sum, len(p.parts))
	if k.inside(func() error { return sumUp(p, sums, parts) }) != nil {
		return // the table is being repaired, or gone; meters stay as they were
	}
	for i, c := range list {
		if i < len(sums) && c.part.f == p.parts[i].f && (parts == nil || parts[i]) {
			c.tally.grow(&sums[i])
		}
	}
}

// A sum is what a forward's elements counted together.
type sum [tallies]nft.Count

// sumUp adds up what the kernel's elements have counted, for each part or only
// for some.
func sumUp(p *plan, sums []sum, only []bool) error {
	conn, err := nft.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	few := p.elementsOf(only)
	for i := range p.table.Sets {
		s := &p.table.Sets[i]
		what, ok := tallyOf(s.Name)
		if !ok || !s.Counted {
			continue
		}
		base := strings.TrimSuffix(s.Name, ends[what])
		var elements []nft.Element
		switch {
		case only != nil && len(few[base]) == 0:
			continue
		case only != nil && !s.Interval:
			elements, err = countsOf(conn, p.table.Family, p.table.Name, s, few[base])
		default:
			var now *nft.Set
			if now, err = conn.ReadSet(p.table.Family, p.table.Name, s.Name); err == nil {
				elements = now.Elements
			}
		}
		if err != nil {
			return err
		}
		for _, e := range elements {
			if j, ok := p.accounts[accountOf(base, e.Key)]; ok && (only == nil || only[j]) {
				sums[j][what].Packets += e.Count.Packets
				sums[j][what].Bytes += e.Count.Bytes
			}
		}
	}
	return nil
}

// elementsOf are the elements that count for some parts, by what the names of
// their sets begin with; of ranges the first values alone.
func (p *plan) elementsOf(only []bool) map[string][]nft.Element {
	if only == nil {
		return nil
	}
	few := map[string][]nft.Element{}
	for a, i := range p.accounts {
		if only[i] {
			few[a.set] = append(few[a.set], nft.Element{Key: a.key()})
		}
	}
	return few
}

// A running is what a forward counted while this process carried it, on top of
// what its elements had counted before. It outlives changes of its sentence.
type running struct {
	meter fairlead.Meter
	last  sum // guarded by the counting's lock
}

// grow adds what was counted since the last time. Elements that are gone take
// their counts with them, which takes nothing from the meter.
func (r *running) grow(now *sum) {
	for what, to := range [tallies]*atomic.Int64{flows: &r.meter.Flows, turned: &r.meter.Refused} {
		if to != nil && now[what].Packets > r.last[what].Packets {
			to.Add(int64(now[what].Packets - r.last[what].Packets))
		}
	}
	for what, to := range [tallies]*atomic.Int64{in: &r.meter.In, out: &r.meter.Out} {
		if to != nil && now[what].Bytes > r.last[what].Bytes {
			to.Add(int64(now[what].Bytes - r.last[what].Bytes))
		}
	}
	r.last = *now
}
