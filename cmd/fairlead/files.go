package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/relay"
	"fairlead/internal/talk"
)

// load reads a configuration, or says why it cannot be read.
func load(path string) (*config.File, []*fairlead.Problem) {
	return config.Load(path)
}

// onlyWarnings is nil unless one of problems is an error.
func onlyWarnings(problems []*fairlead.Problem) error {
	if slices.ContainsFunc(problems, func(p *fairlead.Problem) bool { return !p.Warning }) {
		return exitProblems(exitConfig, problems)
	}
	return nil
}

func (p *program) fileCommands() []*cobra.Command {
	validate := &cobra.Command{
		Use:   "validate [FILE]",
		Short: "check the file; exit code 3 when it is wrong",
		Args:  cobra.MaximumNArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return p.validate(p.fileArg(args)) },
	}

	var write, check bool
	format := &cobra.Command{
		Use:   "fmt [FILE]",
		Short: "print the file in its usual form, comments kept (- reads standard input)",
		Args:  cobra.MaximumNArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return p.format(p.fileArg(args), write, check) },
	}
	format.Flags().BoolVarP(&write, "write", "w", false, "write the file instead of printing it")
	format.Flags().BoolVar(&check, "check", false, "only say whether it would change: exit code 1 when it would")

	diff := &cobra.Command{
		Use:   "diff [OLD] [NEW]",
		Short: "what a reload would change, or the difference of two files",
		Args:  cobra.MaximumNArgs(2),
		RunE:  func(cmd *cobra.Command, args []string) error { return p.diff(args) },
	}

	var to string
	var schema bool
	adapt := &cobra.Command{
		Use:   "adapt [FILE] --to json|conf",
		Short: "the same configuration as JSON, or as a file of sentences",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if schema {
				_, err := p.stdout.Write(config.Schema())
				return err
			}
			if to != "json" && to != "conf" {
				return usage(cmd, "--to takes json or conf, not %q", to)
			}
			return p.adapt(p.fileArg(args), to)
		},
	}
	adapt.Flags().StringVar(&to, "to", "json", "json or conf")
	adapt.Flags().BoolVar(&schema, "schema", false, "print the JSON schema")
	list := []*cobra.Command{validate, format, diff, adapt}
	for _, c := range list {
		c.GroupID = groupConfig
	}
	return list
}

func (p *program) fileArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return p.configPath()
}

func (p *program) validate(path string) error {
	file, problems := load(path)
	if err := onlyWarnings(problems); err != nil {
		return err
	}
	if list := unusable(file.Forwards, p.keepDir()); len(list) > 0 {
		return exitProblems(exitConfig, append(problems, list...))
	}
	problems = append(problems, notCarried(file.Forwards)...)
	problems = append(problems, restless(file.Forwards)...)
	if p.json {
		list := []*control.Problem{}
		for _, problem := range problems {
			list = append(list, control.ProblemOf(problem))
		}
		return p.talk.JSON(struct {
			Schema   string             `json:"schema"`
			File     string             `json:"file"`
			Valid    bool               `json:"valid"`
			Forwards int                `json:"forwards"`
			Warnings []*control.Problem `json:"warnings"`
		}{"fairlead/validate/1", path, true, len(file.Forwards), list})
	}
	p.talk.Problems(problems, 0)
	p.talk.Say("%s is valid: %s", path, talk.Count(len(file.Forwards), "forward"))
	return nil
}

// unusable is what is wrong with the files of certificates and keys that
// forwards name: the forwards would not be carried.
func unusable(forwards []*fairlead.Forward, state string) (list []*fairlead.Problem) {
	for _, f := range forwards {
		var problem *fairlead.Problem
		if !f.Disabled && errors.As(relay.CheckTLS(f, state), &problem) {
			problem.Note("in", "%s:%d  %s", f.Source.File, f.Source.Line, f.Name)
			list = append(list, problem)
		}
	}
	return list
}

// notCarried warns of forwards that are right and that no part of this
// version carries.
func notCarried(forwards []*fairlead.Forward) []*fairlead.Problem {
	carriers := newFitter()
	defer carriers.close()
	var list []*fairlead.Problem
	for _, f := range forwards {
		if f.Disabled {
			continue
		}
		var problem *fairlead.Problem
		if err := carriers.fits(f); errors.As(err, &problem) {
			warning := *problem
			warning.Warning = true
			warning.Note("in", "%s:%d  %s", f.Source.File, f.Source.Line, f.Name)
			list = append(list, &warning)
		}
	}
	return list
}

// restless warns of forwards that turn away whoever meets none of their
// targets' conditions: right, but easily not what was meant.
func restless(forwards []*fairlead.Forward) []*fairlead.Problem {
	var list []*fairlead.Problem
	for _, f := range forwards {
		if f.Disabled || len(f.To) == 0 || slices.ContainsFunc(f.To, func(t fairlead.Target) bool { return !t.Conditional() }) {
			continue
		}
		all := *f
		all.To = append(slices.Clone(f.To), fairlead.Target{Host: "HOST"})
		warning := fairlead.Problemf(fairlead.CodeNoRest, "no target takes the rest: clients who meet none of the conditions are reset").
			Fix("add a target without a condition", config.Sentence(&all))
		warning.Warning = true
		if f.Source.Line > 0 {
			warning.Note("in", "%s:%d  %s", f.Source.File, f.Source.Line, f.Name)
		}
		list = append(list, warning)
	}
	return list
}

func (p *program) format(path string, write, check bool) error {
	var src []byte
	var err error
	if path == "-" {
		src, err = io.ReadAll(io.LimitReader(os.Stdin, maxInput))
	} else {
		src, err = readFile(path)
	}
	if err != nil {
		return err
	}
	out, problems := config.Format(src)
	if err := onlyWarnings(named(problems, path)); err != nil {
		return err
	}
	doc := formatDocument{Schema: "fairlead/fmt/1", File: path, Usual: bytes.Equal(src, out)}
	switch {
	case check && doc.Usual:
	case check:
		if !p.json {
			p.talk.Say("%s is not in its usual form", path)
		}
		err = exit(exitFailed)
	case write && path != "-":
		if doc.Usual {
			break
		}
		if err := changeFile(path, func(now []byte) ([]byte, error) {
			if !bytes.Equal(now, src) {
				return nil, fairlead.Problemf(fairlead.CodeChangedBehind, "%s was changed meanwhile", path)
			}
			return out, nil
		}); err != nil {
			return err
		}
		doc.Written = true
	case p.json:
		doc.Text = string(out)
	default:
		_, err = p.stdout.Write(out)
	}
	if p.json {
		if err := p.talk.JSON(doc); err != nil {
			return err
		}
	}
	return err
}

// A formatDocument is what fmt found, for programs.
type formatDocument struct {
	Schema  string `json:"schema"`
	File    string `json:"file"`
	Usual   bool   `json:"usual"`          // it was in its usual form before
	Written bool   `json:"written"`        // it was brought into it
	Text    string `json:"text,omitempty"` // the usual form, unless it was checked or written
}

// maxInput is a little more than a configuration may have.
const maxInput = 17 << 20

// named puts the file's name into problems that were found in a text.
func named(problems []*fairlead.Problem, path string) []*fairlead.Problem {
	for _, problem := range problems {
		if problem.At != nil && problem.At.Pos.File == "" {
			problem.At.Pos.File = path
		}
	}
	return problems
}

func readFile(path string) ([]byte, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return src, nil
}

func unreadable(path string, err error) *fairlead.Problem {
	var pe *fs.PathError
	why := err
	if errors.As(err, &pe) {
		why = pe.Err
	}
	problem := fairlead.Problemf(fairlead.CodeUnreadable, "cannot read %s: %v", path, why)
	problem.Err = err
	return problem
}

func (p *program) adapt(path, to string) error {
	file, problems := load(path)
	if err := onlyWarnings(problems); err != nil {
		return err
	}
	out := config.ToConf(file)
	if to == "json" {
		var err error
		if out, err = config.ToJSON(file); err != nil {
			return err
		}
	}
	_, err := p.stdout.Write(out)
	return err
}

// diff compares two files, or one with what the running service carries.
func (p *program) diff(args []string) error {
	var rows []talk.PlanRow
	switch len(args) {
	case 2:
		old, problems := load(args[0])
		if err := onlyWarnings(problems); err != nil {
			return err
		}
		now, problems := load(args[1])
		if err := onlyWarnings(problems); err != nil {
			return err
		}
		rows = planRows(config.Diff(old.Forwards, now.Forwards), nil)
	default:
		path, err := filepath.Abs(p.fileArg(args))
		if err != nil {
			return err
		}
		now, problems := load(path)
		if err := onlyWarnings(problems); err != nil {
			return err
		}
		st, err := p.serviceStatus()
		if err != nil {
			return err
		}
		conns, err := p.serviceConns()
		if err != nil {
			return err
		}
		cuts := map[string]int{}
		for _, c := range conns.Connections {
			cuts[c.Forward]++
		}
		var carried []*fairlead.Forward
		for _, f := range st.Forwards {
			if f.Owner != string(fairlead.OwnerFile) {
				continue
			}
			was, problems := config.ParseSentence(f.Expr)
			if len(problems) > 0 {
				return exitProblems(exitFailed, problems)
			}
			was.Name = f.Name
			carried = append(carried, was)
		}
		rows = planRows(config.Diff(carried, now.Forwards), cuts)
	}
	if p.json {
		return p.talk.JSON(planDocument(rows))
	}
	if len(rows) == 0 {
		p.talk.Say("nothing changes")
		return nil
	}
	return p.talk.Plan(rows)
}

// planRows is a difference for people. live are the connections that each
// forward has; those of a forward that goes live on, and are named all the
// same.
func planRows(changes []config.Change, live map[string]int) []talk.PlanRow {
	var rows []talk.PlanRow
	for _, c := range changes {
		row := talk.PlanRow{Name: c.Name, Sentence: c.New, Was: c.Old}
		switch c.Op {
		case '+':
			row.Op = talk.Add
		case '~':
			row.Op = talk.Change
		case '-':
			row.Op, row.Sentence, row.Was = talk.Remove, c.Old, ""
		}
		rows = append(rows, row)
	}
	return rows
}

func planDocument(rows []talk.PlanRow) any {
	type change struct {
		Op   string `json:"op"`
		Name string `json:"name"`
		Expr string `json:"expr"`
		Was  string `json:"was,omitempty"`
	}
	list := []change{}
	for _, r := range rows {
		list = append(list, change{string(r.Op), r.Name, r.Sentence, r.Was})
	}
	return struct {
		Schema  string   `json:"schema"`
		Changes []change `json:"changes"`
	}{"fairlead/diff/1", list}
}
