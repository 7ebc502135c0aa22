package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fairlead"
	"fairlead/internal/config"
	"fairlead/internal/control"
	"fairlead/internal/engine"
	"fairlead/internal/kernel"
	"fairlead/internal/relay"
	"fairlead/internal/talk"
)

func (p *program) lookCommands() []*cobra.Command {
	var watch bool
	status := &cobra.Command{
		Use:               "status [NAME]",
		Short:             "how the service's forwards stand, the broken ones first",
		GroupID:           groupLook,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: p.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.repeat(watch, func() error { return p.status(args) })
		},
	}
	status.Flags().BoolVarP(&watch, "watch", "w", false, "print it again every two seconds")
	conns := &cobra.Command{
		Use:               "conns [NAME]",
		Short:             "the live connections and UDP sessions, of one forward or of all",
		GroupID:           groupLook,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: p.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.repeat(watch, func() error { return p.conns(args) })
		},
	}
	conns.Flags().BoolVarP(&watch, "watch", "w", false, "print it again every two seconds")
	log := &cobra.Command{
		Use:     "log",
		Short:   "what happens in the service, as it happens",
		GroupID: groupLook,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return p.follow() },
	}
	return []*cobra.Command{status, conns, p.explainCommand(), log}
}

// repeat runs look once, or until it fails or Ctrl-C.
func (p *program) repeat(watch bool, look func() error) error {
	for {
		if err := look(); err != nil || !watch {
			return err
		}
		select {
		case <-p.ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

func (p *program) serviceStatus() (*control.Status, error) {
	ctx, cancel := p.patience()
	defer cancel()
	return p.service().Status(ctx)
}

func (p *program) serviceConns() (*control.Conns, error) {
	ctx, cancel := p.patience()
	defer cancel()
	return p.service().Conns(ctx)
}

func (p *program) status(args []string) error {
	st, err := p.serviceStatus()
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return p.statusOf(st, args[0])
	}
	if p.json {
		return p.talk.JSON(st)
	}
	v := talk.StatusView{Service: &talk.Service{
		Version: st.Version, Up: time.Since(st.Started), File: st.File,
	}}
	if !st.InForce.IsZero() {
		v.Service.InForce = time.Since(st.InForce)
	}
	if st.FileError != nil {
		v.Service.FileProblems = []*fairlead.Problem{st.FileError.Problem.Problem()}
	}
	for _, f := range st.Forwards {
		v.Rows = append(v.Rows, statusRow(f))
	}
	return p.talk.Status(v)
}

func statusRow(f control.Forward) talk.StatusRow {
	row := talk.StatusRow{Name: f.Name, State: fairlead.State(f.State), Kind: f.Kind}
	if parsed, problems := config.ParseSentence(f.Expr); len(problems) == 0 {
		row.Listen, row.Target = parsed.At.String(), destinations(parsed)
	}
	if c := f.Counters; c != nil {
		row.Active, row.Queued, row.In, row.Out = c.Active, c.Queued, c.BytesIn, c.BytesOut
	}
	if f.Error != nil {
		row.Code, row.Error = fairlead.Code(f.Error.Code), f.Error.Text
	}
	return row
}

func destinations(f *fairlead.Forward) string {
	var list []string
	for i := range f.To {
		list = append(list, f.To[i].Dest())
	}
	return strings.Join(list, ", ")
}

func (p *program) statusOf(st *control.Status, name string) error {
	for _, f := range st.Forwards {
		if f.Name != name {
			continue
		}
		if p.json {
			st.Forwards = []control.Forward{f}
			return p.talk.JSON(st)
		}
		d := talk.Detail{
			Name: f.Name, State: fairlead.State(f.State), Sentence: f.Expr, Written: f.Source,
			Owner: f.Owner, Carrier: f.Carrier, Because: f.Because, Bound: f.Bound, Problem: f.Error.Problem(),
			Engine:     f.Engine,
			Congestion: f.Congestion,
		}
		if parsed, problems := config.ParseSentence(f.Expr); len(problems) == 0 {
			d.Reach = talk.ReachOf(parsed)
		}
		for _, t := range f.Targets {
			d.Targets = append(d.Targets, targetRow(t))
			for _, m := range t.Members {
				row := targetRow(m)
				row.Member = true
				d.Targets = append(d.Targets, row)
			}
		}
		if f.Expires != nil {
			d.Expires = time.Until(*f.Expires)
		}
		if c := f.Counters; c != nil {
			d.Active, d.Queued, d.Flows, d.Refused, d.Dropped, d.In, d.Out = c.Active, c.Queued, c.Flows, c.Refused, c.Dropped, c.BytesIn, c.BytesOut
		}
		return p.talk.Forward(d)
	}
	return noSuchForward(name)
}

func targetRow(t control.Target) talk.TargetRow {
	row := talk.TargetRow{
		Target: t.Target, Up: t.Up,
		Active: t.Active, Backup: t.Backup, Draining: t.Draining, Gone: t.Gone,
	}
	if t.Error != nil {
		row.Error = t.Error.Text
	}
	if t.Since != nil {
		row.Since = time.Since(*t.Since)
	}
	if t.Until != nil {
		row.Left = max(time.Until(*t.Until), time.Second)
	}
	return row
}

func (p *program) conns(args []string) error {
	list, err := p.serviceConns()
	if err != nil {
		return err
	}
	if len(args) == 1 {
		kept := []control.Conn{}
		for _, c := range list.Connections {
			if c.Forward == args[0] {
				kept = append(kept, c)
			}
		}
		list.Connections = kept
		if len(kept) == 0 {
			if err := p.known(args[0]); err != nil {
				return err
			}
		}
	}
	if p.json {
		return p.talk.JSON(list)
	}
	var rows []talk.ConnRow
	for _, c := range list.Connections {
		rows = append(rows, talk.ConnRow{
			ID: c.ID, Forward: c.Forward, Client: c.Client, Target: c.Target, Asked: c.Asked,
			Age: time.Duration(c.Age * float64(time.Second)), In: c.BytesIn, Out: c.BytesOut,
		})
	}
	return p.talk.Conns(rows)
}

// known is an error unless the service has a forward of that name.
func (p *program) known(name string) error {
	st, err := p.serviceStatus()
	if err != nil {
		return err
	}
	for _, f := range st.Forwards {
		if f.Name == name {
			return nil
		}
	}
	return noSuchForward(name)
}

// follow prints events until Ctrl-C.
func (p *program) follow() error {
	err := p.service().Events(p.ctx, func(e control.Event) {
		if p.json {
			p.talk.JSONLine(e)
			return
		}
		p.talk.Line("%s", eventLine(e))
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func eventLine(e control.Event) string {
	words := []string{e.Time.Local().Format(time.TimeOnly)}
	if e.Forward != "" {
		words = append(words, e.Forward+":")
	}
	switch fairlead.EventKind(e.Kind) {
	case fairlead.EventOpen, fairlead.EventClose:
		c := fairlead.Event{Time: e.Time, Reason: fairlead.Reason(e.Reason), Conn: &fairlead.Conn{
			ID: e.Conn.ID, Client: e.Conn.Client, Target: e.Conn.Target, Began: e.Conn.Began, In: e.Conn.BytesIn, Out: e.Conn.BytesOut}}
		if e.Error != nil {
			c.Problem = e.Error.Problem()
		}
		if e.Kind == string(fairlead.EventOpen) {
			words = append(words, c.Conn.Client, "to", c.Conn.Target, "begins")
		} else {
			words = append(words, connLine(c))
		}
	default:
		if e.State != "" {
			words = append(words, e.State)
		}
		if e.Text != "" {
			words = append(words, e.Text)
		}
		if e.Error != nil {
			words = append(words, e.Error.Code, e.Error.Text)
		}
	}
	return strings.Join(words, " ")
}

func (p *program) killCommand() *cobra.Command {
	var client, id, name string
	c := &cobra.Command{
		Use:               "kill [ID | NAME]",
		Short:             "end live connections with a reset: one, those of a forward, those of a client",
		GroupID:           groupChange,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: p.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m := fairlead.Match{ID: id, Forward: name}
			if client != "" {
				a, err := netip.ParseAddr(strings.Trim(client, "[]"))
				if err != nil {
					return usage(cmd, "--client takes an address, not %q", client)
				}
				m.Client = a
			}
			if len(args) == 1 {
				if err := p.idOrName(args[0], &m); err != nil {
					return err
				}
			}
			if m == (fairlead.Match{}) {
				return usage(cmd, "kill needs an ID, a NAME, or --client ADDRESS")
			}
			return p.kill(m)
		},
	}
	c.Flags().StringVar(&client, "client", "", "the connections of this client `address`")
	c.Flags().StringVar(&id, "id", "", "the connection of this ID, whatever the forwards are called")
	c.Flags().StringVar(&name, "forward", "", "the connections of this forward")
	return c
}

// idOrName settles whether a word is a connection or a forward: names are
// looked up first, as they are the operator's own.
func (p *program) idOrName(word string, m *fairlead.Match) error {
	st, err := p.serviceStatus()
	if err != nil {
		return err
	}
	for _, f := range st.Forwards {
		if f.Name == word {
			m.Forward = word
			return nil
		}
	}
	m.ID = word
	return nil
}

func (p *program) kill(m fairlead.Match) error {
	ctx, cancel := p.patience()
	defer cancel()
	n, err := p.service().Kill(ctx, m)
	if err != nil {
		return err
	}
	if p.json {
		return p.talk.JSON(control.Kill{Schema: control.SchemaKill, Killed: n})
	}
	if n == 0 {
		what := "no connection matches"
		if m.ID != "" {
			what = "there is no connection and no forward " + m.ID
		}
		return fairlead.Problemf(fairlead.CodeNoSuchConn, "%s", what).Fix("list them", "fairlead conns")
	}
	p.talk.Say("%s ended", talk.Count(n, "connection"))
	return nil
}

func (p *program) reloadCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use:     "reload",
		Short:   "have the service read its file again; a broken file changes nothing",
		GroupID: groupChange,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.reload(dry)
		},
	}
	c.Flags().BoolVarP(&dry, "dry-run", "n", false, "only say what would change")
	return c
}

// reload asks the service to read its file, and tells what that changed and
// which of the new forwards are not carried as they were asked for. One that is
// broken makes it a part of a success.
func (p *program) reload(dry bool) error {
	ctx, cancel := p.patience()
	defer cancel()
	r, err := p.service().Reload(ctx, dry)
	var refusal *control.Refusal
	if errors.As(err, &refusal) {
		if p.json {
			return exitProblems(exitConfig, append(refusal.Causes, refusal.Problem))
		}
		p.talk.Problems(refusal.Causes, 0)
		return exit(exitConfig, refusal.Problem)
	}
	if err != nil {
		return err
	}
	troubles, broken := troublesOf(r, "")
	if p.json {
		if err := p.talk.JSON(r); err != nil {
			return err
		}
		return partly(broken)
	}
	for _, w := range r.Warnings {
		p.talk.Problem(w.Problem())
	}
	p.tellTroubles(troubles)
	did := "reloaded"
	if dry {
		did = "a reload would change"
	}
	p.talk.Say("%s: %d added, %d changed, %d removed, %d as before", did, len(r.Added), len(r.Changed), len(r.Removed), r.Unchanged)
	return partly(broken)
}

// partly is the failure of what was done except for something that was told
// already.
func partly(failed bool) error {
	if failed {
		return exit(exitPartly)
	}
	return nil
}

// troublesOf warns of each forward that a reload brought and that does not
// stand as it was asked for, except that of one name. broken is whether nothing
// gets through one of them, and not because the file says so.
func troublesOf(r *control.Reload, except string) (list []*fairlead.Problem, broken bool) {
	for _, s := range r.Standing {
		if s.Error == nil || s.Name == except {
			continue
		}
		problem := s.Error.Problem()
		broken = broken || fairlead.State(s.State) == fairlead.Broken && !problem.Warning
		problem.Warning = true
		in := s.Name
		if s.Source != "" {
			in = s.Source + "  " + s.Name
		}
		list = append(list, problem.Note("in", "%s", in))
	}
	return list, broken
}

// tellTroubles prints the first few of list, and how many there are besides.
func (p *program) tellTroubles(list []*fairlead.Problem) {
	const few = 3
	for _, problem := range list[:min(few, len(list))] {
		p.talk.Problem(problem)
	}
	if more := len(list) - few; more > 0 {
		p.talk.Say("and %d more: see \"fairlead status\"", more)
	}
}

// A fitter says what this version can carry, without carrying anything.
type fitter struct {
	relay  *relay.Relay
	kernel rules
	engine *engine.Engine
}

func newFitter() *fitter {
	h := &house{}
	h.settings.Store(&settings{})
	r := relay.New(relay.Config{Place: h.place})
	k := newRules(kernel.Config{Owned: true})
	return &fitter{r, k, engine.New(engine.Config{Carriers: []fairlead.Carrier{k, r}})}
}

// fits is nil when some carrier would take f, or the reason why none does.
func (t *fitter) fits(f *fairlead.Forward) error { return t.engine.Fits(f) }

func (t *fitter) close() {
	t.relay.Close()
	t.kernel.Close()
}
