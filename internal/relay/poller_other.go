//go:build !linux

package relay

// A poller reads the answers of all UDP sessions; on this system each session
// reads its own.
type poller struct{}

func newPoller(r *Relay) *poller { return &poller{} }

func (*poller) add(s *session) bool { return false }

func (*poller) remove(s *session) {}

func (*poller) close() {}
