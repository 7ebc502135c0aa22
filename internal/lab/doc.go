// Package lab is the test town: networks made of namespaces, peers that behave
// well and badly, a checked transfer, a leak check, and the conformance suites
// that every carrier ([TestCarrier]) and every place ([TestPlace]) has to pass.
//
// It is imported by tests, and never by a package that ships. It forwards
// nothing itself, and it judges only what a client, a target or the operating
// system can see of a subject from outside.
//
// Functions that take a testing.TB register their own cleaning up with it:
// peers, connections, processes and namespaces are gone when the test is over.
// A nil *Host stands for the network the test itself runs in, so that one suite
// serves loopback and namespaces alike.
package lab
