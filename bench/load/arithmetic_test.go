package load

import "testing"

func TestRanks(t *testing.T) {
	hundred := make([]uint32, 100)
	for i := range hundred {
		hundred[i] = uint32(i+1) * 1000 // nanoseconds
	}
	for _, c := range []struct {
		times []uint32
		p     float64
		want  float64 // microseconds
	}{
		{nil, 0.5, 0},
		{[]uint32{7000}, 0.999, 7},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 0.999, 100},
	} {
		if got := rank(c.times, c.p); got != c.want {
			t.Errorf("the %v-quantile of %d times is %v µs, want %v", c.p, len(c.times), got, c.want)
		}
	}
}

func TestTrainsAreCountedByTheirDatagrams(t *testing.T) {
	for _, c := range []struct {
		size, segment int
		want          int64
	}{{64, 0, 1}, {1200, 1200, 1}, {1200, 1400, 1}, {60000, 1200, 50}, {60001, 1200, 51}} {
		if got := trainLength(c.size, c.segment); got != c.want {
			t.Errorf("%d bytes in segments of %d are %d datagrams, want %d", c.size, c.segment, got, c.want)
		}
	}
}
