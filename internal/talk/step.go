package talk

import (
	"fmt"
	"strings"
	"time"
)

// A Step is one part of a long wait: a connection that is being made, a name
// that is being looked up. It ends with Done or Fail, exactly one of which
// prints one line; more calls do nothing. Its methods may be called
// concurrently.
//
// The terminal is left in no special state while steps run, so that a program
// that is interrupted owes it nothing.
type Step struct {
	p     *Printer
	name  string // inert
	began time.Time
}

// Step begins a step. Steps may run side by side. While one has lasted longer
// than 300 ms, a line that turns says so, if somebody watches.
func (p *Printer) Step(name string) *Step {
	s := &Step{p: p, name: p.err.inert(name), began: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.steps = append(p.steps, s)
	if p.spin == nil && p.conf.Spinner && !p.conf.Quiet {
		p.spin = &spinner{stop: make(chan struct{}), done: make(chan struct{})}
		go p.turn(p.spin)
	}
	return s
}

// Done ends the step; the text says with what: "answers in 3 ms".
func (s *Step) Done(format string, args ...any) {
	s.end(s.p.err.paint(green, s.p.err.pick("✔", "*")), fmt.Sprintf(format, args...))
}

// Fail ends the step; the text says why. What follows from it is told by
// whoever decides, as a problem.
func (s *Step) Fail(format string, args ...any) {
	s.end(s.p.err.paint(red, s.p.err.pick("✖", "x")), "failed: "+fmt.Sprintf(format, args...))
}

// Close ends all steps without a word, takes the turning line away, and waits
// until nothing turns. The Printer can be used on.
func (p *Printer) Close() {
	p.mu.Lock()
	p.steps = nil
	p.wipe()
	idle := p.idleLocked()
	p.mu.Unlock()
	idle()
}

func (s *Step) end(mark, text string) {
	p := s.p
	p.mu.Lock()
	begun := false
	for i, other := range p.steps {
		if other == s {
			p.steps = append(p.steps[:i:i], p.steps[i+1:]...)
			begun = true
			break
		}
	}
	if begun && !p.conf.Quiet {
		const indent, nameWidth = 4, 9
		var b strings.Builder
		name := pad(p.err.cut(s.name, p.err.width/2), nameWidth) + "  "
		if d := time.Since(s.began); d >= time.Millisecond {
			text += "  " + Duration(d)
		}
		p.err.paragraph(&b, "  "+mark+" "+name, indent+width(name), indent+nameWidth+2, text)
		p.tellLocked(b.String())
	}
	idle := p.idleLocked()
	p.mu.Unlock()
	idle()
}

// A spinner is the goroutine that turns the line of running steps.
type spinner struct {
	stop chan struct{} // closed by who takes it out of Printer.spin
	done chan struct{} // closed by the goroutine when it is over
}

const (
	patience = 300 * time.Millisecond // before a line turns
	turning  = 100 * time.Millisecond
)

// idleLocked takes the spinner out when there is no step left, and returns
// what waits for its end, to be called without the lock.
func (p *Printer) idleLocked() func() {
	sp := p.spin
	if sp == nil || len(p.steps) > 0 {
		return func() {}
	}
	p.spin = nil
	close(sp.stop)
	return func() { <-sp.done }
}

// turn redraws the line until sp is stopped.
func (p *Printer) turn(sp *spinner) {
	defer close(sp.done)
	tick := time.NewTicker(turning)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-sp.stop:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		if p.spin == sp {
			p.draw(n)
		}
		p.mu.Unlock()
	}
}

// draw shows the steps that have lasted long enough to be worth a line. The
// cursor stays at its begin: whatever comes next, a prompt after Ctrl-C too,
// overwrites it.
func (p *Printer) draw(n int) {
	var names []string
	longest := time.Duration(0)
	for _, s := range p.steps {
		if d := time.Since(s.began); d >= patience {
			names = append(names, s.name)
			longest = max(longest, d)
		}
	}
	if len(names) == 0 {
		return
	}
	frames := []rune(p.err.pick("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", `|/-\`))
	after := "  " + Duration(longest.Truncate(time.Second))
	if longest < time.Second {
		after = ""
	}
	// The last column stays free: a cursor behind it is on the next line for
	// some terminals.
	room := p.err.width - 1 - 4 - width(after)
	line := "  " + string(frames[n%len(frames)]) + " " + p.err.cut(strings.Join(names, ", "), room) + after
	fmt.Fprint(p.conf.Err, "\r\x1b[K"+line+"\r")
	p.drawn = true
}

// wipe takes the turning line away; p.mu is held.
func (p *Printer) wipe() {
	if p.drawn {
		fmt.Fprint(p.conf.Err, "\r\x1b[K")
		p.drawn = false
	}
}
