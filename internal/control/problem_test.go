package control

import (
	"testing"

	"fairlead"

	"github.com/google/go-cmp/cmp"
)

func TestAProblemIsTheSameOnBothSides(t *testing.T) {
	p := &fairlead.Problem{
		Code: fairlead.CodeUnknownWord, Warning: true, What: "what",
		At:    &fairlead.Excerpt{Pos: fairlead.Pos{File: "f.conf", Line: 6, Col: 42}, Text: "line <&> text", Width: 6, Hint: "hint"},
		Notes: []fairlead.Note{{Label: "by", Text: "somebody"}},
		Fixes: []fairlead.Fix{{Text: "do it", Command: "sudo x 'a b'"}, {Text: "or this"}},
	}
	j := ProblemOf(p)
	if diff := cmp.Diff([]string{"sudo", "x", "a b"}, j.Fixes[0].Argv); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(p, j.Problem()); diff != "" {
		t.Error(diff)
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
