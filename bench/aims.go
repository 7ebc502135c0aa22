package main

import "fairlead/bench/stats"

// An aim is what the figures are held against: fairlead's value of a cell, as
// a ratio of one round to that of another target.
type aim struct {
	cells []string
	value string
	says  string
	// of are the targets to compare with; of several, the best by its median.
	// With none, the value itself is held against the bound.
	of    []string
	bound stats.Bound
}

var (
	haproxies = []string{"haproxy-tuned", "haproxy"}
	epolls    = []string{"haproxy-tuned", "haproxy", "nginx"}
)

// aims are those of the project for its relay.
var aims = []aim{
	{[]string{"bulk-8", "bulk-64", "bulk-128-nobody"}, "rate", "throughput", []string{"haproxy-tuned"}, stats.Bound{Aim: 1, Floor: 1}},
	{[]string{"bulk-8", "bulk-64", "bulk-128-nobody"}, "rate", "throughput", []string{"direct"}, stats.Bound{Aim: 0.74, Floor: 0.70}},
	{[]string{"bulk-8", "bulk-64", "bulk-128-nobody"}, "cpu", "CPU per GiB", []string{"haproxy-tuned"}, stats.Bound{Aim: 1, Floor: 1, AtMost: true}},
	{[]string{"bulk-8", "bulk-64", "bulk-128-nobody"}, "cpu", "CPU per GiB", []string{"nginx"}, stats.Bound{Aim: 0.5, Floor: 0.5, AtMost: true}},
	{[]string{"rr-256-64", "rr-256-16384"}, "rate", "requests per second", haproxies, stats.Bound{Aim: 1, Floor: 0.95}},
	{[]string{"rr-256-64", "rr-256-16384"}, "rate", "requests per second", []string{"nginx"}, stats.Bound{Aim: 1, Floor: 0.95}},
	{[]string{"rr-1-64", "rr-1-16384"}, "p50", "latency, p50", epolls, stats.Bound{Aim: 1, Floor: 1.1, AtMost: true}},
	{[]string{"rr-1-64", "rr-1-16384"}, "p99", "latency, p99", epolls, stats.Bound{Aim: 1, Floor: 1.1, AtMost: true}},
	{[]string{"conn"}, "rate", "connections per second", epolls, stats.Bound{Aim: 1, Floor: 0.97}},
	{[]string{"conn"}, "cpu", "CPU per connection", epolls, stats.Bound{Aim: 1, Floor: 1.03, AtMost: true}},
}
