package config

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"fairlead"
)

func TestFormatAlignsAParagraph(t *testing.T) {
	in := `# the file
place   jump ssh a@b
place relay2   fairlead c:1,d:2   key /k
wan eth0 # one
lan br0 ,br1   # two

# a paragraph
web:  forward   127.0.0.1:80,443 to 10.0.0.1 from 10.0.0.0/8 ,10.0.0.2   idle 5s   # fast


pinhole: nat wan:1 to x # one
s: sshd on :22 {user a keys /a may listen 1   2}
p: forward unix:"/a b" to y:1 {# here
idle 5s   linger 6s
  # alone
}
off:	dynamic 1080`
	want := `# the file
place jump   ssh a@b
place relay2 fairlead c:1,d:2 key /k
wan   eth0      # one
lan   br0, br1  # two

# a paragraph
web: forward 127.0.0.1:80,443  to 10.0.0.1 from 10.0.0.0/8, 10.0.0.2  idle 5s  # fast


pinhole: nat     wan:1        to x  # one
s:       sshd    on :22 { user a keys /a  may listen 1 2 }
p:       forward unix:"/a b"  to y:1 {  # here
    idle 5s  linger 6s
    # alone
}
off:     dynamic 1080
`
	out, problems := Format([]byte(in))
	wantProblems(t, problems)
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	again, _ := Format(out)
	if !bytes.Equal(out, again) {
		t.Errorf("formatted twice it is\n%s", again)
	}
}

func TestFormatLeavesWhatDoesNotParse(t *testing.T) {
	in := []byte("a:   forward  1 to x idel 5s\n")
	out, problems := Format(in)
	if !bytes.Equal(in, out) || len(problems) != 1 {
		t.Errorf("%q %v", out, problems)
	}
	// That the whole does not fit together is another matter.
	out, problems = Format([]byte("a:   forward  1 to x via y\n"))
	if string(out) != "a: forward 1  to x  via y\n" || problems != nil {
		t.Errorf("%q %v", out, problems)
	}
}

// edit applies one change that has to succeed.
func edit(t *testing.T, do func() ([]byte, []*fairlead.Problem)) string {
	t.Helper()
	out, problems := do()
	if len(problems) > 0 {
		t.Fatalf("%s %s", problems[0].Code, problems[0].What)
	}
	return string(out)
}

// changed is the lines that differ, old then new.
func changed(before, after string) (old, new []string) {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

func TestEditsTouchOneEntry(t *testing.T) {
	text := []byte(example)
	for _, c := range []struct {
		name     string
		do       func() ([]byte, []*fairlead.Problem)
		old, new []string
	}{
		{"add", func() ([]byte, []*fairlead.Problem) { return Add(text, "new", "forward  9000 to x:1 idle 5s") },
			nil, []string{"new:       forward 9000                to x:1  idle 5s\n"}},
		{"remove", func() ([]byte, []*fairlead.Problem) { return Remove(text, "dns") },
			[]string{"dns:       forward 127.0.0.1:5353/udp   to 9.9.9.9:53\n"}, nil},
		{"remove a block", func() ([]byte, []*fairlead.Problem) { return Remove(text, "pg") },
			[]string{"pg:        forward [::]:5432            to db-a:5432, db-b:5432 {\n", "    policy failover\n", "    check tcp every 5s\n", "    proxy-protocol v2\n", "}\n"}, nil},
		{"replace", func() ([]byte, []*fairlead.Problem) {
			return Replace(text, "dns", "forward 5353/udp to 1.1.1.1:53 idle 3s")
		},
			[]string{"dns:       forward 127.0.0.1:5353/udp   to 9.9.9.9:53\n"},
			[]string{"dns:       forward 5353/udp           to 1.1.1.1:53  idle 3s\n"}},
		{"disable", func() ([]byte, []*fairlead.Problem) { return SetDisabled(text, "dns", true) },
			[]string{"dns:       forward 127.0.0.1:5353/udp   to 9.9.9.9:53\n"},
			[]string{"dns:       forward 127.0.0.1:5353/udp   to 9.9.9.9:53  disabled\n"}},
		{"disable a block", func() ([]byte, []*fairlead.Problem) { return SetDisabled(text, "pg", true) },
			[]string{"pg:        forward [::]:5432            to db-a:5432, db-b:5432 {\n"},
			[]string{"pg:        forward [::]:5432            to db-a:5432, db-b:5432  disabled {\n"}},
		{"enable what is enabled", func() ([]byte, []*fairlead.Problem) { return SetDisabled(text, "pg", false) }, nil, nil},
	} {
		out := edit(t, c.do)
		old, new := changed(example, out)
		if strings.Join(old, "") != strings.Join(c.old, "") || strings.Join(new, "") != strings.Join(c.new, "") {
			t.Errorf("%s\n old %q\n new %q\nwant %q\n     %q", c.name, old, new, c.old, c.new)
		}
	}
}

func TestDisabledAndEnabledIsTheSameText(t *testing.T) {
	for _, name := range []string{"web", "pg", "door", "hub", "irc", "masq"} {
		off := edit(t, func() ([]byte, []*fairlead.Problem) { return SetDisabled([]byte(example), name, true) })
		file := mustParse(t, off)
		for _, f := range file.Forwards {
			if f.Disabled != (f.Name == name) {
				t.Errorf("%s: %s is disabled: %v", name, f.Name, f.Disabled)
			}
		}
		if on := edit(t, func() ([]byte, []*fairlead.Problem) { return SetDisabled([]byte(off), name, false) }); on != example {
			t.Errorf("%s: another text comes back", name)
		}
	}
	// The word in other places: a line of a block, the value of something.
	for in, want := range map[string]string{
		"a: forward 1 to x {\n    idle 5s\n    disabled\n}\n":            "a: forward 1 to x {\n    idle 5s\n}\n",
		"a: forward 1 to x {\n    disabled # why\n}\n":                   "a: forward 1 to x {\n     # why\n}\n",
		"a: tunnel on :1 disabled key disabled\n":                        "a: tunnel on :1 key disabled\n",
		"a: tunnel on :1 { agent disabled key disabled }\n":              "a: tunnel on :1 { agent disabled key disabled }\n",
		"a: forward 1 to x { idle 5s  disabled }":                        "a: forward 1 to x { idle 5s }",
		"a: forward 1 to x disabled  # why\r\nb: forward 2 to x # b\r\n": "a: forward 1 to x  # why\r\nb: forward 2 to x # b\r\n",
	} {
		if got := edit(t, func() ([]byte, []*fairlead.Problem) { return SetDisabled([]byte(in), "a", false) }); got != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestReplaceKeepsTheComment(t *testing.T) {
	for in, want := range map[string]string{
		"a: forward 1 to x   # why\n": "a: forward 2  to y   # why\n",
		"b: dynamic 1080\n  a: forward 1 to x {   # why\n idle 5s # gone\n}  # end\r\nc: dynamic 3\n": "b: dynamic 1080\n  a: forward 2 to y  # why  # end\r\nc: dynamic 3\n",
	} {
		if got := edit(t, func() ([]byte, []*fairlead.Problem) { return Replace([]byte(in), "a", " forward 2 to y ") }); got != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestAddEndsAnUnfinishedLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "n: forward 9 to x\n",
		"a: dynamic 1":                  "a: dynamic 1\nn: forward 9  to x\n",
		"a: dynamic 1\r\n":              "a: dynamic 1\r\nn: forward 9  to x\r\n",
		"a: dynamic 1\n\n# the end\n\n": "a: dynamic 1\n\n# the end\n\nn: forward 9  to x\n",
	} {
		if in == "" {
			want = "n: forward 9  to x\n"
		}
		if got := edit(t, func() ([]byte, []*fairlead.Problem) { return Add([]byte(in), "n", "forward 9 to x") }); got != want {
			t.Errorf("%q\n got %q\nwant %q", in, got, want)
		}
	}
}

func TestEditsThatBreakTheFileAreRefused(t *testing.T) {
	text := []byte("web: forward 80 to x\n")
	for _, c := range []struct {
		do   func() ([]byte, []*fairlead.Problem)
		want string
	}{
		{func() ([]byte, []*fairlead.Problem) { return Add(text, "web", "forward 81 to x") }, `FL-309 2:1 the name "web" of line 2 stands in line 1 already`},
		{func() ([]byte, []*fairlead.Problem) { return Add(text, "b", "forward 80 to y") }, "FL-303 2:14 line 2 (b, 80/tcp) overlaps line 1 (web, 80/tcp)"},
		{func() ([]byte, []*fairlead.Problem) { return Add(text, "b", "forward 81 to") }, "FL-320 1:17 a target is missing"},
		{func() ([]byte, []*fairlead.Problem) { return Add(text, "b c", "forward 81 to y") }, "FL-302 1:1 unknown kind \"b\"; kinds are forward, nat, open, local, remote, dynamic, map, router, trigger, helper, share, sshd, tunnel"},
		{func() ([]byte, []*fairlead.Problem) { return Add(text, "b", "forward 81 to y\nc: forward 82 to z") }, "FL-307 a sentence is one line"},
		{func() ([]byte, []*fairlead.Problem) { return Replace(text, "web", "forward 80 to localhost:80") }, "FL-220 1:14 the forward leads to itself: localhost:80 is where it listens"},
		{func() ([]byte, []*fairlead.Problem) { return Remove(text, "wbe") }, `FL-803 there is no forward "wbe"`},
		{func() ([]byte, []*fairlead.Problem) { return SetDisabled([]byte(`{"forwards":[]}`), "web", true) }, "FL-321 the configuration is JSON and belongs to the program that writes it; it is not changed here"},
	} {
		out, problems := c.do()
		if out != nil {
			t.Errorf("%s: changed to %q", c.want, out)
		}
		wantProblems(t, problems, c.want)
	}
	_, problems := Remove(text, "wbe")
	if len(problems[0].Notes) != 1 || problems[0].Notes[0].Text != `did you mean "web"?` {
		t.Errorf("%v", problems[0].Notes)
	}
	// What is broken already can be repaired.
	if got := edit(t, func() ([]byte, []*fairlead.Problem) { return Remove([]byte("a: nonsense\nb: forwrd\n"), "a") }); got != "b: forwrd\n" {
		t.Errorf("%q", got)
	}
}

func TestNamesAreMade(t *testing.T) {
	for text, want := range map[string]string{
		"forward 8080 to x":               "forward-8080",
		"nat wan:80,443 to x":             "nat-80",
		"forward unix:/run/a.sock to x:1": "forward-a",
		"share lan to wan":                "share-lan",
		"router on [fd00::1]":             "router-1",
		"remote a@b:1 to x":               "remote-1",
	} {
		if got := MakeName(parseOne(t, text), nil); got != want || !goodName(got) {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	taken := func(n string) bool { return n == "forward-8080" || n == "forward-8080-2" }
	if got := MakeName(parseOne(t, "forward 8080 to x"), taken); got != "forward-8080-3" {
		t.Error(got)
	}
}

func TestDiffIsByName(t *testing.T) {
	old := mustParse(t, "a: forward 1 to x\nb: forward 2 to x\nc: forward 3 to x\n")
	new := mustParse(t, "c: forward 3 to x idle 5s\n# moved\nd: forward 4 to x\na: forward 1 to x\n")
	want := []Change{
		{'-', "b", "forward 2 to x", ""},
		{'~', "c", "forward 3 to x", "forward 3 to x idle 5s"},
		{'+', "d", "", "forward 4 to x"},
	}
	if got := Diff(old.Forwards, new.Forwards); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
