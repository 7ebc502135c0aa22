package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/talk"
)

func (p *program) drainCommand() *cobra.Command {
	var undo, dry bool
	c := &cobra.Command{
		Use:   "drain NAME TARGET",
		Short: "no new connections for one target; those it has go on",
		Long: `Write "drain" behind one target of a forward: it gets no new connections, and
those it has go on until they end by themselves. "fairlead status NAME" tells how
many are left. With --undo the target is used again.

TARGET is written as in the sentence; the host alone is enough where no other
target has it.`,
		Example: "  fairlead drain web 10.0.0.4:80\n" +
			"  fairlead drain --undo web 10.0.0.4",
		GroupID:           groupChange,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: p.completeTargets,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.drain(args[0], args[1], !undo, dry)
		},
	}
	c.Flags().BoolVar(&undo, "undo", false, "use the target again")
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "show the change and make none")
	return c
}

// drain writes the word behind a target, or takes it out, and tells how many
// connections the target has left.
func (p *program) drain(name, target string, drained, dry bool) error {
	path, old, err := p.find(name)
	if err != nil {
		return err
	}
	if old == nil {
		return fairlead.Problemf(fairlead.CodeFailed, "the line of %s has errors, so that its targets are not known", name).
			Fix("see them", "fairlead validate"+p.whereabouts())
	}
	command := "fairlead drain "
	if !drained {
		command += "--undo "
	}
	meant, err := targetsNamed(old, target, command)
	if err != nil {
		return err
	}
	f := *old
	f.To = slices.Clone(old.To)
	for _, i := range meant {
		f.To[i].Drain = drained
	}
	f.Expr = config.Sentence(&f)
	ch := p.newChange("drained", name, path, dry)
	ch.doc.Target = f.To[meant[0]].Dest()
	ch.did = "drained " + ch.doc.Target + " of"
	if !drained {
		ch.doc.Action, ch.did = "undrained", "took back "+ch.doc.Target+" of"
	}
	if err := ch.make(func(src []byte) ([]byte, error) {
		return edited(config.Rewrite(src, name, old, &f))
	}); err != nil || dry || !drained || ch.doc.Service != followed {
		return ch.tell(err)
	}
	st, err := p.serviceStatus()
	if err != nil {
		return ch.tell(err)
	}
	for _, s := range st.Forwards {
		for _, t := range s.Targets {
			if s.Name != name || t.Target != ch.doc.Target || !t.Draining {
				continue
			}
			ch.doc.Left = &t.Active
			if t.Active > 0 {
				ch.say("%s has %s left", t.Target, talk.Count(t.Active, "connection"))
			}
		}
	}
	return ch.tell(nil)
}

// targetsNamed are the places in f's list of the target that somebody means:
// one, or several where the same is written for different clients. The command
// is what they may repeat with more of its name.
func targetsNamed(f *fairlead.Forward, word, command string) ([]int, error) {
	var exact, hosts []int
	all := make([]string, len(f.To))
	for i := range f.To {
		t := &f.To[i]
		all[i] = t.Dest()
		switch host := strings.Trim(word, "[]"); {
		case strings.EqualFold(all[i], word):
			exact = append(exact, i)
		case t.Unix == "" && strings.EqualFold(t.Host, host):
			hosts = append(hosts, i)
		}
	}
	if len(exact) > 0 {
		return exact, nil
	}
	for _, i := range hosts {
		if all[i] != all[hosts[0]] {
			p := fairlead.Problemf(fairlead.CodeUsage, "%q is several targets of %s", word, f.Name)
			for _, i := range hosts[:min(len(hosts), 3)] {
				p.Fix("this one", command+f.Name+" "+all[i])
			}
			return nil, exit(exitUsage, p)
		}
	}
	if len(hosts) > 0 {
		return hosts, nil
	}
	return nil, exit(exitUsage, fairlead.Problemf(fairlead.CodeUsage, "%q is no target of %s", word, f.Name).
		Note("note", "its targets are %s", strings.Join(all, ", ")))
}

// completeTargets completes the name of a forward, and then its targets.
func (p *program) completeTargets(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return p.completeNames(cmd, args, word)
	}
	var list []string
	if _, f, err := p.find(args[0]); err == nil && f != nil && len(args) == 1 {
		for i := range f.To {
			if d := f.To[i].Dest(); strings.HasPrefix(d, word) {
				list = append(list, d)
			}
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
