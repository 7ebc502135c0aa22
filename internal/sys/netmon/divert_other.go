//go:build !linux

package netmon

import "errors"

func diverted(bool) (uint32, bool, error) { return 0, false, errors.ErrUnsupported }
