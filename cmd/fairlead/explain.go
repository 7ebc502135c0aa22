package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/check"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/place"
	"fairlead/internal/sys/holder"
	"fairlead/internal/sys/netmon"
	"fairlead/internal/talk"
)

func (p *program) explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain NAME|:PORT|SENTENCE [from ADDRESS]",
		Short: "why a client does or does not get through a forward, and what mends it",
		Long: `Follow one connection attempt through a forward, step by step, and say where it
ends and why, with one way to mend it. The attempt is a single packet in the name
of the client, inside this machine's kernel: nothing is changed, and the client's
address hears nothing of it. Without "from" the client is a stranger from where
the forward's clients come. Following packets takes root.

A whole sentence is explained as well, as it would be carried; its client is
named by --client, since "from" is a word of its own there.

Exit codes: 0 it works, 1 it does not, 7 it could not be tested.`,
		Example: `  fairlead explain web
  fairlead explain web from 192.168.1.20
  fairlead explain :443/udp`,
		GroupID:            groupLook,
		DisableFlagParsing: true,
		ValidArgsFunction:  p.completeNames,
	}
	var client string
	flags := newSentenceFlags(p, "explain")
	flags.set.StringVar(&client, "client", "", "the client's `address`")
	flags.set.StringSliceVar(&p.wan, "wan", nil, "interfaces that lead outside")
	flags.set.StringSliceVar(&p.lan, "lan", nil, "interfaces that lead inside")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		words, err := flags.split(args)
		if err != nil {
			return usage(cmd, "%v", err)
		}
		p.setTalk()
		if flags.help {
			return cmd.Help()
		}
		if n := len(words); client == "" && n == 3 && (words[1] == "from" || words[1] == "--from") {
			client, words = words[2], words[:1]
		} else if n == 2 && strings.HasPrefix(words[1], "--from=") {
			client, words = strings.TrimPrefix(words[1], "--from="), words[:1]
		}
		if len(words) == 0 {
			return usage(cmd, "explain needs the name of a forward, a port, or a sentence")
		}
		q, s, err := p.question(cmd, words)
		if err != nil {
			return err
		}
		if client != "" {
			if q.From, err = netip.ParseAddr(client); err != nil {
				return usage(cmd, "%q is not an address", client)
			}
			q.From = q.From.Unmap()
		}
		return p.explain(q, s)
	}
	flags.shown(c)
	return c
}

// question is what the words ask about: a forward of the service or of the
// file, or a sentence.
func (p *program) question(cmd *cobra.Command, words []string) (check.Question, *settings, error) {
	set := &settings{wan: p.wan, lan: p.lan}
	port, network, isPort := portWord(words[0])
	isSentence := len(words) > 1 || slices.ContainsFunc(config.Kinds(), func(k config.KindHelp) bool {
		return strings.HasPrefix(words[0], string(k.Kind)+" ")
	})
	if isSentence {
		f, problems := config.ParseArgs(words)
		if len(problems) > 0 {
			return check.Question{}, nil, exitProblems(exitUsage, problems)
		}
		return check.Question{Forward: f}, set, nil
	}

	st, stErr := p.serviceStatus()
	var file *config.File
	if path := p.fileOf(st); path != "" {
		if file, _ = load(path); file != nil {
			if len(set.wan) == 0 {
				set.wan = file.WAN
			}
			if len(set.lan) == 0 {
				set.lan = file.LAN
			}
			set.places = file.Places
		}
	}
	wanted := func(f *fairlead.Forward) bool {
		if !isPort {
			return f.Name == words[0]
		}
		return f.At.Unix == "" && listensAt(f, port) && (network == "" || strings.Contains(f.At.Net.String(), network))
	}
	q := check.Question{Network: network, Port: port}
	if st != nil {
		for _, s := range st.Forwards {
			f, problems := config.ParseSentence(s.Expr)
			if len(problems) > 0 {
				continue
			}
			if f.Name = s.Name; !wanted(f) {
				continue
			}
			q.Forward, q.Running, q.State, q.Carrier = f, true, fairlead.State(s.State), s.Carrier
			f.Disabled = q.State == fairlead.Disabled && s.Error == nil
			q.Problem = s.Error.Problem()
			if s.Counters != nil {
				q.Active, q.Flows = s.Counters.Active, s.Counters.Flows
			}
			if strings.HasPrefix(s.Owner, string(fairlead.OwnerFile)) {
				q.Edit = "fairlead edit" + p.whereabouts() + " " + f.Name
			}
			return q, set, nil
		}
	}
	if file != nil {
		for _, f := range file.Forwards {
			if wanted(f) {
				q.Forward, q.Edit = f, "fairlead edit"+p.whereabouts()+" "+f.Name
				return q, set, nil
			}
		}
	}
	if stErr != nil && file == nil {
		return q, nil, stErr
	}
	if isPort {
		return q, nil, exit(exitNoSuch, fairlead.Problemf(fairlead.CodeNoSuchForward, "no forward listens at port %d", port).Fix("list them", "fairlead status"))
	}
	return q, nil, noSuchForward(words[0])
}

// fileOf is the file to read beside what the service says, "" for none.
func (p *program) fileOf(st *control.Status) string {
	if p.config == "" && p.getenv("FAIRLEAD_CONFIG") == "" && st != nil {
		return st.File
	}
	return p.configPath()
}

// portWord reads ":443", ":53/udp" and the same without the colon.
func portWord(word string) (port uint16, network string, ok bool) {
	number, network, _ := strings.Cut(strings.TrimPrefix(word, ":"), "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || network != "" && network != "tcp" && network != "udp" {
		return 0, "", false
	}
	return uint16(n), network, true
}

func listensAt(f *fairlead.Forward, port uint16) bool {
	return slices.ContainsFunc(f.At.Ports, func(r fairlead.Ports) bool { return r.First <= port && port <= r.Last })
}

func (p *program) explain(q check.Question, set *settings) error {
	h := &house{here: place.New(place.Config{})}
	defer h.here.Close()
	h.settings.Store(set)
	r := check.Explain(p.ctx, check.Config{
		Sides:   set.sides,
		Place:   h.place,
		Holders: portHolders,
	}, q)
	code := map[check.Outcome]int{check.Works: exitOK, check.Broken: exitFailed, check.Untested: exitTimeout}[r.Outcome]
	var err error
	if p.json {
		err = p.talk.JSON(explanationDocument(&q, r))
	} else {
		err = p.talk.Explain(explanation(&q, r))
	}
	if err != nil || code == exitOK {
		return err
	}
	return exit(code)
}

// sides are the interfaces of "wan" and "lan": as it was said, else by their
// routes and addresses.
func (s *settings) sides() (wan, lan []string, err error) {
	wan, lan, err = netmon.Default()
	if len(s.wan) > 0 {
		wan = s.wan
	}
	lan = slices.DeleteFunc(lan, func(n string) bool { return slices.Contains(wan, n) })
	if len(s.lan) > 0 {
		lan = s.lan
	}
	return wan, lan, err
}

func portHolders(network string, at netip.AddrPort) []check.Holder {
	found, err := holder.Find(network, at)
	if err != nil {
		return nil
	}
	var list []check.Holder
	for _, h := range found {
		list = append(list, check.Holder{Text: h.String(), Unit: h.Unit})
	}
	return list
}

// explanation is a report in words.
func explanation(q *check.Question, r *check.Report) talk.Explanation {
	e := talk.Explanation{Problem: r.Problem, Notes: r.Notes}
	client, what := "a client", q.Forward.Expr
	if r.From.IsValid() {
		client = r.From.Addr().String()
	}
	if q.Forward.Name != "" {
		what = q.Forward.Name
	}
	where := q.Forward.At.String()
	if r.At.IsValid() {
		where = r.At.String() + "/" + r.Network
	}
	if r.Target != "" {
		where += " to " + r.Target
	}
	word := map[check.Outcome]string{check.Works: "gets through", check.Broken: "does not get through", check.Untested: "may or may not get through"}
	e.Question = fmt.Sprintf("%s %s %s (%s)", client, word[r.Outcome], what, where)
	e.Verdict = "it works"
	for _, s := range r.Steps {
		e.Steps = append(e.Steps, talk.ExplainedStep{Name: s.Name, What: s.What, State: string(s.Mark), Evidence: s.Evidence})
	}
	return e
}

// An explainDocument is a report for programs: schema fairlead/explain/1.
type explainDocument struct {
	Schema   string           `json:"schema"`
	Forward  string           `json:"forward"`
	Sentence string           `json:"sentence"`
	Client   string           `json:"client"`
	Listen   string           `json:"listen"`
	Network  string           `json:"network"`
	Target   string           `json:"target"`
	Outcome  string           `json:"outcome"` // works, broken, untested
	Steps    []explainStep    `json:"steps"`
	Error    *control.Problem `json:"error,omitempty"`
	Notes    []string         `json:"notes,omitempty"`
}

// An explainStep is one step of a walk.
type explainStep struct {
	Name     string `json:"name"`
	State    string `json:"state"` // ok, bad, unknown, skipped
	Text     string `json:"text,omitempty"`
	Evidence string `json:"evidence,omitempty"`
}

func explanationDocument(q *check.Question, r *check.Report) explainDocument {
	d := explainDocument{
		Schema: "fairlead/explain/1", Forward: q.Forward.Name, Sentence: q.Forward.Expr,
		Network: r.Network, Target: r.Target, Outcome: string(r.Outcome), Steps: []explainStep{},
		Error: control.ProblemOf(r.Problem), Notes: r.Notes,
	}
	if r.From.IsValid() {
		d.Client = r.From.Addr().String()
	}
	if r.At.IsValid() {
		d.Listen = r.At.String()
	} else {
		d.Listen = q.Forward.At.String()
	}
	for _, s := range r.Steps {
		d.Steps = append(d.Steps, explainStep{s.Name, string(s.Mark), s.What, s.Evidence})
	}
	return d
}
