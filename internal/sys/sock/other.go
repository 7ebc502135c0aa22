//go:build !unix

package sock

// DescriptorLimit is how many sockets this process should have: the system
// sets none.
func DescriptorLimit() int { return 1 << 20 }
