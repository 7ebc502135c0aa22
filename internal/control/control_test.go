package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fairlead"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	if path := os.Getenv(dialEnv); path != "" {
		dialAndSay(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// dialEnv, when set, makes the test binary ask at that socket and print the
// code of the problem instead of running tests.
const dialEnv = "FAIRLEAD_TEST_DIAL"

func dialAndSay(path string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := Dial(path).Reload(ctx, true)
	fmt.Printf("code %q\n", codeOf(err))
}

// A desk is a service with a fixed table that writes down who asked what.
type desk struct {
	service Service
	table   []fairlead.Status

	mu    sync.Mutex // guards what follows
	conns []fairlead.Conn
	log   []string
	fail  error
}

func (d *desk) Service() Service          { return d.service }
func (d *desk) Status() []fairlead.Status { return d.table }

func (d *desk) Conns() []fairlead.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]fairlead.Conn(nil), d.conns...)
}

func (d *desk) Kill(_ context.Context, by Actor, m fairlead.Match) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf("%s kills %+v", by, m))
	if m.Forward == "nobody" {
		return 0, fairlead.Problemf(fairlead.CodeNoSuchForward, "there is no forward nobody")
	}
	n := 0
	for _, c := range d.conns {
		if (m.ID == "" || m.ID == c.ID) && (m.Forward == "" || m.Forward == c.Forward) &&
			(!m.Client.IsValid() || strings.HasPrefix(c.Client, m.Client.String()+":")) {
			n++
		}
	}
	return n, nil
}

func (d *desk) Reload(_ context.Context, by Actor, dry bool) (Plan, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, fmt.Sprintf("%s reloads, dry %v", by, dry))
	plan := Plan{File: d.service.File, Added: []string{"new"}, Unchanged: 3}
	if !dry {
		plan.Standing = []fairlead.Status{{
			Forward: &fairlead.Forward{Name: "new", Source: fairlead.Pos{File: d.service.File, Line: 9}},
			State:   fairlead.Broken,
			Problem: fairlead.Problemf(fairlead.CodeInUse, "127.0.0.1:80 is in use"),
		}}
	}
	return plan, d.fail
}

func (d *desk) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.log, "\n")
}

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t
}

// newDesk is a service in which everything that a document can show is there.
func newDesk() *desk {
	meter := &fairlead.Meter{}
	meter.Flows.Store(120)
	meter.Active.Store(3)
	meter.Refused.Store(4)
	meter.In.Store(5_000_000_000)
	meter.Out.Store(6)
	meter.Dropped.Store(7)
	refused := fairlead.Problemf(fairlead.CodeTargetRefuses, "db-b:5432 refuses connections").Note("in", "0.3 ms").Fix("start it", "systemctl start postgresql")
	half := fairlead.Problemf(fairlead.CodeHalfBound, "[::1]:5432 is taken")
	half.Warning = true
	began := time.Now().Add(-90 * time.Second)
	return &desk{
		service: Service{
			Version: "1.2.3", PID: 4711, Started: at("2026-01-02T03:04:05.678912345Z"), File: "/etc/fairlead/fairlead.conf",
			FileErrorSince: at("2026-01-02T04:00:00+01:00"),
			FileError: &fairlead.Problem{Code: fairlead.CodeBadPort, What: `"http!" is no port`, At: &fairlead.Excerpt{
				Pos: fairlead.Pos{File: "/etc/fairlead/fairlead.conf", Line: 3, Col: 14}, Text: "web: forward http! to <a&b>", Width: 5, Hint: `did you mean "http"?`}},
		},
		table: []fairlead.Status{
			{
				Forward: &fairlead.Forward{
					Name: "pg", Kind: fairlead.KindForward, Expr: "forward 5432 to db-a:5432, db-b:5432",
					Owner: fairlead.Owner{Kind: fairlead.OwnerFile}, Source: fairlead.Pos{File: "/etc/fairlead/fairlead.conf", Line: 2, Col: 1},
				},
				State: fairlead.Partial, By: "relay", Bound: []string{"127.0.0.1:5432/tcp"}, Problem: half, Meter: meter,
				Targets: []fairlead.TargetStatus{
					{Target: "db-a:5432", Up: true, Since: at("2026-01-02T03:05:00Z")},
					{Target: "db-b:5432", Problem: refused},
					{Target: "db-c:5432", Weight: 3, Backup: true, Draining: true, Active: 2},
					{Target: "db.lan:5432", Up: true, Active: 1, Members: []fairlead.TargetStatus{
						{Target: "10.0.0.7:5432", Up: true, Active: 1}, {Target: "10.0.0.8:5432", Draining: true, Gone: true},
					}},
				},
			},
			{
				Forward: &fairlead.Forward{
					Name: "game", Kind: fairlead.KindNAT, Owner: fairlead.Owner{Kind: "pcp", ID: "192.168.1.20"},
					Expires: at("2026-01-02T05:00:00Z"), Expr: "nat wan:25565/tcp to 192.168.1.20",
				},
				State: fairlead.Broken, Problem: fairlead.Problemf(fairlead.CodeCannotCarry, "this version cannot carry nat yet"),
			},
		},
		conns: []fairlead.Conn{
			{ID: "1a", Forward: "pg", Network: "tcp", Client: "127.0.0.1:40000", Local: "127.0.0.1:5432", Target: "10.0.0.4:5432", Began: began, In: 10, Out: 20, Half: "client"},
			{ID: "1b", Forward: "pg", Network: "tcp", Client: "127.0.0.2:40000", Local: "127.0.0.1:5432", Target: "10.0.0.4:5432", Began: began},
		},
	}
}

// serve runs a server on a socket of the test and returns the socket's path.
func serve(t *testing.T, c Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	s := New(c)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return path
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// raw sends text and returns the whole answer.
func raw(t *testing.T, path, text string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	go io.WriteString(c, text) // a refused body is not read to its end
	answer, _ := io.ReadAll(c) // a reset after the answer is no matter
	return string(answer)
}

// golden compares indented JSON with a file.
func golden(t *testing.T, name string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, body, "", "  "); err != nil {
		t.Fatalf("%s: %v in %q", name, err, body)
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s (-file +now):\n%s", name, d)
	}
}

func TestDocumentsAreAsPublished(t *testing.T) {
	d := newDesk()
	path := serve(t, Config{Backend: d})
	body := func(request string) []byte {
		t.Helper()
		_, body, _ := strings.Cut(raw(t, path, request), "\r\n\r\n")
		return []byte(body)
	}
	const tail = " HTTP/1.1\r\nHost: fairlead\r\nConnection: close\r\n"
	post := func(what, text string) []byte {
		return body(fmt.Sprintf("POST %s%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", what, tail, len(text), text))
	}
	golden(t, "status.json", body("GET /v1/status"+tail+"\r\n"))
	golden(t, "version.json", body("GET /v1/version"+tail+"\r\n"))
	golden(t, "kill.json", post("/v1/kill", `{"forward":"pg"}`))
	golden(t, "reload.json", post("/v1/reload", ``))
	golden(t, "no-connection.json", post("/v1/kill", `{"id":"none"}`))
	d.mu.Lock()
	d.fail = &Refusal{
		fairlead.Problemf(fairlead.CodeReloadFailed, "the file has errors, so nothing was changed"),
		[]*fairlead.Problem{d.service.FileError, fairlead.Problemf(fairlead.CodeOverlap, "a and b overlap")},
	}
	d.mu.Unlock()
	golden(t, "refusal.json", post("/v1/reload", `{"dry":true}`))

	now := at("2026-01-02T03:04:05.5Z")
	conn := d.conns[0]
	conn.Began = now.Add(-1234567 * time.Microsecond)
	one, err := json.Marshal(Conns{SchemaConns, []Conn{ConnOf(conn, now)}})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "conns.json", one)
	event, err := json.Marshal(EventOf(fairlead.Event{
		Time: now, Kind: fairlead.EventClose, Forward: "pg", Conn: &conn, Reason: fairlead.Refused,
		State: fairlead.Broken, Text: "in words", Problem: d.table[0].Targets[1].Problem,
	}))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "event.json", event)
}

func TestClientGetsWhatTheServerGives(t *testing.T) {
	d := newDesk()
	c := Dial(serve(t, Config{Backend: d}))
	status, err := c.Status(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(StatusOf(d.service, d.table), *status); diff != "" {
		t.Errorf("status (-given +got):\n%s", diff)
	}
	if diff := cmp.Diff(d.service.FileError, status.FileError.Problem.Problem()); diff != "" {
		t.Errorf("file error (-given +got):\n%s", diff)
	}
	conns, err := c.Conns(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(conns.Connections) != 2 || conns.Connections[0].ID != "1a" || conns.Connections[0].Age < 89 || conns.Connections[0].Age > 1000 {
		t.Errorf("conns: %+v", conns)
	}
	if v, err := c.Version(soon(t)); err != nil || v.Version != "1.2.3" || v.PID != 4711 {
		t.Errorf("version: %+v, %v", v, err)
	}
	for _, k := range []struct {
		m    fairlead.Match
		n    int
		code fairlead.Code
	}{
		{fairlead.Match{Forward: "pg"}, 2, ""},
		{fairlead.Match{ID: "1a"}, 1, ""},
		{fairlead.Match{Client: netip.MustParseAddr("127.0.0.2")}, 1, ""},
		{fairlead.Match{Forward: "pg", Client: netip.MustParseAddr("127.0.0.9")}, 0, fairlead.CodeNoSuchConn},
		{fairlead.Match{Forward: "nobody"}, 0, fairlead.CodeNoSuchForward},
		{fairlead.Match{}, 0, fairlead.CodeAPI},
	} {
		n, err := c.Kill(soon(t), k.m)
		if n != k.n || codeOf(err) != k.code {
			t.Errorf("kill %+v: %d, %v", k.m, n, err)
		}
	}
	r, err := c.Reload(soon(t), true)
	if err != nil || !r.Dry || len(r.Added) != 1 || r.Unchanged != 3 {
		t.Errorf("reload: %+v, %v", r, err)
	}
	d.mu.Lock()
	d.fail = &Refusal{fairlead.Problemf(fairlead.CodeReloadFailed, "broken"), []*fairlead.Problem{d.service.FileError}}
	d.mu.Unlock()
	_, err = c.Reload(soon(t), false)
	var refusal *Refusal
	if !errors.As(err, &refusal) || codeOf(err) != fairlead.CodeReloadFailed || len(refusal.Causes) != 1 || cmp.Diff(refusal.Causes[0], d.service.FileError) != "" {
		t.Errorf("refused reload: %#v", err)
	}
}

func codeOf(err error) fairlead.Code {
	if err == nil {
		return ""
	}
	return fairlead.AsProblem(err).Code
}

// waitFor waits until the feed has so many readers.
func waitFor(t *testing.T, f *Feed, readers int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		n := len(f.readers)
		f.mu.Unlock()
		if n == readers {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d readers, want %d", n, readers)
		}
	}
}

func TestEventsReachEveryReader(t *testing.T) {
	feed := &Feed{}
	c := Dial(serve(t, Config{Backend: newDesk(), Feed: feed}))
	feed.Tell(fairlead.Event{Text: "nobody listens"})
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	var wg sync.WaitGroup
	got := make(chan string, 10)
	for range 2 {
		wg.Go(func() {
			if err := c.Events(ctx, func(e Event) { got <- e.Forward + " " + e.State }); err != nil {
				t.Errorf("events: %v", err)
			}
		})
	}
	waitFor(t, feed, 2)
	feed.Tell(fairlead.Event{Kind: fairlead.EventState, Forward: "web", State: fairlead.Passing})
	feed.Tell(fairlead.Event{Kind: fairlead.EventState, Forward: "web", State: fairlead.Broken})
	count := map[string]int{}
	for range 4 {
		count[<-got]++
	}
	if count["web passing"] != 2 || count["web broken"] != 2 {
		t.Errorf("got %v", count)
	}
	cancel()
	wg.Wait()
	waitFor(t, feed, 0)
}

func TestEventKeepsTheConnectionAsItWas(t *testing.T) {
	feed := &Feed{}
	r := feed.subscribe()
	defer feed.leave(r)
	conn := fairlead.Conn{ID: "1a", In: 1}
	feed.Tell(fairlead.Event{Kind: fairlead.EventOpen, Conn: &conn})
	conn.In = 1000 // the carrier goes on to count
	if e := <-r.events; e.Conn.In != 1 {
		t.Errorf("the event says %d bytes", e.Conn.In)
	}
}

func TestShutdownEndsEventStreams(t *testing.T) {
	feed := &Feed{}
	path := filepath.Join(t.TempDir(), "control.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Backend: newDesk(), Feed: feed})
	served, read := make(chan error, 1), make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	go func() { read <- Dial(path).Events(soon(t), func(Event) {}) }()
	waitFor(t, feed, 1)
	if err := s.Shutdown(soon(t)); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-read; err != nil {
		t.Errorf("reader: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := New(Config{}).Shutdown(soon(t)); err != nil {
		t.Errorf("shutdown of an idle server: %v", err)
	}
}

func TestSlowReaderOfEventsIsCutOffAndHoldsUpNobody(t *testing.T) {
	feed := &Feed{}
	path := serve(t, Config{Backend: newDesk(), Feed: feed})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: fairlead\r\n\r\n")
	waitFor(t, feed, 1)

	// Nobody reads c: the socket's buffer fills, then the reader's room.
	text := strings.Repeat("x", 8<<10)
	begin := time.Now()
	told := 0
	for feed.busy.Load() && told < 100_000 {
		feed.Tell(fairlead.Event{Kind: fairlead.EventTrouble, Text: text})
		told++
	}
	if feed.busy.Load() {
		t.Fatalf("the reader was not cut off after %d events", told)
	}
	t.Logf("cut off after %d events in %v", told, time.Since(begin))

	// The rest of the service answers meanwhile.
	if _, err := Dial(path).Version(soon(t)); err != nil {
		t.Errorf("version: %v", err)
	}
	// What did arrive is whole, and the end says what happened.
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last Error
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		last = Error{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			t.Fatalf("a broken line: %v", err)
		}
	}
	if lines.Err() != nil || last.Schema != SchemaError || last.Error.Code != string(fairlead.CodeAPI) {
		t.Errorf("the stream ended with %+v, %v", last, lines.Err())
	}
}

func TestReadersAreLimited(t *testing.T) {
	feed := &Feed{}
	c := Dial(serve(t, Config{Backend: newDesk(), Feed: feed}))
	ctx, cancel := context.WithCancel(soon(t))
	var wg sync.WaitGroup
	for range maxReaders {
		wg.Go(func() { c.Events(ctx, func(Event) {}) })
	}
	waitFor(t, feed, maxReaders)
	if err := c.Events(soon(t), func(Event) {}); codeOf(err) != fairlead.CodeAPI {
		t.Errorf("one reader too many: %v", err)
	}
	cancel()
	wg.Wait()
	waitFor(t, feed, 0)
}

func TestConnectionsAreLimited(t *testing.T) {
	path := serve(t, Config{Backend: newDesk()})
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range maxOpen {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	// One that is served proves that all before it were accepted.
	io.WriteString(open[maxOpen-1], "GET /v1/version HTTP/1.1\r\nHost: fairlead\r\n\r\n")
	if _, err := open[maxOpen-1].Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	over, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Close()
	over.SetReadDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(over, "GET /v1/version HTTP/1.1\r\nHost: fairlead\r\n\r\n") // closed already, perhaps
	if n, err := over.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection too many was answered: %d bytes, %v", n, err)
	}
}
