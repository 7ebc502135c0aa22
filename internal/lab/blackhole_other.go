//go:build !linux

package lab

import (
	"errors"
	"fmt"
	"net"
)

func shortenQueue(*net.TCPListener) error {
	return fmt.Errorf("only Linux drops connections to a full queue: %w", errors.ErrUnsupported)
}
