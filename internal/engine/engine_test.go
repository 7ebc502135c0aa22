package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

// A memory is a carrier that carries in memory: it does everything the
// interface asks but move bytes, and keeps what it was asked.
type memory struct {
	name string
	fits func(*fairlead.Forward) error // nil: everything fits
	gate chan struct{}                 // not nil: each Apply takes one token

	mu     sync.Mutex // guards what follows
	asked  [][]*fairlead.Forward
	when   []time.Time
	state  map[string]fairlead.Status // by name: instead of listening
	report []fairlead.Status
	conns  []fairlead.Conn
}

func (m *memory) Name() string { return m.name }

func (m *memory) Fits(f *fairlead.Forward) error {
	if m.fits == nil {
		return nil
	}
	return m.fits(f)
}

func (m *memory) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, slices.Clone(want))
	m.when = append(m.when, time.Now())
	m.report = nil
	for _, f := range want {
		s := fairlead.Status{State: fairlead.Listening}
		if other, ok := m.state[f.Name]; ok {
			s = other
		}
		s.Forward = f
		m.report = append(m.report, s)
	}
	return slices.Clone(m.report)
}

func (m *memory) Report() []fairlead.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.report)
}

func (m *memory) Conns() []fairlead.Conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.conns)
}

func (m *memory) Kill(match fairlead.Match) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.conns)
	m.conns = slices.DeleteFunc(m.conns, func(c fairlead.Conn) bool { return c.ID == match.ID })
	return before - len(m.conns)
}

// applies is how often the carrier was asked, last what it was asked last.
func (m *memory) applies() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.asked)
}

func (m *memory) last() []*fairlead.Forward {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asked) == 0 {
		return nil
	}
	return m.asked[len(m.asked)-1]
}

func (m *memory) carried() string { return names(m.last()) }

// set says how a forward stands at the next Apply; now also in the report.
func (m *memory) set(name string, s fairlead.Status, now bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == nil {
		m.state = map[string]fairlead.Status{}
	}
	m.state[name] = s
	for i := range m.report {
		if f := m.report[i].Forward; now && f.Name == name {
			m.report[i] = s
			m.report[i].Forward = f
		}
	}
}

func names(fs []*fairlead.Forward) string {
	var s []string
	for _, f := range fs {
		s = append(s, f.Name)
	}
	return strings.Join(s, " ")
}

var (
	file  = fairlead.Owner{Kind: fairlead.OwnerFile}
	api   = fairlead.Owner{Kind: fairlead.OwnerAPI}
	lanA  = fairlead.Owner{Kind: "pcp", ID: "192.168.1.20"}
	lanB  = fairlead.Owner{Kind: "pcp", ID: "192.168.1.30"}
	ctx   = context.Background()
	whole = fairlead.Match{}
)

// fwd is a forward that listens at every address.
func fwd(owner fairlead.Owner, name string, port uint16) *fairlead.Forward {
	return &fairlead.Forward{
		Name: name, Owner: owner, Kind: fairlead.KindForward,
		At: fairlead.Spot{Any: true, Ports: fairlead.PortList{{First: port, Last: port}}, Net: fairlead.TCP},
		To: []fairlead.Target{{Host: "10.0.0.4"}},
	}
}

func with(f *fairlead.Forward, change func(*fairlead.Forward)) *fairlead.Forward {
	g := *f
	change(&g)
	return &g
}

// run starts an engine in the test's bubble and closes it at the end.
func run(t *testing.T, c Config) *Engine {
	t.Helper()
	e := New(c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := e.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(func() {
		if err := e.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		<-ended
	})
	return e
}

func ask(t *testing.T, e *Engine, f *fairlead.Forward, ttl time.Duration) fairlead.Status {
	t.Helper()
	s, err := e.Ask(ctx, f, ttl)
	if err != nil {
		t.Fatalf("ask %s: %v", f.Name, err)
	}
	return s
}

func replace(t *testing.T, e *Engine, want ...*fairlead.Forward) []fairlead.Status {
	t.Helper()
	got, err := e.Replace(ctx, file, want)
	if err != nil {
		t.Fatalf("replace: %v", err)
	}
	return got
}

// told is the engine's status as text: "web listening, db broken FL-303".
func told(e *Engine) string {
	var all []string
	for _, s := range e.Status() {
		all = append(all, line(s))
	}
	return strings.Join(all, ", ")
}

func line(s fairlead.Status) string {
	text := s.Forward.Name + " " + string(s.State)
	if s.Problem != nil {
		text += " " + string(s.Problem.Code)
	}
	return text
}

func wantText(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestAskIsCarriedAndDropTakesItDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		s := ask(t, e, fwd(api, "web", 8080), 0)
		if s.State != fairlead.Listening || s.By != "relay" || s.Forward.Name != "web" {
			t.Errorf("ask: %+v", s)
		}
		wantText(t, "carried", m.carried(), "web")
		if err := e.Drop(ctx, lanA, "web"); fairlead.AsProblem(err) == nil || fairlead.AsProblem(err).Code != fairlead.CodeNoSuchForward {
			t.Errorf("another owner's drop: %v", err)
		}
		wantText(t, "carried", m.carried(), "web")
		if err := e.Drop(ctx, api, "web"); err != nil {
			t.Fatal(err)
		}
		wantText(t, "carried", m.carried(), "")
		if err := e.Drop(ctx, api, ""); err != nil {
			t.Errorf("drop of nothing: %v", err)
		}
	})
}

func TestNothingIsAppliedBeforeTheFirstWish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "kernel"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		e.Kick()
		time.Sleep(time.Minute)
		if n := m.applies(); n != 0 {
			t.Errorf("%d applies without a wish", n)
		}
		replace(t, e)
		if n := m.applies(); n != 1 {
			t.Errorf("%d applies of an empty file", n)
		}
	})
}

func TestLeaseEndsUnlessRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		f := fwd(lanA, "game", 25565)
		begin := time.Now()
		s := ask(t, e, f, time.Minute)
		if !s.Forward.Expires.Equal(begin.Add(time.Minute)) || !f.Expires.IsZero() {
			t.Errorf("expires %v, the asker's own %v", s.Forward.Expires, f.Expires)
		}
		time.Sleep(40 * time.Second)
		s = ask(t, e, f, time.Minute)
		if !s.Forward.Expires.Equal(begin.Add(100*time.Second)) || !m.last()[0].Expires.Equal(s.Forward.Expires) {
			t.Errorf("renewed until %v, handed on %v", s.Forward.Expires, m.last()[0].Expires)
		}
		time.Sleep(59 * time.Second)
		wantText(t, "at 99 s", told(e), "game listening")
		time.Sleep(time.Second)
		synctest.Wait()
		wantText(t, "at 100 s", told(e), "")
		wantText(t, "carried", m.carried(), "")
		ask(t, e, f, 1300*time.Millisecond)
		time.Sleep(1300 * time.Millisecond)
		synctest.Wait()
		wantText(t, "carried after a lease that ends between two seconds", m.carried(), "")
		ask(t, e, f, 0)
		time.Sleep(24 * time.Hour)
		wantText(t, "without end", told(e), "game listening")
	})
}

func TestLifeCountsFromTheFirstWishAndSurvivesReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		guest := with(fwd(file, "guest", 8080), func(f *fairlead.Forward) { f.Policy.For = 2 * time.Hour })
		replace(t, e, guest)
		time.Sleep(time.Hour)
		applies := m.applies()
		moved := with(guest, func(f *fairlead.Forward) { f.Source.Line = 7 })
		s := replace(t, e, moved)
		if m.applies() != applies || s[0].Forward.Source.Line != 7 {
			t.Errorf("a line that only moved: %d applies more, line %d", m.applies()-applies, s[0].Forward.Source.Line)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		wantText(t, "after two hours", told(e), "")
		s = replace(t, e, guest, fwd(file, "web", 80))
		wantText(t, "reload after the end", line(s[0])+", "+line(s[1]), "guest disabled FL-131, web listening")
		wantText(t, "status", told(e), "web listening")
		wantText(t, "carried", m.carried(), "web")

		longer := with(guest, func(f *fairlead.Forward) { f.Policy.For = 3 * time.Hour })
		replace(t, e, longer, fwd(file, "web", 80))
		wantText(t, "a new sentence lives anew", told(e), "guest listening, web listening")
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		replace(t, e)
		replace(t, e, longer)
		wantText(t, "a sentence taken out and put back lives anew", told(e), "guest listening")
	})
}

func TestReplaceLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		web, db := fwd(file, "web", 80), fwd(file, "db", 5432)
		replace(t, e, web, db)
		ask(t, e, fwd(lanA, "web", 9000), 0)
		first := slices.Clone(m.last())
		again := *db
		replace(t, e, fwd(file, "new", 81), &again)
		wantText(t, "status", told(e), "new listening, db listening, web listening")
		for _, f := range m.last() {
			if f.Name != "new" && !slices.ContainsFunc(first, func(g *fairlead.Forward) bool { return same(f, g) }) {
				t.Errorf("%s changed", f.Name)
			}
		}
		n := m.applies()
		replace(t, e, fwd(file, "new", 81), db)
		if m.applies() != n {
			t.Error("a reload of the same file disturbed the carrier")
		}
		if _, err := e.Replace(ctx, file, []*fairlead.Forward{web, web}); err == nil {
			t.Error("two forwards of one name are no error")
		}
		wantText(t, "after the refused set", told(e), "new listening, db listening, web listening")
	})
}

func TestOperatorStandsAboveTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		ask(t, e, fwd(lanA, "a", 8080), 0)
		s := ask(t, e, fwd(lanB, "b", 8080), 0)
		wantText(t, "second asker", line(s), "b broken FL-303")
		if !strings.Contains(s.Problem.What, `"a"`) {
			t.Errorf("the other is not named: %s", s.Problem.What)
		}
		web := with(fwd(file, "web", 8080), func(f *fairlead.Forward) { f.At.Any = false })
		replace(t, e, web)
		wantText(t, "operator came", told(e), "a broken FL-303, b broken FL-303, web listening")
		wantText(t, "carried", m.carried(), "web")
		s = ask(t, e, fwd(api, "late", 8080), 0)
		wantText(t, "among equals", line(s), "late broken FL-303")
		if err := e.Drop(ctx, api, "late"); err != nil {
			t.Fatal(err)
		}
		replace(t, e, with(web, func(f *fairlead.Forward) { f.Disabled = true }))
		wantText(t, "disabled does not count", told(e), "a listening, b broken FL-303, web disabled")
		if err := e.Drop(ctx, lanA, ""); err != nil {
			t.Fatal(err)
		}
		wantText(t, "next in line", told(e), "b listening, web disabled")
	})
}

func TestNextTakesOverWhenALeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		ask(t, e, fwd(lanA, "a", 8080), time.Minute)
		ask(t, e, fwd(lanB, "b", 8080), time.Hour)
		time.Sleep(time.Minute)
		synctest.Wait()
		wantText(t, "status", told(e), "b listening")
		wantText(t, "carried", m.carried(), "b")
	})
}

func TestPinholesAndTriggersTakeNoSpot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := run(t, Config{Carriers: []fairlead.Carrier{&memory{name: "all"}}})
		kind := func(name string, k fairlead.Kind) *fairlead.Forward {
			return with(fwd(file, name, 80), func(f *fairlead.Forward) { f.Kind = k })
		}
		replace(t, e, kind("hole", fairlead.KindOpen), kind("watch", fairlead.KindTrigger), kind("web", fairlead.KindForward), kind("low", fairlead.KindNAT))
		wantText(t, "status", told(e), "hole listening, watch listening, web listening, low broken FL-303")
	})
}

func TestChangedSpotGoesBehindWhoHoldsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := run(t, Config{Carriers: []fairlead.Carrier{&memory{name: "relay"}}})
		ask(t, e, fwd(lanA, "a", 1000), 0)
		ask(t, e, fwd(lanB, "b", 2000), 0)
		ask(t, e, fwd(lanA, "a", 2000), 0)
		wantText(t, "status", told(e), "a broken FL-303, b listening")
	})
}

func TestCarrierIsChosen(t *testing.T) {
	honour := func(kinds ...fairlead.Kind) func(*fairlead.Forward) error {
		return func(f *fairlead.Forward) error {
			switch {
			case !slices.Contains(kinds, f.Kind):
				return fairlead.Problemf(fairlead.CodeCannotCarry, "not this kind")
			case f.Policy.ALG != "":
				return fairlead.Problemf(fairlead.CodeCannotHonour, "%v cannot honour alg", kinds)
			}
			return nil
		}
	}
	relay := &memory{name: "relay", fits: honour("forward", "local")}
	kernel := &memory{name: "kernel", fits: honour("nat", "forward")}
	for _, c := range []struct {
		kind fairlead.Kind
		by   string
		alg  string
		want string
	}{
		{"forward", "", "", "relay"},
		{"forward", "auto", "", "relay"},
		{"forward", "kernel", "", "kernel"},
		{"nat", "", "", "kernel"},
		{"nat", "relay", "", "FL-310 not this kind"},
		{"nat", "router", "", "FL-310 this version cannot carry nat by router yet"},
		{"map", "", "", "FL-310 this version cannot carry map yet"},
		{"nat", "", "ftp", "FL-311 [nat forward] cannot honour alg"},
		{"forward", "", "ftp", "FL-311 [forward local] cannot honour alg"},
	} {
		t.Run(fmt.Sprintf("%s by %s alg %s", c.kind, c.by, c.alg), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := run(t, Config{Carriers: []fairlead.Carrier{relay, kernel}})
				s := ask(t, e, with(fwd(file, "x", 80), func(f *fairlead.Forward) {
					f.Kind, f.Policy.By, f.Policy.ALG = c.kind, c.by, c.alg
				}), 0)
				got := s.By
				if s.Problem != nil {
					got += string(s.Problem.Code) + " " + s.Problem.What
				}
				wantText(t, "carrier", got, c.want)
			})
		})
	}
}

func TestUnfitHoldsNoSpotAndIsAskedAgainWhenTheWorldChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fits := false // written and read between waits only
		m := &memory{name: "relay", fits: func(f *fairlead.Forward) error {
			if f.Name == "early" && !fits {
				return fairlead.Problemf(fairlead.CodeCannotHonour, "not today")
			}
			return nil
		}}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		replace(t, e, fwd(file, "early", 80), fwd(file, "late", 80))
		wantText(t, "unfit", told(e), "early broken FL-311, late listening")
		synctest.Wait()
		fits = true
		e.Kick()
		synctest.Wait()
		wantText(t, "fit", told(e), "early listening, late broken FL-303")
	})
}

func TestForwardThatMovesLeavesItsOldCarrierFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &memory{name: "a"}, &memory{name: "b"}
		e := run(t, Config{Carriers: []fairlead.Carrier{a, b}})
		for i, by := range []string{"a", "b", "a"} {
			time.Sleep(time.Second) // a new instant for each round
			replace(t, e, with(fwd(file, "web", 80), func(f *fairlead.Forward) { f.Policy.By = by }))
			wantText(t, fmt.Sprint("round ", i, " a"), a.carried(), map[string]string{"a": "web"}[by])
			wantText(t, fmt.Sprint("round ", i, " b"), b.carried(), map[string]string{"b": "web"}[by])
		}
		var order []string
		log := func(name string) func(context.Context, []*fairlead.Forward) {
			return func(_ context.Context, w []*fairlead.Forward) { order = append(order, name+":"+names(w)) }
		}
		x, y := &logged{memory: a, log: log("a")}, &logged{memory: b, log: log("b")}
		e = run(t, Config{Carriers: []fairlead.Carrier{x, y}})
		for _, by := range []string{"a", "b", "a"} {
			replace(t, e, with(fwd(file, "web", 80), func(f *fairlead.Forward) { f.Policy.By = by }))
		}
		synctest.Wait()
		wantText(t, "order", strings.Join(order, " "), "a:web b: a: b:web b: a:web")
	})
}

// A logged carrier tells of each Apply as it begins.
type logged struct {
	*memory
	log func(context.Context, []*fairlead.Forward)
}

func (l *logged) Apply(ctx context.Context, want []*fairlead.Forward) []fairlead.Status {
	l.log(ctx, want)
	return l.memory.Apply(ctx, want)
}

func TestBrokenIsTriedAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, other := &memory{name: "relay"}, &memory{name: "kernel"}
		busy := fairlead.Status{State: fairlead.Broken, Problem: fairlead.Problemf(fairlead.CodeInUse, "taken")}
		m.set("web", busy, false)
		e := run(t, Config{Carriers: []fairlead.Carrier{m, other}})
		s := replace(t, e, fwd(file, "web", 80), fwd(file, "db", 81))
		wantText(t, "status", line(s[0])+", "+line(s[1]), "web broken FL-101, db listening")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		checkPauses(t, m.when, 1, 2, 4, 8, 15, 15, 15)
		if n := other.applies(); n != 1 {
			t.Errorf("the other carrier was asked %d times", n)
		}

		m.set("web", fairlead.Status{State: fairlead.Partial, Problem: busy.Problem}, false)
		from := m.applies()
		e.Kick()
		synctest.Wait()
		if m.applies() != from+1 {
			t.Fatal("kick did not apply at once")
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		checkPauses(t, m.when[from:], 1, 2)

		from = m.applies()
		replace(t, e, fwd(file, "web", 80), fwd(file, "db", 82))
		time.Sleep(4 * time.Second)
		synctest.Wait()
		checkPauses(t, m.when[from:], 1, 2)

		m.set("web", fairlead.Status{State: fairlead.Listening}, false)
		time.Sleep(time.Minute)
		from = m.applies()
		time.Sleep(time.Hour)
		synctest.Wait()
		if m.applies() != from {
			t.Errorf("%d applies while all is well", m.applies()-from)
		}
		wantText(t, "status", told(e), "web listening, db listening")
	})
}

func checkPauses(t *testing.T, when []time.Time, seconds ...float64) {
	t.Helper()
	if len(when) <= len(seconds)-1 {
		t.Fatalf("tried %d times, want at least %d", len(when), len(seconds))
	}
	for i, s := range seconds {
		if i+1 >= len(when) {
			t.Errorf("pause %d of %v s did not come", i, s)
			return
		}
		if d := when[i+1].Sub(when[i]).Seconds(); d > s || d < 0.8*s-1e-6 {
			t.Errorf("pause %d: %.3f s, want 80 to 100 %% of %v s", i, d, s)
		}
	}
}

func TestSlowApplyHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "router", gate: make(chan struct{})}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := e.Ask(short, fwd(api, "web", 80), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("ask: %v", err)
		}
		wantText(t, "while the carrier is busy", told(e), "web broken FL-130")
		if s := e.Status()[0]; !s.Problem.Warning {
			t.Errorf("waiting is told as %+v", s.Problem)
		}
		answers := make(chan fairlead.Status, 3)
		for i := range 3 {
			go func() {
				s, err := e.Ask(ctx, fwd(api, fmt.Sprint("n", i), uint16(90+i)), 0)
				if err != nil {
					t.Error(err)
				}
				answers <- s
			}()
		}
		synctest.Wait()
		if n := len(e.Status()); n != 4 {
			t.Errorf("%d wishes in the table", n)
		}
		m.gate <- struct{}{}
		m.gate <- struct{}{}
		for range 3 {
			if s := <-answers; s.State != fairlead.Listening {
				t.Errorf("%+v", s)
			}
		}
		if n := m.applies(); n != 2 {
			t.Errorf("%d applies for one wish and three made meanwhile, want 2", n)
		}
		close(m.gate)
	})
}

func TestWishThatChangesDuringAnApplyIsNotYetCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "router", gate: make(chan struct{})}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}})
		var asks sync.WaitGroup
		for _, port := range []uint16{80, 81} {
			asks.Go(func() { ask(t, e, fwd(api, "web", port), 0) })
			synctest.Wait()
		}
		m.gate <- struct{}{} // the first Apply, of port 80
		synctest.Wait()
		wantText(t, "one Apply behind", told(e), "web broken FL-130")
		m.gate <- struct{}{}
		asks.Wait()
		wantText(t, "carried as it reads now", told(e), "web listening")

		// A carrier that still reports the words of before.
		old := fairlead.Status{Forward: fwd(api, "web", 80), State: fairlead.Verified}
		m.mu.Lock()
		m.report = []fairlead.Status{old}
		m.mu.Unlock()
		wantText(t, "old report", told(e), "web listening")
		close(m.gate)
	})
}

func TestNoCarrierIsAskedOnceRunIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &memory{name: "a", gate: make(chan struct{})}, &memory{name: "b"}
		e := New(Config{Carriers: []fairlead.Carrier{a, b}})
		c, cancel := context.WithCancel(ctx)
		go e.Run(c)
		asked := make(chan error, 1)
		go func() {
			_, err := e.Ask(ctx, fwd(api, "web", 80), 0)
			asked <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-asked; !errors.Is(err, errStopped) {
			t.Errorf("ask: %v", err)
		}
		if n := b.applies(); n != 0 {
			t.Errorf("the second carrier was asked %d times after the end", n)
		}
		close(a.gate)
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestChangesOfStateAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards events
		var events []string
		m := &memory{name: "relay"}
		e := run(t, Config{Carriers: []fairlead.Carrier{m}, Watch: func(ev fairlead.Event) {
			text := ev.Forward + " " + string(ev.State) + ev.Text
			if ev.Problem != nil {
				text += " " + string(ev.Problem.Code)
			}
			if ev.Kind != fairlead.EventState {
				t.Errorf("a %s event", ev.Kind)
			}
			mu.Lock()
			defer mu.Unlock()
			events = append(events, text)
		}})
		expect := func(want ...string) {
			t.Helper()
			time.Sleep(tick)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(events, want) {
				t.Errorf("told %q, want %q", events, want)
			}
			events = nil
		}
		replace(t, e, fwd(file, "web", 80))
		ask(t, e, fwd(lanA, "lan", 80), 10*time.Second)
		expect("web listening", "lan broken FL-303")
		expect()
		m.set("web", fairlead.Status{State: fairlead.Passing}, true)
		expect("web passing")
		wantText(t, "status", told(e), "web passing, lan broken FL-303")
		m.set("web", fairlead.Status{State: fairlead.Broken, Problem: fairlead.Problemf(fairlead.CodeTargetRefuses, "no")}, true)
		expect("web broken FL-201")
		m.set("web", fairlead.Status{State: fairlead.Broken, Problem: fairlead.Problemf(fairlead.CodeTargetSilent, "no")}, true)
		expect("web broken FL-202")
		time.Sleep(4 * time.Second)
		expect("lan its time is over")
		replace(t, e)
		expect("web taken back")
	})
}

func TestStatusIsInFileOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := run(t, Config{Carriers: []fairlead.Carrier{&memory{name: "relay"}}})
		a, b, c := fwd(file, "a", 1), fwd(file, "b", 2), fwd(file, "c", 3)
		ask(t, e, fwd(lanA, "z", 9), 0)
		replace(t, e, c, a)
		ask(t, e, fwd(lanA, "y", 8), 0)
		replace(t, e, a, b, c)
		ask(t, e, fwd(lanA, "z", 10), 0)
		wantText(t, "status", told(e), "z listening, a listening, b listening, c listening, y listening")
	})
}

func TestCarrierThatSaysTooLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := run(t, Config{Carriers: []fairlead.Carrier{mute{}}})
		s := ask(t, e, fwd(file, "web", 80), 0)
		wantText(t, "status", line(s), "web broken FL-999")
	})
}

// A mute carrier breaks its contract: it returns no status.
type mute struct{}

func (mute) Name() string                                                 { return "mute" }
func (mute) Fits(*fairlead.Forward) error                                 { return nil }
func (mute) Apply(context.Context, []*fairlead.Forward) []fairlead.Status { return nil }
func (mute) Report() []fairlead.Status                                    { return nil }

func TestConnsAndKillOfAllCarriers(t *testing.T) {
	a := &memory{name: "a", conns: []fairlead.Conn{{ID: "1"}, {ID: "2"}}}
	b := &memory{name: "b", conns: []fairlead.Conn{{ID: "3"}}}
	e := New(Config{Carriers: []fairlead.Carrier{a, mute{}, b}})
	if n := len(e.Conns()); n != 3 {
		t.Errorf("%d connections", n)
	}
	if n := e.Kill(fairlead.Match{ID: "3"}); n != 1 || len(e.Conns()) != 2 {
		t.Errorf("killed %d, left %d", n, len(e.Conns()))
	}
	if n := e.Kill(whole); n != 0 {
		t.Errorf("an empty match killed %d", n)
	}
}

func TestCloseTakesEverythingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := New(Config{Carriers: []fairlead.Carrier{m}})
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		ask(t, e, fwd(api, "web", 80), 0)
		if err := e.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		wantText(t, "carried", m.carried(), "")
		wantText(t, "status", told(e), "")
		if _, err := e.Ask(ctx, fwd(api, "late", 81), 0); !errors.Is(err, errStopped) {
			t.Errorf("ask after close: %v", err)
		}
		if err := e.Close(ctx); err != nil {
			t.Errorf("second close: %v", err)
		}
		if err := e.Run(ctx); err == nil {
			t.Error("an engine ran twice")
		}
	})
}

func TestCloseDuringASlowApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "router", gate: make(chan struct{})}
		e := New(Config{Carriers: []fairlead.Carrier{m}})
		go e.Run(ctx)
		asked := make(chan error, 1)
		go func() {
			_, err := e.Ask(ctx, fwd(api, "web", 80), 0)
			asked <- err
		}()
		synctest.Wait()
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := e.Close(short); err != nil { // the carrier heeds its context
			t.Errorf("close: %v", err)
		}
		if err := <-asked; err == nil {
			t.Error("a wish was carried by a closed engine")
		}
		wantText(t, "carried", m.carried(), "")
	})
}

func TestRunEndsWithItsContextAndLeavesWhatIsCarried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{name: "relay"}
		e := New(Config{Carriers: []fairlead.Carrier{m}})
		c, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- e.Run(c) }()
		ask(t, e, fwd(api, "web", 80), 0)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		wantText(t, "carried", m.carried(), "web")
		if err := e.Drop(ctx, api, "web"); !errors.Is(err, errStopped) {
			t.Errorf("drop after the end: %v", err)
		}
		if err := e.Close(ctx); err != nil {
			t.Error(err)
		}
		wantText(t, "carried", m.carried(), "")
	})
}

func TestRefusedWishes(t *testing.T) {
	e := New(Config{})
	for _, c := range []struct {
		f   *fairlead.Forward
		ttl time.Duration
	}{{fwd(api, "", 80), 0}, {fwd(api, "x", 80), -1}} {
		if _, err := e.Ask(ctx, c.f, c.ttl); err == nil {
			t.Errorf("%q for %v was taken", c.f.Name, c.ttl)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := e.Ask(gone, fwd(api, "x", 80), 0); !errors.Is(err, context.Canceled) || len(e.Status()) != 0 {
		t.Errorf("ask of one who left: %v, %v", err, e.Status())
	}
}

func TestManyAskersAtOnce(t *testing.T) {
	m := &memory{name: "relay"}
	e := New(Config{Carriers: []fairlead.Carrier{m}, Watch: func(fairlead.Event) {}})
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	var wg sync.WaitGroup
	for g := range 4 {
		owner := fairlead.Owner{Kind: "pcp", ID: fmt.Sprint(g)}
		wg.Go(func() {
			for i := range 100 {
				f := fwd(owner, fmt.Sprint("f", i%7), uint16(1000+(g*3+i)%9))
				if _, err := e.Ask(ctx, f, time.Hour); err != nil {
					t.Error(err)
				}
				if i%5 == 4 {
					if err := e.Drop(ctx, owner, ""); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			if _, err := e.Replace(ctx, file, []*fairlead.Forward{fwd(file, "web", uint16(1000+i%9)), fwd(file, "db", 2000)}); err != nil {
				t.Error(err)
			}
			e.Status()
			e.Conns()
			e.Kick()
		}
	})
	wg.Wait()
	for g := range 4 {
		if err := e.Drop(ctx, fairlead.Owner{Kind: "pcp", ID: fmt.Sprint(g)}, ""); err != nil {
			t.Error(err)
		}
	}
	wantText(t, "status", told(e), "web listening, db listening")
	wantText(t, "carried", m.carried(), "web db")
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
	<-ended
}

func BenchmarkReloadOf10000(b *testing.B) {
	e := New(Config{Carriers: []fairlead.Carrier{&memory{name: "relay"}}})
	go e.Run(ctx)
	defer e.Close(ctx)
	want := make([]*fairlead.Forward, 10000)
	for i := range want {
		want[i] = fwd(file, fmt.Sprint("f", i), uint16(i+1))
	}
	for i := 0; b.Loop(); i++ {
		want[0] = fwd(file, "f0", uint16(20000+i%2))
		if _, err := e.Replace(ctx, file, want); err != nil {
			b.Fatal(err)
		}
	}
}
