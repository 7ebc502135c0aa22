package talk

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"fairlead"
)

func TestForeignTextIsInert(t *testing.T) {
	for _, test := range []struct{ in, utf8, ascii string }{
		{"plain text", "plain text", "plain text"},
		{"a\x1b[31mb", `a\x1b[31mb`, `a\x1b[31mb`},
		{"a\r\nb\x00\x7f", `a\r\nb\x00\x7f`, `a\r\nb\x00\x7f`},
		{"\u009b31m", `\u009b31m`, `\u009b31m`},
		{"abc\u202edef\u2066", `abc\u202edef\u2066`, `abc\u202edef\u2066`},
		{"a\u200bb\u2028c\u00a0d\ufeff", `a\u200bb\u2028c\u00a0d\ufeff`, `a\u200bb\u2028c\u00a0d\ufeff`},
		{"\xff\xc3", `\xff\xc3`, `\xff\xc3`},
		{"\U000e0041", `\U000e0041`, `\U000e0041`},
		{"a\tb", "a    b", "a    b"},
		{"\u0301x", `\u0301x`, `\u0301x`},                                                        // would join what we print before it
		{"e\u0301\u0301\u0301\u0301", "e\u0301\u0301\u0301\\u0301", `e\u0301\u0301\u0301\u0301`}, // towers of marks
		{"→ … é 日本", "→ … é 日本", `-> ... \u00e9 \u65e5\u672c`},
		{"\u3164\u2800\ufe0f", `\u3164\u2800\ufe0f`, `\u3164\u2800\ufe0f`}, // look like nothing
	} {
		if got := (look{}).inert(test.in); got != test.utf8 {
			t.Errorf("%q: got %q, want %q", test.in, got, test.utf8)
		}
		if got := (look{ascii: true}).inert(test.in); got != test.ascii {
			t.Errorf("%q in ASCII: got %q, want %q", test.in, got, test.ascii)
		}
		if once := (look{}).inert(test.in); (look{}).inert(once) != once {
			t.Errorf("%q: not the same when made inert twice", test.in)
		}
	}
}

func TestWidthCountsColumns(t *testing.T) {
	for s, want := range map[string]int{
		"": 0, "abc": 3, "日本": 4, "ｗ": 2, "é": 1, "e\u0301": 1, "→●◐○✖…−": 7, "🙂": 2, "한": 2, "\u1112\u1161\u11ab": 2, "ﾊ": 1,
	} {
		if got := width(s); got != want {
			t.Errorf("width(%q) = %d, want %d", s, got, want)
		}
		if got := columnsOf(look{}.cells(s)); got != want {
			t.Errorf("cells of %q: %d columns, want %d", s, got, want)
		}
	}
}

func TestLongTextsAreBounded(t *testing.T) {
	p := &fairlead.Problem{Code: "FL-999", What: strings.Repeat("é", 1<<20),
		At: at("f", 1, 700_000, 3, strings.Repeat("日", 1<<20), strings.Repeat("h", 1<<20))}
	var b strings.Builder
	New(Config{Err: &b}).Problem(p)
	if b.Len() > 20*maxText {
		t.Errorf("%d bytes are printed", b.Len())
	}
	checkLines(t, b.String(), 80, nil)
}

func TestMarkStaysUnderItsCharacters(t *testing.T) {
	// The character meant is found again in what is printed, wherever the
	// window lies.
	for _, fill := range []string{"a", "日", "e\u0301", "\t", "\x1b", "ab "} {
		for before := 0; before < 120; before++ {
			text := "x" + strings.Repeat(fill, before) + "#" + strings.Repeat(fill, 120-before)
			var b strings.Builder
			New(Config{Err: &b, Width: 60}).Problem(&fairlead.Problem{What: "w", At: at("file", 1, strings.Index(text, "#")+1, 1, text, "")})
			checkLines(t, b.String(), 60, nil)
			lines := strings.Split(b.String(), "\n")
			line, under := lines[len(lines)-3], lines[len(lines)-2]
			got := width(line[:strings.Index(line, "#")])
			if want := strings.Index(under, "~"); got != want {
				t.Fatalf("mark at column %d, want %d:\n%s", want, got, b.String())
			}
		}
	}
}

// FuzzForeignText prints hostile texts in every form and looks whether they
// could do anything to a terminal.
func FuzzForeignText(f *testing.F) {
	f.Add("name", "text with words", 3, 2, uint8(80), false)
	f.Add("\x1b[2J", "a\x1b]0;title\x07\u009b\u202e\r\nb", 5, 40, uint8(40), true)
	f.Add("e\u0301\u0301\u0301\u0301\u0301", strings.Repeat("日本 ", 90), 100, 1, uint8(0), false)
	f.Add("\xff\xfe", "\t\t  x\t", 0, -1, uint8(200), true)
	f.Add(strings.Repeat("n", 300), "  \u00a0 \u3000", 1<<40, 1<<62, uint8(60), false)
	f.Fuzz(func(t *testing.T, a, b string, col, columns int, screen uint8, ascii bool) {
		var out strings.Builder
		conf := Config{Out: &out, Err: &out, Width: int(screen), ASCII: ascii, Verbose: true}
		p := New(conf)
		p.Problems([]*fairlead.Problem{
			{Code: fairlead.Code(a), What: b, At: at(a, 1, col, columns, b, a), Notes: []fairlead.Note{{Label: a, Text: b}, {Label: "by", Text: a}}, Fixes: []fairlead.Fix{{Text: b}, {Text: a}}},
			{Warning: true, What: a, At: at(b, 0, 0, columns, a, b)},
			{What: a, At: at("", 1, col/2, columns/2, b+b, b)},
		}, col)
		p.Say("%s", b)
		p.Forward(Detail{Name: a, State: fairlead.State(b), Written: b, Owner: a, Carrier: b, Bound: []string{a, b}, Reach: b,
			Targets: []TargetRow{{Target: a, Error: b}, {Target: b, Up: true}}, Flows: int64(col), In: int64(columns)})
		p.Conns([]ConnRow{{ID: a, Forward: b, Client: a, Target: b, Age: time.Duration(col), In: int64(columns)}, {Client: b, Target: a}})
		p.Plan([]PlanRow{{Op: Change, Name: a, Sentence: b, Was: a, Cuts: 3}, {Op: PlanOp(b), Name: b, Sentence: a}})
		p.Status(StatusView{Service: &Service{Version: a, File: b}, Rows: []StatusRow{
			{Name: a, State: fairlead.Verified, Kind: b, Listen: a, Target: b, Active: 3, Code: fairlead.Code(a), Error: b},
			{Name: b, State: fairlead.State(a), Kind: a, Listen: b, Target: a}}})
		s := p.Step(a)
		s.Done("%s", b)
		checkLines(t, out.String(), p.conf.Width, nil)
		if ascii && strings.ContainsFunc(out.String(), func(r rune) bool { return r > unicode.MaxASCII }) {
			t.Errorf("a character outside of ASCII in %q", out.String())
		}

		// What is copied may be wide, and is as inert as the rest.
		out.Reset()
		p.Offer(a, b)
		p.Problem(&fairlead.Problem{What: "w", Fixes: []fairlead.Fix{{Text: a, Command: b}, {Command: a}}})
		p.Forward(Detail{Sentence: b})
		checkLines(t, out.String(), 1<<40, nil)

		out.Reset()
		if err := p.JSON([]string{a, b}); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%U in %q", r, out.String())
			}
		}
	})
}
