// Package load makes the traffic of the benchmark and takes it in: a server
// that counts, echoes or drops, and a client that uploads, asks, connects or
// sends datagrams. Both are event loops on raw system calls, so that they take
// as little as they can of the CPU that they share with what is measured. It
// does not measure CPU and knows no forwarders. It works on Linux only.
//
// Rates are counted where bytes arrive, at the server; only latencies are the
// client's. Everything is bounded in number and time, and the smallest error
// fails the order.
package load
