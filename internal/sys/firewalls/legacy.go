package firewalls

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
)

// A Legacy is what a built-in chain of iptables-legacy does: its rules are not
// nftables', so that neither nft nor a trace shows them.
type Legacy struct {
	Drop  bool     // the policy
	Rules []string // as iptables lists them, without "-A CHAIN"; with any the policy is not all that decides
}

// LegacyChain looks at a chain of the table "filter", "FORWARD" or "INPUT". ok is
// false where the old tables are not in use: asking them would put them in use.
// It looks at the network namespace of the calling thread.
func LegacyChain(ctx context.Context, v6 bool, chain string) (l Legacy, ok bool, err error) {
	program, names := "iptables-legacy", "/proc/thread-self/net/ip_tables_names"
	if v6 {
		program, names = "ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(names)
	if err != nil || !slices.Contains(strings.Fields(string(text)), "filter") {
		return l, false, nil
	}
	out, err := run(ctx, "", program, "-w", "5", "-t", "filter", "-S", chain)
	if errors.Is(err, ErrAbsent) {
		return l, false, nil
	}
	if err != nil {
		return l, false, err
	}
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "-P "+chain+" DROP"):
			l.Drop = true
		case strings.HasPrefix(line, "-A "):
			l.Rules = append(l.Rules, strings.TrimSpace(strings.TrimPrefix(line, "-A "+chain+" ")))
		}
	}
	return l, true, nil
}
