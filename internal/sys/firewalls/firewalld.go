package firewalls

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// firewalld has no place for rules of a program's own but a policy: what is
// between which zones, in front of what the zones say. Policies can be made in
// the permanent configuration only and begin with a reload, as Docker does it;
// their rules then come and go at run time. Ours are two, from everywhere to
// everywhere and to this host, and all that is in them is ours.
const (
	forwarding = "fwd"
	host       = "host"

	priority = "-100" // before the zones, which have 0
)

// mostFirewalld bounds the rules that firewalld is given: they are arguments
// of commands.
const mostFirewalld = 1000

// policyName is the name of a policy of ours: firewalld takes few characters.
func policyName(mark, which string) string {
	if rest, other := strings.CutPrefix(mark, "fairlead-"); other {
		mark = "fl-" + rest
	}
	if len(mark) > 11 {
		mark = mark[:11]
	}
	return mark + "-" + which
}

// setFirewalld keeps rich rules in our policies. Answers need no rule:
// firewalld lets in what belongs to a connection.
func setFirewalld(ctx context.Context, mark string, holes []Hole) (int, error) {
	if _, err := run(ctx, "", "firewall-cmd", "--state"); err != nil {
		if errors.Is(err, ErrAbsent) {
			return 0, err
		}
		return 0, fmt.Errorf("firewalld does not run: it %w", ErrAbsent)
	}
	want := map[string][]string{}
	for _, h := range holes {
		if h.In != "" && !h.Net.IsValid() {
			return 0, fmt.Errorf("firewalld %w by interfaces: the network behind %s has to be known", ErrMeaningless, h.In)
		}
		which := forwarding
		if h.Here {
			which = host
		}
		if rule := richRule(h); !slices.Contains(want[which], rule) {
			want[which] = append(want[which], rule)
		}
	}
	if n := len(want[forwarding]) + len(want[host]); n > mostFirewalld {
		return 0, fmt.Errorf("firewalld %w: %d, at most %d", ErrMany, n, mostFirewalld)
	}
	made, err := makePolicies(ctx, mark, want)
	if err != nil {
		return 0, err
	}
	changed := 0
	for _, which := range []string{forwarding, host} {
		if !made[which] {
			continue
		}
		n, err := setPolicy(ctx, policyName(mark, which), want[which])
		changed += n
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// richRule is firewalld.richlanguage(5) for a hole, as firewalld prints it.
func richRule(h Hole) string {
	var b strings.Builder
	b.WriteString("rule")
	family := "ipv4"
	if h.v6() {
		family = "ipv6"
	}
	if !h.Here || h.From.IsValid() {
		fmt.Fprintf(&b, " family=%q", family)
	}
	if from := h.From; from.IsValid() {
		fmt.Fprintf(&b, " source address=%q", plain(from.String()))
	} else if h.Net.IsValid() {
		fmt.Fprintf(&b, " source address=%q", plain(h.Net.String()))
	}
	if h.Target.IsValid() {
		fmt.Fprintf(&b, " destination address=%q", h.Target)
	}
	if h.Ports != (Ports{}) {
		fmt.Fprintf(&b, " port port=%q protocol=%q", h.Ports.join("-"), h.proto())
	}
	b.WriteString(" accept")
	return b.String()
}

// makePolicies makes the policies that want needs, and reports which there are.
func makePolicies(ctx context.Context, mark string, want map[string][]string) (map[string]bool, error) {
	running, err := words(ctx, "firewall-cmd", "--get-policies")
	if err != nil {
		return nil, err
	}
	made := map[string]bool{}
	var missing []string
	for _, which := range []string{forwarding, host} {
		made[which] = slices.Contains(running, policyName(mark, which))
		if !made[which] && len(want[which]) > 0 {
			missing = append(missing, which)
		}
	}
	if len(missing) == 0 {
		return made, nil
	}
	if err := reloadable(ctx); err != nil {
		return nil, err
	}
	saved, err := words(ctx, "firewall-cmd", "--permanent", "--get-policies")
	if err != nil {
		return nil, err
	}
	for _, which := range missing {
		name, egress := policyName(mark, which), "ANY"
		if which == host {
			egress = "HOST"
		}
		if !slices.Contains(saved, name) {
			for _, args := range [][]string{
				{"--new-policy", name},
				{"--policy", name, "--set-priority", priority},
				{"--policy", name, "--add-ingress-zone", "ANY"},
				{"--policy", name, "--add-egress-zone", egress},
			} {
				if _, err := run(ctx, "", append([]string{"firewall-cmd", "--permanent"}, args...)...); err != nil {
					return nil, err
				}
			}
		}
		made[which] = true
	}
	_, err = run(ctx, "", "firewall-cmd", "--reload")
	return made, err
}

// reloadable returns nil when a reload of firewalld would change nothing but
// what we wrote: when what runs is what is saved.
func reloadable(ctx context.Context) error {
	for _, what := range [][]string{{"--list-all-zones"}, {"--list-all-policies"}, {"--direct", "--get-all-rules"}, {"--direct", "--get-all-passthroughs"}, {"--get-ipsets"}} {
		running, err := run(ctx, "", append([]string{"firewall-cmd"}, what...)...)
		if err != nil {
			return err
		}
		saved, err := run(ctx, "", append([]string{"firewall-cmd", "--permanent"}, what...)...)
		if err != nil {
			return err
		}
		if settled(running) != settled(saved) {
			return fmt.Errorf("firewalld %w (firewall-cmd %s shows other than with --permanent)", ErrReload, strings.Join(what, " "))
		}
	}
	return nil
}

// settled is a listing without what a reload keeps anyway: which interfaces
// are in a zone, whether it is in use, and our own rules.
func settled(listing string) string {
	var b strings.Builder
	ours := false
	for line := range strings.Lines(listing) {
		word := strings.TrimSpace(line)
		if !strings.HasPrefix(line, " ") && word != "" {
			word, _, _ = strings.Cut(word, " (")
			ours = strings.HasPrefix(word, "fairlead-") || strings.HasPrefix(word, "fl-")
		}
		if ours || word == "" || strings.HasPrefix(word, "interfaces:") {
			continue
		}
		b.WriteString(word)
		b.WriteByte('\n')
	}
	return b.String()
}

// setPolicy makes a policy have exactly those rich rules.
func setPolicy(ctx context.Context, name string, want []string) (int, error) {
	listed, err := run(ctx, "", "firewall-cmd", "--policy", name, "--list-rich-rules")
	if err != nil {
		return 0, err
	}
	var args []string
	have := map[string]bool{}
	for line := range strings.Lines(listed) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		have[line] = true
		if !slices.Contains(want, line) {
			args = append(args, "--remove-rich-rule="+line)
		}
	}
	gone := len(args)
	if gone > 0 {
		if _, err := run(ctx, "", append([]string{"firewall-cmd", "--policy", name}, args...)...); err != nil {
			return 0, err
		}
	}
	args = nil
	for _, rule := range want {
		if !have[rule] {
			args = append(args, "--add-rich-rule="+rule)
		}
	}
	if len(args) > 0 {
		if _, err := run(ctx, "", append([]string{"firewall-cmd", "--policy", name}, args...)...); err != nil {
			return gone, err
		}
	}
	return gone + len(args), nil
}

// dropPolicies takes our policies away. What is left of them at run time, where
// a reload would lose what is somebody else's, is empty.
func dropPolicies(ctx context.Context, mark string) error {
	saved, err := words(ctx, "firewall-cmd", "--permanent", "--get-policies")
	if err != nil {
		return err
	}
	dropped := false
	for _, which := range []string{forwarding, host} {
		if name := policyName(mark, which); slices.Contains(saved, name) {
			if _, err := run(ctx, "", "firewall-cmd", "--permanent", "--delete-policy", name); err != nil {
				return err
			}
			dropped = true
		}
	}
	if !dropped || reloadable(ctx) != nil {
		return nil
	}
	_, err = run(ctx, "", "firewall-cmd", "--reload")
	return err
}

// forgetPolicies takes our policies out of the configuration of a firewalld
// that does not run.
func forgetPolicies(ctx context.Context, mark string) error {
	saved, err := words(ctx, "firewall-offline-cmd", "--get-policies")
	if err != nil {
		return nil // it is not installed
	}
	for _, which := range []string{forwarding, host} {
		if name := policyName(mark, which); slices.Contains(saved, name) {
			if _, err := run(ctx, "", "firewall-offline-cmd", "--delete-policy", name); err != nil {
				return err
			}
		}
	}
	return nil
}

func words(ctx context.Context, command ...string) ([]string, error) {
	out, err := run(ctx, "", command...)
	return strings.Fields(out), err
}
