package talk

import (
	"os"
	"testing"
)

func env(vars ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1]
			}
		}
		return ""
	}
}

func TestFilesGetNoColourAndEightyColumns(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	c := Detect(w, w, env("TERM", "xterm", "LANG", "C.UTF-8"), Flags{})
	if c.Colour || c.Spinner || !c.OutFile || !c.ErrFile || c.Width != 80 || c.ASCII {
		t.Errorf("got %+v", c)
	}
	for columns, want := range map[string]int{"120": 120, "10": 40, "1000": 200, "-3": 80, "x": 80, "": 80, "0": 80} {
		if c := Detect(w, w, env("COLUMNS", columns), Flags{}); c.Width != want {
			t.Errorf("COLUMNS=%s: %d columns, want %d", columns, c.Width, want)
		}
	}
}

func TestLocaleDecidesOverASCII(t *testing.T) {
	for _, test := range []struct {
		env  []string
		utf8 bool
	}{
		{nil, false},
		{[]string{"LANG", "en_GB.UTF-8"}, true},
		{[]string{"LANG", "C.utf8"}, true},
		{[]string{"LANG", "de_DE@euro"}, false},
		{[]string{"LC_ALL", "C", "LANG", "en_GB.UTF-8"}, false},
		{[]string{"LC_ALL", "", "LC_CTYPE", "en_GB.UTF-8", "LANG", "C"}, true},
		{[]string{"LC_CTYPE", "POSIX", "LANG", "en_GB.UTF-8"}, false},
	} {
		if got := isUTF8(env(test.env...)); got != test.utf8 {
			t.Errorf("%v: %v", test.env, got)
		}
	}
}
