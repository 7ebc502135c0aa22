//go:build !linux && !darwin && !freebsd && !openbsd

package main

import "fairlead/internal/kernel"

// systemFilter is the packet filter that plan is for unless told otherwise: this
// system has none that we know.
const systemFilter = nftables

// newRules makes the carrier of the kernel's forwards, which here says why it
// carries none.
func newRules(c kernel.Config) rules { return kernel.New(c) }
