package kernel

import (
	"sync"
	"sync/atomic"
	"time"

	"fairlead"
	"fairlead/internal/sys/nft"
)

// counting is when and what the kernel's elements were last read.
type counting struct {
	mu   sync.Mutex // guards the rest, and is held while the kernel is asked
	when time.Time
}

// countEvery is how old figures may be: reading ten thousand elements takes some
// milliseconds, and a status may be asked for by several at a time.
const countEvery = 250 * time.Millisecond

// recount reads the counters of what is carried into the meters, unless that was
// done a moment ago; now does it in any case.
func (k *Kernel) recount(now bool) {
	list := *k.carried.Load()
	if len(list) == 0 {
		return
	}
	k.counting.mu.Lock()
	defer k.counting.mu.Unlock()
	if !now && time.Since(k.counting.when) < countEvery {
		return
	}
	k.counting.when = time.Now()
	p := k.counted.Load()
	if p == nil {
		return
	}
	sums := make([]sum, len(p.parts))
	err := k.inside(func() error { return k.sumUp(p, sums) })
	if err != nil {
		return // the table is being repaired, or gone; meters stay as they were
	}
	for i, c := range list {
		if i < len(sums) && c.part.f == p.parts[i].f {
			c.tally.grow(&sums[i])
		}
	}
}

// A sum is what a forward's elements counted together.
type sum [tallies]nft.Count

// sumUp adds up what the kernel's elements have counted, for each part.
func (k *Kernel) sumUp(p *plan, sums []sum) error {
	conn, err := nft.Open()
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := range p.table.Sets {
		name := p.table.Sets[i].Name
		what, ok := tallyOf(name)
		if !ok || !p.table.Sets[i].Counted {
			continue
		}
		s, err := conn.ReadSet(p.table.Family, p.table.Name, name)
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		for _, e := range s.Elements {
			if j, ok := p.account(name, e); ok {
				sums[j][what].Packets += e.Count.Packets
				sums[j][what].Bytes += e.Count.Bytes
			}
		}
	}
	return nil
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
