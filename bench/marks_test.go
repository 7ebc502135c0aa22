package main

import "testing"

func TestOnlyWhatIsBetweenTheMarksChanges(t *testing.T) {
	const (
		begin, end = "<!-- bench: begin -->", "<!-- bench: end -->"
		other      = "<!-- kernel: begin -->\nkept\n<!-- kernel: end -->\n"
	)
	got, err := between("above\n"+begin+"\nold\n"+end+"\nbelow\n"+other, "bench", "new\n\n")
	if want := "above\n" + begin + "\nnew\n" + end + "\nbelow\n" + other; got != want || err != nil {
		t.Errorf("became %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", begin, end, end + begin, other} {
		if _, err := between(bad, "bench", "new"); err == nil {
			t.Errorf("%q has no place for text, and got some", bad)
		}
	}
}
