package main

import "fairlead/bench/stats"

// An aim is what the figures are held against: fairlead's value in a cell,
// held against that of another target of the same round.
type aim struct {
	cells []string
	value string // rate, cpu, p50 …
	says  string
	// of are the targets to compare with, without their variants; of several,
	// the best by its median. With none, the value itself is held against the
	// bound.
	of    []string
	how   comparison
	bound stats.Bound
}

type comparison int

const (
	ratio      comparison = iota // fairlead's value divided by the other's
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
)

func atLeast(aim, floor float64) stats.Bound { return stats.Bound{Aim: aim, Floor: floor} }
func atMost(aim, floor float64) stats.Bound {
	return stats.Bound{Aim: aim, Floor: floor, AtMost: true}
}

// aims are those of the project for its relay.
var aims = []aim{
	{bulks, "rate", "throughput", []string{"haproxy-tuned"}, ratio, atLeast(1, 1)},
	{bulks, "rate", "throughput", []string{"direct"}, ratio, atLeast(0.74, 0.70)},
	{bulks, "cpu", "CPU per GiB", []string{"haproxy-tuned"}, ratio, atMost(1, 1)},
	{bulks, "cpu", "CPU per GiB", []string{"nginx"}, ratio, atMost(0.5, 0.5)},
	{asks, "rate", "requests per second", haproxies, ratio, atLeast(1, 0.95)},
	{asks, "rate", "requests per second", []string{"nginx"}, ratio, atLeast(1, 0.95)},
	{single, "p50", "latency, p50", epolls, ratio, atMost(1, 1.1)},
	{single, "p99", "latency, p99", epolls, ratio, atMost(1, 1.1)},
	{[]string{"conn"}, "rate", "connections per second", epolls, ratio, atLeast(1, 0.97)},
	{[]string{"conn"}, "cpu", "CPU per connection", epolls, ratio, atMost(1, 1.03)},
	{[]string{"idle"}, "memory", "process memory, KiB each", nil, ratio, atMost(0.5, 1)},
	{[]string{"idle"}, "descriptors", "descriptors each", nil, ratio, atMost(2, 2)},
	{[]string{"udp-1-64", "udp-1-64-flood"}, "cpu", "CPU per datagram", []string{"nginx"}, ratio, atMost(0.6, 0.7)},
	// No loss where nginx has none; a thousandth is how exactly it is known.
	{[]string{"udp-1000-64", "udp-1000-1200"}, "loss", "part lost, less that of", []string{"nginx"}, difference, atMost(0, 0.001)},
	{[]string{"gso-1-1200"}, "rate", "throughput", []string{"nginx"}, ratio, atLeast(15, 10)},
	{[]string{"gso-1-1200"}, "rate", "throughput", []string{"direct"}, ratio, atLeast(0.65, 0.65)},
	{grown, "rate", "rate with 10,000 forwards", nil, growth, atLeast(0.95, 0.95)},
	{grown, "cpu", "CPU with 10,000 forwards", nil, growth, atMost(1.05, 1.05)},
	{[]string{"bulk-8-bbr"}, "rate", "throughput", everybody, ratio, atLeast(1.3, 1.3)},
}
