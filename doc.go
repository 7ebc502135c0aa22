// Package fairlead holds the words of the program: the types in which every
// part of it speaks of port forwarding. It does no I/O and imports nothing of
// the house; everything else imports it.
//
// A forward is one sentence: what enters at a spot is greeted by a front,
// dialed via a place, to a target, carried by a carrier, under a policy.
//
//	Place    a point in the network to dial from and to listen at
//	Front    speaks the client's language before a flow exists
//	Flow     one conversation that wants carrying
//	Forward  one wish, plain data, with an owner and perhaps an end
//	Carrier  makes the world carry exactly the forwards it is given
//	Desk     takes wishes while the program runs
//
// Two rivers meet only in the Forward value. Wishes flow from the file, the
// command line and other askers to the Desk, which hands each to a Carrier;
// traffic flows from a listener through a Front and admission to a dialed
// target. What became of a wish is told by Status, Meter and Event.
package fairlead
