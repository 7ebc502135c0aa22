package config

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"fairlead"
)

// bounded asserts what holds for the problems of any text.
func bounded(t *testing.T, text string, problems []*fairlead.Problem) {
	t.Helper()
	if len(problems) > maxProblems+1 {
		t.Fatalf("%d problems", len(problems))
	}
	for _, p := range problems {
		if p.What == "" || strings.HasSuffix(p.What, ".") || badCharacter(p.What) >= 0 {
			t.Fatalf("%s says %q", p.Code, p.What)
		}
		if p.At == nil {
			continue
		}
		if _, known := fairlead.PageOf(p.Code); !known {
			t.Fatalf("%s has no page", p.Code)
		}
		if p.At.Width < 1 || p.At.Pos.Line < 1 || p.At.Pos.Col < 1 || p.At.Pos.Col > len(p.At.Text)+1 ||
			p.At.Width > 1 && p.At.Pos.Col-1+p.At.Width > len(p.At.Text) {
			t.Fatalf("%s %s points at %d+%d of %q", p.Code, p.What, p.At.Pos.Col, p.At.Width, p.At.Text)
		}
		if badCharacter(p.At.Text) >= 0 || badCharacter(p.At.Hint) >= 0 {
			t.Fatalf("%s shows %q, %q", p.Code, p.At.Text, p.At.Hint)
		}
	}
}

// seeds are all sentences of the other tests.
func seeds(f *testing.F) {
	for line := range strings.Lines(example + everything) {
		f.Add(strings.TrimSuffix(line, "\n"))
	}
	for _, s := range []string{"a: forward 1 to x {\n idle 5s\n}\n", "a: sshd on :1 { user a keys b may listen 1 2 may dial c:3 }", "include x\n", "a: forward 1 to x\na: forward 1 to y"} {
		f.Add(s)
	}
}

// FuzzParse: nothing panics, and what parses is equal when it is printed and
// parsed again.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Add(example)
	f.Add(everything)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		file, problems := Parse("", []byte(text))
		bounded(t, text, problems)
		for _, x := range file.Forwards {
			again, problems := ParseSentence(x.Name + ": " + x.Expr)
			if len(problems) > 0 {
				t.Fatalf("%s: %s %s", x.Expr, problems[0].Code, problems[0].What)
			}
			a, b := *x, *again
			a.Owner, b.Owner, a.Source, b.Source = fairlead.Owner{}, fairlead.Owner{}, fairlead.Pos{}, fairlead.Pos{}
			if !reflect.DeepEqual(a, b) {
				t.Fatalf("%s\n%+v\n%+v", x.Expr, a, b)
			}
		}
		if len(problems) == 0 {
			conf := ToConf(file)
			again, problems := Parse("", conf)
			if len(problems) > 0 {
				t.Fatalf("%s\n%s %s", conf, problems[0].Code, problems[0].What)
			}
			sameFile(t, "sentences", file, again)
		}
	})
}

// FuzzArgs: a command line never panics, and what parses is equal when it is
// printed and parsed again.
func FuzzArgs(f *testing.F) {
	seeds(f)
	f.Add("forward\x1f:8080\x1fto\x1fa b:1\x1f--idle=2s\x1f--from\x1f10.0.0.0/8")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\x1f")
		if !strings.Contains(text, "\x1f") {
			args = strings.Split(text, " ")
		}
		x, problems := ParseArgs(args)
		bounded(t, text, problems)
		if (x == nil) != (len(problems) > 0) {
			t.Fatalf("%q: neither a forward nor a problem, or both", args)
		}
		if x == nil {
			return
		}
		again, problems := ParseSentence(x.Expr)
		if len(problems) > 0 {
			t.Fatalf("%s: %s %s", x.Expr, problems[0].Code, problems[0].What)
		}
		again.Name = x.Name
		if !reflect.DeepEqual(x, again) {
			t.Fatalf("%s\n%+v\n%+v", x.Expr, x, again)
		}
	})
}

// FuzzFormat: formatting twice changes nothing more, changes no meaning, loses
// no comment and no line, and no edit touches another line.
func FuzzFormat(f *testing.F) {
	seeds(f)
	f.Add(example)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		out, problems := Format([]byte(text))
		bounded(t, text, problems)
		if len(problems) > 0 {
			if string(out) != text {
				t.Fatalf("changed in spite of problems")
			}
			return
		}
		again, problems := Format(out)
		if len(problems) > 0 || !bytes.Equal(out, again) {
			t.Fatalf("%q\n%q\n%q", text, out, again)
		}
		file1, problems1 := Parse("", []byte(text))
		file2, problems2 := Parse("", out)
		if len(problems1) != len(problems2) {
			t.Fatalf("%q\n%q", text, out)
		}
		sameFile(t, "format", file1, file2)
		words := func(s string) string { return strings.Join(strings.Fields(strings.ReplaceAll(s, "\r", " ")), "") }
		if words(text) != words(string(out)) {
			t.Fatalf("%q\n%q", text, out)
		}
		if n := strings.Count(strings.TrimSuffix(text, "\n"), "\n"); text != "" && strings.Count(string(out), "\n") != n+1 {
			t.Fatalf("%d lines became %d: %q\n%q", n+1, strings.Count(string(out), "\n"), text, out)
		}
		for _, x := range file1.Forwards {
			off, problems := SetDisabled([]byte(text), x.Name, !x.Disabled)
			if len(problems) > 0 {
				continue
			}
			after, _ := Parse("", off)
			for i, y := range after.Forwards {
				was := file1.Forwards[i]
				if y.Name != was.Name || (y.Disabled != was.Disabled) != (y.Name == x.Name) {
					t.Fatalf("%q\n%q", text, off)
				}
			}
			gone, problems := Remove([]byte(text), x.Name)
			if len(problems) == 0 {
				if after, _ := Parse("", gone); len(after.Forwards) != len(file1.Forwards)-1 {
					t.Fatalf("%q\n%q", text, gone)
				}
			}
		}
	})
}

// FuzzJSON: nothing panics, and what is read comes back equal through both
// forms.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{example, everything, "a: forward 1 to x"} {
		file, _ := Parse("", []byte(text))
		out, err := ToJSON(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(out))
	}
	f.Add(`{"forwards": [{"name": "a", "expr": "forward 8080 to x:80 idle 2s"}]}`)
	f.Add(`{"forwards": [{"name": "a", "kind": "dynamic", "listen": 1, "users": [{"user": "a", "password": "b", "may": [{"dial": ["c:1"]}]}]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		file, problems := FromJSON([]byte(text))
		bounded(t, text, problems)
		if len(problems) == 0 {
			bothWays(t, file)
		}
	})
}
