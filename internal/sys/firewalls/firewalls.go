// Package firewalls asks the firewalls of other programs, Docker's, ufw and
// firewalld, to let something through, each by its own interface: the chain
// that Docker leaves to the administrator, the commands ufw and firewall-cmd.
// It never writes into their tables behind their backs.
//
// What is let through is marked as ours, and [Set] makes exactly what is wanted
// be there: so a second call changes nothing, what another program's reload
// took away comes back, and what a crash left is found again. It decides
// nothing: what is to be let through is for package kernel to say.
//
// The sources are iptables-extensions(8), ufw(8), firewall-cmd(1),
// firewalld.policies(5), and docs.docker.com, "Packet filtering and firewalls".
package firewalls

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The firewalls, as a sentence's "allow-in" names them.
const (
	Docker    = "docker"
	UFW       = "ufw"
	Firewalld = "firewalld"
)

// What may be wrong with a firewall, to be found by errors.Is.
var (
	// ErrAbsent: it is not installed, not running or switched off, so that
	// there is nothing that could be let through.
	ErrAbsent = errors.New("is not there")
	// ErrReload: firewalld would have to be reloaded, and that would lose what
	// somebody else changed in it without saving.
	ErrReload = errors.New("has changes that a reload would lose")
	// ErrMany: there are more holes than the program's interface takes in a
	// reasonable time.
	ErrMany = errors.New("takes no more rules than that")
	// ErrMeaningless: the firewall does not look at such packets at all.
	ErrMeaningless = errors.New("does not filter this")
)

// Ports is an inclusive range; the zero Ports is none.
type Ports struct {
	First, Last uint16
}

func (p Ports) join(sep string) string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d%s%d", p.First, sep, p.Last)
}

// A Hole is packets that are to be let through, with the answers to them.
// Either In is set, or Proto and Ports and one of Target and Here.
type Hole struct {
	For string // the name of the forward that it is for

	Target netip.Addr   // where they are going, after translation
	Here   bool         // they are for this host itself, whichever its address
	Proto  uint8        // 6 or 17
	Ports  Ports        // where they are going
	Asked  Ports        // the ports before translation; none: nothing was translated
	From   netip.Prefix // of the clients; the zero Prefix is everybody

	// Related lets connections through, too, that belong to such a one (FTP's
	// data).
	Related bool

	// In and Out are interfaces: everything that comes in by the one from Net
	// may leave by the other.
	In, Out string
	Net     netip.Prefix
}

// v6 reports whether the hole is for IPv6; for a Here without From it is for both.
func (h Hole) v6() bool {
	return h.Target.Is6() && !h.Target.Is4In6() || h.From.IsValid() && h.From.Addr().Is6() || h.Net.IsValid() && h.Net.Addr().Is6()
}

func (h Hole) proto() string {
	if h.Proto == 17 {
		return "udp"
	}
	return "tcp"
}

// String says what the hole is, for people and for comments: it is the same
// only for the same hole.
func (h Hole) String() string {
	var b strings.Builder
	switch {
	case h.In != "":
		fmt.Fprintf(&b, "%s>%s", h.In, h.Out)
		if h.Net.IsValid() {
			fmt.Fprintf(&b, " from %s", h.Net)
		}
	default:
		if h.Asked != (Ports{}) {
			fmt.Fprintf(&b, "%s>", h.Asked.join("-"))
		}
		if h.Here {
			b.WriteString("self")
		} else {
			b.WriteString(h.Target.String())
		}
		fmt.Fprintf(&b, " %s/%s", h.Ports.join("-"), h.proto())
		if h.From.IsValid() {
			fmt.Fprintf(&b, " from %s", h.From)
		}
		if h.Related {
			b.WriteString(" related")
		}
	}
	return b.String()
}

// Set makes the firewall let exactly holes through, as far as mark is
// concerned: "fairlead" for the service's own, something that begins with it
// for another instance's. It reports how many rules it added and took away.
// It changes nothing but what bears the mark, and works in the network
// namespace of the calling thread. Each command that it runs has ten seconds.
func Set(ctx context.Context, firewall, mark string, holes []Hole) (changed int, err error) {
	holes = slices.Clone(holes)
	slices.SortFunc(holes, func(a, b Hole) int {
		return cmp.Or(cmp.Compare(a.For, b.For), cmp.Compare(a.String(), b.String()))
	})
	holes = slices.Compact(holes)
	switch firewall {
	case Docker:
		return setDocker(ctx, mark, holes)
	case UFW:
		return setUFW(ctx, mark, holes)
	case Firewalld:
		return setFirewalld(ctx, mark, holes)
	}
	return 0, fmt.Errorf("firewall %q: %w", firewall, errors.ErrUnsupported)
}

// Clear takes everything with the mark away from the firewall, as Set without
// holes, and what was made there to hold it. A firewall that is not there is no
// error.
func Clear(ctx context.Context, firewall, mark string) error {
	_, err := Set(ctx, firewall, mark, nil)
	if errors.Is(err, ErrAbsent) {
		if firewall == Firewalld {
			return forgetPolicies(ctx, mark)
		}
		return nil
	}
	if err == nil && firewall == Firewalld {
		err = dropPolicies(ctx, mark)
	}
	return err
}
