//go:build !linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"runtime"
)

var errNone = fmt.Errorf("connection tracking is Linux's, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)

func each(context.Context, Filter, func(*Entry) bool) error { return errNone }
func forget([]*Entry) error                                 { return errNone }
func watch(context.Context, []What, func(), func(What, *Entry), func()) error {
	return errNone
}
