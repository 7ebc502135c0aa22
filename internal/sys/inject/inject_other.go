//go:build !linux

package inject

import (
	"errors"
	"fmt"
	"runtime"
)

type injector struct{}

func open(string) (injector, error) {
	return injector{}, fmt.Errorf("this is made of Linux's parts, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
func (injector) send([]byte) error { return errors.ErrUnsupported }
func (injector) close() error      { return nil }
