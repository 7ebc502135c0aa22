package main

import "testing"

func TestOnlyWhatIsBetweenTheMarksChanges(t *testing.T) {
	got, err := between("above\n"+beginMark+"\nold\n"+endMark+"\nbelow\n", "new\n\n")
	if want := "above\n" + beginMark + "\nnew\n" + endMark + "\nbelow\n"; got != want || err != nil {
		t.Errorf("became %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", beginMark, endMark, endMark + beginMark} {
		if _, err := between(bad, "new"); err == nil {
			t.Errorf("%q has no place for text, and got some", bad)
		}
	}
}
