package main

// systemFilter is the packet filter that plan is for unless told otherwise.
const systemFilter = "openbsd-pf"
