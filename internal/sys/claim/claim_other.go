//go:build !linux

package claim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
)

var errNone = fmt.Errorf("addresses are claimed on Linux, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)

func take(context.Context, string, netip.Addr) error { return errNone }
func renew(string, netip.Addr) error                 { return errNone }
func release(string, netip.Addr) error               { return errNone }
func announce(string, netip.Addr) error              { return errNone }
func watch(context.Context, string, netip.Addr, func(net.HardwareAddr)) error {
	return errNone
}
