package nft

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fairlead/internal/lab"
)

// nftRun runs nft in the host; script is its standard input.
func nftRun(t *testing.T, h *lab.Host, script string, args ...string) string {
	t.Helper()
	cmd := h.Command(t, lab.NeedTool(t, "nft"), args...)
	cmd.Stdin = strings.NewReader(script)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, &complaint)
	}
	return string(out)
}

// ruleset is what nft lists in the host, without the time that elements have
// left.
func ruleset(t *testing.T, h *lab.Host) string {
	t.Helper()
	return expires.ReplaceAllString(nftRun(t, h, "", "list", "ruleset"), "")
}

var expires = regexp.MustCompile(` expires \w+`)

func TestTextIsLoadedByNftAndLoadedAgain(t *testing.T) {
	lab.NeedRoot(t)
	h := lab.NewNet(t).Host("one")
	table := everyForm()
	nftRun(t, h, table.Text(), "-f", "-")
	list := ruleset(t, h)
	nftRun(t, h, "flush ruleset\n"+loadable(list), "-f", "-")
	if again := ruleset(t, h); again != list {
		t.Errorf("a reloaded ruleset differs:\n%s", cmp.Diff(list, again))
	}
	if n := strings.Count(list, "\n"); n < 250 {
		t.Errorf("only %d lines were loaded", n)
	}
}

func TestTheTextOfAnOwnedTableIsTaken(t *testing.T) {
	lab.NeedRoot(t)
	table := small("t", 1)
	table.Owned = true
	nftRun(t, lab.NewNet(t).Host("one"), table.Text(), "-c", "-f", "-")
}
