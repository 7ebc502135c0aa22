package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"fairlead"
)

// example is the file of the design.
const example = `# fairlead.conf
wan   eth0                         # default: the interfaces of the default routes
lan   br0, br1                     # default: the others that have private addresses
place jump  ssh ops@jump.example.net
place relay fairlead relay.example.net:7443 server-key ed25519:… key /etc/fairlead/nas.key
place home  router auto

web:       nat     wan:80,443       to 192.168.1.10
minecraft: nat     wan:25565/tcp+udp    to 192.168.1.20   from 203.0.113.0/24
split:     nat     wan:8080             to 192.168.1.30 from 198.51.100.0/24, 192.168.1.31
pg:        forward [::]:5432            to db-a:5432, db-b:5432 {
    policy failover
    check tcp every 5s
    proxy-protocol v2
}
dns:       forward 127.0.0.1:5353/udp   to 9.9.9.9:53
pgtunnel:  local   15432                to db.internal:5432   via jump
demo:      remote  relay:8443           to localhost:3000
socks:     dynamic 1080                 via jump
wg:        map     home:51820/udp       to self:51820
irc:       trigger 6667             opens 113/tcp  for 120s
dhcp:      helper  lan:67/udp           to 10.9.0.2
homes:     router  on lan
door:      sshd    on :2222 { user alice keys /etc/fairlead/alice.pub  may listen 8000-8100 }
masq:      share   lan                  to wan
hub:       tunnel  on :7443 { agent nas key ed25519:…  may listen 2222 51820/udp  may dial 10.0.0.0/8:22 }
registry   etcd http://127.0.0.1:2379       # only where several relays share their claims
`

// wantProblems compares problems with "CODE line:column what" lines.
func wantProblems(t *testing.T, problems []*fairlead.Problem, want ...string) {
	t.Helper()
	var got []string
	for _, p := range problems {
		s := string(p.Code)
		if p.At != nil {
			s += fmt.Sprintf(" %d:%d", p.At.Pos.Line, p.At.Pos.Col)
		}
		got = append(got, s+" "+p.What)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("problems\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

func mustParse(t *testing.T, text string) *File {
	t.Helper()
	file, problems := Parse("", []byte(text))
	if len(problems) > 0 {
		t.Fatalf("%s: %s %s", text, problems[0].Code, problems[0].What)
	}
	return file
}

func TestExampleFileParses(t *testing.T) {
	file := mustParse(t, example)
	if len(file.Forwards) != 15 || len(file.Places) != 3 {
		t.Fatalf("%d forwards, %d places", len(file.Forwards), len(file.Places))
	}
	if !reflect.DeepEqual(file.LAN, []string{"br0", "br1"}) || !reflect.DeepEqual(file.WAN, []string{"eth0"}) {
		t.Errorf("wan %v lan %v", file.WAN, file.LAN)
	}
	if p := file.Places[1]; p.Name != "relay" || p.Option("key") != "/etc/fairlead/nas.key" || p.Option("server-key") != "ed25519:…" || p.Source.Line != 5 {
		t.Errorf("%+v", p)
	}
	pg := file.Forwards[3]
	if pg.Policy.ProxyProtocol != 2 || pg.Policy.Check.Every != 5*time.Second || pg.Source.Line != 11 || pg.Owner.Kind != fairlead.OwnerFile {
		t.Errorf("%+v", pg)
	}
	if file.Registry.Type != "etcd" {
		t.Errorf("%+v", file.Registry)
	}
}

// What the defaults say of one network, or of clients that wait for a limit,
// is not put upon forwards that have none of it.
func TestDefaultsHoldOnlyWhereTheyMeanSomething(t *testing.T) {
	file, problems := Parse("f.conf", []byte(`defaults {
	queue 5s
	max-queue 9
	congestion reno
	mode 660
	greet 2s
	linger 9s
	keepalive 30s
	requests 1
	slow-start 10s
	check http /
	proxy-protocol v1
}
dns:  forward 53/udp to a
web:  forward 80 to a max-conns 3
both: forward 54/tcp+udp to a
ways: forward 443 to a sni a.net, b sni b.net policy random
sock: forward unix:/run/x to a:80
`))
	wantProblems(t, problems)
	for i, want := range []string{
		"forward 53/udp to a requests 1",
		"forward 80 to a max-conns 3 queue 5s max-queue 9 proxy-protocol v1 congestion reno check http / linger 9s keepalive 30s",
		"forward 54/tcp+udp to a congestion reno check http / requests 1 linger 9s keepalive 30s",
		"forward 443 to a sni a.net, b sni b.net proxy-protocol v1 congestion reno policy random slow-start 10s check http / greet 2s linger 9s keepalive 30s",
		"forward unix:/run/x to a:80 proxy-protocol v1 congestion reno mode 660 check http / linger 9s keepalive 30s",
	} {
		if got := file.Forwards[i].Expr; got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
}

func TestDefaultsHoldWhereNothingIsSaid(t *testing.T) {
	file := mustParse(t, `
a: forward 1 to x
b: forward 2 to x idle 9s
c: share lan to wan
d: forward 3 to x idle off
defaults {
    idle 5m
    deny 10.0.0.0/8
}
`)
	for i, want := range []string{
		"forward 1 to x deny 10.0.0.0/8 idle 5m",
		"forward 2 to x deny 10.0.0.0/8 idle 9s",
		"share lan to wan deny 10.0.0.0/8",
		"forward 3 to x deny 10.0.0.0/8 idle off",
	} {
		if got := file.Forwards[i].Expr; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestNamesStandOnce(t *testing.T) {
	_, problems := Parse("f", []byte("a: forward 1 to x\na: forward 2 to x\nplace p ssh h\nplace p ssh i\n"))
	wantProblems(t, problems,
		`FL-309 2:1 the name "a" of line 2 stands in line 1 already`,
		`FL-309 4:7 the place "p" stands in line 3 already`)
}

func TestOverlapsNameBothLines(t *testing.T) {
	for _, c := range []struct {
		a, b string
		meet bool
	}{
		{"forward 80 to x:1", "forward 80 to y:1", true},
		{"forward 80 to x:1", "forward 80/udp to y:1", false},
		{"forward 80 to x:1", "forward 80/tcp+udp to y:1", true},
		{"forward 80-90 to x:1", "forward 85 to y:1", true},
		{"forward 80 to x:1", "forward 127.0.0.1:80 to y:1", true},
		{"forward 80 to x:1", "forward [::1]:80 to y:1", true},
		{"forward 80 to x:1", "forward 127.0.0.2:80 to y:1", false},
		{"forward 80 to x:1", "forward :80 to y:1", true},
		{"forward 80 to x:1", "forward 0.0.0.0:80 to y:1", true},
		{"forward 80 to x:1", "forward [::]:80 to y:1", true},
		{"forward 0.0.0.0:80 to x:1", "forward 10.0.0.1:80 to y:1", true},
		{"forward 0.0.0.0:80 to x:1", "forward [::1]:80 to y:1", false},
		{"forward [::]:80 to x:1", "forward 10.0.0.1:80 to y:1", true},
		{"forward 10.0.0.1:80 to x:1", "forward 10.0.0.2:80 to y:1", false},
		{"nat wan:80 to x", "nat lan:80 to y", false},
		{"nat wan:80 to x", "nat wan:80 to y", true},
		{"nat wan:80 to x", "nat eth0:80 to y", true}, // eth0 is wan
		{"nat wan:80 to x", "nat eth1:80 to y", false},
		{"nat wan:80 to x", "forward :80 to y:1", true},
		{"nat wan:443 to x", "open wan:443 to [2001:db8::1]", false},
		{"open wan:443 to [2001:db8::2]", "open wan:443 to [2001:db8::1]", false},
		{"remote jump:80 to x", "forward :80 to y:1", false},
		{"remote jump:80 to x", "remote jump:80 to y:1", true},
		{"remote jump:80 to x", "remote relay:80 to y:1", false},
		{"remote jump:80 to x", "dynamic jump:80", true},
		{"map 80", "forward :80 to y:1", false},
		{"map 80", "map 80 to self:81", true},
		{"forward 80 to x:1", "forward 80 to y:1 disabled", false},
		{"forward unix:/a to x:1", "forward unix:/b to x:1", false},
		{"forward unix:/a to x:1", "forward unix:/./a to x:1", true},
		{"sshd on :22", "forward 22 to x:1", true},
	} {
		_, problems := Parse("f", []byte("a: "+c.a+"\nb: "+c.b+"\nwan eth0\nplace jump ssh h\nplace relay ssh h\n"))
		switch {
		case len(problems) == 0 && c.meet:
			t.Errorf("%s and %s do not overlap", c.a, c.b)
		case len(problems) > 0 && !c.meet:
			t.Errorf("%s and %s: %s", c.a, c.b, problems[0].What)
		case c.meet && (problems[0].Code != fairlead.CodeOverlap || problems[0].At.Pos.Line != 2 || !strings.Contains(problems[0].What, "line 1 (a, ")):
			t.Errorf("%s and %s: %s %s", c.a, c.b, problems[0].Code, problems[0].What)
		}
	}
}

func TestOverlapShowsAWayOut(t *testing.T) {
	_, problems := Parse("f", []byte("cs: nat wan:27015/udp to a\n\nsteam: nat wan:27000-27015/udp to b\n"))
	wantProblems(t, problems, "FL-303 3:12 line 3 (steam, wan:27000-27015/udp) overlaps line 1 (cs, wan:27015/udp)")
	if len(problems[0].Fixes) != 2 || problems[0].Fixes[0].Command != "steam: nat wan:27000-27014/udp to b" {
		t.Errorf("got %v", problems[0].Fixes)
	}
}

func TestBlocksAreTolerantOfForgottenBraces(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"a: forward 1 to x {\n    idle 5s\nb: forward 2 to y\n", []string{"FL-313 1:19 the block is not closed"}},
		{"a: forward 1 to x\n{\n    idle 5s\n}\nb: forward 2 to y\n", []string{"FL-313 2:1 a block opens on the line that it belongs to"}},
		{"a: forward 1 to x {\n  idle\n  linger 3s\n}\n", []string{`FL-320 2:7 "idle" needs a value`}},
		{"}\n", []string{"FL-313 1:1 this brace closes nothing"}},
		{"a: forward 1 to x {\n", []string{"FL-313 1:19 the block is not closed"}},
	} {
		_, problems := Parse("f", []byte(c.text))
		wantProblems(t, problems, c.want...)
	}
}

func TestTenProblemsAreToldAndTheRestCounted(t *testing.T) {
	var b strings.Builder
	for i := range 25 {
		fmt.Fprintf(&b, "a%d: forwrd %d to x\n", i, i+1)
	}
	_, problems := Parse("f", []byte(b.String()))
	if len(problems) != 11 || problems[10].What != "15 more errors are not shown" {
		t.Errorf("%d problems, the last %q", len(problems), problems[len(problems)-1].What)
	}
	if problems[9].At.Pos.Line != 10 {
		t.Errorf("the tenth is in line %d", problems[9].At.Pos.Line)
	}
}

func TestOddBytesAreNamed(t *testing.T) {
	_, problems := Parse("f", []byte("\xef\xbb\xbfa: forward 1 to x\r\nb: forward 2 to x # \u202e\nc: for\x00ward 3 to x\nd: forward 4 to x\rz\n"))
	wantProblems(t, problems,
		"FL-315 1:1 byte 1 is a byte order mark (U+FEFF)",
		"FL-315 2:21 byte 43 is a character that turns the direction of writing (U+202E)",
		"FL-315 3:7 byte 53 is a NUL byte",
		"FL-315 4:18 byte 83 is a carriage return within the line (0x0D)")
	for _, p := range problems {
		if badCharacter(p.At.Text) >= 0 {
			t.Errorf("%q reaches the terminal", p.At.Text)
		}
	}
	if _, problems := Parse("f", []byte("a: forward 1 to x\r\n\r\nb: forward 2 to x {\r\n idle 5s\r\n}\r\n")); len(problems) > 0 {
		t.Errorf("CRLF: %s", problems[0].What)
	}
}

func TestSizesAreBounded(t *testing.T) {
	_, problems := Parse("f", []byte("a: forward 1 to x\n# "+strings.Repeat("x", maxLine)+"\nb: forward 2 to y z\n"))
	wantProblems(t, problems, "FL-316 2:1 a line has at most 64 KiB, this one 65538", `FL-301 3:19 unknown modifier "z"`)
	_, problems = Parse("f", bytes.Repeat([]byte("#\n"), maxFile/2+1))
	wantProblems(t, problems, "FL-316 f has 16777218 bytes; at most 16 MiB are read")
	_, problems = Parse("f", []byte("a: forward 1 to x {\n"+strings.Repeat("deny 10.0.0.1\n", 1001)+"}\nb: forward 2 to y z\n"))
	wantProblems(t, problems, "FL-316 1:19 a block has at most 1000 lines", `FL-301 1004:19 unknown modifier "z"`)
	_, problems = Parse("f", []byte("a: forward 1 to x "+strings.Repeat("{ ", 1e4)+"\n"))
	if len(problems) == 0 {
		t.Error("nested braces are taken")
	}
}

func TestGarbageIsRefusedSoon(t *testing.T) {
	random := make([]byte, 1<<20)
	for i, n := 0, uint64(1); i < len(random); i++ {
		n = n*6364136223846793005 + 1442695040888963407
		random[i] = byte(n >> 56)
	}
	text := bytes.Clone(random)
	for i := range text {
		text[i] = " abcdefghij:,{}\n0123456789-/[]#\""[text[i]&31]
	}
	for name, garbage := range map[string][]byte{
		"random": random, "text": text, "braces": bytes.Repeat([]byte("{"), 1<<20), "lines": bytes.Repeat([]byte("a\n"), 1<<19),
		"words": bytes.Repeat([]byte("x: forward a b c d\n"), 1<<15), "long": bytes.Repeat([]byte("a "), 1<<19), "json": bytes.Repeat([]byte("["), 1<<20),
		"object": bytes.Repeat([]byte(`{"a":`), 1<<17), "lists": []byte("x: forward " + strings.Repeat("1,", 30000) + "2 to a"),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		_, problems := Parse("f", garbage)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		allocated := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %v, %d KiB allocated", name, took, allocated>>10)
		if len(problems) == 0 || len(problems) > maxProblems+1 {
			t.Errorf("%s: %d problems", name, len(problems))
		}
		if allocated > 16<<20 {
			t.Errorf("%s: %d bytes allocated", name, allocated)
		}
	}
}

// tree writes files below a new directory and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestIncludesAreRead(t *testing.T) {
	dir := tree(t, map[string]string{
		"f.conf":        "a: forward 1 to x via jump\ninclude conf.d/*.conf\ninclude none/*.conf\n",
		"conf.d/1.conf": "place jump ssh h\nb: forward 2 to x\n",
		"conf.d/2.conf": `{"forwards": [{"name": "c", "expr": "forward 3 to x"}]}`,
	})
	path := filepath.Join(dir, "f.conf")
	file, problems := Load(path)
	wantProblems(t, problems)
	if len(file.Forwards) != 3 || len(file.Files) != 3 {
		t.Fatalf("%d forwards of %v", len(file.Forwards), file.Files)
	}
	if at, ok := Find(file, "b"); !ok || at != filepath.Join(dir, "conf.d/1.conf") {
		t.Errorf("b is in %q", at)
	}
	if _, ok := Find(file, "z"); ok {
		t.Error("z is found")
	}
	// One name in two files.
	if err := os.WriteFile(filepath.Join(dir, "conf.d/3.conf"), []byte("\n a: forward :1 to x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, problems = Load(path)
	wantProblems(t, problems, `FL-309 2:2 the name "a" of line 2 stands in `+path+`:1 already`)
}

func TestIncludesThatCannotBeFollowed(t *testing.T) {
	dir := tree(t, map[string]string{
		"cycle.conf": "include b.conf\n", "b.conf": "include cycle.conf\n",
		"missing.conf": "include nothing.conf\n", "open.conf": "include all.conf\n", "all.conf": "a: forward 1 to x\n",
		"dir.conf": "include sub\n", "sub/x": "", "twice.conf": "include sub/x\ninclude sub/x\n",
	})
	if err := os.Chmod(filepath.Join(dir, "all.conf"), 0o666); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("deep%d.conf", i)), fmt.Appendf(nil, "include deep%d.conf\n", i+1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"cycle.conf":   "FL-314 1:9 DIR/cycle.conf includes itself",
		"missing.conf": "FL-314 1:9 there is no file DIR/nothing.conf",
		"open.conf":    "FL-314 1:9 DIR/all.conf may be written by everybody",
		"dir.conf":     "FL-314 1:9 DIR/sub is not a file",
		"twice.conf":   "FL-314 2:9 DIR/sub/x is included twice",
		"deep0.conf":   "FL-314 1:9 includes lie more than 8 deep",
	} {
		_, problems := Load(filepath.Join(dir, name))
		wantProblems(t, problems, strings.ReplaceAll(want, "DIR", dir))
	}
	file, problems := Load(filepath.Join(dir, "none.conf"))
	if file != nil || len(problems) != 1 || problems[0].Code != fairlead.CodeUnreadable || !strings.HasSuffix(problems[0].What, "none.conf: no such file or directory") {
		t.Errorf("%v %v", file, problems)
	}
}

func TestPlacesOverThemselvesAreRefused(t *testing.T) {
	_, problems := Parse("f", []byte("place a ssh h via b\nplace b ssh h via a\nplace c ssh h via a\nplace d ssh h via z\n"))
	wantProblems(t, problems, `FL-312 4:19 unknown place "z"`, `FL-220 the place "a" is reached over itself (f:1:1)`)
}
