package lab

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"fairlead"
)

// The suite's own examination: each fault of the reference has to fail the
// case that is about it.
var faults = []struct {
	fault fault
	asked string
}{
	{closesBoth, "half-close"},
	{resetAsEnd, "target-resets"},
	{resetAsEnd, "client-resets"},
	{flipsByte, "transfers"},
	{dropsEmpty, "udp-zero-length"},
	{leaksDescriptor, "echo"},
	{leaksGoroutine, "echo"},
	{leaksProcess, "echo"},

	{closesBoth, "server-first"},
	{closesBoth, "unix"},
	{forgetsEnd, "half-close"},
	{forgetsEnd, "echo"},
	{refusalAsEnd, "refused"},
	{refusalAsEnd, "connect-timeout"},
	{swapsConns, "transfers"},
	{dropsTail, "echo"},
	{dropsTail, "slow-reader"},
	{flipsByte, "slow-reader"},
	{buffersAll, "never-reads"},
	{noLinger, "linger"},
	{lingerTotal, "linger"},
	{noIdle, "idle"},
	{noConnectTimeout, "connect-timeout"},
	{reloadCuts, "reload"},
	{reloadCuts, "removed"},
	{reloadRebinds, "changed-target"},
	{keepsOldTarget, "changed-target"},
	{keepsOldTarget, "reload"},
	{keepsListening, "removed"},
	{keepsListening, "reload"},
	{rangeToFirst, "ranges"},
	{ignoresWho, "who"},
	{ignoresWho, "udp-who"},
	{miscounts, "conns"},
	{miscounts, "meter"},
	{killsAll, "kill"},
	{killsSoftly, "kill"},
	{failsAll, "taken-port"},
	{staysDownAfterFail, "taken-port"},
	{stopLeaves, "stop"},
	{truncates, "udp-echo"},
	{oneReply, "udp-repeat"},
	{wrongSource, "udp-asked-address"},
	{refusalIsDeath, "udp-refused"},
	{evictsOldest, "udp-cap"},
	{noEviction, "udp-cap"},
	{sessionsEverlast, "udp-idle"},
	{reloadForgetsUDP, "udp-reload"},
	{sharesSession, "udp-clients"},
	{sharesSession, "udp-asked-address"},
	{stealsSocket, "unix-stale"},
	{leavesSocket, "unix-stale"},
}

// faultVariable hands a fault to the test process that has to fail.
const faultVariable = "FAIRLEAD_LAB_FAULT"

func TestSuiteFindsFaults(t *testing.T) {
	list := faults
	if testing.Short() {
		list = list[:8]
	}
	// Most of their time they wait; each is a process of its own.
	places := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for _, f := range list {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if out, err := runFaulty(f.fault, f.asked); !failed(out, f.asked) {
				t.Errorf("a subject that %s passes %s (%v):\n%s", f.fault, f.asked, err, out[:min(len(out), 3000)])
			}
		})
	}
	wg.Wait()
	// With nothing wrong the same process passes.
	for _, name := range []string{"half-close", "udp-zero-length"} {
		if out, err := runFaulty(sound, name); err != nil || !strings.Contains(out, "--- PASS: TestFaultyReference/"+name) {
			t.Errorf("a sound subject fails %s (%v):\n%s", name, err, out)
		}
	}
}

func runFaulty(f fault, name string) (string, error) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestFaultyReference$/^"+name+"$", "-test.v", "-test.short", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), faultVariable+"="+string(f)+"!")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// failed says whether the case failed by its own words and not by a panic, a
// data race or the time limit of the process.
func failed(out, name string) bool {
	return regexp.MustCompile(`(?m)^ +--- FAIL: TestFaultyReference/`+name+` `).MatchString(out) &&
		!strings.Contains(out, "panic:") && !strings.Contains(out, "DATA RACE")
}

// TestFaultyReference is what TestSuiteFindsFaults runs.
func TestFaultyReference(t *testing.T) {
	f, ok := strings.CutSuffix(os.Getenv(faultVariable), "!")
	if !ok {
		return
	}
	patience, settle = 1500*time.Millisecond, 500*time.Millisecond
	TestCarrier(t, Carrier(func(*testing.T) fairlead.Carrier { return newReference(fault(f)) }))
}
