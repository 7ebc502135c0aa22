// Package conntrack reads and ends entries of Linux's connection tracking, for
// the network namespace in which it is called: what is tracked, what ended, and
// which entries are to be forgotten.
//
// It decides nothing about which connections those are. The sources are
// linux/netfilter/nfnetlink_conntrack.h, netlink(7) and conntrack(8).
package conntrack
