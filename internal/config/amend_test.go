package config

import (
	"strings"
	"testing"

	"fairlead"
)

func TestAmendKeepsWhatIsNotSaidAgain(t *testing.T) {
	for _, c := range []struct{ old, words, want string }{
		{"forward 1 to a from 10.0.0.0/8 idle 3s linger 9s", "idle 4s", "forward 1 to a from 10.0.0.0/8 idle 4s linger 9s"},
		{"forward 1 to a from 10.0.0.0/8 idle 3s", "to b:2", "forward 1 to b:2 idle 3s"},
		{"forward 1 to a deny 10.0.0.1 deny 10.0.0.2", "--deny=10.0.0.3", "forward 1 to a deny 10.0.0.3"},
		{`forward "unix:/a b" to x:1`, "idle 3s", `forward "unix:/a b" to x:1 idle 3s`},
		{"forward 1 to a idle 3s", "forward 2 to b", "forward 2 to b"},
		{"local 1 to x via p", "idle 5s", "local 1 to x via p idle 5s"},
		{"local 1 to x via p", "via q", "local 1 to x via q"},
		{"trigger 1 opens 2 on lan", "for 3s", "trigger 1 opens 2/tcp for 3s on lan"},
		{"forward 1 to a sni x.net, b", "protocol ssh greet 2s", "forward 1 to a sni x.net, b protocol ssh greet 2s"},
		{"trigger 1 opens 2 on lan", "on br0 opens 3", "trigger 1 opens 3/tcp on br0"},
		{"sshd on 10.0.0.1:22", "on :2222", "sshd on :2222"},
		{"sshd on :22 { user a keys b may listen 1 }", "idle 5s", "sshd on :22 idle 5s { user a keys b may listen 1 }"},
		{"dynamic 1 from 10.0.0.0/8 pac kill-switch", "idle 5s", "dynamic 1 from 10.0.0.0/8 idle 5s pac kill-switch"},
	} {
		old := parseOne(t, "web: "+c.old)
		before := Sentence(old)
		f, problems := Amend(old, strings.Fields(c.words))
		if len(problems) > 0 {
			t.Errorf("%s, %s: %s", c.old, c.words, problems[0].What)
			continue
		}
		if f.Expr != c.want || f.Name != "web" || Sentence(old) != before {
			t.Errorf("%s, %s\n got %s\nwant %s", c.old, c.words, f.Expr, c.want)
		}
		if again := parseOne(t, f.Expr); again.Expr != f.Expr {
			t.Errorf("%s is not canonical", f.Expr)
		}
	}
}

func TestAmendRefusesWhatDoesNotFit(t *testing.T) {
	for _, c := range []struct {
		old, words string
		code       fairlead.Code
	}{
		{"forward 1 to a", "idel 5s", fairlead.CodeUnknownWord},
		{"forward 1 to a", "pac", fairlead.CodeWrongKind},
		{"forward 1-4 to a", "to b:1-3", fairlead.CodeRangeMismatch},
		{"forward 1 to a", "to localhost:1", fairlead.CodeLoop},
		{"forward 1 to a", "to", fairlead.CodeIncomplete},
		{"dynamic 1", "to x", fairlead.CodeWrongKind},
		{"forward 1 to a", "nat", fairlead.CodeIncomplete},
	} {
		f, problems := Amend(parseOne(t, c.old), strings.Fields(c.words))
		if f != nil || len(problems) != 1 || problems[0].Code != c.code {
			t.Errorf("%s, %s: %v %v, want %s", c.old, c.words, f, problems, c.code)
		}
	}
}
