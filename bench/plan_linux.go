package main

import (
	"fmt"
	"time"

	"fairlead/bench/load"
	"fairlead/bench/peers"
	"fairlead/bench/town"
)

// A cell is one kind of traffic; it is measured with each of its targets once
// in each round.
type cell struct {
	name    string
	says    string
	work    string
	order   load.Order // without To
	figure  figure
	targets []string // names, in the order of the table
}

// A figure says what a cell counts, and in which units it is told.
type figure struct {
	rate, cpu string // units
	count     func(c load.Counters) float64
	rateIn    float64 // what of count per second is one unit of rate
	cpuPer    float64 // what of count is one unit that CPU is told for
	cpuIn     time.Duration
	latency   bool
	loss      bool
}

var (
	gigabits = figure{rate: "Gbit/s", cpu: "CPU s/GiB", rateIn: 1e9 / 8, cpuPer: 1 << 30, cpuIn: time.Second,
		count: func(c load.Counters) float64 { return float64(c.Bytes) }}
	requests = figure{rate: "requests/s", cpu: "CPU µs each", rateIn: 1, cpuPer: 1, cpuIn: time.Microsecond, latency: true,
		count: func(c load.Counters) float64 { return float64(c.Ops) }}
	connects = figure{rate: "connections/s", cpu: "CPU µs each", rateIn: 1, cpuPer: 1, cpuIn: time.Microsecond, latency: true,
		count: func(c load.Counters) float64 { return float64(c.Ops) }}
	packets = figure{rate: "packets/s", cpu: "CPU µs each", rateIn: 1, cpuPer: 1, cpuIn: time.Microsecond, loss: true,
		count: func(c load.Counters) float64 { return float64(c.Packets) }}
	trains = figure{rate: "Gbit/s", cpu: "CPU s/GiB", rateIn: 1e9 / 8, cpuPer: 1 << 30, cpuIn: time.Second, loss: true,
		count: func(c load.Counters) float64 { return float64(c.Payload) }}
)

// Targets that are not peers.
const (
	nobody     = "/nobody" // behind a name: the same, run by an ordinary user
	many       = peers.Fairlead + "/10000"
	auto       = peers.Fairlead + "/auto" // with congestion auto
	overUDP    = "/udp"                   // behind a name: the same, for datagrams
	nobodyUser = 65534
)

const warm = 250 * time.Millisecond

// plan is the cells that the command line asks for.
func plan(o option) []cell {
	var cells []cell
	add := func(c cell, targets ...string) {
		c.targets = targets
		c.order.Warm = warm
		cells = append(cells, c)
	}
	tcp := []string{peers.Direct, peers.Fairlead}
	udp := []string{peers.Direct + overUDP, peers.Fairlead + overUDP}
	unprivileged := []string{peers.Direct, peers.Fairlead + nobody}
	for _, p := range o.peers {
		tcp = append(tcp, p.Name)
		if p.UDP {
			udp = append(udp, p.Name+overUDP)
		}
		unprivileged = append(unprivileged, p.Name+nobody)
	}
	full := !o.quick
	if o.works["bulk"] {
		for _, n := range []int{1, 8, 16, 64, 128} {
			if full || n == 8 || n == 64 {
				add(bulk(n), tcp...)
			}
		}
		c := bulk(128)
		c.name, c.says = c.name+"-nobody", c.says+", forwarder run by an ordinary user"
		if full {
			add(c, unprivileged...)
		}
	}
	if o.works["rr"] {
		for _, n := range []int{1, 256} {
			for _, size := range []int{64, 16384} {
				if full || n != 1 || size == 64 {
					add(rr(n, size), tcp...)
				}
			}
		}
	}
	if o.works["conn"] {
		add(conn(), tcp...)
	}
	_ = udp
	return cells
}

func bulk(n int) cell {
	return cell{name: fmt.Sprintf("bulk-%d", n), says: fmt.Sprintf("%d streams, uploads", n), work: "bulk",
		order: load.Order{Kind: load.Bulk, N: n}, figure: gigabits}
}

func rr(n, size int) cell {
	return cell{name: fmt.Sprintf("rr-%d-%d", n, size), says: fmt.Sprintf("requests and answers of %d bytes on %d connections", size, n), work: "rr",
		order: load.Order{Kind: load.Requests, N: n, Size: size}, figure: requests}
}

func conn() cell {
	return cell{name: "conn", says: "connect, ask 64 bytes, close; 32 at a time", work: "conn",
		order: load.Order{Kind: load.Connects, N: 32, Size: 64, Sources: town.ClientAddrs}, figure: connects}
}
