//go:build !unix

package sock

import (
	"errors"
	"net/netip"
)

// Departs says that all of what a socket can be told before it connects is
// there, and Binds that an address of this host and a code point are.
const (
	Departs = false
	Binds   = false
)

func bindSource(fd int, from netip.AddrPort, foreign, stream bool) error {
	return errors.ErrUnsupported
}

func bindDevice(fd int, name string) error     { return errors.ErrUnsupported }
func setMark(fd int, mark uint32) error        { return errors.ErrUnsupported }
func setDSCP(fd int, v6 bool, dscp int) error  { return errors.ErrUnsupported }
func setCongestion(fd int, name string) error  { return errors.ErrUnsupported }
func congestion(fd int) (string, error)        { return "", errors.ErrUnsupported }
func try(v6 bool, do func(fd int) error) error { return errors.ErrUnsupported }
