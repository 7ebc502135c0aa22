package talk

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fairlead"
)

// A screen takes what is printed while a spinner turns.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// take is what was printed since it was called last.
func (s *screen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.text.Reset()
	return s.text.String()
}

func TestStepsWithoutATerminalAreOneLineEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		p := New(Config{Err: &b})
		target := p.Step("target")
		tunnel := p.Step("tunnel")
		time.Sleep(3 * time.Millisecond)
		target.Done("127.0.0.1:3000 answers")
		time.Sleep(2 * time.Second)
		if got := b.String(); strings.Count(got, "\n") != 1 {
			t.Errorf("before the second step ends: %q", got)
		}
		tunnel.Fail("relay.example.net:7443 does not answer")
		tunnel.Done("again")
		want := "  ✔ target     127.0.0.1:3000 answers  3 ms\n" +
			"  ✖ tunnel     failed: relay.example.net:7443 does not answer  2 s\n"
		if b.String() != want {
			t.Errorf("got\n%s\nwant\n%s", b.String(), want)
		}
	})
}

func TestQuietSaysOnlyProblems(t *testing.T) {
	var b strings.Builder
	p := New(Config{Out: &b, Err: &b, Quiet: true, Verbose: true, Spinner: true})
	p.Say("hello")
	p.Detail("more")
	p.Offer("undo", "fairlead rm web")
	p.Step("x").Done("y")
	p.Step("x").Fail("y")
	p.Problem(&fairlead.Problem{Code: fairlead.CodeHalfBound, Warning: true, What: "half"})
	if want := "warn[FL-103]: half\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestLineTurnsAfterPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b screen
		p := New(Config{Err: &b, Spinner: true})
		p.Step("quick").Done("ok")
		if got, want := b.take(), "  ✔ quick      ok\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		b.take()
		s := p.Step("slow")
		time.Sleep(299 * time.Millisecond)
		synctest.Wait()
		if got := b.take(); got != "" {
			t.Errorf("printed before 300 ms: %q", got)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got, want := b.take(), "\r\x1b[K  ⠹ slow\r"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := b.take(); !strings.HasSuffix(got, " slow  1 s\r") {
			t.Errorf("got %q", got)
		}
		b.take()
		p.Say("between")
		if got, want := b.take(), "\r\x1b[Kbetween\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		time.Sleep(turning)
		synctest.Wait()
		b.take()
		s.Done("at last")
		if got, want := b.take(), "\r\x1b[K  ✔ slow       at last  1.4 s\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		// The bubble would not end if the spinner had not.
	})
}

func TestCloseLeavesACleanLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b screen
		p := New(Config{Err: &b, Spinner: true})
		s := p.Step("one")
		p.Step("two")
		time.Sleep(time.Second)
		synctest.Wait()
		if got := b.take(); !strings.Contains(got, " one, two") {
			t.Errorf("got %q", got)
		}
		b.take()
		p.Close()
		p.Close()
		s.Done("too late")
		if got, want := b.take(), "\r\x1b[K"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestPrinterMayBeUsedConcurrently(t *testing.T) {
	var b strings.Builder
	p := New(Config{Out: &b, Err: &b})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s := p.Step("step")
			p.Say("said")
			p.Conns(nil)
			s.Done("done")
		})
	}
	wg.Wait()
	if got := strings.Count(b.String(), "\n"); got != 60 {
		t.Errorf("%d lines, want 60", got)
	}
}
