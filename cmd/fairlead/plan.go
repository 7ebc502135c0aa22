package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/kernel"
)

func (p *program) planCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan [KIND LISTEN to TARGET [MODIFIER ...]]",
		Short: "print the rules that would be loaded into the kernel, and load nothing",
		Long: `Print what "fairlead up" would load into the kernel for the file, or what one
sentence would load in the foreground: the table in the words of nft(8), and
before it, as comments, what would be changed on this machine outside that table.
Nothing is changed, and no privilege is needed.

Interfaces, addresses and names are those of this machine at the moment. The
service changes the table that is there and loads no new one where that will do.

With --for the rules are those of another packet filter: pf of FreeBSD and macOS,
openbsd-pf, or ipfw. What that one cannot do exactly as the sentence says is
refused, and has no rule. With --wan or --lan naming an interface that this
machine does not have, the plan is for another machine, of which no more is known
than these names.`,
		Example: "  fairlead plan\n" +
			"  fairlead plan --for pf --wan em0 --lan em1 nat wan:80 to 192.168.1.10\n" +
			"  fairlead plan -c new.conf | less\n" +
			"  fairlead plan nat wan:80,443 to 192.168.1.10",
		GroupID:            groupConfig,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			flags := newSentenceFlags(p, "plan")
			words, err := flags.split(args)
			if err != nil {
				return usage(cmd, "%v", err)
			}
			p.setTalk()
			if flags.help {
				return cmd.Help()
			}
			return p.plan(flags, words)
		},
	}
	newSentenceFlags(p, "plan").shown(c)
	return c
}

// A planDoc is what plan prints for programs.
type planDoc struct {
	Schema   string            `json:"schema"`
	For      string            `json:"for"`     // nftables, pf, openbsd-pf or ipfw
	Table    string            `json:"table"`   // or pf's anchor
	Text     string            `json:"text"`    // in the filter's words; "" where nothing would be loaded
	Outside  []string          `json:"outside"` // what would be changed outside the table, in words
	Forwards []control.Forward `json:"forwards"`
}

func (p *program) plan(flags *sentenceFlags, words []string) error {
	var forwards []*fairlead.Forward
	set := &settings{}
	table := table{p.tableName(), false}
	if len(words) > 0 {
		f, problems := config.ParseArgs(words)
		if len(problems) > 0 {
			return exitProblems(exitUsage, problems)
		}
		f.Name = givenName(flags.name, f, func(string) bool { return false })
		forwards = append(forwards, f)
		table.name, table.owned = kernel.TableOfProcess(os.Getpid()), true
	} else {
		file, problems := load(p.configPath())
		if err := onlyWarnings(problems); err != nil {
			return err
		}
		forwards, set.wan, set.lan = file.Forwards, file.WAN, file.LAN
	}
	if len(p.wan) > 0 {
		set.wan = p.wan
	}
	if len(p.lan) > 0 {
		set.lan = p.lan
	}
	h := &house{}
	h.settings.Store(set)
	h.here = newHere()
	defer h.here.Close()
	if filter := cmp.Or(flags.filter, systemFilter); filter != nftables {
		return p.planFor(h, filter, forwards, len(words) > 0)
	}
	k := kernel.New(kernel.Config{Table: table.name, Owned: table.owned, Sides: h.sides, Resolve: h.here.Resolve})
	defer k.Close()

	var mine []*fairlead.Forward
	var refusals []*fairlead.Problem
	var others []string
	carriers := newFitter()
	defer carriers.close()
	for _, f := range forwards {
		if f.Disabled {
			continue
		}
		if err := k.Carries(f); err == nil {
			mine = append(mine, f)
			continue
		}
		var problem *fairlead.Problem
		switch err := carriers.fits(f); {
		case err == nil:
			others = append(others, f.Name)
		case errors.As(err, &problem):
			if f.Source.Line > 0 {
				problem.Note("in", "%s:%d  %s", f.Source.File, f.Source.Line, f.Name)
			}
			refusals = append(refusals, problem)
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.timeout)
	defer cancel()
	v, err := k.Preview(ctx, mine)
	if err != nil {
		return err
	}
	for _, s := range v.Statuses {
		if s.Problem != nil {
			problem := *s.Problem
			refusals = append(refusals, problem.Note("in", "%s", s.Forward.Name))
		}
	}
	if p.json {
		doc := planDoc{Schema: "fairlead/plan/1", For: nftables, Table: v.Table, Text: v.Text, Outside: append([]string{}, v.Outside...), Forwards: []control.Forward{}}
		for _, s := range v.Statuses {
			doc.Forwards = append(doc.Forwards, control.ForwardOf(s))
		}
		if err := p.talk.JSON(doc); err != nil {
			return err
		}
	} else if err := p.printPlan(v, others); err != nil {
		return err
	}
	if len(words) > 0 && len(refusals) > 0 && v.Text == "" {
		return exitProblems(exitFailed, refusals)
	}
	p.talk.Problems(refusals, 0)
	return nil
}

// printPlan prints the table, which nft -f would take as it stands.
func (p *program) printPlan(v kernel.Preview, others []string) error {
	var b strings.Builder
	for _, name := range others {
		b.WriteString("# " + name + " is carried by the relay, in the process: nothing of it is in the kernel\n")
	}
	for _, o := range v.Outside {
		b.WriteString("# outside the table: " + o + "\n")
	}
	b.WriteString(v.Text)
	_, err := p.stdout.Write([]byte(b.String()))
	return err
}
