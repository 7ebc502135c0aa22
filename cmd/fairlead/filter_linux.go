package main

import "fairlead/internal/kernel"

// systemFilter is the packet filter that plan is for unless told otherwise.
const systemFilter = nftables

// newRules makes the carrier of the kernel's forwards.
func newRules(c kernel.Config) rules { return kernel.New(c) }
