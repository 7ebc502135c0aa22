// Package nft speaks to nftables, the packet filter of Linux: it says what a
// table holds, as text in nft(8)'s own words and as the netlink messages that
// load it, changes a table in one transaction, reads what is loaded (also by
// others), and tells of changes and of traced packets.
//
// It knows nothing of forwards: which rules there are is for package kernel to
// say. It never edits a table of somebody else.
//
// The sources are nft(8), linux/netfilter/nf_tables.h, and what nft itself
// emits (nft --debug=netlink): a form that nft would not emit is not emitted
// here either, because such forms have made nft abort when it lists them.
package nft
