package firewalls

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// chainUser is the chain that Docker calls before its own rules, makes where it
// is missing, and leaves alone otherwise.
const chainUser = "DOCKER-USER"

// setDocker keeps rules in DOCKER-USER. A rule's comment is the mark, the name
// and the hole in words, so that rules are compared by their comments: how
// iptables prints the rest differs from one version to the next.
func setDocker(ctx context.Context, mark string, holes []Hole) (int, error) {
	changed := 0
	seen := false
	for _, program := range []string{"iptables", "ip6tables"} {
		var want []string // comments, in order
		rules := map[string]string{}
		for _, h := range holes {
			if h.Here {
				return changed, fmt.Errorf("docker %w: packets for this host itself do not pass its chains", ErrMeaningless)
			}
			if h.In == "" && h.v6() != (program == "ip6tables") || h.In != "" && h.Net.IsValid() && h.v6() != (program == "ip6tables") {
				continue
			}
			for i, spec := range dockerRules(h) {
				comment := fmt.Sprintf("%s:%s %s", mark, h.For, h)
				if i > 0 {
					comment += fmt.Sprintf(" (%d)", i+1)
				}
				if rules[comment] == "" {
					want = append(want, comment)
				}
				rules[comment] = spec
			}
		}
		n, err := setChain(ctx, program, mark, want, rules)
		changed += n
		switch {
		case errors.Is(err, ErrAbsent) && len(want) == 0:
		case err != nil:
			return changed, err
		default:
			seen = true
		}
	}
	if !seen && len(holes) > 0 {
		return changed, fmt.Errorf("docker %w: there is no chain %s", ErrAbsent, chainUser)
	}
	return changed, nil
}

// dockerRules are the matches of the rules that make a hole. One rule is enough
// for a connection: it is recognised by how it began, so that its answers and
// the errors about it match as well.
func dockerRules(h Hole) []string {
	if h.In != "" {
		out := fmt.Sprintf("-i %s -o %s", h.In, h.Out)
		back := fmt.Sprintf("-i %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED", h.Out, h.In)
		if h.Net.IsValid() {
			out += " -s " + h.Net.String()
			back += " -d " + h.Net.String()
		}
		return []string{out, back}
	}
	var b strings.Builder
	b.WriteString("-m conntrack")
	if h.Asked != (Ports{}) {
		b.WriteString(" --ctstate DNAT")
	}
	fmt.Fprintf(&b, " --ctproto %d", h.Proto)
	if h.From.IsValid() {
		fmt.Fprintf(&b, " --ctorigsrc %s", h.From)
	}
	if h.Asked != (Ports{}) {
		fmt.Fprintf(&b, " --ctreplsrc %s --ctorigdstport %s --ctreplsrcport %s", h.Target, h.Asked.join(":"), h.Ports.join(":"))
	} else {
		fmt.Fprintf(&b, " --ctorigdst %s --ctorigdstport %s", h.Target, h.Ports.join(":"))
	}
	rules := []string{b.String()}
	if h.Related {
		rules = append(rules, fmt.Sprintf("-d %s -m conntrack --ctstate RELATED,ESTABLISHED", h.Target),
			fmt.Sprintf("-s %s -m conntrack --ctstate RELATED,ESTABLISHED", h.Target))
	}
	return rules
}

// setChain makes the rules with our mark in DOCKER-USER be those wanted, in one
// transaction.
func setChain(ctx context.Context, program, mark string, want []string, rules map[string]string) (int, error) {
	listed, err := run(ctx, "", program, "-w", "5", "-t", "filter", "-S")
	if err != nil {
		return 0, err
	}
	if !strings.Contains(listed, "-N "+chainUser+"\n") {
		return 0, fmt.Errorf("docker %w: %s has no chain %s", ErrAbsent, program, chainUser)
	}
	var b strings.Builder
	have := map[string]bool{}
	changed := 0
	for line := range strings.Lines(listed) {
		line = strings.TrimSpace(line)
		comment := commentOf(line)
		if !strings.HasPrefix(line, "-A "+chainUser+" ") || !strings.HasPrefix(comment, mark+":") {
			continue
		}
		if rules[comment] != "" && !have[comment] {
			have[comment] = true
			continue
		}
		fmt.Fprintf(&b, "-D %s\n", strings.TrimPrefix(line, "-A "))
		changed++
	}
	for _, comment := range want {
		if !have[comment] {
			fmt.Fprintf(&b, "-I %s 1 %s -m comment --comment %q -j ACCEPT\n", chainUser, rules[comment], comment)
			changed++
		}
	}
	if changed == 0 {
		return 0, nil
	}
	_, err = run(ctx, "*filter\n"+b.String()+"COMMIT\n", program+"-restore", "-w", "5", "--noflush")
	if err != nil {
		return 0, err
	}
	return changed, nil
}

// commentOf is the comment of a rule that iptables -S printed.
func commentOf(rule string) string {
	_, rest, found := strings.Cut(rule, "--comment ")
	if !found {
		return ""
	}
	if strings.HasPrefix(rest, `"`) {
		rest, _, _ = strings.Cut(rest[1:], `"`)
		return rest
	}
	rest, _, _ = strings.Cut(rest, " ")
	return rest
}
