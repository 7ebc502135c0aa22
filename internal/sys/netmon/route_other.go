//go:build !linux

package netmon

import (
	"errors"
	"net/netip"
)

func routeOf(from, to netip.Addr, iif string) (Route, error) {
	return Route{}, errors.ErrUnsupported
}

func neighbourOf(string, netip.Addr) (Neighbour, error) { return Unheard, errors.ErrUnsupported }

func forwards(string, bool) (all, own, known bool) { return false, false, false }

func reversePath(string) int { return 0 }
