package config

import (
	"strings"
	"testing"
)

func TestRewriteTouchesOneLineOfABlock(t *testing.T) {
	const file = `pg: forward 5432 to db-a:5432, db-b:5432 {   # open
        policy failover     # c1
   # inside
        connect 2s
}   # close
web: forward 80 to x
`
	for _, c := range []struct{ words, from, to string }{
		{"connect 9s", "        connect 2s\n", "        connect 9s\n"},
		{"policy random", "policy failover     # c1", "policy random     # c1"},
		{"idle 5m", "connect 2s\n}", "connect 2s\n        idle 5m\n}"},
		{"to db-c", "to db-a:5432, db-b:5432 {", "to db-c {"},
	} {
		f, problems := Parse("f.conf", []byte(file))
		if len(problems) > 0 {
			t.Fatal(problems[0])
		}
		now, problems := Amend(f.Forwards[0], strings.Fields(c.words))
		if len(problems) > 0 {
			t.Fatal(problems[0])
		}
		out, problems := Rewrite([]byte(file), "pg", f.Forwards[0], now)
		if len(problems) > 0 {
			t.Fatal(problems[0])
		}
		if want := strings.Replace(file, c.from, c.to, 1); want == file || string(out) != want {
			t.Errorf("%s:\n%s\nwant\n%s", c.words, out, want)
		}
		again, problems := Parse("f.conf", out)
		if len(problems) > 0 || again.Forwards[0].Expr != now.Expr {
			t.Errorf("%s: reads %s, want %s (%v)", c.words, again.Forwards[0].Expr, now.Expr, problems)
		}
	}
}

func TestAForwardIsWrittenWithoutTheDefaultsItWasGiven(t *testing.T) {
	f, problems := Parse("f.conf", []byte("defaults { connect 3s }\nweb: forward 80 to x idle 5m\n"))
	if len(problems) > 0 {
		t.Fatal(problems[0])
	}
	if got := Sentence(f.Written(f.Forwards[0])); got != "forward 80 to x idle 5m" {
		t.Errorf("got %s", got)
	}
}
