//go:build !linux && !darwin && !freebsd && !openbsd

package main

// systemFilter is the packet filter that plan is for unless told otherwise: this
// system has none that we know.
const systemFilter = nftables
