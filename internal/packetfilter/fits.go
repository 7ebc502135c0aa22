package packetfilter

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"fairlead"
	"fairlead/internal/kernel"
)

// Fits returns nil when rules of the dialect can carry f exactly, or the reason
// why not, a *fairlead.Problem. What it lets pass may still be impossible with
// the interfaces and addresses of a host: Compile tells.
func Fits(d Dialect, f *fairlead.Forward) error {
	if p := fits(d, f); p != nil {
		return p
	}
	return nil
}

func fits(d Dialect, f *fairlead.Forward) *fairlead.Problem {
	switch f.Kind {
	case fairlead.KindNAT, fairlead.KindOpen, fairlead.KindShare, fairlead.KindForward:
	case fairlead.KindTrigger:
		return cannot(d, "what goes out cannot open a port: rules do not change rules")
	default:
		return fairlead.Problemf(fairlead.CodeCannotCarry, "the kernel does not carry %s", f.Kind)
	}
	if p := fairlead.AsProblem(kernel.Keeps(f)); p != nil && p.Code == fairlead.CodeCannotCarry {
		return p
	}
	for _, l := range lacks {
		if word := l.said(f); word != "" {
			return cannot(d, "%q %s", word, l.why)
		}
	}
	if p := fairlead.AsProblem(kernel.Keeps(f)); p != nil {
		return p
	}
	if p := nothingElse(d, f); p != nil {
		return p
	}
	if a := f.At.Addr; a.Zone() != "" {
		return cannot(d, "%s is an address of one link only, and rules name addresses of the whole host", a)
	}
	if w := f.At.Where; w != "" && !plainWord(w, 15) {
		return cannot(d, "%q is no interface's name that could stand in a rule", w)
	}
	switch {
	case f.Kind == fairlead.KindShare:
		return fitsShare(d, f)
	case f.Kind == fairlead.KindOpen && len(f.Policy.Deny) > 0:
		return cannot(d, "\"deny\" at a pinhole would have to close what other rules leave open").
			Fix("say who may instead", "open "+f.At.String()+" … allow CIDR")
	case f.Kind == fairlead.KindOpen:
		return nil
	case f.Policy.Source != "" && f.Policy.Source != "keep" && d == IPFW, f.Policy.Masquerade && d == IPFW:
		return cannot(d, "the source toward the target would be rewritten at another interface than the destination, and ipfw translates a packet once").
			Fix("give the target a route to the clients through this host", "")
	}
	if d == IPFW {
		return fitsIPFW(f)
	}
	return fitsPools(d, f)
}

// cannot is the refusal of what a filter does not express.
func cannot(d Dialect, format string, args ...any) *fairlead.Problem {
	p := fairlead.Problemf(fairlead.CodeNotExpressed, format, args...)
	p.What = d.program() + " cannot do this: " + p.What
	return p
}

// A lack is a modifier that nftables keeps, or that is refused there for a
// reason of its own, and that these filters do not.
type lack struct {
	said func(f *fairlead.Forward) string // what is said, "" for nothing
	why  string
}

// Why rules cannot do what a word says.
const (
	perRule = "is a limit of the whole forward, and the filter counts for each of its rules alone, or for no rule"
	noEnd   = "ends at a time, and rules have no end of their own: they would outlive a program that is killed"
)

var lacks = []lack{
	{why: perRule, said: number("max-conns", func(p *fairlead.Policy) bool { return p.MaxConns != 0 })},
	{why: perRule, said: number("max-conns-per-source", func(p *fairlead.Policy) bool { return p.MaxConnsPerSource != 0 })},
	{why: perRule, said: number("rate", func(p *fairlead.Policy) bool { return p.Rate != 0 })},
	{why: perRule, said: number("rate-per-source", func(p *fairlead.Policy) bool { return p.RatePerSource != 0 })},
	{why: "is a line in the system's log for each new connection, and the filter records packets", said: number("log", func(p *fairlead.Policy) bool { return p.Log })},
	{why: "needs somebody who reads what the protocol agrees upon, and the filter has no helper for it", said: func(f *fairlead.Forward) string {
		if f.Policy.ALG == "" {
			return ""
		}
		return "alg " + f.Policy.ALG
	}},
	{why: "asks the neighbours first, which this version does on Linux only", said: number("claim", func(p *fairlead.Policy) bool { return p.Claim })},
	{why: "names a firewall of Linux", said: func(f *fairlead.Forward) string {
		if f.Policy.AllowIn == "" {
			return ""
		}
		return "allow-in " + f.Policy.AllowIn
	}},
	{why: "is said to the filter for all connections of this host alike", said: number("idle", func(p *fairlead.Policy) bool { return p.Idle != 0 })},
	{why: noEnd, said: func(f *fairlead.Forward) string {
		if f.Policy.For != 0 || !f.Expires.IsZero() {
			return "for"
		}
		return ""
	}},
}

func number(word string, said func(p *fairlead.Policy) bool) func(f *fairlead.Forward) string {
	return func(f *fairlead.Forward) string {
		if said(&f.Policy) {
			return word
		}
		return ""
	}
}

// nothingElse refuses whatever a policy says beyond what rules here are made
// of, so that a word that is new to the language is refused until it is thought
// of.
func nothingElse(d Dialect, f *fairlead.Forward) *fairlead.Problem {
	rest := f.Policy
	rest.By = ""
	switch f.Kind {
	case fairlead.KindShare:
		rest.Unguarded = false
	case fairlead.KindOpen:
		rest.Allow, rest.Deny = nil, nil // deny is refused in other words
	default:
		rest.Deny, rest.Source, rest.Masquerade, rest.Choose = nil, "", false, ""
	}
	rest.Allow, rest.Deny = orNil(rest.Allow), orNil(rest.Deny)
	rest.AcceptProxy = orNil(rest.AcceptProxy)
	if rest.Engine == "auto" {
		rest.Engine = ""
	}
	if rest.Check.How == "off" {
		rest.Check = fairlead.Check{}
	}
	if !reflect.DeepEqual(rest, fairlead.Policy{}) {
		return cannot(d, "a condition of %q is kept by nftables at most", f.Name)
	}
	switch by := f.Policy.By; {
	case by != "" && by != "auto" && by != kernel.Name:
		return cannot(d, "%s is carried by the kernel, not by %q", f.Kind, by)
	case f.Via != "":
		return cannot(d, "\"via\" connects from another place, and rules hold on this host")
	}
	if translates := f.Kind != fairlead.KindOpen && f.Kind != fairlead.KindShare; !translates {
		for i := range f.To {
			plain := fairlead.Target{Host: f.To[i].Host, Ports: f.To[i].Ports, From: f.To[i].From}
			if !reflect.DeepEqual(plain, f.To[i]) || f.To[i].Service() {
				return cannot(d, "a condition of the target %s is none of %s", f.To[i].Dest(), f.Kind)
			}
		}
	}
	return nil
}

func orNil(list []netip.Prefix) []netip.Prefix {
	if len(list) == 0 {
		return nil
	}
	return list
}

func fitsShare(d Dialect, f *fairlead.Forward) *fairlead.Problem {
	if !f.Policy.Unguarded {
		return cannot(d, "the guard of a share lets in what answers this host, and whether the filter remembers what this host asks is for the rules of others to say").
			Fix("leave the filter to them", "fairlead "+f.Expr+" unguarded")
	}
	for i := range f.To {
		if !plainWord(f.To[i].Host, 15) {
			return cannot(d, "%q is no interface's name that could stand in a rule", f.To[i].Host)
		}
	}
	return nil
}

// fitsPools refuses shares among several targets that a pool of addresses does
// not make.
func fitsPools(d Dialect, f *fairlead.Forward) *fairlead.Problem {
	for _, cl := range classesOf(f) {
		if p := fitsPool(d, f, cl); p != nil {
			return p
		}
		if len(cl.targets) < 2 {
			continue
		}
		first := turnsOf(f.At.Ports, &f.To[cl.targets[0]])
		for _, t := range cl.targets[1:] {
			if !slices.Equal(first, turnsOf(f.At.Ports, &f.To[t])) {
				return cannot(d, "the targets have different ports, and a pool of addresses has one")
			}
		}
	}
	return nil
}

func fitsPool(d Dialect, f *fairlead.Forward, cl class) *fairlead.Problem {
	for _, t := range cl.targets {
		if f.To[t].Weight != 0 {
			return cannot(d, "%s has a weight, and the targets of a pool take turns", f.To[t].Dest()).Fix("take it out", "")
		}
	}
	if len(cl.targets) > 1 && f.Policy.Choose != "round-robin" {
		return cannot(d, "policy %s among several addresses: a pool of single addresses goes by turns", f.Policy.Choose).
			Fix("have them take turns", "policy round-robin")
	}
	return nil
}

// fitsIPFW refuses what libalias, ipfw's translation, does not do.
func fitsIPFW(f *fairlead.Forward) *fairlead.Problem {
	at := &f.At
	switch {
	case at.Where == "" && (!at.Addr.IsValid() || at.Addr.IsUnspecified() || at.Addr.IsLoopback()):
		return cannot(IPFW, "%s is not at one interface, and ipfw translates at one", at).
			Fix("say which side", string(f.Kind)+" wan:"+at.Ports.String()+" to ...")
	case at.Addr.IsValid() && at.Addr.Unmap().Is6():
		return cannot(IPFW, "%s is an IPv6 address, and ipfw's translation rewrites IPv4", at.Addr)
	}
	classes := classesOf(f)
	led := -1
	for n, cl := range classes {
		if p := fitsPool(IPFW, f, cl); p != nil {
			return p
		}
		if len(cl.targets) == 0 {
			continue
		}
		if led >= 0 && !slices.Equal(classes[led].targets, cl.targets) {
			return cannot(IPFW, "clients are led to different targets by their address, and a port is redirected for all alike")
		}
		led = n
	}
	if led < 0 {
		return nil
	}
	targets := classes[led].targets
	for _, t := range targets {
		to := &f.To[t]
		if a, err := netip.ParseAddr(to.Host); err == nil && a.Unmap().Is6() {
			return cannot(IPFW, "%s is an IPv6 address, and ipfw's translation rewrites IPv4", a)
		}
		if to.Host == "self" && f.At.Net != fairlead.TCP {
			return cannot(IPFW, "datagrams that fwd hands to another port of this host are answered from that port")
		}
		for _, turn := range turnsOf(f.At.Ports, to) {
			switch {
			case to.Host == "self" && turn.how == shifted && turn.ports.Len() > 1, to.Host != "self" && turn.how == gathered,
				len(targets) > 1 && turn.ports.Len() > 1:
				return cannot(IPFW, "ports %s cannot be led that way by one rule", turn.ports).
					Fix("write a forward for each port", "")
			}
		}
	}
	if len(targets) > 1 && slices.ContainsFunc(targets, func(t int) bool { return strings.Contains(f.To[t].Host, ":") }) {
		return cannot(IPFW, "ipfw's translation rewrites IPv4")
	}
	return nil
}
