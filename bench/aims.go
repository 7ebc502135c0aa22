package main

import (
	"fairlead/bench/peers"
	"fairlead/bench/stats"
)

// An aim is what the figures are held against: a target's value in a cell, held
// against that of another target of the same round.
type aim struct {
	who   string // the target, as goesBy has it
	cells []string
	value string // rate, cpu, p50 …
	says  string
	// of are the targets to compare with, as goesBy has them; of several,
	// the best by its median. With none, the value itself is held against the
	// bound.
	of    []string
	how   comparison
	bound stats.Bound
}

type comparison int

const (
	ratio      comparison = iota // its value divided by the other's
	difference                   // less the other's
	growth                       // that of 10,000 forwards divided by that of one
)

var (
	haproxies = []string{"haproxy-tuned", "haproxy"}
	epolls    = []string{"haproxy-tuned", "haproxy", "nginx"}
	everybody = []string{"haproxy-tuned", "haproxy", "nginx", "socat", "rinetd", "go"}

	bulks  = []string{"bulk-8", "bulk-64", "bulk-128-nobody"}
	asks   = []string{"rr-256-64", "rr-256-16384"}
	single = []string{"rr-1-64", "rr-1-16384"}
	grown  = []string{"bulk-8", "rr-1-64", "rr-256-64", "conn", "udp-1-64"}

	translated    = []string{"nat-bulk-8", "nat-rr-1-64", "nat-rr-256-64", "nat-udp-1-64"}
	translatedAll = append([]string{"nat-conn"}, translated...)
	asked         = []string{"nat-rr-1-64", "nat-rr-256-64", "nat-conn"}
)

// Those for whom there are aims.
const (
	relay    = peers.Fairlead
	nat      = peers.NAT + "/10"
	nat1000  = peers.NAT + "/1000"
	nat10000 = peers.NAT + "/10000"
)

func atLeast(aim, floor float64) stats.Bound { return stats.Bound{Aim: aim, Floor: floor} }
func atMost(aim, floor float64) stats.Bound {
	return stats.Bound{Aim: aim, Floor: floor, AtMost: true}
}

// aims are those of the project: for its relay, and for its forwards in the
// kernel. The last are held against the plain route, which translates and tracks
// nothing; against one rule written by hand, the least that translation by
// nftables can cost; and against the relay.
var aims = []aim{
	{relay, bulks, "rate", "throughput", []string{"haproxy-tuned"}, ratio, atLeast(1, 1)},
	{relay, bulks, "rate", "throughput", []string{"direct"}, ratio, atLeast(0.74, 0.70)},
	{relay, bulks, "cpu", "CPU per GiB", []string{"haproxy-tuned"}, ratio, atMost(1, 1)},
	{relay, bulks, "cpu", "CPU per GiB", []string{"nginx"}, ratio, atMost(0.5, 0.5)},
	{relay, asks, "rate", "requests per second", haproxies, ratio, atLeast(1, 0.95)},
	{relay, asks, "rate", "requests per second", []string{"nginx"}, ratio, atLeast(1, 0.95)},
	{relay, single, "p50", "latency, p50", epolls, ratio, atMost(1, 1.1)},
	{relay, single, "p99", "latency, p99", epolls, ratio, atMost(1, 1.1)},
	{relay, []string{"conn"}, "rate", "connections per second", epolls, ratio, atLeast(1, 0.97)},
	{relay, []string{"conn"}, "cpu", "CPU per connection", epolls, ratio, atMost(1, 1.03)},
	{relay, []string{"idle"}, "memory", "process memory, KiB each", nil, ratio, atMost(0.5, 1)},
	{relay, []string{"idle"}, "descriptors", "descriptors each", nil, ratio, atMost(2, 2)},
	{relay, []string{"udp-1-64", "udp-1-64-flood"}, "cpu", "CPU per datagram", []string{"nginx"}, ratio, atMost(0.6, 0.7)},
	// No loss where nginx has none; a thousandth is how exactly it is known.
	{relay, []string{"udp-1000-64", "udp-1000-1200"}, "loss", "part lost, less that of", []string{"nginx"}, difference, atMost(0, 0.001)},
	{relay, []string{"gso-1-1200"}, "rate", "throughput", []string{"nginx"}, ratio, atLeast(15, 10)},
	{relay, []string{"gso-1-1200"}, "rate", "throughput", []string{"direct"}, ratio, atLeast(0.65, 0.65)},
	{relay, grown, "rate", "rate with 10,000 forwards", nil, growth, atLeast(0.95, 0.95)},
	{relay, grown, "cpu", "CPU with 10,000 forwards", nil, growth, atMost(1.05, 1.05)},
	{relay, []string{"bulk-8-bbr"}, "rate", "throughput", everybody, ratio, atLeast(1.3, 1.3)},

	{nat, translated, "rate", "rate", []string{"direct"}, ratio, atLeast(0.9, 0.8)},
	{nat, []string{"nat-conn"}, "rate", "rate", []string{"direct"}, ratio, atLeast(0.8, 0.7)},
	{nat, translatedAll, "rate", "rate", []string{"nft"}, ratio, atLeast(0.97, 0.9)},
	{nat, asked, "p99", "latency, p99", []string{"direct"}, ratio, atMost(1.25, 1.5)},
	{nat, asked, "p99", "latency, p99", []string{"nft"}, ratio, atMost(1.05, 1.2)},
	{nat, translatedAll, "rate", "rate", []string{"fairlead"}, ratio, atLeast(1, 1)},
	{nat, asked, "p99", "latency, p99", []string{"fairlead"}, ratio, atMost(1, 1)},
	{nat, translatedAll, "sum", "CPU of all three", []string{"fairlead"}, ratio, atMost(1, 1)},
	{nat1000, translatedAll, "rate", "rate with 1,000 forwards", []string{nat}, ratio, atLeast(0.95, 0.95)},
	{nat10000, translatedAll, "rate", "rate with 10,000 forwards", []string{nat}, ratio, atLeast(0.95, 0.95)},
	{nat10000, translatedAll, "sum", "CPU of all three with 10,000 forwards", []string{nat}, ratio, atMost(1.05, 1.05)},
	{nat10000, asked, "p99", "latency, p99, with 10,000 forwards", []string{nat}, ratio, atMost(1.05, 1.05)},
	{nat10000, []string{"apply"}, "ready", "seconds from the start of the program until 10,000 forwards pass", nil, ratio, atMost(1, 1)},
	{nat10000, []string{"apply"}, "moved", "seconds until one of 10,000 has changed", nil, ratio, atMost(1, 1)},
}
