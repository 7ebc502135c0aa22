//go:build !linux

package lab

import (
	"errors"
	"fmt"
)

func anonymousMemory(int) (int64, error) {
	return 0, fmt.Errorf("the memory of another process is read on Linux only: %w", errors.ErrUnsupported)
}
