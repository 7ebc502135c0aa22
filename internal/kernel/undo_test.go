package kernel

import "testing"

// Whoever may write the service's directory must not be able to have root write
// elsewhere.
func TestRecordsPutBackNothingButTheNetwork(t *testing.T) {
	for _, r := range []Undo{
		{Sysctl: "kernel.core_pattern", Old: "x", New: "core"},
		{Sysctl: "net.//.kernel.core_pattern", Old: "x", New: "core"},
		{Sysctl: "net.ipv4.//.//.kernel.hostname", Old: "x"},
		{Sysctl: "//.//.etc.passwd", Old: "x"},
		{Sysctl: "net", Old: "x"},
		{Firewall: "docker", Mark: "--flush"},
		{Firewall: "rm -rf", Mark: "fairlead"},
	} {
		if err := r.do(); err == nil {
			t.Errorf("%+v was put back", r)
		}
	}
}
