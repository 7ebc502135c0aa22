package lab

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// NoSkip is the environment variable that, when it is not empty, turns each
// skip for lack of a tool or of root into a failure.
const NoSkip = "FAIRLEAD_NO_SKIP"

// NeedRoot skips the test when it cannot make network namespaces.
func NeedRoot(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" {
		lacking(t, "needs root: network namespaces exist on Linux only, this is "+runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		lacking(t, "needs root: network namespaces are made by root only; run the tests with sudo")
	}
}

// NeedTool returns the path of the program, or skips the test without it.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		lacking(t, "needs "+name+": "+err.Error())
	}
	return path
}

func lacking(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(NoSkip) != "" {
		t.Fatal(reason + " (" + NoSkip + " is set, so this is a failure)")
	}
	t.Skip(reason)
}
