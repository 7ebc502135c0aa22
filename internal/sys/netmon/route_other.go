//go:build !linux

package netmon

import (
	"context"
	"errors"
	"net/netip"
)

func routeOf(from, to netip.Addr, iif string) (Route, error) {
	return Route{}, errors.ErrUnsupported
}

func neighbourOf(string, netip.Addr) (Neighbour, error) { return Unheard, errors.ErrUnsupported }

func askNeighbour(context.Context, string, netip.Addr) (Neighbour, error) {
	return Unheard, errors.ErrUnsupported
}

func forwards(string, bool) (all, own, known bool) { return false, false, false }

func reversePath(string) int { return 0 }

type routeWatch struct{}

func watchRoutes() (routeWatch, error) { return routeWatch{}, errors.ErrUnsupported }
func (routeWatch) changed() bool       { return true }
func (routeWatch) close()              {}

type surroundings struct{}

func lookAround() (surroundings, error)                     { return surroundings{}, errors.ErrUnsupported }
func (surroundings) routeTo(netip.Addr) (Route, error)      { return Route{}, errors.ErrUnsupported }
func (surroundings) neighbour(string, netip.Addr) Neighbour { return Unheard }
func (surroundings) close()                                 {}
