package main

import (
	"context"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/kernel"
	"fairlead/internal/talk"
)

func (p *program) cleanCommand() *cobra.Command {
	var force, dry bool
	c := &cobra.Command{
		Use:   "clean",
		Short: "take everything out of the kernel that fairlead put there, at once",
		Long: `Remove every table that fairlead loaded into this machine's nftables, end the
connections that these translated, and put back as it was found what forwards had
changed elsewhere: kernel parameters, addresses, rules of other firewalls.

After the end of the service nothing of this is needed: the kernel lets new
connections in for half a minute, so that a restart refuses nobody, and then no
more. What stays is an empty table, the guard of "share", and whatever established
connections need. Clean removes those as well. It refuses while the service runs.
What "fairlead install" set up stays; "fairlead uninstall" does what clean does, and
takes that away too.`,
		GroupID: groupProgram,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return p.clean(force, dry) },
	}
	c.Flags().BoolVar(&force, "force", false, "also while the service runs: it will load its table again")
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "only say what there is")
	return c
}

// A cleanDoc is what clean prints for programs.
type cleanDoc struct {
	Schema  string   `json:"schema"`
	Dry     bool     `json:"dry"`
	Tables  []string `json:"tables"`   // removed
	PutBack []string `json:"put_back"` // commands that say the same
	Cut     int      `json:"cut"`      // connections
	Left    []string `json:"left"`     // what stays, with the reason

	Elsewhere []string `json:"elsewhere"` // what was changed in other network namespaces
}

func (p *program) clean(force, dry bool) error {
	if !force && !dry {
		ctx, cancel := p.patience()
		defer cancel()
		if v, err := p.service().Version(ctx); err == nil {
			return fairlead.Problemf(fairlead.CodeServiceRunning, "the service runs (pid %d): it would load its table again", v.PID).
				Fix("stop it first", "sudo systemctl stop fairlead && sudo fairlead clean").
				Fix("clean all the same", "fairlead clean --force")
		}
	}
	c, err := kernel.Clean(context.WithoutCancel(p.ctx), p.keepDir(), dry)
	if err != nil {
		return err
	}
	if p.json {
		return p.talk.JSON(cleanDoc{"fairlead/clean/1", dry, c.Tables, c.PutBack, c.Cut, c.Left, c.Elsewhere})
	}
	did, cut := "removed", "cut"
	if dry {
		did, cut = "would remove", "would be cut"
	}
	for _, t := range c.Tables {
		p.talk.Say("%s table inet %s", did, t)
	}
	if c.Cut > 0 {
		p.talk.Say("%s %s", talk.Count(c.Cut, "connection"), cut)
	}
	for _, u := range c.PutBack {
		p.talk.Say("put back: %s", u)
	}
	if len(c.Tables)+len(c.PutBack) == 0 {
		p.talk.Say("there is nothing of fairlead in the kernel")
	}
	for _, l := range c.Left {
		p.talk.Say("left: %s", l)
	}
	for _, e := range c.Elsewhere {
		p.talk.Say("not here: %s (it was changed in another network namespace; clean puts it back there)", e)
	}
	return partly(len(c.Left) > 0)
}
