//go:build !linux

package check

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"fairlead/internal/sys/nft"
)

func follow(context.Context, *attempt, time.Duration) (*seen, error) {
	return nil, fmt.Errorf("packets are followed through Linux's nftables, and this is %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func ruleText(*sight) string { return "" }

func chainsOf(nft.Family, string) []string { return nil }

func legacyProgram(string) bool { return false }

func forget(...flow) {}
