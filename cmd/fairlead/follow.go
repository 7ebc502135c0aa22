package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
)

// A change is one forward's change in its file, and how the service followed:
// told line by line as it happens, or as one document when it is over.
type change struct {
	p   *program
	did string // what was done, in words before the name
	dry bool
	doc changeDocument
}

// A changeDocument is a change for programs.
type changeDocument struct {
	Schema string `json:"schema"`
	Action string `json:"action"` // added, changed, removed, enabled, disabled, drained, undrained
	Name   string `json:"name"`
	File   string `json:"file"`

	// Where the forward stands now and what it says; not there when it is
	// gone, and no line when it was dry.
	Line     int    `json:"line,omitempty"`
	Sentence string `json:"sentence,omitempty"`

	Dry     bool     `json:"dry"`
	Changed bool     `json:"changed"` // the file; false: it said so already
	Was     []string `json:"was"`     // the lines that went, never null
	Is      []string `json:"is"`      // the lines that came

	Service  string             `json:"service"`         // one of the words below
	State    string             `json:"state,omitempty"` // of the forward, where the service followed
	Error    *control.Problem   `json:"error,omitempty"` // why it is broken
	Warnings []*control.Problem `json:"warnings"`

	Target string `json:"target,omitempty"`           // of drained and undrained
	Left   *int64 `json:"connections_left,omitempty"` // of a drained target, where the service followed
	Cut    *int   `json:"connections_cut,omitempty"`  // by rm --cut
}

// How the service took a change.
const (
	notAsked  = "not asked" // it was dry
	noService = "none"
	otherFile = "reads another file"
	followed  = "followed"
)

func (p *program) newChange(did, name, path string, dry bool) *change {
	return &change{p: p, did: did, dry: dry, doc: changeDocument{
		Schema: "fairlead/change/1", Action: did, Name: name, File: path, Dry: dry,
		Was: []string{}, Is: []string{}, Service: notAsked, Warnings: []*control.Problem{},
	}}
}

// say tells people what happens; the document has it in fields.
func (c *change) say(format string, args ...any) {
	if !c.p.json {
		c.p.talk.Say(format, args...)
	}
}

func (c *change) warn(list ...*fairlead.Problem) {
	if !c.p.json {
		c.p.tellTroubles(list)
		return
	}
	for _, problem := range list {
		c.doc.Warnings = append(c.doc.Warnings, control.ProblemOf(problem))
	}
}

// tell ends the change with err: the document is printed unless that is an
// error which has one of its own.
func (c *change) tell(err error) error {
	var f *failure
	if !c.p.json || err != nil && (!errors.As(err, &f) || len(f.problems) > 0) {
		return err
	}
	if failed := c.p.talk.JSON(&c.doc); failed != nil {
		return failed
	}
	return err
}

// make edits the file, and has a running service that reads it follow.
func (c *change) make(edit func([]byte) ([]byte, error)) error {
	path := c.doc.File
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unreadable(path, err)
	}
	if c.dry {
		after, err := edit(before)
		if err != nil {
			return inFile(err, path)
		}
		c.show(before, after)
		return nil
	}
	var after []byte
	if err := changeFile(path, func(src []byte) ([]byte, error) {
		before = src
		if after, err = edit(src); err != nil {
			return nil, inFile(err, path)
		}
		return after, c.p.wholeIsRight(path, src, after)
	}); err != nil {
		return err
	}
	c.show(before, after)
	if c.doc.Changed {
		c.say("%s %s in %s", c.did, c.doc.Name, path)
		if c.doc.Action == "added" && !c.p.json {
			c.p.talk.Offer("undo", "fairlead rm "+c.doc.Name+c.p.whereabouts())
		}
	} else {
		c.say("%s: nothing to change in %s", c.doc.Name, path)
	}
	return c.follow()
}

// show tells the lines that differ, and notes where the forward stands now.
func (c *change) show(before, after []byte) {
	c.doc.Changed = !bytes.Equal(before, after)
	file, _ := config.Parse(c.doc.File, after)
	if file != nil {
		for _, f := range file.Forwards {
			if f.Name != c.doc.Name {
				continue
			}
			c.doc.Sentence = config.Sentence(f)
			if !c.dry {
				c.doc.Line = f.Source.Line
			}
		}
	}
	c.doc.Was, c.doc.Is = missing(before, after), missing(after, before)
	for _, line := range c.doc.Was {
		c.say("- %s", line)
	}
	for _, line := range c.doc.Is {
		c.say("+ %s", line)
	}
}

// missing are the lines of a that b has not, or not as often.
func missing(a, b []byte) []string {
	has := map[string]int{}
	for line := range strings.Lines(string(b)) {
		has[line]++
	}
	list := []string{}
	for line := range strings.Lines(string(a)) {
		if has[line]--; has[line] < 0 {
			list = append(list, strings.TrimRight(line, "\r\n"))
		}
	}
	return list
}

// follow has the service read the file and tells how the forward stands, and
// which others that came with it are in trouble.
func (c *change) follow() error {
	p := c.p
	st, err := p.serviceStatus()
	var problem *fairlead.Problem
	if errors.As(err, &problem) && problem.Code == fairlead.CodeNoService {
		c.doc.Service = noService
		c.say("no service is running: it begins with \"fairlead up\"")
		return nil
	}
	if err != nil {
		return err
	}
	if !p.reads(st.File, c.doc.File) {
		c.doc.Service = otherFile
		c.say("the running service reads another file: %s", st.File)
		return nil
	}
	ctx, cancel := p.patience()
	defer cancel()
	r, err := p.service().Reload(ctx, false)
	if err != nil {
		return err
	}
	c.doc.Service = followed
	others, _ := troublesOf(r, c.doc.Name)
	c.warn(others...)
	if st, err = p.serviceStatus(); err != nil {
		return err
	}
	for _, f := range st.Forwards {
		if f.Name != c.doc.Name || c.doc.Action == "removed" {
			continue
		}
		c.doc.State = f.State
		if f.Error != nil {
			problem := f.Error.Problem()
			if fairlead.State(f.State) == fairlead.Broken && !problem.Warning {
				c.doc.Error = f.Error
				if p.json {
					return exit(codeOf(problem))
				}
				return exit(codeOf(problem), problem)
			}
			c.warn(problem)
		}
		c.say("%s is %s", c.doc.Name, f.State)
	}
	return nil
}
