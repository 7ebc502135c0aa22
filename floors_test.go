package fairlead

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// floors is the house from the ground up. A package may import packages of
// lower floors, and neighbours never. It is a statement of policy: change it
// only together with docs/design.md, never to make a build pass.
var floors = [][]string{
	{"fairlead"},
	{"internal/wire/proxyproto", "internal/wire/packet", "internal/wire/sniff", "internal/wire/dhcp", "internal/sys/sock", "internal/sys/holder", "internal/sys/netmon", "internal/sys/service", "internal/sys/nft", "internal/sys/conntrack", "internal/sys/firewalls", "internal/sys/claim", "internal/sys/inject", "packaging/systemd"},
	{"internal/place", "internal/certs"},
	{"internal/relay", "internal/kernel", "internal/helper"},
	{"internal/packetfilter"},
	{"internal/engine"},
	{"internal/config"},
	{"internal/control", "internal/talk", "internal/check"},
	{"cmd/fairlead"},
	{"bench/load", "bench/peers", "bench/stats", "bench/town"}, // beside the house: they import nothing of it
	{"bench"},
}

// alone are packages that import nothing of the house at all, not even the
// words; onlyWords import only the package at the root.
var (
	alone     = []string{"internal/sys/", "internal/wire/", "packaging/"}
	onlyWords = []string{"internal/engine", "internal/talk"}
	testsOnly = []string{"internal/lab"}
)

func TestPackagesImportOnlyLowerFloors(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	floor := map[string]int{}
	for i, names := range floors {
		for _, name := range names {
			floor[full(name)] = i
		}
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg, imports := words[0], words[1:]
		if slices.Contains(testsOnly, strings.TrimPrefix(pkg, "fairlead/")) {
			continue
		}
		at, known := floor[pkg]
		if !known {
			t.Errorf("%s stands on no floor: add it to floors", pkg)
			continue
		}
		for _, imp := range imports {
			if imp != "fairlead" && !strings.HasPrefix(imp, "fairlead/") {
				continue
			}
			switch below, ok := floor[imp]; {
			case slices.Contains(testsOnly, strings.TrimPrefix(imp, "fairlead/")):
				t.Errorf("%s imports %s, which is for tests", pkg, imp)
			case ok && below >= at:
				t.Errorf("%s (floor %d) imports %s (floor %d)", pkg, at, imp, below)
			case hasPrefix(pkg, alone):
				t.Errorf("%s imports %s and should stand alone", pkg, imp)
			case hasPrefix(pkg, onlyWords) && imp != "fairlead":
				t.Errorf("%s imports %s and should know only the words", pkg, imp)
			}
		}
	}
}

func full(name string) string {
	if name == "fairlead" {
		return name
	}
	return "fairlead/" + name
}

func hasPrefix(pkg string, names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(pkg, full(n)) })
}

func TestEveryCodeHasOnePage(t *testing.T) {
	seen := map[Code]bool{}
	last := Code("")
	for _, p := range Pages {
		if seen[p.Code] || p.Code <= last {
			t.Errorf("%s is listed twice or out of order", p.Code)
		}
		seen[p.Code], last = true, p.Code
		if p.Title == "" || p.Text == "" || strings.HasSuffix(p.Title, ".") {
			t.Errorf("%s: a page has a title without a full stop, and a text", p.Code)
		}
	}
	src, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`Code = "(FL-[0-9]+)"`).FindAllSubmatch(src, -1) {
		if code := Code(m[1]); !seen[code] {
			t.Errorf("%s has no page", code)
		}
	}
}
