package kernel

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// A Forwarding is what it takes for this host to forward packets of both
// families, as it stands now: a router, for everybody. It changes nothing by
// itself.
type Forwarding struct {
	// Set are the parameters that are changed, in this order. It is empty where
	// the host forwards already.
	Set []Setting
	// Undo puts everything back that Set changes, and what the kernel changes
	// with it; see PutBack.
	Undo []Undo
	// Advertised are interfaces that are to keep the default route which router
	// advertisements gave them, though the host forwards (accept_ra = 2).
	Advertised []string
	// Elsewhere are interfaces whose advertisements another program reads, one
	// that manages the network: whether it goes on doing so is its affair.
	Elsewhere []string
}

// A Setting is a kernel parameter, as in an Undo, and its value.
type Setting struct{ Key, Value string }

const confV4, confV6 = "net.ipv4.conf.", "net.ipv6.conf."

// ReadForwarding looks at this network namespace. A family that the kernel does
// not have is left out.
func ReadForwarding() (Forwarding, error) {
	var f Forwarding
	if value, err := readParameter("net.ipv4.ip_forward"); err == nil && value == "0" {
		if err := f.overwritten(confV4); err != nil {
			return f, err
		}
		// The kernel sets it to the opposite of forwarding (inet_forward_change).
		const redirects = confV4 + "all.accept_redirects"
		if was, err := readParameter(redirects); err == nil && was != "1" {
			f.Undo = append(f.Undo, Undo{Sysctl: redirects, Old: was, New: "1"})
		}
		f.set("net.ipv4.ip_forward", "0", "1")
	} else if err != nil && !os.IsNotExist(err) {
		return f, err
	}

	value, err := readParameter(confV6 + "all.forwarding")
	if os.IsNotExist(err) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	links, err := advertised()
	if err != nil {
		return f, fmt.Errorf("list the default routes: %w", err)
	}
	for _, link := range links {
		key := confV6 + strings.ReplaceAll(link, ".", "/") + ".accept_ra"
		switch was, err := readParameter(key); {
		case err != nil:
		case was == "0":
			f.Elsewhere = append(f.Elsewhere, link)
		case was == "2":
			f.Advertised = append(f.Advertised, link)
		case value == "0":
			// First: with forwarding on, the kernel throws away the default routes of
			// interfaces that have 1 (rt6_purge_dflt_routers).
			f.Advertised = append(f.Advertised, link)
			f.set(key, was, "2")
		}
	}
	if value == "0" {
		if err := f.overwritten(confV6); err != nil {
			return f, err
		}
		f.set(confV6+"all.forwarding", "0", "1")
	}
	return f, nil
}

func (f *Forwarding) set(key, old, value string) {
	f.Set = append(f.Set, Setting{key, value})
	f.Undo = append(f.Undo, Undo{Sysctl: key, Old: old, New: value})
}

// overwritten remembers the interfaces that forward though the host as a whole
// does not: the switch for all writes over them, both ways. So what they have
// when their turn comes, after that switch was put back, is 0.
func (f *Forwarding) overwritten(conf string) error {
	links, err := os.ReadDir(sysctlPath(strings.TrimSuffix(conf, ".")))
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Name() == "all" {
			continue
		}
		key := conf + strings.ReplaceAll(l.Name(), ".", "/") + ".forwarding"
		if was, err := readParameter(key); err == nil && was != "0" {
			f.Undo = append(f.Undo, Undo{Sysctl: key, Old: was, New: "0"})
		}
	}
	return nil
}

// Apply sets what Set says. When that fails, what was set is put back.
func (f Forwarding) Apply() error {
	for _, s := range f.Set {
		if err := os.WriteFile(sysctlPath(s.Key), []byte(s.Value), 0); err != nil {
			_, back := PutBack(f.Undo)
			if back != nil {
				return fmt.Errorf("%w; and not everything was put back: %w", err, back)
			}
			return err
		}
	}
	return nil
}

// File is the text for sysctl.d(5) that makes it last.
func (f Forwarding) File() string {
	var b strings.Builder
	b.WriteString("# Written by \"fairlead install --forwarding\"; \"fairlead uninstall\" removes it.\n")
	links := slices.Clone(f.Advertised)
	slices.Sort(links)
	if len(links) > 0 {
		b.WriteString("# A host that forwards hears router advertisements only with accept_ra = 2.\n")
	}
	for _, link := range links {
		fmt.Fprintf(&b, "net/ipv6/conf/%s/accept_ra = 2\n", link)
	}
	b.WriteString("net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n")
	return b.String()
}

// PutBack puts back what list says, the last one first, and returns what could
// not be put back, with the reasons. A parameter that somebody else set since
// stays as it is, and is not among them.
func PutBack(list []Undo) (left []Undo, err error) {
	u := undos{list: slices.Clone(list)}
	err = u.putBack(nil)
	return u.list, err
}

func readParameter(key string) (string, error) {
	text, err := os.ReadFile(sysctlPath(key))
	return strings.TrimSpace(string(text)), err
}
