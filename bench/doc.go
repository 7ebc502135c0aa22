// Command bench measures fairlead beside HAProxy, nginx, socat, rinetd and a
// plain Go forwarder, and its forwards in the kernel beside the plain route and
// beside one rule of nftables, in the same minute and over wires of one kind: a
// client, a middle and a server in network namespaces that it makes and removes. It
// prints a table with the aim of each figure and whether it is reached. It is
// not a test: nothing depends on what it finds. docs/performance.md says how
// to read it and holds its last results.
//
//	go run ./bench -quick
//	go run ./bench -rounds 5 -write docs/performance.md
//
// In each round the forwarders are visited in a new shuffled order, and what
// counts is the ratio of two figures of one round, so that what else the
// machine does cancels out.
package main
