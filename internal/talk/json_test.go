package talk

import (
	"encoding/json"
	"strings"
	"testing"

	"fairlead"

	"github.com/google/go-cmp/cmp"
)

func TestProblemsForProgramsLoseNothing(t *testing.T) {
	p := &fairlead.Problem{Code: fairlead.CodeUnknownWord, Warning: true, What: "what \x1b[2J\u009b1m\u202e\U000e0001 é",
		At:    at("f.conf", 6, 42, 6, "line <&> text", "hint"),
		Notes: []fairlead.Note{{Label: "by", Text: "somebody"}},
		Fixes: []fairlead.Fix{{Text: "do it", Command: "sudo x 'a b'"}, {Text: "or this"}}}
	var b strings.Builder
	out := New(Config{Out: &b})
	if err := out.JSON(JSONOf(p)); err != nil {
		t.Fatal(err)
	}
	want := `{
  "code": "FL-301",
  "severity": "warning",
  "text": "what \u001b[2J\u009b1m\u202e\udb40\udc01 é",
  "at": {
    "file": "f.conf",
    "line": 6,
    "col": 42,
    "width": 6,
    "line_text": "line <&> text",
    "hint": "hint"
  },
  "notes": [
    {
      "label": "by",
      "text": "somebody"
    }
  ],
  "fixes": [
    {
      "text": "do it",
      "command": "sudo x 'a b'",
      "argv": [
        "sudo",
        "x",
        "a b"
      ]
    },
    {
      "text": "or this"
    }
  ]
}
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	var back ProblemJSON
	if err := json.Unmarshal([]byte(b.String()), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(JSONOf(p), back); diff != "" {
		t.Errorf("read back: %s", diff)
	}

	b.Reset()
	if err := out.JSONLine(JSONOf(&fairlead.Problem{Code: "FL-999", What: "x"})); err != nil {
		t.Fatal(err)
	}
	if want := `{"code":"FL-999","severity":"error","text":"x","notes":[],"fixes":[]}` + "\n"; b.String() != want {
		t.Errorf("got %s", b.String())
	}
}

func TestArgvIsThereOnlyForOneCommand(t *testing.T) {
	for command, want := range map[string][]string{
		"":                                   nil,
		"sudo systemctl stop nginx":          {"sudo", "systemctl", "stop", "nginx"},
		"rm './10.0.0.1:80'":                 {"rm", "./10.0.0.1:80"},
		`say "a \"b\" \c" d\ e ''`:           {"say", `a "b" \c`, "d e", ""},
		`a\'b`:                               {"a'b"},
		"fairlead forward [::1]:80 to a":     {"fairlead", "forward", "[::1]:80", "to", "a"},
		"a; b":                               nil,
		"a | b":                              nil,
		"a $HOME":                            nil,
		`a "$HOME"`:                          nil,
		"a `b`":                              nil,
		"a *.conf":                           nil,
		"a 'open":                            nil,
		`a \`:                                nil,
		"a # comment":                        nil,
		"fairlead forward :8080 …":           nil,
		"sudo !!":                            nil,
		"steam: nat wan:1-2/udp to 10.0.0.1": nil,
	} {
		if diff := cmp.Diff(want, argv(command)); diff != "" {
			t.Errorf("%q: %s", command, diff)
		}
	}
}
