package main

import "fairlead/internal/packetfilter"

// systemFilter is the packet filter that plan is for unless told otherwise.
const systemFilter = "pf"

// carriedFilter is the one that is loaded.
const carriedFilter = packetfilter.PF
