//go:build !linux

package kernel

import "errors"

func (d keepalive) send() error { return errors.ErrUnsupported }
