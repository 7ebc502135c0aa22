// Package peers says how each forwarder of the benchmark is configured and
// called: fairlead, and the programs that it is compared with, each at its
// best settings and, where those are not what people write, also as people
// write it. It starts nothing.
package peers
