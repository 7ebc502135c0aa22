//go:build !linux

package kernel

import "errors"

func dropAddress(name, cidr string) error { return errors.ErrUnsupported }

func network() uint64 { return 0 }
