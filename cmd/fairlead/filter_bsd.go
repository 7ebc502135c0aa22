//go:build darwin || freebsd || openbsd

package main

import (
	"strings"

	"fairlead/internal/kernel"
	"fairlead/internal/packetfilter"
)

// newRules makes the carrier of the kernel's forwards: here the packet filter's.
func newRules(c kernel.Config) rules {
	name := packetfilter.Service
	if _, other, ok := strings.Cut(c.Table, "-"); ok {
		name = other // another instance, or a run in the foreground
	}
	return packetfilter.New(packetfilter.Config{Dialect: carriedFilter, Name: name, Sides: c.Sides, Resolve: c.Resolve})
}
