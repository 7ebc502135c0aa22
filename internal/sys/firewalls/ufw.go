package firewalls

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// mostUFW bounds the rules that ufw is given: each takes it a tenth of a
// second.
const mostUFW = 100

// A ufwRule is a rule that lets something through, as "ufw show added" lists
// it. Two rules with the same fields are one to ufw, whatever their comments.
type ufwRule struct {
	route               bool
	in, out             string
	from, to, port, via string // "" is any; via is the protocol
}

// args are the words of the rule for ufw, behind "allow".
func (r ufwRule) args() []string {
	var w []string
	if r.in != "" {
		w = append(w, "in", "on", r.in)
	}
	if r.out != "" {
		w = append(w, "out", "on", r.out)
	}
	if r.from != "" {
		w = append(w, "from", r.from)
	}
	if r.to != "" || r.port != "" {
		w = append(w, "to", or(r.to, "any"))
	}
	if r.port != "" {
		w = append(w, "port", r.port)
	}
	if r.via != "" {
		w = append(w, "proto", r.via)
	}
	return w
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func ufwRuleOf(h Hole) ufwRule {
	if h.In != "" {
		r := ufwRule{route: true, in: h.In, out: h.Out}
		if h.Net.IsValid() {
			r.from = plain(h.Net.String())
		}
		return r
	}
	r := ufwRule{route: !h.Here, port: h.Ports.join(":"), via: h.proto()}
	if !h.Here {
		r.to = h.Target.String()
	}
	if h.From.IsValid() {
		r.from = plain(h.From.String())
	}
	return r
}

// setUFW keeps rules by the command ufw. Answers need no rule: ufw lets in what
// belongs to a connection.
func setUFW(ctx context.Context, mark string, holes []Hole) (int, error) {
	status, err := run(ctx, "", "ufw", "status")
	if err != nil {
		return 0, err
	}
	active := strings.Contains(status, "Status: active")
	if !active && len(holes) > 0 {
		return 0, fmt.Errorf("ufw is switched off: it %w", ErrAbsent)
	}
	if len(holes) > mostUFW {
		return 0, fmt.Errorf("ufw %w: %d, at most %d", ErrMany, len(holes), mostUFW)
	}
	listed, err := run(ctx, "", "ufw", "show", "added")
	if err != nil {
		return 0, err
	}
	have := map[ufwRule]string{} // with their comments
	for line := range strings.Lines(listed) {
		if r, comment, ok := parseUFW(line); ok {
			have[r] = comment
		}
	}
	want := map[ufwRule]bool{}
	changed := 0
	for _, h := range holes {
		r := ufwRuleOf(h)
		if want[r] {
			continue // another forward's as well
		}
		want[r] = true
		if _, there := have[r]; there {
			continue // ours, or the administrator's own, which stays his
		}
		command := []string{"ufw"}
		if r.route {
			command = append(command, "route")
		}
		command = append(append(command, "allow"), r.args()...)
		if _, err := run(ctx, "", append(command, "comment", mark+":"+h.For)...); err != nil {
			return changed, err
		}
		changed++
	}
	for r, comment := range have {
		if want[r] || !strings.HasPrefix(comment, mark+":") {
			continue
		}
		command := []string{"ufw"}
		if r.route {
			command = append(command, "route")
		}
		if _, err := run(ctx, "", append(append(command, "delete", "allow"), r.args()...)...); err != nil {
			return changed, err
		}
		changed++
	}
	return changed, nil
}

// parseUFW reads a line of "ufw show added": "ufw route allow in on lan0 from
// 10.0.0.0/8 to 192.168.1.10 port 80 proto tcp comment 'fairlead:web'", or
// in short "ufw allow 8080/tcp". Rules that say more than an ufwRule can are not
// ok: they are none of ours.
func parseUFW(line string) (r ufwRule, comment string, ok bool) {
	line = strings.TrimSpace(line)
	if head, said, found := strings.Cut(line, " comment '"); found {
		line, comment = head, strings.TrimSuffix(said, "'")
	}
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "ufw" {
		return r, "", false
	}
	words = words[1:]
	if words[0] == "route" {
		r.route, words = true, words[1:]
	}
	if len(words) < 2 || words[0] != "allow" {
		return r, "", false
	}
	words = words[1:]
	if len(words) == 1 {
		port, via, _ := strings.Cut(words[0], "/")
		r.port, r.via = port, via
		return r, comment, via != ""
	}
	for len(words) >= 2 {
		value, n := words[1], 2
		switch {
		case (words[0] == "in" || words[0] == "out") && value == "on" && len(words) >= 3:
			value, n = words[2], 3
			if words[0] == "in" {
				r.in = value
			} else {
				r.out = value
			}
		case words[0] == "from" && r.from == "":
			r.from = plain(value)
		case words[0] == "to" && r.to == "":
			r.to = plain(value)
		case words[0] == "port" && r.port == "":
			r.port = value
		case words[0] == "proto":
			r.via = value
		default:
			return r, "", false
		}
		words = words[n:]
	}
	// A port in front of "to" is the client's.
	if i, j := strings.Index(line, " port "), strings.Index(line, " to "); i >= 0 && j > i {
		return r, "", false
	}
	return r, comment, len(words) == 0
}

// plain is an address or a network as ufw prints it: without the length of a
// single address, and "any" as nothing.
func plain(s string) string {
	if s == "any" || s == "0.0.0.0/0" || s == "::/0" {
		return ""
	}
	if p, err := netip.ParsePrefix(s); err == nil && p.IsSingleIP() {
		return p.Addr().String()
	}
	return s
}
