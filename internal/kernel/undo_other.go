//go:build !linux

package kernel

import "errors"

func dropAddress(name, cidr string) error { return errors.ErrUnsupported }
