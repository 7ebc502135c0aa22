package main

import (
	"fmt"
	"slices"
	"strings"
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
	self    string   // the target that is held against the others; "" is fairlead
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
	columns   []column // of what is held rather than done; nothing else applies then
}

// A column is the heading and the name of a value.
type column struct{ says, value string }

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

// Variants of a target: words behind its name, each after a slash.
const (
	overUDP = "udp"    // for datagrams
	nobody  = "nobody" // run by an ordinary user
	many    = "10000"  // with 10,000 forwards, of which one is used
	off     = "off"    // with congestion off
	bbr     = "bbr"    // where BBR is the default of all hosts
	idle    = "idle"   // fresh, to hold idle connections
)

const (
	warm      = 250 * time.Millisecond
	quickWarm = 150 * time.Millisecond
)

// A schedule is the cells that the command line asks for, by stages.
type schedule struct {
	first   []cell // forwarders beside each other
	loads   []cell // what was held then
	idles   []cell
	kernels []cell // forwards in the kernel
	applies []cell // how long it takes to change those
	paced   []cell // where BBR is the default
}

// all are the cells in the order of the report.
func (s schedule) all() []cell {
	return slices.Concat(s.first, s.loads, s.idles, s.kernels, s.applies, s.paced)
}

func plan(o option) (s schedule) {
	peer := func(variants ...string) (with []string) {
		for _, p := range o.peers {
			with = append(with, name(p.Name, variants...))
		}
		return with
	}
	// A cell is measured for its own work, with all peers, and for the work
	// "forwards", with fairlead's two sizes.
	add := func(c cell, own, grows bool, variants ...string) {
		grows = grows && o.works["forwards"]
		if own = own && o.works[c.work]; !own && !grows {
			return
		}
		udp := c.order.Kind == load.Packets
		if udp {
			variants = append(variants, overUDP)
		}
		c.targets = []string{name(peers.Direct, without(variants, nobody)...), name(peers.Fairlead, variants...)}
		if grows {
			c.targets = append(c.targets, name(peers.Fairlead, append([]string{many}, variants...)...))
		}
		if own {
			for _, p := range o.peers {
				if p.UDP || !udp {
					c.targets = append(c.targets, name(p.Name, variants...))
				}
			}
		}
		if o.quick {
			c.order.Warm = quickWarm
		}
		s.first = append(s.first, c)
	}
	full := !o.quick
	add(bulk(1), full, false)
	add(bulk(8), true, true)
	add(bulk(16), full, false)
	add(bulk(64), true, false)
	add(bulk(128), full, false)
	unprivileged := bulk(128)
	unprivileged.name += "-nobody"
	unprivileged.says += ", each forwarder run by an ordinary user of its own"
	add(unprivileged, full, false, nobody)
	add(rr(1, 64), true, full)
	add(rr(1, 16<<10), full, false)
	add(rr(256, 64), true, true)
	add(rr(256, 16<<10), true, false)
	add(conn(), true, true)
	const rate = 100_000
	add(udp(1, 64, rate), true, true)
	add(udp(1, 64, 4*rate), full, false)
	add(udp(1, 1200, rate), full, false)
	add(udp(1000, 64, rate), true, false)
	add(udp(1000, 1200, rate), full, false)
	add(gso(1, 64), full, false)
	add(gso(1, 1200), true, false)
	add(gso(1000, 64), full, false)
	add(gso(1000, 1200), full, false)

	if o.works["forwards"] {
		s.loads = append(s.loads, cell{name: "loaded", says: "what fairlead holds before the first client, with one forward and with 10,000", work: "forwards",
			figure:  figure{columns: loadedColumns},
			targets: []string{peers.Fairlead, name(peers.Fairlead, many), name(peers.Fairlead, overUDP), name(peers.Fairlead, many, overUDP)}})
	}
	if o.works["idle"] {
		s.idles = append(s.idles, cell{name: "idle", says: "connections that asked once and then do nothing", work: "idle", figure: figure{columns: idleColumns},
			targets: append([]string{name(peers.Direct, idle), name(peers.Fairlead, idle)}, peer(idle)...)})
	}
	if o.works["congestion"] {
		c := bulk(8)
		c.name, c.work = "bulk-8-bbr", "congestion"
		c.says += "; BBR is the default of client, middle and server, and only fairlead chooses for itself (congestion auto)"
		c.targets = append([]string{name(peers.Direct, bbr), name(peers.Fairlead, bbr), name(peers.Fairlead, off, bbr)}, peer(bbr)...)
		s.paced = append(s.paced, c)
	}
	if o.works["kernel"] {
		s.kernels, s.applies = kernelCells(o)
	}
	return s
}

func name(base string, variants ...string) string {
	return strings.Join(append([]string{base}, variants...), "/")
}

// base is a target's name without its variants.
func base(target string) string {
	b, _, _ := strings.Cut(target, "/")
	return b
}

// has reports whether a target is of a variant.
func has(target, variant string) bool {
	return slices.Contains(strings.Split(target, "/")[1:], variant)
}

func without(list []string, word string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(w string) bool { return w == word })
}

func bulk(n int) cell {
	return cell{name: fmt.Sprintf("bulk-%d", n), says: fmt.Sprintf("%d streams, uploads", n), work: "bulk",
		order: load.Order{Kind: load.Bulk, N: n, Warm: warm}, figure: gigabits}
}

func rr(n, size int) cell {
	return cell{name: fmt.Sprintf("rr-%d-%d", n, size), says: fmt.Sprintf("requests and answers of %d bytes on %d connections", size, n), work: "rr",
		order: load.Order{Kind: load.Requests, N: n, Size: size, Warm: warm}, figure: requests}
}

func conn() cell {
	return cell{name: "conn", says: "connect, ask 64 bytes, close; 32 at a time", work: "conn",
		order: load.Order{Kind: load.Connects, N: 32, Size: 64, Warm: warm, Sources: town.ClientAddrs}, figure: connects}
}

// udp is datagrams one way at a rate that is offered to all alike.
func udp(n, size, rate int) cell {
	c := cell{name: fmt.Sprintf("udp-%d-%d", n, size), work: "udp", figure: packets,
		says:  fmt.Sprintf("datagrams of %d bytes one way from %s, %d a second offered", size, clients(n), rate),
		order: load.Order{Kind: load.Packets, N: n, Size: size, Rate: rate, Warm: warm, Sources: town.ClientAddrs}}
	if rate > 100_000 {
		c.name += "-flood"
	}
	return c
}

// gso is trains of datagrams as QUIC stacks send them, as fast as they go.
func gso(n, size int) cell {
	c := cell{name: fmt.Sprintf("gso-%d-%d", n, size), work: "gso", figure: trains,
		order: load.Order{Kind: load.Packets, N: n, Size: size, Train: 50, Warm: warm, Sources: town.ClientAddrs}}
	if n > 1 {
		c.order.Train = 10
	}
	c.says = fmt.Sprintf("trains of %d datagrams of %d bytes (UDP_SEGMENT) one way from %s, as fast as it sends", c.order.Train, size, clients(n))
	return c
}

func clients(n int) string {
	if n == 1 {
		return "one client"
	}
	return fmt.Sprintf("%d clients", n)
}
