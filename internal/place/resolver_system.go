//go:build darwin || windows

package place

// ownResolver: these systems choose a name server by name and by interface (a
// VPN's zone, .local), which a reader of resolv.conf cannot know. The system
// is asked instead and keeps the cache; our answers hold for unseenTTL.
const ownResolver = false
