package relay

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// newRate is a bucket of so many new connections a second: as many at once
// after a silence, and no more than that within any second that begins with
// one. It is nil for 0, which is no limit. One that has the rate already goes
// on.
func newRate(perSecond int, was *bucket) *bucket {
	if perSecond == 0 {
		return nil
	}
	if was != nil && was.rate == float64(perSecond) {
		return was
	}
	b := &bucket{rate: float64(perSecond)}
	b.burst = time.Second - b.cost(1)
	return b
}

// Bounds on what sources can make the relay remember of them.
const (
	ratesSources = 1 << 20         // in each generation: some 40 MiB
	ratesPeriod  = 2 * time.Second // after which every bucket is full again
)

// A sourceRates is a bucket for each source that came lately. A bucket that
// was not used for ratesPeriod is as good as new, so that two generations are
// kept and the older one is thrown away as a whole. When more sources come
// within a generation than are remembered, those that are too many wait for the
// next one: nobody gets around the limit by being many. It has no lock of its
// own.
type sourceRates struct {
	bucket       // rate and burst of each
	seed         maphash.Seed
	epoch, began time.Time                // of the first generation and of this one
	now, before  map[uint64]time.Duration // when all of a source is paid for, since epoch
}

func newSourceRates(perSecond int, was *sourceRates) *sourceRates {
	if perSecond == 0 {
		return nil
	}
	if was != nil && was.rate == float64(perSecond) {
		return was
	}
	return &sourceRates{bucket: *newRate(perSecond, nil), seed: maphash.MakeSeed()}
}

// open is how long a source has to wait, 0 or less for not at all.
func (s *sourceRates) open(source netip.Addr, now time.Time) time.Duration {
	s.turn(now)
	b, known := s.find(source)
	if !known && len(s.now) >= ratesSources {
		return s.began.Add(ratesPeriod).Sub(now)
	}
	return b.open(now)
}

// pay counts one connection of a source.
func (s *sourceRates) pay(source netip.Addr, now time.Time) {
	b, _ := s.find(source)
	b.open(now)
	b.pay(1)
	s.now[s.key(source)] = b.due.Sub(s.epoch)
}

// key is a source as the maps have it: half as large as an address, and not
// to be guessed by who wants to share another's bucket.
func (s *sourceRates) key(source netip.Addr) uint64 { return maphash.Comparable(s.seed, source) }

func (s *sourceRates) find(source netip.Addr) (b bucket, known bool) {
	k := s.key(source)
	due, known := s.now[k]
	if !known {
		var old bool
		if due, old = s.before[k]; !old {
			due = -time.Hour // long ago
		}
	}
	b = s.bucket
	b.due = s.epoch.Add(due)
	return b, known
}

// turn begins another generation when it is time.
func (s *sourceRates) turn(now time.Time) {
	switch age := now.Sub(s.began); {
	case s.now == nil || age >= 2*ratesPeriod:
		s.epoch, s.began = now, now
		s.now, s.before = map[uint64]time.Duration{}, nil
	case age >= ratesPeriod:
		s.began = s.began.Add(ratesPeriod)
		s.now, s.before = map[uint64]time.Duration{}, s.now
	}
}
