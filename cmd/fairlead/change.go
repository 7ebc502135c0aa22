package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/relay"
	"fairlead/internal/talk"
)

func (p *program) changeCommands() []*cobra.Command {
	add := &cobra.Command{
		Use:                "add KIND LISTEN to TARGET [MODIFIER ...] [--name NAME]",
		Short:              "write a forward into the file, and have the service carry it",
		GroupID:            groupChange,
		DisableFlagParsing: true,
		Example:            "  fairlead add forward :8080 to web.lan:80 --name web",
		RunE: func(cmd *cobra.Command, args []string) error {
			flags, words, err := p.changeWords(cmd, args)
			if err != nil || words == nil {
				return err
			}
			return p.add(flags, words)
		},
	}
	newSentenceFlags(p, "change").shown(add)

	edit := &cobra.Command{
		Use:   "edit NAME [KIND LISTEN to TARGET ... | to TARGET ... | MODIFIER ...]",
		Short: "change a forward in the file; without words in $EDITOR",
		Long: `Change one forward in the file and leave everything else in it alone: give the
whole sentence, only a new target ("to HOST:PORT"), or modifiers that are added
or replace those of the same word. Without words the file is opened in $EDITOR
at its line, and taken back only if it is right.`,
		GroupID:            groupChange,
		DisableFlagParsing: true,
		ValidArgsFunction:  p.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			flags, words, err := p.changeWords(cmd, args)
			if err != nil || words == nil {
				return err
			}
			return p.edit(flags, words[0], words[1:])
		},
	}
	newSentenceFlags(p, "change").shown(edit)

	var cut, dry bool
	rm := &cobra.Command{
		Use:               "rm NAME",
		Short:             "take a forward out of the file; its live connections go on unless --cut",
		GroupID:           groupChange,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.remove(args[0], cut, dry)
		},
	}
	rm.Flags().BoolVar(&cut, "cut", false, "end its live connections, too")
	rm.Flags().BoolVarP(&dry, "dry-run", "n", false, "show the change and make none")

	drain := p.drainCommand()
	enable := p.switchCommand("enable", "switch a forward on that was disabled", false)
	disable := p.switchCommand("disable", "switch a forward off and leave it in the file", true)
	return []*cobra.Command{add, rm, edit, drain, enable, disable}
}

func (p *program) switchCommand(verb, short string, disabled bool) *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:               verb + " NAME",
		Short:             short,
		GroupID:           groupChange,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			path, _, err := p.find(args[0])
			if err != nil {
				return err
			}
			ch := p.newChange(verb+"d", args[0], path, dry)
			return ch.tell(ch.make(func(src []byte) ([]byte, error) {
				return edited(config.SetDisabled(src, args[0], disabled))
			}))
		},
	}
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "show the change and make none")
	return c
}

// changeWords parses the flags of a command that takes a sentence. Without
// words it prints the help.
func (p *program) changeWords(cmd *cobra.Command, args []string) (*sentenceFlags, []string, error) {
	flags := newSentenceFlags(p, "change")
	words, err := flags.split(args)
	if err != nil {
		return nil, nil, usage(cmd, "%v", err)
	}
	p.setTalk()
	if flags.help {
		return nil, nil, cmd.Help()
	}
	if len(words) == 0 {
		return nil, nil, usage(cmd, "%s needs words: %s", cmd.Name(), cmd.Use)
	}
	return flags, words, nil
}

func (p *program) add(flags *sentenceFlags, words []string) error {
	f, problems := config.ParseArgs(words)
	if len(problems) > 0 {
		return exitProblems(exitUsage, problems)
	}
	carriers := newFitter()
	defer carriers.close()
	if err := carriers.fits(f); err != nil {
		return err // it would be written, and broken
	}
	if err := relay.CheckTLS(f, p.keepDir()); err != nil {
		return err
	}
	path := p.configPath()
	file, problems := load(path)
	if !exists(path) {
		file = &config.File{}
	} else if err := onlyWarnings(problems); err != nil {
		return err
	}
	taken := func(name string) bool {
		for _, other := range file.Forwards {
			if other.Name == name {
				return true
			}
		}
		return false
	}
	name := givenName(flags.name, f, taken)
	if taken(name) {
		return exit(exitUsage, fairlead.Problemf(fairlead.CodeTwice, "there is a forward %q already", name).
			Fix("another name", "fairlead add "+config.Sentence(f)+" --name "+name+"-2").
			Fix("change the one there is", "fairlead edit "+name+" "+config.Sentence(f)))
	}
	ch := p.newChange("added", name, path, flags.dryRun)
	ch.warn(restless([]*fairlead.Forward{f})...)
	return ch.tell(ch.make(func(src []byte) ([]byte, error) {
		return edited(config.Add(src, name, config.Sentence(f)))
	}))
}

// edited is the result of an edit of the file's text, or its errors.
func edited(out []byte, problems []*fairlead.Problem) ([]byte, error) {
	return out, onlyWarnings(problems)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (p *program) edit(flags *sentenceFlags, name string, words []string) error {
	if len(words) == 0 {
		return p.editor(name)
	}
	path, old, err := p.find(name)
	if err != nil {
		return err
	}
	if old == nil { // the line is not understood: only a whole sentence can mend it
		old = &fairlead.Forward{Name: name}
	}
	f, problems := config.Amend(old, words)
	if len(problems) > 0 {
		return exitProblems(exitUsage, problems)
	}
	ch := p.newChange("changed", name, path, flags.dryRun)
	return ch.tell(ch.make(func(src []byte) ([]byte, error) {
		return edited(config.Rewrite(src, name, old, f))
	}))
}

// find is the file in which a forward is written, which may be an included
// one, and the forward as it stands there: nil where its line has errors, which
// are no reason not to mend it.
func (p *program) find(name string) (path string, f *fairlead.Forward, err error) {
	path = p.configPath()
	file, problems := load(path)
	if file != nil {
		for _, f := range file.Forwards {
			if f.Name == name {
				if f.Source.File != "" {
					path = f.Source.File
				}
				return path, file.Written(f), nil
			}
		}
	}
	if src, err := os.ReadFile(path); err == nil && config.Names(src, name) {
		return path, nil, nil
	}
	if err := onlyWarnings(problems); err != nil {
		return "", nil, err
	}
	return "", nil, noSuchForward(name).Note("in", "%s", path)
}

// remove takes the forward out of its file, and ends its connections where
// that was asked for.
func (p *program) remove(name string, cut, dry bool) error {
	path, _, err := p.find(name)
	if err != nil {
		return err
	}
	ch := p.newChange("removed", name, path, dry)
	err = ch.make(func(src []byte) ([]byte, error) { return edited(config.Remove(src, name)) })
	if err != nil || !cut || dry {
		return ch.tell(err)
	}
	ctx, cancel := p.patience()
	defer cancel()
	n, err := p.service().Kill(ctx, fairlead.Match{Forward: name})
	if err == nil && n > 0 {
		ch.say("%s cut", talk.Count(n, "connection"))
	}
	ch.doc.Cut = &n
	var problem *fairlead.Problem
	if errors.As(err, &problem) && (problem.Code == fairlead.CodeNoService || problem.Code == fairlead.CodeNoSuchForward) {
		err = nil // nothing of it is left
	}
	return ch.tell(err)
}

// whereabouts are the flags with which this command found file and service, for
// a command that is to find the same.
func (p *program) whereabouts() string {
	s := ""
	if p.config != "" {
		s += " -c " + p.config
	}
	if p.socket != "" {
		s += " --socket " + p.socket
	}
	return s
}

// inFile gives the file's name to problems that were found in its text alone.
func inFile(err error, path string) error {
	var f *failure
	if errors.As(err, &f) {
		named(f.problems, path)
	}
	return err
}

// wholeIsRight refuses a new text for path with which the file and all that it
// includes would have errors that it has not now. An included file is judged
// by itself: what it says together with the others, the service's reload says.
func (p *program) wholeIsRight(path string, before, after []byte) error {
	_, problems := config.Parse(path, after)
	err := onlyWarnings(problems)
	if err == nil {
		return nil
	}
	if _, was := config.Parse(path, before); onlyWarnings(was) != nil && len(was) >= len(problems) {
		return nil // it was no better
	}
	return err
}

// reads reports whether the service's file is path, or includes it.
func (p *program) reads(main, path string) bool {
	if same(main, path) {
		return true
	}
	file, _ := load(main)
	if file == nil {
		return false
	}
	for _, f := range file.Forwards {
		if same(f.Source.File, path) {
			return true
		}
	}
	return false
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// editor opens the file at the forward's line, and takes the result back only
// if it is right.
func (p *program) editor(name string) error {
	path, f, err := p.find(name)
	if err != nil {
		return err
	}
	line := 1
	if f != nil {
		line = f.Source.Line
	}
	editor := p.getenv("VISUAL")
	if editor == "" {
		editor = p.getenv("EDITOR")
	}
	if editor == "" {
		return exit(exitUsage, fairlead.Problemf(fairlead.CodeUsage, "edit needs words, or $EDITOR").
			Fix("say what is to change", "fairlead edit "+name+" to HOST:PORT"))
	}
	before, err := readFile(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp("", "fairlead-*.conf")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(before); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	args := append(strings.Fields(editor), "+"+strconv.Itoa(line), tmp.Name())
	cmd := exec.CommandContext(p.ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, p.stdout, p.stderr
	if err := cmd.Run(); err != nil {
		return fairlead.Problemf(fairlead.CodeFailed, "%s ended with an error, and nothing was changed: %v", args[0], err)
	}
	after, err := readFile(tmp.Name())
	if err != nil {
		return err
	}
	if _, problems := config.Parse(filepath.Base(path), after); onlyWarnings(problems) != nil {
		return onlyWarnings(problems)
	}
	ch := p.newChange("changed", name, path, false)
	return ch.tell(ch.make(func(src []byte) ([]byte, error) {
		if !bytes.Equal(src, before) {
			return nil, fairlead.Problemf(fairlead.CodeChangedBehind, "%s was changed meanwhile, and was left as it is", path)
		}
		return after, nil
	}))
}
