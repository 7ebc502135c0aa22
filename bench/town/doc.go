// Package town makes the place where the benchmark happens: three network
// namespaces in a row – client, middle, server – joined by veth pairs, gateways
// beside the middle where a kernel that tracks connections is measured, the
// programs that run in them, and the groups by which their CPU time is
// counted. It knows nothing of what is measured. It works on Linux only.
//
// The namespaces have no names in the file system and live as long as the
// threads that made them, so that nothing of them is left when the program
// ends, however it ends.
package town
