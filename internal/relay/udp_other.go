//go:build !unix

package relay

// An outlet sends datagrams.
type outlet struct{}

func newOutlet() *outlet { return nil }

func (*outlet) send(s *session, d []byte) error {
	_, err := s.up.Write(d)
	return err
}
