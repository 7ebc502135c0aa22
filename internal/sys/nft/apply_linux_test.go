package nft

import (
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fairlead/internal/lab"
)

// list is what nft says of the host's ruleset, in its own words and as JSON,
// without what differs from one loading to the next.
func list(t *testing.T, h *lab.Host) (text, js string) {
	t.Helper()
	text = loadable(ruleset(t, h))
	var v any
	if err := json.Unmarshal([]byte(nftRun(t, h, "", "-j", "list", "ruleset")), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(withoutHandles(v), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return text, string(b)
}

func withoutHandles(v any) any {
	switch v := v.(type) {
	case string:
		if n, err := strconv.ParseUint(loadable(v), 10, 16); err == nil && v != loadable(v) {
			return float64(n)
		}
	case []any:
		for i := range v {
			v[i] = withoutHandles(v[i])
		}
	case map[string]any:
		delete(v, "handle")
		delete(v, "expires")
		for k := range v {
			v[k] = withoutHandles(v[k])
		}
	}
	return v
}

func TestMessagesSayWhatTheTextSays(t *testing.T) {
	lab.NeedRoot(t)
	net := lab.NewNet(t)
	byText, byMessages := net.Host("text"), net.Host("messages")
	table := everyForm()
	nftRun(t, byText, table.Text(), "-f", "-")
	if err := opened(t, byMessages).Replace(table); err != nil {
		t.Fatal(err)
	}
	wantText, wantJSON := list(t, byText)
	gotText, gotJSON := list(t, byMessages)
	if diff := cmp.Diff(wantText, gotText); diff != "" {
		t.Errorf("loaded as text (-) and as messages (+):\n%s", diff)
	}
	if diff := cmp.Diff(wantJSON, gotJSON); diff != "" {
		t.Errorf("as JSON, loaded as text (-) and as messages (+):\n%s", diff)
	}
	// And once more over itself, with the listing loaded again after.
	if err := opened(t, byMessages).Replace(table); err != nil {
		t.Fatal(err)
	}
	nftRun(t, byMessages, "flush ruleset\n"+gotText, "-f", "-")
	if again, _ := list(t, byMessages); again != gotText {
		t.Errorf("a reloaded ruleset differs:\n%s", cmp.Diff(gotText, again))
	}
}

// loadable mends a listing: nft 1.0.6 loses the type of ct original proto-dst in
// a set that it made itself, and then cannot read what it lists.
func loadable(list string) string {
	return untyped.ReplaceAllStringFunc(list, func(s string) string {
		n, err := strconv.ParseUint(untyped.FindStringSubmatch(s)[1], 16, 32)
		if err != nil {
			return s
		}
		return strconv.FormatUint(n, 10)
	})
}

var untyped = regexp.MustCompile(`0x([0-9a-f]+) \[invalid type\]`)

func TestChangeMakesOneTableTheOther(t *testing.T) {
	lab.NeedRoot(t)
	for _, plain := range []bool{false, true} {
		c := opened(t, lab.NewNet(t).Host("one"))
		c.own.plain = plain
		for seed := range uint64(150) {
			m := maker{rand.New(rand.NewPCG(seed, 2))}
			old, want := m.table(), m.table()
			if err := c.Replace(old); err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, old.Text())
			}
			ch, _ := Diff(old, want)
			if err := c.Change(ch); err != nil {
				t.Fatalf("seed %d: %v\nfrom\n%s\nto\n%s", seed, err, old.Text(), want.Text())
			}
			got, err := c.Read(Inet, "anything")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(inOrder(want), inOrder(got)); diff != "" {
				t.Fatalf("seed %d: wanted (-), the kernel has (+):\n%s\nfrom\n%s", seed, diff, old.Text())
			}
			if ch, ok := Diff(got, want); !ok || !ch.Empty() {
				t.Fatalf("seed %d: what was read differs from what was loaded by\n%+v", seed, ch)
			}
		}
	}
}
