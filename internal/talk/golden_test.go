package talk

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"fairlead"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// looks are the ways in which each form is held in its golden file.
var looks = []struct {
	name string
	conf Config
}{
	{"80 columns", Config{Width: 80}},
	{"120 columns", Config{Width: 120}},
	{"80 columns, colour", Config{Width: 80, Colour: true}},
	{"120 columns, colour", Config{Width: 120, Colour: true}},
	{"80 columns, ASCII", Config{Width: 80, ASCII: true}},
	{"120 columns, ASCII", Config{Width: 120, ASCII: true}},
	{"80 columns, ASCII, colour", Config{Width: 80, ASCII: true, Colour: true}},
	{"120 columns, ASCII, colour", Config{Width: 120, ASCII: true, Colour: true}},
	{"40 columns", Config{Width: 40}},
}

// golden holds everything that print prints in each look. copied are the texts
// that may be wider than the terminal.
func golden(t *testing.T, name string, copied []string, print func(p *Printer)) {
	t.Helper()
	var all strings.Builder
	for _, look := range looks {
		var b strings.Builder
		conf := look.conf
		conf.Out, conf.Err = &b, &b
		print(New(conf))
		checkLines(t, b.String(), conf.Width, copied)
		if conf.ASCII && strings.ContainsFunc(b.String(), func(r rune) bool { return r > unicode.MaxASCII }) {
			t.Errorf("%s: a character outside of ASCII in\n%s", look.name, b.String())
		}
		if esc := strings.Contains(b.String(), "\x1b"); esc && !conf.Colour {
			t.Errorf("%s: colour in\n%s", look.name, b.String())
		}
		// Visible escapes keep the files readable and reviewable.
		fmt.Fprintf(&all, "==== %s\n%s", look.name, strings.ReplaceAll(b.String(), "\x1b", "<ESC>"))
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(all.String(), "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// uncoloured takes away exactly the colours that the package has.
var uncoloured = strings.NewReplacer(string(red), "", string(yellow), "", string(green), "", reset, "")

// checkLines asserts what holds for every printed text: nothing but visible
// characters, no blanks at the ends of lines, and no line wider than the
// terminal but for those that hold a text meant to be copied.
func checkLines(t *testing.T, text string, columns int, copied []string) {
	t.Helper()
	if text != "" && !strings.HasSuffix(text, "\n") {
		t.Errorf("does not end with a newline: %q", text)
	}
next:
	for line := range strings.SplitSeq(strings.TrimSuffix(uncoloured.Replace(text), "\n"), "\n") {
		if strings.TrimRight(line, " \t") != line {
			t.Errorf("blanks at the end of %q", line)
		}
		for _, r := range line {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar && !strings.Contains(text, "\ufffd") {
				t.Errorf("%U in %q", r, line)
			}
		}
		if width(line) <= columns {
			continue
		}
		for _, c := range copied {
			if c != "" && strings.HasSuffix(line, c) {
				continue next
			}
		}
		t.Errorf("%d columns, want at most %d: %q", width(line), columns, line)
	}
}

func at(file string, line, col, width int, text, hint string) *fairlead.Excerpt {
	return &fairlead.Excerpt{Pos: fairlead.Pos{File: file, Line: line, Col: col}, Text: text, Width: width, Hint: hint}
}

// marked is an excerpt whose mark stands under word.
func marked(file string, line int, text, word, hint string) *fairlead.Excerpt {
	return at(file, line, strings.LastIndex(text, word)+1, len(word), text, hint)
}

const file = "/etc/fairlead/fairlead.conf"

var problems = map[string][]*fairlead.Problem{
	"port-in-use": {
		{Code: fairlead.CodeInUse, What: "0.0.0.0:80/tcp is already in use",
			At: at(file, 7, 0, 0, "web: forward :80 to 192.168.1.10", ""),
			Notes: []fairlead.Note{
				{Label: "by", Text: "nginx, pid 812, user www-data, unit nginx.service, for 3 d 4 h"}},
			Fixes: []fairlead.Fix{
				{Text: "another port", Command: "fairlead forward :8080 to 192.168.1.10"},
				{Text: "another address", Command: "fairlead forward 192.0.2.7:80 to 192.168.1.10"},
				{Text: "stop the other program", Command: "sudo systemctl stop nginx"}}},
	},
	"port-in-use-container": {
		{Code: fairlead.CodeInUse, What: "0.0.0.0:8080/tcp is already in use",
			At: at("", 1, 9, 5, "forward :8080 to 10.0.0.4:80", ""),
			Notes: []fairlead.Note{
				{Label: "by", Text: `container "grafana" (docker-proxy pid 2210; compose project mon, service grafana)`}},
			Fixes: []fairlead.Fix{
				{Text: "another port", Command: "fairlead forward :8081 to 10.0.0.4:80"},
				{Text: "stop the container", Command: "docker stop grafana"}}},
	},
	"port-in-use-other-user": {
		{Code: fairlead.CodeInUseByOther, What: "127.0.0.1:5432/tcp is already in use, by a program of user postgres",
			Notes: []fairlead.Note{{Label: "note", Text: "this user may not look into the processes of others"}},
			Fixes: []fairlead.Fix{{Text: "see which one", Command: "sudo fairlead forward 5432 to db.internal"}}},
	},
	"low-port": {
		{Code: fairlead.CodeLowPort,
			What: "port 80 needs a privilege: ports below 1024 are reserved (net.ipv4.ip_unprivileged_port_start = 1024)",
			At:   at("", 1, 9, 3, "forward :80 to 192.168.1.10:8080", ""),
			Fixes: []fairlead.Fix{
				{Text: "run it as a service, which gets just that right", Command: "sudo systemctl enable --now fairlead"},
				{Text: "give the right to the program, again after each upgrade", Command: "sudo setcap cap_net_bind_service=+ep /home/operator/.local/share/programs/fairlead/1.4.0/bin/fairlead"},
				{Text: "a high port", Command: "fairlead forward :8080 to 192.168.1.10:8080"}}},
	},
	"half-bound": {
		{Code: fairlead.CodeHalfBound, Warning: true,
			What: `port 8080 is free on [::1] but taken on 127.0.0.1: a program that connects to "localhost" would reach python3 (pid 30473) and not this forward`,
			At:   at(file, 12, 0, 0, "dev: forward 8080 to 10.0.0.4:80", ""),
			Fixes: []fairlead.Fix{
				{Text: "another port", Command: "dev: forward 8081 to 10.0.0.4:80"},
				{Text: "say that one family is enough", Command: "dev: forward [::1]:8080 to 10.0.0.4:80"}}},
	},
	"name-not-found": {
		{Code: fairlead.CodeNameUnknown, What: `no address for "db.internl" (the name server 192.168.1.1 says that it does not exist)`,
			At: marked("fairlead.conf", 12, "pgtunnel: local 5432 to db.internl:5432 via jump", "db.internl",
				`did you mean "db.internal" (line 14)?`),
			Notes: []fairlead.Note{{Label: "note", Text: "the name is looked up at jump, not here"}}},
	},
	"overlap": {
		{Code: fairlead.CodeOverlap, What: "steam and cs both listen at wan:27015/udp",
			At:    marked("fairlead.conf", 9, "steam: nat wan:27000-27015/udp to 192.168.1.21", "wan:27000-27015/udp", ""),
			Notes: []fairlead.Note{{Label: "and", Text: "fairlead.conf:4   cs: nat wan:27015/udp to 192.168.1.22"}},
			Fixes: []fairlead.Fix{{Text: "a smaller range", Command: "steam: nat wan:27000-27014/udp to 192.168.1.21"}}},
	},
	"unreadable": {
		{Code: fairlead.CodeUnreadable, What: "read " + file + ": permission denied",
			Notes: []fairlead.Note{{Label: "why", Text: "it belongs to root:fairlead with mode 0640, and user alice is not in group fairlead"}},
			Fixes: []fairlead.Fix{{Text: "read it as root", Command: "sudo fairlead validate"}},
			Err:   os.ErrPermission},
	},
	"no-service": {
		{Code: fairlead.CodeNoService, What: "no service answers at /run/fairlead/control.sock",
			Fixes: []fairlead.Fix{
				{Text: "start it", Command: "sudo systemctl start fairlead"},
				{Text: "run this one forward until Ctrl-C: leave the word add away", Command: ""}}},
	},
	"target-refuses": {
		{Code: fairlead.CodeTargetRefuses, Warning: true,
			What:  "192.168.1.10:80 refuses connections (RST in 0.4 ms): the machine is up, and nothing listens there",
			Notes: []fairlead.Note{{Label: "note", Text: "the forward stays active, and the target is tried again"}},
			Fixes: []fairlead.Fix{{Text: "start the service on 192.168.1.10"}, {Text: "another port", Command: "fairlead edit web to 192.168.1.10:8080"}}},
	},
	"grammar-mistakes": {
		{Code: fairlead.CodeUnknownWord, What: `unknown modifier "hairpn"`,
			At: marked("fairlead.conf", 6, "minecraft: nat wan:25565 to 192.168.1.20 hairpn", "hairpn", `did you mean "hairpin"?`)},
		{Code: fairlead.CodeUnknownKind, What: `unknown kind "natt"; kinds are forward, nat, open, local, remote, dynamic, map, router, trigger, helper, share, sshd, tunnel`,
			At: marked("fairlead.conf", 7, "steam: natt wan:27015 to 192.168.1.21", "natt", `did you mean "nat"?`)},
		{Code: fairlead.CodeAmbiguousIPv6, What: "2001:db8::10:443 may be an address or an address with a port",
			At: marked("fairlead.conf", 8, "nas: forward 443 to 2001:db8::10:443", "2001:db8::10:443", "write [2001:db8::10]:443")},
		{Code: fairlead.CodeBadPort, What: "port 99999 is not between 1 and 65535",
			At: marked("fairlead.conf", 9, "\tweb: forward\t:99999 to 10.0.0.4", "99999", "")},
		{Code: fairlead.CodeIncomplete, What: `a target is missing behind "to"`,
			At: at("fairlead.conf", 10, 25, 1, "late: forward :8080   to", "name a host: to 10.0.0.4:80")},
		{Code: fairlead.CodeUnknownPlace, What: `no place is called "jmup"`,
			At: marked("fairlead.conf", 120, "database-of-the-accounting-department: local 127.0.0.1:15432 to postgres-primary.accounting.internal.example.net:5432 via jmup connect 5s linger 30s max-conns 200", "jmup", `did you mean "jump" (line 3)?`)},
		{Code: fairlead.CodeBadCharacter, What: "a character that cannot be seen stands in a name",
			At: marked("fairlead.conf", 13, "日本\u202eweb: forward ｗ\u00a0:80 to e\u0301t\u0301", "\u00a0", "U+00A0 is no blank")},
		{Code: fairlead.CodeShellArrow, What: `"->" was not received: the shell took it and opened the file "10.0.0.1:80" for the output`,
			At:    at("", 1, 15, 1, "forward :8080 -", ""),
			Fixes: []fairlead.Fix{{Text: `write the word "to"`, Command: "fairlead forward :8080 to 10.0.0.1:80"}, {Text: "remove the empty file", Command: "rm './10.0.0.1:80'"}}},
	},
}

func TestProblemsKeepTheirForm(t *testing.T) {
	for name, list := range problems {
		t.Run(name, func(t *testing.T) {
			var copied []string
			for _, p := range list {
				for _, f := range p.Fixes {
					copied = append(copied, f.Command)
				}
			}
			golden(t, name, copied, func(p *Printer) { p.Problems(list, 0) })
		})
	}
}

func TestManyProblemsAreCounted(t *testing.T) {
	p := &fairlead.Problem{Code: fairlead.CodeSyntax, What: "something is wrong"}
	w := &fairlead.Problem{Code: fairlead.CodeHalfBound, Warning: true, What: "something is half right"}
	list := func(errors, warnings int) (l []*fairlead.Problem) {
		for range errors {
			l = append(l, p)
		}
		for range warnings {
			l = append(l, w)
		}
		return l
	}
	for _, test := range []struct {
		list  []*fairlead.Problem
		total int
		want  string
	}{
		{list(1, 0), 0, ""},
		{list(3, 0), 0, "3 errors"},
		{list(1, 2), 3, "1 error and 2 warnings"},
		{list(10, 0), 12, "12 errors, the first 10 are shown"},
		{list(11, 2), 0, "11 errors and 2 warnings, the first 10 are shown"},
		{list(1, 0), 4, "4 errors, the first is shown"},
	} {
		var b strings.Builder
		New(Config{Err: &b}).Problems(test.list, test.total)
		blocks := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n\n")
		want := min(len(test.list), 10)
		if test.want != "" {
			if got := blocks[len(blocks)-1]; got != test.want {
				t.Errorf("last line %q, want %q", got, test.want)
			}
			want++
		}
		if len(blocks) != want {
			t.Errorf("%d blocks, want %d:\n%s", len(blocks), want, b.String())
		}
	}
}

func TestVerboseTellsTheCause(t *testing.T) {
	p := &fairlead.Problem{Code: fairlead.CodeFailed, What: "it failed", Err: errors.New("bind: \x1b[2J")}
	var quiet, verbose strings.Builder
	New(Config{Err: &quiet}).Problem(p)
	New(Config{Err: &verbose, Verbose: true}).Problem(p)
	if want := "error[FL-999]: it failed\n"; quiet.String() != want {
		t.Errorf("got %q, want %q", quiet.String(), want)
	}
	if want := "error[FL-999]: it failed\ncause  bind: \\x1b[2J\n"; verbose.String() != want {
		t.Errorf("got %q, want %q", verbose.String(), want)
	}
}

var statusRows = []StatusRow{
	{Name: "web", State: fairlead.Verified, Kind: "nat", Listen: "wan:80,443/tcp", Target: "192.168.1.10", Active: 18, In: 1_100_000, Out: 3_000_000},
	{Name: "pgtunnel", State: fairlead.Passing, Kind: "local", Listen: "127.0.0.1:15432/tcp", Target: "db.internal.example.net:5432", In: 512, Out: 40_000},
	{Name: "minecraft", State: fairlead.Broken, Kind: "nat", Listen: "wan:25565/tcp+udp", Target: "192.168.1.20:25565",
		Code: fairlead.CodeTargetSilent, Error: "192.168.1.20:25565 does not answer (3.0 s); it is switched off, or its firewall drops what comes"},
	{Name: "pg", State: fairlead.Partial, Kind: "forward", Listen: "[::]:5432/tcp", Target: "db-a:5432, db-b:5432", Active: 3, In: 200_000, Out: 1_000_000,
		Code: fairlead.CodeTargetRefuses, Error: "db-b:5432 refuses connections"},
	{Name: "old", State: fairlead.Disabled, Kind: "forward", Listen: "9000/tcp", Target: "10.0.0.1"},
	{Name: "socks", State: fairlead.Listening, Kind: "dynamic", Listen: "1080/tcp"},
}

func TestStatusKeepsItsForm(t *testing.T) {
	service := &Service{Version: "1.4.0", Up: 12 * 24 * time.Hour, File: file, InForce: 125 * time.Minute}
	golden(t, "status", nil, func(p *Printer) { p.Status(StatusView{Service: service, Rows: statusRows}) })
	golden(t, "status-short", nil, func(p *Printer) {
		p.Status(StatusView{Rows: []StatusRow{
			{Name: "web", State: fairlead.Passing, Kind: "forward", Listen: ":8080/tcp", Target: "web.example.net:80", Active: 1, Out: 999},
			{Name: "ns", State: fairlead.Broken, Kind: "forward", Listen: "53/udp", Target: "9.9.9.9:53", Code: fairlead.CodeInUse, Error: "127.0.0.1:53/udp is already in use by dnsmasq"},
		}})
	})
	long := strings.Repeat("name", 15)
	golden(t, "status-long-name", []string{"fairlead status " + long}, func(p *Printer) {
		p.Status(StatusView{Rows: []StatusRow{{Name: long, State: fairlead.Broken, Kind: "forward",
			Listen: "unix:/run/user/1000/application/very/deep/socket", Target: "unix:/run/other/very/deep/socket",
			Code: fairlead.CodeNoSocket, Error: "there is no socket"}}})
	})
	refused := []string{problems["overlap"][0].Fixes[0].Command}
	golden(t, "status-none", refused, func(p *Printer) {
		p.Status(StatusView{Service: &Service{Version: "1.4.0", Up: 3 * time.Second, File: file, InForce: time.Second,
			FileProblems: problems["overlap"]}})
	})
}

func TestNamesAreNeverCut(t *testing.T) {
	name := strings.Repeat("n", 35)
	for columns := minWidth; columns <= maxWidth; columns++ {
		var b strings.Builder
		rows := append([]StatusRow{{Name: name, State: fairlead.Broken, Kind: "forward", Listen: "80/tcp", Target: strings.Repeat("t", 300)}}, statusRows...)
		New(Config{Out: &b, Width: columns}).Status(StatusView{Rows: rows})
		checkLines(t, b.String(), columns, []string{"fairlead status " + name})
		for _, r := range rows {
			if !strings.Contains(strings.ReplaceAll(b.String(), "\n  ", ""), r.Name) {
				t.Errorf("%d columns: %s is not there whole:\n%s", columns, r.Name, b.String())
			}
		}
	}
}

func TestDetailKeepsItsForm(t *testing.T) {
	d := Detail{
		Name: "pg", State: fairlead.Partial,
		Sentence: "forward [::]:5432 to db-a:5432, db-b:5432 policy failover check tcp every 5s proxy-protocol v2",
		Written:  file + ":14", Owner: "file", Carrier: "relay",
		Bound: []string{"[::]:5432/tcp", "0.0.0.0:5432/tcp"}, Reach: "everybody who can reach this machine",
		Targets: []TargetRow{
			{Target: "db-a:5432", Up: true, Since: 76 * time.Hour},
			{Target: "db-b:5432", Error: "refuses connections (RST in 0.4 ms): the machine is up, and nothing listens there", Since: 4 * time.Minute},
			{Target: "db-c:5432"},
			{Target: "db-d:5432", Up: true, Since: time.Hour, Draining: true, Active: 3},
			{Target: "db-e:5432", Up: true, Since: time.Hour, Backup: true, Active: 1},
			{Target: "db.lan:5432", Up: true, Active: 2},
			{Target: "10.0.0.7:5432", Member: true, Up: true, Since: time.Minute, Active: 1},
			{Target: "10.0.0.8:5432", Member: true, Draining: true, Gone: true, Active: 1}},
		Active: 3, Flows: 1204, Refused: 1, Dropped: 2, In: 200_000, Out: 1_000_000, Expires: 2 * time.Hour,
		Problem: problems["target-refuses"][0],
	}
	copied := []string{d.Sentence, d.Problem.Fixes[1].Command}
	golden(t, "detail", copied, func(p *Printer) { p.Forward(d) })
}

func TestConnsKeepTheirForm(t *testing.T) {
	rows := []ConnRow{
		{ID: "4f2a", Forward: "web", Client: "198.51.100.4:51514", Target: "192.168.1.10:443", Age: 12 * time.Minute, In: 11_000_000, Out: 320_000_000},
		{ID: "4f2b", Forward: "pgtunnel", Client: "127.0.0.1:40222", Target: "db.internal:5432", Age: 3 * time.Second, In: 40_000, Out: 1_200_000},
		{ID: "4f2c", Forward: "dns", Client: "unix", Age: 400 * time.Millisecond},
	}
	golden(t, "conns", nil, func(p *Printer) { p.Conns(rows) })
	rows = append(rows, ConnRow{ID: "4f30", Forward: "web", Client: "[2001:db8:1234:5678:9abc:def0:1234:5678]:51514", Target: "[2001:db8:1234:5678:9abc:def0:1234:1]:443", Age: 50 * time.Hour})
	golden(t, "conns-ipv6", nil, func(p *Printer) { p.Conns(rows) })
	rows = append(rows[:2:2], ConnRow{ID: "4f2e", Forward: "tls", Client: "198.51.100.7:50000", Target: "10.0.0.9:443", Asked: "www.example.net", Age: time.Minute, In: 517, Out: 4096})
	golden(t, "conns-asked", nil, func(p *Printer) { p.Conns(rows) })
	golden(t, "conns-none", nil, func(p *Printer) { p.Conns(nil) })
}

func TestPlanKeepsItsForm(t *testing.T) {
	golden(t, "plan", nil, func(p *Printer) {
		p.Plan([]PlanRow{
			{Op: Add, Name: "web", Sentence: "forward :80 to 192.168.1.10"},
			{Op: Change, Name: "dns", Sentence: "forward 127.0.0.1:5353/udp to 9.9.9.9:53", Was: "forward 127.0.0.1:5353/udp to 8.8.8.8:53", Cuts: 1},
			{Op: Remove, Name: "pg", Sentence: "forward [::]:5432 to db-a:5432, db-b:5432 policy failover check tcp every 5s", Cuts: 3},
		})
	})
	golden(t, "plan-none", nil, func(p *Printer) { p.Plan(nil) })
}

func TestPagesKeepTheirForm(t *testing.T) {
	golden(t, "page", nil, func(p *Printer) {
		for _, page := range fairlead.Pages {
			if page.Code == fairlead.CodeLowPort {
				p.Page(page)
			}
		}
	})
}

func TestPlainTablesAreFieldsBetweenTabs(t *testing.T) {
	var b strings.Builder
	p := New(Config{Out: &b, Plain: true, Colour: true})
	p.Status(StatusView{Service: &Service{Version: "1"}, Rows: statusRows[1:3]})
	p.Conns([]ConnRow{{ID: "1", Forward: "a\tb\nc", Client: "x", Target: "y", Age: 90 * time.Second, In: 1200, Out: 5}})
	p.Plan([]PlanRow{{Op: Change, Name: "n", Sentence: "forward 1 to 2", Was: "forward 1 to 3", Cuts: 2}})
	want := "broken\tminecraft\tnat\twan:25565/tcp+udp\t192.168.1.20:25565\t0\t0\t0\tFL-202\t192.168.1.20:25565 does not answer (3.0 s); it is switched off, or its firewall drops what comes\n" +
		"passing\tpgtunnel\tlocal\t127.0.0.1:15432/tcp\tdb.internal.example.net:5432\t0\t512\t40000\t\t\n" +
		"1\ta    b\\nc\tx\ty\t90\t1200\t5\n" +
		"change\tn\tforward 1 to 2\t2\tforward 1 to 3\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
