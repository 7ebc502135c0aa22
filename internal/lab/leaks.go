package lab

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// CheckLeaks notes the goroutines, descriptors and child processes there are,
// and fails the test when there are others after everything else was cleaned
// up. It has to be called first, before anything else registers a cleanup, and
// not in a test that runs beside others of its process.
//
// What goes away by itself within a few seconds is no leak. Descriptors and
// processes are seen on Linux only.
func CheckLeaks(t testing.TB) {
	t.Helper()
	// The runtime opens its poller with the first pollable descriptor, and
	// keeps it.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	runtime.GC() // pipes in the pool of package net, from earlier tests
	goroutines := goleak.IgnoreCurrent()
	before := holdings()
	t.Cleanup(func() {
		t.Helper()
		var left []string
		var stacks error
		for deadline := time.Now().Add(settle); ; {
			runtime.GC() // twice: a pool lets go at the second collection
			runtime.GC()
			stacks = goleak.Find(goroutines)
			left = newHoldings(before)
			if stacks == nil && len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				break
			}
			time.Sleep(10 * time.Millisecond) // polling, with an end
		}
		if stacks != nil {
			t.Errorf("goroutines are left running: %v", stacks)
		}
		if len(left) > 0 {
			t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
		}
	})
}

// settle is how long what ends by itself may take.
var settle = 5 * time.Second

// newHoldings are the descriptors and processes that were not there before.
func newHoldings(before map[string]string) []string {
	var left []string
	for key, what := range holdings() {
		if _, old := before[key]; !old {
			left = append(left, what)
		}
	}
	slices.Sort(left)
	return left
}

// CheckRules notes the nftables rules of a host (nil: of this one) and fails
// the test when they differ at its end. Where there is no nft, it does nothing.
func CheckRules(t testing.TB, h *Host) {
	t.Helper()
	before, err := rules(t, h)
	if err != nil {
		return
	}
	t.Cleanup(func() {
		t.Helper()
		if after, err := rules(t, h); err != nil || after != before {
			t.Errorf("the nftables rules changed (%v):\nbefore:\n%s\nafter:\n%s", err, before, after)
		}
	})
}

// Rules is the host's nftables ruleset as nft prints it, with handles left
// out. It skips the test where there is no nft.
func Rules(t testing.TB, h *Host) string {
	t.Helper()
	NeedTool(t, "nft")
	text, err := rules(t, h)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func rules(t testing.TB, h *Host) (string, error) {
	out, err := h.Command(t, "nft", "-s", "list", "ruleset").Output() // -s: without counters
	if err != nil {
		return "", fmt.Errorf("nft list ruleset: %w", err)
	}
	return string(out), nil
}
