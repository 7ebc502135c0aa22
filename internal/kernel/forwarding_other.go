//go:build !linux

package kernel

import "errors"

func advertised() ([]string, error) { return nil, errors.ErrUnsupported }
