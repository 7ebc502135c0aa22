//go:build !linux

package holder

import (
	"errors"
	"fmt"
	"runtime"
)

var errUnknown = fmt.Errorf("who holds a port is not known on %s: %w", runtime.GOOS, errors.ErrUnsupported)

func find(string, bound, uint16) ([]Holder, error) { return nil, errUnknown }

func findPath(string) ([]Holder, error) { return nil, errUnknown }

func listening(string) (*Listeners, error) { return nil, errUnknown }

func services(string) ([]Service, error) { return nil, errUnknown }
