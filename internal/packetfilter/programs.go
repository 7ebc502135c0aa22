package packetfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"fairlead"
)

type runner func(ctx context.Context, input, program string, args ...string) (string, error)

// mostOutput is how much of what a program prints is read.
const mostOutput = 8 << 20

// run runs a program and returns what it printed. The error of one that failed
// has its words.
func run(ctx context.Context, input, program string, args ...string) (string, error) {
	c := exec.CommandContext(ctx, program, args...)
	c.Stdin = strings.NewReader(input)
	var out, said bounded
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		words := strings.TrimSpace(said.String())
		if len(words) > 500 {
			words = words[:500] + " …"
		}
		return "", fmt.Errorf("%s: %s: %w", program, strings.ReplaceAll(words, "\n", "; "), err)
	}
	return out.String(), err
}

// bounded keeps the beginning of what is written.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := mostOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// A pfctl is pf by its program pfctl(8).
type pfctl struct {
	run    runner
	anchor string
	d      Dialect
}

func (p *pfctl) dialect() Dialect { return p.d }

func (p *pfctl) enabled(ctx context.Context) *fairlead.Problem {
	out, err := p.run(ctx, "", "pfctl", "-s", "info")
	if err == nil && strings.Contains(out, "Status: Enabled") {
		return nil
	}
	problem := fairlead.Problemf(fairlead.CodeNoPacketFilter, "pf is not switched on").Fix("switch it on", "sudo pfctl -e")
	if err != nil {
		problem = fairlead.Problemf(fairlead.CodeNoPacketFilter, "pf cannot be used: %v", err)
	}
	return problem.Fix("have a process carry it", "forward … to …")
}

// ready asks whether pf is on and looks into our anchors.
func (p *pfctl) ready(ctx context.Context) *fairlead.Problem {
	if problem := p.enabled(ctx); problem != nil {
		return problem
	}
	lists := map[string][]string{"rules": {"anchor"}}
	if p.d == PF {
		lists["nat"] = []string{"nat-anchor", "rdr-anchor"}
	}
	for _, what := range []string{"nat", "rules"} {
		if lists[what] == nil {
			continue
		}
		out, err := p.run(ctx, "", "pfctl", "-s", what)
		if err != nil {
			return fairlead.Problemf(fairlead.CodeNoPacketFilter, "the rules of pf cannot be read: %v", err)
		}
		for _, word := range lists[what] {
			if line := word + ` "fairlead/*"`; !slices.ContainsFunc(strings.Split(out, "\n"), func(l string) bool { return strings.HasPrefix(strings.TrimSpace(l), line) }) {
				return fairlead.Problemf(fairlead.CodeNoAnchor, "pf does not look into our rules: its own have no %s", line).
					Fix("put the line into /etc/pf.conf, and load that", line+"   # then: sudo pfctl -f /etc/pf.conf")
			}
		}
	}
	return nil
}

// load replaces the anchor's rules, which pf does in one transaction.
func (p *pfctl) load(ctx context.Context, plan, _ *Plan) error {
	_, err := p.run(ctx, plan.Rules, "pfctl", "-q", "-a", p.anchor, "-f", "-")
	return err
}

func (p *pfctl) counts(ctx context.Context) (map[string]count, error) {
	out, err := p.run(ctx, "", "pfctl", "-q", "-a", p.anchor, "-s", "labels")
	if err != nil {
		return nil, err
	}
	return parseLabels(out), nil
}

// parseLabels reads what pfctl -s labels prints: on each line a label and the
// evaluations, packets, bytes, packets in, bytes in, packets out, bytes out and
// states created of a rule. Rules of one label are added up.
func parseLabels(out string) map[string]count {
	all := map[string]count{}
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 8 {
			continue
		}
		var n [8]int64
		good := true
		for i := range n {
			if i+1 >= len(words) {
				break // the last column is missing on older systems
			}
			v, err := strconv.ParseInt(words[i+1], 10, 64)
			good = good && err == nil && v >= 0
			n[i] = v
		}
		if good {
			c := all[words[0]]
			all[words[0]] = count{c.flows + n[7], c.in + n[4], c.out + n[6]}
		}
	}
	return all
}

// An ipfwctl is ipfw by its program.
type ipfwctl struct {
	run  runner
	name string
}

func (w *ipfwctl) dialect() Dialect { return IPFW }

// ready also refuses all but the service: sets have numbers and no names, and
// one instance would take away the rules of the other.
func (w *ipfwctl) ready(ctx context.Context) *fairlead.Problem {
	if w.name != Service {
		return fairlead.Problemf(fairlead.CodeNotExpressed, "ipfw cannot do this: its sets have no names, so that only the service itself loads rules").
			Fix("let the service carry it", "fairlead add …")
	}
	if _, err := w.run(ctx, "", "ipfw", "-q", "list"); err != nil {
		return fairlead.Problemf(fairlead.CodeNoPacketFilter, "ipfw cannot be used: %v", err).
			Fix("switch it on", "sudo service ipfw onestart").
			Fix("have a process carry it", "forward … to …")
	}
	return nil
}

// load makes the new rules ready in a set that is switched off, and swaps it
// with the one that holds: rules change at once. Translations know no sets.
// Before the swap each has what the rules of before and after lead to it, after
// it only what the new ones do.
func (w *ipfwctl) load(ctx context.Context, plan, was *Plan) error {
	live, ready := strconv.Itoa(SetLive), strconv.Itoa(SetReady)
	var before, after strings.Builder
	fmt.Fprintf(&before, "delete set %s\nset disable %s\n", ready, ready)
	for _, n := range united(plan.NAT, was.NAT) {
		before.WriteString(n.Config() + "\n")
	}
	before.WriteString(strings.ReplaceAll(plan.Rules, fmt.Sprintf("add %d set %s ", RuleNumber, live), fmt.Sprintf("add %d set %s ", RuleNumber, ready)))
	fmt.Fprintf(&before, "set enable %s\nset swap %s %s\n", live, live, ready)
	fmt.Fprintf(&after, "delete set %s\n", ready)
	for _, n := range plan.NAT {
		after.WriteString(n.Config() + "\n")
	}
	for _, n := range was.NAT {
		if !slices.ContainsFunc(plan.NAT, func(m Instance) bool { return m.Number == n.Number }) {
			fmt.Fprintf(&after, "nat %d delete\n", n.Number)
		}
	}
	// ipfw stops at the first line that it does not take.
	if _, err := w.run(ctx, before.String(), "ipfw", "-q", "/dev/stdin"); err != nil {
		w.run(ctx, "", "ipfw", "-q", "delete", "set", ready)
		return err
	}
	_, err := w.run(ctx, after.String(), "ipfw", "-q", "/dev/stdin")
	return err
}

// united are the translations with the redirections of both; where both lead the
// same port, as the new one has it.
func united(now, was []Instance) []Instance {
	list := make([]Instance, 0, len(now)+len(was))
	for _, n := range now {
		n.Redirects = slices.Clone(n.Redirects)
		for _, old := range was {
			if old.Number != n.Number || old.Interface != n.Interface {
				continue
			}
			for _, r := range old.Redirects {
				if !slices.ContainsFunc(n.Redirects, func(q string) bool { return entrance(q) == entrance(r) }) {
					n.Redirects = append(n.Redirects, r)
				}
			}
		}
		list = append(list, n)
	}
	return list
}

// entrance is what a redirection leads elsewhere: its protocol, and the address
// and ports that are asked for.
func entrance(redirect string) string {
	words := strings.Fields(redirect)
	return words[0] + " " + words[len(words)-1]
}

// counts reads "ipfw -a list": number, packets, bytes and the rule, which ends
// with the forward's name as a comment.
func (w *ipfwctl) counts(ctx context.Context) (map[string]count, error) {
	out, err := w.run(ctx, "", "ipfw", "-q", "-a", "set", strconv.Itoa(SetLive), "list")
	if err != nil {
		return nil, err
	}
	return parseRules(out), nil
}

// parseRules adds up the bytes of the rules of each comment: those of packets
// that leave are answers. ipfw counts no connections.
func parseRules(out string) map[string]count {
	all := map[string]count{}
	for line := range strings.Lines(out) {
		rule, label, ok := strings.Cut(strings.TrimSpace(line), " // ")
		words := strings.Fields(rule)
		if !ok || len(words) < 5 {
			continue
		}
		bytes, err := strconv.ParseInt(words[2], 10, 64)
		if err != nil || bytes < 0 {
			continue
		}
		c := all[label]
		switch {
		case slices.Contains(words, "reset") || slices.Contains(words, "unreach"):
			continue
		case slices.Contains(words, "out"):
			c.out += bytes
		default:
			c.in += bytes
		}
		all[label] = c
	}
	return all
}
