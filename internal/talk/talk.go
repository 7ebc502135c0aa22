// Package talk puts words for people on a terminal: problems, tables, progress,
// and the few phrases that several of them share. It decides how things look
// and never what is true; it looks nothing up, keeps no state of the network,
// and neither asks questions nor exits. Only cmd/fairlead uses it.
//
// The rules of everything that is printed:
//
//   - Data goes to standard output; problems, messages and progress go to
//     standard error.
//   - A message begins in lower case and has no full stop at its end. It names
//     what was done, to what, and why it failed, in the words of the field.
//   - No line is wider than the terminal, except what is meant to be copied:
//     a command or a sentence stands unbroken. No line ends in blanks.
//   - Colour only repeats what a word says already. Marks (● ◐ ○ ✖) stand
//     beside their word and have an ASCII form.
//   - Foreign text (names, lines of files, words of other programs) is made
//     inert before it is printed: what is not a visible character comes out as
//     an escape such as \x1b, so that no text can drive the terminal, reorder
//     a line or begin a new one.
//   - Where nobody watches there is no animation.
package talk

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"fairlead"
)

// A Printer prints. Its methods may be called concurrently; each writes its
// whole text at once. Methods that print data return the writer's error, a
// closed pipe for example; those that print talk have nobody to tell.
type Printer struct {
	conf     Config
	out, err look

	// mu keeps texts whole, and guards the fields below.
	mu    sync.Mutex
	steps []*Step  // begun and not finished, in the order begun
	spin  *spinner // turns while there are steps, if somebody watches
	drawn bool     // the spinner's line stands on the terminal
}

// A Config says where a Printer prints and how it may look there. The zero
// value prints nowhere.
type Config struct {
	Out io.Writer // data; nil: thrown away
	Err io.Writer // talk; nil: thrown away

	Width  int  // display columns, 40 to 200 (others are clamped); 0: 80
	Colour bool // colour is wanted where it is understood
	ASCII  bool // no character outside ASCII

	OutFile bool // Out is no terminal: no colour there in spite of Colour
	ErrFile bool // Err is no terminal: the same
	Spinner bool // Err is a terminal on which a line can be rewritten

	Plain   bool // tables: fields between tabs, raw numbers, no marks
	Quiet   bool // problems and data only, neither messages nor progress
	Verbose bool // also details, and the causes of problems
}

// The bounds of Config.Width.
const (
	minWidth     = 40
	maxWidth     = 200
	defaultWidth = 80
)

// New is a Printer of that Config.
func New(c Config) *Printer {
	if c.Out == nil {
		c.Out = io.Discard
	}
	if c.Err == nil {
		c.Err = io.Discard
	}
	if c.Width == 0 {
		c.Width = defaultWidth
	}
	c.Width = min(max(c.Width, minWidth), maxWidth)
	return &Printer{
		conf: c,
		out:  look{width: c.Width, ascii: c.ASCII, colour: c.Colour && !c.OutFile, verbose: c.Verbose},
		err:  look{width: c.Width, ascii: c.ASCII, colour: c.Colour && !c.ErrFile, verbose: c.Verbose},
	}
}

// Say prints a message, wrapped at the width. Quiet silences it.
func (p *Printer) Say(format string, args ...any) {
	if p.conf.Quiet {
		return
	}
	text := fmt.Sprintf(format, args...)
	if p.conf.ErrFile { // a log keeps one message on one line
		p.tell(p.err.inert(text) + "\n")
		return
	}
	var b strings.Builder
	p.err.paragraph(&b, "", 0, 0, text)
	p.tell(b.String())
}

// Detail is Say for those who asked for more with Verbose.
func (p *Printer) Detail(format string, args ...any) {
	if p.conf.Verbose {
		p.Say(format, args...)
	}
}

// Offer prints a command that may be copied, unbroken, behind a label:
// "undo: fairlead rm web". Quiet silences it.
func (p *Printer) Offer(label, command string) {
	if p.conf.Quiet {
		return
	}
	var b strings.Builder
	writeLine(&b, p.err.inert(label)+": "+p.err.command(command))
	p.tell(b.String())
}

// Page prints the page of a code, wrapped at the width.
func (p *Printer) Page(page fairlead.Page) error {
	var b strings.Builder
	p.out.paragraph(&b, p.out.inert(string(page.Code))+": ", width(string(page.Code))+2, gutter, page.Title)
	for para := range strings.SplitSeq(page.Text, "\n\n") {
		b.WriteByte('\n')
		p.out.paragraph(&b, "", 0, 0, strings.Join(strings.Fields(para), " "))
	}
	return p.give(b.String())
}

// Line prints one line of data, unwrapped. What is foreign in it comes out
// inert.
func (p *Printer) Line(format string, args ...any) error {
	return p.give(p.out.inert(fmt.Sprintf(format, args...)) + "\n")
}

// Text prints a text of the program's own, line by line as it is.
func (p *Printer) Text(text string) error { return p.give(text) }

// tell writes talk, give writes data. Both take the spinner's line away first:
// standard output may be the same terminal.
func (p *Printer) tell(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLocked(s)
}

func (p *Printer) tellLocked(s string) {
	p.wipe()
	io.WriteString(p.conf.Err, s)
}

func (p *Printer) give(s string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	_, err := io.WriteString(p.conf.Out, s)
	return err
}
