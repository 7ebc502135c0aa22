//go:build unix && !linux

package sock

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Departs says that all of what a socket can be told before it connects is
// there, and Binds that an address of this host and a code point are.
const (
	Departs = false
	Binds   = true
)

func bindSource(fd int, from netip.AddrPort, foreign, stream bool) error {
	if foreign {
		return errors.ErrUnsupported
	}
	if from.Port() != 0 && stream {
		if err := set(fd, "SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	return bind(fd, from)
}

func bindDevice(fd int, name string) error    { return errors.ErrUnsupported }
func setMark(fd int, mark uint32) error       { return errors.ErrUnsupported }
func setCongestion(fd int, name string) error { return errors.ErrUnsupported }
func congestion(fd int) (string, error)       { return "", errors.ErrUnsupported }
